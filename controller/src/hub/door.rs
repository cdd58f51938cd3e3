//! Who may come in, and what each connection carries. Those who have not proved yet that they know the key have few places, at one address
//! fewer, and take none of gateways; a newcomer takes the place of the one that has been there longest, for a gateway proves it at once. Who
//! loses his place is closed without a word, and a gateway tries again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hearth_dispatch::GatewayId;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Stats;
use super::core::{Event, TOLD};
use super::proof::{self, Side};
use super::wire::{self, BEAT, FromGateway, FromHub, GREETING, Reader, VERSION, Writer};
use crate::door::{Full, Known, Passing, Places, Stranger};
use crate::label_set;
use crate::telemetry::Seldom;
use crate::telemetry::chain;
use crate::telemetry::logs::Calls;
use crate::telemetry::metrics::Label as _;

/// Gateways at once: a cluster has tens.
const GATEWAYS: usize = 1024;

/// Connections that have not proved yet whose they are. A gateway does so at once.
const STRANGERS: usize = 256;

/// Those of one address.
const STRANGERS_OF_ONE: usize = 16;

/// After a failed `accept`: mostly, no descriptor is left.
const PAUSE: Duration = Duration::from_millis(50);

/// Messages that are written together.
const BATCH: usize = 256;

label_set! {
    /// Why a connection was not let in.
    pub(super) enum Refusal("reason") {
        /// Too many have not proved yet whose they are.
        Strangers = "strangers",
        /// Too many of one address.
        Address = "address",
        /// Too many gateways.
        Gateways = "gateways",
        /// Another key.
        Key = "key",
        /// Another version.
        Version = "version",
        /// Nothing that a gateway says, or too late.
        Greeting = "greeting",
    }
}

impl From<&wire::Error> for Refusal {
    fn from(error: &wire::Error) -> Self {
        match error {
            wire::Error::Key => Self::Key,
            wire::Error::Version(_) => Self::Version,
            _ => Self::Greeting,
        }
    }
}

/// Lets gateways in.
#[derive(Clone)]
pub(super) struct Door {
    key: [u8; 32],
    events: mpsc::Sender<Event>,
    calls: mpsc::Sender<Calls>,
    stats: Stats,
    gateways: Places<()>,
    said: Arc<Seldom<Refusal>>,
}

impl Door {
    pub(super) fn new(
        key: [u8; 32],
        events: mpsc::Sender<Event>,
        calls: mpsc::Sender<Calls>,
        stats: Stats,
    ) -> Self {
        let gateways = Places::new(GATEWAYS, GATEWAYS);
        Self { key, events, calls, stats, gateways, said: Arc::new(Seldom::new()) }
    }

    /// Accepts and serves, for ever. Dropped, every connection ends.
    pub(super) async fn keep(&self, listener: TcpListener) {
        // Never the same again, for as long as this hub lives.
        let next = AtomicU64::new(1);
        let mut connections = JoinSet::new();
        let mut strangers = Passing::new(STRANGERS, STRANGERS_OF_ONE);
        loop {
            // Both are cancel-safe.
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let id = GatewayId(next.fetch_add(1, Ordering::Relaxed));
                        let (address, known) = (peer.ip().to_canonical(), Known::default());
                        let visitor = Visitor { id, peer, door: self.clone() };
                        let task = connections.spawn(visitor.serve(stream, known.clone()));
                        if let Some(longest) = strangers.welcome(address, Stranger::new(address, task, known)) {
                            self.too_many(longest.leave_to(address), peer);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a gateway's connection was not accepted");
                        tokio::time::sleep(PAUSE).await;
                    }
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// One that had not said yet who it is has left its place to that peer.
    fn too_many(&self, full: Full, peer: SocketAddr) {
        let why = if full == Full::ForOne { Refusal::Address } else { Refusal::Strangers };
        self.refused(why, peer, "too many that have not said who they are: the longest was closed");
    }

    fn refused(&self, why: Refusal, peer: SocketAddr, error: &str) {
        self.stats.refused.get(why).inc();
        if self.said.is_news(why) {
            tracing::warn!(%peer, reason = why.as_str(), error, "a connection to the hub was refused");
        }
    }
}

/// One connection.
struct Visitor {
    id: GatewayId,
    peer: SocketAddr,
    door: Door,
}

impl Visitor {
    async fn serve(self, stream: TcpStream, known: Known) {
        let peer = self.peer;
        // Small messages that somebody waits for.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%peer, %error, "no TCP_NODELAY");
        }
        let (reading, writing) = stream.into_split();
        let (mut reader, mut writer) = (Reader::new(reading), Writer::new(writing));
        let greeted = timeout(GREETING, self.greet(&mut reader, &mut writer)).await;
        let name = match greeted.unwrap_or(Err(wire::Error::Silent)) {
            Ok(name) => name,
            Err(error) => return self.door.refused(Refusal::from(&error), peer, &chain(&error)),
        };
        known.note();
        let Ok(_place) = self.door.gateways.take(()) else {
            return self.door.refused(Refusal::Gateways, peer, "too many gateways");
        };
        self.door.stats.came.inc();
        tracing::info!(gateway = name, %peer, "gateway connected");
        let error = self.carry(name.clone(), &mut reader, &mut writer).await;
        let _hub_ended = self.door.events.send(Event::Left { gateway: self.id }).await.is_err();
        tracing::info!(gateway = name, %peer, why = chain(&error), "gateway gone");
    }

    /// The gateway's name, when both know that the other knows the key.
    async fn greet(
        &self,
        reader: &mut Reader<OwnedReadHalf>,
        writer: &mut Writer<OwnedWriteHalf>,
    ) -> Result<String, wire::Error> {
        let ours = proof::nonce();
        writer.send(&FromHub::Challenge { version: VERSION, nonce: ours }).await?;
        let FromGateway::Hello { version, name, nonce: theirs, proof } = reader.next().await? else {
            return Err(wire::Error::Turn);
        };
        let refused = if version != VERSION {
            Some(wire::Error::Version(version))
        } else if !proof::is_proof(&self.door.key, Side::Gateway, &ours, &theirs, &name, &proof) {
            Some(wire::Error::Key)
        } else {
            None
        };
        if let Some(error) = refused {
            writer.send(&FromHub::Refused { reason: error.to_string() }).await?;
            return Err(error);
        }
        let proof = proof::prove(&self.door.key, Side::Hub, &ours, &theirs, &name);
        writer.send(&FromHub::Welcome { proof }).await?;
        reader.trust();
        Ok(name)
    }

    /// Carries messages both ways until one of them fails.
    async fn carry(
        &self,
        name: String,
        reader: &mut Reader<OwnedReadHalf>,
        writer: &mut Writer<OwnedWriteHalf>,
    ) -> wire::Error {
        let resume = match reader.next().await {
            Ok(FromGateway::Resume(resume)) => resume,
            Ok(_) => return wire::Error::Turn,
            Err(error) => return error,
        };
        let (to, told) = mpsc::channel(TOLD);
        let came = Event::Came { gateway: self.id, name, resume, to };
        if self.door.events.send(came).await.is_err() {
            return wire::Error::Closed;
        }
        tokio::select! {
            error = self.listen(reader) => error,
            error = tell(told, writer) => error,
        }
    }

    async fn listen(&self, reader: &mut Reader<OwnedReadHalf>) -> wire::Error {
        loop {
            let message = match reader.next().await {
                Ok(FromGateway::Tell(message)) => message,
                Ok(FromGateway::Beat) => continue,
                Ok(FromGateway::Calls(runs)) => {
                    let calls = wire::calls(&runs);
                    let count = calls.count();
                    if self.door.calls.try_send(calls).is_err() {
                        self.door.stats.calls_dropped.inc_by(count);
                    }
                    continue;
                }
                Ok(FromGateway::Hello { .. } | FromGateway::Resume(_)) => return wire::Error::Turn,
                Err(error) => return error,
            };
            if self.door.events.send(Event::Said { gateway: self.id, message }).await.is_err() {
                return wire::Error::Closed;
            }
        }
    }
}

/// Writes what the gateway is told, many at once.
async fn tell(
    mut told: mpsc::Receiver<hearth_dispatch::ToGateway>,
    writer: &mut Writer<OwnedWriteHalf>,
) -> wire::Error {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    loop {
        // Both are cancel-safe.
        let written = tokio::select! {
            count = told.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    // The core has cut it off.
                    return wire::Error::Closed;
                }
                write(batch.drain(..), writer).await
            }
            _ = beat.tick() => writer.send(&FromHub::Beat).await,
        };
        if let Err(error) = written {
            return error;
        }
    }
}

async fn write(
    messages: impl Iterator<Item = hearth_dispatch::ToGateway>,
    writer: &mut Writer<OwnedWriteHalf>,
) -> Result<(), wire::Error> {
    for message in messages {
        writer.feed(&FromHub::Tell(message)).await?;
    }
    writer.flush().await
}

#[cfg(test)]
mod tests;
