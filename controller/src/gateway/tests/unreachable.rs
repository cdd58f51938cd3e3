//! Calls whose instances have ended before anybody knows it: nobody can connect to them.

use std::time::Duration;

use hearth_dispatch::{Forwarding, ToScaler};
use hearth_protocol::Frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::{Instance, Rig, id, revision};
use crate::gateway::Timeouts;

const POST: &str =
    "POST /hello HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello";

/// More than a call has attempts.
const MANY: usize = 6;

async fn answers(instance: &Instance, forwarding: Forwarding) {
    if forwarding != Forwarding::Attach {
        let mut wire = instance.accept().await;
        let (stream, _) = wire.call().await;
        return wire.answer(stream, "at last").await;
    }
    let mut wire = instance.raw().await;
    wire.receive().await;
    wire.send(Frame::Accept { stream: 0 }).await;
    let mut request = Vec::new();
    while !request.ends_with(b"hello") {
        request.push(wire.stream.read_u8().await.unwrap());
    }
    wire.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nat last").await.unwrap();
}

/// All that are there are gone; the scaler hears of each.
async fn meets_all(rig: &mut Rig, forwarding: Forwarding) -> super::rig::Client {
    let mut gone = Vec::new();
    for number in 0..MANY {
        gone.push(rig.grant(&format!("gone{number}"), forwarding, 1).await);
    }
    drop(gone);
    let mut client = rig.client().await;
    client.write(POST).await;
    for number in 0..MANY {
        let told = rig.told().await;
        assert!(
            matches!(&told, ToScaler::Lost { instance, .. } if *instance == id(&format!("gone{number}"))),
            "{told:?}"
        );
    }
    client
}

#[tokio::test]
async fn a_call_meets_any_number_of_instances_that_are_gone_and_is_answered_by_the_next() {
    for forwarding in [Forwarding::Event, Forwarding::Frames, Forwarding::Attach] {
        let mut rig = Rig::new();
        let mut client = meets_all(&mut rig, forwarding).await;
        let wanted = ToScaler::CapacityWanted { revision: revision(), waiting: 1, in_flight: 0 };
        assert_eq!(rig.told().await, wanted);
        let instance = rig.grant("new", forwarding, 1).await;
        answers(&instance, forwarding).await;
        assert_eq!(client.reply().await.text(), "at last", "{forwarding:?}");
        let record = rig.record().await;
        assert_eq!((record.attempts, record.instance), (7, Some(id("new"))));
    }
}

#[tokio::test]
async fn a_call_that_meets_only_such_waits_no_longer_than_for_a_start() {
    let start = Duration::from_millis(300);
    let mut rig = Rig::with(|_| {}, Timeouts { start, ..Timeouts::default() });
    let mut client = meets_all(&mut rig, Forwarding::Event).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "start_timeout"));
    let record = rig.record().await;
    assert!(record.queue >= start && record.exec.is_zero(), "nothing ran: {record:?}");
}

#[tokio::test]
async fn those_that_are_started_for_the_call_and_cannot_be_reached_are_attempts() {
    for forwarding in [Forwarding::Event, Forwarding::Attach] {
        let mut rig = Rig::new();
        let mut client = rig.client().await;
        client.write(POST).await;
        for name in ["i1", "i2", "i3"] {
            let wanted = ToScaler::CapacityWanted { revision: revision(), waiting: 1, in_flight: 0 };
            assert_eq!(rig.told().await, wanted);
            rig.grant_gone(name, forwarding).await;
            assert!(matches!(rig.told().await, ToScaler::Lost { instance, .. } if instance == id(name)));
        }
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.code().as_str()), (502, "instance_lost"), "{forwarding:?}");
        assert!(reply.text().contains("cannot connect to it"), "{}", reply.text());
    }
}
