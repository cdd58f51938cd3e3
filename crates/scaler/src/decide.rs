//! The rule: from a policy and what was seen to how many instances there should be (INV-6, INV-7).

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::keepalive::Outlook;
use crate::need::Need;
use crate::policy::Policy;
use crate::reason::{Bound, Reason, span};
use crate::window::Average;

/// What is known of one Revision at a moment. [`crate::Tracker`] makes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Calls that wait for a slot.
    pub waiting: u32,
    /// Calls that run.
    pub in_flight: u32,
    /// Instances that serve (draining ones are neither ready nor starting).
    pub ready: u32,
    /// Instances whose start is under way.
    pub starting: u32,
    /// Starts the machine runs at the same time.
    pub parallel_starts: NonZeroU32,
    /// The load over [`Policy::window`]. Time before the first report counts as empty: a burst is no load until it has lasted.
    pub average: Average,
    /// The load over [`Policy::panic_window`].
    pub panic_average: Average,
    /// Within the last [`Policy::window`] there was [`Decision::panic`].
    pub panicking: bool,
    /// Mean time of the calls that ended lately; `None`: none ever has.
    pub service_time: Option<Duration>,
    /// What a start took lately; `None`: none ever succeeded.
    pub start_time: Option<Duration>,
    /// The highest [`Decision::need`] of the last [`Policy::hold`].
    pub recent_need: u32,
    /// The most instances that served within the last two seconds.
    pub recent_ready: u32,
    /// When there last was traffic; when routes came to lead here, if there was none since.
    pub last_active: Instant,
    /// What the history says of the time after a call; `None`: nothing, or it is not to be asked.
    pub outlook: Option<Outlook>,
    /// Calls wait for longer than the forecast allowed twice over: it was no burst.
    pub overdue: bool,
    /// Whether routes lead here.
    pub reach: Reach,
}

/// Whether requests can reach a Revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// It is new and has to come up before routes lead to it.
    Untried,
    /// Routes lead to it.
    Routed,
    /// Another has taken its place: it ends the calls it has.
    Retired,
}

/// How many instances there should be, and why.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decision {
    /// Instances there are, starting ones with them.
    pub current: u32,
    /// Instances there should be, starting ones with them.
    pub desired: u32,
    /// What the calls of this moment alone ask for: goes into [`Observation::recent_need`].
    pub need: u32,
    /// So much more is needed than serves ([`Policy::panic_threshold`]) that for a window the average over the panic window counts too.
    pub panic: bool,
    /// When the backlog should be gone, where that could be told and fewer instances are started than could run all of it at once.
    pub drained_in: Option<Duration>,
    /// What led to it.
    pub reason: Reason,
    /// What kept it from being higher or lower.
    pub bound: Option<Bound>,
    /// When to decide again though nothing is heard.
    pub recheck: Option<Instant>,
}

impl Decision {
    /// Instances to start now. Fewer may be possible at once: then decide again before each further one, the need may be gone.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.desired.saturating_sub(self.current)
    }

    /// What led to it and what bounded it, for people.
    #[must_use]
    pub fn why(&self) -> String {
        match self.bound {
            Some(bound) => format!("{} ({bound})", self.reason),
            None => self.reason.to_string(),
        }
    }

    /// Instances to put out now; [`crate::choose`] says which.
    #[must_use]
    pub fn stops(&self) -> u32 {
        self.current.saturating_sub(self.desired)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", span(self.current, self.desired), self.why())
    }
}

/// Says how many instances a Revision should have.
///
/// # Guarantees
/// * `desired` is at most `policy.max`, and at least `policy.min` while routes lead here.
/// * It starts nothing beyond one instance for each call that runs or waits; the minimum, the initial and activation instances, one ahead of
///   a call that is expected, and those that requests per second ask for, apart.
/// * With everything else the same, more calls never mean fewer instances.
/// * It does not put out what the window still needs, nor anything that calls of this moment need.
#[must_use]
pub fn decide(policy: &Policy, seen: &Observation, now: Instant) -> Decision {
    let current = seen.ready.saturating_add(seen.starting);
    let calls = seen.waiting.saturating_add(seen.in_flight);
    let max = policy.max.get();
    let need = Need::of(policy, seen);
    let rest = Rest::of(policy, seen, now);

    let floor = match seen.reach {
        Reach::Untried => policy.min.max(policy.initial),
        Reach::Routed => policy.min,
        Reach::Retired => 0,
    };
    let up_to = policy.scale_up_rate.get().saturating_mul(seen.ready.max(1));
    let down_to = seen.recent_ready / policy.scale_down_rate.get();
    // Only what is there can be held: nothing is started for a need that is over.
    let held = match (seen.reach, rest) {
        (Reach::Retired, _) | (_, Rest::Over { .. }) => 0,
        (_, Rest::Ahead { .. }) => 1,
        _ => seen.recent_need.max(1).max(down_to).min(current),
    };
    let wanted = need.instances.min(up_to).max(held);
    let desired = wanted.max(floor).min(max);

    let bound = if need.instances.max(wanted) > max && desired == max || floor > max {
        Some(Bound::Max(max))
    } else if need.instances > desired {
        Some(Bound::UpRate(policy.scale_up_rate.get()))
    } else if floor > wanted && policy.min == floor {
        Some(Bound::Min(floor))
    } else if desired < current && held == down_to && held > seen.recent_need.max(need.instances).max(1) {
        Some(Bound::DownRate(policy.scale_down_rate.get()))
    } else {
        None
    };
    let steady = Reason::Steady { calls };
    let reason = if seen.reach == Reach::Untried && floor > wanted && policy.initial == floor {
        Reason::Initial { initial: policy.initial }
    } else if let (Rest::Ahead { quiet, again, from }, true) = (rest, need.instances == 0 && floor < 2) {
        Reason::Prewarmed { quiet, again, from }
    } else if desired > current || need.instances > current {
        if need.instances > floor.min(current) { need.reason } else { steady }
    } else if desired < current {
        match (seen.reach, rest) {
            (Reach::Retired, _) => Reason::Retired { calls },
            (_, Rest::Over { quiet, next, from: Some(from) }) => Reason::Unexpected { quiet, next, from },
            (_, Rest::Over { quiet, .. }) => Reason::Idle { idle: quiet },
            _ if held > max => steady,
            _ => Reason::Quiet { need: wanted, window: policy.hold() },
        }
    } else if need.instances < desired && desired > floor {
        match rest {
            Rest::Kept { keep, from: Some(from) } if desired == 1 || keep >= policy.hold() => {
                Reason::Kept { keep, from }
            }
            Rest::Kept { keep, .. } => {
                Reason::Held { need: need.instances, for_at_most: keep.max(policy.hold()) }
            }
            _ => Reason::Held { need: need.instances, for_at_most: policy.hold() },
        }
    } else {
        steady
    };

    Decision {
        current,
        desired,
        need: need.instances.min(max),
        panic: need.panic,
        drained_in: need.drained_in,
        reason,
        bound,
        recheck: recheck(policy, seen, now, desired > floor && need.instances < desired),
    }
}

/// What the time since the last call says.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rest {
    /// There are calls.
    Busy,
    /// It is too early to go. `from`: idle times it was learned from.
    Kept { keep: Duration, from: Option<u32> },
    /// A call is expected.
    Ahead { quiet: Duration, again: (Duration, Duration), from: u32 },
    /// Nobody is expected now. `next`: how long after the last call somebody is.
    Over { quiet: Duration, next: Option<Duration>, from: Option<u32> },
}

impl Rest {
    fn of(policy: &Policy, seen: &Observation, now: Instant) -> Self {
        if seen.waiting > 0 || seen.in_flight > 0 {
            return Self::Busy;
        }
        let quiet = now.saturating_duration_since(seen.last_active);
        let from = seen.outlook.map(|outlook| outlook.from);
        let keep = keep(policy, seen);
        if quiet < keep {
            return Self::Kept { keep, from };
        }
        match seen.outlook.and_then(|outlook| Some((outlook.again?, outlook.from))) {
            Some((again, from)) if quiet >= again.0 && quiet < again.1 && seen.reach == Reach::Routed => {
                Self::Ahead { quiet, again, from }
            }
            Some((again, from)) if quiet < again.0 => {
                Self::Over { quiet, next: Some(again.0), from: Some(from) }
            }
            _ => Self::Over { quiet, next: None, from },
        }
    }
}

/// How long after the last call the last instance stays.
fn keep(policy: &Policy, seen: &Observation) -> Duration {
    seen.outlook.map_or(policy.idle_timeout, |outlook| outlook.keep).max(policy.scale_down_delay)
}

/// When to look again: when the time without calls comes to its next turn, or, if something is held, when the window has moved on a little.
fn recheck(policy: &Policy, seen: &Observation, now: Instant, held: bool) -> Option<Instant> {
    // The last instance waits for its turn, not for the window.
    let several = seen.ready.saturating_add(seen.starting) > 1;
    let step = (held && several).then(|| now + policy.window / crate::window::BUCKETS);
    if seen.waiting > 0 || seen.in_flight > 0 {
        return step;
    }
    let again = seen.outlook.and_then(|outlook| outlook.again);
    let turns =
        [held.then(|| keep(policy, seen)), again.map(|(from, _)| from), again.map(|(_, until)| until)];
    let turns = turns.into_iter().flatten().map(|after| seen.last_active + after).filter(|at| *at > now);
    turns.chain(step).min()
}
