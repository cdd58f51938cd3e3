//! The rule: from a policy and what was seen to how many instances there should be (INV-6, INV-7).

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hearth_function::spec::ProcessModel;

use crate::backlog::Backlog;
use crate::policy::Policy;
use crate::reason::{Bound, Reason};

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
    /// Average of running and waiting calls over the short window, a tenth of [`Policy::window`]. Time before the first report counts as
    /// empty: a burst is no load until it has lasted.
    pub average: f64,
    /// Mean time of the calls that ended lately; `None`: none ever has.
    pub service_time: Option<Duration>,
    /// What a start took lately; `None`: none ever succeeded.
    pub start_time: Option<Duration>,
    /// The highest [`Decision::need`] of the last [`Policy::window`].
    pub recent_need: u32,
    /// When there last was traffic; when routes came to lead here, if there was none since.
    pub last_active: Instant,
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

    /// Instances to put out now; [`crate::choose`] says which.
    #[must_use]
    pub fn stops(&self) -> u32 {
        self.current.saturating_sub(self.desired)
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}: {}", self.current, self.desired, self.reason)?;
        match self.bound {
            Some(bound) => write!(f, " ({bound})"),
            None => Ok(()),
        }
    }
}

/// Says how many instances a Revision should have.
///
/// # Guarantees
/// * `desired` is at most `policy.max`, and at least `policy.min` while routes lead here.
/// * It starts nothing beyond one instance for each call that runs or waits, the minimum and the initial instances apart.
/// * With everything else the same, more calls never mean fewer instances.
/// * It does not put out what the window still needs, nor anything that calls of this moment need.
#[must_use]
pub fn decide(policy: &Policy, seen: &Observation, now: Instant) -> Decision {
    let current = seen.ready.saturating_add(seen.starting);
    let calls = seen.waiting.saturating_add(seen.in_flight);
    let max = policy.max.get();
    let need = Need::of(policy, seen);

    let floor = match seen.reach {
        Reach::Untried => policy.min.max(policy.initial),
        Reach::Routed => policy.min,
        Reach::Retired => 0,
    };
    let quiet_for = now.saturating_duration_since(seen.last_active);
    let idle = calls == 0 && quiet_for >= policy.idle_timeout;
    // Only what is there can be held: nothing is started for a need that is over.
    let held = match seen.reach {
        Reach::Retired => 0,
        _ if idle => 0,
        Reach::Untried | Reach::Routed => seen.recent_need.max(1).min(current),
    };
    let wanted = need.instances.max(held);
    let desired = wanted.max(floor).min(max);

    let bound = if wanted > max || floor > max {
        Some(Bound::Max(max))
    } else if floor > wanted && policy.min == floor {
        Some(Bound::Min(floor))
    } else {
        None
    };
    let steady = Reason::Steady { calls };
    let reason = if seen.reach == Reach::Untried && floor > wanted && policy.initial == floor {
        Reason::Initial { initial: policy.initial }
    } else if desired > current || need.instances > current {
        if need.instances > floor.min(current) { need.reason } else { steady }
    } else if desired < current {
        match seen.reach {
            Reach::Retired => Reason::Retired { calls },
            _ if idle => Reason::Idle { idle: quiet_for },
            _ if held > max => steady,
            Reach::Untried | Reach::Routed => Reason::Quiet { need: wanted, window: policy.window },
        }
    } else if need.instances < desired && desired > floor {
        let for_at_most = if calls == 0 { policy.idle_timeout.max(policy.window) } else { policy.window };
        Reason::Held { need: need.instances, for_at_most }
    } else {
        steady
    };

    Decision {
        current,
        desired,
        need: need.instances.min(max),
        drained_in: need.drained_in,
        reason,
        bound,
        recheck: recheck(policy, seen, now, desired > floor && need.instances < desired, calls == 0),
    }
}

/// When something held is to be looked at again: when the idle timeout ends, or when the window has moved on a little.
fn recheck(policy: &Policy, seen: &Observation, now: Instant, held: bool, no_calls: bool) -> Option<Instant> {
    let step = now + policy.window / crate::window::BUCKETS;
    let idle_at = seen.last_active + policy.idle_timeout;
    match (held, no_calls) {
        (false, _) => None,
        (true, true) if idle_at > now => Some(idle_at.min(step)),
        (true, _) => Some(step),
    }
}

/// What the calls of this moment ask for.
struct Need {
    instances: u32,
    reason: Reason,
    drained_in: Option<Duration>,
}

impl Need {
    fn of(policy: &Policy, seen: &Observation) -> Self {
        let (waiting, in_flight) = (seen.waiting, seen.in_flight);
        let calls = waiting.saturating_add(in_flight);
        if policy.process_model == ProcessModel::Ephemeral {
            return Self {
                instances: calls,
                reason: Reason::Ephemeral { waiting, in_flight },
                drained_in: None,
            };
        }

        let limit = policy.slots();
        let current = seen.ready.saturating_add(seen.starting);
        let (for_calls, drained_in) = if calls <= current.saturating_mul(limit) {
            (calls.div_ceil(limit), None)
        } else {
            let forecast = Backlog {
                calls,
                ready: seen.ready,
                starting: seen.starting,
                limit,
                service: seen.service_time,
                start: seen.start_time,
                parallel: seen.parallel_starts.get(),
            }
            .forecast();
            if seen.overdue {
                (forecast.ceiling, None)
            } else {
                let expects = forecast.useful < forecast.ceiling;
                (forecast.useful, forecast.drained_in.filter(|_| expects))
            }
        };

        let per_instance = f64::from(limit) * policy.target.ratio().max(0.01);
        // One caller after another at a limit of 1 fills the slot, and a second instance would never see a call: no more than calls.
        let for_target = whole(seen.average / per_instance).min(calls);
        if for_target > for_calls {
            let reason = Reason::Utilisation { average: seen.average, per_instance };
            Self { instances: for_target, reason, drained_in: None }
        } else {
            let reason = Reason::Backlog {
                waiting,
                in_flight,
                limit,
                service: seen.service_time,
                start: seen.start_time,
            };
            Self { instances: for_calls, reason, drained_in }
        }
    }
}

/// The least whole number of instances that is not below `instances`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float saturates, which is what is wanted here"
)]
fn whole(instances: f64) -> u32 {
    // A hair above a whole number is the rounding of the division, not a further instance.
    (instances - 1e-9).ceil() as u32
}
