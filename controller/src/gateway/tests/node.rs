//! The gateway before the real Node bootstrap: no container, the descriptors that the shim would hand over come from a shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_dispatch::{Endpoint, EndpointAddress, Forwarding, StartKind, ToGateway, ToScaler};
use hearth_protocol::{Load, Signature};

use super::rig::{Rig, id, revision};
use crate::backend::{Address, control};
use crate::gateway::Timeouts;

const CODE: &str = r"
exports.event = async (event) => ({
  statusCode: 201,
  headers: { 'x-method': event.requestContext.http.method },
  cookies: ['a=b', 'c=d'],
  body: `${event.rawPath} ${event.body ? event.body.length : 'none'} ${event.isBase64Encoded}`,
});
exports.throws = async () => { throw new TypeError('secret'); };
exports.httpThrows = (req, res) => { throw new RangeError('secret'); };
exports.loops = async () => { for (;;); };
exports.fetch = async (request) => new Response(request.body, { headers: { 'x-url': request.url } });
let running = 0;
exports.lasts = async (req, res) => {
  running += 1;
  res.write(`${running} runs`);
  await new Promise((done) => setTimeout(done, 200));
  running -= 1;
  res.end();
};
exports.forgets = (req, res) => {};
exports.http = (req, res) => {
  res.setHeader('x-url', req.url);
  req.pipe(res);
};
";

/// A Node process with the bootstrap, loaded and granted to the gateway. It ends with this.
struct Node {
    _process: tokio::process::Child,
    directory: tempfile::TempDir,
}

async fn node(rig: &Rig, export: &str) -> Node {
    node_with(rig, export, 10).await
}

async fn node_with(rig: &Rig, export: &str, slots: u32) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("index.js"), CODE).unwrap();
    let boot = serde_json::json!({
        "instance": "i1", "secret": "5".repeat(64), "concurrency": slots, "memoryBytes": 64 << 20, "nonce": "0",
    });
    std::fs::write(path("boot.json"), boot.to_string()).unwrap();
    let process = start(&path("s"), &path("boot.json"));

    let load = Load {
        code: directory.path().display().to_string(),
        handler: Some(format!("index.{export}")),
        signature: Signature::Auto,
        env: BTreeMap::new(),
        function: "hello".to_owned(),
        namespace: "default".to_owned(),
        revision: "hello-00001".to_owned(),
        concurrency: slots,
        memory_bytes: 64 << 20,
        execute_timeout_ms: 30_000,
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    let (_, report) =
        control::load(&Address::Unix(path("s")), &"5".repeat(64), load, deadline).await.unwrap();
    let forwarding = match report.signature {
        Signature::Event => Forwarding::Event,
        Signature::Http => Forwarding::Attach,
        _ => Forwarding::Frames,
    };
    let node = Node { _process: process, directory };
    node.grant(rig, forwarding, slots).await;
    node
}

impl Node {
    async fn grant(&self, rig: &Rig, forwarding: Forwarding, slots: u32) {
        let endpoint = Endpoint {
            instance: id("i1"),
            address: EndpointAddress::Unix(self.directory.path().join("s")),
            secret: "5".repeat(64),
            forwarding,
            start: StartKind::Cold,
            start_time: Duration::ZERO,
            single_use: false,
            reserved: false,
            own_server: false,
        };
        rig.scaler.send(ToGateway::Grant { revision: revision(), endpoint, slots }).await.unwrap();
        rig.until(|handle| handle.revisions.takes_calls(&id("i1"))).await;
    }
}

fn start(socket: &Path, boot: &Path) -> tokio::process::Child {
    let bootstrap =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../runtime-shim/bootstrap/node/bootstrap.cjs");
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    // It comes to the shell as standard input, whatever its number was; the shell gives it the one that the bootstrap expects.
    let script =
        format!("exec node '{}' 3<&0 4>/dev/null 5<'{}' </dev/null", bootstrap.display(), boot.display());
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(script).stdin(std::os::fd::OwnedFd::from(listener));
    command.env_remove("NODE_OPTIONS").kill_on_drop(true);
    command.spawn().expect("a shell, and in it node 20 or later")
}

#[tokio::test]
async fn an_event_handler_answers() {
    let rig = Rig::new();
    let node = node(&rig, "event").await;
    let reply = rig.get("/hello/x").await;
    assert_eq!((reply.status, reply.text().as_str()), (201, "/hello/x none false"));
    assert_eq!((reply.header("x-method"), reply.header("set-cookie")), (Some("GET"), Some("a=b")));
    for length in [3, 65_536, 65_537, 400_000] {
        let body = "é".repeat(length / 2) + &"x".repeat(length % 2);
        let head = format!(
            "POST /hello HTTP/1.1\r\nhost: h\r\ncontent-type: text/plain\r\ncontent-length: {length}"
        );
        let reply = rig.send(&format!("{head}\r\n\r\n{body}")).await;
        let characters = body.chars().count();
        assert_eq!(reply.text(), format!("/hello {characters} false"), "{length}");
    }
    drop(node);
}

#[tokio::test]
async fn what_a_handler_throws_is_a_502() {
    let rig = Rig::new();
    let node = node(&rig, "throws").await;
    let reply = rig.get("/hello").await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "function_error"));
    drop(node);
}

#[tokio::test]
async fn what_a_handler_of_req_and_res_throws_is_the_same() {
    let rig = Rig::new();
    let node = node(&rig, "httpThrows").await;
    let reply = rig.get("/hello").await;
    assert_eq!((reply.status, reply.code().as_str()), (502, "function_error"));
    assert!(reply.text().contains("failed with RangeError"), "{}", reply.text());
    drop(node);
}

#[tokio::test]
async fn a_handler_that_loops_is_found_out() {
    let timeouts = Timeouts { execute: Duration::from_millis(100), ..Timeouts::default() };
    let mut rig = Rig::with(|config| config.forwarding.ping = Duration::from_millis(100), timeouts);
    let node = node(&rig, "loops").await;
    let reply = rig.get("/hello").await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "execute_timeout"));
    assert_eq!(rig.told().await, ToScaler::Unresponsive { instance: id("i1") });
    drop(node);
}

#[tokio::test]
async fn bodies_go_through_a_fetch_and_an_http_handler_whole() {
    const LENGTH: usize = 1_000_000;
    for (export, url) in [("fetch", "http://h/hello?q"), ("http", "/hello?q")] {
        let rig = Rig::new();
        let node = node(&rig, export).await;
        let client = rig.client().await;
        let head = format!("POST /hello?q HTTP/1.1\r\nhost: h\r\ncontent-length: {LENGTH}\r\n\r\n");
        let body: Vec<u8> = (0..LENGTH).map(|at| u8::try_from(at % 251).unwrap()).collect();
        // Both directions at once: neither side holds all of it.
        let (mut reading, mut writing) = client.split();
        let send = async {
            writing.write(head.as_bytes()).await;
            writing.write(&body).await;
        };
        let (reply, ()) = tokio::join!(reading.reply(), send);
        assert_eq!((reply.status, reply.header("x-url")), (200, Some(url)), "{export}");
        assert!(reply.body == body, "{export}: {} bytes", reply.body.len());
        drop(node);
    }
}

#[tokio::test]
async fn a_handler_that_runs_on_after_its_client_left_keeps_its_slot() {
    let rig = Rig::new();
    let node = node_with(&rig, "lasts", 1).await;
    for _ in 0..3 {
        let mut client = rig.client().await;
        client.write("GET /hello HTTP/1.1\r\nhost: h\r\n\r\n").await;
        let begun = client.read_until("runs").await;
        assert!(begun.ends_with("1 runs"), "{begun}");
    }
    drop(node);
}

#[tokio::test]
async fn gateways_that_use_one_slot_both_do_not_make_a_handler_run_two_calls() {
    let (rig, other) = (Rig::new(), Rig::new());
    let node = node_with(&rig, "lasts", 1).await;
    node.grant(&other, Forwarding::Attach, 1).await;
    // First by new connections, which are refused, then by those that were kept.
    for _ in 0..3 {
        for reply in <[_; 2]>::from(tokio::join!(rig.get("/hello"), other.get("/hello"))) {
            assert_eq!((reply.status, reply.text().as_str()), (200, "1 runs"));
        }
    }
}

#[tokio::test]
async fn handlers_that_never_answer_are_found_out() {
    let short = Duration::from_millis(100);
    let timeouts = Timeouts { execute: short, ..Timeouts::default() };
    let mut rig = Rig::with(|config| config.forwarding.stuck = short, timeouts);
    let node = node_with(&rig, "forgets", 1).await;
    let reply = rig.get("/hello").await;
    assert_eq!((reply.status, reply.code().as_str()), (504, "execute_timeout"));
    assert_eq!(rig.told().await, ToScaler::Unresponsive { instance: id("i1") });
    drop(node);
}
