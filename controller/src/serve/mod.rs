//! Wiring: configuration to running parts, in start-up and shutdown order.
//!
//! Start: data directory and lock → store → logs → shim's files → backend, and what it finds of an earlier run → autoscaler → deployer,
//! which routes what was serving before → gateway → management API. Whatever fails, the parts before it are stopped again.
//!
//! Stop, within one deadline: not healthy any more, no new deployments → the gateway takes no new connections and ends its requests
//! → instances drain and stop → management API → logs, store, backend. What had to be cut off is said in the log.
//!
//! Each part is a task of [`Running`]; one that ends by itself ends the server, loudly: see [`Running::failed`].

mod addresses;
pub mod builder;
pub mod cluster;
pub mod config;
mod invoke;
mod lock;
mod memory;
mod parts;
mod running;
mod stores;
mod wire;

pub(crate) use memory::few_arenas;
pub use running::{Calls, CutOff, Running};
pub use stores::Error as StoresError;
pub use wire::{Error, start};

use crate::backend::{Capability, docker, embedded};
use config::Config;

/// What this machine can and cannot do, looked at without a server.
pub async fn probe(config: &Config) -> Vec<Capability> {
    match config.main.backend.as_str() {
        config::DOCKER => docker::probe(config.docker_host().as_deref()).await,
        _ => embedded::probe().await,
    }
}
