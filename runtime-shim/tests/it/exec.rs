//! The `exec` runtime: a process for each call.

use hearth_protocol::{Frame, Load, Loaded, LogStream, ShimProcess, Signature};

use crate::client::{Caller, Setup, Shim, get, post};

fn start(script: &str) -> Shim {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    Setup::new(ShimProcess::Exec { command }).start()
}

fn loaded(shim: &Shim) -> Caller {
    let mut caller = shim.invoke();
    let load = Load { handler: None, concurrency: 4, ..shim.load_request("") };
    assert_eq!(caller.load(load), Loaded::Ok { signature: Signature::Exec });
    caller
}

#[test]
fn a_call_is_a_process_with_the_request_around_it() {
    let shim =
        start(r#"echo "$REQUEST_METHOD $PATH_INFO $QUERY_STRING $HTTP_X_TEST $HEARTH_REQUEST_ID"; cat"#);
    let mut caller = loaded(&shim);
    let answer = caller.call("r-1", &post("/a%20b?c=d"), b"body").unwrap();
    assert_eq!((answer.status, answer.text()), (200, "POST /a b c=d yes r-1\nbody"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    caller.ping();
    assert_eq!(shim.invoke().welcome.served, 1);
}

#[test]
fn a_process_that_fails_is_an_error_with_its_last_words() {
    let shim = start("echo out; echo why >&2; exit 3");
    let mut control = shim.control(0);
    let error = loaded(&shim).call("r-1", &get("/"), b"").unwrap_err();
    assert_eq!((error.kind.as_str(), error.message.as_str()), ("ProcessEnded", "sh: exit code 3"));
    assert_eq!(error.lines, ["why"]);
    let record = control.logs_until(|_| true).remove(0);
    assert_eq!((record.stream, &record.line[..]), (LogStream::Stderr, &b"why"[..]));
    assert_eq!(record.request_id.unwrap().as_str(), "r-1");

    let command = vec!["/nowhere/at/all".to_owned()];
    let shim = Setup::new(ShimProcess::Exec { command }).start();
    let error = loaded(&shim).call("r-1", &get("/"), b"").unwrap_err();
    assert!(error.message.starts_with("cannot start /nowhere/at/all"), "{error}");
}

#[test]
fn megabytes_go_both_ways() {
    let shim = start("cat");
    let mut caller = loaded(&shim);
    let body: Vec<u8> = (0..2_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let stream = caller.open("r-1", &post("/"), &body[..1000], false);
    // Both at once: the process answers while it reads, and is held up when nobody takes the answer.
    let (mut sent, mut received) = (1000, Vec::new());
    while received.len() < body.len() {
        let window = caller.rules.call(stream).map_or(0, |call| call.body_window() as usize);
        if window > 0 && sent < body.len() {
            let piece = &body[sent..body.len().min(sent + window)];
            sent += piece.len();
            let end = sent == body.len();
            caller.send(&Frame::Data { stream, bytes: bytes::Bytes::copy_from_slice(piece), end });
            continue;
        }
        let bytes = match caller.next() {
            Frame::Answer { answer, .. } => answer.body,
            Frame::Data { bytes, .. } => bytes,
            Frame::Credit { .. } => continue,
            other => panic!("{other:?}"),
        };
        received.extend_from_slice(&bytes);
        if !bytes.is_empty() {
            caller.send(&Frame::Credit { stream, bytes: u32::try_from(bytes.len()).unwrap() });
        }
    }
    assert!(received == body);
    assert_eq!(caller.next(), Frame::Data { stream, bytes: bytes::Bytes::new(), end: true });
}

#[test]
fn output_flows_before_the_process_ends_and_a_late_failure_breaks_it_off() {
    let shim = start("echo first; read line; echo $line; exit 1");
    let mut caller = loaded(&shim);
    let stream = caller.open("r-1", &post("/"), b"", false);
    let Frame::Answer { answer, .. } = caller.next() else { panic!() };
    assert_eq!((&answer.body[..], answer.end), (&b"first\n"[..], false));
    caller.send(&Frame::Data { stream, bytes: "second\n".into(), end: true });
    loop {
        match caller.next() {
            Frame::Data { bytes, end: false, .. } => assert_eq!(&bytes[..], b"second\n"),
            Frame::Credit { .. } => {}
            Frame::Error { error, .. } => {
                assert_eq!(error.message, "sh: exit code 1");
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn cancel_kills_the_whole_group() {
    let shim = start("echo $$ >&2; sleep 1000 & wait");
    let mut control = shim.control(0);
    let mut caller = loaded(&shim);
    let stream = caller.open("r-1", &get("/"), b"", true);
    let pid = control.logs_until(|_| true).remove(0).line;
    caller.send(&Frame::Cancel { stream });
    assert_eq!(caller.next(), Frame::End { stream });
    let pid: i32 = String::from_utf8(pid.to_vec()).unwrap().parse().unwrap();
    let group = rustix::process::Pid::from_raw(pid).unwrap();
    // The orphan's new parent (here not the shim, which is no PID 1) may take a moment to reap it.
    let deadline = std::time::Instant::now() + crate::client::PATIENCE;
    while rustix::process::test_kill_process_group(group).is_ok() {
        assert!(std::time::Instant::now() < deadline, "something of the group is left");
        crate::client::pause();
    }
}

#[test]
fn more_calls_than_slots_are_busy_and_a_lost_caller_cancels() {
    let shim = start("echo in >&2; cat");
    let mut control = shim.control(0);
    let mut caller = loaded(&shim);
    for n in 0..4 {
        caller.open(&format!("r-{n}"), &post("/"), b"", false);
    }
    for _ in 0..4 {
        control.logs_until(|record| record.line == "in");
    }
    let stream = caller.open("r-5", &get("/"), b"", true);
    assert_eq!(caller.next(), Frame::Busy { stream });
    drop(caller);
    let mut caller = shim.invoke();
    let deadline = std::time::Instant::now() + crate::client::PATIENCE;
    loop {
        let stream = caller.open("r-6", &get("/"), b"", true);
        match caller.next() {
            Frame::Busy { .. } => assert!(std::time::Instant::now() < deadline, "no slot is freed"),
            Frame::Answer { answer, .. } => {
                assert!(answer.end && stream > 0);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}
