//! Over real sockets; of the core nothing is asked.

use std::net::IpAddr;

use tokio::net::TcpSocket;

use super::*;
use crate::telemetry::metrics::Registry;

/// Nothing in these tests takes so long unless it is broken.
const WAIT: Duration = Duration::from_secs(5);

const KEY: [u8; 32] = [7; 32];
const HERE: [u8; 4] = [127, 0, 0, 1];

struct Scene {
    address: SocketAddr,
    registry: Registry,
    _events: mpsc::Receiver<Event>,
    _serving: JoinSet<()>,
}

impl Scene {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Registry::new();
        let (events, kept) = mpsc::channel(100);
        let door = Door::new(KEY, events, mpsc::channel(1).0, Stats::new(&registry));
        let mut serving = JoinSet::new();
        serving.spawn(async move { door.keep(listener).await });
        Self { address, registry, _events: kept, _serving: serving }
    }

    /// A connection from this address of this machine.
    async fn connect(&self, from: [u8; 4]) -> Line {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::from(from), 0)).unwrap();
        let (reading, writing) = socket.connect(self.address).await.unwrap().into_split();
        Line { reader: Reader::new(reading), writer: Writer::new(writing) }
    }

    fn refused(&self, reason: &str) -> u32 {
        let shown = self.registry.render();
        let line = format!("hearth_hub_refused_total{{reason=\"{reason}\"}} ");
        shown.lines().find_map(|one| one.strip_prefix(&line)).unwrap().parse().unwrap()
    }
}

struct Line {
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
}

impl Line {
    async fn hear(&mut self) -> Result<FromHub, wire::Error> {
        timeout(WAIT, self.reader.next()).await.expect("it neither answers nor closes")
    }

    /// Says the greeting of a gateway that knows the key; whether it was let in.
    async fn greet(&mut self) -> bool {
        let Ok(FromHub::Challenge { nonce: theirs, .. }) = self.hear().await else { return false };
        let nonce = proof::nonce();
        let proof = proof::prove(&KEY, Side::Gateway, &theirs, &nonce, "a");
        let hello = FromGateway::Hello { version: VERSION, name: "a".to_owned(), nonce, proof };
        self.writer.send(&hello).await.unwrap();
        matches!(self.hear().await, Ok(FromHub::Welcome { .. }))
    }
}

#[tokio::test]
async fn who_says_nothing_keeps_no_gateway_out() {
    let scene = Scene::new().await;
    let mut silent = Vec::new();
    for _ in 0..STRANGERS_OF_ONE {
        silent.push(scene.connect(HERE).await);
    }
    assert_eq!(scene.refused("address"), 0);
    assert!(scene.connect(HERE).await.greet().await, "the longest leaves its place");
    assert_eq!(scene.refused("address"), 1);
    assert!(silent[0].hear().await.is_ok(), "it was challenged");
    assert!(silent[0].hear().await.is_err());
}

#[tokio::test]
async fn gateways_take_no_place_of_those_who_come_from_the_same_address() {
    let scene = Scene::new().await;
    let mut lines = Vec::new();
    for number in 0..STRANGERS_OF_ONE * 3 {
        let mut line = scene.connect(HERE).await;
        assert!(line.greet().await, "gateway {number}");
        lines.push(line);
    }
    assert_eq!(scene.refused("address"), 0);
}
