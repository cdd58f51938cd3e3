//! The way to the leader: carries the gateway's messages to the hub, and finds it again when it is lost.
//!
//! While there is no leader the gateway goes on: calls run on what it holds, others wait within their limits, and what it would say waits
//! in its channel, where wishes and reports of one Revision become one. A new connection begins with what it holds.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use hearth_dispatch::{Holding, ToGateway, ToScaler};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::gateway::tune;
use crate::hub::proof::{self, Side};
use crate::hub::wire::{self, BEAT, FromGateway, FromHub, GREETING, Reader, VERSION, Writer};
use crate::telemetry::logs::Calls;
use crate::telemetry::metrics::{Counter, Gauge, Registry};
use crate::telemetry::{Seldom, chain};

/// Pause before the second attempt to reach a leader; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(25);

/// The longest pause: hubs wait for twice as long that gateways come back.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection to a Pod that is there is made at once.
const CONNECT: Duration = Duration::from_secs(2);

/// Messages that are written together.
const BATCH: usize = 256;

/// The gateway's ends, from the other side.
#[derive(Debug)]
pub struct Ends {
    /// What the gateway tells the scaler.
    pub from_gateway: mpsc::Receiver<ToScaler>,
    /// What it is told.
    pub to_gateway: mpsc::Sender<ToGateway>,
    /// Its records of calls.
    pub calls: mpsc::Receiver<Calls>,
}

/// Connects a gateway with whoever leads.
pub struct Link {
    key: [u8; 32],
    name: String,
    leader: watch::Receiver<Option<SocketAddr>>,
    ends: Ends,
    holding: Holding,
    stats: Stats,
    /// Whether there has been a connection, since whenever it is asked.
    connected: watch::Sender<bool>,
}

#[derive(Debug, Clone)]
struct Stats {
    connected: Gauge,
    connections: Counter,
    failures: Counter,
    held: Gauge,
    calls_dropped: Counter,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a connection is over.
enum Over {
    /// It broke, or never was one.
    Broke(wire::Error),
    /// Another leads.
    Moved,
    /// The gateway has ended.
    Ended,
}

impl From<wire::Error> for Over {
    fn from(error: wire::Error) -> Self {
        Self::Broke(error)
    }
}

impl Link {
    /// A link of the gateway `name` to the hub at whatever address `leader` says.
    #[must_use]
    pub fn new(
        key: [u8; 32],
        name: String,
        leader: watch::Receiver<Option<SocketAddr>>,
        ends: Ends,
        metrics: &Registry,
    ) -> Self {
        let stats = Stats {
            connected: metrics.gauge("hearth_link_connected", "Whether this gateway has a leader: 1 or 0."),
            connections: metrics.counter(
                "hearth_link_connections_total",
                "Connections to leaders; all but the first are reconnections.",
            ),
            failures: metrics.counter(
                "hearth_link_failures_total",
                "Connections to leaders that broke or could not be made.",
            ),
            held: metrics.gauge(
                "hearth_link_messages_held",
                "Messages for the leader that wait, for want of a connection or because it is slow.",
            ),
            calls_dropped: metrics.counter(
                "hearth_link_calls_dropped_total",
                "Records of calls that were dropped because there was no leader.",
            ),
        };
        let connected = watch::Sender::new(false);
        Self { key, name, leader, ends, holding: Holding::default(), stats, connected }
    }

    /// Whether there is a connection.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    /// Ends with the gateway.
    pub async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut said = Seldom::new();
        loop {
            let Some(address) = self.leader().await else { return };
            let began = Instant::now();
            match self.connection(address).await {
                Over::Ended => return,
                Over::Moved => {
                    tracing::info!(hub = %address, "the leader is another");
                    pause = FIRST_PAUSE;
                }
                Over::Broke(error) => {
                    self.stats.failures.inc();
                    // One that lasted was a leader's.
                    if began.elapsed() > LONGEST_PAUSE {
                        (pause, said) = (FIRST_PAUSE, Seldom::new());
                    }
                    if said.is_news(()) {
                        tracing::warn!(hub = %address, error = chain(&error), "no connection to the leader");
                    }
                    if !self.rest(pause).await {
                        return;
                    }
                    if *self.leader.borrow() != Some(address) {
                        pause = FIRST_PAUSE;
                        continue;
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Where the leader is, once there is one; `None` when the gateway has ended.
    async fn leader(&mut self) -> Option<SocketAddr> {
        loop {
            if let Some(address) = *self.leader.borrow_and_update() {
                return Some(address);
            }
            if !self.rest(LONGEST_PAUSE).await {
                return None;
            }
        }
    }

    /// Waits, at most until another leads. `false` when the gateway has ended.
    async fn rest(&mut self, pause: Duration) -> bool {
        self.stats.held.set(i64::try_from(self.ends.from_gateway.len()).unwrap_or(i64::MAX));
        // All arms are cancel-safe. Pauses are spread: all gateways lose a leader in the same moment.
        tokio::select! {
            () = sleep(pause.mul_f64(0.5 + jitter() / 2.0)) => {}
            changed = self.leader.changed() => if changed.is_err() {
                // Whoever watched has ended; what it said last may be right.
                sleep(pause).await;
            },
            () = self.ends.to_gateway.closed() => return false,
        }
        self.drop_calls();
        true
    }

    /// Records that came while there was no leader, beyond what the channel holds.
    fn drop_calls(&mut self) {
        while self.ends.calls.len() * 2 > self.ends.calls.max_capacity() {
            let Ok(calls) = self.ends.calls.try_recv() else { return };
            self.stats.calls_dropped.inc_by(calls.count());
        }
    }

    /// One connection, from its first to its last moment.
    async fn connection(&mut self, address: SocketAddr) -> Over {
        let greeted = self.greet(address);
        let (mut reader, mut writer) = match greeted.await {
            Ok(halves) => halves,
            Err(error) => return Over::Broke(error),
        };
        if let Err(error) = writer.send(&FromGateway::Resume(self.holding.resume())).await {
            return Over::Broke(error);
        }
        self.stats.connected.set(1);
        self.stats.connections.inc();
        self.connected.send_replace(true);
        tracing::info!(hub = %address, "connected to the leader");
        let over = self.carry(address, &mut reader, &mut writer).await;
        self.stats.connected.set(0);
        self.connected.send_replace(false);
        over
    }

    async fn greet(
        &self,
        address: SocketAddr,
    ) -> Result<(Reader<OwnedReadHalf>, Writer<OwnedWriteHalf>), wire::Error> {
        let stream =
            timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_| wire::Error::Silent)??;
        // A write to a machine that is gone would wait for many minutes, and the silence is not noticed meanwhile.
        tune(&stream)?;
        let (reading, writing) = stream.into_split();
        let (mut reader, mut writer) = (Reader::new(reading), Writer::new(writing));
        let greeting = async {
            let FromHub::Challenge { version, nonce: theirs } = reader.next().await? else {
                return Err(wire::Error::Turn);
            };
            if version != VERSION {
                return Err(wire::Error::Version(version));
            }
            let (ours, name) = (proof::nonce(), self.name.clone());
            let proof = proof::prove(&self.key, Side::Gateway, &theirs, &ours, &name);
            writer.send(&FromGateway::Hello { version: VERSION, name, nonce: ours, proof }).await?;
            match reader.next().await? {
                FromHub::Welcome { proof }
                    if proof::is_proof(&self.key, Side::Hub, &theirs, &ours, &self.name, &proof) =>
                {
                    Ok(())
                }
                FromHub::Welcome { .. } => Err(wire::Error::Key),
                FromHub::Refused { reason } => Err(wire::Error::Refused(reason)),
                FromHub::Challenge { .. } | FromHub::Tell(_) | FromHub::Beat => Err(wire::Error::Turn),
            }
        };
        timeout(GREETING, greeting).await.map_err(|_| wire::Error::Silent)??;
        reader.trust();
        Ok((reader, writer))
    }

    /// Carries messages both ways. The hub always reads, whatever it has to write, so that neither waits for the other.
    async fn carry(
        &mut self,
        address: SocketAddr,
        reader: &mut Reader<OwnedReadHalf>,
        writer: &mut Writer<OwnedWriteHalf>,
    ) -> Over {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut batch = Vec::new();
        // When nobody watches any more, this leader is as good as any.
        let mut watched = true;
        loop {
            let silence = (heard + wire::SILENCE).saturating_duration_since(Instant::now());
            // All arms are cancel-safe.
            let done = tokio::select! {
                message = reader.next() => match message {
                    Ok(message) => {
                        heard = Instant::now();
                        self.hear(message).await
                    }
                    Err(error) => Err(Over::Broke(error)),
                },
                count = self.ends.from_gateway.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Over::Ended;
                    }
                    self.say(&mut batch, writer).await
                }
                Some(calls) = self.ends.calls.recv() => {
                    writer.send(&FromGateway::Calls(wire::runs(&calls))).await.map_err(Over::Broke)
                }
                _ = beat.tick() => {
                    self.stats.held.set(i64::try_from(self.ends.from_gateway.len()).unwrap_or(i64::MAX));
                    writer.send(&FromGateway::Beat).await.map_err(Over::Broke)
                }
                changed = self.leader.changed(), if watched => {
                    watched = changed.is_ok();
                    match *self.leader.borrow_and_update() {
                        Some(other) if other != address => Err(Over::Moved),
                        _ => Ok(()),
                    }
                }
                () = sleep(silence) => Err(Over::Broke(wire::Error::Silent)),
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    async fn hear(&mut self, message: FromHub) -> Result<(), Over> {
        match message {
            FromHub::Tell(message) => {
                self.holding.on_gateway_told(&message);
                self.ends.to_gateway.send(message).await.map_err(|_| Over::Ended)
            }
            FromHub::Beat => Ok(()),
            FromHub::Refused { reason } => Err(Over::Broke(wire::Error::Refused(reason))),
            FromHub::Challenge { .. } | FromHub::Welcome { .. } => Err(Over::Broke(wire::Error::Turn)),
        }
    }

    /// Writes a batch. All of it is noted before: where the connection breaks in the middle, what was not written is not written any more,
    /// and the next connection must not begin with instances that the gateway has no more.
    async fn say<W: AsyncWrite + Unpin>(
        &mut self,
        batch: &mut Vec<ToScaler>,
        writer: &mut Writer<W>,
    ) -> Result<(), Over> {
        for message in batch.iter() {
            self.holding.on_gateway_said(message);
        }
        for message in batch.drain(..) {
            writer.feed(&FromGateway::Tell(message)).await?;
        }
        Ok(writer.flush().await?)
    }
}

/// From 0 to 1.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use hearth_dispatch::{Endpoint, EndpointAddress, Forwarding, StartKind};
    use hearth_function::{InstanceId, RevisionId};
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn link() -> (Link, mpsc::Sender<ToScaler>, mpsc::Receiver<ToGateway>) {
        let (to_scaler, from_gateway) = mpsc::channel(BATCH);
        let (to_gateway, told) = mpsc::channel(BATCH);
        let ends = Ends { from_gateway, to_gateway, calls: mpsc::channel(1).1 };
        let leader = watch::Sender::new(None).subscribe();
        (Link::new([7; 32], "one".to_owned(), leader, ends, &Registry::new()), to_scaler, told)
    }

    fn instance(number: usize) -> InstanceId {
        InstanceId::parse(&format!("hello-00001-{number}")).unwrap()
    }

    fn grant(number: usize) -> FromHub {
        FromHub::Tell(ToGateway::Grant {
            revision: RevisionId::parse("default/hello-00001").unwrap(),
            endpoint: Endpoint {
                instance: instance(number),
                address: EndpointAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 7073))),
                secret: String::new(),
                forwarding: Forwarding::Frames,
                start: StartKind::Cold,
                start_time: Duration::ZERO,
                single_use: true,
                reserved: false,
                own_server: false,
            },
            slots: 1,
        })
    }

    /// The other side reads the first message of a batch, and breaks while the rest is written.
    async fn breaks(other: DuplexStream) -> ToScaler {
        let mut reader = Reader::new(other);
        match reader.next().await.unwrap() {
            FromGateway::Tell(message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_written_when_a_connection_broke_is_not_held_any_more() {
        let (mut link, _says, _told) = link();
        for number in 0..BATCH {
            assert!(link.hear(grant(number)).await.is_ok());
        }
        assert_eq!(link.holding.resume().held.len(), BATCH);
        let spent = |number| ToScaler::Spent { instance: instance(number) };
        let mut batch: Vec<ToScaler> = (0..BATCH).map(spent).collect();
        let (ours, theirs) = duplex(512);
        let mut writer = Writer::new(ours);
        let (over, first) = tokio::join!(link.say(&mut batch, &mut writer), breaks(theirs));
        assert!(matches!(over, Err(Over::Broke(wire::Error::Io(_)))));
        assert_eq!(first, spent(0));
        assert_eq!(link.holding.resume().held, []);
    }
}
