//! From a Function to a Revision that can serve.
//!
//! [`Service`] follows the Functions of the store and has one task for each (`function.rs`), which asks `plan` for the next step, takes it,
//! looks again, and writes the status. All of them share the `routes`: the gateway's table is made from all Functions at once.
//!
//! ```text
//!  store ── watch ──► Service ── the newest Function ──► task ── plan(wanted, observed) ──► step ─┬─► bundles, dependencies
//!    ▲                                                    │ ▲                                     ├─► store: Revisions
//!    └───────────────────── status ───────────────────────┘ └───────── observe ───────────────────┼─► autoscaler: put, try, remove
//!                                                                                                 └─► routes ─► gateway
//! ```
//!
//! Every step may be cut off at any point, by a newer spec or a killed controller: the next look sees what it has left.

mod collecting;
mod function;
mod isolation;
mod misnamed;
mod missing;
mod parts;
mod plan;
mod routes;
mod status;
mod table;
mod unknown;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_function::{Function, FunctionId, RevisionId};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

pub use isolation::Isolation;
pub use parts::{Depot, Keyring, Sources, interpreter_of};
pub use routes::{Gateway, Routes};
pub use status::reservation;
pub use table::table;
use unknown::Unknown;

use crate::autoscale::{self, RevisionView, Snapshot};
use crate::backend::Root;
use crate::store::{self, Store};
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::{Counter, Gauge, Registry};

/// When it makes sense to ask again for a Function that may be ready soon.
const COME_AGAIN: Duration = Duration::from_secs(2);

/// How often every Function is looked at though nothing was heard of it.
const RESYNC: Duration = Duration::from_secs(30);

/// How long after a panic the task of a Function begins anew: what made it panic may well be there again.
const RESTART: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 5000 });

/// How often bundles, images and dependencies that nobody names are looked for.
const COLLECT: Duration = Duration::from_secs(600);

/// How the deployer is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How clients reach the gateway, without a slash at its end: `http://127.0.0.1:8080`.
    pub url: String,
    /// How instances reach it, if they can.
    pub url_inside: Option<String>,
    /// How long, and how much, is kept of what nobody uses.
    pub keeping: Keeping,
    /// What holds a deleted Function back until its instances have ended: where the store is not this process's alone, its objects would be
    /// gone before.
    pub finalizer: Option<&'static str>,
    /// Where `network: none` has an effect.
    pub isolation: Isolation,
}

/// How long, and how much, is kept of bundles, dependencies and images that no Function uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// After the last time that somebody asked for it.
    pub age: Duration,
    /// Bytes of each of the three stores.
    pub unused_bytes: u64,
}

/// What the deployer works with.
#[derive(Debug)]
pub struct Parts {
    /// Functions and Revisions.
    pub store: Store,
    /// Code and dependencies.
    pub sources: Sources,
    /// Instances.
    pub autoscaler: autoscale::Handle,
    /// The gateway's table.
    pub routes: Routes,
    /// What functions printed: removed with them.
    pub logs: Logs,
    /// Revisions of which an earlier controller left instances that run, with the root of these.
    pub left: HashMap<RevisionId, Root>,
    /// Where is told what no status says, if somebody listens; what does not fit in is dropped.
    pub remarks: Option<mpsc::Sender<Remark>>,
}

/// Something about a Function that its status may not be able to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// Of which.
    pub function: FunctionId,
    /// A word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

#[derive(Debug)]
struct Stats {
    panics: Counter,
    /// Bytes of bundles, of dependencies and of images.
    bytes: [Gauge; 3],
    removed: Counter,
}

impl Stats {
    fn new(metrics: &Registry) -> Self {
        Self {
            panics: metrics
                .counter("hearth_deploy_panics_total", "Panics in the tasks of Functions; each begins anew."),
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
}

/// Why the deployer ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store is gone, or its disk.
    #[error("the store ended")]
    Store(#[from] store::Error),
}

/// Deploys Functions. [`Service::run`] is its life.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    functions: HashMap<FunctionId, Task>,
    settled: watch::Sender<usize>,
    shown: Shown,
}

/// What the tasks of all Functions share.
#[derive(Debug)]
struct Shared {
    config: Config,
    parts: Parts,
    stats: Stats,
}

#[derive(Debug)]
struct Task {
    id: Id,
    object: watch::Sender<Option<Arc<Function>>>,
    stirred: Arc<Notify>,
}

/// What the autoscaler shows, and what it has shown before. Of a thousand Functions those hear of it that it concerns.
#[derive(Debug)]
struct Shown {
    newest: watch::Receiver<Arc<Snapshot>>,
    before: Arc<Snapshot>,
}

impl Shown {
    /// The Revisions of which something else is shown than before. Waits until there is one; for ever, when nothing is shown any more.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    async fn changes(&mut self) -> Vec<RevisionId> {
        loop {
            if self.newest.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let newest = self.newest.borrow_and_update().clone();
            let before = std::mem::replace(&mut self.before, newest);
            let (before, newest) = (&before.revisions, &self.before.revisions);
            let other = |(id, view): &(&RevisionId, &Arc<RevisionView>)| {
                before.get(*id).is_none_or(|known| !Arc::ptr_eq(known, view))
            };
            let gone = before.keys().filter(|id| !newest.contains_key(*id));
            let changed: Vec<RevisionId> =
                newest.iter().filter(other).map(|(id, _)| id).chain(gone).cloned().collect();
            if !changed.is_empty() {
                return changed;
            }
        }
    }
}

impl Service {
    /// A deployer over `parts`.
    #[must_use]
    pub fn new(config: Config, parts: Parts, metrics: &Registry) -> Self {
        let shown = Shown { newest: parts.autoscaler.watch(), before: Arc::default() };
        let shared = Arc::new(Shared { config, parts, stats: Stats::new(metrics) });
        let settled = watch::Sender::new(0);
        Self { shared, tasks: JoinSet::new(), functions: HashMap::new(), settled, shown }
    }

    /// Deploys what the store asks for until `shutdown`. `restored` is called once, when every Function that was serving before a restart
    /// is routed again (or cannot be).
    ///
    /// # Errors
    /// When the store cannot be followed any more.
    pub async fn run(
        mut self,
        shutdown: CancellationToken,
        restored: impl FnOnce() + Send,
    ) -> Result<(), Error> {
        // Before the list: what is listed meanwhile is not in it.
        let unlisted = self.shared.parts.store.unlisted();
        let (mut watch, known) = self.list()?;
        self.remove_orphaned_logs(&known, &unlisted).await;
        self.restored(&known, &shutdown).await;
        // Instances of an earlier run that no Function has named by now are nobody's, where it is known which Functions there are.
        let _ended = self.shared.parts.autoscaler.settled_but(unlisted.clone()).await.is_err();
        let mut unknown = Unknown::new(unlisted);
        restored();
        let mut collect = tokio::time::interval(COLLECT);
        // Beside the rest: it looks at every file, and asks another machine.
        let mut collecting = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = watch.next() => match event {
                    Ok(event) => {
                        let gone = matches!(event, store::Event::Deleted(_));
                        self.tell(event.object(), gone);
                    }
                    Err(store::Error::Expired { .. }) => (watch, _) = self.list()?,
                    Err(store::Error::Closed) if shutdown.is_cancelled() => break,
                    Err(error) => return Err(error.into()),
                },
                changed = self.shown.changes() => self.stir(&changed),
                Some(joined) = self.tasks.join_next_with_id() => self.ended(joined),
                _ = collect.tick(), if collecting.is_empty() => {
                    if let Some(unknown) = unknown.again(self.shared.parts.store.unlisted()) {
                        let _ended = self.shared.parts.autoscaler.settled_but(unknown).await.is_err();
                    }
                    drop(collecting.spawn(collecting::collect(Arc::clone(&self.shared))));
                }
                Some(joined) = collecting.join_next() => if let Err(error) = joined {
                    tracing::error!(%error, "cleaning up bundles and dependencies panicked");
                },
            }
        }
        collecting.shutdown().await;
        self.tasks.shutdown().await;
        Ok(())
    }

    /// Reads all Functions and starts a task for each that has none. Those that are gone since the last look are told so.
    fn list(&mut self) -> Result<(store::Watch<Function>, HashSet<FunctionId>), Error> {
        let store = self.shared.parts.store.clone();
        let listed = store.list::<Function>(None);
        let known: HashSet<FunctionId> = listed.items.iter().filter_map(|item| item.id().ok()).collect();
        for (id, task) in &self.functions {
            if !known.contains(id) {
                task.object.send_replace(None);
            }
        }
        for function in &listed.items {
            self.tell(function, false);
        }
        Ok((store.watch(listed.resource_version)?, known))
    }

    /// Hands a Function to its task, which begins with the first.
    fn tell(&mut self, function: &Arc<Function>, gone: bool) {
        let Ok(id) = function.id() else {
            if !gone {
                drop(self.tasks.spawn(misnamed::say(Arc::clone(&self.shared), Arc::clone(function))));
            }
            return;
        };
        let newest = (!gone).then(|| Arc::clone(function));
        let finalizer = self.shared.config.finalizer;
        match self.functions.get(&id) {
            // A task that has just ended has taken away everything; the next object begins with nothing.
            Some(task) if !task.object.is_closed() => {
                task.object.send_if_modified(|known| {
                    let news = function::is_news(known.as_deref(), newest.as_deref(), finalizer);
                    // In any case: the one before would be kept in memory for nothing.
                    *known = newest;
                    news
                });
            }
            _ if gone => {}
            _ => self.begin(id, newest, Duration::ZERO),
        }
    }

    fn begin(&mut self, id: FunctionId, newest: Option<Arc<Function>>, after: Duration) {
        let (object, told) = watch::channel(newest);
        let stirred = Arc::new(Notify::new());
        let (heard, settled) = (Arc::clone(&stirred), self.settled.clone());
        let task = function::Task::new(Arc::clone(&self.shared), id.clone(), told, heard, settled);
        let handle = self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            task.run().await;
        });
        self.functions.insert(id, Task { id: handle.id(), object, stirred });
    }

    /// Tells the Functions of these Revisions that something else is shown of them.
    fn stir(&self, revisions: &[RevisionId]) {
        for revision in revisions {
            let Some((function, _)) = revision.as_str().rsplit_once('-') else { continue };
            let task = FunctionId::parse(function).ok().and_then(|id| self.functions.get(&id));
            if let Some(task) = task {
                task.stirred.notify_one();
            }
        }
    }

    /// A task that has ended has nothing left to do; one that has panicked takes no other Function along, and begins anew after a while.
    fn ended(&mut self, joined: Result<(Id, ()), JoinError>) {
        let (task, panic) = match joined {
            Ok((task, ())) => (task, None),
            Err(error) => (error.id(), error.is_panic().then_some(error)),
        };
        let of_task = |(id, one): (&FunctionId, &Task)| (one.id == task).then(|| id.clone());
        // Otherwise another task of its Function has begun meanwhile.
        let Some(function) = self.functions.iter().find_map(of_task) else { return };
        let last = self.functions.remove(&function);
        if let (Some(error), Some(last)) = (panic, last) {
            tracing::error!(%function, %error, "the task of a function has panicked: it begins anew");
            self.shared.stats.panics.inc();
            // A receiver that is gone takes nothing from the last value.
            let newest = last.object.borrow().clone();
            self.begin(function, newest, RESTART);
        }
    }

    /// Waits until each of these Functions' tasks has come to rest or to a step that takes long; not for one that panics.
    async fn restored(&mut self, known: &HashSet<FunctionId>, shutdown: &CancellationToken) {
        let mut settled = self.settled.subscribe();
        let mut wanted = known.len();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                // An error cannot be: the sender is ours.
                _ = settled.wait_for(|settled| *settled >= wanted) => return,
                changed = self.shown.changes() => self.stir(&changed),
                Some(joined) = self.tasks.join_next_with_id() => {
                    wanted = wanted.saturating_sub(usize::from(joined.is_err()));
                    self.ended(joined);
                }
            }
        }
    }

    /// What a Function printed that was deleted while its controller was killed.
    async fn remove_orphaned_logs(&self, known: &HashSet<FunctionId>, unlisted: &BTreeSet<String>) {
        let logs = &self.shared.parts.logs;
        for function in logs.functions().await.unwrap_or_default() {
            if !known.contains(&function)
                && !unlisted.contains(function.namespace())
                && let Err(error) = logs.remove(&function).await
            {
                let error = crate::telemetry::chain(&error);
                tracing::warn!(%function, error, "logs of a deleted function stay");
            }
        }
    }
}
