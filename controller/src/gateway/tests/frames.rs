//! Calls over the shared connection, and what becomes of them when something goes wrong.

use std::time::Duration;

use hearth_dispatch::{Forwarding, StartFailure, ToGateway, ToScaler};
use hearth_protocol::{CallError, Frame, INITIAL_CREDIT};

use super::rig::{Rig, event, id, request_id, revision, served};
use crate::gateway::Timeouts;

const GET: &str = "GET /hello/x?a=1 HTTP/1.1\r\nhost: h:80\r\nx-hearth-request-id: r-1\r\n\r\n";
const POST: &str =
    "POST /hello HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn a_request_waits_for_the_first_instance_and_says_so() {
    let mut rig = Rig::new();
    let mut client = rig.client().await;
    client.write(GET).await;
    let wanted = ToScaler::CapacityWanted { revision: revision(), waiting: 1, in_flight: 0 };
    assert_eq!(rig.told().await, wanted);
    let mut wire = rig.grant("i1", Forwarding::Event, 1).await.accept().await;
    let (stream, invoke) = wire.call().await;
    assert_eq!((stream, invoke.end, invoke.accept, invoke.deadline_ms), (1, true, false, 30_000));
    assert_eq!(invoke.request_id, request_id("r-1"));
    let event = event(&invoke);
    assert_eq!(event["rawPath"], "/hello/x");
    assert_eq!(event["headers"]["x-forwarded-for"], "127.0.0.1");
    assert_eq!(event["headers"]["x-forwarded-prefix"], "/hello");
    assert_eq!(event["requestContext"]["domainName"], "h");
    wire.answer_with(
        stream,
        201,
        &[("x-own", "1"), ("connection", "close"), ("set-cookie", "a=b")],
        "done",
        true,
    )
    .await;

    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text().as_str()), (201, "done"));
    assert_eq!(reply.header("x-hearth-request-id"), Some("r-1"));
    assert_eq!(reply.header("x-hearth-start"), Some("cold"));
    assert_eq!((reply.header("x-own"), reply.header("connection")), (Some("1"), None));
    let timing = reply.header("server-timing").unwrap().to_owned();
    assert!(timing.starts_with("queue;dur=") && timing.contains("init;dur="), "{timing}");

    // The same connection again, both ways; nobody waits.
    client.write(GET).await;
    let (stream, _) = wire.call().await;
    wire.answer(stream, "again").await;
    let reply = client.reply().await;
    assert_eq!((stream, reply.header("x-hearth-start")), (2, Some("warm")));

    let record = rig.record().await;
    assert_eq!((record.request.as_str(), record.status, record.sent), ("r-1", 201, 4));
    assert_eq!(
        (record.instance, record.path.as_str(), record.client_gone),
        (Some(id("i1")), "/hello/x", false)
    );
}

#[tokio::test]
async fn a_slot_is_free_when_the_instance_says_that_the_call_ended() {
    let mut rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    wire.call().await;
    drop(client);
    assert_eq!(wire.receive().await, Frame::Cancel { stream: 1 });
    // The slot is not free yet: the next has to wait.
    let mut next = rig.client().await;
    next.write(GET).await;
    let wanted = ToScaler::CapacityWanted { revision: revision(), waiting: 1, in_flight: 1 };
    assert_eq!(rig.told().await, wanted);
    wire.send(Frame::End { stream: 1 }).await;
    let (stream, _) = wire.call().await;
    wire.answer(stream, "next").await;
    assert_eq!(next.reply().await.text(), "next");
    assert!(rig.record().await.client_gone);
}

#[tokio::test]
async fn a_call_that_outlives_its_time_is_cancelled_and_a_silent_instance_reported() {
    let timeouts = Timeouts { execute: Duration::from_millis(50), ..Timeouts::default() };
    let mut rig = Rig::with(|config| config.forwarding.ping = Duration::from_millis(50), timeouts);
    let instance = rig.grant("i1", Forwarding::Event, 2).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    wire.call().await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "execute_timeout"));
    assert_eq!(wire.receive().await, Frame::Cancel { stream: 1 });
    assert!(matches!(wire.receive().await, Frame::Ping(_)));
    assert_eq!(rig.told().await, ToScaler::Unresponsive { instance: id("i1") });
    assert!(rig.metrics.render().contains("hearth_gateway_errors_total{code=\"execute_timeout\"} 1"));
}

#[tokio::test]
async fn an_instance_that_has_not_answered_yet_gets_no_further_calls() {
    let timeouts = Timeouts { execute: Duration::from_millis(50), ..Timeouts::default() };
    let mut rig = Rig::with(|_| {}, timeouts);
    let instance = rig.grant("i1", Forwarding::Event, 2).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    wire.call().await;
    assert_eq!(client.reply().await.status, 504);
    assert_eq!(wire.receive().await, Frame::Cancel { stream: 1 });
    let Frame::Ping(bytes) = wire.receive().await else { panic!() };
    let mut next = rig.client().await;
    next.write(GET).await;
    let wanted = ToScaler::CapacityWanted { revision: revision(), waiting: 1, in_flight: 1 };
    assert_eq!(rig.told().await, wanted);
    wire.send(Frame::Pong(bytes)).await;
    assert_eq!(wire.call().await.0, 2);
}

#[tokio::test]
async fn an_instance_with_nothing_but_stuck_calls_is_reported() {
    let timeouts = Timeouts { execute: Duration::from_millis(20), ..Timeouts::default() };
    let mut rig = Rig::with(|config| config.forwarding.stuck = Duration::from_millis(500), timeouts);
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    wire.call().await;
    assert_eq!(client.reply().await.status, 504);
    assert_eq!(wire.receive().await, Frame::Cancel { stream: 1 });
    let Frame::Ping(bytes) = wire.receive().await else { panic!() };
    // Its loop runs, but the call does not end.
    wire.send(Frame::Pong(bytes)).await;
    assert_eq!(rig.told().await, ToScaler::Unresponsive { instance: id("i1") });
}

#[tokio::test]
async fn a_call_that_can_be_repeated_goes_to_another_instance_when_its_own_is_lost() {
    let mut rig = Rig::new();
    let first = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = first.accept().await;
    wire.call().await;
    let second = rig.grant("i2", Forwarding::Event, 1).await;
    drop((wire, first));
    let lost = ToScaler::Lost { instance: id("i1"), reason: "it closed the connection".to_owned() };
    assert_eq!(rig.told().await, lost);
    let mut wire = second.accept().await;
    let (stream, _) = wire.call().await;
    wire.answer(stream, "second").await;
    assert_eq!(client.reply().await.text(), "second");
    assert_eq!(rig.record().await.attempts, 2);
}

#[tokio::test]
async fn a_post_is_repeated_until_it_was_accepted_and_never_after() {
    let mut rig = Rig::new();
    let first = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(POST).await;
    let mut wire = first.accept().await;
    let (_, invoke) = wire.call().await;
    assert!(invoke.accept);
    assert_eq!(event(&invoke)["body"], "hello");
    let second = rig.grant("i2", Forwarding::Event, 1).await;
    drop((wire, first));
    rig.told().await;
    let mut wire = second.accept().await;
    let (stream, _) = wire.call().await;
    wire.send(Frame::Accept { stream }).await;
    // Only `accept` can have been seen before the end of the connection.
    let gone = ToGateway::Gone { instance: id("i2"), reason: "exit code 7".to_owned() };
    drop(wire);
    rig.scaler.send(gone).await.unwrap();
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "instance_lost"));
    assert!(reply.text().contains("exit code 7"), "{}", reply.text());
}

#[tokio::test]
async fn an_error_of_the_function_is_not_repeated_and_keeps_its_secrets() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.send(Frame::Error { stream, error: CallError::new("TypeError", "secret") }).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "function_error"));
    assert!(reply.text().contains("TypeError") && !reply.text().contains("secret"), "{}", reply.text());
}

#[tokio::test]
async fn a_process_that_failed_says_how() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Frames, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    let lines = vec!["no such table".to_owned()];
    let error = CallError { lines, ..CallError::new("ProcessEnded", "query.sh: exit code 3") };
    wire.send(Frame::Error { stream, error }).await;
    let reply = client.reply().await;
    let body: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
    assert_eq!(
        (reply.status, &body["code"], &body["reason"]),
        (502, &"function_error".into(), &"process_ended".into())
    );
    let how = "the process failed: query.sh: exit code 3; the function's log has what it printed";
    assert_eq!(body["message"], how);
    assert!(body["lastLines"].is_null(), "{body}");
}

#[tokio::test]
async fn what_breaks_the_protocol_is_not_used_again() {
    let mut rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(POST).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.answer_with(stream, 200, &[], "half", false).await;
    wire.answer_with(stream, 200, &[], "twice", true).await;
    let ToScaler::Lost { reason, .. } = rig.told().await else { panic!() };
    assert!(reason.starts_with("it broke the protocol"), "{reason}");
    // The answer had begun: its client must see that it is not whole.
    let text = client.rest().await;
    assert!(!text.ends_with("0\r\n\r\n"), "{text}");
}

#[tokio::test]
async fn long_bodies_go_both_ways_under_credit() {
    const LENGTH: usize = 5 * INITIAL_CREDIT as usize + 17;
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Frames, 1).await;
    let mut client = rig.client().await;
    client.write(format!("PUT /hello HTTP/1.1\r\nhost: h\r\ncontent-length: {LENGTH}\r\n\r\n")).await;
    let mut wire = instance.accept().await;
    let (stream, invoke) = wire.call().await;
    assert!(invoke.accept && !invoke.end, "a body that does not fit waits for accept");
    let mut seen = invoke.body.len();
    let body: Vec<u8> = (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let sending = async { client.write(&body).await };
    let receiving = async {
        wire.send(Frame::Accept { stream }).await;
        let (mut got, mut credit) = (invoke.body.to_vec(), INITIAL_CREDIT as usize - seen);
        loop {
            let Frame::Data { bytes, end, .. } = wire.receive().await else { panic!() };
            seen += bytes.len();
            credit = credit.checked_sub(bytes.len()).expect("more than there was credit for");
            got.extend_from_slice(&bytes);
            if end {
                return got;
            }
            if credit == 0 {
                wire.send(Frame::Credit { stream, bytes: INITIAL_CREDIT }).await;
                credit = INITIAL_CREDIT as usize;
            }
        }
    };
    let ((), got) = tokio::join!(sending, receiving);
    assert!(got == body, "{} bytes of {LENGTH}", got.len());

    // And back; the instance sends no more than it may.
    let length = LENGTH.to_string();
    wire.answer_with(stream, 200, &[("content-length", &length)], "", false).await;
    let answering = async {
        let mut credit = INITIAL_CREDIT as usize;
        for part in body.chunks(INITIAL_CREDIT as usize / 2) {
            while credit < part.len() {
                let Frame::Credit { bytes, .. } = wire.receive().await else { panic!() };
                credit += bytes as usize;
            }
            credit -= part.len();
            wire.send(Frame::Data { stream, bytes: part.to_vec().into(), end: false }).await;
        }
        wire.send(Frame::Data { stream, bytes: bytes::Bytes::new(), end: true }).await;
    };
    let (reply, ()) = tokio::join!(client.reply(), answering);
    assert!(reply.body == body, "{} bytes of {LENGTH}", reply.body.len());
}

#[tokio::test]
async fn an_answer_that_stands_still_is_cut() {
    let timeouts = Timeouts { idle_stream: Duration::from_millis(50), ..Timeouts::default() };
    let rig = Rig::with(|_| {}, timeouts);
    let instance = rig.grant("i1", Forwarding::Frames, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.answer_with(stream, 200, &[], "begun", false).await;
    let text = client.rest().await;
    assert!(text.contains("begun") && !text.ends_with("0\r\n\r\n"), "{text}");
    assert_eq!(wire.receive().await, Frame::Cancel { stream });
}

#[tokio::test]
async fn a_revoked_instance_is_drained_when_its_last_call_has_ended() {
    let mut rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 2).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    rig.revoke("i1").await;
    // Nothing goes there any more.
    let mut next = rig.client().await;
    next.write(GET).await;
    assert!(matches!(rig.told().await, ToScaler::CapacityWanted { waiting: 1, .. }));
    wire.answer(stream, "last").await;
    assert_eq!(client.reply().await.text(), "last");
    assert_eq!(rig.told().await, ToScaler::Drained { instance: id("i1") });
    assert_eq!(wire.try_receive().await, None, "the connection is closed");
}

#[tokio::test]
async fn a_single_use_instance_is_spent_by_one_call() {
    let mut rig = Rig::new();
    let instance = rig.grant_as("i1", Forwarding::Event, 1, true).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.answer(stream, "once").await;
    assert_eq!(client.reply().await.text(), "once");
    assert_eq!(rig.told().await, ToScaler::Spent { instance: id("i1") });
}

#[tokio::test]
async fn who_waits_when_a_start_fails_hears_why() {
    let mut rig = Rig::new();
    let mut client = rig.client().await;
    client.write(GET).await;
    rig.told().await;
    let failure = StartFailure {
        code: hearth_dispatch::StartCode::HandlerMissing,
        message: "no such export".to_owned(),
        last_lines: vec!["boom".to_owned()],
    };
    let failed =
        ToGateway::StartFailed { revision: revision(), failure, retry_after: Duration::from_secs(30) };
    rig.scaler.send(failed).await.unwrap();
    for reply in [client.reply().await, rig.get("/hello").await] {
        assert_eq!((reply.status, reply.code().as_str()), (502, "start_failed"));
        assert_eq!(reply.header("retry-after"), Some("30"));
        assert!(reply.text().contains("handler_missing") && reply.text().contains("boom"));
    }
}

#[tokio::test]
async fn who_waits_for_a_revision_that_is_replaced_goes_to_the_new_one() {
    let mut rig = Rig::new();
    let mut client = rig.client().await;
    client.write(GET).await;
    rig.told().await;
    let new = crate::gateway::Served {
        revision: hearth_function::RevisionId::parse("default/hello-00002").unwrap(),
        ..served(Timeouts::default())
    };
    rig.handle.serve(vec![new.clone()]);
    let path = tempfile::tempdir().unwrap();
    let socket = path.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let endpoint = hearth_dispatch::Endpoint {
        instance: id("i9"),
        address: hearth_dispatch::EndpointAddress::Unix(socket),
        secret: "5".repeat(64),
        forwarding: Forwarding::Event,
        start: hearth_dispatch::StartKind::Cold,
        start_time: Duration::ZERO,
        single_use: false,
        reserved: false,
        own_server: false,
    };
    rig.scaler.send(ToGateway::Grant { revision: new.revision, endpoint, slots: 1 }).await.unwrap();
    let mut wire = super::rig::Instance { listener }.accept().await;
    let (stream, _) = wire.call().await;
    wire.answer(stream, "new").await;
    assert_eq!(client.reply().await.text(), "new");
}
