//! The life of instances: start, load, adopt, drain, reap.
//!
//! [`Pool`] owns every instance of this controller. It decides nothing: the autoscaler, which owns the pool, says what to start and what to
//! stop, and [`Pool::next`] says what became of it. [`life::State`] is the life of one instance; each has a task of its own
//! (`instance.rs`), which talks to the backend and to the instance, and which ends when nothing of the instance is left.
//!
//! ```text
//!   autoscaler ── start, drain, stop ──► Pool ── orders (latest value) ──► task of an instance ──► Backend
//!        ▲                                │ ▲                                        │
//!        └────────── Event ───────────────┘ └──────────── reports (bounded) ─────────┘
//! ```

mod failure;
mod instance;
pub mod life;
pub(crate) mod template;

#[cfg(test)]
pub(crate) mod staged;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use hearth_dispatch::Endpoint;
use hearth_function::{FunctionId, InstanceId, RevisionId};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use failure::INTERNAL;

pub use failure::Failure;
pub use instance::Phases;
pub use template::{Places, Template};

use crate::backend::{Backend, Ended, Found};
use crate::telemetry::logs::Logs;
use instance::{Orders, Origin, Report, Task, What, Wish};
use life::State;

/// Time between SIGTERM and SIGKILL for an instance whose calls have ended: time to close a database connection.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Reports that wait for the pool. A task that finds no room waits.
const REPORTS: usize = 256;

/// Every instance of this controller.
#[derive(Debug)]
pub struct Pool {
    backend: Arc<dyn Backend>,
    logs: Logs,
    instances: BTreeMap<InstanceId, Entry>,
    tasks: JoinSet<()>,
    /// Whose task is which; a task without an instance takes remains away.
    owners: HashMap<Id, InstanceId>,
    reports: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    exits: mpsc::Receiver<Ended>,
    mishaps: Mishaps,
}

/// What should not happen, since the pool was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mishaps {
    /// Times that the backend could not take an instance away.
    pub not_removed: u64,
    /// Tasks of instances that panicked.
    pub panics: u64,
}

#[derive(Debug)]
struct Entry {
    template: Arc<Template>,
    state: State,
    began: Instant,
    started: Timestamp,
    phases: Phases,
    orders: watch::Sender<Orders>,
}

/// What became of an instance.
#[derive(Debug)]
pub struct Event {
    /// Which.
    pub instance: InstanceId,
    /// Of which Revision.
    pub revision: RevisionId,
    /// What happened.
    pub what: Happened,
}

/// What happened to an instance.
#[derive(Debug)]
pub enum Happened {
    /// It can take calls.
    Ready {
        /// As gateways see it.
        endpoint: Box<Endpoint>,
        /// How long the parts of its start took.
        phases: Phases,
        /// Calls that it had ended before: not 0 for one that was adopted.
        served: u64,
    },
    /// It did not come up. Its remains are being taken away.
    Failed(Failure),
    /// Its process ended by itself. Its remains are being taken away.
    Ended {
        /// How: `exit code 1`.
        how: String,
    },
    /// Its calls did not end in time; it is being stopped.
    Overdue,
    /// Nothing of it is left.
    Removed,
}

/// An instance as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its name.
    pub id: InstanceId,
    /// For which Function.
    pub function: FunctionId,
    /// For which Revision.
    pub revision: RevisionId,
    /// Its state.
    pub state: State,
    /// Calls it may run at once.
    pub slots: u32,
    /// When its start began (or its adoption).
    pub started: Timestamp,
    /// How long the parts of its start took, as far as it is.
    pub phases: Phases,
}

impl Pool {
    /// An empty pool. It takes the backend's one subscription to exits.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, logs: Logs) -> Self {
        let (reporter, reports) = mpsc::channel(REPORTS);
        Self {
            exits: backend.exits(),
            backend,
            logs,
            instances: BTreeMap::new(),
            tasks: JoinSet::new(),
            owners: HashMap::new(),
            reports,
            reporter,
            mishaps: Mishaps::default(),
        }
    }

    /// Starts an instance and says its name. `waited` is how long its turn took, for the phases.
    pub fn start(&mut self, template: &Arc<Template>, waited: Duration) -> InstanceId {
        let id = self.new_id(template.function());
        let spec = template.spec(id.clone(), secret());
        self.spawn(template, spec, Origin::New { waited });
        id
    }

    /// Takes over an instance that an earlier controller started; its lines up to `logs_after` are kept already. It is Ready when it
    /// answers, and fails like a start when it does not.
    pub fn adopt(&mut self, template: &Arc<Template>, found: Found, logs_after: u64) {
        let origin = Origin::Adopted { started: found.started, logs_after };
        self.spawn(template, found.spec, origin);
    }

    /// Takes away an instance that nobody wants any more, or what is left of it.
    pub fn reap(&mut self, instance: InstanceId, grace: Duration) {
        self.take_away(instance, grace);
    }

    /// Lets an instance end its calls, for at most `time`. When they have ended, [`Pool::stop`] it.
    pub fn drain(&mut self, instance: &InstanceId, why: &str, time: Duration) {
        let wish = Wish::Drain { until: Instant::now() + time };
        self.order(instance, wish, life::Event::Drain { why: why.to_owned() });
    }

    /// Ends an instance: SIGTERM, and SIGKILL after `grace`. One that is not there is no error.
    pub fn stop(&mut self, instance: &InstanceId, why: &str, grace: Duration) {
        self.order(instance, Wish::Stop { grace }, life::Event::Stop { why: why.to_owned() });
    }

    /// What became of an instance next. Waits for ever while there is nothing to report.
    ///
    /// An instance whose task has panicked is [`Happened::Failed`] or [`Happened::Ended`], and no other is the worse for it.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Event {
        loop {
            // All arms are cancel-safe. Biased: reports of a task come before its end.
            tokio::select! {
                biased;
                Some(report) = self.reports.recv() => {
                    if let Some(event) = self.take(report) {
                        return event;
                    }
                }
                Some(ended) = self.exits.recv() => self.note_exit(ended),
                Some(joined) = self.tasks.join_next_with_id() => match joined {
                    Ok((task, ())) => {
                        if let Some(event) = self.remove(task) {
                            return event;
                        }
                    }
                    Err(error) => {
                        if let Some(event) = self.contain(error) {
                            return event;
                        }
                    }
                },
                else => std::future::pending().await,
            }
        }
    }

    /// What should not have happened so far.
    #[must_use]
    pub fn mishaps(&self) -> Mishaps {
        self.mishaps
    }

    /// How many instances, or remains of some, are not taken away yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.tasks.len()
    }

    /// Every instance, by name.
    pub fn views(&self) -> impl Iterator<Item = View> {
        self.instances.iter().map(|(id, entry)| View {
            id: id.clone(),
            function: entry.template.function().clone(),
            revision: entry.template.revision().clone(),
            state: entry.state.clone(),
            slots: entry.template.slots(),
            started: entry.started,
            phases: entry.phases,
        })
    }

    /// When an instance's start began; `None` when it is not here.
    #[must_use]
    pub fn began(&self, instance: &InstanceId) -> Option<Instant> {
        self.instances.get(instance).map(|entry| entry.began)
    }

    /// Whether nothing is left to wait for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.tasks.is_empty()
    }

    fn spawn(&mut self, template: &Arc<Template>, spec: crate::backend::InstanceSpec, origin: Origin) {
        let id = spec.id.clone();
        let phase = match &origin {
            Origin::New { .. } => life::Phase::Creating,
            Origin::Adopted { .. } => life::Phase::Booting,
        };
        let (orders, told) = watch::channel(Orders { wish: Wish::Run, exit: None });
        let task = Task {
            backend: Arc::clone(&self.backend),
            logs: self.logs.clone(),
            template: Arc::clone(template),
            spec,
            origin,
            orders: told,
            reports: self.reporter.clone(),
        };
        let handle = self.tasks.spawn(task.run());
        self.owners.insert(handle.id(), id.clone());
        let entry = Entry {
            template: Arc::clone(template),
            state: State::Starting(phase),
            began: Instant::now(),
            started: Timestamp::now(),
            phases: Phases::default(),
            orders,
        };
        self.instances.insert(id, entry);
    }

    fn order(&mut self, instance: &InstanceId, wish: Wish, event: life::Event) {
        let Some(entry) = self.instances.get_mut(instance) else { return };
        entry.step(instance, event);
        // An order never goes back: a drain that comes after a stop changes nothing.
        entry.orders.send_if_modified(|orders| {
            let further = wish > orders.wish;
            if further {
                orders.wish = wish;
            }
            further
        });
    }

    fn note_exit(&mut self, ended: Ended) {
        if let Some(entry) = self.instances.get(&ended.instance) {
            entry.orders.send_modify(|orders| orders.exit = Some(ended.exit));
        }
    }

    fn take(&mut self, report: Report) -> Option<Event> {
        let Report { instance, what } = report;
        if matches!(what, What::NotRemoved) {
            self.mishaps.not_removed += 1;
        }
        let entry = self.instances.get_mut(&instance)?;
        let happened = match what {
            What::Created => {
                entry.step(&instance, life::Event::Created);
                None
            }
            What::Booted => {
                entry.step(&instance, life::Event::Booted);
                None
            }
            What::Ready { endpoint, phases, served } => {
                entry.phases = phases;
                entry.step(&instance, life::Event::Loaded);
                // It may have been told to stop meanwhile.
                (entry.state == State::Ready).then_some(Happened::Ready { endpoint, phases, served })
            }
            What::StartFailed(failure) => {
                let wanted = entry.state.is_starting();
                entry.step(&instance, life::Event::StartFailed(failure.told.clone()));
                wanted.then_some(Happened::Failed(failure))
            }
            What::Ended { how } => {
                entry.step(&instance, life::Event::Ended { how: how.clone() });
                Some(Happened::Ended { how })
            }
            What::Overdue => {
                let why = "its calls did not end in time".to_owned();
                entry.step(&instance, life::Event::Stop { why });
                Some(Happened::Overdue)
            }
            What::NotRemoved => None,
        };
        let revision = entry.template.revision().clone();
        happened.map(|what| Event { instance, revision, what })
    }

    /// A task that has panicked takes nobody along: its instance has failed or ended, and another task takes it away.
    fn contain(&mut self, error: JoinError) -> Option<Event> {
        if !error.is_panic() {
            // Nobody cancels them.
            return None;
        }
        self.mishaps.panics += 1;
        let Some(instance) = self.owners.remove(&error.id()) else {
            tracing::error!(%error, "taking away what an earlier run left has panicked");
            return None;
        };
        tracing::error!(%instance, %error, "the task of an instance has panicked: the instance is taken away");
        let task = self.take_away(instance.clone(), Duration::ZERO);
        self.owners.insert(task, instance.clone());
        let entry = self.instances.get_mut(&instance)?;
        let happened = match entry.state {
            State::Starting(_) | State::Loading => {
                let failure = Failure::internal();
                entry.step(&instance, life::Event::StartFailed(failure.told.clone()));
                Some(Happened::Failed(failure))
            }
            State::Ready | State::Draining { .. } => {
                let how = INTERNAL.to_owned();
                entry.step(&instance, life::Event::Ended { how: how.clone() });
                Some(Happened::Ended { how })
            }
            // It was on its way out.
            State::Stopping { .. } | State::Stopped { .. } | State::Failed(_) => None,
        };
        let revision = entry.template.revision().clone();
        happened.map(|what| Event { instance, revision, what })
    }

    fn take_away(&mut self, instance: InstanceId, grace: Duration) -> Id {
        let (backend, reports) = (Arc::clone(&self.backend), self.reporter.clone());
        let work = async move { instance::take_away(&backend, &instance, grace, &reports).await };
        self.tasks.spawn(work).id()
    }

    fn remove(&mut self, task: Id) -> Option<Event> {
        let instance = self.owners.remove(&task)?;
        let mut entry = self.instances.remove(&instance)?;
        entry.step(&instance, life::Event::Removed);
        let revision = entry.template.revision().clone();
        Some(Event { instance, revision, what: Happened::Removed })
    }

    fn new_id(&self, function: &FunctionId) -> InstanceId {
        loop {
            let id = new_id(function.name(), random());
            if !self.instances.contains_key(&id) {
                return id;
            }
        }
    }
}

impl Entry {
    fn step(&mut self, instance: &InstanceId, event: life::Event) {
        match self.state.clone().next(event) {
            Ok(state) => {
                tracing::debug!(%instance, from = %self.state, to = %state, "instance");
                self.state = state;
            }
            Err(error) => tracing::error!(%instance, %error, "an instance's life went wrong"),
        }
    }
}

/// `hello-7k3m9x2q4a`: the Function's name, as far as it fits, and 50 random bits.
fn new_id(function: &str, random: [u8; 32]) -> InstanceId {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    const SUFFIX: usize = 10;
    let room = 20 - SUFFIX - 1;
    let name: String = function.chars().take(room).collect();
    let suffix: String =
        random.iter().take(SUFFIX).map(|byte| char::from(DIGITS[usize::from(byte % 32)])).collect();
    let id = format!("{}-{suffix}", name.trim_end_matches('-'));
    InstanceId::parse(&id)
        .expect("a label's beginning, a dash and letters are a label of at most 20 characters")
}

/// 64 hex digits that nobody can guess.
fn secret() -> String {
    use std::fmt::Write as _;
    random().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
        text
    })
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}
