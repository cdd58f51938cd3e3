//! Where the gateways of a cluster meet the autoscaler: many connections there, one pair of channels here.
//!
//! ```text
//!  gateway ──┐  TCP: door.rs (who may come in), wire.rs (what is said)
//!  gateway ──┼──▶ core.rs: hearth_dispatch::Merge ──▶ autoscale::Service
//!  gateway ──┘                                   └──▶ records of calls ──▶ the log
//! ```
//!
//! - **Shares.** What gateways together may use of an instance is never more than it has; [`hearth_dispatch::Merge`] has the rules.
//! - **Who.** Both sides prove that they know the cluster key, each with a random number of the other's. What follows is neither encrypted nor
//!   signed: it holds the instances' secrets, and whoever can read the Pods' network can read them. A network policy keeps others away.
//! - **Ends.** A connection that is closed, or silent for `wire::SILENCE`, is a gateway that has gone: what it used is free. One that
//!   lives and was only cut off goes on with what it has, and when it comes back what is used twice is asked back; meanwhile its
//!   instances may answer `busy`, and the call goes elsewhere, or, over attached connections, take more calls than their limit. What is for a
//!   single call is given to nobody else. One that does not read what it is told is cut off.
//! - **After a start** instances that were there before are not dealt with for [`Config::settle`], in which gateways say what they hold.
//!
//! It knows nothing of Functions or Pods.

mod core;
mod door;
pub(crate) mod proof;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::autoscale;
use crate::telemetry::logs::Calls;
use crate::telemetry::metrics::{Counter, Counters, Gauge, Registry};

use self::core::Core;

/// Messages between hub and autoscaler that wait; both hold back and merge what finds no room.
const MESSAGES: usize = 1024;

/// Batches of call records that wait for the log.
const CALLS: usize = 256;

/// How long gateways take to find a new leader, when all is well: they watch the Lease, and try again after a second at most.
pub const SETTLE: Duration = Duration::from_secs(2);

/// What a hub is told.
#[derive(Clone)]
pub struct Config {
    /// Where it listens for gateways.
    pub listen: SocketAddr,
    /// The cluster key.
    pub key: [u8; 32],
    /// How long after the start gateways are waited for that know instances from before. Default: [`SETTLE`].
    pub settle: Duration,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("settle", &self.settle)
            .finish_non_exhaustive()
    }
}

/// Why there is no hub.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address cannot be listened on.
    #[error("cannot listen for gateways on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The controller's side. [`Hub::run`] is its life.
#[derive(Debug)]
pub struct Hub {
    config: Config,
    listener: TcpListener,
    address: SocketAddr,
    from_scaler: mpsc::Receiver<hearth_dispatch::ToGateway>,
    to_scaler: mpsc::Sender<hearth_dispatch::ToScaler>,
    calls: mpsc::Sender<Calls>,
    stats: Stats,
}

/// What the others have of it.
#[derive(Debug)]
pub struct Ends {
    /// The autoscaler's.
    pub autoscaler: autoscale::Channels,
    /// Records of calls that gateways have sent; when nobody takes them, they are dropped and counted.
    pub calls: mpsc::Receiver<Calls>,
}

#[derive(Debug, Clone)]
struct Stats {
    gateways: Gauge,
    came: Counter,
    refused: Counters<door::Refusal>,
    cut: Counter,
    calls_dropped: Counter,
}

impl Stats {
    fn new(metrics: &Registry) -> Self {
        Self {
            gateways: metrics.gauge("hearth_hub_gateways", "Gateways that are connected."),
            came: metrics.counter("hearth_hub_connections_total", "Connections of gateways that were let in."),
            refused: metrics.counters(
                "hearth_hub_refused_total",
                "Connections that were not let in: another key, another version, nothing that a gateway says, or too many.",
            ),
            cut: metrics.counter(
                "hearth_hub_cut_total",
                "Gateways that were cut off because they did not read what they were told.",
            ),
            calls_dropped: metrics.counter(
                "hearth_hub_calls_dropped_total",
                "Records of calls that were dropped because the log did not keep up.",
            ),
        }
    }
}

impl Hub {
    /// Listens; nobody is answered before [`Hub::run`].
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn open(config: Config, metrics: &Registry) -> Result<(Self, Ends), Error> {
        let failed = |source| Error::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (to_scaler, from_gateway) = mpsc::channel(MESSAGES);
        let (to_gateway, from_scaler) = mpsc::channel(MESSAGES);
        let (calls, ended_calls) = mpsc::channel(CALLS);
        let stats = Stats::new(metrics);
        let hub = Self { config, listener, address, from_scaler, to_scaler, calls, stats };
        let autoscaler = autoscale::Channels { from_gateway, to_gateway };
        Ok((hub, Ends { autoscaler, calls: ended_calls }))
    }

    /// Where it listens; a port that was 0 is known here.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves gateways until `stop`, or until the autoscaler has ended. Gateways go on with what they hold.
    pub async fn run(self, stop: CancellationToken) {
        let Self { config, listener, from_scaler, to_scaler, calls, stats, .. } = self;
        let (core, events) = Core::new(config.settle, from_scaler, to_scaler, stats.clone());
        let door = door::Door::new(config.key, events, calls, stats);
        // Connections end with the door: none outlives the hub.
        tokio::select! {
            () = stop.cancelled() => {}
            () = core.run() => {}
            () = door.keep(listener) => {}
        }
    }
}
