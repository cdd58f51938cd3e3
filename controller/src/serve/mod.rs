//! Wiring: configuration to running parts, in start-up and shutdown order.

pub mod config;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use crate::backend::Capability;
use config::Config;

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A part is not wired.
    #[error("the server's parts are not wired")]
    NotWired,
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub fn fix(&self) -> Option<String> {
        None
    }
}

/// The running server.
#[derive(Debug)]
pub struct Running {
    gateway: SocketAddr,
    kubeconfig: PathBuf,
}

/// Starts every part.
///
/// # Errors
/// When one does not start; the others are stopped again then.
pub async fn start(_config: Config) -> Result<Running, Error> {
    Err(Error::NotWired)
}

/// What this machine can and cannot do, looked at without a server.
pub async fn probe(_config: &Config) -> Vec<Capability> {
    Vec::new()
}

impl Running {
    /// Where functions answer.
    #[must_use]
    pub fn gateway_address(&self) -> SocketAddr {
        self.gateway
    }

    /// What clients connect with.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Returns when a part has ended by itself and the server cannot go on: which, and why.
    ///
    /// # Cancel safety
    /// It can be dropped and called again.
    pub async fn failed(&mut self) -> String {
        std::future::pending().await
    }

    /// Drains and stops everything, in order, within the configured deadline; once `hurry` is cancelled, running calls are not waited for.
    pub async fn stop(self, hurry: CancellationToken) {
        drop(hurry);
    }
}
