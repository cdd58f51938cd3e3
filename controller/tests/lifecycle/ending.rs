//! Instances that are told to end from outside: somebody stops their containers.

use std::thread;

use crate::support::http::Request;
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

/// So few slots that the calls that come need another instance by the scaler's count, in which the one that ends still has its own.
const FEW: &str = "concurrency: { limit: 2 }";

/// The only instance is told to end while it runs a call that must not be repeated, and others come.
fn ends_its_calls_while_others_go_elsewhere(manifest: &str) {
    // Each thread has connections of its own: most have none to the instance yet.
    let hearth = Hearth::start(&[("HEARTH_GATEWAY_THREADS", "8")]);
    hearth.deploy(manifest);
    let old = instance(&hearth.get(PATH));
    let gateway = hearth.gateway();
    let long = thread::spawn(move || Request::post(LONG, "x").send(gateway));
    let busy =
        || text(&hearth.cli(&["describe", "fn", "-o", "json"])).contains("\"inFlight\": 1").then_some(());
    assert!(eventually(busy).is_some(), "{}", text(&hearth.cli(&["describe", "fn", "-o", "json"])));
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
    // It goes by itself when it has nothing left to do.
    let log = || text(&hearth.cli(&["logs", "fn"])).contains("the instance ended: exit code 0").then_some(());
    assert!(eventually(log).is_some(), "{}\n{}", text(&hearth.cli(&["logs", "fn"])), hearth.own_log());
    hearth.stop();
}

#[test]
fn a_node_function_that_is_told_to_end_ends_its_calls_first() {
    ends_its_calls_while_others_go_elsewhere(&node_with("fn", EVENT, FEW));
}

#[test]
fn one_of_the_http_signature_that_is_told_to_end_ends_its_calls_first() {
    ends_its_calls_while_others_go_elsewhere(&node_with("fn", HTTP, &format!("signature: http\n{FEW}")));
}

#[test]
fn a_python_function_that_is_told_to_end_ends_its_calls_first() {
    ends_its_calls_while_others_go_elsewhere(&python_with("fn", PYTHON, FEW));
}

#[test]
fn a_server_that_is_told_to_end_ends_its_calls_first() {
    let how = "runtime: http\n  command: [python3, main.py]";
    ends_its_calls_while_others_go_elsewhere(&inline("fn", how, "main.py", SERVER, FEW));
}
