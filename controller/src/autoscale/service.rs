//! The one task that owns the pool and every Revision's record.

mod deciding;
mod hearing;
mod hindering;
mod leaving;
mod prewarming;
mod relieving;
mod remains;
mod resting;
mod showing;
mod straining;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hearth_dispatch::{ToGateway, ToScaler};
use hearth_function::{InstanceId, RevisionId};
use hearth_scaler::Reach;
use hearth_scaler::evict::Clock;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::ladder::Ladder;
use super::metrics::Metrics;
use super::prewarm::Prewarm;
use super::record::{Member, Over, Record};
use super::snapshot::{RevisionView, Snapshot};
use super::turns::Turns;
use super::{COMMANDS, Command, Config, Handle, Left, TICK, Target, TrialError};
use crate::pool::{Pool, STOP_GRACE};
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::Registry;

pub use remains::Adoptable;
use remains::Remains;

/// How often what there is is shown, at most.
const SHOW_EVERY: Duration = Duration::from_millis(50);

/// Messages of a gateway that are taken before the next decision: a burst is one decision.
const BATCH: usize = 64;

/// Where the service hears from gateways and speaks to them.
#[derive(Debug)]
pub struct Channels {
    /// From the gateway.
    pub from_gateway: mpsc::Receiver<ToScaler>,
    /// To the gateway.
    pub to_gateway: mpsc::Sender<ToGateway>,
}

/// Owns pool and records. [`Service::run`] is its life.
#[derive(Debug)]
pub struct Service {
    config: Config,
    pool: Pool,
    prewarm: Prewarm,
    turns: Turns,
    /// Ephemeral instances that have served their call, and are to be stopped when the cores have time for it.
    spent: VecDeque<InstanceId>,
    ladder: Ladder,
    /// Of evictions for memory's sake.
    clock: Clock,
    logs: Logs,
    channels: Channels,
    commands: mpsc::Receiver<Command>,
    /// On the heap: a tree of them keeps room for as many again.
    records: BTreeMap<RevisionId, Box<Record>>,
    remains: Remains,
    /// What is to be said to the gateway and did not fit into its channel: at most a few messages for each instance.
    outbox: VecDeque<ToGateway>,
    /// Instances that the gateway knows.
    granted: BTreeSet<InstanceId>,
    /// Instances that a gateway lost: when they are killed, and what it said.
    suspects: BTreeMap<InstanceId, (Instant, String)>,
    dirty: BTreeSet<RevisionId>,
    /// What is shown of each Revision, and of which something may have changed since.
    views: BTreeMap<RevisionId, Arc<RevisionView>>,
    stale: BTreeSet<RevisionId>,
    shown: watch::Sender<Arc<Snapshot>>,
    show_at: Option<Instant>,
    /// Trials that are over, until what came of them is shown.
    over: Vec<Over>,
    shutdown: Option<Shutdown>,
    metrics: Metrics,
}

#[derive(Debug)]
struct Shutdown {
    deadline: Instant,
    /// Instances whose calls had not ended by the deadline.
    cut_off: BTreeSet<InstanceId>,
    cut: bool,
    replies: Vec<oneshot::Sender<Left>>,
}

impl Service {
    /// A service over `pool`, and the handle to it. `adoptable` is what the backend found at the start: instances of Revisions that are
    /// named before [`Handle::settled`] are adopted, all others are taken away then.
    #[must_use]
    pub fn new(
        config: Config,
        pool: Pool,
        logs: Logs,
        channels: Channels,
        adoptable: Vec<Adoptable>,
        registry: &Registry,
    ) -> (Self, Handle) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (shown, snapshot) = watch::channel(Arc::default());
        let service = Self {
            config,
            pool,
            prewarm: Prewarm::new(config.prewarm),
            turns: Turns::new(usize::try_from(config.cores()).unwrap_or(usize::MAX)),
            spent: VecDeque::new(),
            ladder: Ladder::default(),
            clock: Clock::default(),
            logs,
            channels,
            commands: inbox,
            records: BTreeMap::new(),
            remains: Remains::new(adoptable),
            outbox: VecDeque::new(),
            granted: BTreeSet::new(),
            suspects: BTreeMap::new(),
            dirty: BTreeSet::new(),
            views: BTreeMap::new(),
            stale: BTreeSet::new(),
            shown,
            show_at: None,
            over: Vec::new(),
            shutdown: None,
            metrics: Metrics::new(registry),
        };
        (service, Handle { commands, snapshot })
    }

    /// Serves until [`Handle::shutdown`] is done, or until nobody holds a handle any more (then it leaves the instances as they are).
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let to_gateway = self.channels.to_gateway.clone();
        loop {
            let wake = self.wake();
            let show_at = self.show_at;
            // All arms are cancel-safe. Biased: a Revision that was named is known before a gateway asks for it, and what comes in
            // bursts comes last. A message for the gateway is taken out of the box only with a place for it in hand.
            tokio::select! {
                biased;
                place = to_gateway.reserve(), if !self.outbox.is_empty() => match place {
                    Ok(place) => {
                        if let Some(message) = self.outbox.pop_front() {
                            place.send(message);
                        }
                        continue;
                    }
                    // The gateway has ended: Hearth is shutting down.
                    Err(_) => {
                        self.outbox.clear();
                        self.stop_what_nobody_calls();
                    }
                },
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                _ = tick.tick() => {
                    self.dirty.extend(self.records.keys().cloned());
                    self.rest(Instant::now());
                    self.pool.measure();
                    if let Some(measured) = self.pool.take_measurement() {
                        self.note_refused(&measured.refused);
                        self.relieve(&measured, Instant::now());
                    }
                }
                () = sleep_until_or_never(show_at) => {
                    self.show_at = None;
                    self.show();
                    continue;
                }
                event = self.pool.next() => self.note(event),
                Some(message) = self.channels.from_gateway.recv() => {
                    self.hear(message);
                    for _ in 1..BATCH {
                        match self.channels.from_gateway.try_recv() {
                            Ok(message) => self.hear(message),
                            Err(_) => break,
                        }
                    }
                }
                () = sleep_until_or_never(wake) => {}
            }
            self.tell_gateway();
            let now = Instant::now();
            self.kill_suspects(now);
            self.decide(now);
            self.tell_trials();
            self.show_at.get_or_insert(now + SHOW_EVERY);
            if self.end_if_done(now) {
                return;
            }
        }
    }

    fn wake(&self) -> Option<Instant> {
        if let Some(shutdown) = &self.shutdown {
            // Nothing is decided any more: what was to be looked at again would be due for ever.
            return (!shutdown.cut).then_some(shutdown.deadline);
        }
        let rechecks = self.records.values().filter_map(|record| record.recheck);
        let suspects = self.suspects.values().map(|(at, _)| *at);
        rechecks.chain(suspects).chain(self.turns.wake(Instant::now())).min()
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Put(target) => self.put(target, now),
            Command::Try { revision, reply } => {
                if let Some(record) = self.records.get_mut(&revision) {
                    self.over.extend(record.begin_trial(reply, now));
                    self.dirty.insert(revision);
                } else {
                    let _gone = reply.send(Err(TrialError::Removed)).is_err();
                }
            }
            Command::Remove { revision, reply } => {
                let Some(record) = self.records.get_mut(&revision) else {
                    let _gone = reply.send(()).is_err();
                    return;
                };
                record.removing.get_or_insert_default().push(reply);
                self.over.extend(record.end_trials(&Err(TrialError::Removed)));
                let members: Vec<InstanceId> = record.instances.keys().cloned().collect();
                for instance in members {
                    self.drain(&instance, "its revision is taken away");
                }
                self.forget_if_gone(&revision);
            }
            Command::Settled(unknown) => self.settle(&unknown),
            Command::Clear { function, reply } => {
                let _gone = reply.send(self.clear(&function)).is_err();
            }
            Command::Shutdown { deadline, reply } => self.begin_shutdown(deadline, reply),
        }
    }

    fn put(&mut self, target: Target, now: Instant) {
        let revision = target.template.revision().clone();
        self.dirty.insert(revision.clone());
        if let Some(record) = self.records.get_mut(&revision) {
            return record.put(target, now);
        }
        let mut record = Record::new(target, now);
        let of_the_same = |other: &Record| {
            other.target.template.function() == record.target.template.function()
                && other.target.reach != Reach::Untried
        };
        if let Some(other) = self.records.values().rfind(|other| of_the_same(other)) {
            record.inherit(other);
        }
        for Adoptable { found, logs_after, .. } in self.remains.of(&record.target) {
            let window = record.target.policy.idle_timeout.max(record.target.policy.hold());
            record.hold_until = Some(now + window);
            record.instances.insert(found.spec.id.clone(), Member { adopted: true, ..Member::new(now) });
            self.pool.adopt(&record.target.template, found, logs_after);
        }
        self.records.insert(revision, Box::new(record));
    }

    fn begin_shutdown(&mut self, deadline: Instant, reply: oneshot::Sender<Left>) {
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.deadline = shutdown.deadline.min(deadline);
            shutdown.replies.push(reply);
            return;
        }
        self.shutdown =
            Some(Shutdown { deadline, cut_off: BTreeSet::new(), cut: false, replies: vec![reply] });
        // What was found and not named yet is left to the next controller, as is right for one that ends while it starts.
        self.remains.leave();
        let members: Vec<InstanceId> =
            self.records.values().flat_map(|record| record.instances.keys().cloned()).collect();
        for instance in members {
            self.drain(&instance, "Hearth is shutting down");
        }
        let pooled = self.pool.views().filter(|view| view.revision.is_none()).map(|view| view.id);
        for instance in pooled.collect::<Vec<_>>() {
            self.prewarm.lost(&instance);
            self.pool.stop(&instance, "Hearth is shutting down", STOP_GRACE);
        }
        self.stop_what_nobody_calls();
    }

    /// Once the gateway has ended there are no calls, and nobody who would say that they have ended.
    fn stop_what_nobody_calls(&mut self) {
        let Some(shutdown) = self.shutdown.as_ref().filter(|_| self.channels.to_gateway.is_closed()) else {
            return;
        };
        // No more than is left. A stop that has begun with more is shortened to this.
        let grace = shutdown.deadline.saturating_duration_since(Instant::now()).min(STOP_GRACE);
        let ids: Vec<InstanceId> = self.pool.views().map(|view| view.id).collect();
        for instance in ids {
            self.pool.stop(&instance, "Hearth is shutting down", grace);
        }
        self.pool.hurry_remains(grace);
    }

    fn end_if_done(&mut self, now: Instant) -> bool {
        let Some(shutdown) = &mut self.shutdown else { return false };
        if !self.pool.is_empty() && now >= shutdown.deadline && !shutdown.cut {
            shutdown.cut = true;
            let views: Vec<_> = self.pool.views().collect();
            // A pooled one has no calls that could be cut.
            let serving = views.iter().filter(|view| view.revision.is_some());
            shutdown.cut_off.extend(serving.map(|view| view.id.clone()));
            for instance in views.into_iter().map(|view| view.id) {
                self.pool.stop(&instance, "Hearth is shutting down and the time is up", Duration::ZERO);
            }
            self.pool.hurry_remains(Duration::ZERO);
        }
        // Killing takes a moment; what takes longer is the next controller's.
        let given_up = now >= shutdown.deadline + STOP_GRACE;
        if !self.pool.is_empty() && !given_up {
            return false;
        }
        let left = Left { busy: shutdown.cut_off.len(), instances: self.pool.left() };
        for reply in shutdown.replies.drain(..) {
            let _gone = reply.send(left).is_err();
        }
        true
    }

    /// Takes an instance out of the count of those that serve.
    fn leave(&mut self, instance: &InstanceId) -> Option<Member> {
        for (revision, record) in &mut self.records {
            if let Some(member) = record.instances.remove(instance) {
                record.leaving += 1;
                self.stale.insert(revision.clone());
                return Some(member);
            }
        }
        None
    }

    fn drain(&mut self, instance: &InstanceId, why: &str) {
        self.drain_within(Duration::MAX, instance, why);
    }

    /// The same, where its calls have no longer than `left`.
    fn drain_within(&mut self, left: Duration, instance: &InstanceId, why: &str) {
        let time = self.time_for_calls(instance);
        self.leave(instance);
        if self.granted.contains(instance) {
            self.outbox.push_back(ToGateway::Revoke { instance: instance.clone() });
        }
        self.pool.drain(instance, why, time.min(left));
    }

    /// How long the calls of an instance that still serves may take to end.
    fn time_for_calls(&self, instance: &InstanceId) -> Duration {
        let revision = self.records.values().find(|record| record.instances.contains_key(instance));
        let execute = revision.map_or(Duration::ZERO, |record| record.target.template.execute_timeout());
        match &self.shutdown {
            Some(shutdown) => shutdown.deadline.saturating_duration_since(Instant::now()),
            None => self.config.drain.max(execute),
        }
    }

    fn kill(&mut self, instance: &InstanceId, why: &str) {
        self.gone(instance, why);
        self.leave(instance);
        self.pool.stop(instance, why, Duration::ZERO);
    }

    fn kill_suspects(&mut self, now: Instant) {
        let due: Vec<InstanceId> =
            self.suspects.iter().filter(|(_, (at, _))| *at <= now).map(|(id, _)| id.clone()).collect();
        for instance in due {
            if let Some((_, reason)) = self.suspects.remove(&instance)
                && self.serves(&instance)
            {
                self.kill(&instance, &reason);
            }
        }
    }

    /// Whether it has not left yet. One that has may take no connections any more, and its calls keep the time that they were given.
    fn serves(&mut self, instance: &InstanceId) -> bool {
        holder(&mut self.records, instance).is_some()
    }

    /// Tells the gateway, once, that an instance is no more.
    fn gone(&mut self, instance: &InstanceId, reason: &str) {
        if self.granted.remove(instance) {
            self.outbox.push_back(ToGateway::Gone { instance: instance.clone(), reason: reason.to_owned() });
        }
    }

    fn forget_if_gone(&mut self, revision: &RevisionId) {
        let done = |record: &Record| record.removing.is_some() && record.is_gone();
        if !self.records.get(revision).is_some_and(|record| done(record)) {
            return;
        }
        self.views.remove(revision);
        if let Some(mut record) = self.records.remove(revision) {
            // Who asked in between would else wait for ever.
            self.over.extend(record.end_trials(&Err(TrialError::Removed)));
            self.metrics.remove(record.target.template.as_ref());
            for reply in record.removing.unwrap_or_default() {
                let _gone = reply.send(()).is_err();
            }
        }
    }
}

/// The Revision that has this instance.
fn holder<'a>(
    records: &'a mut BTreeMap<RevisionId, Box<Record>>,
    instance: &InstanceId,
) -> Option<(&'a RevisionId, &'a mut Record)> {
    let mut all = records.iter_mut().map(|(revision, record)| (revision, &mut **record));
    all.find(|(_, record)| record.instances.contains_key(instance))
}

async fn sleep_until_or_never(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// From 0 to 1.
fn jitter() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}
