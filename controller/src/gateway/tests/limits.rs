//! Limits on clients and queues.

use std::time::Duration;

use hearth_dispatch::{Forwarding, ToScaler};

use super::rig::{Rig, event, patiently, record, served};
use crate::gateway::{Timeouts, Unready};

const GET: &str = "GET /hello HTTP/1.1\r\nhost: h\r\n\r\n";

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_again() {
    let mut rig = Rig::with(|config| config.limits.queue_length = 1, Timeouts::default());
    let mut waits = rig.client().await;
    waits.write(GET).await;
    assert!(matches!(rig.told().await, ToScaler::CapacityWanted { waiting: 1, .. }));
    let reply = rig.get("/hello").await;
    assert_eq!((reply.status, reply.code().as_str()), (429, "queue_full"));
    assert_eq!(reply.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn waiting_has_an_end_for_each_reason() {
    let short = Duration::from_millis(50);
    let rig = Rig::with(|_| {}, Timeouts { queue: short, start: short, ..Timeouts::default() });
    let reply = rig.get("/hello").await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "start_timeout"));
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut busy = rig.client().await;
    busy.write(GET).await;
    let mut wire = instance.accept().await;
    wire.call().await;
    let reply = rig.get("/hello").await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "queue_timeout"));
}

#[tokio::test]
async fn bodies_have_a_length_and_a_pace() {
    let rig = Rig::with(
        |config| {
            config.limits.body_bytes = 10;
            config.limits.body_silence = Duration::from_millis(50);
        },
        Timeouts::default(),
    );
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let reply = rig.send("POST /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 11\r\n\r\n").await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "body_too_large"));
    let chunked = "POST /hello HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n";
    let reply = rig.send(&format!("{chunked}b\r\nhello world\r\n0\r\n\r\n")).await;
    assert_eq!(reply.status, 413);
    let mut slow = rig.client().await;
    slow.write(format!("{chunked}2\r\nhe")).await;
    let reply = slow.reply().await;
    assert_eq!((reply.status, reply.code().as_str()), (408, "client_too_slow"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(slow.rest().await, "", "and it is closed");
    drop(instance);
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_closed() {
    let rig = Rig::with(|config| config.limits.head_time = Duration::from_millis(50), Timeouts::default());
    for begun in ["", "GET /hello HT", "PRI * HT", "GET /hello HTTP/1.1\r\nhost: h\r\nx"] {
        let mut client = rig.client().await;
        client.write(begun).await;
        let rest = patiently(client.rest()).await;
        assert!(rest.is_empty() || rest.contains(" 408 "), "{begun:?}: {rest}");
    }
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_for_others_to_end() {
    let rig = Rig::with(|config| config.limits.connections = 1, Timeouts::default());
    let mut first = rig.client().await;
    first.write("GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(first.reply().await.status, 404);
    let mut second = rig.client().await;
    second.write("GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n").await;
    drop(first);
    assert_eq!(second.reply().await.status, 404);
}

#[tokio::test]
async fn a_gateway_that_stops_lets_running_requests_end() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    let Rig { handle, scaler, .. } = rig;
    let address = handle.addresses()[0];
    let serve = async {
        // No new connections are taken from here on.
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        wire.answer(stream, "the last").await;
        client.reply().await
    };
    let (cut, reply) = tokio::join!(patiently(handle.shutdown(Duration::from_secs(20))), serve);
    assert_eq!((cut, reply.text().as_str()), (0, "the last"));
    drop(scaler);
}

#[tokio::test]
async fn what_a_stopping_gateway_cuts_is_recorded_all_the_same() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write(GET).await;
    let mut wire = instance.accept().await;
    wire.call().await;
    let Rig { handle, mut records, .. } = rig;
    assert_eq!(patiently(handle.shutdown(Duration::ZERO)).await, 1);
    let record = record(&mut records).await;
    assert_eq!((record.code.as_deref(), record.client_gone), (Some("stopping"), false));
}

#[tokio::test]
async fn each_phase_of_a_request_is_measured() {
    let mut rig = Rig::new();
    let mut client = rig.client().await;
    client.write(GET).await;
    assert!(matches!(rig.told().await, ToScaler::CapacityWanted { .. }));
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut wire = instance.accept().await;
    for expected in [1, 2] {
        let (stream, _) = wire.call().await;
        wire.answer(stream, "ok").await;
        assert_eq!(client.reply().await.status, 200);
        rig.record().await;
        let metrics = rig.metrics.render();
        for phase in ["queue", "execute", "stream"] {
            let line = format!("hearth_gateway_phase_seconds_count{{phase=\"{phase}\"}} {expected}\n");
            assert!(metrics.contains(&line), "{line}{metrics}");
        }
        // Only the first has waited for a start.
        assert!(metrics.contains("hearth_gateway_phase_seconds_count{phase=\"init\"} 1\n"), "{metrics}");
        client.write(GET).await;
    }
}

#[tokio::test]
async fn this_is_no_proxy_and_two_lengths_smuggle_nothing() {
    let rig = Rig::new();
    let reply = rig.send("CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n").await;
    assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
    assert!(reply.header("allow").unwrap().contains("GET"));

    // RFC 9112, 6.3: the chunks count, the length is not handed on, and the connection is closed after the answer.
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    let two =
        "POST /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    client.write(format!("{two}GET /hello/smuggled HTTP/1.1\r\nhost: h\r\n\r\n")).await;
    let mut wire = instance.accept().await;
    let (stream, invoke) = wire.call().await;
    let event = event(&invoke);
    assert!(event["headers"]["content-length"].is_null() && event["body"].is_null(), "{event}");
    wire.answer(stream, "ok").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(client.rest().await, "", "what came behind it is no request");
}

#[tokio::test]
async fn a_function_of_which_nothing_serves_says_why() {
    let rig = Rig::new();
    let unready = |retry_after| Unready {
        function: hearth_function::FunctionId::parse("default/new").unwrap(),
        created: 2,
        claims: vec![hearth_dispatch::routes::Claim {
            host: String::new(),
            path: "/new".to_owned(),
            kind: hearth_dispatch::routes::PathKind::Prefix,
            methods: Vec::new(),
        }],
        reason: "installing".to_owned(),
        retry_after,
    };
    rig.handle.serve_all(vec![served(Timeouts::default())], vec![unready(Some(Duration::from_secs(2)))]);
    for path in ["/new/x", "/function/default/new"] {
        let reply = rig.get(path).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "function_not_ready"));
        assert_eq!(reply.header("retry-after"), Some("2"));
        let body: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
        assert_eq!(body["reason"], "installing");
        assert_eq!(body["message"], "default/new is not ready yet: it is being built or started");
    }
    rig.handle.serve_all(vec![served(Timeouts::default())], vec![unready(None)]);
    let reply = rig.get("/new").await;
    assert_eq!(reply.header("retry-after"), None);
    assert!(reply.text().contains("hearth describe function new -n default"), "{}", reply.text());
}

#[tokio::test]
async fn of_a_namespace_that_could_not_be_read_no_function_is_said_not_to_be_there() {
    let rig = Rig::new();
    rig.handle.unread(["other".to_owned()].into());
    for path in ["/function/other/hello", "/function/other/hello/x", "/function/other"] {
        let reply = rig.get(path).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "function_not_ready"), "{path}");
        assert_eq!(reply.header("retry-after"), Some("10"));
        let body: serde_json::Value = serde_json::from_str(&reply.text()).unwrap();
        assert_eq!(body["reason"], "namespace_unread");
    }
    for path in ["/function/others/hello", "/other/hello"] {
        assert_eq!(rig.get(path).await.status, 404, "{path}");
    }
    rig.handle.unread([].into());
    assert_eq!(rig.get("/function/other/hello").await.status, 404);
}
