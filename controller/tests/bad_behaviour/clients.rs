//! Clients that send nonsense, too much, or too slowly.

use crate::support::http::{Connection, Request, Response};
use crate::support::node_with;
use crate::{BAD, Scene, assert_refused};

/// Limits that a test reaches quickly.
const STRICT: &[(&str, &str)] = &[
    ("HEARTH_GATEWAY_HEAD_TIMEOUT", "1s"),
    ("HEARTH_GATEWAY_BODY_TIMEOUT", "1s"),
    ("HEARTH_GATEWAY_MAX_BODY", "1Mi"),
    ("HEARTH_GATEWAY_MAX_HEAD", "16Ki"),
];

/// With one slot: a call that does not give it back would be noticed.
fn scene() -> Scene {
    let scene = Scene::without_function(STRICT);
    scene.hearth.deploy(&node_with(
        "bad",
        "exports.handler = async (event) => (event.rawQueryString === 'who' ? process.env.HEARTH_INSTANCE : event.body?.length ?? 0);",
        "concurrency: { limit: 1 }\nscale: { max: 1 }",
    ));
    scene
}

/// Sends these bytes as they are and reads an answer.
fn raw(scene: &Scene, bytes: &[u8]) -> Response {
    let mut connection = Connection::open(scene.hearth.gateway()).expect("the gateway listens");
    connection.write(bytes).expect("it is sent");
    connection.response().expect("an answer")
}

#[test]
fn malformed_requests_are_refused_and_their_connection_closed() {
    let scene = scene();
    let instance = scene.instance();
    let bad: &[&[u8]] = &[
        b"NONSENSE\r\n\r\n",
        b"GET /function/default/bad HTTP/9.9\r\nhost: a\r\n\r\n",
        b"GET /function/default/bad HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"GET /function/default/bad HTTP/1.1\r\nhost: a\r\nx: a\0b\r\n\r\n",
        b"POST /function/default/bad HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"POST /function/default/bad HTTP/1.1\r\nhost: a\r\ncontent-length: many\r\n\r\n",
        b"POST /function/default/bad HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nnot-a-length\r\n",
    ];
    scene.neighbour.is_undisturbed_while(|| {
        for bytes in bad {
            let answer = raw(&scene, bytes);
            assert_eq!(answer.status, 400, "{:?}: {answer:?}", String::from_utf8_lossy(bytes));
        }
    });
    assert_eq!(scene.instance(), instance, "the instance noticed nothing");
    scene.end();
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let scene = scene();
    let long = "x".repeat(20 << 10);
    scene.neighbour.is_undisturbed_while(|| {
        let answer =
            raw(&scene, format!("GET {BAD} HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n").as_bytes());
        assert_eq!(answer.status, 431, "{answer:?}");
    });
    scene.instance();
    scene.end();
}

#[test]
fn a_body_that_is_too_large_is_refused_announced_or_not() {
    let scene = scene();
    let instance = scene.instance();
    let body = vec![b'x'; 2 << 20];
    scene.neighbour.is_undisturbed_while(|| {
        // Announced: refused before it is sent.
        let answer = raw(
            &scene,
            format!("POST {BAD} HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes(),
        );
        assert_refused(&answer, 413, "body_too_large");
        // In chunks: refused when the limit is passed. The client may still be sending then.
        let mut connection = Connection::open(scene.hearth.gateway()).expect("the gateway listens");
        let head = format!(
            "POST {BAD} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
            body.len()
        );
        connection.write(head.as_bytes()).expect("the head is sent");
        let sent = connection.write(&body).and_then(|()| connection.write(b"\r\n0\r\n\r\n"));
        match connection.response() {
            Ok(answer) => assert_refused(&answer, 413, "body_too_large"),
            // Closed with bytes of ours unread: the kernel may throw the answer away.
            Err(error) => {
                assert!(sent.is_err() || error.kind() == std::io::ErrorKind::ConnectionReset, "{error}")
            }
        }
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    scene.end();
}

#[test]
fn a_body_at_the_limit_passes() {
    let scene = scene();
    let body = vec![b'x'; 1 << 20];
    let answer = scene.hearth.send(&Request::post(BAD, body).header("content-type", "text/plain"));
    assert_eq!((answer.status, answer.json().as_u64()), (200, Some(1 << 20)));
    scene.end();
}

#[test]
fn headers_that_come_too_slowly_are_cut_off() {
    let scene = scene();
    scene.neighbour.is_undisturbed_while(|| {
        let mut slow = Connection::open(scene.hearth.gateway()).expect("the gateway listens");
        slow.write(format!("GET {BAD} HTTP/1.1\r\nhost: a\r\nx-slow: ").as_bytes()).expect("it is sent");
        // No request, so no answer: the connection is closed.
        let closed = slow.response().expect_err("there was no request");
        assert_eq!(closed.kind(), std::io::ErrorKind::UnexpectedEof, "{closed}");
    });
    scene.instance();
    scene.end();
}

#[test]
fn a_body_that_comes_too_slowly_is_cut_off_and_gives_its_slot_back() {
    let scene = scene();
    let instance = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        let answer = raw(
            &scene,
            format!("POST {BAD} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nten bytes.").as_bytes(),
        );
        assert_eq!(answer.status, 408, "{answer:?}");
        assert_eq!(scene.instance(), instance, "the slot is free");
    });
    scene.end();
}
