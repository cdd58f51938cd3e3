//! The Node bootstrap under the shim.

use hearth_protocol::{Frame, Hello, Load, Loaded, LogStream, Role, Signature};
use serde_json::json;

use crate::client::{Caller, SECRET, Setup, Shim, get, post};

fn start(file: &str, code: &str) -> Shim {
    Setup::node().file(file, code).start()
}

fn refusal(shim: &Shim, handler: &str) -> hearth_protocol::CallError {
    match shim.invoke().load(shim.load_request(handler)) {
        Loaded::Error(error) => error,
        Loaded::Ok { signature } => panic!("{signature:?}"),
    }
}

#[test]
fn an_event_is_answered_by_the_rules_of_payload_2() {
    let shim = start(
        "index.js",
        "exports.handler = async (event, context) => event.answer === 'context' ? {
           id: context.awsRequestId, name: context.functionName, version: context.functionVersion,
           memory: context.memoryLimitInMB, time: context.getRemainingTimeInMillis() <= 10000 } : event.answer;
         exports.callback = (event, context, callback) => setTimeout(() => callback(null, event.answer), 1);
         exports.sync = (event) => 'sync';",
    );
    let mut caller = shim.loaded("index.handler");
    let answer = caller.call("r-1", &json!({"answer": "context"}), b"").unwrap();
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&answer.body).unwrap(),
        json!({"id": "r-1", "name": "hello", "version": "hello-00001", "memory": "256", "time": true})
    );
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));

    for (value, body) in [
        (json!("text"), "\"text\""),
        (json!({"a": "\u{e9}"}), "{\"a\":\"\u{e9}\"}"),
        (json!(null), "null"),
        (json!(7), "7"),
    ] {
        let answer = caller.call("r-2", &json!({ "answer": value }), b"").unwrap();
        assert_eq!((answer.status, answer.text()), (200, body));
    }

    let full = json!({"answer": {"statusCode": 201, "headers": {"X-One": 1, "Content-Type": "text/plain", "Connection": "close"},
        "cookies": ["a=b", "c=d"], "body": "aGVsbG8=", "isBase64Encoded": true}});
    let answer = caller.call("r-3", &full, b"").unwrap();
    assert_eq!((answer.status, answer.text()), (201, "hello"));
    let headers: Vec<_> = answer.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(headers, ["content-type=text/plain", "x-one=1", "set-cookie=a=b", "set-cookie=c=d"]);

    for bad in [
        json!({"statusCode": 99}),
        json!({"statusCode": 200, "headers": {"a b": "c"}}),
        json!({"statusCode": 200, "headers": {"a": "b\nc: d"}}),
    ] {
        let error = caller.call("r-4", &json!({ "answer": bad }), b"").unwrap_err();
        assert_eq!(error.kind, "AnswerInvalid", "{bad}");
    }
}

#[test]
fn callbacks_and_plain_values_are_answers_too() {
    for (handler, body) in
        [("index.callback", "\"given\""), ("index.sync", "\"sync\""), ("lib/deep.a.b", "\"deep\"")]
    {
        let shim = Setup::node()
            .file(
                "index.js",
                "exports.callback = (event, context, callback) => setTimeout(() => callback(null, 'given'), 1);
                 exports.sync = (event) => 'sync';",
            )
            .file("lib/deep.js", "exports.a = { name: 'deep', b() { return this.name; } };")
            .start();
        let answer = shim.loaded(handler).call("r-1", &json!({}), b"").unwrap();
        assert_eq!(answer.text(), body);
    }
}

#[test]
fn modules_of_both_kinds_are_loaded() {
    for (files, handler) in [
        (vec![("index.mjs", "export const handler = async () => 'ok';")], "index.handler"),
        (vec![("index.cjs", "exports.handler = async () => 'ok';")], "index.handler"),
        (
            vec![
                ("package.json", r#"{"type":"module"}"#),
                (
                    "src/app.js",
                    "import './other.js'; await null; export default { handler: async () => 'ok' };",
                ),
                ("src/other.js", ""),
            ],
            "src/app.handler",
        ),
        (vec![("app.v1.js", "module.exports = async () => 'ok';")], "app.v1.default"),
        (vec![("app.js", "module.exports = async () => 'ok';")], "app.js"),
    ] {
        let mut setup = Setup::node();
        for (name, text) in &files {
            setup = setup.file(name, text);
        }
        let shim = setup.start();
        if handler == "app.v1.default" {
            assert_eq!(refusal(&shim, handler).kind, "HandlerMissing");
            continue;
        }
        assert_eq!(shim.loaded(handler).call("r", &json!({}), b"").unwrap().text(), "\"ok\"", "{files:?}");
    }
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let shim = start("index.js", "exports.other = () => {}; exports.number = 7;");
    let error = refusal(&shim, "index.handler");
    assert_eq!(error.kind, "HandlerMissing");
    assert!(error.message.contains("it exports other, number"), "{error}");

    let error = refusal(&start("index.js", ""), "missing.handler");
    assert_eq!(error.kind, "HandlerFileMissing");
    assert!(error.message.contains("missing.js"), "{error}");

    let error = refusal(&start("index.js", "exports.handler = ;"), "index.handler");
    assert_eq!(error.kind, "LoadFailed");
    assert!(error.message.starts_with("SyntaxError"), "{error}");
    assert!(error.stack.unwrap().contains("index.js:1"));

    // Of an ES module Node's own error does not tell where; nor which of the modules it is.
    for (main, other) in
        [("import './b.mjs';\nexport const handler = ;", ""), ("import './b.mjs';", "const x = 1;\nlet = ;")]
    {
        let shim = Setup::node().file("index.mjs", main).file("b.mjs", other).start();
        let error = refusal(&shim, "index.handler");
        assert!(error.message.starts_with("SyntaxError"), "{error}");
        let stack = error.stack.unwrap();
        let place = if other.is_empty() { "index.mjs:2" } else { "b.mjs:2" };
        assert!(stack.contains(place), "{stack}");
    }

    let error = refusal(&start("index.js", "require('not-there')"), "index.handler");
    assert!(error.message.contains("Cannot find module 'not-there'"), "{error}");

    let error = refusal(&start("index.ts", "export const handler = 1"), "index.handler");
    assert_eq!(error.kind, "HandlerUnsupported");
    assert!(error.message.contains("index.ts"), "{error}");

    let error = refusal(&start("index.js", "exports.handler = 7"), "../index.handler");
    assert_eq!(error.kind, "HandlerFileMissing");

    let error = refusal(&start("index.js", "exports.handler = 7"), "index.handler");
    assert_eq!(error.kind, "HandlerMissing");
}

#[test]
fn a_second_load_and_a_wrong_secret_are_refused() {
    let shim = start("index.js", "exports.handler = async () => 1");
    let mut caller = shim.loaded("index.handler");
    match caller.load(shim.load_request("index.handler")) {
        Loaded::Error(error) => assert_eq!(error.kind, "AlreadyLoaded"),
        Loaded::Ok { .. } => panic!("loaded twice"),
    }
    assert_eq!(shim.invoke().welcome.signature, Some(Signature::Event));

    let hello = Hello::new(Role::Invoke, SECRET.replace('0', "1"));
    let refused = std::panic::catch_unwind(|| Caller::greet(shim.connect("invoke.sock"), hello));
    let panic = refused.err().and_then(|panic| panic.downcast::<String>().ok()).unwrap();
    assert!(panic.contains("SecretRefused"), "{panic}");
}

#[test]
fn an_error_has_its_type_message_and_stack() {
    let shim = start(
        "index.js",
        "exports.handler = async (event) => { if (event.plain) throw 'text'; throw new RangeError('too far'); }",
    );
    let mut caller = shim.loaded("index.handler");
    let error = caller.call("r-1", &json!({}), b"").unwrap_err();
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("RangeError", "too far"));
    assert!(error.stack.unwrap().contains("index.js"));
    let error = caller.call("r-2", &json!({"plain": true}), b"").unwrap_err();
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("Error", "'text'"));
}

#[test]
fn an_exception_outside_of_a_call_ends_the_process() {
    let mut shim = start(
        "index.js",
        "exports.handler = (event, context, callback) => { setTimeout(() => { throw new Error('late'); }, 1); }",
    );
    let mut control = shim.control(0);
    let mut caller = shim.loaded("index.handler");
    let error = caller.call("r-1", &json!({}), b"").unwrap_err();
    assert_eq!(error.message, "late");
    let logs = control.logs_until(|record| record.line.starts_with(b"Uncaught"));
    assert_eq!(
        logs.last().unwrap().request_id.as_ref().map(|id| id.as_str().to_owned()),
        Some("r-1".to_owned())
    );
    loop {
        if let Frame::Exit(exit) = control.next() {
            assert_eq!(exit.code, Some(1));
            break;
        }
    }
    drop(control);
    assert_eq!(shim.ended().code, Some(1));
}

#[test]
fn bodies_of_a_megabyte_go_both_ways() {
    let shim = start(
        "index.js",
        "exports.handler = async (event) => ({ statusCode: 200, body: event.body, isBase64Encoded: event.isBase64Encoded })",
    );
    let mut caller = shim.loaded("index.handler");
    let text = "0123456789\u{e9}abcde".repeat(70_000);
    let stream = caller.open_with("r-1", &json!({"body": null, "isBase64Encoded": false}), b"", false, true);
    assert_eq!(caller.next(), Frame::Accept { stream });
    caller.send_body(stream, text.as_bytes());
    let answer = caller.answer(stream).unwrap();
    assert!(answer.body == text.as_bytes());

    let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[n as usize % 4]).collect();
    let stream = caller.open("r-2", &json!({"body": null, "isBase64Encoded": true}), &bytes[..1000], false);
    caller.send_body(stream, &bytes[1000..]);
    assert!(caller.answer(stream).unwrap().body == bytes);
}

#[test]
fn what_a_handler_throws_is_among_the_lines_of_its_call() {
    let shim = start("index.js", "exports.handler = async () => { throw new TypeError('no such order'); }");
    let mut control = shim.control(0);
    let mut caller = shim.loaded("index.handler");
    caller.call("r-1", &json!({}), b"").unwrap_err();
    let logs = control.logs_until(|record| record.line == "TypeError: no such order");
    let request = logs.last().and_then(|record| record.request_id.as_ref()).map(|id| id.as_str().to_owned());
    assert_eq!(request.as_deref(), Some("r-1"));
}

#[test]
fn a_cancelled_call_is_told_and_ends_when_the_handler_does() {
    let shim = start(
        "index.js",
        "exports.handler = (event, context) => new Promise((resolve) => {
           context.signal.addEventListener('abort', () => { console.log('aborted'); resolve('late'); });
           console.log('waiting');
         })",
    );
    let mut control = shim.control(0);
    let mut caller = shim.loaded("index.handler");
    let stream = caller.open("r-1", &json!({}), b"", true);
    control.logs_until(|record| record.line == "waiting");
    caller.send(&Frame::Cancel { stream });
    assert_eq!(caller.next(), Frame::End { stream });
    let logs = control.logs_until(|record| record.line == "aborted");
    assert_eq!(logs[0].request_id.as_ref().map(|id| id.as_str().to_owned()), Some("r-1".to_owned()));
}

#[test]
fn many_calls_at_once_keep_their_lines_apart() {
    let shim = start(
        "index.mjs",
        "import { setTimeout } from 'timers/promises';
         export const handler = async ({ n }, context) => {
           console.log('begin', n); process.stdout.write('half ');
           await setTimeout(n % 5);
           console.error('end', n); process.stdout.write('and half ' + n);
           return n;
         };",
    );
    let mut control = shim.control(0);
    let mut caller = shim.invoke();
    let load = Load { concurrency: 50, ..shim.load_request("index.handler") };
    assert!(matches!(caller.load(load), Loaded::Ok { .. }));
    let mut waiting = std::collections::HashMap::new();
    for n in 0..50 {
        waiting.insert(caller.open(&format!("r-{n}"), &json!({ "n": n }), b"", true), n);
    }
    while !waiting.is_empty() {
        let Frame::Answer { stream, answer } = caller.next() else { panic!() };
        assert_eq!(answer.body, waiting.remove(&stream).unwrap().to_string());
    }
    let mut lines = 0;
    let counted = std::cell::Cell::new(0);
    let records = control.logs_until(|_| {
        counted.set(counted.get() + 1);
        counted.get() == 150
    });
    for record in records {
        let line = String::from_utf8(record.line.to_vec()).unwrap();
        let n = line.rsplit(' ').next().unwrap();
        assert_eq!(record.request_id.unwrap().as_str(), format!("r-{n}"), "{line}");
        assert!(!record.shared);
        let stderr = line.starts_with("end");
        assert_eq!(record.stream, if stderr { LogStream::Stderr } else { LogStream::Stdout });
        lines += u32::from(line == format!("half and half {n}"));
    }
    assert_eq!(lines, 50);
}

#[test]
fn lines_of_child_processes_are_attributed_where_one_call_runs_and_shared_elsewhere() {
    let code = "const { spawnSync } = require('child_process');
        exports.handler = async (event) => { spawnSync('echo', ['child ' + event.n], { stdio: 'inherit' }); return 1; }";
    for concurrency in [1, 10] {
        let shim =
            Setup::node().file("index.js", code).with(|config| config.concurrency = concurrency).start();
        let mut control = shim.control(0);
        let mut caller = shim.invoke();
        let load = Load { concurrency, ..shim.load_request("index.handler") };
        assert!(matches!(caller.load(load), Loaded::Ok { .. }));
        for n in 0..20 {
            caller.call(&format!("r-{n}"), &json!({ "n": n }), b"").unwrap();
            let record = control.logs_until(|_| true).remove(0);
            assert_eq!(record.line, format!("child {n}"));
            let id = record.request_id.map(|id| id.as_str().to_owned());
            let expected = if concurrency == 1 { (Some(format!("r-{n}")), false) } else { (None, true) };
            assert_eq!((id, record.shared), expected);
        }
    }
}

#[test]
fn fetch_streams_both_ways() {
    let shim = start(
        "index.mjs",
        "export default { async fetch(request, env, context) {
           const url = new URL(request.url);
           if (url.pathname === '/json') return Response.json({ id: context.requestId, test: request.headers.get('x-test'), host: url.host });
           if (url.pathname === '/empty') return new Response(null, { status: 204, headers: { 'x-a': 'b' } });
           if (url.pathname === '/none') return 'no response';
           if (url.pathname === '/big') return new Response(new Uint8Array(500000).fill(7));
           return new Response(request.body, { headers: { 'content-type': 'text/echo' } });
         } }",
    );
    let mut caller = shim.invoke();
    let loaded = caller.load(Load { handler: Some("index.default".to_owned()), ..shim.load_request("") });
    assert_eq!(loaded, Loaded::Ok { signature: Signature::Fetch });
    let answer = caller.call("r-1", &get("/json?a=b"), b"").unwrap();
    assert_eq!(answer.text(), r#"{"id":"r-1","test":"yes","host":"hearth.test"}"#);
    let answer = caller.call("r-2", &get("/empty"), b"").unwrap();
    assert_eq!((answer.status, answer.header("x-a"), answer.body.len()), (204, Some("b"), 0));
    assert_eq!(caller.call("r-3", &get("/none"), b"").unwrap_err().kind, "AnswerInvalid");
    assert_eq!(caller.call("r-4", &get("/big"), b"").unwrap().body, vec![7; 500_000]);
    assert_eq!(caller.call("r-5", &post("/"), b"short").unwrap().text(), "short");

    // The echo starts before the body has ended.
    let stream = caller.open("r-6", &post("/"), b"first", false);
    let mut echoed = Vec::new();
    while echoed != b"first" {
        match caller.next() {
            Frame::Answer { answer, .. } => echoed.extend_from_slice(&answer.body),
            Frame::Data { bytes, .. } => echoed.extend_from_slice(&bytes),
            Frame::Credit { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    caller.send(&Frame::Data { stream, bytes: "second".into(), end: true });
    assert_eq!(caller.answer(stream).unwrap().text(), "second");
}

#[test]
fn drain_ends_the_calls_and_then_the_process() {
    let mut shim = start(
        "index.js",
        "exports.handler = async () => { console.log('in'); await new Promise((r) => setTimeout(r, 50)); return 'done'; }",
    );
    let mut control = shim.control(0);
    let mut caller = shim.loaded("index.handler");
    let stream = caller.open("r-1", &json!({}), b"", true);
    control.logs_until(|record| record.line == "in");
    control.send(&Frame::Drain);
    // Refused as soon as the drain has arrived; this call or a later one.
    assert_eq!(caller.answer(stream).unwrap().text(), "\"done\"");
    drop((caller, control));
    assert_eq!(shim.ended().code, Some(0));
}

#[test]
fn more_calls_than_were_agreed_are_busy() {
    let node = start("index.js", "exports.handler = () => new Promise(() => {})");
    let python = Setup::python()
        .file("index.py", "import asyncio\nasync def handler(event, context): await asyncio.sleep(1000)\n")
        .start();
    for shim in [node, python] {
        let mut caller = shim.invoke();
        let load = Load { concurrency: 2, ..shim.load_request("index.handler") };
        assert!(matches!(caller.load(load), Loaded::Ok { .. }));
        for n in 0..2 {
            caller.open(&format!("r-{n}"), &json!({}), b"", true);
        }
        let stream = caller.open("r-3", &json!({}), b"", true);
        assert_eq!(caller.next(), Frame::Busy { stream });
        // A handler that never ends is ended with the process.
        drop(caller);
    }
}

#[test]
fn a_blocked_loop_answers_no_ping() {
    let shim = start("index.js", "exports.handler = async () => { for (;;) {} }");
    let mut caller = shim.loaded("index.handler");
    caller.ping();
    caller.open("r-1", &json!({}), b"", true);
    caller.send(&Frame::Ping(*b"12345678"));
    caller.stream.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    let next = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| caller.next()));
    assert!(next.is_err());
    // The shim is still there and can tell: its end kills the loop.
    let control = shim.control(0);
    drop(control);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", shim.pid())).unwrap();
    let node = rustix::process::Pid::from_raw(children.trim().parse().unwrap()).unwrap();
    rustix::process::kill_process(node, rustix::process::Signal::KILL).unwrap();
}
