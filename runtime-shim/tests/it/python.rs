//! The Python bootstrap under the shim.

use std::collections::HashMap;

use hearth_protocol::{CallError, Frame, Load, Loaded, LogStream, Signature};
use serde_json::json;

use crate::client::{Setup, Shim, get, post};

fn start(code: &str) -> Shim {
    Setup::python().file("main.py", code).start()
}

fn refusal(shim: &Shim, handler: &str) -> CallError {
    match shim.invoke().load(shim.load_request(handler)) {
        Loaded::Error(error) => error,
        Loaded::Ok { signature } => panic!("{signature:?}"),
    }
}

fn signature(shim: &Shim, handler: &str) -> Signature {
    drop(shim.loaded(handler));
    shim.invoke().welcome.signature.unwrap()
}

#[test]
fn an_event_is_answered_sync_and_async() {
    for def in ["def", "async def"] {
        let shim = start(&format!(
            "{def} handler(event, context):
    if event.get('context'):
        return dict(id=context.aws_request_id, name=context.function_name, time=context.get_remaining_time_in_millis() <= 10000)
    return event['answer']
"
        ));
        let mut caller = shim.loaded("main.handler");
        let answer = caller.call("r-1", &json!({"context": true}), b"").unwrap();
        assert_eq!(answer.text(), r#"{"id": "r-1", "name": "hello", "time": true}"#);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let full = json!({"answer": {"statusCode": 201, "headers": {"X-One": 1}, "cookies": ["a=b"], "body": "aGk=", "isBase64Encoded": true}});
        let answer = caller.call("r-2", &full, b"").unwrap();
        assert_eq!((answer.status, answer.text(), answer.header("x-one")), (201, "hi", Some("1")));
        assert_eq!(answer.header("set-cookie"), Some("a=b"));
        for (value, body) in [
            (json!({"a": ["\u{e9}", 1.5, null, true]}), "{\"a\": [\"\u{e9}\", 1.5, null, true]}"),
            (json!("text"), "\"text\""),
            (json!(null), "null"),
        ] {
            assert_eq!(caller.call("r-2", &json!({ "answer": value }), b"").unwrap().text(), body);
        }
        let bad = json!({"answer": {"statusCode": 200, "headers": {"a": "b\nc: d"}}});
        assert_eq!(caller.call("r-3", &bad, b"").unwrap_err().kind, "AnswerInvalid");
        caller.ping();
    }
}

#[test]
fn errors_have_type_message_and_traceback() {
    let shim = start("def handler(event, context):\n    raise KeyError('which')\n");
    let error = shim.loaded("main.handler").call("r-1", &json!({}), b"").unwrap_err();
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("KeyError", "'which'"));
    assert!(error.stack.unwrap().contains("main.py\", line 2"));
}

#[test]
fn what_cannot_be_loaded_says_why() {
    let error = refusal(&start("def other(): pass\n"), "main.handler");
    assert_eq!(error.kind, "HandlerMissing");
    assert!(error.message.contains("it has other"), "{error}");
    assert_eq!(refusal(&start(""), "missing.handler").kind, "HandlerFileMissing");
    let error = refusal(&start("def handler(:\n"), "main.handler");
    assert_eq!(error.kind, "LoadFailed");
    assert!(error.message.contains("SyntaxError"), "{error}");
    let error = refusal(&start("import not_there\n"), "main.handler");
    assert!(error.message.contains("No module named 'not_there'"), "{error}");
    assert_eq!(refusal(&start("handler = 7\n"), "main.handler").kind, "HandlerMissing");
    assert_eq!(refusal(&start("raise SystemExit(3)\n"), "main.handler").kind, "LoadFailed");
}

#[test]
fn the_users_modules_come_first_but_not_into_the_bootstrap() {
    let shim = Setup::python()
        .file("queue.py", "value = 7\n")
        .file("pkg/__init__.py", "")
        .file("pkg/app.py", "import queue\ndef handler(event, context): return queue.value\n")
        .start();
    let answer = shim.loaded("pkg/app.handler").call("r-1", &json!({}), b"").unwrap();
    assert_eq!(answer.text(), "7");
}

const ASGI: &str = "
import asyncio
started = []
async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        await receive(); started.append(1); scope['state']['n'] = 5
        await send({'type': 'lifespan.startup.complete'})
        await receive(); print('bye'); await send({'type': 'lifespan.shutdown.complete'}); return
    path = scope['path']
    if path == '/early': return
    if path == '/throw': raise ValueError('x')
    if path == '/wait':
        print('waiting')
        await receive()
        message = await receive(); print(message['type']); return
    await send({'type': 'http.response.start', 'status': 201, 'headers': [(b'X-Path', path.encode()), (b'x-started', b'%d' % (len(started) + scope['state']['n']))]})
    if path == '/big':
        await send({'type': 'http.response.body', 'body': b'7' * 500000}); return
    more = True
    while more:
        message = await receive()
        more = message.get('more_body', False)
        await send({'type': 'http.response.body', 'body': message['body'], 'more_body': more})
";

#[test]
fn asgi_streams_both_ways_with_lifespan() {
    let mut shim = start(ASGI);
    let mut control = shim.control(0);
    let mut caller = shim.loaded("main.app");
    assert_eq!(shim.invoke().welcome.signature, Some(Signature::Asgi));
    let answer = caller.call("r-1", &post("/a%20b?c=d"), b"hello").unwrap();
    assert_eq!((answer.status, answer.text(), answer.header("x-path")), (201, "hello", Some("/a b")));
    assert_eq!(answer.header("x-started"), Some("6"));
    assert_eq!(caller.call("r-2", &get("/big"), b"").unwrap().body, vec![b'7'; 500_000]);
    assert_eq!(caller.call("r-3", &get("/early"), b"").unwrap_err().kind, "AnswerInvalid");
    assert_eq!(caller.call("r-4", &get("/throw"), b"").unwrap_err().kind, "ValueError");

    let stream = caller.open("r-5", &post("/"), b"first", false);
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

    let stream = caller.open("r-6", &get("/wait"), b"", true);
    control.logs_until(|record| record.line == "waiting");
    caller.send(&Frame::Cancel { stream });
    assert_eq!(caller.next(), Frame::End { stream });
    control.logs_until(|record| record.line == "http.disconnect");

    control.send(&Frame::Drain);
    control.logs_until(|record| record.line == "bye");
    drop((caller, control));
    assert_eq!(shim.ended().code, Some(0));
}

#[test]
fn wsgi_streams_both_ways() {
    let shim = start(
        "
def app(environ, start_response):
    path = environ['PATH_INFO']
    if path == '/none': return []
    start_response('202 Accepted', [('Content-Type', 'text/plain'), ('X-Query', environ['QUERY_STRING']), ('Content-Length', '5')])
    if path == '/big': return (b'7' * 100000 for _ in range(5))
    return [environ['wsgi.input'].read()]
",
    );
    let mut caller = shim.loaded("main.app");
    assert_eq!(shim.invoke().welcome.signature, Some(Signature::Wsgi));
    let answer = caller.call("r-1", &post("/x?a=b"), b"hello").unwrap();
    assert_eq!((answer.status, answer.text(), answer.header("x-query")), (202, "hello", Some("a=b")));
    assert_eq!(answer.header("content-length"), None, "the gateway says it");
    assert_eq!(caller.call("r-2", &get("/big"), b"").unwrap().body, vec![b'7'; 500_000]);
    assert_eq!(caller.call("r-3", &get("/none"), b"").unwrap_err().kind, "AnswerInvalid");
    let body = vec![b'x'; 400_000];
    let stream = caller.open("r-4", &post("/"), &body[..10], false);
    caller.send_body(stream, &body[10..]);
    assert_eq!(caller.answer(stream).unwrap().body, body);
}

#[test]
fn frameworks_objects_are_told_apart() {
    let code = "
class Asgi:
    async def __call__(self, a, b, c): pass
class Flask:
    def wsgi_app(self, environ, start_response): pass
    def __call__(self, environ, start_response): return self.wsgi_app(environ, start_response)
asgi, flask = Asgi(), Flask()
def falcon(env, start_response): pass
class Plain:
    def __call__(self, event, context): pass
plain = Plain()
";
    for (handler, expected) in [
        ("main.asgi", Signature::Asgi),
        ("main.flask", Signature::Wsgi),
        ("main.falcon", Signature::Wsgi),
        ("main.plain", Signature::Event),
    ] {
        assert_eq!(signature(&start(code), handler), expected, "{handler}");
    }
}

#[test]
fn many_calls_at_once_keep_their_lines_apart() {
    for (def, wait) in [("def", "time.sleep"), ("async def", "await asyncio.sleep")] {
        let shim = start(&format!(
            "
import asyncio, time, logging, sys
{def} handler(event, context):
    n = event['n']
    print('begin', n)
    sys.stdout.write('half ')
    {wait}(n % 5 / 1000)
    logging.error('end %d', n)
    print('and half', n, end='')
    return n
"
        ));
        let mut control = shim.control(0);
        let mut caller = shim.invoke();
        let load = Load { concurrency: 50, ..shim.load_request("main.handler") };
        assert!(matches!(caller.load(load), Loaded::Ok { .. }));
        let mut waiting = HashMap::new();
        for n in 0..50 {
            waiting.insert(caller.open(&format!("r-{n}"), &json!({ "n": n }), b"", true), n);
        }
        while !waiting.is_empty() {
            let Frame::Answer { stream, answer } = caller.next() else { panic!() };
            assert_eq!(answer.body, waiting.remove(&stream).unwrap().to_string());
        }
        let counted = std::cell::Cell::new(0);
        let records = control.logs_until(|_| {
            counted.set(counted.get() + 1);
            counted.get() == 150
        });
        for record in records {
            let line = String::from_utf8(record.line.to_vec()).unwrap();
            let n = line.rsplit(' ').next().unwrap();
            assert_eq!(record.request_id.unwrap().as_str(), format!("r-{n}"), "{line}");
            let stderr = line.starts_with("ERROR:root:end");
            assert_eq!(record.stream, if stderr { LogStream::Stderr } else { LogStream::Stdout });
            assert!(stderr || line.starts_with("begin") || line == format!("half and half {n}"), "{line}");
        }
    }
}

#[test]
fn sigterm_ends_it_whatever_the_main_thread_does() {
    for code in ["def handler(event, context): return 1\n", "async def handler(event, context): return 1\n"] {
        let mut shim = start(code);
        let caller = shim.loaded("main.handler");
        shim.signal(rustix::process::Signal::TERM);
        assert_eq!(shim.ended().code, Some(0));
        drop(caller);
    }
    // Before a load too.
    let mut shim = start("");
    drop(shim.invoke());
    shim.signal(rustix::process::Signal::TERM);
    assert_eq!(shim.ended().code, Some(0));
}

#[test]
fn a_slot_is_free_when_the_answer_is_there() {
    let shim = start("def handler(event, context): return 1\n");
    let mut caller = shim.invoke();
    let load = Load { concurrency: 1, ..shim.load_request("main.handler") };
    assert!(matches!(caller.load(load), Loaded::Ok { .. }));
    for _ in 0..500 {
        assert_eq!(caller.call("r", &json!({}), b"").unwrap().text(), "1");
    }
}

#[test]
fn an_answer_that_nobody_reads_yet_is_written_later() {
    let shim = start("def handler(event, context): return 'x' * 60000\n");
    let mut caller = shim.invoke();
    let load = Load { concurrency: 50, ..shim.load_request("main.handler") };
    assert!(matches!(caller.load(load), Loaded::Ok { .. }));
    for round in 0..5 {
        for n in 0..50 {
            caller.open(&format!("r-{round}-{n}"), &json!({}), b"", true);
        }
        // 3 MB: far more than a socket takes at once.
        for _ in 0..50 {
            let Frame::Answer { answer, .. } = caller.next() else { panic!() };
            assert_eq!((answer.body.len(), answer.end), (60_002, true));
        }
    }
}

#[test]
fn what_a_handler_raises_is_among_the_lines_of_its_call() {
    let shim = start("def handler(event, context):\n    raise ValueError('no such order')\n");
    let mut control = shim.control(0);
    let mut caller = shim.loaded("main.handler");
    caller.call("r-1", &json!({}), b"").unwrap_err();
    let logs = control.logs_until(|record| record.line == "ValueError: no such order");
    let request = logs.last().and_then(|record| record.request_id.as_ref()).map(|id| id.as_str().to_owned());
    assert_eq!(request.as_deref(), Some("r-1"));
}

#[test]
fn a_cancelled_loop_of_a_sync_handler_is_broken() {
    let shim = start(
        "
def handler(event, context):
    if event.get('quick'): return 1
    print('looping')
    while True: pass
",
    );
    let mut control = shim.control(0);
    let mut caller = shim.loaded("main.handler");
    let stream = caller.open("r-1", &json!({}), b"", true);
    control.logs_until(|record| record.line == "looping");
    caller.send(&Frame::Cancel { stream });
    assert_eq!(caller.next(), Frame::End { stream });
    assert_eq!(caller.call("r-2", &json!({"quick": 1}), b"").unwrap().text(), "1");
}

#[test]
fn a_cancelled_call_does_not_break_an_import_off() {
    // A lock of the import's that stays behind would keep every later call waiting.
    let slow = "import builtins, time\nbuiltins.began = getattr(builtins, 'began', 0) + 1\nprint('importing')\ntime.sleep(0.3)\nfor _ in range(10): pass\n";
    let handler = "
def handler(event, context):
    import builtins, slow
    if event.get('quick'): return builtins.began
    while True: pass
";
    let shim = Setup::python().file("main.py", handler).file("slow.py", slow).start();
    let mut control = shim.control(0);
    let mut caller = shim.loaded("main.handler");
    let stream = caller.open("r-1", &json!({}), b"", true);
    control.logs_until(|record| record.line == "importing");
    caller.send(&Frame::Cancel { stream });
    assert_eq!(caller.next(), Frame::End { stream });
    assert_eq!(caller.call("r-2", &json!({"quick": 1}), b"").unwrap().text(), "1", "it was imported once");
}

#[test]
fn big_events_and_child_processes() {
    let shim = Setup::python()
        .file(
            "main.py",
            "import subprocess\ndef handler(event, context):\n    if event['body'] is None: subprocess.run(['echo', 'child'])\n    return {'statusCode': 200, 'body': event['body'] or ''}\n",
        )
        .with(|config| config.concurrency = 1)
        .start();
    let mut control = shim.control(0);
    let mut caller = shim.invoke();
    let load = Load { concurrency: 1, ..shim.load_request("main.handler") };
    assert_eq!(caller.load(load), Loaded::Ok { signature: Signature::Event });
    let text = "0123456789\u{e9}abcde".repeat(50_000);
    let stream = caller.open("r-1", &json!({"body": null, "isBase64Encoded": false}), b"", false);
    caller.send_body(stream, text.as_bytes());
    assert!(caller.answer(stream).unwrap().body == text.as_bytes());
    caller.call("r-2", &json!({"body": null}), b"").unwrap();
    let record = control.logs_until(|record| record.line == "child").pop().unwrap();
    assert_eq!(record.request_id.map(|id| id.as_str().to_owned()), Some("r-2".to_owned()));
}
