//! A gateway in a process of its own, one of several in a cluster: the gateway as it is standalone, with its table read off the API server
//! and its autoscaler at the other end of a connection.
//!
//! ```text
//!  API server ── Functions, Revisions ──▶ store ── deploy::table ──▶ routes ─┐
//!             ── Lease ──▶ leader ──▶ link ◀── TCP ──▶ hub of the leader     ├─ gateway ◀── clients
//!                                      └── Grant, Share, … / load, … ────────┘      └────▶ instances
//! ```
//!
//! It keeps nothing. Without the API server it serves by the table it has; without a leader, by the slots it has, and requests that find
//! none wait within their limits.
//!
//! Start: listen → lists → link (not ready before; where no leader comes, for a while that is bounded). Stop: not ready → a while in which
//! everybody hears of it (`linger`), clients that keep connections among them → no new connections, running requests end → link.

mod follow;
mod leader;
mod link;
mod probes;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use link::{Ends, Link};

use crate::api;
use crate::gateway::{self, Gateway};
use crate::store::kubernetes;
use crate::telemetry::metrics::Registry;

/// Messages between gateway and link that wait; the gateway holds back and merges what finds no room.
const MESSAGES: usize = 1024;

/// Batches of call records that wait for the leader.
const CALLS: usize = 64;

/// So long a gateway is not ready for a namespace that refuses to be listed, or because it has met no leader since its start. A rollout of gateways
/// that lack a right, or while no controller works, waits for that time, while those before them serve; one whose namespace was deleted, or whose
/// controller is gone for good, is ready in the end. No controller needs a gateway that is ready.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the gateway is told.
#[derive(Clone)]
pub struct Config {
    /// The gateway's own settings; its addresses among them.
    pub gateway: gateway::Config,
    /// Where it answers probes and gives its metrics.
    pub management: SocketAddr,
    /// The API server.
    pub client: kube::Client,
    /// Hearth's own namespace, in which the Lease is.
    pub namespace: String,
    /// The namespaces whose Functions are served; none: all.
    pub watch_namespaces: Vec<String>,
    /// The cluster key.
    pub key: [u8; 32],
    /// What the leader calls this gateway.
    pub name: String,
    /// How long it serves on after it was told to stop, as long as others take to hear that it is not ready.
    pub linger: Duration,
    /// How long running requests have to end then.
    pub drain: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("name", &self.name)
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

/// Why the gateway does not start, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The port of the probes.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
    /// A part ended by itself.
    #[error("the {0} ended by itself")]
    Ended(&'static str),
}

/// A gateway process. [`Edge::run`] is its life.
#[derive(Debug)]
pub struct Edge {
    config: Config,
    gateway: gateway::Handle,
    probes: TcpListener,
    registry: Registry,
    ends: Ends,
}

impl Edge {
    /// Listens. Until everything was listed it is not ready, and every path is a 404.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address: config.management, source };
        let probes = TcpListener::bind(config.management).await.map_err(failed)?;
        let registry = Registry::new();
        let (to_scaler, from_gateway) = mpsc::channel(MESSAGES);
        let (to_gateway, from_scaler) = mpsc::channel(MESSAGES);
        let (calls, ended_calls) = mpsc::channel(CALLS);
        // Instances are on other machines: none is paused.
        let channels = gateway::Channels { to_scaler, from_scaler, calls, freezer: None, strain: None };
        let settings = gateway::Config { callers: gateway::Callers::Anybody, ..config.gateway.clone() };
        let gateway = Gateway::start(settings, channels, &registry)?;
        let ends = Ends { from_gateway, to_gateway, calls: ended_calls };
        Ok(Self { config, gateway, probes, registry, ends })
    }

    /// The addresses where functions answer.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.gateway.addresses()
    }

    /// Where probes are answered.
    ///
    /// # Errors
    /// When the system does not know it.
    pub fn management(&self) -> std::io::Result<SocketAddr> {
        self.probes.local_addr()
    }

    /// Serves until `stop`, then drains; once `hurry` is cancelled, running requests are not waited for.
    ///
    /// # Errors
    /// When a part ends by itself.
    pub async fn run(self, stop: CancellationToken, hurry: CancellationToken) -> Result<(), Error> {
        let Self { config, gateway, probes, registry, ends } = self;
        let opened = kubernetes::open(
            config.client.clone(),
            &kubernetes::Config {
                namespaces: config.watch_namespaces.clone(),
                installation: Some(config.namespace.clone()),
            },
        );
        let kubernetes::Opened { store, follower, listed: all, elsewhere: _ } = opened;
        let follower = follower.measured(&registry).patient(PATIENCE);
        let unlisted = follower.unlisted();
        let (leader, leads) = watch::channel(None);
        let link = Link::new(config.key, config.name.clone(), leads, ends, &registry);
        let connected = link.connected();
        let (listed, is_listed) = watch::channel(false);
        let (met, is_met) = watch::channel(false);
        // Once it says so, every answer does.
        let leaves = CancellationToken::new();
        let probing = probes::Probing { ready: is_listed, met: is_met, stopping: leaves.clone(), registry };

        let mut tasks: JoinSet<&'static str> = JoinSet::new();
        tasks.spawn(async move {
            follower.run().await;
            "watches"
        });
        let (client, namespace) = (config.client.clone(), config.namespace.clone());
        tasks.spawn(async move {
            leader::follow(client, &namespace, &leader).await;
            "lease watch"
        });
        tasks.spawn(async move {
            api::answer_probes(probes, move |path| probing.answer(path)).await;
            "management port"
        });
        tasks.spawn(async move {
            link.run().await;
            "link"
        });
        tasks.spawn(async move {
            probes::leader_met(connected, PATIENCE).await;
            met.send_replace(true);
            met.closed().await;
            "wait for a leader"
        });

        let mut routes = Box::pin(follow::follow(&store, all, unlisted, &gateway, &listed));
        tokio::select! {
            () = stop.cancelled() => {}
            () = &mut routes => return Err(Error::Ended("routes")),
            ended = tasks.join_next() => return Err(Error::Ended(name(ended))),
        }
        tracing::info!(linger = ?config.linger, "stopping: serving on until everybody has heard of it");
        gateway.leave();
        leaves.cancel();
        tokio::select! {
            () = tokio::time::sleep(config.linger) => {}
            () = hurry.cancelled() => {}
            () = &mut routes => {}
            ended = tasks.join_next() => tracing::error!(part = name(ended), "a part ended by itself"),
        }
        drop(routes);
        tokio::select! {
            cut = gateway.shutdown(config.drain) => if cut > 0 {
                tracing::warn!(requests = cut, "requests cut off: they had not ended in time");
            },
            () = hurry.cancelled() => tracing::warn!("requests cut off: told to hurry"),
        }
        store.close().await;
        tasks.shutdown().await;
        Ok(())
    }
}

fn name(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> &'static str {
    match ended {
        Some(Ok(part)) => part,
        // A panic was reported when it happened.
        Some(Err(_)) | None => "part that panicked",
    }
}
