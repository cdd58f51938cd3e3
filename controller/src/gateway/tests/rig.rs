//! A gateway with one Function, a scaler's end of the channels, scripted instances, and a client that sees every byte.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::BytesMut;
use hearth_dispatch::routes::{Claim, PathKind};
use hearth_dispatch::{Endpoint, EndpointAddress, Forwarding, StartKind, ToGateway, ToScaler};
use hearth_function::{FunctionId, InstanceId, RevisionId};
use hearth_protocol::frame::RequestId;
use hearth_protocol::{Answer, Frame, HeaderLines, Invoke, Welcome, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::gateway::{Channels, Config, Gateway, Handle, Served, Timeouts};
use crate::telemetry::logs::{CallRecord, Calls, Entry};
use crate::telemetry::metrics::Registry;

/// Nothing in these tests takes so long unless it is broken.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it takes too long")
}

pub(super) struct Rig {
    pub(super) handle: Handle,
    pub(super) scaler: mpsc::Sender<ToGateway>,
    told: mpsc::Receiver<ToScaler>,
    pub(super) records: mpsc::Receiver<Calls>,
    pub(super) metrics: Registry,
    directory: tempfile::TempDir,
}

pub(super) fn revision() -> RevisionId {
    RevisionId::parse("default/hello-00001").unwrap()
}

pub(super) fn id(name: &str) -> InstanceId {
    InstanceId::parse(name).unwrap()
}

pub(super) fn served(timeouts: Timeouts) -> Served {
    let claim = |path: &str, kind, methods: &[&str]| Claim {
        host: String::new(),
        path: path.to_owned(),
        kind,
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
    };
    Served {
        function: FunctionId::parse("default/hello").unwrap(),
        created: 1,
        revision: revision(),
        timeouts,
        claims: vec![claim("/hello", PathKind::Prefix, &[]), claim("/get", PathKind::Exact, &["GET"])],
    }
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(|_| {}, Timeouts::default())
    }

    pub(super) fn with(change: impl FnOnce(&mut Config), timeouts: Timeouts) -> Self {
        let (to_scaler, told) = mpsc::channel(256);
        let (scaler, from_scaler) = mpsc::channel(256);
        let (calls, records) = mpsc::channel(256);
        let mut config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            // Each thread has connections of its own to an instance: with one, a script knows where the next call comes.
            threads: NonZeroUsize::MIN,
            ..Config::default()
        };
        change(&mut config);
        let metrics = Registry::new();
        let handle = Gateway::start(
            config,
            Channels { to_scaler, from_scaler, calls, freezer: None, strain: None },
            &metrics,
        )
        .unwrap();
        assert_eq!(handle.serve(vec![served(timeouts)]), []);
        Self { handle, scaler, told, records, metrics, directory: tempfile::tempdir().unwrap() }
    }

    /// Listens as an instance, and grants slots on it.
    pub(super) async fn grant(&self, name: &str, forwarding: Forwarding, slots: u32) -> Instance {
        self.grant_as(name, forwarding, slots, false).await
    }

    pub(super) async fn grant_as(
        &self,
        name: &str,
        forwarding: Forwarding,
        slots: u32,
        single_use: bool,
    ) -> Instance {
        self.grant_at(Endpoint { single_use, ..self.endpoint(name, forwarding) }, slots).await
    }

    async fn grant_at(&self, endpoint: Endpoint, slots: u32) -> Instance {
        let EndpointAddress::Unix(path) = &endpoint.address else { unreachable!() };
        let (listener, name) = (UnixListener::bind(path).unwrap(), endpoint.instance.clone());
        self.scaler.send(ToGateway::Grant { revision: revision(), endpoint, slots }).await.unwrap();
        self.until(|handle| handle.revisions.takes_calls(&name)).await;
        Instance { listener }
    }

    /// The same with a server of the user's own.
    pub(super) async fn grant_server(&self, name: &str, slots: u32) -> Instance {
        let endpoint = Endpoint { own_server: true, ..self.endpoint(name, Forwarding::Attach) };
        self.grant_at(endpoint, slots).await
    }

    /// Grants a slot on an instance that nobody can connect to.
    pub(super) async fn grant_gone(&self, name: &str, forwarding: Forwarding) {
        let endpoint = self.endpoint(name, forwarding);
        self.scaler.send(ToGateway::Grant { revision: revision(), endpoint, slots: 1 }).await.unwrap();
    }

    fn endpoint(&self, name: &str, forwarding: Forwarding) -> Endpoint {
        Endpoint {
            instance: id(name),
            address: EndpointAddress::Unix(self.directory.path().join(name)),
            secret: "5".repeat(64),
            forwarding,
            start: StartKind::Cold,
            start_time: Duration::from_millis(7),
            reserved: false,
            own_server: false,
            single_use: false,
        }
    }

    /// Takes an instance back, and sees it done.
    pub(super) async fn revoke(&self, name: &str) {
        self.scaler.send(ToGateway::Revoke { instance: id(name) }).await.unwrap();
        self.until(|handle| !handle.revisions.takes_calls(&id(name))).await;
    }

    /// Waits for what another thread does.
    pub(super) async fn until(&self, done: impl Fn(&Handle) -> bool) {
        patiently(async {
            while !done(&self.handle) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// What the gateway tells the scaler, less the load.
    pub(super) async fn told(&mut self) -> ToScaler {
        patiently(async {
            loop {
                match self.told.recv().await.unwrap() {
                    ToScaler::Load(_) => {}
                    other => return other,
                }
            }
        })
        .await
    }

    /// The next record of a call.
    pub(super) async fn record(&mut self) -> CallRecord {
        record(&mut self.records).await
    }

    pub(super) async fn client(&self) -> Client {
        let stream = TcpStream::connect(self.handle.addresses()[0]).await.unwrap();
        let (reading, writing) = stream.into_split();
        Client { reading: Reading { stream: reading, input: Vec::new() }, writing: Writing(writing) }
    }

    /// One request on a connection of its own.
    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).await
    }

    pub(super) async fn send(&self, request: &str) -> Reply {
        let mut client = self.client().await;
        client.write(request).await;
        client.reply().await
    }
}

/// The next record of a call.
pub(super) async fn record(records: &mut mpsc::Receiver<Calls>) -> CallRecord {
    let calls = patiently(records.recv()).await.unwrap();
    let (_, lines) = calls.runs().next().unwrap();
    let line = lines.split(|&byte| byte == b'\n').next().unwrap();
    match serde_json::from_slice(line).unwrap() {
        Entry::Call(record) => record,
        other => panic!("{other:?}"),
    }
}

/// A client's connection.
pub(super) struct Client {
    reading: Reading,
    writing: Writing,
}

pub(super) struct Reading {
    stream: OwnedReadHalf,
    input: Vec<u8>,
}

pub(super) struct Writing(OwnedWriteHalf);

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The code of Hearth's own error.
    pub(super) fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(body["requestId"].as_str(), self.header("x-hearth-request-id"));
        body["code"].as_str().unwrap().to_owned()
    }
}

impl Client {
    pub(super) fn split(self) -> (Reading, Writing) {
        (self.reading, self.writing)
    }

    pub(super) async fn write(&mut self, text: impl AsRef<[u8]>) {
        self.writing.write(text).await;
    }
}

impl std::ops::Deref for Client {
    type Target = Reading;
    fn deref(&self) -> &Reading {
        &self.reading
    }
}

impl std::ops::DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Reading {
        &mut self.reading
    }
}

impl Writing {
    pub(super) async fn write(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }
}

impl Reading {
    async fn fill(&mut self) -> usize {
        patiently(self.stream.read_buf(&mut self.input)).await.unwrap()
    }

    /// Reads up to and with `end`.
    pub(super) async fn read_until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.input.windows(end.len()).position(|window| window == end.as_bytes()) {
                let text: Vec<u8> = self.input.drain(..at + end.len()).collect();
                return String::from_utf8(text).unwrap();
            }
            assert!(self.fill().await > 0, "closed before {end:?}: {}", String::from_utf8_lossy(&self.input));
        }
    }

    /// An answer with `content-length`, or without a body.
    pub(super) async fn reply(&mut self) -> Reply {
        self.reply_to("").await
    }

    pub(super) async fn reply_to(&mut self, method: &str) -> Reply {
        let head = self.read_until("\r\n\r\n").await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        if method == "HEAD" {
            return reply;
        }
        if reply.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = self.read_until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                reply.body.extend(self.exactly(size).await);
                self.read_until("\r\n").await;
                if size == 0 {
                    return reply;
                }
            }
        }
        let length = reply.header("content-length").map_or(0, |text| text.parse().unwrap());
        reply.body = self.exactly(length).await;
        reply
    }

    pub(super) async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.input.len() < length {
            assert!(self.fill().await > 0, "closed in the middle of a body");
        }
        self.input.drain(..length).collect()
    }

    /// What comes until the gateway closes.
    pub(super) async fn rest(&mut self) -> String {
        while patiently(self.stream.read_buf(&mut self.input)).await.is_ok_and(|read| read > 0) {}
        String::from_utf8_lossy(&std::mem::take(&mut self.input)).into_owned()
    }
}

/// The listening end of a scripted instance.
pub(super) struct Instance {
    pub(super) listener: UnixListener,
}

impl Instance {
    pub(super) async fn raw(&self) -> Wire {
        let (stream, _) = patiently(self.listener.accept()).await.unwrap();
        Wire { stream, input: BytesMut::new() }
    }

    /// The next connection, greeted.
    pub(super) async fn accept(&self) -> Wire {
        let mut wire = self.raw().await;
        match wire.receive().await {
            Frame::Hello(hello) => assert_eq!(hello.secret, "5".repeat(64)),
            other => panic!("{other:?}"),
        }
        let welcome = Welcome { version: 1, instance: "i".to_owned(), served: 0, signature: None };
        wire.send(Frame::Welcome(welcome)).await;
        wire
    }
}

/// A connection, as the instance sees it.
pub(super) struct Wire {
    pub(super) stream: UnixStream,
    pub(super) input: BytesMut,
}

impl Wire {
    pub(super) async fn receive(&mut self) -> Frame {
        self.try_receive().await.expect("the gateway closed the connection")
    }

    pub(super) async fn try_receive(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = decode(&mut self.input).unwrap() {
                return Some(frame);
            }
            if patiently(self.stream.read_buf(&mut self.input)).await.unwrap() == 0 {
                return None;
            }
        }
    }

    pub(super) async fn send(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        frame.encode(&mut out).unwrap();
        patiently(self.stream.write_all(&out)).await.unwrap();
    }

    /// The next call.
    pub(super) async fn call(&mut self) -> (u32, Invoke) {
        match self.receive().await {
            Frame::Invoke { stream, invoke } => (stream, invoke),
            other => panic!("{other:?}"),
        }
    }

    /// A whole answer.
    pub(super) async fn answer(&mut self, stream: u32, body: &str) {
        self.answer_with(stream, 200, &[("content-type", "text/plain")], body, true).await;
    }

    pub(super) async fn answer_with(
        &mut self,
        stream: u32,
        status: u16,
        headers: &[(&str, &str)],
        body: &str,
        end: bool,
    ) {
        let headers = HeaderLines::from_pairs(headers.iter().copied()).unwrap();
        let body = bytes::Bytes::copy_from_slice(body.as_bytes());
        self.send(Frame::Answer { stream, answer: Answer { status, headers, body, end } }).await;
    }
}

pub(super) fn event(invoke: &Invoke) -> serde_json::Value {
    serde_json::from_slice(&invoke.head).unwrap()
}

pub(super) fn request_id(text: &str) -> RequestId {
    RequestId::copied(text).unwrap()
}
