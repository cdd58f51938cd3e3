//! Calls that instances refuse for want of room.

use std::time::Duration;

use hearth_dispatch::{Forwarding, ToScaler};
use hearth_protocol::bodies::error_type;
use hearth_protocol::{CallError, Frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::{Instance, Rig, event, id, revision};
use crate::gateway::Timeouts;

const GET: &str = "GET /hello HTTP/1.1\r\nhost: h\r\n\r\n";
const POST: &str =
    "POST /hello HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";

/// Refuses whatever comes, for ever.
async fn refuses(instance: &Instance) {
    let mut wire = instance.accept().await;
    loop {
        let (stream, _) = wire.call().await;
        wire.send(Frame::Busy { stream }).await;
    }
}

#[tokio::test]
async fn a_call_that_finds_no_room_waits_for_some() {
    let mut rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 5).await;
    let mut client = rig.client().await;
    client.write(POST).await;
    let mut wire = instance.accept().await;
    for expected in 1..=5 {
        let (stream, _) = wire.call().await;
        assert_eq!(stream, expected);
        wire.send(Frame::Busy { stream }).await;
        // It is one that waits, for the scaler too.
        let wanted = ToScaler::CapacityWanted { revision: revision(), waiting: 1, in_flight: 0 };
        assert_eq!(rig.told().await, wanted);
    }
    let (stream, invoke) = wire.call().await;
    assert_eq!(event(&invoke)["body"], "hello");
    wire.answer(stream, "at last").await;
    assert_eq!(client.reply().await.text(), "at last");
    let record = rig.record().await;
    let pauses = Duration::from_millis(10 + 20 + 40 + 80 + 160);
    assert!(record.attempts == 6 && record.queue >= pauses, "{record:?}");
    // One call, one wait, and all of it.
    let metrics = rig.metrics.render();
    let figure = |name: &str| {
        let lines =
            metrics.lines().filter(|line| line.starts_with(&format!("hearth_gateway_wait_seconds_{name}")));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    let (count, sum) = (figure("count"), figure("sum"));
    assert!((count - 1.0).abs() < f64::EPSILON && sum >= pauses.as_secs_f64(), "{metrics}");
}

#[tokio::test]
async fn a_call_that_finds_no_room_waits_no_longer_than_in_the_queue() {
    let queue = Duration::from_millis(300);
    let mut rig = Rig::with(|_| {}, Timeouts { queue, ..Timeouts::default() });
    let instance = rig.grant("i1", Forwarding::Event, 5).await;
    let mut client = rig.client().await;
    client.write(POST).await;
    let reply = tokio::select! {
        () = refuses(&instance) => unreachable!("it has no end"),
        reply = client.reply() => reply,
    };
    assert_eq!((reply.status, reply.code().as_str()), (503, "queue_timeout"));
    assert!(reply.header("retry-after").is_some());
    let record = rig.record().await;
    assert!(record.queue >= queue && record.exec.is_zero(), "nothing ran: {record:?}");
}

#[tokio::test]
async fn a_wait_for_a_start_is_no_wait_for_room() {
    let queue = Duration::from_millis(300);
    let mut rig = Rig::with(|_| {}, Timeouts { queue, ..Timeouts::default() });
    let mut client = rig.client().await;
    client.write(GET).await;
    rig.told().await;
    // As long as it may wait for a slot, and longer.
    tokio::time::sleep(queue).await;
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.send(Frame::Busy { stream }).await;
    let (stream, _) = wire.call().await;
    wire.answer(stream, "at last").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "at last"));
    // It has met the start of the instance, and its log has all that it waited.
    assert_eq!(reply.header("x-hearth-start"), Some("cold"));
    let record = rig.record().await;
    assert_eq!(record.init, Duration::from_millis(7), "{record:?}");
    assert!(record.init + record.queue >= queue + Duration::from_millis(10), "{record:?}");
}

#[tokio::test]
async fn beside_one_that_refuses_every_call_is_answered_by_another() {
    let mut rig = Rig::new();
    let ends = rig.grant("i1", Forwarding::Event, 2).await;
    let idle = rig.grant("i2", Forwarding::Event, 2).await;
    let serves = async {
        let mut wire = idle.accept().await;
        loop {
            let (stream, _) = wire.call().await;
            wire.answer(stream, "idle").await;
        }
    };
    let calls = async {
        for _ in 0..30 {
            assert_eq!(rig.get("/hello").await.text(), "idle");
        }
    };
    tokio::select! {
        () = refuses(&ends) => unreachable!("it has no end"),
        () = serves => unreachable!("it has no end"),
        () = calls => {}
    }
    let record = rig.record().await;
    assert_eq!((record.attempts, record.instance), (2, Some(id("i2"))));
}

#[tokio::test]
async fn a_call_whose_instance_was_lost_keeps_its_place_when_the_next_one_refuses_it() {
    let mut rig = Rig::new();
    let waits = |waiting, in_flight| ToScaler::CapacityWanted { revision: revision(), waiting, in_flight };
    let lost = rig.grant("i1", Forwarding::Event, 1).await;
    let mut first = rig.client().await;
    first.write("GET /hello/first HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let mut wire = lost.accept().await;
    wire.call().await;
    let mut second = rig.client().await;
    second.write("GET /hello/second HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(rig.told().await, waits(1, 1));
    drop((wire, lost));
    while rig.told().await != waits(2, 0) {}
    let instance = rig.grant("i2", Forwarding::Event, 1).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.send(Frame::Busy { stream }).await;
    for expected in ["/hello/first", "/hello/second"] {
        let (stream, invoke) = wire.call().await;
        assert_eq!(event(&invoke)["rawPath"], expected);
        wire.answer(stream, expected).await;
    }
    assert_eq!(first.reply().await.text(), "/hello/first");
    assert_eq!(second.reply().await.text(), "/hello/second");
}

#[tokio::test]
async fn what_a_lost_instance_ran_is_no_execution_of_a_call_that_then_finds_none() {
    let start = Duration::from_millis(300);
    let mut rig = Rig::with(|_| {}, Timeouts { start, ..Timeouts::default() });
    let lost = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = lost.accept().await;
    wire.call().await;
    drop((wire, lost));
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "start_timeout"));
    let record = rig.record().await;
    assert!(record.queue >= start && record.exec.is_zero(), "nothing ran in the end: {record:?}");
}

#[tokio::test]
async fn one_that_says_that_it_is_to_end_runs_its_calls_and_refuses_others() {
    let rig = Rig::new();
    let ends = rig.grant("i1", Forwarding::Event, 2).await;
    let mut running = rig.client().await;
    running.write(POST).await;
    let mut wire = ends.accept().await;
    let (runs, _) = wire.call().await;
    wire.send(Frame::Drain).await;
    let other = rig.grant("i2", Forwarding::Event, 2).await;
    let mut client = rig.client().await;
    client.write(POST).await;
    let (stream, _) = wire.call().await;
    wire.send(Frame::Busy { stream }).await;
    let mut second = other.accept().await;
    let (stream, _) = second.call().await;
    second.answer(stream, "other").await;
    assert_eq!(client.reply().await.text(), "other");
    wire.answer(runs, "done").await;
    assert_eq!(running.reply().await.text(), "done");
}

#[tokio::test]
async fn an_instance_that_refused_is_tried_again_though_the_connection_was_closed() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.send(Frame::Busy { stream }).await;
    drop(wire);
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.answer(stream, "again").await;
    assert_eq!(client.reply().await.text(), "again");
}

/// Refuses a dedicated connection.
async fn refuse_attach(instance: &Instance, kind: &str) {
    let mut wire = instance.raw().await;
    let Frame::Attach(_) = wire.receive().await else { panic!("no attach") };
    let error = CallError::new(kind, "it takes no new calls");
    wire.send(Frame::Error { stream: 0, error }).await;
}

/// Takes a dedicated connection and answers the call that comes by it.
async fn answer_attached(instance: &Instance, answer: &str) {
    let mut wire = instance.raw().await;
    let Frame::Attach(_) = wire.receive().await else { panic!("no attach") };
    wire.send(Frame::Accept { stream: 0 }).await;
    let mut request = Vec::new();
    while !request.ends_with(b"hello") {
        request.push(wire.stream.read_u8().await.unwrap());
    }
    let length = answer.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}");
    wire.stream.write_all(answer.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn an_instance_that_is_to_end_and_takes_no_connection_is_not_lost_and_the_call_goes_elsewhere() {
    let mut rig = Rig::new();
    let ends = rig.grant("i1", Forwarding::Attach, 2).await;
    let mut running = rig.client().await;
    running.write(POST).await;
    let mut wire = ends.raw().await;
    wire.receive().await;
    wire.send(Frame::Accept { stream: 0 }).await;
    let other = rig.grant("i2", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(POST).await;
    refuse_attach(&ends, error_type::ENDING).await;
    answer_attached(&other, "other").await;
    assert_eq!(client.reply().await.text(), "other");
    let record = rig.record().await;
    assert_eq!((record.attempts, record.instance), (2, Some(id("i2"))));
    // Nobody has been told to kill it: the call that it runs ends.
    assert!(rig.handle.revisions.takes_calls(&id("i1")));
    wire.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone").await.unwrap();
    assert_eq!(running.reply().await.text(), "done");
}

#[tokio::test]
async fn a_call_whose_connection_is_refused_for_want_of_room_waits_for_some() {
    let mut rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(POST).await;
    for kind in [error_type::ENDING; 3] {
        refuse_attach(&instance, kind).await;
        let wanted = ToScaler::CapacityWanted { revision: revision(), waiting: 1, in_flight: 0 };
        assert_eq!(rig.told().await, wanted);
    }
    answer_attached(&instance, "at last").await;
    assert_eq!(client.reply().await.text(), "at last");
    let record = rig.record().await;
    assert!(record.attempts == 4 && record.queue >= Duration::from_millis(10 + 20 + 40), "{record:?}");
}
