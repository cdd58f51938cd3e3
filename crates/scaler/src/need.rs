//! What the calls of this moment, and the averages of the moments before, ask for.

use std::time::Duration;

use hearth_function::spec::{Metric, ProcessModel};

use crate::backlog::Backlog;
use crate::decide::Observation;
use crate::policy::Policy;
use crate::reason::Reason;
use crate::window::Average;

/// How many instances are needed, whatever was needed before.
pub(crate) struct Need {
    pub(crate) instances: u32,
    pub(crate) reason: Reason,
    /// When the backlog should be gone, where fewer instances than could run all of it will do.
    pub(crate) drained_in: Option<Duration>,
    /// So much more is needed than serves that the average over the window is behind.
    pub(crate) panic: bool,
}

impl Need {
    pub(crate) fn of(policy: &Policy, seen: &Observation) -> Self {
        let (waiting, in_flight) = (seen.waiting, seen.in_flight);
        let calls = waiting.saturating_add(in_flight);
        if policy.process_model == ProcessModel::Ephemeral {
            let reason = Reason::Ephemeral { waiting, in_flight };
            // A call that runs has its instance, though it may be one that is to go: only those that wait need a further one.
            let instances = waiting.saturating_add(in_flight.min(seen.ready));
            return Self { instances, reason, drained_in: None, panic: false };
        }
        let by_slots = Self::by_slots(policy, seen, calls);
        let by_average = Self::by_average(policy, seen, calls, by_slots.panic);
        let panic = by_average.panic || by_slots.panic;
        let need = if by_average.instances > by_slots.instances { by_average } else { by_slots };
        let need = Self { panic, ..need };
        if need.instances > 0 && need.instances < policy.activation {
            let reason = Reason::Activation { activation: policy.activation };
            return Self { instances: policy.activation, reason, ..need };
        }
        need
    }

    /// Slots for those that run and wait, as far as a further instance can still help.
    fn by_slots(policy: &Policy, seen: &Observation, calls: u32) -> Self {
        let limit = policy.slots();
        let current = seen.ready.saturating_add(seen.starting);
        let backlog = Backlog {
            calls,
            ready: seen.ready,
            starting: seen.starting,
            limit,
            service: seen.service_time,
            start: seen.start_time,
            parallel: seen.parallel_starts.get(),
        };
        let (instances, drained_in) = if calls <= current.saturating_mul(limit) {
            (calls.div_ceil(limit), None)
        } else {
            let forecast = backlog.forecast();
            if seen.overdue {
                (forecast.ceiling, None)
            } else {
                let expects = forecast.useful < forecast.ceiling;
                (forecast.useful, forecast.drained_in.filter(|_| expects))
            }
        };
        let reason = Reason::Backlog {
            waiting: seen.waiting,
            in_flight: seen.in_flight,
            limit,
            service: seen.service_time,
            start: seen.start_time,
        };
        Self { instances, reason, drained_in, panic: is_panic(policy, seen, instances) }
    }

    /// Instances that keep below the target on average: over the window, and in a panic over the panic window if that asks for more.
    ///
    /// Knative's rule, with two differences. A panic begins as well when slots run so short that the backlog asks for as much: by the time
    /// an average shows it, instances have been started for it, and they would have no room. And that nothing is undone during a panic
    /// is what [`Observation::recent_need`] does for every need.
    fn by_average(policy: &Policy, seen: &Observation, calls: u32, slots_panic: bool) -> Self {
        let per_instance = policy.per_instance();
        let metric = policy.metric;
        let of = |average: &Average| match metric {
            Metric::Concurrency => average.calls,
            Metric::Rps => average.per_second,
        };
        let (stable, short) = (of(&seen.average), of(&seen.panic_average));
        let (for_stable, for_short) = (whole(stable / per_instance), whole(short / per_instance));
        let panic = is_panic(policy, seen, for_short);
        let burst = (panic || slots_panic || seen.panicking) && for_short > for_stable;
        let (average, instances) = if burst { (short, for_short) } else { (stable, for_stable) };
        let instances = match metric {
            // One caller after another at a limit of 1 fills the slot, and a second instance would never see a call: no more than calls.
            Metric::Concurrency => instances.min(calls),
            Metric::Rps => instances,
        };
        let reason = Reason::Utilisation { average, per_instance, metric, burst };
        Self { instances, reason, drained_in: None, panic }
    }
}

/// Whether so many instances are so much more than serve that the load has changed and not just grown.
fn is_panic(policy: &Policy, seen: &Observation, instances: u32) -> bool {
    u64::from(instances) * 100 >= u64::from(policy.panic_threshold.get()) * u64::from(seen.ready.max(1))
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
