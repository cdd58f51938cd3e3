//! Instances that are told to end while calls run: they take no others, and are reached until the last has ended.

use hearth_protocol::bodies::error_type;
use hearth_protocol::{Exit, Frame, Load, Loaded, ShimProcess};
use rustix::process::Signal;
use serde_json::json;

use crate::client::{Caller, Setup, Shim, pause};
use crate::http::{attach, exchange, free_port};

const REQUEST: &str = "GET /long HTTP/1.1\r\nHost: a\r\n\r\n";

/// Waits until the instance takes no more calls over frames, each time by a connection of its own, and says for which of them a call ran.
fn refuses_calls(shim: &Shim) -> Vec<Caller> {
    let mut ran = Vec::new();
    loop {
        let mut caller = shim.invoke();
        let stream = caller.open("r", &json!({}), b"", true);
        caller.send(&Frame::Ping(*b"12345678"));
        match caller.next() {
            Frame::Busy { stream: refused } if refused == stream => {
                assert!(caller.ending, "who connects is told first");
                return ran;
            }
            // It has not heard yet.
            Frame::Pong(_) => ran.push(caller),
            other => panic!("{other:?}"),
        }
        pause();
    }
}

/// Waits until it takes no more connections for plain HTTP, and returns those that it took.
fn refuses_connections(shim: &Shim) -> Vec<std::os::unix::net::UnixStream> {
    let mut taken = Vec::new();
    loop {
        match attach(shim).map_err(|frame| *frame) {
            Ok(stream) => taken.push(stream),
            Err(Frame::Error { stream: 0, error }) if error.kind == error_type::ENDING => return taken,
            Err(other) => panic!("{other:?}"),
        }
        pause();
    }
}

fn tells_who_connects(shim: &Shim) -> bool {
    let mut caller = shim.invoke();
    caller.ping();
    caller.ending
}

fn ends_well(mut shim: Shim) {
    assert_eq!(shim.ended(), Exit { code: Some(0), ..Exit::default() });
}

#[test]
fn calls_over_frames_are_refused_and_not_the_connection() {
    // Each call ends when the file is there.
    let node = Setup::node().file(
        "index.js",
        "const fs = require('fs');
         exports.handler = async () => { console.log('in'); while (!fs.existsSync(__dirname + '/go')) await new Promise((r) => setTimeout(r, 5)); return 'done'; }",
    );
    let python = Setup::python().file(
        "index.py",
        "import os, time
def handler(event, context):
    print('in')
    while not os.path.exists(os.path.dirname(__file__) + '/go'): time.sleep(0.005)
    return 'done'
",
    );
    for setup in [node, python] {
        let shim = setup.start();
        let mut control = shim.control(0);
        let mut caller = shim.invoke();
        let load = Load { concurrency: 1000, ..shim.load_request("index.handler") };
        assert!(matches!(caller.load(load), Loaded::Ok { .. }));
        let stream = caller.open("r-1", &json!({}), b"", true);
        control.logs_until(|record| record.line == "in");
        shim.signal(Signal::TERM);
        let ran = refuses_calls(&shim);
        // It answers who asks whether it still does.
        caller.ping();
        assert!(caller.ending, "and has told who was connected");
        std::fs::write(shim.code().join("go"), "").unwrap();
        assert_eq!(caller.answer(stream).unwrap().text(), "\"done\"");
        for mut late in ran {
            assert_eq!(late.answer(1).unwrap().text(), "\"done\"");
        }
        drop((caller, control));
        ends_well(shim);
    }
}

#[test]
fn a_connection_of_the_http_signature_is_refused_and_who_was_let_in_before_is_answered() {
    let shim = Setup::node()
        .file(
            "index.js",
            "exports.handler = async (req, res) => { console.log('in'); await new Promise((r) => setTimeout(r, 300)); res.end('done'); }",
        )
        .start();
    let control = shim.control(0);
    let mut caller = shim.loaded("index.handler");
    // Its request comes when the end has begun and nothing runs.
    let mut early = attach(&shim).unwrap();
    shim.signal(Signal::TERM);
    let between = refuses_connections(&shim);
    caller.ping();
    assert!(caller.ending && tells_who_connects(&shim));
    for mut stream in between {
        exchange(&mut stream, REQUEST, "done");
    }
    assert!(exchange(&mut early, REQUEST, "done").contains("onnection: close"));
    drop((caller, control, early));
    ends_well(shim);
}

#[test]
fn a_server_that_listens_no_more_while_it_ends_is_not_broken() {
    let port = free_port();
    let command = ["node", "server.js"].map(str::to_owned).to_vec();
    let shim = Setup::new(ShimProcess::Http { command })
        .file(
            "server.js",
            "const fs = require('fs');
             const server = require('http').createServer((req, res) => {
               console.log('in');
               const look = setInterval(() => { if (fs.existsSync(__dirname + '/go')) { clearInterval(look); res.end('done'); } }, 5);
             });
             process.on('SIGTERM', () => { server.close(() => process.exit(0)); console.log('closed'); });
             server.listen(process.env.PORT);",
        )
        .with(|config| {
            config.env.insert("PORT".to_owned(), port.to_string());
        })
        .start();
    let mut control = shim.control(0);
    let mut caller = shim.invoke();
    assert!(matches!(caller.load(shim.load_request("")), Loaded::Ok { .. }));
    let mut running = attach(&shim).unwrap();
    std::io::Write::write_all(&mut running, REQUEST.as_bytes()).unwrap();
    control.logs_until(|record| record.line == "in");
    shim.signal(Signal::TERM);
    control.logs_until(|record| record.line == "closed");
    assert!(refuses_connections(&shim).is_empty());
    // As far as anybody can tell.
    caller.ping();
    assert!(caller.ending && tells_who_connects(&shim));
    std::fs::write(shim.code().join("go"), "").unwrap();
    assert!(exchange(&mut running, "", "done").contains("200 OK"));
    drop((caller, control, running));
    ends_well(shim);
}

#[test]
fn an_instance_of_processes_tells_that_it_is_to_end_and_ends_with_the_last() {
    let command = ["sh", "-c", "echo in >&2; while [ ! -e go ]; do sleep 0.01; done; echo done"];
    let shim = Setup::new(ShimProcess::Exec { command: command.map(str::to_owned).to_vec() }).start();
    let mut control = shim.control(0);
    let mut caller = shim.invoke();
    assert!(matches!(caller.load(shim.load_request("")), Loaded::Ok { .. }));
    let stream = caller.open("r-1", &crate::client::get("/"), b"", true);
    control.logs_until(|record| record.line == "in");
    shim.signal(Signal::TERM);
    // Another one would not end: it is called only when it has heard.
    while !caller.ending {
        caller.ping();
    }
    assert!(refuses_calls(&shim).is_empty());
    std::fs::write(shim.code().join("go"), "").unwrap();
    assert_eq!(caller.answer(stream).unwrap().text(), "done\n");
    drop((caller, control));
    ends_well(shim);
}
