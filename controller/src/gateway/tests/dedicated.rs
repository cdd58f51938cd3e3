//! Calls over dedicated connections: plain HTTP after `attach`, upgrades.

use std::time::Duration;

use hearth_dispatch::{Forwarding, ToScaler};
use hearth_protocol::{Frame, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::rig::{Instance, Rig, id, patiently, served};
use crate::gateway::Timeouts;

const GET: &str = "GET /hello?x HTTP/1.1\r\nhost: h\r\nkeep-alive: 5\r\n\r\n";

/// An attached connection.
struct Attached(tokio::net::UnixStream);

impl Attached {
    async fn accept(instance: &Instance) -> Self {
        let mut wire = instance.raw().await;
        let Frame::Attach(hello) = wire.receive().await else { panic!() };
        assert_eq!((hello.role, hello.secret), (Role::Attach, "5".repeat(64)));
        wire.send(Frame::Accept { stream: 0 }).await;
        Self(wire.stream)
    }

    async fn read_until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            text.push(patiently(self.0.read_u8()).await.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_call() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut attached = Attached::accept(&instance).await;
    let head = attached.read_until("\r\n\r\n").await;
    assert!(head.starts_with("GET /hello?x HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("host: h\r\n") && head.contains("x-forwarded-for: 127.0.0.1\r\n"), "{head}");
    assert!(!head.contains("keep-alive"), "{head}");
    attached.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-own: 1\r\n\r\nok").await;
    let reply = client.reply().await;
    assert_eq!((reply.text().as_str(), reply.header("x-own")), ("ok", Some("1")));
    assert_eq!(reply.header("x-hearth-start"), Some("warm"));
    client.write(GET).await;
    attached.read_until("\r\n\r\n").await;
    attached.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n").await;
    assert_eq!(client.reply().await.text(), "ab");
}

#[tokio::test]
async fn bodies_stream_both_ways_at_once() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write("POST /hello HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("3\r\none\r\n").await;
    attached.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nONE\r\n").await;
    client.read_until("3\r\nONE\r\n").await;
    client.write("3\r\ntwo\r\n0\r\n\r\n").await;
    attached.read_until("3\r\ntwo\r\n0\r\n\r\n").await;
    attached.write("3\r\nTWO\r\n0\r\n\r\n").await;
    assert_eq!(client.read_until("0\r\n\r\n").await, "3\r\nTWO\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_body_of_unknown_length_passes_whatever_the_method() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    let mut kept: Option<Attached> = None;
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PUT"] {
        let head = format!("{method} /hello HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n");
        client.write(head + "3\r\none\r\n").await;
        let attached = match &mut kept {
            Some(attached) => attached,
            None => kept.insert(Attached::accept(&instance).await),
        };
        let head = attached.read_until("\r\n\r\n").await;
        assert!(head.starts_with(method) && head.contains("transfer-encoding: chunked\r\n"), "{head}");
        attached.read_until("3\r\none\r\n").await;
        client.write("3\r\ntwo\r\n0\r\n\r\n").await;
        attached.read_until("3\r\ntwo\r\n0\r\n\r\n").await;
        attached.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.reply_to(method).await.status, 204);
    }
}

#[tokio::test]
async fn a_client_that_goes_takes_the_connection_with_it() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    drop(client);
    assert_eq!(patiently(attached.0.read(&mut [0; 8])).await.unwrap(), 0);
}

#[tokio::test]
async fn a_call_that_was_given_up_keeps_its_slot_until_the_instance_closes_its_connection() {
    let mut rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    drop(client);
    assert_eq!(patiently(attached.0.read(&mut [0; 8])).await.unwrap(), 0, "the instance is told");
    let mut next = rig.client().await;
    next.write(GET).await;
    assert!(matches!(rig.told().await, ToScaler::CapacityWanted { waiting: 1, in_flight: 1, .. }));
    // Nobody is there for what it says.
    attached.write("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
    drop(attached);
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    attached.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(next.reply().await.text(), "ok");
}

#[tokio::test]
async fn an_instance_whose_given_up_calls_never_end_is_reported() {
    let short = Duration::from_millis(50);
    let mut rig = Rig::with(|config| config.forwarding.stuck = short, Timeouts::default());
    let instance = rig.grant("i1", Forwarding::Attach, 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = rig.client().await;
        client.write(GET).await;
        let mut attached = Attached::accept(&instance).await;
        attached.read_until("\r\n\r\n").await;
        held.push(attached);
    }
    assert_eq!(rig.told().await, ToScaler::Unresponsive { instance: id("i1") });
}

#[tokio::test]
async fn a_call_whose_time_is_over_keeps_its_slot_too() {
    let timeouts = Timeouts { execute: Duration::from_millis(500), ..Timeouts::default() };
    let mut rig = Rig::with(|_| {}, timeouts);
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "execute_timeout"));
    // The next has all the time it needs.
    rig.handle.serve(vec![served(Timeouts::default())]);
    client.write(GET).await;
    assert!(matches!(rig.told().await, ToScaler::CapacityWanted { waiting: 1, in_flight: 1, .. }));
    // The shared connection asks whether the runtime still answers; until it does, no other call goes there.
    let mut shared = instance.accept().await;
    let Frame::Ping(bytes) = shared.receive().await else { panic!("no ping") };
    shared.send(Frame::Pong(bytes)).await;
    drop(attached);
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    attached.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert_eq!(client.reply().await.text(), "ok");
    drop(shared);
}

#[tokio::test]
async fn a_call_that_cannot_be_repeated_goes_on_no_connection_that_a_server_may_close_just_now() {
    const POST: &str = "POST /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx";
    const PUT: &str = "PUT /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx";
    // With how many connections, after the first call: those of a POST and a PUT, and a GET takes any.
    for (recent, own_server, [second, third]) in
        [(Duration::ZERO, true, [2, 3]), (Duration::ZERO, false, [1, 1]), (Duration::MAX, true, [1, 1])]
    {
        let rig = Rig::with(|config| config.forwarding.recent = recent, Timeouts::default());
        let instance = if own_server {
            rig.grant_server("i1", 1).await
        } else {
            rig.grant("i1", Forwarding::Attach, 1).await
        };
        let mut client = rig.client().await;
        let mut kept: Vec<Attached> = Vec::new();
        for (request, expected) in [(POST, 1), (POST, second), (PUT, third), (GET, third)] {
            client.write(request).await;
            if kept.len() < expected {
                kept.push(Attached::accept(&instance).await);
            }
            let attached = kept.last_mut().unwrap();
            attached.read_until(if request != GET { "\r\n\r\nx" } else { "\r\n\r\n" }).await;
            attached.write("HTTP/1.1 204 No Content\r\n\r\n").await;
            assert_eq!(client.reply().await.status, 204);
        }
    }
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    for _ in 0..2 {
        client.write("POST /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx").await;
        let mut attached = Attached::accept(&instance).await;
        attached.read_until("\r\n\r\nx").await;
        attached.write("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(client.reply().await.status, 204);
    }
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_is_reported_and_the_call_goes_elsewhere() {
    let mut rig = Rig::new();
    drop(rig.grant("i1", Forwarding::Attach, 1).await);
    let second = rig.grant("i2", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write("POST /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\nx").await;
    assert!(matches!(rig.told().await, ToScaler::Lost { instance, .. } if instance == id("i1")));
    let mut attached = Attached::accept(&second).await;
    attached.read_until("\r\n\r\nx").await;
    attached.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 200);
}

const UPGRADE: &str = "GET /hello HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways_and_holds_its_slot() {
    let mut rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(UPGRADE).await;
    let mut attached = Attached::accept(&instance).await;
    let head = attached.read_until("\r\n\r\n").await;
    assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
    attached.write(SWITCHED).await;
    let head = client.read_until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket"), "{head}");
    client.write("ping").await;
    attached.read_until("ping").await;
    attached.write("pong").await;
    client.read_until("pong").await;
    // The slot is taken.
    let mut next = rig.client().await;
    next.write(GET).await;
    assert!(matches!(rig.told().await, ToScaler::CapacityWanted { waiting: 1, in_flight: 1, .. }));
    drop(client);
    assert_eq!(patiently(attached.0.read(&mut [0; 8])).await.unwrap(), 0, "the end is passed on");
    drop(attached);
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    attached.write("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(next.reply().await.status, 200);
    let record = rig.record().await;
    assert_eq!((record.status, record.received, record.sent), (101, 4, 4));
}

#[tokio::test]
async fn an_upgraded_connection_on_a_revoked_instance_is_cut_at_the_deadline() {
    let short = Duration::from_millis(50);
    let mut rig = Rig::with(|config| config.forwarding.upgrade_drain = short, Timeouts::default());
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(&UPGRADE.replace("websocket", "echo")).await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    attached.write(&SWITCHED.replace("websocket", "echo")).await;
    client.read_until("\r\n\r\n").await;
    rig.revoke("i1").await;
    assert_eq!(rig.told().await, ToScaler::Drained { instance: id("i1") });
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn a_websocket_on_a_revoked_instance_is_told_that_it_goes_away() {
    let mut rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(UPGRADE).await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    attached.write(SWITCHED).await;
    client.read_until("\r\n\r\n").await;
    rig.revoke("i1").await;
    let mut told = [0; 8];
    patiently(attached.0.read_exact(&mut told)).await.unwrap();
    assert_eq!(told, [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]);
    // Both have gone: so has the call.
    drop((attached, client));
    assert_eq!(rig.told().await, ToScaler::Drained { instance: id("i1") });
}

#[tokio::test]
async fn an_upgraded_connection_that_stands_still_is_cut() {
    let timeouts = Timeouts { idle_stream: Duration::from_millis(50), ..Timeouts::default() };
    let rig = Rig::with(|_| {}, timeouts);
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(UPGRADE).await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    attached.write(SWITCHED).await;
    client.read_until("\r\n\r\n").await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn an_upgraded_connection_counts_as_one_and_has_its_time_when_the_gateway_stops() {
    let short = Duration::from_secs(1);
    let change = |config: &mut crate::gateway::Config| {
        config.forwarding.upgrade_drain = short;
        config.limits.connections = 1;
    };
    let rig = Rig::with(change, Timeouts::default());
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(UPGRADE).await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    attached.write(SWITCHED).await;
    client.read_until("\r\n\r\n").await;
    let open = rig.metrics.render();
    assert!(open.contains("hearth_gateway_connections 1\n"), "{open}");
    let Rig { handle, scaler, .. } = rig;
    let carried = async {
        // It is not cut at once: what is under way still passes.
        client.write("ping").await;
        attached.read_until("ping").await;
        client.rest().await
    };
    let (cut, rest) = tokio::join!(patiently(handle.shutdown(Duration::from_secs(20))), carried);
    assert_eq!((cut, rest.as_str()), (0, ""), "it had its time and was not among those cut");
    drop(scaler);
}

#[tokio::test]
async fn a_handler_that_throws_before_it_answers_is_told_as_any_other() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Attach, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut attached = Attached::accept(&instance).await;
    attached.read_until("\r\n\r\n").await;
    let bare = "HTTP/1.1 500 Internal Server Error\r\nx-hearth-error: TypeError\r\ncontent-length: 0\r\n\r\n";
    attached.write(bare).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "function_error"));
    let body: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
    assert_eq!(body["message"], "the function failed with TypeError; its log has the details");
    assert_eq!(reply.header("x-hearth-request-id"), body["requestId"].as_str());
    // Its slot is free again. What an application answers by itself stays as it is.
    client.write(GET).await;
    attached.read_until("\r\n\r\n").await;
    attached
        .write("HTTP/1.1 500 Internal Server Error\r\nx-hearth-error: mine\r\ncontent-length: 2\r\n\r\nno")
        .await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.text().as_str()), (500, "no"));
}
