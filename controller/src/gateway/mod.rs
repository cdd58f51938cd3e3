//! The request path: listener → route → admission → instance → answer.
//!
//! ```text
//! client ──▶ listener.rs    a thread accepts, hyper reads the head
//!            request.rs     the whole way of one request, top to bottom
//!              routes       host, path, method → Function (crates/dispatch, table swapped whole)
//!              admission.rs a slot on an instance, or a place in the Revision's queue
//!              forward/     frames.rs (shared connection) or attach.rs (dedicated connection)
//!              answer.rs    head and body back, with x-hearth-* and Server-Timing
//! ```
//!
//! Each of the gateway's threads has its own listener (`SO_REUSEPORT`), its own runtime and its own connections to instances. A request is
//! served within the task of its client's connection: no task hop, and no lock but a short one for each Revision, in which
//! [`hearth_dispatch::Dispatch`] decides. One more thread, `control`, takes the scaler's messages and reports the load.
//!
//! **Paths.** A function sees the whole path of the request, whichever route matched; of a path that begins with its own name,
//! `/function/<namespace>/<name>`, what comes after that. The part that such a path or a `Prefix` route matched is in
//! `X-Forwarded-Prefix`.
//!
//! **Errors** that Hearth itself answers are one table, in errors.rs.

mod admission;
mod answer;
mod body;
mod config;
mod control;
mod errors;
mod forward;
mod http2;
mod lane;
mod listener;
mod outbox;
mod request;
mod revisions;
mod stats;
mod text;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_dispatch::routes::Conflict;
use hearth_dispatch::{ToGateway, ToScaler};
use tokio::sync::mpsc;

use crate::pool::{Freezer, Strain};
use crate::telemetry::logs::Calls;
use crate::telemetry::metrics::Registry;

pub use config::{Callers, Config, ForwardingLimits, Limits, Served, Timeouts, Unready};
pub(crate) use forward::socket::tune;

/// What connects the gateway with the other parts. All channels are bounded.
#[derive(Debug)]
pub struct Channels {
    /// To the scaler. When it is full, messages are held back and capacity wishes of one Revision merged.
    pub to_scaler: mpsc::Sender<ToScaler>,
    /// From the scaler.
    pub from_scaler: mpsc::Receiver<ToGateway>,
    /// Records of calls that have ended, in batches (each at most 50 ms late): waking the reader for each call would cost more than the
    /// call's own book-keeping. When it is full, records are dropped and counted.
    pub calls: mpsc::Sender<Calls>,
    /// What paused instances are thawed by; without it none may be paused.
    pub freezer: Option<Arc<Freezer>>,
    /// What it is asked by at which limit an instance stands, when a call there has failed; without it that is not said.
    pub strain: Option<Strain>,
}

/// Why the gateway does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A thread or its runtime cannot be made.
    #[error("cannot start a thread of the gateway")]
    Thread(#[source] std::io::Error),
}

/// Starts gateways.
#[derive(Debug)]
pub struct Gateway;

impl Gateway {
    /// Listens and serves until [`Handle::shutdown`]. Until [`Handle::serve`] is called, every path is a 404.
    ///
    /// # Errors
    /// When an address cannot be listened on or a thread cannot be made; nothing is left running then.
    pub fn start(config: Config, channels: Channels, metrics: &Registry) -> Result<Handle, Error> {
        control::start(config, channels, metrics)
    }
}

/// A running gateway. Dropping it stops its threads without draining.
#[derive(Debug)]
pub struct Handle {
    revisions: Arc<revisions::Revisions>,
    addresses: Vec<SocketAddr>,
    threads: control::Threads,
}

impl Handle {
    /// The addresses it listens on, in the order of the configuration, the bridge last; ports that were 0 are known here.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Replaces all Functions at once. Requests that wait for a Revision which is no longer named go to their Function's present one;
    /// calls that run are not touched. Returns the routes that a Function did not get because an older one has them.
    pub fn serve(&self, functions: Vec<Served>) -> Vec<Conflict> {
        self.serve_all(functions, Vec::new())
    }

    /// [`Handle::serve`], and who asks for a Function of which nothing serves yet is told why.
    pub fn serve_all(&self, functions: Vec<Served>, unready: Vec<Unready>) -> Vec<Conflict> {
        self.revisions.serve(functions, unready)
    }

    /// Of these namespaces it is not known which Functions they have: who asks for one by its name is told to come again (503
    /// `function_not_ready`), not that there is none. Replaces those that were named before.
    pub fn unread(&self, namespaces: BTreeSet<String>) {
        self.revisions.unread.store(Arc::new(namespaces));
    }

    /// Says to clients that they should go on elsewhere, and serves on: an HTTP/1.1 connection is closed with its next answer, one of HTTP/2
    /// that is there takes no new requests. Connections that are idle stay, so that none is closed under a request that is on its way.
    pub fn leave(&self) {
        self.threads.leave();
    }

    /// Takes no new connections, closes those on which no request comes in the next moment, lets running requests end for at most `grace`, then
    /// cuts them. Connections that the kernel had made already are served, as places become free. Returns how many were cut.
    pub async fn shutdown(self, grace: Duration) -> usize {
        self.threads.shutdown(grace).await
    }
}

#[cfg(test)]
mod tests;
