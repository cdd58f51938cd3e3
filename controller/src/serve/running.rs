//! The running server, and how it ends.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lock::Lock;
use super::parts::Health;
use crate::api::Api;
use crate::autoscale;
use crate::backend::Backend;
use crate::build::Dependencies;
use crate::deploy;
use crate::gateway;
use crate::store::Store;
use crate::telemetry::chain;
use crate::telemetry::logs::Logs;
use crate::telemetry::tracing::TOLD;

/// However long the gateway takes, instances have so much of the deadline left to end in good order.
const FOR_INSTANCES: Duration = Duration::from_secs(2);

/// The running server. Ended by [`Running::stop`]; dropped, it leaves its instances to the next one, as a kill does.
#[derive(Debug)]
pub struct Running {
    pub(super) health: Arc<Health>,
    pub(super) tasks: Tasks,
    /// Ends the deployer.
    pub(super) deploying: CancellationToken,
    pub(super) gateway: Option<Arc<gateway::Handle>>,
    pub(super) address: SocketAddr,
    pub(super) autoscaler: autoscale::Handle,
    pub(super) api: Option<Api>,
    pub(super) kubeconfig: PathBuf,
    pub(super) dependencies: Option<Arc<Dependencies>>,
    pub(super) logs: Logs,
    pub(super) store: Store,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) drain: Duration,
    pub(super) _lock: Lock,
}

/// What a stop did not wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutOff {
    /// Calls that ran.
    pub calls: Calls,
    /// Instances of functions that were killed.
    pub instances: usize,
}

/// What became of the calls that ran when a stop began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// They have ended.
    Ended,
    /// The connections of so many were closed at the deadline.
    Overdue(usize),
    /// Those that had not ended were cut off because the stop was told to hurry.
    Hurried,
}

/// The tasks of the parts, by name.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    set: JoinSet<Result<(), String>>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    /// Runs a part. An error, a panic and an end that nobody asked for are failures of the server.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let id = self.set.spawn(part).id();
        self.names.insert(id, name);
    }

    /// The same for a part that blocks its thread.
    pub(super) fn spawn_blocking(&mut self, name: &'static str, part: impl FnOnce() + Send + 'static) {
        let run = move || {
            part();
            Ok(())
        };
        let id = self.set.spawn_blocking(run).id();
        self.names.insert(id, name);
    }

    /// Starts the deployer, and waits until it knows again what was serving before. Should it end instead, it says why as every part does.
    pub(super) async fn deploy(&mut self, deployer: deploy::Service, stop: CancellationToken) {
        let (restored, is_restored) = oneshot::channel();
        self.spawn("deployer", async move {
            let tell = move || {
                let _gone = restored.send(()).is_err();
            };
            deployer.run(stop, tell).await.map_err(|error| chain(&error))
        });
        let _ended = is_restored.await.is_err();
    }

    /// The next part that ends: its name and how.
    pub(super) async fn next(&mut self) -> Option<(&'static str, String)> {
        let (id, how) = match self.set.join_next_with_id().await? {
            Ok((id, Ok(()))) => (id, "it ended".to_owned()),
            Ok((id, Err(error))) => (id, error),
            Err(error) => {
                let id = error.id();
                (
                    id,
                    if error.is_panic() {
                        panic_text(error.into_panic().as_ref())
                    } else {
                        "cut off".to_owned()
                    },
                )
            }
        };
        Some((self.names.remove(&id).unwrap_or("a part"), how))
    }

    /// Returns when a part has ended by itself, which none may: which, and why.
    ///
    /// # Cancel safety
    /// It can be dropped and called again.
    pub(super) async fn failed(&mut self) -> String {
        match self.next().await {
            Some((part, how)) => format!("the {part} failed: {how}"),
            None => std::future::pending().await,
        }
    }

    /// Whether a part has not ended yet.
    pub(super) fn runs(&self, part: &str) -> bool {
        self.names.values().any(|name| *name == part)
    }

    /// Ends all that runs still, at once.
    pub(super) async fn abort(&mut self) {
        self.set.shutdown().await;
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_default())
}

impl Running {
    /// Where functions answer.
    #[must_use]
    pub fn gateway_address(&self) -> SocketAddr {
        self.address
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
        self.tasks.failed().await
    }

    /// Drains and stops everything, in order, within the configured deadline; once `hurry` is cancelled, running calls are not waited for.
    /// Says what was cut off.
    pub async fn stop(mut self, hurry: CancellationToken) -> CutOff {
        let deadline = Instant::now() + self.drain;
        self.health.stopping();
        if let Some(gateway) = &self.gateway {
            gateway.leave();
        }
        self.deploying.cancel();
        if let Some(dependencies) = self.dependencies.take() {
            dependencies.close().await;
        }
        let calls = self.stop_gateway(deadline, &hurry).await;
        let instances = self.stop_instances(deadline, &hurry).await;
        if let Some(api) = self.api.take() {
            api.stop().await;
        }
        self.logs.close().await;
        self.store.clone().close().await;
        if let Err(error) = self.backend.close().await {
            let error = chain(&error);
            tracing::error!(error, "the backend left something behind");
        }
        self.join().await;
        CutOff { calls, instances }
    }

    async fn stop_gateway(&mut self, deadline: Instant, hurry: &CancellationToken) -> Calls {
        // The deployer holds the other end; it gives it back when it has ended.
        self.wait_for("deployer").await;
        let Some(gateway) = self.gateway.take().and_then(Arc::into_inner) else { return Calls::Ended };
        let grace = deadline.saturating_duration_since(Instant::now()).saturating_sub(FOR_INSTANCES);
        tokio::select! {
            cut = gateway.shutdown(grace) => if cut > 0 {
                tracing::warn!(target: TOLD, requests = cut, "requests cut off: they had not ended by the deadline");
                return Calls::Overdue(cut);
            },
            () = hurry.cancelled() => {
                tracing::warn!(target: TOLD, "requests cut off: told to hurry");
                return Calls::Hurried;
            }
        }
        Calls::Ended
    }

    async fn stop_instances(&mut self, deadline: Instant, hurry: &CancellationToken) -> usize {
        let autoscaler = self.autoscaler.clone();
        let deadline = if hurry.is_cancelled() { Instant::now() } else { deadline };
        let stopping = autoscaler.shutdown(deadline);
        let hurrying = async {
            hurry.cancelled().await;
            autoscaler.shutdown(Instant::now()).await
        };
        let left = tokio::select! {
            left = stopping => left,
            left = hurrying => left,
        };
        if left.busy > 0 {
            tracing::warn!(target: TOLD, instances = left.busy, "instances killed: they had not ended by the deadline");
        }
        if left.instances > 0 {
            tracing::error!(instances = left.instances, "instances could not be taken away");
        }
        left.busy
    }

    /// Waits for one part to end.
    async fn wait_for(&mut self, part: &'static str) {
        while self.tasks.names.values().any(|name| *name == part) {
            if self.tasks.next().await.is_none() {
                return;
            }
        }
    }

    async fn join(&mut self) {
        // All of them have been told to end, or their channels are closed; what does not is aborted with the set.
        let all = async { while self.tasks.next().await.is_some() {} };
        if tokio::time::timeout(FOR_INSTANCES, all).await.is_err() {
            let names: Vec<_> = self.tasks.names.values().collect();
            tracing::warn!(?names, "parts did not end");
        }
    }
}
