//! Who may come in, and what each connection carries.

use std::net::SocketAddr;
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
use crate::telemetry::chain;
use crate::telemetry::logs::Calls;

/// Connections at once: a cluster has tens of gateways.
const CONNECTIONS: usize = 1024;

/// After a failed `accept`: mostly, no descriptor is left.
const PAUSE: Duration = Duration::from_millis(50);

/// Messages that are written together.
const BATCH: usize = 256;

/// Lets gateways in.
pub(super) struct Door {
    pub(super) key: [u8; 32],
    pub(super) events: mpsc::Sender<Event>,
    pub(super) calls: mpsc::Sender<Calls>,
    pub(super) stats: Stats,
}

impl Door {
    /// Accepts and serves, for ever. Dropped, every connection ends.
    pub(super) async fn keep(&self, listener: TcpListener) {
        // Never the same again, for as long as this hub lives.
        let next = AtomicU64::new(1);
        let mut connections = JoinSet::new();
        loop {
            // Both are cancel-safe.
            tokio::select! {
                accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, peer)) => {
                        let id = GatewayId(next.fetch_add(1, Ordering::Relaxed));
                        connections.spawn(self.visitor(id, peer).serve(stream));
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

    fn visitor(&self, id: GatewayId, peer: SocketAddr) -> Visitor {
        Visitor {
            id,
            peer,
            key: self.key,
            events: self.events.clone(),
            calls: self.calls.clone(),
            stats: self.stats.clone(),
        }
    }
}

/// One connection.
struct Visitor {
    id: GatewayId,
    peer: SocketAddr,
    key: [u8; 32],
    events: mpsc::Sender<Event>,
    calls: mpsc::Sender<Calls>,
    stats: Stats,
}

impl Visitor {
    async fn serve(self, stream: TcpStream) {
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
            Err(error) => {
                self.stats.refused.inc();
                tracing::warn!(%peer, error = chain(&error), "a connection to the hub was refused");
                return;
            }
        };
        self.stats.came.inc();
        tracing::info!(gateway = name, %peer, "gateway connected");
        let error = self.carry(name.clone(), &mut reader, &mut writer).await;
        let _hub_ended = self.events.send(Event::Left { gateway: self.id }).await.is_err();
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
        } else if !proof::is_proof(&self.key, Side::Gateway, &ours, &theirs, &name, &proof) {
            Some(wire::Error::Key)
        } else {
            None
        };
        if let Some(error) = refused {
            writer.send(&FromHub::Refused { reason: error.to_string() }).await?;
            return Err(error);
        }
        let proof = proof::prove(&self.key, Side::Hub, &ours, &theirs, &name);
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
        if self.events.send(came).await.is_err() {
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
                    if self.calls.try_send(calls).is_err() {
                        self.stats.calls_dropped.inc_by(count);
                    }
                    continue;
                }
                Ok(FromGateway::Hello { .. } | FromGateway::Resume(_)) => return wire::Error::Turn,
                Err(error) => return error,
            };
            if self.events.send(Event::Said { gateway: self.id, message }).await.is_err() {
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
