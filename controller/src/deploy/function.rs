//! The task of one Function: observe, plan, take a step, write the status; and again when something has changed. How it looks is in look.rs,
//! what the steps do in steps.rs.

mod beside;
mod look;
mod news;
mod prepare;
mod refused;
mod removal;
mod retry;
mod source;
mod steps;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hearth_dispatch::StartFailure;
use hearth_dispatch::routes::Conflict;
use hearth_function::{Digest, Function, FunctionId, InstanceCounts, RevisionId};
use hearth_scaler::Reach;
use jiff::Timestamp;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::missing::Missing;
use super::parts::Found;
use super::plan::{Action, Awaited, Number, Observed, Wanted, awaited, plan};
use super::status;
use super::{RESYNC, Shared};
use crate::pool;
use crate::store;
use look::numbers;
pub(super) use look::problems;
pub(super) use news::is_news;

/// How long after a build or a look for code or parts has failed it is tried again: what was missing may have come (a bundle, the network).
const RETRY: Duration = Duration::from_secs(30);

/// The annotation of a Revision with the source that its code was found by.
const SOURCE: &str = "hearth.dev/source";

/// How often counts of instances are written, at most: each write is one to the disk.
const COUNTS: Duration = Duration::from_secs(1);

/// No task looks again sooner, whatever is due: a look for which there turns out to be no step must not keep a core busy.
const SOONEST: Duration = Duration::from_secs(1);

/// How often the progress of an installation is written, at most.
const PROGRESS: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Task {
    shared: Arc<Shared>,
    id: FunctionId,
    object: watch::Receiver<Option<Arc<Function>>>,
    /// Told when the autoscaler shows something new of one of this Function's Revisions.
    stirred: Arc<Notify>,
    /// Counted up once, when everything that takes no time is done.
    settled: Option<watch::Sender<usize>>,
    memory: Memory,
}

/// What a task with nothing to do waits for; it holds no more than that, for nearly all rest nearly always.
#[derive(Debug)]
struct Rest {
    /// When it looks again in any case.
    wake: Instant,
    /// Of these Revisions something else may be shown.
    revisions: Box<[Number]>,
}

/// What the task knows and the store does not.
#[derive(Debug, Default)]
struct Memory {
    /// The object that everything here belongs to; one of the same name and another uid begins anew.
    uid: Option<String>,
    function: Option<Arc<Function>>,
    /// Which code it is.
    code: Option<source::Known>,
    /// Parts of the template of this digest, or why they are not there and when to look again.
    build: Option<(Digest, Result<Found, Missing>, Instant)>,
    /// How often that has failed, and when it is tried again, for people.
    build_failures: u32,
    build_again: Option<Timestamp>,
    /// The Revision that was made last, and the digest of the template that the store has then given it.
    made: Option<(Number, Digest)>,
    /// Revisions of which was said that somebody has changed them.
    changed: BTreeSet<Number>,
    /// Revisions whose parts are known, or are not there until then.
    prepared: BTreeMap<Number, Made>,
    /// The Revision whose parts are to be brought here while instances of it run already, and when that is tried.
    owed: Option<(Number, Instant)>,
    targets: BTreeMap<Number, (Reach, i64)>,
    served: Option<(Number, i64)>,
    /// What of it is being taken away.
    removals: removal::Removals,
    /// The trial that is under way, or over and not yet marked.
    trial: Option<trial::Trial>,
    /// Why Revisions failed their trial.
    failures: BTreeMap<Number, StartFailure>,
    /// When they are tried again.
    trials: retry::Trials,
    /// The last wish of somebody that what has failed is tried again ([`hearth_function::RETRY_ANNOTATION`]).
    wish: Option<String>,
    /// Whether it was looked at before.
    looked: bool,
    /// What an installation says.
    progress: Option<String>,
    /// When the status was written last, and from which views.
    written: Option<Instant>,
    /// How often in a row the store did not take it.
    unwritten: u32,
    refused: refused::Refused,
    shown: Vec<(Number, View)>,
    /// And with which routes lost.
    conflicts: Vec<Conflict>,
}

/// The parts of a Revision, or what is not there and when that is looked for again.
type Made = Result<Arc<pool::Template>, Box<(Missing, Instant)>>;

impl Memory {
    /// When what the plan waits for is due.
    fn due(&self, awaited: Awaited) -> Option<Instant> {
        match awaited {
            Awaited::Source => self.code.as_ref()?.due(),
            Awaited::Build => self.build.as_ref().map(|(.., at)| *at),
            Awaited::Parts(number) => self.prepared.get(&number)?.as_ref().err().map(|lack| lack.1),
            Awaited::Trial(number) => self.trials.next(number).map(|(at, _)| at),
        }
    }
}

impl Task {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: FunctionId,
        object: watch::Receiver<Option<Arc<Function>>>,
        stirred: Arc<Notify>,
        settled: watch::Sender<usize>,
    ) -> Box<Self> {
        Box::new(Self { shared, id, object, stirred, settled: Some(settled), memory: Memory::default() })
    }

    /// Until the Function is deleted and nothing of it is left.
    ///
    /// In a box: a future holds what it is made of twice, and there is one for each Function.
    pub(super) async fn run(mut self: Box<Self>) {
        loop {
            let object = self.object.borrow_and_update().clone();
            let newest = object.filter(|function| function.metadata.deletion_timestamp.is_none());
            let another =
                |function: &Function| self.memory.uid.is_some() && self.memory.uid != function.metadata.uid;
            // One that was deleted and made again in a moment: first what the old one left.
            let gone = newest.as_deref().is_none_or(another);
            if !gone {
                let function = newest.as_ref();
                self.memory.uid = function.and_then(|function| function.metadata.uid.clone());
                self.memory.function = function.map(Arc::clone);
                self.note_retries();
            }
            self.hear_of_trial();
            self.hear_of_removals();
            let observed = self.observe();
            self.note_changed(&observed);
            let wanted = if gone { Wanted::Gone } else { self.wanted(&observed) };
            let Some(action) = plan(&wanted, &observed) else {
                if gone {
                    if Box::pin(self.await_removal()).await {
                        continue;
                    }
                    if !Box::pin(self.is_outlived()).await {
                        return;
                    }
                    Box::pin(self.forget()).await;
                    if let Err(error) = Box::pin(self.let_go()).await {
                        let error = crate::telemetry::chain(&error);
                        tracing::warn!(function = %self.id, error, "a deleted function is not let go yet");
                        self.settle();
                        tokio::time::sleep(COUNTS).await;
                        continue;
                    }
                    if newest.is_none() {
                        self.settle();
                        return;
                    }
                    self.memory = Memory::default();
                    continue;
                }
                self.memory.refused.step_taken();
                Box::pin(self.write_status(&observed)).await;
                self.settle();
                if !Box::pin(self.bring_owed(&observed)).await {
                    let until = self.rest(&wanted, &observed);
                    drop((wanted, observed));
                    self.wait(until).await;
                }
                continue;
            };
            if takes_long(&action) {
                // What the status says of the code is not known before it is found out which that is: it stays what an earlier controller said.
                if !matches!(action, Action::Hold | Action::Resolve) {
                    Box::pin(self.write_status(&observed)).await;
                }
                self.settle();
            }
            tracing::debug!(function = %self.id, ?action, "deploy");
            // Nobody waits for an old Revision to go.
            let is_cleaning = matches!(action, Action::Delete(_));
            let mut object = self.object.clone();
            // On the heap while it lasts: a task that waits, as nearly all do nearly always, is small.
            let step = Box::pin(self.take(action, &observed));
            let taken = tokio::select! {
                // A newer spec cuts the step off; each may be.
                biased;
                changed = object.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                taken = step => taken,
            };
            match taken {
                Ok(()) => self.memory.refused.step_taken(),
                Err(refused) => {
                    // What happened to the store meanwhile is seen at the next look, which must not come at once.
                    let error = crate::telemetry::chain(&refused);
                    tracing::warn!(function = %self.id, error, "a step of a deployment failed");
                    // What serves is seen to before: others do not wait for what may be refused for ever.
                    self.settle();
                    if is_cleaning {
                        tokio::time::sleep(COUNTS).await;
                    } else {
                        Box::pin(self.not_taken(&refused, &observed)).await;
                    }
                }
            }
        }
    }

    fn settle(&mut self) {
        if let Some(settled) = self.settled.take() {
            settled.send_modify(|count| *count += 1);
        }
    }

    /// What is waited for once nothing is to be done.
    fn rest(&self, wanted: &Wanted, observed: &Observed) -> Rest {
        let now = Instant::now();
        let due = awaited(wanted, observed).into_iter().filter_map(|awaited| self.memory.due(awaited));
        let due = due.chain(self.memory.owed.map(|(_, at)| at));
        let wake = due.min().map_or(now + RESYNC, |due| due.clamp(now + SOONEST, now + RESYNC));
        Rest { wake, revisions: numbers(observed) }
    }

    /// Until something has changed, or a retry or the resync is due.
    async fn wait(&mut self, Rest { wake, revisions }: Rest) {
        let mut conflicts = self.shared.parts.routes.conflicts();
        // What has changed since the status was made counts too.
        if self.memory.unwritten > 0
            || self.shows_news(&revisions)
            || self.conflicts() != self.memory.conflicts
        {
            return self.pace().await;
        }
        loop {
            tokio::select! {
                changed = self.object.changed() => {
                    // Without a service nobody wants anything of this task.
                    if changed.is_err() {
                        std::future::pending::<()>().await;
                    }
                    return;
                }
                outcome = trial::outcome(&mut self.memory.trial) => return self.note_outcome(outcome),
                () = self.memory.removals.any_over() => return,
                () = self.stirred.notified() => if self.shows_news(&revisions) {
                    return self.pace().await;
                },
                Ok(()) = conflicts.changed() => if self.conflicts() != self.memory.conflicts {
                    return;
                },
                () = sleep_until(wake) => return,
            }
        }
    }

    /// Counts change often: so long nothing is written again, unless the spec changes or a trial is over.
    async fn pace(&mut self) {
        // What is refused now is refused in a second too, as a rule.
        let pause = COUNTS * (1 << self.memory.unwritten.min(5));
        let until = self.memory.written.map_or_else(Instant::now, |written| written + pause);
        let mut object = self.object.clone();
        tokio::select! {
            () = sleep_until(until) => {}
            _ = object.changed() => {}
            outcome = trial::outcome(&mut self.memory.trial) => self.note_outcome(outcome),
        }
    }

    fn revision_name(&self, number: Number) -> String {
        format!("{}-{number:05}", self.id.name())
    }

    fn revision_id(&self, number: Number) -> RevisionId {
        RevisionId::parse(&format!("{}/{}", self.id.namespace(), self.revision_name(number)))
            .expect("a label, a dash and digits are a label, whose length validation bounds")
    }

    async fn write_status(&mut self, observed: &Observed) {
        self.memory.written = Some(Instant::now());
        let refused = std::mem::take(&mut self.memory.unwritten);
        let Ok(stored) = self.shared.parts.store.get::<Function>(self.id.namespace(), self.id.name()) else {
            return;
        };
        if stored.metadata.uid != self.memory.uid {
            return;
        }
        self.memory.shown = self.views(&numbers(observed));
        let mut known = self.known(observed);
        if observed.served.is_none() && stored.metadata.deletion_timestamp.is_none() {
            self.say_unready(&known);
            // Only now it is known which of its routes others have.
            known = self.known(observed);
        }
        self.memory.conflicts.clone_from(&known.conflicts);
        let status = status::status(stored.status.as_ref(), &known, Timestamp::now());
        if stored.status.as_ref() == Some(&status) {
            return self.keep(stored);
        }
        let mut function = Arc::unwrap_or_clone(stored);
        function.status = Some(status);
        function.metadata.resource_version = None;
        match self.shared.parts.store.update_status(function).await {
            // Deleted, or made anew, since it was read: then it is another task's, or nobody's.
            Err(store::Error::NotFound { .. } | store::Error::Conflict { .. }) => {}
            Ok(newest) => {
                self.keep(newest);
                self.memory.refused.status = None;
                // It still says what was wrong until now.
                self.memory.unwritten = u32::from(self.memory.refused.outdated.take().is_some());
            }
            Err(error @ store::Error::Outdated { .. }) => {
                self.note_outdated(&error);
                self.memory.unwritten = refused + 1;
            }
            Err(error) => {
                self.note_unwritten(&error);
                self.memory.unwritten = refused + 1;
            }
        }
    }

    /// Holds on to the object as the store has it, so that the one before its last status is not kept beside it.
    fn keep(&mut self, newest: Arc<Function>) {
        let (known, finalizer) = (self.memory.function.as_deref(), self.shared.config.finalizer);
        if known.is_some() && !is_news(known, Some(&newest), finalizer) {
            self.memory.function = Some(newest);
        }
    }
}

/// What the autoscaler says of a Revision: counts, whether it ever came up, why its last start failed.
type View = (InstanceCounts, bool, Option<StartFailure>);

fn generation(function: Option<&Function>) -> i64 {
    function.and_then(|function| function.metadata.generation).unwrap_or(1)
}

/// A step that a restarted controller does not wait for before it serves.
fn takes_long(action: &Action) -> bool {
    matches!(action, Action::Hold | Action::Resolve | Action::Build)
}
