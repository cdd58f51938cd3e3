//! What the gateway's threads share: the routing table, the Revisions with their dispatch state, the instances.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hearth_dispatch::routes::{Claimant, Conflict, Table};
use hearth_dispatch::{
    Action, Dispatch, Endpoint, Forwarding, Granted, Placement, Policy, Refusal, Share, StartKind, ToGateway,
    ToScaler,
};
use hearth_function::{FunctionId, InstanceId, RevisionId};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::config::{Served, Timeouts, Unready};
use super::outbox::Outbox;
use super::stats::{RevisionStats, Stats};
use crate::pool::Freezer;

/// The runtime's clock, so that tests can stop it.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What a waiting request is told.
#[derive(Debug)]
pub(super) enum Verdict {
    Forward(Placement<Arc<Instance>>),
    Refused(Refusal),
    /// Ask the Function's present Revision.
    Moved,
}

/// An instance as all threads see it.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) endpoint: Endpoint,
    /// Cancelled when no new calls go there.
    pub(super) revoked: CancellationToken,
    /// Cancelled when it has ended or was given up: whatever is connected to it ends.
    pub(super) gone: CancellationToken,
    /// How it ended, as soon as that is known.
    pub(super) reason: OnceLock<String>,
    /// How often it may have been frozen. The user's own server may close, at a thaw, connections that were idle for its own taste
    /// (Node: 5 s), so none that is older is used after one.
    pub(super) pauses: AtomicU64,
}

/// What an instance has sent before it ended may be unread when the word comes that it ended, and with it the `accept` that forbids
/// a second run. Its sockets are closed by then, so this is the time to read them out.
const LAST_WORDS: Duration = Duration::from_millis(100);

impl Instance {
    /// Ends when the instance has ended and what it had sent was read.
    pub(super) async fn silent(&self) {
        self.gone.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    }
}

/// What a route leads to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) function: FunctionId,
    pub(super) revision: Arc<Revision>,
    pub(super) timeouts: Timeouts,
    pub(super) stats: Arc<RevisionStats>,
}

/// Where a route leads.
#[derive(Debug, Clone)]
pub(super) enum Leads {
    /// To a Revision.
    To(Arc<Target>),
    /// Its Function has nothing that serves.
    Nowhere(Arc<Unready>),
}

impl Leads {
    fn revision(&self) -> Option<&RevisionId> {
        match self {
            Self::To(target) => Some(&target.revision.id),
            Self::Nowhere(_) => None,
        }
    }
}

type State = Dispatch<oneshot::Sender<Verdict>, Arc<Instance>>;
type Actions = Vec<Action<oneshot::Sender<Verdict>, Arc<Instance>>>;

/// One Revision: its dispatch state behind a short lock.
#[derive(Debug)]
pub(super) struct Revision {
    pub(super) id: RevisionId,
    state: Mutex<State>,
    outbox: Arc<Outbox>,
    freezer: Option<Arc<Freezer>>,
    growth: Arc<Growth>,
    /// Whether [`Growth`] knows already that the queue has grown.
    grown: AtomicBool,
    /// How its instances are called, from the first one on.
    forwarding: OnceLock<Forwarding>,
    /// The Function that it serves, once it does, and what is counted then.
    function: OnceLock<(FunctionId, Arc<RevisionStats>)>,
}

/// Revisions whose queue has grown since the scaler heard of it: the control thread tells it a moment later, many requests at once.
#[derive(Debug, Default)]
pub(super) struct Growth {
    revisions: Mutex<Vec<Arc<Revision>>>,
    pub(super) some: Notify,
}

impl Growth {
    pub(super) fn take(&self) -> Vec<Arc<Revision>> {
        std::mem::take(&mut locked(&self.revisions))
    }
}

impl Revision {
    /// Changes the dispatch state and carries out what follows, all under the lock: so whoever finds that a waiter has left the queue
    /// knows that its verdict was sent, and what the scaler is told is in the order of the changes (a count that is older than the end of
    /// a call, told after it, would have it start an instance for nobody).
    pub(super) fn with<R>(&self, change: impl FnOnce(&mut State, &mut Actions) -> R) -> R {
        let mut state = locked(&self.state);
        let mut actions = Actions::new();
        let result = change(&mut state, &mut actions);
        while !actions.is_empty() {
            for action in std::mem::take(&mut actions) {
                let (waiter, verdict) = match action {
                    Action::Forward { waiter, placement } => (waiter, Verdict::Forward(placement)),
                    Action::Reject { waiter, refusal } => (waiter, Verdict::Refused(refusal)),
                    Action::Move { waiter } => (waiter, Verdict::Moved),
                    Action::Tell(message) => {
                        self.outbox.tell(message);
                        continue;
                    }
                };
                if let Err(Verdict::Forward(placement)) = waiter.send(verdict) {
                    self.wake(&placement);
                    // Nobody is there to take the slot.
                    let Placement { instance, grant, .. } = placement;
                    state.on_slot_free(now(), &instance, grant, None, &mut actions);
                }
            }
        }
        result
    }

    /// Thaws the instance of a placement, if it may be frozen: to be called with every placement, before anything is sent to it.
    pub(super) fn wake(&self, placement: &Placement<Arc<Instance>>) {
        if placement.start == StartKind::Paused {
            self.thaw(placement.instance.clone());
        }
    }

    fn thaw(&self, instance: InstanceId) {
        let began = now();
        if let Some(freezer) = &self.freezer {
            freezer.thaw(&instance);
        }
        let took = now().saturating_duration_since(began);
        self.outbox.tell(ToScaler::Resumed { instance, took });
    }

    /// After a request was queued: the scaler hears of the first few at once, of the others together.
    pub(super) fn want_capacity(self: &Arc<Self>, waiting: usize) {
        if waiting <= TOLD_AT_ONCE {
            self.tell_wanted();
        } else if !self.grown.swap(true, Ordering::AcqRel) {
            locked(&self.growth.revisions).push(Arc::clone(self));
            self.growth.some.notify_one();
        }
    }

    pub(super) fn tell_wanted(&self) {
        self.grown.store(false, Ordering::Release);
        self.with(|state, actions| actions.extend(state.take_wanted().map(Action::Tell)));
    }

    /// How calls reach its instances; `None` before the first has come.
    pub(super) fn forwarding(&self) -> Option<Forwarding> {
        self.forwarding.get().copied()
    }

    /// The gateway has found that an instance is of no use: it gets no more calls and the scaler hears why, once.
    pub(super) fn give_up(
        &self,
        instance: &Instance,
        message: impl FnOnce(InstanceId) -> ToScaler,
        reason: &str,
    ) {
        let id = &instance.endpoint.instance;
        if self.with(|state, _| state.on_gone(now(), id)).is_some() {
            tracing::warn!(instance = %id, revision = %self.id, reason, "instance given up");
            self.outbox.tell(message(id.clone()));
        }
    }
}

/// An instance and the Revision that it belongs to.
type Known = (Arc<Revision>, Arc<Instance>);

/// Everything that the threads share.
#[derive(Debug)]
pub(super) struct Revisions {
    /// What requests are looked up in.
    pub(super) routes: ArcSwap<Table<Leads>>,
    /// Namespaces of which it is not known which Functions they have.
    pub(super) unread: ArcSwap<BTreeSet<String>>,
    /// One change at a time of the table, and of which Revisions and instances there are: a Revision that somebody is about to route to or
    /// to give an instance is idle still, and must not be forgotten in between.
    changing: Mutex<()>,
    all: Mutex<HashMap<RevisionId, Arc<Revision>>>,
    /// On which Revision an instance is, for the scaler's messages that name the instance alone.
    instances: Mutex<HashMap<InstanceId, Known>>,
    stats: Arc<Stats>,
    queue_length: usize,
    outbox: Arc<Outbox>,
    freezer: Option<Arc<Freezer>>,
    pub(super) growth: Arc<Growth>,
}

impl Revisions {
    pub(super) fn new(
        queue_length: usize,
        outbox: Arc<Outbox>,
        stats: Arc<Stats>,
        freezer: Option<Arc<Freezer>>,
    ) -> Self {
        Self {
            routes: ArcSwap::default(),
            unread: ArcSwap::default(),
            changing: Mutex::default(),
            all: Mutex::default(),
            instances: Mutex::default(),
            stats,
            queue_length,
            outbox,
            freezer,
            growth: Arc::default(),
        }
    }

    /// See [`super::Handle::serve`].
    pub(super) fn serve(&self, functions: Vec<Served>, unready: Vec<Unready>) -> Vec<Conflict> {
        let _alone = locked(&self.changing);
        let mut serving = HashSet::new();
        let claimants = functions
            .into_iter()
            .map(|served| {
                let revision = self.revision(&served.revision);
                serving.insert(served.revision);
                let Timeouts { queue, start, .. } = served.timeouts;
                let policy = Policy { queue_length: self.queue_length, queue, start };
                revision.with(|state, _| {
                    state.set_policy(policy);
                    state.revive();
                });
                let first = || {
                    let stats = self.stats.of(&served.function, &revision.id);
                    (served.function.clone(), Arc::new(stats))
                };
                let (function, stats) = revision.function.get_or_init(first).clone();
                let target = Target { function, revision, timeouts: served.timeouts, stats };
                Claimant {
                    function: served.function,
                    created: served.created,
                    target: Leads::To(Arc::new(target)),
                    claims: served.claims,
                }
            })
            .chain(unready.into_iter().map(|unready| Claimant {
                function: unready.function.clone(),
                created: unready.created,
                claims: unready.claims.clone(),
                target: Leads::Nowhere(Arc::new(unready)),
            }))
            .collect();
        let (table, conflicts) = Table::build(claimants);
        self.routes.store(Arc::new(table));
        // After the swap: who is told to move must find the new table.
        let retired: Vec<Arc<Revision>> = {
            let all = locked(&self.all);
            all.values().filter(|revision| !serving.contains(&revision.id)).cloned().collect()
        };
        for revision in retired {
            revision.with(|state, actions| state.retire(now(), actions));
        }
        self.forget_idle();
        conflicts
    }

    /// A message of the scaler.
    pub(super) fn on_message(&self, message: ToGateway) {
        let _alone = locked(&self.changing);
        match message {
            ToGateway::Grant { revision, endpoint, slots } => self.grant(&revision, endpoint, slots),
            ToGateway::Revoke { instance } => {
                let known = locked(&self.instances).get(&instance).cloned();
                let Some((revision, found)) = known else {
                    return self.outbox.tell(ToScaler::Drained { instance });
                };
                revision.with(|state, actions| state.on_revoke(now(), &instance, actions));
                // After the decision: connections that see this must not be used for new calls any more.
                found.revoked.cancel();
            }
            ToGateway::Share(share) => {
                let known = locked(&self.instances).get(&share.instance).cloned();
                let Some((revision, _)) = known else {
                    let Share { instance, serial, .. } = share;
                    return self.outbox.tell(ToScaler::Holds { instance, slots: 0, stuck: 0, serial });
                };
                revision.with(|state, actions| state.on_share(now(), share, actions));
            }
            ToGateway::Scarce { revision, scarce } => {
                // One that is not known has nothing to spare.
                let known = locked(&self.all).get(&revision).cloned();
                if let Some(known) = known {
                    known.with(|state, actions| state.on_scarce(scarce, actions));
                }
            }
            ToGateway::Pause { instance, idle } => {
                // One that is not known any more is about to be heard of as gone.
                let known = locked(&self.instances).get(&instance).cloned();
                if let (Some((revision, found)), Some(_)) = (known, &self.freezer) {
                    // Before the decision: what is idle when it is thawed again is older than this.
                    found.pauses.fetch_add(1, Ordering::AcqRel);
                    revision.with(|state, actions| state.on_pause(now(), &instance, idle, actions));
                }
            }
            ToGateway::Wake { instance } => {
                let known = locked(&self.instances).get(&instance).cloned();
                if let Some((revision, _)) = known
                    && revision.with(|state, _| state.on_wake(&instance))
                {
                    revision.thaw(instance);
                }
            }
            ToGateway::Gone { instance, reason } => {
                let known = locked(&self.instances).remove(&instance);
                if let Some((revision, found)) = known {
                    revision.with(|state, _| state.on_gone(now(), &instance));
                    // The first reason is the one nearest to the cause.
                    drop(found.reason.set(reason));
                    found.gone.cancel();
                }
                self.forget_idle();
            }
            ToGateway::StartFailed { revision, failure, retry_after } => {
                let revision = self.revision(&revision);
                revision.with(|state, actions| state.on_start_failed(now(), failure, retry_after, actions));
            }
        }
    }

    /// The load of every Revision that has something to say.
    pub(super) fn report(&self) {
        let all: Vec<Arc<Revision>> = locked(&self.all).values().cloned().collect();
        for revision in all {
            revision.with(|state, actions| {
                // Whose time that is may have gone: a client that waits, a connection to an instance that had refused a call.
                state.on_tick(now(), actions);
                let Some(report) = state.report(now()) else { return };
                if let Some((function, _)) = revision.function.get() {
                    self.stats.loaded(function, &report);
                }
                actions.push(Action::Tell(ToScaler::Load(report)));
            });
        }
    }

    fn grant(&self, revision: &RevisionId, endpoint: Endpoint, slots: u32) {
        let revision = self.revision(revision);
        revision.forwarding.get_or_init(|| endpoint.forwarding);
        let (id, single_use) = (endpoint.instance.clone(), endpoint.single_use);
        let (start, start_time, reserved) = (endpoint.start, endpoint.start_time, endpoint.reserved);
        let instance = {
            let mut instances = locked(&self.instances);
            // A share that changes is the same instance; one that was revoked and comes back has new connections.
            match instances.get(&id) {
                Some((_, known)) if !known.revoked.is_cancelled() => Arc::clone(known),
                _ => {
                    let instance = Arc::new(Instance {
                        endpoint,
                        revoked: CancellationToken::new(),
                        gone: CancellationToken::new(),
                        reason: OnceLock::new(),
                        pauses: AtomicU64::new(0),
                    });
                    instances.insert(id.clone(), (Arc::clone(&revision), Arc::clone(&instance)));
                    instance
                }
            }
        };
        let granted =
            Granted { instance: id, endpoint: instance, slots, single_use, start, start_time, reserved };
        revision.with(|state, actions| state.on_grant(now(), granted, actions));
    }

    /// The Revision of this name; made when it is heard of for the first time (its first grant may come before it serves).
    fn revision(&self, id: &RevisionId) -> Arc<Revision> {
        let mut all = locked(&self.all);
        let revision = all.entry(id.clone()).or_insert_with(|| {
            let policy = Policy { queue_length: self.queue_length, ..Policy::default() };
            Arc::new(Revision {
                id: id.clone(),
                state: Mutex::new(Dispatch::new(id.clone(), policy, now())),
                outbox: Arc::clone(&self.outbox),
                freezer: self.freezer.clone(),
                growth: Arc::clone(&self.growth),
                grown: AtomicBool::new(false),
                forwarding: OnceLock::new(),
                function: OnceLock::new(),
            })
        });
        Arc::clone(revision)
    }

    /// Whether new calls may go to this instance.
    #[cfg(test)]
    pub(super) fn takes_calls(&self, instance: &InstanceId) -> bool {
        let known = locked(&self.instances).get(instance).cloned();
        known.is_some_and(|(revision, found)| {
            let granted = revision.with(|state, _| state.instances().any(|(id, ..)| id == instance));
            granted && !found.revoked.is_cancelled()
        })
    }

    /// Lets go of Revisions that neither serve nor have instances. Under `changing`.
    fn forget_idle(&self) {
        let routes = self.routes.load();
        let serving: HashSet<&RevisionId> = routes.targets().filter_map(Leads::revision).collect();
        let mut all = locked(&self.all);
        all.retain(|id, revision| {
            let keep = serving.contains(id) || !revision.with(|state, _| state.is_idle());
            if !keep {
                self.stats.remove(id);
            }
            keep
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time between two load reports while a Revision is active.
pub(super) const TICK: Duration = Duration::from_millis(200);

/// Requests in a queue that the scaler hears of one by one: a pooled instance for each of them is a matter of a few milliseconds.
const TOLD_AT_ONCE: usize = 8;

/// How long growth of a queue may go untold: long enough that a burst is one message, short beside any start.
pub(super) const GROWTH_DELAY: Duration = Duration::from_millis(2);
