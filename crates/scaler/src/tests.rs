//! The rule as a whole: as facts about single decisions, and as properties over loads, policies and time.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hearth_function::Percent;
use hearth_function::spec::{Metric, ProcessModel};
use proptest::prelude::*;

use crate::keepalive::Outlook;
use crate::{
    Average, Bound, Counts, Decision, Load, Observation, Policy, Reach, Reason, Tracker, decide, span,
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn nothing(now: Instant) -> Observation {
    Observation {
        waiting: 0,
        in_flight: 0,
        ready: 0,
        starting: 0,
        parallel_starts: NonZeroU32::new(2).unwrap(),
        average: Average::default(),
        panic_average: Average::default(),
        panicking: false,
        service_time: None,
        start_time: None,
        recent_need: 0,
        recent_ready: 0,
        last_active: now,
        outlook: None,
        overdue: false,
        reach: Reach::Routed,
    }
}

fn calls(calls: f64) -> Average {
    Average { calls, per_second: 0.0 }
}

fn max(max: u32) -> NonZeroU32 {
    NonZeroU32::new(max).unwrap()
}

mod facts {
    use super::*;

    #[test]
    fn the_first_waiting_request_starts_one_instance() {
        let now = Instant::now();
        let decision = decide(&Policy::default(), &Observation { waiting: 1, ..nothing(now) }, now);
        assert_eq!((decision.desired, decision.starts()), (1, 1));
        assert_eq!(decision.to_string(), "from 0 to 1 instance: 1 call waits, an instance runs 10 at once");
    }

    #[test]
    fn a_burst_from_zero_says_what_it_was_reckoned_from() {
        let now = Instant::now();
        let seen = Observation {
            waiting: 24,
            service_time: Some(100 * MS),
            start_time: Some(60 * MS),
            ..nothing(now)
        };
        let decision = decide(&Policy::default(), &seen, now);
        // Two are up at 60 ms with 20 slots; a third would be up at 120 ms, when those have finished 12 calls and nobody waits.
        assert_eq!(
            decision.to_string(),
            "from 0 to 2 instances: 24 calls wait, an instance runs 10 at once, a call takes 100 ms and a start 60 ms"
        );
        let slow = Observation { service_time: Some(SECOND), ..seen };
        let decision = decide(&Policy::default(), &slow, now);
        assert_eq!(
            decision.to_string(),
            "from 0 to 3 instances: 24 calls wait, an instance runs 10 at once, a call takes 1 s and a start 60 ms"
        );
    }

    #[test]
    fn one_request_never_starts_a_second_instance() {
        let now = Instant::now();
        for limit in [1, 10] {
            let policy = Policy { limit: max(limit), ..Policy::default() };
            // One caller after another, so that the average is nearly 1.
            for (waiting, in_flight, ready, starting) in [(1, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 0)] {
                let seen =
                    Observation { waiting, in_flight, ready, starting, average: calls(0.99), ..nothing(now) };
                assert_eq!(decide(&policy, &seen, now).desired, 1, "{seen:?}");
            }
        }
    }

    #[test]
    fn slots_above_the_target_start_another_before_anyone_waits() {
        let now = Instant::now();
        let seen = Observation { in_flight: 8, ready: 1, average: calls(8.0), ..nothing(now) };
        let decision = decide(&Policy::default(), &seen, now);
        assert_eq!(
            decision.to_string(),
            "from 1 to 2 instances: 8.0 calls run at once on average, and an instance is meant to have 7.0"
        );
        let at_target = Observation { in_flight: 7, average: calls(7.0), ..seen };
        assert_eq!(decide(&Policy::default(), &at_target, now).desired, 1);
    }

    #[test]
    fn the_maximum_holds_and_is_named() {
        let now = Instant::now();
        let policy = Policy { max: max(3), ..Policy::default() };
        let decision = decide(&policy, &Observation { waiting: 500, ..nothing(now) }, now);
        assert_eq!((decision.desired, decision.bound), (3, Some(Bound::Max(3))));
        assert_eq!(
            decision.to_string(),
            "from 0 to 3 instances: 500 calls wait, an instance runs 10 at once (scale.max allows 3)"
        );
        // The maximum was lowered while more were there.
        let decision =
            decide(&policy, &Observation { ready: 5, in_flight: 4, recent_need: 5, ..nothing(now) }, now);
        assert_eq!((decision.desired, decision.stops()), (3, 2));
    }

    #[test]
    fn the_minimum_is_there_without_traffic() {
        let now = Instant::now();
        let policy = Policy { min: 2, ..Policy::default() };
        let decision = decide(&policy, &nothing(now), now);
        assert_eq!(decision.to_string(), "from 0 to 2 instances: no calls (scale.min keeps 2)");
        let later = now + 3600 * SECOND;
        let decision = decide(&policy, &Observation { ready: 4, ..nothing(now) }, later);
        assert_eq!(decision.to_string(), "from 4 to 2 instances: no calls for 60 min (scale.min keeps 2)");
        let decision = decide(&policy, &Observation { ready: 2, ..nothing(now) }, later);
        assert_eq!((decision.desired, decision.recheck), (2, None));
    }

    #[test]
    fn a_new_revision_is_tried_with_its_initial_instances() {
        let now = Instant::now();
        let untried = Observation { reach: Reach::Untried, ..nothing(now) };
        let policy = Policy { initial: 2, ..Policy::default() };
        let decision = decide(&policy, &untried, now);
        assert_eq!(decision.to_string(), "from 0 to 2 instances: a new revision is tried with 2 instances");
        let policy = Policy { initial: 0, ..Policy::default() };
        assert_eq!(decide(&policy, &untried, now).desired, 0);
        let policy = Policy { initial: 5, max: max(3), ..Policy::default() };
        assert_eq!(decide(&policy, &untried, now).desired, 3);
    }

    #[test]
    fn it_goes_to_zero_when_the_idle_timeout_is_over_and_not_before() {
        let now = Instant::now();
        let seen = Observation { ready: 3, recent_need: 0, ..nothing(now) };
        let just_before = decide(&Policy::default(), &seen, now + 59 * SECOND);
        assert_eq!(just_before.desired, 1);
        assert_eq!(just_before.reason, Reason::Quiet { need: 1, window: 60 * SECOND });
        let seen = Observation { ready: 1, ..seen };
        let held = decide(&Policy::default(), &seen, now + 30 * SECOND);
        assert_eq!(
            held.to_string(),
            "still 1 instance: none is needed now, and those that were needed stay for up to 60 s"
        );
        let almost = decide(&Policy::default(), &seen, now + 59 * SECOND + SECOND / 2);
        assert_eq!(almost.recheck, Some(now + 60 * SECOND));
        let idle = decide(&Policy::default(), &seen, now + 60 * SECOND);
        assert_eq!(idle.to_string(), "from 1 to 0 instances: no calls for 60 s");
    }

    #[test]
    fn a_short_idle_timeout_does_not_wait_for_the_window() {
        let now = Instant::now();
        let policy = Policy { idle_timeout: SECOND, ..Policy::default() };
        let seen = Observation { ready: 5, recent_need: 5, ..nothing(now) };
        assert_eq!(decide(&policy, &seen, now + SECOND / 2).desired, 5);
        assert_eq!(decide(&policy, &seen, now + SECOND).desired, 0);
    }

    #[test]
    fn what_the_window_needed_is_held() {
        let now = Instant::now();
        let seen = Observation { ready: 8, in_flight: 2, recent_need: 6, ..nothing(now) };
        let decision = decide(&Policy::default(), &seen, now);
        assert_eq!(
            decision.to_string(),
            "from 8 to 6 instances: no more than 6 instances were needed in the last 60 s"
        );
        let seen = Observation { ready: 6, ..seen };
        assert_eq!(
            decide(&Policy::default(), &seen, now).to_string(),
            "still 6 instances: 1 instance would do now, and those that were needed stay for up to 60 s"
        );
        // Instances that died are not made again for a need that is over.
        assert_eq!(decide(&Policy::default(), &Observation { ready: 2, ..seen }, now).desired, 2);
    }

    #[test]
    fn a_retired_revision_keeps_what_its_last_calls_need() {
        let now = Instant::now();
        let policy = Policy { min: 3, ..Policy::default() };
        let seen =
            Observation { reach: Reach::Retired, ready: 3, in_flight: 4, recent_need: 3, ..nothing(now) };
        let decision = decide(&policy, &seen, now);
        assert_eq!(
            decision.to_string(),
            "from 3 to 1 instance: another revision has taken over, and 4 calls are still to end here"
        );
        assert_eq!(decide(&policy, &Observation { in_flight: 0, ..seen }, now).desired, 0);
    }

    #[test]
    fn ephemeral_calls_have_an_instance_each() {
        let now = Instant::now();
        let policy = Policy { process_model: ProcessModel::Ephemeral, max: max(5), ..Policy::default() };
        let seen = Observation { waiting: 3, in_flight: 1, ready: 1, ..nothing(now) };
        let decision = decide(&policy, &seen, now);
        assert_eq!(
            decision.to_string(),
            "from 1 to 4 instances: 3 calls wait and 1 runs, and each has an instance of its own"
        );
        assert_eq!(decide(&policy, &Observation { waiting: 9, ..seen }, now).desired, 5);
        // Its instance is to go (and so not counted any more), or the count is a little old: nobody waits for another.
        let ends = Observation { waiting: 0, in_flight: 1, ready: 0, ..seen };
        assert_eq!(decide(&policy, &ends, now).desired, 0);
    }

    #[test]
    fn a_backlog_that_outlives_its_forecast_gets_all_that_its_calls_can_use() {
        let now = Instant::now();
        let seen = Observation {
            waiting: 60,
            in_flight: 140,
            ready: 14,
            service_time: Some(10 * MS),
            start_time: Some(60 * MS),
            ..nothing(now)
        };
        let decision = decide(&Policy::default(), &seen, now);
        assert_eq!(decision.desired, 14);
        assert!(decision.drained_in.is_some_and(|drained_in| drained_in <= 60 * MS), "{decision:?}");
        assert_eq!(decide(&Policy::default(), &Observation { overdue: true, ..seen }, now).desired, 20);
    }
}

/// What users of other autoscalers complain of (`knative/serving` by its issues' numbers).
mod complaints;

/// Gateway, pool and clock around a tracker: instances come up after `start`, calls are there as the test says.
struct World {
    policy: Policy,
    tracker: Tracker,
    now: Instant,
    ready: u32,
    /// When each start is over.
    starting: Vec<Instant>,
    start: Duration,
    started: u32,
    desired: Vec<u32>,
}

impl World {
    fn new(policy: Policy, start: Duration) -> Self {
        let now = Instant::now();
        Self {
            tracker: Tracker::new(&policy, Reach::Routed, now),
            policy,
            now,
            ready: 0,
            starting: Vec::new(),
            start,
            started: 0,
            desired: Vec::new(),
        }
    }

    /// Time goes on by `step` with `calls` calls all the while, each of `service`.
    fn step(&mut self, step: Duration, calls: u32, service: Duration) -> Decision {
        self.now += step;
        let now = self.now;
        let up = self.starting.iter().filter(|at| **at <= now).count();
        self.starting.retain(|at| *at > now);
        (0..up).for_each(|_| self.tracker.started(self.start));
        self.ready += u32::try_from(up).unwrap();
        let in_flight = calls.min(self.ready * self.policy.slots());
        let ended =
            u64::from(in_flight) * u64::try_from(step.as_nanos() / service.as_nanos().max(1)).unwrap();
        self.tracker.load(
            &Load {
                waiting: calls - in_flight,
                in_flight,
                average: f64::from(calls),
                over: step,
                arrived: ended,
                ended,
                service_time: service * u32::try_from(ended).unwrap(),
            },
            now,
        );
        let decision = self.tracker.decide(&self.policy, self.counts(), now);
        self.starting.extend((0..decision.starts()).map(|_| now + self.start));
        self.started += decision.starts();
        for _ in 0..decision.stops() {
            if self.starting.pop().is_none() {
                self.ready -= 1;
            }
        }
        self.desired.push(decision.desired);
        decision
    }

    fn counts(&self) -> Counts {
        Counts {
            ready: self.ready,
            starting: u32::try_from(self.starting.len()).unwrap(),
            parallel_starts: max(2),
        }
    }
}

mod over_time;

prop_compose! {
    fn policies()(
        ephemeral in proptest::bool::weighted(0.2), limit in 1u32..40, target in 1u8..=100, most in 1u32..60,
        least in 0u32..60, initial in 0u32..5, window in 6u32..120, idle in 1u32..300,
        rps in proptest::bool::weighted(0.2), activation in 0u32..3, delay in 0u32..100,
    ) -> Policy {
        Policy {
            process_model: if ephemeral { ProcessModel::Ephemeral } else { ProcessModel::Resident },
            limit: max(limit),
            target: Percent::new(target).unwrap(),
            min: least.min(most),
            max: max(most),
            initial,
            window: window * SECOND,
            idle_timeout: idle * SECOND,
            metric: if rps { Metric::Rps } else { Metric::Concurrency },
            activation,
            scale_down_delay: delay * SECOND,
            ..Policy::default()
        }
    }
}

prop_compose! {
    fn observations(now: Instant)(
        (waiting, in_flight, ready, starting) in (0u32..500, 0u32..500, 0u32..60, 0u32..60),
        parallel in 1u32..9, average in 0.0f64..600.0, short in 0.0f64..600.0, per_second in 0.0f64..5000.0,
        service in proptest::option::of(0u64..5000), start in proptest::option::of(1u64..3000),
        (recent_need, recent_ready) in (0u32..60, 0u32..90), ago in 0u32..600, overdue: bool, panicking: bool,
        outlook in proptest::option::weighted(0.3, (10u32..400, 0u32..500, 1u32..200)),
        reach in prop_oneof![8 => Just(Reach::Routed), 1 => Just(Reach::Untried), 1 => Just(Reach::Retired)],
    ) -> Observation {
        Observation {
            waiting, in_flight, ready, starting, recent_need, recent_ready, overdue, panicking, reach,
            average: Average { calls: average, per_second },
            panic_average: Average { calls: short, per_second: per_second * 2.0 },
            outlook: outlook.map(|(keep, gap, length)| Outlook {
                keep: keep * SECOND,
                again: (gap > 0).then(|| ((keep + gap) * SECOND, (keep + gap + length) * SECOND)),
                from: 20,
            }),
            parallel_starts: max(parallel),
            service_time: service.map(Duration::from_millis),
            start_time: start.map(Duration::from_millis),
            last_active: now.checked_sub(ago * SECOND).unwrap_or(now),
        }
    }
}

proptest! {
    #[test]
    fn desired_keeps_within_its_bounds(policy in policies(), seen in observations(Instant::now())) {
        let decision = decide(&policy, &seen, seen.last_active + SECOND);
        prop_assert!(decision.desired <= policy.max.get());
        prop_assert!(decision.desired >= policy.min || seen.reach == Reach::Retired);
        prop_assert!(decision.need <= policy.max.get());
    }

    #[test]
    fn nothing_is_started_that_no_call_could_use(policy in policies(), seen in observations(Instant::now())) {
        let decision = decide(&policy, &seen, seen.last_active + SECOND);
        let floor = policy.min.max(if seen.reach == Reach::Untried { policy.initial } else { 0 });
        let floor = floor.max(policy.activation);
        let calls = seen.waiting + seen.in_flight;
        let by_calls = policy.metric == Metric::Concurrency;
        prop_assert!(decision.starts() == 0 || decision.desired <= calls.max(floor) || !by_calls);
        // Without an average to go by, not even more than there are slots for.
        let none = Average::default();
        let instant = Observation { average: none, panic_average: none, ..seen };
        let instant = decide(&policy, &instant, seen.last_active + SECOND);
        prop_assert!(instant.starts() == 0 || instant.desired <= calls.div_ceil(policy.slots()).max(floor));
    }

    #[test]
    fn more_calls_never_mean_fewer_instances(
        policy in policies(), seen in observations(Instant::now()), waiting in 0u32..100, in_flight in 0u32..100,
    ) {
        let more = Observation { waiting: seen.waiting + waiting, in_flight: seen.in_flight + in_flight, ..seen };
        let now = seen.last_active + 30 * SECOND;
        prop_assert!(decide(&policy, &more, now).desired >= decide(&policy, &seen, now).desired);
    }

    #[test]
    fn calls_of_this_moment_are_never_left_without_slots(policy in policies(), seen in observations(Instant::now())) {
        let decision = decide(&policy, &seen, seen.last_active + 3600 * SECOND);
        let ephemeral = policy.process_model == ProcessModel::Ephemeral;
        let calls = seen.waiting + if ephemeral { seen.in_flight.min(seen.ready) } else { seen.in_flight };
        prop_assert!(decision.stops() == 0 || decision.desired >= calls.div_ceil(policy.slots()).min(policy.max.get()));
        prop_assert!(calls == 0 || decision.desired > 0);
    }

    #[test]
    fn no_traffic_for_the_idle_timeout_leaves_the_minimum(policy in policies(), seen in observations(Instant::now())) {
        let none = Average::default();
        let seen = Observation {
            waiting: 0, in_flight: 0, reach: Reach::Routed, average: none, panic_average: none, ..seen
        };
        let keep = seen.outlook.map_or(policy.idle_timeout, |outlook| outlook.keep).max(policy.scale_down_delay);
        let decision = decide(&policy, &seen, seen.last_active + keep);
        let expected = seen.outlook.and_then(|outlook| outlook.again);
        let ahead = expected.is_some_and(|(from, until)| keep >= from && keep < until);
        prop_assert_eq!(decision.desired, policy.min.max(u32::from(ahead)));
        let after = expected.map_or(keep, |(_, until)| until.max(keep));
        prop_assert_eq!(decide(&policy, &seen, seen.last_active + after).desired, policy.min);
    }

    #[test]
    fn a_constant_load_does_not_flap(
        policy in policies(), calls in 0u32..200, service in 1u64..2000, start in 10u64..3000, tick in 50u64..1500,
    ) {
        let mut world = World::new(policy, Duration::from_millis(start));
        for _ in 0..200 {
            world.step(Duration::from_millis(tick), calls, Duration::from_millis(service));
        }
        // Up, perhaps in steps, and never down. The minimum alone is there from the first.
        prop_assert!(world.desired.is_sorted(), "{:?}", world.desired);
        let last = *world.desired.last().unwrap();
        prop_assert!(last <= policy.min.max(calls).max(policy.activation) || policy.metric == Metric::Rps);
        prop_assert_eq!(world.started, last);
    }

    #[test]
    fn a_decision_always_says_why(policy in policies(), seen in observations(Instant::now())) {
        let decision = decide(&policy, &seen, seen.last_active + SECOND);
        let text = decision.to_string();
        prop_assert!(text.starts_with(&format!("{}: ", span(decision.current, decision.desired))), "{text}");
        // What is started is explained by calls or by a bound, never by their absence.
        let explained = matches!(
            decision.reason,
            Reason::Backlog { .. } | Reason::Utilisation { .. } | Reason::Ephemeral { .. } | Reason::Initial { .. }
                | Reason::Activation { .. } | Reason::Prewarmed { .. }
        );
        prop_assert!(decision.starts() == 0 || explained || matches!(decision.bound, Some(Bound::Min(_))), "{text}");
    }
}
