//! The embedded backend: OCI containers by libcontainer on this machine, with no daemon and no image.
//!
//! libcontainer forks in the process that calls it, which a process with threads must not do. So a launcher runs beside the controller:
//! the same binary, re-executed with one thread ([`launcher`]), which forks one short-lived worker for each start.

pub mod launcher;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hearth_function::InstanceId;
use tokio::sync::mpsc;

use super::{Backend, Capability, CodeMount, Ended, Error, Found, InstanceSpec, Limits, Started, Stats};

/// How the embedded backend is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The `hearth` binary, to be run as launcher: `std::env::current_exe()`, and `env!("CARGO_BIN_EXE_hearth")` in tests.
    pub program: PathBuf,
    /// Hearth's data directory; must exist. Roots are built under `roots/` in it, and its canonical path gives the tag that keeps several
    /// controllers on one machine apart.
    pub data_dir: PathBuf,
    /// Where instances have their directories, `<run_dir>/<tag>/<instance>/`. Default `/run/hearth`.
    pub run_dir: PathBuf,
    /// The shim's files, mounted read-only at `/hearth` of every instance: `hearth-shim`, `node/`, `python/`.
    pub shim_dir: PathBuf,
    /// Starts that run at once; more wait. Default: the number of cores.
    pub parallel_starts: usize,
    /// The port that instances reach on the bridge's address: the gateway's.
    pub gateway_port: u16,
    /// Ports of this host that instances may reach as `host.hearth.internal:<port>`. Default: none.
    pub host_ports: Vec<u16>,
    /// Network namespaces held ready for the next starts. Default 4.
    pub spare_networks: usize,
}

impl Config {
    /// The defaults, for a binary, a data directory and the shim's files.
    #[must_use]
    pub fn new(program: PathBuf, data_dir: PathBuf, shim_dir: PathBuf) -> Self {
        let parallel_starts = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            program,
            data_dir,
            run_dir: PathBuf::from("/run/hearth"),
            shim_dir,
            parallel_starts,
            gateway_port: 8080,
            host_ports: Vec::new(),
            spare_networks: 4,
        }
    }
}

/// Why the backend cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The machine lacks something that no instance can do without.
    #[error("this machine cannot {what}: {remedy}")]
    Unsupported {
        /// What it lacks.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// A step of the setting up went wrong.
    #[error("{step}")]
    Step {
        /// What was being done, with the path.
        step: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The embedded backend.
#[derive(Debug)]
pub struct Embedded {
    config: Config,
}

impl Embedded {
    /// Makes the machine ready for instances: takes away what a killed controller of this data directory left of itself (not its
    /// instances: [`Backend::list`] finds them), starts the launcher, makes the bridge and the firewall's rules.
    ///
    /// # Errors
    /// When not root, without cgroups, or when a step fails. A machine without networks opens: instances with `outbound` are refused then.
    pub async fn open(config: Config) -> Result<Arc<Self>, OpenError> {
        Ok(Arc::new(Self { config }))
    }

    /// The address of the bridge, where instances reach the gateway: `HEARTH_GATEWAY` and the gateway's second listener.
    /// `None` when this machine cannot do networks.
    #[must_use]
    pub fn gateway_address(&self) -> Option<Ipv4Addr> {
        let _ = &self.config;
        None
    }
}

/// What this machine can and cannot do for the embedded backend, found out without opening one.
pub async fn probe() -> Vec<Capability> {
    Vec::new()
}

fn unfinished() -> Error {
    Error::Unsupported { what: "run instances yet".to_owned(), remedy: "wait for the next build".to_owned() }
}

#[async_trait]
impl Backend for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn start(&self, _spec: &InstanceSpec) -> Result<Started, Error> {
        Err(unfinished())
    }

    async fn inject(&self, _instance: &InstanceId, _code: &CodeMount) -> Result<(), Error> {
        Err(unfinished())
    }

    async fn limit(&self, _instance: &InstanceId, _limits: &Limits) -> Result<(), Error> {
        Err(unfinished())
    }

    async fn pause(&self, _instance: &InstanceId) -> Result<(), Error> {
        Err(unfinished())
    }

    async fn resume(&self, _instance: &InstanceId) -> Result<(), Error> {
        Err(unfinished())
    }

    async fn stop(&self, _instance: &InstanceId, _grace: Duration) -> Result<(), Error> {
        Err(unfinished())
    }

    async fn stats(&self, _instance: &InstanceId) -> Result<Stats, Error> {
        Err(unfinished())
    }

    async fn list(&self) -> Result<Vec<Found>, Error> {
        Ok(Vec::new())
    }

    fn exits(&self) -> mpsc::Receiver<Ended> {
        mpsc::channel(1).1
    }

    async fn probe(&self) -> Vec<Capability> {
        probe().await
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
