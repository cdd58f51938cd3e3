//! The life of instances: start, pool, specialise, load, adopt, drain, reap.
//!
//! [`Pool`] owns every instance of this controller. It decides nothing: the autoscaler, which owns the pool, says what to start, what to
//! give a function ([`Pool::assign`]) and what to stop, and [`Pool::next`] says what became of it. [`life::State`] is the life of one instance; each has a task of its own
//! (`instance.rs`), which talks to the backend and to the instance, and which ends when nothing of the instance is left.
//!
//! ```text
//!   autoscaler ── start, drain, stop ──► Pool ── orders (latest value) ──► task of an instance ──► Backend
//!        ▲                                │ ▲                                        │
//!        └────────── Event ───────────────┘ └──────────── reports (bounded) ─────────┘
//! ```

mod class;
mod event;
mod failure;
mod freezer;
mod instance;
pub mod life;
mod measure;
mod names;
mod pump;
mod reports;
mod strain;
pub(crate) mod template;

#[cfg(test)]
pub(crate) mod staged;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hearth_function::{InstanceId, RevisionId};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

pub use class::Class;
pub use event::{Event, Happened, Mishaps, View};
pub use failure::Failure;
pub use freezer::Freezer;
pub use instance::Phases;
pub use measure::{Machine, Measured};
pub use strain::{Strain, refused};
pub use template::{Places, Template};

use crate::backend::{Backend, Ended, Found, Hindered, TakenAway};
use crate::telemetry::logs::Logs;
use instance::{Assignment, Orders, Origin, Report, Task, What, Wish};
use life::State;
use names::{new_id, random, secret};

/// Time between SIGTERM and SIGKILL for an instance whose calls have ended: time to close a database connection.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Reports that wait for the pool. A task that finds no room waits.
const REPORTS: usize = 256;

/// Every instance of this controller.
#[derive(Debug)]
pub struct Pool {
    backend: Arc<dyn Backend>,
    freezer: Arc<Freezer>,
    /// Those that it could not thaw.
    given_up: mpsc::Receiver<InstanceId>,
    /// What instances hold, and when that was measured last.
    measured: watch::Sender<Measured>,
    /// Says whether the last measurement was taken.
    unseen: watch::Receiver<Measured>,
    measured_at: Option<Instant>,
    measuring: Option<AbortHandle>,
    logs: Logs,
    instances: BTreeMap<InstanceId, Entry>,
    tasks: JoinSet<()>,
    /// What is done beside: freezing, measuring. Nothing of an instance is left behind when one is cut off.
    chores: JoinSet<()>,
    /// Whose task is which; a task without an instance takes remains away.
    owners: HashMap<Id, InstanceId>,
    /// What all of those that take remains away are told: at most, to hurry.
    remains: watch::Sender<Orders>,
    reports: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    exits: mpsc::Receiver<Ended>,
    hindrances: mpsc::Receiver<Hindered>,
    taken_away: mpsc::Receiver<TakenAway>,
    mishaps: Mishaps,
}

#[derive(Debug)]
struct Entry {
    subject: Subject,
    state: State,
    began: Instant,
    started: Timestamp,
    phases: Phases,
    /// Processes that it was refused before this controller had it; `None` until one that was adopted is looked at.
    refused_before: Option<u64>,
    /// Who outside takes it away.
    taken_away: Option<String>,
    orders: watch::Sender<Orders>,
}

/// What an instance is for.
#[derive(Debug, Clone)]
enum Subject {
    Function(Arc<Template>),
    /// It is pooled, or about to be.
    Pool,
}

impl Subject {
    fn revision(&self) -> Option<RevisionId> {
        match self {
            Self::Function(template) => Some(template.revision().clone()),
            Self::Pool => None,
        }
    }
}

impl Pool {
    /// An empty pool. It takes the backend's one subscription to exits, to hindrances and to what is taken away.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>, logs: Logs) -> Self {
        let (reporter, reports) = mpsc::channel(REPORTS);
        let measured = watch::Sender::new(Measured::default());
        let (lost, given_up) = mpsc::channel(REPORTS);
        Self {
            exits: backend.exits(),
            hindrances: backend.hindrances(),
            taken_away: backend.taken_away(),
            freezer: Arc::new(Freezer::new(Arc::clone(&backend), lost)),
            given_up,
            backend,
            unseen: measured.subscribe(),
            measured,
            measured_at: None,
            measuring: None,
            logs,
            instances: BTreeMap::new(),
            tasks: JoinSet::new(),
            chores: JoinSet::new(),
            owners: HashMap::new(),
            remains: watch::Sender::new(Orders::NONE),
            reports,
            reporter,
            mishaps: Mishaps::default(),
        }
    }

    /// Starts an instance and says its name. `waited` is how long its turn took, for the phases. A start that no request waits for is
    /// `patient`: until it is Ready it gives way to those that one waits for.
    pub fn start(&mut self, template: &Arc<Template>, waited: Duration, patient: bool) -> InstanceId {
        let id = self.new_id(template.function().name());
        let mut spec = template.spec(id.clone(), self.secret(&id));
        spec.limits.patient = patient;
        self.spawn(Subject::Function(Arc::clone(template)), spec, Origin::New { waited });
        id
    }

    /// Starts an instance without a function and says its name.
    pub fn start_pooled(&mut self, class: &Arc<Class>) -> InstanceId {
        let id = self.new_id(class.prefix());
        let spec = class.spec(id.clone(), self.secret(&id));
        self.spawn(Subject::Pool, spec, Origin::Pooled(Arc::clone(class)));
        id
    }

    /// Gives a pooled instance to a function, for good; `waited` as in [`Pool::start`]. `false` when it is not pooled (any more).
    pub fn assign(&mut self, instance: &InstanceId, template: &Arc<Template>, waited: Duration) -> bool {
        let Some(entry) = self.instances.get_mut(instance) else { return false };
        if entry.state != State::Pooled || entry.orders.borrow().exit.is_some() {
            return false;
        }
        entry.step(instance, life::Event::Assigned);
        entry.subject = Subject::Function(Arc::clone(template));
        let since = Timestamp::now();
        entry.started = since;
        let assignment = Assignment { template: Arc::clone(template), waited, at: Instant::now(), since };
        entry.orders.send_modify(|orders| orders.assignment = Some(assignment));
        true
    }

    /// Takes over an instance that an earlier controller started; its lines up to `logs_after` are kept already. It is Ready when it
    /// answers, and fails like a start when it does not.
    pub fn adopt(&mut self, template: &Arc<Template>, found: Found, logs_after: u64) {
        let origin = Origin::Adopted { started: found.started, logs_after };
        self.spawn(Subject::Function(Arc::clone(template)), found.spec, origin);
    }

    /// What instances are frozen and thawed by.
    #[must_use]
    pub fn freezer(&self) -> Arc<Freezer> {
        Arc::clone(&self.freezer)
    }

    /// What it is asked by at which limit an instance stands. To be called in the runtime that the backend works in.
    #[must_use]
    pub fn strain(&self) -> Strain {
        Strain::new(Arc::clone(&self.backend))
    }

    /// Freezes an instance that the gateway has let go for it ([`Freezer::want`]); [`Happened::Paused`] says how that went.
    pub fn freeze(&mut self, instance: &InstanceId, round: u64) {
        let (freezer, reports, instance) = (self.freezer(), self.reporter.clone(), instance.clone());
        self.chores.spawn(async move {
            let frozen = freezer.freeze(&instance, round).await;
            let frozen = frozen.unwrap_or_else(|error| {
                // It runs on, at the cost of a little cpu time. It may have ended meanwhile.
                tracing::warn!(%instance, error = crate::telemetry::chain(&error), "an idle instance was not frozen");
                false
            });
            let what = What::Paused { round, frozen };
            let _nobody = reports.send(Report { instance, what }).await.is_err();
        });
    }

    /// An instance stands still: [`Happened::Paused`] said so and no thaw has come since.
    pub fn paused(&mut self, instance: &InstanceId) {
        if let Some(entry) = self.instances.get_mut(instance)
            && entry.state == State::Ready
        {
            entry.step(instance, life::Event::Paused);
        }
    }

    /// A paused instance was thawed.
    pub fn resumed(&mut self, instance: &InstanceId) {
        if let Some(entry) = self.instances.get_mut(instance)
            && entry.state == State::Paused
        {
            entry.step(instance, life::Event::Resumed);
        }
    }

    /// Takes away an instance that nobody wants any more, or what is left of it: as [`Pool::stop`], of one that is not here. `going` is kept
    /// until that is done.
    pub fn reap(&mut self, instance: InstanceId, grace: Duration, going: Option<TaskTrackerToken>) {
        self.take_away(instance, grace, going);
    }

    /// Leaves those that are being reaped, now or later, this grace at most.
    pub fn hurry_remains(&self, grace: Duration) {
        self.remains.send_if_modified(|orders| orders.go_on_to(Wish::Stop { grace }));
    }

    /// Lets an instance end its calls, for at most `time`. When they have ended, [`Pool::stop`] it.
    pub fn drain(&mut self, instance: &InstanceId, why: &str, time: Duration) {
        let wish = Wish::Drain { until: Instant::now() + time };
        self.order(instance, wish, life::Event::Drain { why: why.to_owned() });
    }

    /// Ends an instance: SIGTERM, and SIGKILL after `grace`. Of several calls the least grace counts, also once the stop has begun. One that
    /// is not there is no error.
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
                // Before its end, which is none of its own then.
                Some(taken) = self.taken_away.recv() => {
                    if let Some(event) = self.note_taken_away(taken) {
                        return event;
                    }
                }
                Some(ended) = self.exits.recv() => self.note_exit(ended),
                Some(hindered) = self.hindrances.recv() => {
                    if let Some(event) = self.note_hindered(hindered) {
                        return event;
                    }
                }
                Some(instance) = self.given_up.recv() => {
                    if let Some(entry) = self.instances.get(&instance) {
                        let revision = entry.subject.revision();
                        return Event { instance, revision, what: Happened::NotThawed };
                    }
                }
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
                Some(done) = self.chores.join_next() => if let Err(error) = done {
                    self.mishaps.panics += 1;
                    tracing::error!(%error, "freezing or measuring has panicked");
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
            function: match &entry.subject {
                Subject::Function(template) => Some(template.function().clone()),
                Subject::Pool => None,
            },
            revision: entry.subject.revision(),
            state: entry.state.clone(),
            slots: match &entry.subject {
                Subject::Function(template) => template.slots(),
                Subject::Pool => 0,
            },
            started: entry.started,
            phases: entry.phases,
            memory_bytes: self.measured.borrow().held.get(id).copied(),
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

    fn spawn(&mut self, subject: Subject, spec: crate::backend::InstanceSpec, origin: Origin) {
        let id = spec.id.clone();
        let phase = match &origin {
            Origin::New { .. } | Origin::Pooled(_) => life::Phase::Creating,
            Origin::Adopted { .. } => life::Phase::Booting,
        };
        let (orders, told) = watch::channel(Orders::NONE);
        let written = spec.owner.as_ref().and_then(|owner| owner.since);
        let started = written.or_else(|| match &origin {
            // A controller that did not write it down has started it.
            Origin::Adopted { started, .. } => instance::made_at(&started.control),
            Origin::New { .. } | Origin::Pooled(_) => None,
        });
        let started = started.unwrap_or_else(Timestamp::now);
        let refused_before = if matches!(origin, Origin::Adopted { .. }) { None } else { Some(0) };
        let assigned = OnceLock::new();
        if let Subject::Function(template) = &subject {
            let _first = assigned.set(Arc::clone(template)).is_ok();
        }
        let task = Task {
            backend: Arc::clone(&self.backend),
            logs: self.logs.clone(),
            template: Arc::new(assigned),
            spec,
            origin,
            orders: told,
            reports: self.reporter.clone(),
        };
        let handle = self.tasks.spawn(task.run());
        self.owners.insert(handle.id(), id.clone());
        let entry = Entry {
            subject,
            state: State::Starting(phase),
            began: Instant::now(),
            started,
            phases: Phases::default(),
            refused_before,
            taken_away: None,
            orders,
        };
        self.instances.insert(id, entry);
    }

    fn order(&mut self, instance: &InstanceId, wish: Wish, event: life::Event) {
        let Some(entry) = self.instances.get_mut(instance) else { return };
        // Frozen, it would hear of nothing.
        self.freezer.thaw(instance);
        entry.step(instance, event);
        entry.orders.send_if_modified(|orders| orders.go_on_to(wish));
    }

    fn take_away(&mut self, instance: InstanceId, grace: Duration, going: Option<TaskTrackerToken>) -> Id {
        let (backend, reports) = (Arc::clone(&self.backend), self.reporter.clone());
        let orders = self.remains.subscribe();
        let work = async move {
            instance::take_away(&backend, &instance, grace, orders, &reports).await;
            drop(going);
        };
        self.tasks.spawn(work).id()
    }

    fn remove(&mut self, task: Id) -> Option<Event> {
        let instance = self.owners.remove(&task)?;
        let mut entry = self.instances.remove(&instance)?;
        self.freezer.thaw(&instance);
        entry.step(&instance, life::Event::Removed);
        let revision = entry.subject.revision();
        Some(Event { instance, revision, what: Happened::Removed })
    }

    /// The secret of a new instance.
    fn secret(&self, id: &InstanceId) -> String {
        self.backend.secret(id).unwrap_or_else(secret)
    }

    fn new_id(&self, name: &str) -> InstanceId {
        loop {
            let id = new_id(name, random());
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
