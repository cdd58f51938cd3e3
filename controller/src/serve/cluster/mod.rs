//! A controller in a cluster: the same deployer, autoscaler and pool as standalone, over other ends.
//!
//! ```text
//!  standalone                        cluster
//!  Store over a database             Store over the API server          store::kubernetes
//!  embedded, docker                  Pods                               backend::kubernetes
//!  a gateway in this process         gateways of their own              hub
//!  a lock on the data directory      a Lease                            lease
//!  events as a view                  Events                             events
//! ```
//!
//! Start: the management port answers that it stands by → Lease → the store is listed → Pods are found again → deployer, which knows what was
//! serving → hub and management API. A controller that loses the Lease stops at once, with an error, and leaves everything as it is; one that is
//! told to end stops its work, leaves instances as they are, and gives the Lease back, so that another goes on with them.

mod claims;
mod client;
mod depot;
mod ends;
mod events;
mod gateway;
mod key;
mod keyring;
mod label;
mod lead;
mod runtimes;
mod table;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use kube::Client;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use super::addresses;
use super::config::Config;
use super::lock;
use crate::api::{self, Token};
use crate::backend;
use crate::edge;
use crate::lease::{Candidate, Held, Identity, Lost, Timing};
use crate::telemetry::chain;

pub use client::client;
pub(super) use depot::Depot;
use ends::Ends;
pub use gateway::gateway;
pub use key::{Error as KeyError, Key};
pub use lead::Error as LeadError;
pub use runtimes::{RuntimeImage, Runtimes};

/// Why a controller cannot begin, or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no cluster.
    #[error(
        "cannot find the cluster: neither is this a Pod with a service account, nor is there a kubeconfig"
    )]
    Infer(#[source] Box<kube::config::InferConfigError>),
    /// No client of it.
    #[error("cannot make a client of the cluster")]
    Client(#[source] Box<kube::Error>),
    /// The cluster key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The token's file.
    #[error("cannot read the token in {}", path.display())]
    Token {
        /// Which file.
        path: std::path::PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What the file holds.
    #[error("{} holds less than {LEAST_TOKEN_BYTES} bytes: make the token of as many random characters at least", .0.display())]
    ShortToken(std::path::PathBuf),
    /// The data directory.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The management port.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// The gateways' port.
    #[error(transparent)]
    Hub(#[from] crate::hub::Error),
    /// The backend.
    #[error(transparent)]
    Open(#[from] backend::OpenError),
    /// A part does not start.
    #[error(transparent)]
    Lead(#[from] LeadError),
    /// The gateway does not start, or cannot go on.
    #[error(transparent)]
    Gateway(#[from] edge::Error),
    /// Another controller leads, or may.
    #[error("stopped leading: {0}")]
    Lost(#[from] Lost),
    /// A part ended by itself.
    #[error("cannot go on: {0}")]
    Failed(String),
}

/// What a controller has before it leads.
#[derive(Clone)]
struct Ground {
    config: Config,
    client: Client,
    key: Key,
    token: Token,
    /// The Pod, or what stands for it.
    place: String,
    /// Whether it is one.
    is_pod: bool,
    /// Where gateways and instances reach this process.
    address: IpAddr,
}

impl std::fmt::Debug for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ground")
            .field("place", &self.place)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// Descriptors that a controller wants: each instance has one, and there are bounds on all others.
const OPEN_FILES: u64 = 1 << 16;

/// Some systems begin with a thousand, and allow more to whoever asks.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES));
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }) {
        tracing::warn!(%error, wanted, "the limit of open files stays as it is");
    }
}

/// Runs a controller until `stop`: waits for the Lease, works, gives it back.
///
/// # Errors
/// When it cannot begin, has lost the Lease, or a part has failed. The process must end then: what it has under way is cut off.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), Error> {
    raise_open_files();
    let client = client().await?;
    Box::pin(run_with(Ground::new(config, client)?, stop)).await
}

async fn run_with(ground: Ground, stop: CancellationToken) -> Result<(), Error> {
    let _lock = lock::lock(&ground.config.main.data_dir)?;
    let report = ground.report_advertise();
    if is_loopback(&report) {
        tracing::warn!(
            report,
            "instances are told to report to this machine's loopback address, which in a Pod is the Pod itself: none will come up; \
             give --report-advertise HOST:PORT, by which Pods reach this process"
        );
    }
    // Probes are answered from the beginning, and not by the API before there is something to show.
    let mut standby = Box::pin(api::standby(ground.config.controller.management).await?);
    let held = tokio::select! {
        held = ground.candidate().acquire() => held,
        () = &mut standby => return Err(Error::Failed("the management port closed".to_owned())),
        () = stop.cancelled() => return Ok(()),
    };
    lead_with(&ground, held, ends::open(&ground), standby, stop).await
}

/// Works as long as the Lease is held.
async fn lead_with(
    ground: &Ground,
    mut held: Held,
    ends: impl Future<Output = Result<Ends, Error>>,
    mut standby: impl Future<Output = ()> + Unpin,
    stop: CancellationToken,
) -> Result<(), Error> {
    let working = async {
        let starting = async { Ok::<_, Error>(lead::start(ground, ends.await?).await?) };
        let mut leading = tokio::select! {
            leading = starting => leading?,
            () = &mut standby => return Err(Error::Failed("the management port closed".to_owned())),
            () = stop.cancelled() => return Ok(()),
        };
        drop(standby);
        leading.answer(ground).await?;
        let outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            failed = leading.failed() => Err(Error::Failed(failed)),
        };
        leading.stop().await;
        outcome
    };
    // Lost: whatever is under way is dropped where it stands.
    let outcome = tokio::select! {
        biased;
        lost = held.keep() => return Err(lost.into()),
        outcome = working => outcome,
    };
    let unlabelled = async {
        if !ground.is_pod {
            return;
        }
        let (client, namespace) = (&ground.client, &ground.config.cluster.namespace);
        if let Err(error) = label::leave(client, namespace, &ground.place).await {
            tracing::warn!(error = chain(&error), "the label of the leader stays on this Pod");
        }
    };
    let released = async {
        match held.release().await {
            Ok(()) => tracing::info!("the lease is given back"),
            Err(error) => tracing::warn!(error = chain(&error), "the lease was not given back: it runs out"),
        }
    };
    tokio::join!(released, unlabelled);
    outcome
}

impl Ground {
    fn new(mut config: Config, client: Client) -> Result<Self, Error> {
        let key = Key::read(&config.cluster.key_file)?;
        let token = match &config.controller.token_file {
            Some(path) => read_token(path)?,
            None => Token::given(&key.management_token()),
        };
        let pod = pod(&config);
        let address = own_address(&config);
        let controller = &mut config.controller;
        for on in [&mut controller.management, &mut controller.hub_listen, &mut controller.report_listen] {
            *on = addresses::listening(*on, address);
        }
        let is_pod = pod.is_some();
        let place = pod.unwrap_or_else(this_process);
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Ok(Self { config, client, key, token, place, is_pod, address })
    }

    fn candidate(&self) -> Candidate {
        let timing = Timing { duration: self.config.controller.lease_duration };
        let hub = SocketAddr::new(self.address, self.config.controller.hub_listen.port());
        let me = Identity::new(&self.place);
        let key = self.key.fingerprint();
        Candidate::new(self.client.clone(), &self.config.cluster.namespace, me, hub.to_string(), key, timing)
    }

    /// How instances reach the report listener.
    fn report_advertise(&self) -> String {
        let own = || SocketAddr::new(self.address, self.config.controller.report_listen.port()).to_string();
        let advertised = self.config.controller.report_advertise.as_deref();
        advertised.map(addresses::bracketed).unwrap_or_else(own)
    }
}

/// Whether this `host:port` leads a Pod to itself.
fn is_loopback(advertised: &str) -> bool {
    let host = advertised.rsplit_once(':').map_or(advertised, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A token of fewer bytes could be guessed.
const LEAST_TOKEN_BYTES: usize = 16;

/// What the command line must know.
fn read_token(path: &std::path::Path) -> Result<Token, Error> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| Error::Token { path: path.to_owned(), source })?;
    if text.trim().len() < LEAST_TOKEN_BYTES {
        return Err(Error::ShortToken(path.to_owned()));
    }
    Ok(Token::given(&text))
}

/// The Pod that this is.
fn pod(config: &Config) -> Option<String> {
    config.cluster.pod.clone().or_else(|| variable("POD_NAME"))
}

/// Where others reach it.
fn own_address(config: &Config) -> Option<IpAddr> {
    config.cluster.address.or_else(|| variable("POD_IP")?.parse().ok())
}

/// What stands for it elsewhere.
fn this_process() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", std::process::id())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `hearth.dev/instances`: on every Function, until its instances have ended.
const FINALIZER: &str = hearth_function::INSTANCES_FINALIZER;
