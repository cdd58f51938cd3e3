//! The gateway's table, made from all Functions at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hearth_dispatch::routes::{Claim, Conflict, PathKind};
use hearth_function::spec::{PathType, Timeouts};
use hearth_function::{Function, FunctionId, RevisionId};
use tokio::sync::watch;

use crate::gateway::{self, Served};

/// What is told of the Functions that serve. The gateway is one; tests have another.
pub trait Gateway: Send + Sync + fmt::Debug + 'static {
    /// Replaces all Functions at once, and returns the routes that a Function did not get because an older one has them.
    fn serve(&self, functions: Vec<Served>) -> Vec<Conflict>;
}

impl Gateway for gateway::Handle {
    fn serve(&self, functions: Vec<Served>) -> Vec<Conflict> {
        Self::serve(self, functions)
    }
}

/// The Functions that serve. Clones share one table.
///
/// It is filled before the gateway listens ([`Routes::open`]), so that nobody is told after a restart that a function is not there.
#[derive(Debug, Clone)]
pub struct Routes {
    gateway: Arc<OnceLock<Arc<dyn Gateway>>>,
    served: Arc<Mutex<BTreeMap<FunctionId, Served>>>,
    conflicts: watch::Sender<Arc<Vec<Conflict>>>,
}

impl Default for Routes {
    /// An empty table, with no gateway yet.
    fn default() -> Self {
        Self {
            gateway: Arc::default(),
            served: Arc::default(),
            conflicts: watch::Sender::new(Arc::default()),
        }
    }
}

impl Routes {
    /// Gives the table to `gateway`, now and whenever it changes. A second gateway is not taken.
    pub fn open(&self, gateway: Arc<dyn Gateway>) {
        let _taken = self.gateway.set(gateway).is_err();
        self.change(|_| {});
    }

    /// Leads a Function's routes to a Revision.
    pub(super) fn serve(&self, served: Served) {
        self.change(|table| {
            table.insert(served.function.clone(), served);
        });
    }

    /// Takes a Function's routes away.
    pub(super) fn unserve(&self, function: &FunctionId) {
        self.change(|table| {
            table.remove(function);
        });
    }

    /// Follows the routes that Functions did not get.
    pub(super) fn conflicts(&self) -> watch::Receiver<Arc<Vec<Conflict>>> {
        self.conflicts.subscribe()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<FunctionId, Served>)) {
        // Held while the gateway takes the table, so that an older one never comes after a newer. Nothing waits in it.
        let mut table = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut table);
        let Some(gateway) = self.gateway.get() else { return };
        let conflicts = gateway.serve(table.values().cloned().collect());
        self.conflicts.send_if_modified(|known| {
            let news = **known != conflicts;
            if news {
                *known = Arc::new(conflicts);
            }
            news
        });
    }
}

/// A Function as the gateway serves it.
pub(super) fn served(
    function: &Function,
    id: &FunctionId,
    revision: RevisionId,
    timeouts: &Timeouts,
) -> Served {
    Served {
        function: id.clone(),
        created: crate::store::creation_order(&function.metadata),
        revision,
        timeouts: gateway::Timeouts {
            queue: timeouts.queue.get(),
            start: timeouts.start.get(),
            execute: timeouts.execute.get(),
            idle_stream: timeouts.idle_stream.get(),
        },
        claims: function
            .spec
            .http_triggers()
            .map(|trigger| Claim {
                host: trigger.host.clone(),
                path: trigger.path.clone(),
                kind: match trigger.path_type {
                    PathType::Exact => PathKind::Exact,
                    PathType::Prefix => PathKind::Prefix,
                },
                methods: trigger.methods.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    }
}

/// Where a Function answers: its first route, or the path that every Function has.
pub(super) fn url(base: &str, function: &Function, id: &FunctionId) -> String {
    match function.spec.http_triggers().next() {
        Some(trigger) if trigger.host.is_empty() => format!("{base}{}", trigger.path),
        Some(trigger) => {
            let port = base.rsplit_once(':').map(|(_, port)| port).filter(|port| *port != "80");
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("http://{}{port}{}", trigger.host, trigger.path)
        }
        None => format!("{base}/function/{id}"),
    }
}
