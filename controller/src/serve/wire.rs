//! Starts every part with what it needs of the others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::config::{Config, DOCKER, Size};
use super::lock;
use super::memory;
use super::parts::{Health, Wired};
use super::running::{Running, Tasks};
use super::stores::{self, Stores};
use crate::autoscale;
use crate::backend::{self, Backend, docker, embedded, shim_files};
use crate::gateway::{self, Gateway};
use crate::pool::Pool;
use crate::store::{self, Store};
use crate::telemetry::chain;
use crate::telemetry::logs::{Calls, Logs};
use crate::telemetry::metrics::Registry;
use crate::{api, deploy};

/// Messages between gateway and autoscaler that wait; both hold back and merge what finds no room.
pub(super) const MESSAGES: usize = 1024;

/// Batches of call records that wait for the log.
pub(super) const CALLS: usize = 64;

/// What pooled instances may hold together on one machine where nothing is configured: some twenty of them.
const POOLED: Size = Size::mib(512);

/// And in a cluster, where each is a Pod, for which its node keeps its whole limit: 32 with the default of a manifest.
pub(super) const POOLED_IN_CLUSTER: Size = Size::mib(4096);

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The files that instances see.
    #[error(transparent)]
    Shim(#[from] shim_files::Error),
    /// The backend.
    #[error(transparent)]
    Open(#[from] backend::OpenError),
    /// What is kept on this machine.
    #[error(transparent)]
    Stores(#[from] stores::Error),
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] gateway::Error),
    /// The management API.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// The binary cannot find itself, to be run as the launcher of containers.
    #[error("cannot find the hearth binary")]
    Program(#[source] io::Error),
    /// The gateway's address cannot be taken.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        match self {
            Self::Lock(lock::Error::Held { .. }) => {
                Some("stop the other one, or give this one a --data-dir of its own".to_owned())
            }
            Self::Lock(lock::Error::File { source, .. }) => Some(unusable(source)),
            Self::Gateway(gateway::Error::Listen { source, .. }) | Self::Listen { source, .. } => {
                listen(source, "--listen")
            }
            Self::Api(api::Error::Listen { source, .. }) => listen(source, "--management"),
            _ => None,
        }
    }
}

/// What to do about an address that cannot be listened on.
fn listen(source: &io::Error, option: &str) -> Option<String> {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            Some(format!("another program listens there: choose another address with {option}"))
        }
        io::ErrorKind::AddrNotAvailable => Some(format!(
            "this machine has no such address: give {option} 127.0.0.1 for this machine alone, or 0.0.0.0 for all of its addresses"
        )),
        io::ErrorKind::PermissionDenied => {
            Some(format!("start hearth as root, or give {option} a port above 1023"))
        }
        _ => None,
    }
}

/// What to do about a data directory that cannot be used.
fn unusable(source: &io::Error) -> String {
    let what = match source.kind() {
        io::ErrorKind::PermissionDenied => "start hearth as root, or give it a --data-dir that it may write",
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            "that is a file: name a directory with --data-dir"
        }
        io::ErrorKind::StorageFull => "make room on the disk, or name a directory of another with --data-dir",
        _ => "name a directory that can be written with --data-dir",
    };
    what.to_owned()
}

/// Starts every part. The caller sets up the diagnostics before, and waits for signals after.
///
/// # Errors
/// When one does not start; the others are stopped again then, and instances of an earlier run are left as they are.
pub async fn start(config: Config) -> Result<Running, Error> {
    let data = config.main.data_dir.clone();
    let (lock, listen) = claim(&config)?;
    crate::backend::interpreters::remember_in(&data);

    let store = Store::open(store::Config::new(data.join("hearth.redb"))).await?;
    let mut tasks = Tasks::default();
    let logs = stores::open_logs(&config, &mut tasks)?;
    let versions = store.changes();
    tasks.spawn("memory", async move {
        memory::run(versions).await;
        Ok(())
    });

    let shim = shim_files::install(&data)?;
    let (backend, bridge) = open_backend(&config, listen, shim).await?;
    let bridge = bridge.map(|address| SocketAddr::from((address, listen.port())));
    let started = Start { config, lock, listen, bridge, store, logs, backend, tasks };
    let backend = Arc::clone(&started.backend);
    match started.go_on().await {
        Ok(running) => Ok(running),
        Err(error) => {
            if let Err(closing) = backend.close().await {
                tracing::warn!(error = chain(&closing), "the backend left something behind");
            }
            Err(error)
        }
    }
}

/// What is there when the backend is open.
struct Start {
    config: Config,
    lock: lock::Lock,
    listen: SocketAddr,
    bridge: Option<SocketAddr>,
    store: Store,
    logs: Logs,
    backend: Arc<dyn Backend>,
    tasks: Tasks,
}

impl Start {
    async fn go_on(mut self) -> Result<Running, Error> {
        let metrics = Registry::new();
        let found = self.backend.list().await.map_err(stores::Error::from)?;
        let adoptable = stores::adoptable(found, &self.store, &self.logs).await?;
        let stores = Stores::open(&self.config, &self.backend)?;

        let (to_scaler, from_gateway) = mpsc::channel(MESSAGES);
        let (to_gateway, from_scaler) = mpsc::channel(MESSAGES);
        let (calls, ended_calls) = mpsc::channel(CALLS);
        let scaling = autoscale::Config {
            parallelism: NonZeroU32::new(self.config.start_parallelism()).unwrap_or(NonZeroU32::MIN),
            drain: self.config.drain.deadline,
            prewarm: prewarming(&self.config, POOLED),
            keep_free_bytes: self.config.memory.keep_free.map(Size::as_bytes),
        };
        let pool = Pool::new(Arc::clone(&self.backend), self.logs.clone());
        let freezer = Some(pool.freezer());
        let strain = Some(pool.strain());
        let gateway_channels = gateway::Channels { to_scaler, from_scaler, calls, freezer, strain };
        let channels = autoscale::Channels { from_gateway, to_gateway };
        let (service, autoscaler) =
            autoscale::Service::new(scaling, pool, self.logs.clone(), channels, adoptable, &metrics);
        self.tasks.spawn("autoscaler", async move {
            service.run().await;
            Ok(())
        });
        self.tasks.spawn("call log", keep_calls(ended_calls, self.logs.clone()));

        let health = Arc::new(Health::default());
        let deploying = CancellationToken::new();
        let routes = deploy::Routes::default();
        let deployer = deploy::Service::new(
            deploy::Config {
                url: format!("http://{}", reachable(self.listen)),
                url_inside: self.bridge.map(|bridge| format!("http://{bridge}")),
                keeping: stores::keeping(&self.config),
                finalizer: None,
                isolation: deploy::Isolation::Everywhere,
            },
            deploy::Parts {
                store: self.store.clone(),
                sources: stores.sources(&self.backend),
                autoscaler: autoscaler.clone(),
                routes: routes.clone(),
                logs: self.logs.clone(),
                // Their parts are on this disk.
                left: std::collections::HashMap::new(),
                // The status says all.
                remarks: None,
            },
            &metrics,
        );
        // Nobody is let in before every function that was serving is routed again.
        self.tasks.deploy(deployer, deploying.clone()).await;
        let bridge = self.bridge.filter(|_| !self.listen.ip().is_unspecified());
        let gateway_config = self.config.gateway(self.listen, bridge);
        let gateway = Arc::new(Gateway::start(gateway_config, gateway_channels, &metrics)?);
        routes.open(Arc::clone(&gateway) as Arc<dyn deploy::Gateway>);
        drop(routes);

        let wired = Wired {
            autoscaler: autoscaler.clone(),
            backend: Arc::clone(&self.backend),
            bundles: stores.bundles,
            images: stores.images,
            logs: self.logs.clone(),
            metrics,
            gateway: reachable(self.listen).to_string(),
            health: Arc::clone(&health),
            depot: None,
        };
        let mut running = Running {
            health,
            tasks: self.tasks,
            deploying,
            gateway: Some(gateway),
            address: self.listen,
            autoscaler,
            api: None,
            kubeconfig: self.config.kubeconfig(),
            dependencies: Some(stores.dependencies),
            logs: self.logs,
            store: self.store.clone(),
            backend: self.backend,
            drain: self.config.drain.deadline,
            _lock: self.lock,
        };
        match api::start(self.config.api(), self.store, Arc::new(wired)).await {
            Ok(api) => running.api = Some(api),
            Err(error) => {
                running.stop(CancellationToken::new()).await;
                return Err(error.into());
            }
        }
        Ok(running)
    }
}

/// The configured backend, and the address by which its instances reach the gateway.
async fn open_backend(
    config: &Config,
    listen: SocketAddr,
    shim: PathBuf,
) -> Result<(Arc<dyn Backend>, Option<Ipv4Addr>), Error> {
    if config.main.backend == DOCKER {
        let docker = docker::Docker::open(docker_config(config, listen, shim)).await?;
        let bridge = docker.gateway_address();
        return Ok((docker, bridge));
    }
    let embedded = embedded::Embedded::open(embedded_config(config, listen, shim)?).await?;
    let bridge = embedded.gateway_address();
    Ok((embedded, bridge))
}

fn docker_config(config: &Config, listen: SocketAddr, shim: PathBuf) -> docker::Config {
    docker::Config {
        host: config.docker_host(),
        tcp: config.docker.tcp,
        pull_timeout: config.images.timeout,
        parallel_starts: usize::try_from(config.start_parallelism()).unwrap_or(usize::MAX),
        gateway_port: listen.port(),
        host_ports: config.network.host_ports.clone(),
        interfaces: config.network.interfaces.clone(),
        ..docker::Config::new(config.main.data_dir.clone(), shim)
    }
}

fn embedded_config(config: &Config, listen: SocketAddr, shim: PathBuf) -> Result<embedded::Config, Error> {
    let program = std::env::current_exe().map_err(Error::Program)?;
    Ok(embedded::Config {
        parallel_starts: usize::try_from(config.start_parallelism()).unwrap_or(usize::MAX),
        gateway_port: listen.port(),
        host_ports: config.network.host_ports.clone(),
        interfaces: config.network.interfaces.clone(),
        ..embedded::Config::new(program, config.main.data_dir.clone(), shim)
    })
}

/// `memory`: what pooled instances may hold where it is not configured.
pub(super) fn prewarming(config: &Config, memory: Size) -> autoscale::Prewarming {
    let configured = &config.prewarm;
    autoscale::Prewarming {
        enabled: configured.enabled,
        size: configured.size,
        max: configured.max,
        ttl: configured.ttl,
        memory_bytes: configured.memory.unwrap_or(memory).as_bytes(),
    }
}

/// Hands the records of calls to the log, until the gateway has ended.
pub(super) async fn keep_calls(mut ended: mpsc::Receiver<Calls>, logs: Logs) -> Result<(), String> {
    while let Some(calls) = ended.recv().await {
        logs.offer_calls(calls);
    }
    Ok(())
}

/// The data directory's lock, and the gateway's address. A second server of one directory is told that; one whose addresses are taken leaves
/// no directory behind that was not there.
fn claim(config: &Config) -> Result<(lock::Lock, SocketAddr), Error> {
    let data = &config.main.data_dir;
    let held = data.exists().then(|| lock::lock(data)).transpose()?;
    let listen = free(config.gateway.listen, config.management.listen)?;
    let lock = match held {
        Some(lock) => lock,
        None => lock::lock(data)?,
    };
    Ok((lock, listen))
}

/// The gateway's address with a port, if it was left to the system: the backend's firewall must know it before the gateway listens. And whether
/// it is free, as the management API's must be: the gateway's own listeners would share it with another server's.
fn free(gateway: SocketAddr, management: SocketAddr) -> Result<SocketAddr, Error> {
    let refused = |source| Error::Listen { address: gateway, source };
    let taken = TcpListener::bind(gateway).map_err(refused)?;
    TcpListener::bind(management).map_err(|source| api::Error::Listen { address: management, source })?;
    taken.local_addr().map_err(refused)
}

/// How this machine itself reaches an address that is listened on.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_whose_address_is_taken_leaves_no_directory() {
        let directory = tempfile::TempDir::new().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (other, free) = (taken.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], 0)));
        let mut config = Config::default();
        config.main.data_dir = directory.path().join("data");
        for (gateway, management, option) in [(other, free, "--listen"), (free, other, "--management")] {
            (config.gateway.listen, config.management.listen) = (gateway, management);
            let error = claim(&config).unwrap_err();
            assert!(error.fix().is_some_and(|fix| fix.contains(option)), "{error}");
            assert!(!config.main.data_dir.exists());
        }
        (config.gateway.listen, config.management.listen) = (free, free);
        let (_lock, listen) = claim(&config).unwrap();
        assert_ne!(listen.port(), 0);
        // Of two servers of one directory the second hears that, whatever its addresses.
        config.gateway.listen = other;
        assert!(matches!(claim(&config), Err(Error::Lock(lock::Error::Held { .. }))));
    }

    #[test]
    fn what_keeps_a_server_from_starting_is_told_with_what_to_do() {
        let directory = tempfile::TempDir::new().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = Error::Lock(lock::lock(&file).unwrap_err());
        assert_eq!(error.fix().as_deref(), Some("that is a file: name a directory with --data-dir"));
        let error = Error::Lock(lock::lock(std::path::Path::new("/proc/hearth")).unwrap_err());
        assert!(error.fix().is_some(), "{error}");

        let said = |kind: io::ErrorKind| {
            let address = SocketAddr::from(([1, 2, 3, 4], 80));
            Error::Listen { address, source: kind.into() }.fix().unwrap_or_default()
        };
        assert!(said(io::ErrorKind::AddrInUse).contains("another program"));
        assert!(said(io::ErrorKind::AddrNotAvailable).contains("0.0.0.0"));
        assert!(said(io::ErrorKind::PermissionDenied).contains("1023"));
    }
}
