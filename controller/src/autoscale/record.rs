//! What the service keeps of one Revision.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use hearth_dispatch::{LoadReport, StartFailure};
use hearth_function::{InstanceCounts, InstanceId};
use hearth_scaler::evict::Clock;
use hearth_scaler::{
    Backoff, BackoffPolicy, Candidate, Counts, Decision, Occupation, Policy, Reach, Tracker, choose,
};
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::decisions::Decisions;
use super::mending::Mending;
use super::pressure::Rate;
use super::rest::{Rest, Sleeper};
use super::snapshot::{self, About, RevisionView, Start};
use super::{Target, TrialError};

/// A Revision is looked at again after this at the earliest, when nothing is heard of it.
const SOONEST: Duration = Duration::from_millis(10);

/// What comes within so long after those who waited were told that nothing starts for now fails at once; then it is told again to whoever waits.
pub(super) const TOLD_FOR: Duration = Duration::from_secs(5);

/// An instance that ends so soon after it was Ready, with no call to blame, may do so again and again.
const TOO_SHORT: Duration = Duration::from_secs(5);

/// After that, none is started ahead of need for so long. A request that waits does not wait for this: there are no more such starts than
/// requests.
const HOLD_OFF: Duration = Duration::from_secs(1);

/// One Revision.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) target: Target,
    pub(super) backoff: Backoff,
    /// Its instances that are on their way or serve; those that are to go are not among them.
    pub(super) instances: BTreeMap<InstanceId, Member>,
    /// Instances that are to go and are not gone yet.
    pub(super) leaving: u32,
    pub(super) trials: Vec<Trial>,
    /// It is to be forgotten when nothing of it is left; who waits for that.
    pub(super) removing: Option<Vec<oneshot::Sender<()>>>,
    /// Starts that are wanted and not begun, and since when.
    pub(super) wanted: u32,
    /// Instances there should be, as decided last.
    pub(super) desired: u32,
    pub(super) wanted_since: Option<Instant>,
    /// When to look again though nothing is heard.
    pub(super) recheck: Option<Instant>,
    /// No scale-in before then: the traffic before a restart of the controller is not known.
    pub(super) hold_until: Option<Instant>,
    /// No start that nobody waits for before then: the last instance was Ready and ended soon after, by itself.
    pub(super) held_off: Option<Instant>,
    pub(super) waiting: u32,
    pub(super) in_flight: u32,
    /// Calls that come.
    pub(super) rate: Rate,
    tracker: Tracker,
    came_up: bool,
    failure: Option<StartFailure>,
    mending: Mending,
    /// When those who wait were told last that nothing comes for now.
    told_hindered: Option<Instant>,
    /// What a start waited for last, outside.
    hindrance: Option<StartFailure>,
    decisions: Decisions,
    starts: std::collections::VecDeque<Start>,
}

/// A trial that goes on.
#[derive(Debug)]
pub(super) struct Trial {
    began: Instant,
    reply: oneshot::Sender<Result<(), TrialError>>,
}

/// A trial that is over. What came of it is told once it is shown, so that whoever hears of it sees the same.
#[derive(Debug)]
#[must_use]
pub(super) struct Over {
    reply: oneshot::Sender<Result<(), TrialError>>,
    outcome: Result<(), TrialError>,
}

impl Over {
    pub(super) fn tell(self) {
        // Who asked may have gone.
        let _gone = self.reply.send(self.outcome).is_err();
    }
}

/// What a start waits for, while it does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// Something outside, of which those who wait are told.
    Outside,
    /// Something that takes its time and comes by itself, as an image that is pulled.
    Time,
}

/// An instance as the autoscaler counts it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    /// Since when it is Ready; `None` while it starts.
    pub(super) ready: Option<Instant>,
    pub(super) began: Instant,
    /// Calls it ran at the last report.
    pub(super) calls: u32,
    /// An earlier controller has started it.
    pub(super) adopted: bool,
    /// Since when a report has seen none; `None` while it runs some, or starts.
    pub(super) idle_since: Option<Instant>,
    pub(super) rest: Rest,
    pub(super) waits: Option<Waits>,
    /// What the clock of evictions said when a call was last seen on it.
    pub(super) used_at: f64,
    /// Processes and threads that it could not make, as last measured.
    pub(super) refused: u64,
}

impl Member {
    pub(super) fn new(began: Instant) -> Self {
        Self {
            ready: None,
            began,
            calls: 0,
            adopted: false,
            idle_since: None,
            rest: Rest::Awake,
            waits: None,
            used_at: 0.0,
            refused: 0,
        }
    }

    fn occupation(&self) -> Occupation {
        match (self.ready, self.calls) {
            (None, _) => Occupation::Starting,
            (Some(_), 0) => Occupation::Idle,
            (Some(_), calls) => Occupation::Busy { calls },
        }
    }
}

impl Record {
    pub(super) fn new(target: Target, now: Instant) -> Self {
        Self {
            tracker: Tracker::new(&target.policy, target.reach, now.into_std()),
            target,
            backoff: Backoff::new(BackoffPolicy::default()),
            instances: BTreeMap::new(),
            leaving: 0,
            trials: Vec::new(),
            removing: None,
            wanted: 0,
            desired: 0,
            wanted_since: None,
            recheck: None,
            hold_until: None,
            held_off: None,
            waiting: 0,
            in_flight: 0,
            rate: Rate::new(now),
            came_up: false,
            failure: None,
            mending: Mending::default(),
            told_hindered: None,
            hindrance: None,
            decisions: Decisions::default(),
            starts: std::collections::VecDeque::new(),
        }
    }

    pub(super) fn put(&mut self, target: Target, now: Instant) {
        self.tracker.reach(target.reach, now.into_std());
        if self.target.policy != target.policy {
            self.tracker.renew(&target.policy, now.into_std());
        }
        self.target = target;
        // Whoever wants it again has given its removal up.
        self.removing = None;
    }

    /// The callers of another Revision of the same Function are the same: what was learned of them counts here.
    pub(super) fn inherit(&mut self, other: &Self) {
        self.tracker.inherit(other.tracker.idle_times().clone());
    }

    pub(super) fn wanted(&mut self, waiting: u32, in_flight: u32, now: Instant) {
        (self.waiting, self.in_flight) = (waiting, in_flight);
        self.tracker.wanted(waiting, in_flight, now.into_std());
    }

    /// An instance has come up: until the next report it is taken that its slots are filled from the queue.
    pub(super) fn filled(&mut self, now: Instant) {
        let moved = self.waiting.min(self.target.template.slots());
        self.wanted_again(self.waiting - moved, self.in_flight + moved, now);
    }

    /// An ephemeral instance has served its call.
    pub(super) fn spent(&mut self, now: Instant) {
        // A report that was on its way may still count the call among those that wait.
        let waiting = self.waiting.saturating_sub(u32::from(self.in_flight == 0));
        self.wanted_again(waiting, self.in_flight.saturating_sub(1), now);
    }

    fn wanted_again(&mut self, waiting: u32, in_flight: u32, now: Instant) {
        // What nobody asked for (a trial, the minimum) is no traffic.
        if (waiting, in_flight) != (self.waiting, self.in_flight) {
            self.wanted(waiting, in_flight, now);
        }
    }

    pub(super) fn load(&mut self, report: &LoadReport, clock: Clock, now: Instant) {
        self.rate.note(report.arrived, now);
        (self.waiting, self.in_flight) = (report.waiting, report.in_flight);
        for member in self.instances.values_mut() {
            member.calls = 0;
        }
        for (instance, calls) in &report.busy {
            if let Some(member) = self.instances.get_mut(instance) {
                (member.calls, member.idle_since) = (*calls, None);
                member.used_at = clock.now();
            }
        }
        for member in self.instances.values_mut().filter(|member| member.ready.is_some() && member.calls == 0)
        {
            member.idle_since.get_or_insert(now);
        }
        self.tracker.load(&report.into(), now.into_std());
    }

    /// Instances that are kept whatever the traffic, at this time of day.
    pub(super) fn reserved(&self, time: Timestamp) -> u32 {
        let windows = self.target.reserved.count(time);
        self.target.policy.min.max(windows).min(self.target.policy.max.get())
    }

    pub(super) fn sleepers(&self) -> Vec<Sleeper<'_>> {
        let ready = self.instances.iter().filter(|(_, member)| member.ready.is_some());
        ready
            .map(|(id, member)| Sleeper {
                id,
                rest: member.rest,
                idle_since: member.idle_since,
                began: member.began,
            })
            .collect()
    }

    pub(super) fn ready(&self) -> u32 {
        count(self.instances.values().filter(|member| member.ready.is_some()))
    }

    pub(super) fn starting(&self) -> u32 {
        count(self.instances.values().filter(|member| member.ready.is_none()))
    }

    /// Starts that wait for something outside.
    pub(super) fn hindered(&self) -> u32 {
        self.waits_for(Waits::Outside)
    }

    /// Starts that wait for something that takes its time.
    pub(super) fn slow(&self) -> u32 {
        self.waits_for(Waits::Time)
    }

    fn waits_for(&self, what: Waits) -> u32 {
        count(self.instances.values().filter(|member| member.waits == Some(what) && member.ready.is_none()))
    }

    /// A start waits for something outside, for this reason, or goes on (`None`); whether that is news.
    pub(super) fn hinder(&mut self, instance: &InstanceId, why: Option<&StartFailure>) -> bool {
        let Some(member) = self.instances.get_mut(instance).filter(|member| member.ready.is_none()) else {
            return false;
        };
        let waits = why.map(|_| Waits::Outside);
        let changed = (member.waits == Some(Waits::Outside)) != waits.is_some();
        member.waits = waits;
        // What is said stays said until one has come up: those who were refused may come again only then.
        if let Some(why) = why {
            self.failure = Some(why.clone());
            self.hindrance = Some(why.clone());
        }
        changed
    }

    /// Why those who wait do so in vain, if that is to be told now: every start waits itself, and nothing serves.
    pub(super) fn waits_in_vain(&mut self, now: Instant) -> Option<StartFailure> {
        if self.waiting == 0 {
            return None;
        }
        let hindered = self.hindered();
        let in_vain = hindered > 0 && self.instances.len() == hindered as usize;
        if !in_vain || self.told_hindered.is_some_and(|told| now < told + TOLD_FOR) {
            return None;
        }
        self.told_hindered = Some(now);
        self.hindrance.clone()
    }

    /// Instances that are kept, or tried, though nobody asks for them: one whose Pod no node takes, so that whoever makes nodes sees that one is
    /// wanted; and one more try after a start that failed.
    fn kept(&self, now: Instant) -> u32 {
        if self.target.reach == Reach::Retired {
            return 0;
        }
        let mends = (self.target.mends || self.came_up) && self.ready() == 0 && self.mending.is_due(now);
        u32::from(self.hindered() > 0 || mends)
    }

    /// What there should be now. Sets what is wanted and when to look again.
    pub(super) fn decide(&mut self, parallel_starts: NonZeroU32, now: Instant, time: Timestamp) -> Decision {
        let counts = Counts { ready: self.ready(), starting: self.starting(), parallel_starts };
        let (reserved, kept) = (self.reserved(time), self.kept(now));
        let policy = Policy { min: reserved.max(kept), ..self.target.policy };
        let decision = self.tracker.decide(&policy, counts, now.into_std());
        self.desired = decision.desired;
        let wished = if self.removing.is_some() { 0 } else { decision.starts() };
        let held_off = self.held_off.filter(|until| *until > now && self.waiting == 0 && wished > 0);
        self.wanted = match held_off {
            Some(_) => 0,
            // Where one finds no place no other does.
            None if self.hindered() > 0 => 0,
            None => self.backoff.allow(wished, counts.starting, now.into_std()),
        };
        if self.wanted == 0 {
            self.wanted_since = None;
        } else {
            self.wanted_since.get_or_insert(now);
        }
        let backed_off = match self.backoff.allowance(now.into_std()) {
            hearth_scaler::Allowance::None { until } if wished > 0 => Some(until),
            _ => None,
        };
        let recheck = decision.recheck.into_iter().chain(backed_off).map(Instant::from_std);
        let told = self.told_hindered.filter(|_| self.waiting > 0).map(|told| told + TOLD_FOR);
        let told = told.filter(|at| *at > now);
        let recheck = recheck.chain(held_off).chain(self.mending.next(now)).chain(told).min();
        // A moment that has passed must not keep the service awake.
        self.recheck = recheck.map(|at| at.max(now + SOONEST));
        self.by_window(decision, reserved, kept)
    }

    /// Says of a floor that is not the minimum whose it is.
    fn by_window(&self, mut decision: Decision, reserved: u32, kept: u32) -> Decision {
        use hearth_scaler::Bound;
        if let Some(Bound::Min(floor)) = decision.bound
            && floor > self.target.policy.min
        {
            decision.bound = Some(match self.hindered() {
                _ if reserved >= kept => Bound::Reserved(floor),
                0 => Bound::Mending,
                _ => Bound::Waiting,
            });
        }
        decision
    }

    /// Which instances a decision puts out now.
    pub(super) fn to_put_out(&self, decision: &Decision, now: Instant) -> Vec<InstanceId> {
        let held = self.hold_until.is_some_and(|until| now < until) && self.target.reach != Reach::Retired;
        if held {
            return Vec::new();
        }
        let candidates: Vec<Candidate<InstanceId>> = self
            .instances
            .iter()
            .map(|(id, member)| Candidate {
                id: id.clone(),
                occupation: member.occupation(),
                started: member.began.into_std(),
            })
            .collect();
        choose(&candidates, usize::try_from(decision.stops()).unwrap_or(usize::MAX))
    }

    pub(super) fn note_decision(&mut self, decision: &Decision, now: Instant, time: Timestamp) {
        self.decisions.note(decision, now, time);
    }

    /// Something that happened beside the decisions, told among them.
    pub(super) fn note_event(&mut self, about: About, text: String, time: Timestamp) {
        self.decisions.tell(about, text, time);
    }

    pub(super) fn note_start(&mut self, start: Start, took: Option<Duration>) {
        if let Some(took) = took {
            self.tracker.started(took);
        }
        snapshot::keep(&mut self.starts, start);
    }

    /// A trial begins. What was wrong before says nothing of it: its first start is due now, and why an earlier one failed is forgotten.
    pub(super) fn begin_trial(
        &mut self,
        reply: oneshot::Sender<Result<(), TrialError>>,
        now: Instant,
    ) -> Vec<Over> {
        self.trials.push(Trial { began: now, reply });
        if self.ready() > 0 || self.target.policy.initial == 0 {
            return self.end_trials(&Ok(()));
        }
        self.backoff.hurry(now.into_std());
        // A start that waits for something outside still does.
        self.failure = self.hindrance.clone().filter(|_| self.hindered() > 0);
        Vec::new()
    }

    /// Whether a start is from before every trial that goes on: why it failed is old news, and another follows at once.
    pub(super) fn is_before_trial(&self, start: &Member) -> bool {
        !self.trials.is_empty() && self.trials.iter().all(|trial| start.began < trial.began)
    }

    pub(super) fn note_ready(&mut self) -> Vec<Over> {
        self.backoff.succeeded();
        self.came_up = true;
        self.failure = None;
        self.mending.came_up();
        let needed = self.target.policy.initial.min(self.target.policy.max.get()).max(1);
        if self.ready() >= needed { self.end_trials(&Ok(())) } else { Vec::new() }
    }

    pub(super) fn note_failure(&mut self, failure: &StartFailure, now: Instant) {
        self.failure = Some(failure.clone());
        self.mending.failed(failure.code, now);
    }

    /// An instance has ended or is to end, by itself or by somebody outside.
    pub(super) fn note_loss(&mut self, instance: &InstanceId, now: Instant) {
        let ready = self.instances.get(instance).and_then(|member| member.ready);
        let short = ready.is_some_and(|ready| now.duration_since(ready) < TOO_SHORT);
        if short && self.waiting == 0 && self.in_flight == 0 {
            self.held_off = Some(now + HOLD_OFF);
        }
    }

    pub(super) fn end_trials(&mut self, outcome: &Result<(), TrialError>) -> Vec<Over> {
        let over = |trial: Trial| Over { reply: trial.reply, outcome: outcome.clone() };
        self.trials.drain(..).map(over).collect()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.instances.is_empty() && self.leaving == 0
    }

    pub(super) fn view(&self) -> RevisionView {
        let calls: BTreeMap<InstanceId, u32> = self
            .instances
            .iter()
            .filter(|(_, member)| member.calls > 0)
            .map(|(id, member)| (id.clone(), member.calls))
            .collect();
        RevisionView {
            counts: InstanceCounts {
                ready: self.ready(),
                busy: count(calls.iter()),
                starting: self.starting(),
                paused: count(self.instances.values().filter(|member| member.rest == Rest::Paused)),
            },
            waiting: self.waiting,
            in_flight: self.in_flight,
            calls,
            came_up: self.came_up,
            failure: self.failure.clone(),
            decisions: self.decisions.lines().clone(),
            starts: self.starts.clone(),
        }
    }
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
