//! A gateway that is about to end: clients that keep connections are told, and none loses a request by it.

use std::time::Duration;

use hearth_dispatch::Forwarding;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::rig::{Client, Rig, patiently};
use crate::gateway::Timeouts;

const GET: &str = "GET /hello HTTP/1.1\r\nhost: h\r\n\r\n";

#[tokio::test]
async fn a_kept_connection_ends_with_an_answer_that_says_so_and_not_under_a_request() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 4).await;
    let (mut kept, mut running) = (rig.client().await, rig.client().await);
    kept.write(GET).await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    wire.answer(stream, "before").await;
    assert_eq!(kept.reply().await.header("connection"), None);
    running.write(GET).await;
    let (runs, _) = wire.call().await;

    rig.handle.leave();
    wire.answer(runs, "during").await;
    let reply = running.reply().await;
    assert_eq!((reply.text().as_str(), reply.header("connection")), ("during", Some("close")));
    // The idle connection is there still, and so is the way in.
    for mut client in [kept, rig.client().await] {
        client.write(GET).await;
        let (stream, _) = wire.call().await;
        wire.answer(stream, "after").await;
        let reply = client.reply().await;
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("after", Some("close")));
        assert_eq!(client.rest().await, "");
    }
    // Hearth's own answers say it too.
    assert_eq!(rig.get("/nowhere").await.header("connection"), Some("close"));
}

#[tokio::test]
async fn with_nothing_in_flight_the_end_is_quick() {
    let rig = Rig::new();
    let (mut idle, mut silent) = (rig.client().await, rig.client().await);
    idle.write("GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(idle.reply().await.status, 404);
    let began = std::time::Instant::now();
    assert_eq!(patiently(rig.handle.shutdown(Duration::from_secs(60))).await, 0);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((idle.rest().await, silent.rest().await), (String::new(), String::new()));
}

/// A gateway with one place, which the first of these has while its call runs; the others are connected and have sent all they have to say.
async fn one_place(rig: &Rig, others: &[&str]) -> (Client, Vec<Client>) {
    let mut first = rig.client().await;
    first.write(GET).await;
    rig.until(|handle| handle.threads.shared.connections.available_permits() == 0).await;
    let mut clients = Vec::new();
    for request in others {
        let mut client = rig.client().await;
        client.write(request).await;
        clients.push(client);
    }
    (first, clients)
}

#[tokio::test]
async fn what_the_kernel_had_accepted_before_the_end_is_served() {
    let rig = Rig::with(|config| config.limits.connections = 1, Timeouts::default());
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let (mut first, waiting) = one_place(&rig, &[GET, "", GET, GET]).await;
    let mut wire = instance.accept().await;
    let (runs, _) = wire.call().await;
    let Rig { handle, scaler, .. } = rig;
    let address = handle.addresses()[0];
    let scenario = async {
        // From here on nobody waits there any more, and the first has its place still.
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        wire.answer(runs, "first").await;
        assert_eq!(first.reply().await.text(), "first");
        for (number, mut client) in waiting.into_iter().enumerate() {
            // One that says nothing keeps nobody from his answer.
            if number != 1 {
                let (stream, _) = wire.call().await;
                wire.answer(stream, &format!("{number}")).await;
                let reply = client.reply().await;
                assert_eq!(reply.text(), format!("{number}"));
                assert_eq!(reply.header("connection"), Some("close"));
            }
            assert_eq!(client.rest().await, "");
        }
    };
    let (cut, ()) = tokio::join!(patiently(handle.shutdown(Duration::from_secs(20))), scenario);
    assert_eq!(cut, 0);
    drop(scaler);
}

#[tokio::test]
async fn who_got_no_place_until_the_end_counts_as_cut() {
    let rig = Rig::with(|config| config.limits.connections = 1, Timeouts::default());
    let (mut first, mut waiting) = one_place(&rig, &[GET, GET]).await;
    let cut = patiently(rig.handle.shutdown(Duration::from_millis(500))).await;
    assert_eq!(cut, 3);
    for client in waiting.iter_mut().chain([&mut first]) {
        assert_eq!(client.rest().await, "");
    }
}

#[tokio::test]
async fn a_request_that_was_on_its_way_at_the_end_is_answered() {
    let rig = Rig::new();
    let (mut kept, mut fresh) = (rig.client().await, rig.client().await);
    kept.write("GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(kept.reply().await.header("connection"), None);
    let address = rig.handle.addresses()[0];
    let scenario = async {
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        for client in [&mut kept, &mut fresh] {
            client.write("GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n").await;
            let reply = client.reply().await;
            assert_eq!((reply.status, reply.header("connection")), (404, Some("close")));
            assert_eq!(client.rest().await, "");
        }
    };
    let (cut, ()) = tokio::join!(patiently(rig.handle.shutdown(Duration::from_secs(20))), scenario);
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn an_http2_connection_takes_no_new_requests_and_ends_those_it_has() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 4).await;
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(rig.handle.addresses()[0]).await.unwrap();
        let made = hyper::client::conn::http2::handshake::<_, _, Empty<bytes::Bytes>>(
            TokioExecutor::new(),
            TokioIo::new(stream),
        );
        made.await.unwrap()
    };
    let request = || http::Request::get("http://h/hello").body(Empty::new()).unwrap();
    let (mut sender, connection) = connect().await;
    let answer = sender.send_request(request());
    let scenario = async {
        let mut wire = instance.accept().await;
        let (stream, _) = wire.call().await;
        rig.handle.leave();
        // A new connection is served, though it is late.
        let (mut late, mut second) = connect().await;
        let serve = async {
            let (stream, _) = wire.call().await;
            wire.answer(stream, "late").await;
        };
        let (reply, ()) = tokio::select! {
            both = async { tokio::join!(late.send_request(request()), serve) } => both,
            end = &mut second => panic!("{end:?}"),
        };
        assert_eq!(reply.unwrap().status(), 200);
        wire.answer(stream, "early").await;
        let body = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "early");
    };
    // When nothing runs on it any more it ends of itself, long before an idle one would.
    let ((), end) = patiently(async { tokio::join!(scenario, connection) }).await;
    end.unwrap();
    drop(sender);
}
