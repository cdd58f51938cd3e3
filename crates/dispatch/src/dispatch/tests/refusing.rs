//! Instances that refuse calls for want of room, or cannot be reached.

use proptest::prelude::*;

use super::*;

fn after(start: Instant, millis: u64) -> Instant {
    start + Duration::from_millis(millis)
}

/// A call on an instance that is known is refused. Returns how many milliseconds the instance is closed.
fn refuses(machine: &mut Machine, now: Instant, name: &str, actions: &mut Acts) -> u128 {
    let grant = grant(machine, name);
    let opens = machine.on_refused(now, &id(name), grant, actions).expect("it is known");
    opens.saturating_duration_since(now).as_millis()
}

/// What a call got that no instance has taken yet, as for `request`.
fn again(machine: &mut Machine, now: Instant, arrived: Instant, since: Instant, name: u32) -> String {
    match machine.on_request(now, Origin::Untaken { arrived, since }, |_| name) {
        Admission::Forward(placement) => format!("{} {:?}", placement.endpoint, placement.start),
        Admission::Enqueued { .. } => "waits".to_owned(),
        Admission::Rejected(refusal) => format!("{refusal:?}"),
        Admission::Moved => "moved".to_owned(),
    }
}

#[test]
fn a_call_that_one_instance_refuses_goes_to_another() {
    let start = Instant::now();
    for slots in [1, 10] {
        let (mut machine, mut actions) = (machine(start), Vec::new());
        machine.on_grant(start, granted("x", slots), &mut actions);
        machine.on_grant(start, granted("y", 2 * slots), &mut actions);
        assert_eq!(request(&mut machine, start, 1), "x Warm");
        assert_eq!(refuses(&mut machine, start, "x", &mut actions), 10);
        assert_eq!(again(&mut machine, start, start, start, 1), "y Warm");
        // It looks emptier still, and nobody else is sent there.
        assert_eq!(request(&mut machine, after(start, 9), 2), "y Warm");
        assert!(actions.is_empty(), "{actions:?}");
    }
}

#[test]
fn without_another_it_waits_ever_longer_and_before_those_that_came_later() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("x", 1), &mut actions);
    assert_eq!(request(&mut machine, start, 1), "x Warm");
    assert_eq!(request(&mut machine, after(start, 1), 2), "waits");
    let mut now = after(start, 2);
    for closed in [10, 20, 40] {
        assert_eq!(refuses(&mut machine, now, "x", &mut actions), u128::from(closed));
        assert_eq!(again(&mut machine, now, start, after(start, 2), 1), "waits");
        machine.on_tick(after(now, closed - 1), &mut actions);
        assert!(actions.is_empty(), "{actions:?}");
        now = after(now, closed);
        machine.on_tick(now, &mut actions);
        assert_eq!(words(&mut actions), ["1 → x Warm"]);
    }
    // It takes one at last: the next refusal is a first one again.
    now = after(now, 5);
    ends(&mut machine, now, "x", Some(Duration::from_millis(5)), &mut actions);
    assert_eq!(words(&mut actions), ["2 → x Warm"]);
    assert_eq!(refuses(&mut machine, now, "x", &mut actions), 10);
}

#[test]
fn it_has_room_when_one_of_its_calls_has_ended_or_its_slots_are_dealt_out_anew() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("x", 3), &mut actions);
    for name in 1..=3 {
        assert_eq!(request(&mut machine, start, name), "x Warm");
    }
    assert_eq!(refuses(&mut machine, after(start, 1), "x", &mut actions), 10);
    assert_eq!(again(&mut machine, after(start, 1), start, after(start, 1), 3), "waits");
    // What it refuses beside was sent before it was closed.
    assert_eq!(refuses(&mut machine, after(start, 2), "x", &mut actions), 9);
    assert_eq!(again(&mut machine, after(start, 2), start, after(start, 2), 2), "waits");
    ends(&mut machine, after(start, 3), "x", Some(Duration::from_millis(3)), &mut actions);
    assert_eq!(words(&mut actions), ["3 → x Warm", "2 → x Warm"]);
    // The call that ended had begun before: that it takes new ones is not shown yet.
    assert_eq!(refuses(&mut machine, after(start, 4), "x", &mut actions), 20);
    assert_eq!(again(&mut machine, after(start, 4), start, after(start, 1), 3), "waits");
    machine.on_share(after(start, 4), share(2, 1), &mut actions);
    assert_eq!(words(&mut actions).last().map(String::as_str), Some("3 → x Warm"));
    assert_eq!(refuses(&mut machine, after(start, 5), "x", &mut actions), 10);
    assert_eq!(again(&mut machine, after(start, 5), start, after(start, 1), 3), "waits");
    machine.on_grant(after(start, 5), granted("x", 2), &mut actions);
    assert_eq!(words(&mut actions).last().map(String::as_str), Some("3 → x Warm"));
}

#[test]
fn the_limit_of_a_call_that_was_refused_counts_from_there_and_not_from_its_wait_for_a_start() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    assert_eq!(request(&mut machine, start, 1), "waits");
    // Longer than it may wait for a slot.
    let refused = at(start, 20);
    machine.on_grant(refused, granted("x", 1), &mut actions);
    assert_eq!(words(&mut actions), ["1 → x Cold"]);
    refuses(&mut machine, refused, "x", &mut actions);
    assert_eq!(again(&mut machine, refused, start, refused, 1), "waits");
    machine.on_tick(after(refused, 10), &mut actions);
    assert_eq!(words(&mut actions), ["1 → x Warm"]);
    // And each further refusal leaves it as it is.
    refuses(&mut machine, at(start, 29), "x", &mut actions);
    assert_eq!(again(&mut machine, at(start, 29), start, refused, 1), "waits");
    machine.on_doubt(&id("x"));
    machine.on_tick(at(start, 30), &mut actions);
    assert_eq!(words(&mut actions), ["1 ✗ QueueTimeout"]);
    machine.on_trust(at(start, 30), &id("x"), &mut actions);
    assert_eq!(again(&mut machine, at(start, 30), start, refused, 1), "QueueTimeout { waited: 10s }");
    assert_eq!(request(&mut machine, at(start, 30), 2), "x Warm");
}

#[test]
fn who_waits_because_he_was_refused_counts_as_one_who_waits() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("x", 5), &mut actions);
    assert_eq!(request(&mut machine, start, 1), "x Warm");
    refuses(&mut machine, start, "x", &mut actions);
    assert_eq!(again(&mut machine, start, start, start, 1), "waits");
    let wanted = machine.take_wanted();
    assert!(matches!(wanted, Some(ToScaler::CapacityWanted { waiting: 1, in_flight: 0, .. })), "{wanted:?}");
    for (name, got) in [(2, "waits"), (3, "waits"), (4, "QueueFull { limit: 3 }")] {
        assert_eq!(request(&mut machine, start, name), got);
    }
    let report = machine.report(after(start, 5)).unwrap();
    assert_eq!((report.waiting, report.in_flight, report.average_concurrency), (3, 0, 3.0));
}

proptest! {
    /// One instance refuses for ever, as one that is to end does; another has room for all.
    #[test]
    fn beside_one_that_refuses_every_call_is_answered_by_another_at_once(
        slots in 1u32..6,
        oldest in any::<bool>(),
        steps in prop::collection::vec((0u64..40, any::<bool>()), 1..80),
    ) {
        let mut now = Instant::now();
        let (mut machine, mut actions) = (machine(now), Vec::new());
        let order = if oldest { ["x", "y"] } else { ["y", "x"] };
        for name in order {
            machine.on_grant(now, granted(name, if name == "x" { slots } else { 100 }), &mut actions);
        }
        let (mut running, mut refused) = (0, 0u128);
        let begin = now;
        for (millis, ends_one) in steps {
            now = after(now, millis);
            machine.on_tick(now, &mut actions);
            if ends_one && running > 0 {
                ends(&mut machine, now, "y", Some(Duration::ZERO), &mut actions);
                running -= 1;
            }
            let mut got = request(&mut machine, now, 1);
            if got == "x Warm" {
                refuses(&mut machine, now, "x", &mut actions);
                refused += 1;
                got = again(&mut machine, now, now, now, 1);
            }
            prop_assert_eq!(got, "y Warm");
            running += 1;
        }
        prop_assert!(actions.is_empty(), "{:?}", actions);
        // 310 ms for the first five, then one every 250 ms.
        let most = 6 + now.saturating_duration_since(begin).as_millis() / 250;
        prop_assert!(refused <= most, "{} were sent there in vain", refused);
    }

    /// All that are there have ended and nobody knows it yet, as where a node was lost.
    #[test]
    fn a_call_meets_each_that_cannot_be_reached_at_most_once_and_waits_no_longer_than_both_limits(
        slots in prop::collection::vec(1u32..4, 1..12),
        connecting in prop::collection::vec(0u64..5000, 12),
    ) {
        const NAMES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        let start = Instant::now();
        let (mut machine, mut actions) = (machine(start), Vec::new());
        for (name, slots) in NAMES.into_iter().zip(&slots) {
            machine.on_grant(start, granted(name, *slots), &mut actions);
        }
        let (mut now, mut met, mut since) = (start, Vec::new(), None);
        let mut got = request(&mut machine, now, 1);
        for millis in connecting {
            let Some(name) = NAMES.into_iter().find(|name| got == format!("{name} Warm")) else { break };
            prop_assert!(!met.contains(&name), "{name} was given up");
            met.push(name);
            now = after(now, millis);
            prop_assert_eq!(machine.on_gone(now, &id(name)), Some(name));
            got = again(&mut machine, now, start, *since.get_or_insert(now), 1);
        }
        prop_assert!(met.len() <= slots.len());
        let since = since.expect("it met one");
        if got == "waits" {
            prop_assert_eq!(met.len(), slots.len(), "it waits beside none that it has not tried");
            machine.on_tick(since + policy().queue + policy().start, &mut actions);
            prop_assert_eq!(words(&mut actions), ["1 ✗ StartTimeout"]);
        } else {
            prop_assert!(got.starts_with("QueueTimeout") || got.starts_with("StartTimeout"), "{}", got);
            prop_assert!(now >= since + policy().queue, "too soon");
        }
    }
}
