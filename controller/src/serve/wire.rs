//! Starts every part with what it needs of the others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::config::{Config, DOCKER, Size};
use super::lock;
use super::memory;
use super::parts::{Health, Wired};
use super::running::{Running, Tasks};
use crate::autoscale::{self, Adoptable};
use crate::backend::interpreters::Catalogue;
use crate::backend::{self, Backend, ImageForm, docker, embedded, shim_files};
use crate::build::{self, Bundles, Dependencies, Fetcher, Images};
use crate::gateway::{self, Gateway};
use crate::pool::Pool;
use crate::store::{self, Store};
use crate::telemetry::chain;
use crate::telemetry::logs::{self, Calls, Logs};
use crate::telemetry::metrics::Registry;
use crate::{api, deploy};

/// Messages between gateway and autoscaler that wait; both hold back and merge what finds no room.
pub(super) const MESSAGES: usize = 1024;

/// Batches of call records that wait for the log.
pub(super) const CALLS: usize = 64;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The logs of functions.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// The files that instances see.
    #[error(transparent)]
    Shim(#[from] shim_files::Error),
    /// The backend.
    #[error(transparent)]
    Open(#[from] backend::OpenError),
    /// What an earlier run left cannot be looked at.
    #[error("cannot look for instances of an earlier run")]
    Backend(#[from] backend::Error),
    /// Bundles.
    #[error(transparent)]
    Bundles(#[from] build::bundles::Error),
    /// Sources that lie elsewhere.
    #[error(transparent)]
    Fetch(#[from] build::fetch::Error),
    /// Images.
    #[error(transparent)]
    Images(#[from] build::images::Error),
    /// Dependencies.
    #[error(transparent)]
    Dependencies(#[from] build::dependencies::Error),
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
        let listen = |source: &io::Error, option: &str| {
            (source.kind() == io::ErrorKind::AddrInUse)
                .then(|| format!("another program listens there: choose another address with {option}"))
        };
        match self {
            Self::Lock(lock::Error::Held { .. }) => {
                Some("stop the other one, or give this one a --data-dir of its own".to_owned())
            }
            Self::Lock(lock::Error::File { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("start hearth as root, or give it a --data-dir that it may write".to_owned())
            }
            Self::Gateway(gateway::Error::Listen { source, .. }) | Self::Listen { source, .. } => {
                listen(source, "--listen")
            }
            Self::Api(api::Error::Listen { source, .. }) => listen(source, "--management"),
            _ => None,
        }
    }
}

/// Starts every part. The caller sets up the diagnostics before, and waits for signals after.
///
/// # Errors
/// When one does not start; the others are stopped again then, and instances of an earlier run are left as they are.
pub async fn start(config: Config) -> Result<Running, Error> {
    let data = config.main.data_dir.clone();
    crate::backend::interpreters::remember_in(&data);
    let lock = lock::lock(&data)?;
    let listen = with_port(config.gateway.listen)?;

    let store = Store::open(store::Config::new(data.join("hearth.redb"))).await?;
    let limits = logs::Limits {
        per_function: config.logs.per_function.as_bytes(),
        per_call: config.logs.per_call.as_bytes(),
    };
    let (logs, writer) = Logs::open(data.join("logs"), limits)?;
    let mut tasks = Tasks::default();
    tasks.spawn_blocking("log writer", move || writer.run());
    let followed = store.clone();
    tasks.spawn("memory", async move {
        memory::run(followed).await;
        Ok(())
    });

    let shim = shim_files::install(&data)?;
    let (backend, bridge) = open_backend(&config, listen, shim).await?;
    let bridge = bridge.map(|address| SocketAddr::from((address, listen.port())));
    let started = Start { config, data, lock, listen, bridge, store, logs, backend, tasks };
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
    data: PathBuf,
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
        let adoptable = self.adoptable().await?;
        let bundles = Bundles::open(&self.data, bundle_limits(&self.config))?;
        let fetching =
            build::fetch::Config { limits: bundle_limits(&self.config), timeout: self.config.build.timeout };
        let fetcher = Fetcher::open(&self.data, bundles.clone(), fetching)?;
        let images = Images::open(&self.data, images_config(&self.config))?;
        let dependencies =
            Arc::new(Dependencies::open(&self.data, Arc::clone(&self.backend), build_config(&self.config))?);

        let (to_scaler, from_gateway) = mpsc::channel(MESSAGES);
        let (to_gateway, from_scaler) = mpsc::channel(MESSAGES);
        let (calls, ended_calls) = mpsc::channel(CALLS);
        let scaling = autoscale::Config {
            parallelism: NonZeroU32::new(self.config.start_parallelism()).unwrap_or(NonZeroU32::MIN),
            drain: self.config.drain.deadline,
            prewarm: prewarming(&self.config),
            keep_free_bytes: self.config.memory.keep_free.map(Size::as_bytes),
        };
        let pool = Pool::new(Arc::clone(&self.backend), self.logs.clone());
        let freezer = Some(pool.freezer());
        let gateway_channels = gateway::Channels { to_scaler, from_scaler, calls, freezer };
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
        let sources = deploy::Sources {
            bundles: bundles.clone(),
            dependencies: Arc::clone(&dependencies),
            fetcher,
            images: images.clone(),
            engine: (self.backend.image_form() == ImageForm::Reference).then(|| Arc::clone(&self.backend)),
            fixity: self.backend.fixity(),
            program_image: None,
            interpreters: Catalogue::Machine,
            depot: None,
        };
        let routes = deploy::Routes::default();
        let deployer = deploy::Service::new(
            deploy::Config {
                url: format!("http://{}", reachable(self.listen)),
                url_inside: self.bridge.map(|bridge| format!("http://{bridge}")),
                keeping: deploy::Keeping {
                    age: self.config.cache.keep,
                    unused_bytes: self.config.cache.max_unused.as_bytes(),
                },
                finalizer: None,
            },
            deploy::Parts {
                store: self.store.clone(),
                sources,
                autoscaler: autoscaler.clone(),
                routes: routes.clone(),
                logs: self.logs.clone(),
                panics: metrics.counter(
                    "hearth_deploy_panics_total",
                    "Panics in the tasks of Functions; each begins anew.",
                ),
                stores: stores(&metrics),
                // Their parts are on this disk.
                left: std::collections::HashSet::new(),
                // The status says all.
                remarks: None,
            },
        );
        let stop = deploying.clone();
        let (restored, is_restored) = oneshot::channel();
        self.tasks.spawn("deployer", async move {
            let tell = move || {
                let _gone = restored.send(()).is_err();
            };
            deployer.run(stop, tell).await.map_err(|error| chain(&error))
        });
        // Nobody is let in before every function that was serving is routed again. Should the deployer end instead, its task says why.
        let _ended = is_restored.await.is_err();
        let bridge = self.bridge.filter(|_| !self.listen.ip().is_unspecified());
        let gateway_config = self.config.gateway(self.listen, bridge);
        let gateway = Arc::new(Gateway::start(gateway_config, gateway_channels, &metrics)?);
        routes.open(Arc::clone(&gateway) as Arc<dyn deploy::Gateway>);
        drop(routes);

        let wired = Wired {
            autoscaler: autoscaler.clone(),
            backend: Arc::clone(&self.backend),
            bundles,
            images,
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
            dependencies: Some(dependencies),
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

    /// What an earlier run left, each with the last line of it that is kept.
    async fn adoptable(&self) -> Result<Vec<Adoptable>, Error> {
        let mut adoptable = Vec::new();
        for found in self.backend.list().await? {
            let logs_after = match &found.spec.owner {
                Some(owner) if found.ended.is_none() => {
                    self.logs.last_sequence(&owner.function, &found.spec.id).await?
                }
                _ => 0,
            };
            adoptable.push(Adoptable { found, logs_after });
        }
        Ok(adoptable)
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

pub(super) fn prewarming(config: &Config) -> autoscale::Prewarming {
    let configured = &config.prewarm;
    autoscale::Prewarming {
        enabled: configured.enabled,
        size: configured.size,
        max: configured.max,
        ttl: configured.ttl,
        memory_bytes: configured.memory.as_bytes(),
    }
}

pub(super) fn bundle_limits(config: &Config) -> build::Limits {
    let packed_bytes = config.build.max_bundle.as_bytes();
    build::Limits { packed_bytes, unpacked_bytes: packed_bytes.saturating_mul(4), ..build::Limits::default() }
}

pub(super) fn stores(metrics: &Registry) -> deploy::Stores {
    deploy::Stores {
        bytes: [
            metrics.gauge("hearth_bundles_bytes", "Unpacked bundles, at the last look."),
            metrics.gauge("hearth_dependencies_bytes", "Installed dependencies, at the last look."),
            metrics.gauge("hearth_images_bytes", "Unpacked layers of images, at the last look."),
        ],
        removed: metrics.counter(
            "hearth_unused_removed_total",
            "Bundles, dependencies, images and layers that were removed because no Function used them.",
        ),
    }
}

pub(super) fn images_config(config: &Config) -> build::images::Config {
    build::images::Config {
        unpacked_bytes: config.images.max_unpacked.as_bytes(),
        timeout: config.images.timeout,
        access: build::images::Access { plain: config.images.plain_http.clone() },
        ..build::images::Config::default()
    }
}

pub(super) fn build_config(config: &Config) -> build::dependencies::Config {
    let mut install_env = build::dependencies::select_environment(std::env::vars());
    for variable in &config.build.env {
        if let Some((name, value)) = variable.reveal().split_once('=') {
            install_env.insert(name.to_owned(), value.to_owned());
        }
    }
    build::dependencies::Config {
        timeout: config.build.timeout,
        memory_bytes: config.build.memory.as_bytes(),
        installed_bytes: config.build.max_installed.as_bytes(),
        free_bytes: config.build.min_free.as_bytes(),
        install_env,
        ..build::dependencies::Config::default()
    }
}

/// Hands the records of calls to the log, until the gateway has ended.
pub(super) async fn keep_calls(mut ended: mpsc::Receiver<Calls>, logs: Logs) -> Result<(), String> {
    while let Some(calls) = ended.recv().await {
        logs.offer_calls(calls);
    }
    Ok(())
}

/// The address with a port, if it was left to the system: the backend's firewall must know it before the gateway listens. And whether it is
/// free: the gateway's own listeners would share it with another server's.
fn with_port(address: SocketAddr) -> Result<SocketAddr, Error> {
    let taken = TcpListener::bind(address).and_then(|listener| listener.local_addr());
    taken.map_err(|source| Error::Listen { address, source })
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
