use super::*;
use crate::simulate::{Contender, Machine, NAMES, Outcome, shipped, simulate};

#[test]
fn leaving_panic_undoes_nothing_that_the_load_needs() {
    // #3153, #9121: a step that lasts. Up once, and level from there through the end of the panic and far beyond.
    let mut world = World::new(Policy { max: max(50), ..Policy::default() }, 300 * MS);
    for _ in 0..3000 {
        world.step(100 * MS, 200, 500 * MS);
    }
    assert!(world.desired.is_sorted(), "{:?}", world.desired);
    assert_eq!(world.desired.last(), Some(&29));
}

#[test]
fn a_square_wave_does_not_make_it_oscillate() {
    // #10275: from 1-2 to 17-22 every minute. Here 15 s of each, for ten minutes: the least is ten starts.
    let mut world =
        World::new(Policy { max: max(50), target: Percent::WHOLE, ..Policy::default() }, 300 * MS);
    for _ in 0..20 {
        for calls in [100, 2] {
            for _ in 0..75 {
                world.step(200 * MS, calls, 500 * MS);
            }
        }
    }
    assert!(world.started <= 13, "{}", world.started);
}

#[test]
fn a_steady_load_does_not_panic_whatever_the_moment_of_the_reports() {
    // #6743: buckets counted twice. Reports that drift against the buckets, by calls and by requests per second.
    for metric in [Metric::Concurrency, Metric::Rps] {
        let policy = Policy { metric, rps: max(100), max: max(50), ..Policy::default() };
        let mut world = World::new(policy, 300 * MS);
        for step in 0..2000_u32 {
            world.step((190 + step % 7) * MS, 30, 100 * MS);
        }
        let before = world.started;
        for step in 0..2000_u32 {
            let decision = world.step((190 + step % 11) * MS, 30, 100 * MS);
            assert!(!decision.panic, "{decision}");
        }
        assert_eq!(world.started, before, "{metric:?}");
    }
}

#[test]
fn quick_requests_never_cause_a_second_instance() {
    // #419: one caller after another, each call over in a millisecond.
    let mut world = World::new(Policy::default(), 300 * MS);
    for _ in 0..1000 {
        world.step(100 * MS, 1, MS);
    }
    assert_eq!(world.started, 1);
}

#[test]
fn initial_instances_are_not_taken_away_at_once() {
    // #10355: for the idle timeout after routes came, and for the delay, they stay.
    let now = Instant::now();
    let policy = Policy { initial: 3, scale_down_delay: 300 * SECOND, ..Policy::default() };
    let mut tracker = Tracker::new(&policy, Reach::Untried, now);
    let counts = |ready| Counts { ready, starting: 0, parallel_starts: max(2) };
    assert_eq!(tracker.decide(&policy, counts(0), now).desired, 3);
    tracker.reach(Reach::Routed, now + SECOND);
    assert!(tracker.decide(&policy, counts(3), now + 2 * SECOND).desired >= 1);
    assert_eq!(tracker.decide(&policy, counts(1), now + 299 * SECOND).desired, 1);
    assert_eq!(tracker.decide(&policy, counts(1), now + 301 * SECOND).desired, 0);
}

#[test]
fn rates_and_activation_hold() {
    let now = Instant::now();
    let slow_up = Policy { scale_up_rate: max(2), max: max(100), ..Policy::default() };
    let decision = decide(&slow_up, &Observation { waiting: 500, ready: 3, ..nothing(now) }, now);
    assert_eq!((decision.desired, decision.bound), (6, Some(Bound::UpRate(2))));
    let seen = Observation { in_flight: 1, ready: 20, recent_ready: 20, recent_need: 1, ..nothing(now) };
    let decision = decide(&Policy { max: max(100), ..Policy::default() }, &seen, now);
    assert_eq!((decision.desired, decision.bound), (10, Some(Bound::DownRate(2))));
    let activation = Policy { activation: 3, ..Policy::default() };
    let decision = decide(&activation, &Observation { waiting: 1, ..nothing(now) }, now);
    assert_eq!(
        decision.to_string(),
        "from 0 to 3 instances: there are calls, and scale.activation wants 3 instances for them"
    );
    assert_eq!(decide(&activation, &nothing(now), now).desired, 0);
}

#[test]
fn requests_per_second_are_counted_too() {
    let now = Instant::now();
    let policy = Policy { metric: Metric::Rps, ..Policy::default() };
    let average = Average { calls: 2.0, per_second: 700.0 };
    let seen = Observation { in_flight: 2, ready: 1, average, ..nothing(now) };
    let decision = decide(&policy, &seen, now);
    assert_eq!(
        decision.to_string(),
        "from 1 to 5 instances: 700.0 requests come in a second on average, and an instance is meant to have 140.0"
    );
}

#[test]
fn a_predictable_call_is_met_warm_and_not_waited_for() {
    let mut world = World::new(Policy::default(), 300 * MS);
    let mut met = Vec::new();
    let mut kept = Vec::new();
    for _ in 0..10 {
        // A call of a second every five minutes.
        met.push(world.ready);
        for _ in 0..5 {
            world.step(200 * MS, 1, 200 * MS);
        }
        let mut seconds = 0;
        for _ in 0..299 {
            world.step(SECOND, 0, 200 * MS);
            seconds += u32::from(world.ready + u32::try_from(world.starting.len()).unwrap() > 0);
        }
        kept.push(seconds);
    }
    assert_eq!(met, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
    assert!(kept[9] < 60, "{kept:?}");
    let prewarmed = world.tracker.decide(&world.policy, world.counts(), world.now).to_string();
    assert!(
        prewarmed.starts_with("still 1 instance: no calls for 5 min") || prewarmed.contains("one expected"),
        "{prewarmed}"
    );
}

/// The bars of the comparison with others, as far as a quick run can show them; `bench/simulate.py` has the whole of it.
#[test]
fn in_simulation_it_starts_colder_less_often_and_holds_less() {
    let epoch = Instant::now();
    let machine = Machine { seed: 3, ..Machine::default() };
    let mut sums = vec![Outcome::default(); 5];
    for name in NAMES.into_iter().filter(|name| ["cron", "flash"].contains(name)) {
        let trace = shipped(name, 3).unwrap();
        let outcomes = Contender::all().map(|(_, contender)| simulate(&trace, &contender, &machine, epoch));
        for (sum, outcome) in sums.iter_mut().zip(&outcomes) {
            assert_eq!(outcome.served + outcome.refused, trace.calls.len() as u64, "{name}");
            sum.add(outcome);
        }
        let [ours, no_pool, knative, ..] = &outcomes;
        let of = |outcome: &Outcome| (outcome.cold, outcome.wait(99.0), outcome.all_seconds());
        println!("{name}: ours {:?}, without pool {:?}, Knative {:?}", of(ours), of(no_pool), of(knative));
        assert!(ours.wait(99.0) <= 0.7 * knative.wait(99.0), "{name}");
        assert!(no_pool.wait(99.0) <= 0.7 * knative.wait(99.0), "{name}");
        // The same seed gives the same.
        assert!(name == "cron" || simulate(&trace, &Contender::hearth(), &machine, epoch) == *ours);
    }
    let [ours, no_pool, knative, fixed, _] = sums.as_slice() else { unreachable!("five policies") };
    assert!(no_pool.all_seconds() <= knative.all_seconds());
    assert!(2 * ours.cold <= fixed.cold && ours.memory_seconds <= fixed.memory_seconds);
}
