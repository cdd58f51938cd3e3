//! What clients may do and what not: routes, methods, HTTP/2, bodies, speed.

use hearth_dispatch::Forwarding;
use hearth_dispatch::routes::{Claim, Holder, PathKind};
use hearth_function::FunctionId;
use hearth_protocol::Frame;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::rig::{Rig, event, patiently, served};
use crate::gateway::{Served, Timeouts, Unready};

#[tokio::test]
async fn errors_say_what_and_for_which_request() {
    let rig = Rig::new();
    let reply = rig.get("/nowhere").await;
    assert_eq!((reply.status, reply.code().as_str()), (404, "route_not_found"));
    let reply = rig.send("POST /get HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!((reply.status, reply.code().as_str()), (405, "method_not_allowed"));
    assert_eq!(reply.header("allow"), Some("GET, HEAD"));
    let mut client = rig.client().await;
    client.write("HEAD /nowhere HTTP/1.1\r\nhost: h\r\n\r\nGET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(client.reply_to("HEAD").await.status, 404);
    assert_eq!(client.reply().await.status, 404, "the first had no body");
}

#[tokio::test]
async fn a_wildcard_answers_for_one_label_and_another_namespace_gets_no_name_below_it() {
    let rig = Rig::new();
    let claim = |host: &str, path: &str| Claim {
        host: host.to_owned(),
        path: path.to_owned(),
        kind: PathKind::Prefix,
        methods: Vec::new(),
    };
    let hello = served(Timeouts::default());
    let hello = Served { claims: vec![claim("*.example.com", "/")], ..hello };
    let other = Unready {
        function: FunctionId::parse("other/late").unwrap(),
        created: 2,
        claims: vec![claim("a.example.com", "/pay"), claim("", "/pay")],
        reason: "installing".to_owned(),
        retry_after: None,
    };
    let conflicts = rig.handle.serve_all(vec![hello], vec![other]);
    let [conflict] = conflicts.as_slice() else { panic!("{conflicts:?}") };
    let owner = Holder::Namespace { namespace: "default".to_owned(), host: "*.example.com".to_owned() };
    assert_eq!((conflict.claim.host.as_str(), &conflict.holder), ("a.example.com", &owner));

    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    let mut wire = None;
    for host in ["a.example.com", "B.Example.com:8080", "c.example.com.", "d.example.com.:80"] {
        client.write(format!("GET /pay HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        let wire = match &mut wire {
            Some(wire) => wire,
            none => none.insert(instance.accept().await),
        };
        let (stream, invoke) = wire.call().await;
        assert_eq!(event(&invoke)["headers"]["host"], host);
        wire.answer(stream, "ok").await;
        assert_eq!(client.reply().await.status, 200, "{host}");
    }
    for (host, path, status) in [
        ("example.com", "/pay", 503),
        ("b.a.example.com", "/pay", 503),
        ("b.a.example.com", "/", 404),
        ("a.example.com", "/function/other/late", 503),
    ] {
        client.write(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(client.reply().await.status, status, "{host}{path}");
    }
}

#[tokio::test]
async fn head_is_answered_by_what_answers_get_without_a_body() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write("HEAD /get HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let mut wire = instance.accept().await;
    let (stream, invoke) = wire.call().await;
    assert_eq!(event(&invoke)["requestContext"]["http"]["method"], "HEAD");
    wire.answer(stream, "four").await;
    let reply = client.reply_to("HEAD").await;
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("4")));
    client.write("GET /nowhere HTTP/1.1\r\nhost: h\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 404, "no body stands in between");
}

#[tokio::test]
async fn malformed_requests_are_refused_and_nothing_else_suffers() {
    let rig = Rig::with(|config| config.limits.head_bytes = 8192, Timeouts::default());
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut good = rig.client().await;
    good.write("GET /hello HTTP/1.1\r\nhost: h\r\n\r\n").await;
    let mut wire = instance.accept().await;
    let (stream, _) = wire.call().await;
    let long = format!("GET / HTTP/1.1\r\nhost: h\r\nx: {}\r\n\r\n", "a".repeat(9000));
    let many = format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", "x: y\r\n".repeat(200));
    let cases = [
        ("nonsense\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: h\r\nbad header\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ntransfer-encoding: nonsense\r\n\r\n", "400"),
        (long.as_str(), "431"),
        (many.as_str(), "431"),
    ];
    for (request, status) in cases {
        let mut client = rig.client().await;
        client.write(request).await;
        let reply = client.rest().await;
        let shown = request.get(..40).unwrap_or(request);
        assert_eq!(reply.split(' ').nth(1), Some(status), "{shown:?}: {reply}");
    }
    wire.answer(stream, "still here").await;
    assert_eq!(good.reply().await.text(), "still here");
}

#[tokio::test]
async fn an_expected_continue_comes_when_the_body_is_wanted() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    client.write("PUT /hello HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n").await;
    assert_eq!(client.read_until("\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.write("ok").await;
    let mut wire = instance.accept().await;
    let (stream, invoke) = wire.call().await;
    let event = event(&invoke);
    assert_eq!((&event["body"], &event["headers"]["expect"]), (&"ok".into(), &serde_json::Value::Null));
    wire.answer(stream, "yes").await;
    assert_eq!(client.reply().await.text(), "yes");
}

#[tokio::test]
async fn http2_by_prior_knowledge_shares_the_port() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 2).await;
    let stream = tokio::net::TcpStream::connect(rig.handle.addresses()[0]).await.unwrap();
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut sender, connection) =
        builder.handshake::<_, http_body_util::Empty<bytes::Bytes>>(TokioIo::new(stream)).await.unwrap();
    let request = |path: &str| {
        let uri = format!("http://h.example:81{path}");
        http::Request::get(uri).body(http_body_util::Empty::new()).unwrap()
    };
    let scenario = async {
        let answers = [sender.send_request(request("/hello/1")), sender.send_request(request("/hello/2"))];
        let serve = async {
            let mut wire = instance.accept().await;
            let calls = [wire.call().await, wire.call().await];
            // The other way round: both run at once.
            for (stream, invoke) in calls.iter().rev() {
                let event = event(invoke);
                assert_eq!(event["requestContext"]["http"]["protocol"], "HTTP/2");
                assert_eq!(event["headers"]["host"], "h.example:81");
                wire.answer(*stream, event["rawPath"].as_str().unwrap()).await;
            }
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(answers), serve);
        for (answer, expected) in answers.into_iter().zip(["/hello/1", "/hello/2"]) {
            let body = answer.unwrap().into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, expected);
        }
    };
    tokio::select! {
        () = patiently(scenario) => {}
        end = connection => panic!("{end:?}"),
    }
}

#[tokio::test]
async fn the_whole_body_is_in_the_event_or_follows_it() {
    let rig = Rig::new();
    let instance = rig.grant("i1", Forwarding::Event, 1).await;
    let mut client = rig.client().await;
    let long = "b".repeat(70_000);
    client.write(format!("POST /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 70000\r\n\r\n{long}")).await;
    let mut wire = instance.accept().await;
    let (stream, invoke) = wire.call().await;
    assert!(event(&invoke)["body"].is_null());
    let mut got = invoke.body.to_vec();
    wire.send(Frame::Accept { stream }).await;
    wire.send(Frame::Credit { stream, bytes: 70_000 }).await;
    loop {
        let Frame::Data { bytes, end, .. } = wire.receive().await else { panic!() };
        got.extend_from_slice(&bytes);
        if end {
            break;
        }
    }
    assert!(got == long.as_bytes(), "{} bytes", got.len());
    wire.answer(stream, "").await;
    assert_eq!(client.reply().await.status, 200);
}

#[tokio::test]
async fn an_http2_connection_without_requests_is_closed_and_one_with_a_request_is_not() {
    let limit = std::time::Duration::from_secs(1);
    let rig = Rig::with(|config| config.limits.head_time = limit, Timeouts::default());
    let instance = rig.grant("i1", Forwarding::Event, 2).await;
    let connect = async || {
        let stream = tokio::net::TcpStream::connect(rig.handle.addresses()[0]).await.unwrap();
        // It answers pings of itself.
        hyper::client::conn::http2::handshake::<_, _, http_body_util::Empty<bytes::Bytes>>(
            TokioExecutor::new(),
            TokioIo::new(stream),
        )
        .await
        .unwrap()
    };
    let ((mut sender, busy), (kept, idle)) = (connect().await, connect().await);
    let request = http::Request::get("http://h/hello").body(http_body_util::Empty::new()).unwrap();
    let answer = sender.send_request(request);
    let scenario = async {
        let mut wire = instance.accept().await;
        let (stream, _) = wire.call().await;
        // The other has been idle for as long as this call runs, or longer.
        drop(idle.await);
        drop(kept);
        wire.answer(stream, "late").await;
        let body = answer.await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "late");
    };
    let mut busy = std::pin::pin!(busy);
    tokio::select! {
        () = patiently(scenario) => {}
        end = &mut busy => panic!("{end:?}"),
    }
    // Now it is idle too.
    patiently(busy).await.unwrap();
    drop(sender);
}
