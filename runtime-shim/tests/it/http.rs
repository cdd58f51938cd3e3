//! The `http` runtime and Node's `http` signature: plain HTTP/1.1 over attached connections.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use hearth_protocol::bodies::error_type;
use hearth_protocol::{Exit, Frame, Hello, Load, Loaded, Role, ShimProcess, Signature, decode};

use crate::client::{Caller, SECRET, Setup, Shim};

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn server(code: &str) -> Shim {
    let port = free_port();
    let command = ["node", "server.js"].map(str::to_owned).to_vec();
    Setup::new(ShimProcess::Http { command })
        .file("server.js", code)
        .with(|config| {
            config.env.insert("PORT".to_owned(), port.to_string());
        })
        .start()
}

/// An attached connection, or what was said instead.
pub(crate) fn attach(shim: &Shim) -> Result<UnixStream, Box<Frame>> {
    let mut stream = shim.connect("invoke.sock");
    let mut bytes = BytesMut::new();
    Frame::Attach(Hello::new(Role::Attach, SECRET)).encode(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut buffer = BytesMut::new();
    loop {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).unwrap();
        buffer.extend_from_slice(&byte);
        match decode(&mut buffer).unwrap() {
            None => {}
            Some(Frame::Accept { stream: 0 }) => return Ok(stream),
            Some(other) => return Err(Box::new(other)),
        }
    }
}

/// Writes a request and reads until the answer holds `last`.
pub(crate) fn exchange(stream: &mut UnixStream, request: &str, last: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    while !text.contains(last) {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
    text
}

fn load(shim: &Shim, handler: Option<&str>) -> (Caller, Loaded) {
    let mut caller = shim.invoke();
    let load = Load { handler: handler.map(str::to_owned), ..shim.load_request("") };
    let loaded = caller.load(load);
    (caller, loaded)
}

const SERVER: &str = "
const server = require('http').createServer((req, res) => res.end('hello ' + req.url));
server.on('upgrade', (req, socket) => { socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n'); socket.pipe(socket); });
";

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";

#[test]
fn a_server_is_reached_over_attached_connections() {
    let shim = server(&format!("{SERVER} server.listen(process.env.PORT);"));
    let refused = attach(&shim).err().map(|frame| *frame);
    assert!(matches!(refused, Some(Frame::Error { stream: 0, error }) if error.kind == "NotLoaded"));
    let (mut caller, loaded) = load(&shim, None);
    assert_eq!(loaded, Loaded::Ok { signature: Signature::Http });
    caller.ping();
    let mut stream = attach(&shim).unwrap();
    for path in ["/one", "/two"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = exchange(&mut stream, &request, "hello");
        assert!(answer.ends_with(&format!("hello {path}")), "{answer}");
    }
    exchange(&mut stream, UPGRADE, "\r\n\r\n");
    assert_eq!(exchange(&mut stream, "echo this", "this"), "echo this");
}

/// Like a server in a language whose connections may be closed on one side.
const HALF_OPEN: &str = "
const server = require('http').createServer((req, res) => {
  if (req.url === '/late') setTimeout(() => { res.end('late'); res.socket.end(); }, 100);
  else setInterval(() => res.write('more'), 10);
});
server.httpAllowHalfOpen = true;
server.listen(process.env.PORT);
";

#[test]
fn a_call_that_is_given_up_ends_with_the_servers_answer() {
    let shim = server(HALF_OPEN);
    assert!(matches!(load(&shim, None).1, Loaded::Ok { .. }));
    for (path, said) in [("/late", "late"), ("/endless", "more")] {
        let mut stream = attach(&shim).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains(said), "{path}: {answer}");
    }
}

#[test]
fn a_ping_is_answered_when_the_server_answers() {
    let shim = server(
        "const fs = require('fs');
         require('http').createServer((req, res) => {
           if (req.url === '/block') { console.log('blocked'); while (!fs.existsSync(__dirname + '/go')); }
           res.end();
         }).listen(process.env.PORT);",
    );
    let (mut caller, loaded) = load(&shim, None);
    assert_eq!(loaded, Loaded::Ok { signature: Signature::Http });
    let mut control = shim.control(0);
    let mut stream = attach(&shim).unwrap();
    stream.write_all(b"GET /block HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    control.logs_until(|record| record.line == "blocked");
    // The shim itself answers all the time.
    control.ping();
    caller.send(&Frame::Ping(*b"12345678"));
    let again = caller.load(shim.load_request(""));
    assert!(matches!(again, Loaded::Error(error) if error.kind == "AlreadyLoaded"));
    std::fs::write(shim.code().join("go"), "").unwrap();
    assert_eq!(caller.next(), Frame::Pong(*b"12345678"));
}

#[test]
fn a_server_that_ends_before_it_listens_tells_its_last_lines() {
    let mut shim = server("console.log('one'); console.error('cannot go on'); process.exitCode = 4;");
    let (_, loaded) = load(&shim, None);
    let Loaded::Error(error) = loaded else { panic!("loaded") };
    assert_eq!(error.kind, "ProcessEnded");
    assert!(error.message.contains("exit code 4"), "{error}");
    let mut lines = error.lines;
    lines.sort();
    assert_eq!(lines, ["cannot go on", "one"]);
    assert_eq!(shim.ended().code, Some(4));
}

#[test]
fn a_servers_end_is_the_instances() {
    let mut shim = server(&format!(
        "process.on('SIGTERM', () => process.exit(7)); {SERVER} server.listen(process.env.PORT);"
    ));
    let mut control = shim.control(0);
    assert!(matches!(load(&shim, None).1, Loaded::Ok { .. }));
    control.send(&Frame::Drain);
    assert_eq!(control.next(), Frame::Exit(Exit { code: Some(7), ..Exit::default() }));
    drop(control);
    assert_eq!(shim.ended().code, Some(7));
}

#[test]
fn node_handlers_of_the_http_signature_have_real_requests() {
    for (code, upgrades) in [
        (format!("{SERVER} exports.handler = server;"), true),
        ("exports.handler = (req, res) => res.end('hello ' + req.url);".to_owned(), false),
        ("exports.handler = async (request, response) => response.end('hello ' + request.url);".to_owned(), false),
        (
            "exports.handler = function (a, b) { b.end('hello ' + a.url); };
             exports.upgrade = (req, socket) => { socket.write('HTTP/1.1 101 Switching Protocols\\r\\nConnection: upgrade\\r\\nUpgrade: echo\\r\\n\\r\\n'); socket.pipe(socket); };"
                .to_owned(),
            true,
        ),
    ] {
        let shim = Setup::node().file("index.js", &code).start();
        let (_caller, loaded) = load(&shim, Some("index.handler"));
        assert_eq!(loaded, Loaded::Ok { signature: Signature::Http }, "{code}");
        let mut stream = attach(&shim).unwrap();
        for path in ["/one", "/two"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert!(exchange(&mut stream, &request, "hello").contains(&format!("hello {path}")));
        }
        if upgrades {
            exchange(&mut stream, UPGRADE, "\r\n\r\n");
            assert_eq!(exchange(&mut stream, "echo this", "this"), "echo this");
        }
    }
}

/// Answers when the request's body has ended, and says how many calls run and have come.
const COUNTS: &str = "
let running = 0, come = 0;
exports.handler = (req, res) => {
  res.write(`${++running} of ${++come};`);
  req.on('end', () => { running--; res.end('done;'); }).resume();
};
";

#[test]
fn an_http_handler_runs_no_more_calls_than_its_limit_whoever_sends_them() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n";
    let shim = Setup::node().file("index.js", COUNTS).start();
    let mut caller = shim.invoke();
    let load = Load { handler: Some("index.handler".to_owned()), concurrency: 1, ..shim.load_request("") };
    assert_eq!(caller.load(load), Loaded::Ok { signature: Signature::Http });
    let mut kept = attach(&shim).unwrap();
    assert!(exchange(&mut kept, get, "done;").contains("1 of 1;"));
    let mut first = attach(&shim).unwrap();
    assert!(exchange(&mut first, post, ";").contains("1 of 2;"));
    // A new connection is refused; a request on one that is there waits, and one that is given up does not run at all.
    let refused = attach(&shim).err().map(|frame| *frame);
    assert!(matches!(refused, Some(Frame::Error { stream: 0, error }) if error.kind == error_type::ENDING));
    kept.write_all(get.as_bytes()).unwrap();
    kept.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(kept.read(&mut [0]).unwrap(), 0, "it is closed without an answer");
    exchange(&mut first, "x", "done;");
    let mut second = attach(&shim).unwrap();
    assert!(exchange(&mut second, post, ";").contains("1 of 3;"));
    first.write_all(get.as_bytes()).unwrap();
    // The process has read it by then.
    caller.ping();
    caller.ping();
    exchange(&mut second, "x", "done;");
    assert!(exchange(&mut first, "", "done;").contains("1 of 4;"));
}

#[test]
fn a_failing_http_handler_answers_500_and_lines_have_their_request() {
    let shim = Setup::node()
        .file(
            "index.js",
            "exports.handler = async (req, res) => { console.log('in', req.url); await null; if (req.url === '/bad') throw new TypeError('no'); res.end('fine'); }",
        )
        .start();
    let mut control = shim.control(0);
    let (_caller, loaded) = load(&shim, Some("index.handler"));
    assert_eq!(loaded, Loaded::Ok { signature: Signature::Http });
    let request =
        |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nx-hearth-request-id: id{path}\r\n\r\n");
    let answer = exchange(&mut attach(&shim).unwrap(), &request("/bad"), "\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 500 ") && answer.contains("x-hearth-error: TypeError\r\n"),
        "{answer}"
    );
    exchange(&mut attach(&shim).unwrap(), &request("/good"), "fine");
    for record in control.logs_until(|record| record.line == "in /good") {
        let expected = if record.line == "in /good" { "id/good" } else { "id/bad" };
        assert_eq!(record.request_id.unwrap().as_str(), expected, "{:?}", record.line);
    }
}
