use super::*;

#[test]
fn a_lasting_load_from_zero_gets_its_instances_and_keeps_them() {
    let mut world = World::new(Policy { max: max(50), ..Policy::default() }, 60 * MS);
    for _ in 0..1200 {
        world.step(100 * MS, 100, 100 * MS);
    }
    // 100 calls at a limit of 10 and a target of 70 %.
    assert_eq!(world.desired.last(), Some(&15));
    assert!(world.desired.is_sorted(), "{:?}", world.desired);
    assert_eq!(world.started, 15);
}

#[test]
fn quick_calls_of_many_clients_do_not_wait_for_ever() {
    let policy = Policy { target: Percent::WHOLE, max: max(50), ..Policy::default() };
    let mut world = World::new(policy, 60 * MS);
    // The service time is known from before.
    world.step(100 * MS, 1, 10 * MS);
    for _ in 0..10 {
        world.step(100 * MS, 200, 10 * MS);
    }
    assert_eq!(world.desired.last(), Some(&20), "{:?}", world.desired);
}

#[test]
fn a_dip_shorter_than_the_window_costs_nothing() {
    let mut world = World::new(Policy::default(), 60 * MS);
    for period in 0..6 {
        for _ in 0..60 {
            world.step(250 * MS, 50, 50 * MS);
        }
        let after_the_first = world.started;
        for _ in 0..60 {
            world.step(250 * MS, 5, 50 * MS);
        }
        assert!(period == 0 || after_the_first == world.started);
    }
    assert_eq!(world.started, 8);
}

#[test]
fn it_goes_in_after_the_window_and_to_zero_after_the_idle_timeout() {
    let policy = Policy { idle_timeout: 90 * SECOND, ..Policy::default() };
    let mut world = World::new(policy, 60 * MS);
    for _ in 0..20 {
        world.step(SECOND, 50, 50 * MS);
    }
    assert_eq!(world.ready, 8);
    for _ in 0..59 {
        world.step(SECOND, 0, 50 * MS);
    }
    assert_eq!(world.ready, 8);
    for _ in 0..10 {
        world.step(SECOND, 0, 50 * MS);
    }
    assert_eq!(world.ready, 1);
    for _ in 0..20 {
        world.step(SECOND, 0, 50 * MS);
    }
    assert_eq!(world.ready, 1);
    world.step(SECOND, 0, 50 * MS);
    assert_eq!(world.ready, 0);
}

#[test]
fn a_start_from_zero_remembers_the_service_time_of_the_last_traffic() {
    let mut world = World::new(Policy::default(), 60 * MS);
    for _ in 0..5 {
        world.step(SECOND, 1, 20 * MS);
    }
    for _ in 0..200 {
        world.step(SECOND, 0, 20 * MS);
    }
    assert_eq!(world.ready, 0);
    world.tracker.wanted(100, 0, world.now);
    let decision = world.tracker.decide(&world.policy, world.counts(), world.now);
    // Two at 60 ms, and at 120 ms these have finished the rest.
    assert_eq!(
        decision.to_string(),
        "from 0 to 4 instances: 100 calls wait, an instance runs 10 at once, a call takes 20 ms and a start 60 ms"
    );
}

#[test]
fn a_revision_that_routes_come_to_has_the_idle_timeout_before_it() {
    let policy = Policy::default();
    let start = Instant::now();
    let mut tracker = Tracker::new(&policy, Reach::Untried, start);
    let counts = Counts { ready: 1, starting: 0, parallel_starts: max(2) };
    let routed = start + 300 * SECOND;
    tracker.reach(Reach::Routed, routed);
    assert_eq!(tracker.decide(&policy, counts, routed + 59 * SECOND).desired, 1);
    assert_eq!(tracker.decide(&policy, counts, routed + 60 * SECOND).desired, 0);
}
