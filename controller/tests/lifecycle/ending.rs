//! Instances that are told to end from outside: somebody stops their containers.

use std::thread;
use std::time::{Duration, Instant};

use crate::support::http::{Request, Response};
use crate::support::{Hearth, eventually, inline, node_with, python_with, text};
use crate::{Load, PATH, instance};

const LONG: &str = "/function/default/fn/long";

/// A call of `/long` takes as long as it takes to notice what goes on meanwhile.
const EVENT: &str = "exports.handler = async (event) => { if (event.rawPath.endsWith('/long')) await new Promise(r => setTimeout(r, 4000)); return { statusCode: 200, headers: { instance: process.env.HEARTH_INSTANCE }, body: 'done' } }";

const HTTP: &str = "exports.handler = async (req, res) => { if (req.url.endsWith('/long')) await new Promise(r => setTimeout(r, 4000)); res.setHeader('instance', process.env.HEARTH_INSTANCE); res.end('done') }";

const PYTHON: &str = "import os, time
def handler(event, context):
    if event['rawPath'].endswith('/long'): time.sleep(4)
    return {'statusCode': 200, 'headers': {'instance': os.environ['HEARTH_INSTANCE']}, 'body': 'done'}";

/// Closes its socket when it is told to end, and ends with its last request.
const SERVER: &str = "import os, signal, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get('content-length', 0)))
        if self.path.endswith('/long'): time.sleep(4)
        self.send_response(200)
        self.send_header('instance', os.environ['HEARTH_INSTANCE'])
        self.send_header('content-length', '4')
        self.end_headers()
        self.wfile.write(b'done')
    do_POST = do_GET
ThreadingHTTPServer.daemon_threads = False
server = ThreadingHTTPServer(('', int(os.environ['PORT'])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
server.serve_forever(poll_interval=0.02)
server.server_close()";

/// A process for each call.
const PROCESS: &str = "case $PATH_INFO in */long) sleep 4;; esac; printf %s $HEARTH_INSTANCE";

const LEAVES: &str = "the instance leaves: it was told to end from outside";

/// The only instance is told to end while it runs a call that must not be repeated, and others come.
fn ends_its_calls_while_others_go_elsewhere(manifest: &str) {
    // Each thread has connections of its own: most have none to the instance yet.
    let hearth = Hearth::start(&[("HEARTH_GATEWAY_THREADS", "8")]);
    hearth.deploy(manifest);
    let old = instance(&hearth.get(PATH));
    let gateway = hearth.gateway();
    let long = thread::spawn(move || Request::post(LONG, "x").send(gateway));
    is_busy(&hearth, "fn");
    hearth.end_instances();
    let load = Load::start(gateway, 4, PATH);
    let answer = long.join().expect("it does not panic").expect("it is answered");
    let others = load.stop();
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"), "{}", hearth.own_log());
    assert_eq!(instance(&answer), old, "it was not repeated");
    for other in others.iter().map(|other| other.as_ref().expect("it is answered")) {
        assert_eq!(other.status, 200, "{}\n{}", other.text(), hearth.own_log());
    }
    // Not only by the one that is started when the old one has ended: they come one after the other, and each is quick.
    let elsewhere = others.iter().flatten().filter(|other| instance(other) != old).count();
    assert!(elsewhere > 20, "{elsewhere} of {}\n{}", others.len(), hearth.own_log());
    is_gone(&hearth, "fn", &old);
    hearth.stop();
}

fn is_busy(hearth: &Hearth, name: &str) {
    let described = || text(&hearth.cli(&["describe", name, "-o", "json"]));
    let busy = || described().contains("\"inFlight\": 1").then_some(());
    assert!(eventually(busy).is_some(), "{}", described());
}

/// It goes by itself when it has nothing left to do, and its end is no mishap.
fn is_gone(hearth: &Hearth, name: &str, instance: &str) {
    let listed = || text(&hearth.cli(&["get", "instances"]));
    assert!(eventually(|| (!listed().contains(instance)).then_some(())).is_some(), "{}", listed());
    let log = text(&hearth.cli(&["logs", name]));
    assert!(log.contains(LEAVES) && !log.contains("the instance ended"), "{log}\n{}", hearth.own_log());
}

/// Which instance has answered: by a header, or, of a process, by what it prints.
fn who(answer: &Response) -> String {
    answer.header("instance").map_or_else(|| answer.text(), str::to_owned)
}

/// The one slot of the only instance is taken when it is told to end.
#[test]
fn a_caller_does_not_wait_until_the_instance_that_is_told_to_end_has_ended() {
    const ONE: &str = "concurrency: { limit: 1 }";
    let server = "runtime: http\n  command: [python3, main.py]";
    let process = "runtime: exec\n  command: [sh, main.sh]";
    let functions = [
        ("event", node_with("event", EVENT, ONE)),
        ("http", node_with("http", HTTP, &format!("signature: http\n{ONE}"))),
        ("python", python_with("python", PYTHON, ONE)),
        ("server", inline("server", server, "main.py", SERVER, ONE)),
        ("process", inline("process", process, "main.sh", PROCESS, ONE)),
    ];
    let hearth = Hearth::start(&[]);
    let gateway = hearth.gateway();
    for (name, manifest) in functions {
        hearth.deploy(&manifest);
        let path = format!("/function/default/{name}");
        let old = who(&hearth.get(&path));
        let long = path.clone() + "/long";
        let long = thread::spawn(move || Request::post(&long, "x").send(gateway));
        is_busy(&hearth, name);
        hearth.end_instances();
        let asked = Instant::now();
        let second = hearth.send(&Request::post(&path, "x"));
        let took = asked.elapsed();
        assert_eq!(second.status, 200, "{name}: {}\n{}", second.text(), hearth.own_log());
        assert!(
            !long.is_finished() && took < Duration::from_secs(3),
            "{name}: {took:?}\n{}",
            hearth.own_log()
        );
        assert_ne!(who(&second), old, "{name}");
        let first = long.join().expect("it does not panic").expect("it is answered");
        assert_eq!((first.status, who(&first)), (200, old.clone()), "{name}: {}", hearth.own_log());
        is_gone(&hearth, name, &old);
        hearth.delete(name);
    }
    hearth.stop();
}

#[test]
fn a_node_function_that_is_told_to_end_ends_its_calls_first() {
    ends_its_calls_while_others_go_elsewhere(&node_with("fn", EVENT, ""));
}

#[test]
fn one_of_the_http_signature_that_is_told_to_end_ends_its_calls_first() {
    ends_its_calls_while_others_go_elsewhere(&node_with("fn", HTTP, "signature: http"));
}

#[test]
fn a_python_function_that_is_told_to_end_ends_its_calls_first() {
    ends_its_calls_while_others_go_elsewhere(&python_with("fn", PYTHON, ""));
}

#[test]
fn a_server_that_is_told_to_end_ends_its_calls_first() {
    let how = "runtime: http\n  command: [python3, main.py]";
    ends_its_calls_while_others_go_elsewhere(&inline("fn", how, "main.py", SERVER, ""));
}
