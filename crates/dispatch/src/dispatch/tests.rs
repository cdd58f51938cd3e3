use super::*;
use crate::StartCode;
use crate::messages::StartKind;

mod refusing;

type Machine = Dispatch<u32, &'static str>;
type Acts = Vec<Action<u32, &'static str>>;

fn policy() -> Policy {
    Policy { queue_length: 3, queue: Duration::from_secs(10), start: Duration::from_secs(30) }
}

fn machine(now: Instant) -> Machine {
    Dispatch::new(RevisionId::parse("default/a-00001").unwrap(), policy(), now)
}

fn id(name: &str) -> InstanceId {
    InstanceId::parse(name).unwrap()
}

fn granted(name: &'static str, slots: u32) -> Granted<&'static str> {
    Granted {
        instance: id(name),
        endpoint: name,
        slots,
        single_use: false,
        start: StartKind::Cold,
        start_time: Duration::from_millis(80),
        reserved: false,
    }
}

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

/// The grant of an instance that is known.
fn grant(machine: &Machine, name: &str) -> Grant {
    machine.instances.iter().find(|entry| entry.granted.instance == id(name)).unwrap().grant
}

/// A call on an instance that is known ends.
fn ends(machine: &mut Machine, now: Instant, name: &str, served: Option<Duration>, actions: &mut Acts) {
    let grant = grant(machine, name);
    machine.on_slot_free(now, &id(name), grant, served, actions);
}

/// What a request got, in one word.
fn request(machine: &mut Machine, now: Instant, name: u32) -> String {
    match machine.on_request(now, Origin::New, |_| name) {
        Admission::Forward(placement) => format!("{} {:?}", placement.endpoint, placement.start),
        Admission::Enqueued { .. } => "waits".to_owned(),
        Admission::Rejected(refusal) => format!("{refusal:?}"),
        Admission::Moved => "moved".to_owned(),
    }
}

/// What actions say, in few words.
fn words(actions: &mut Vec<Action<u32, &'static str>>) -> Vec<String> {
    actions
        .drain(..)
        .map(|action| match action {
            Action::Forward { waiter, placement } => {
                format!("{waiter} → {} {:?}", placement.endpoint, placement.start)
            }
            Action::Reject { waiter, refusal } => {
                let text = format!("{refusal:?}");
                format!("{waiter} ✗ {}", text.split([' ', '{']).next().unwrap_or_default())
            }
            Action::Move { waiter } => format!("{waiter} moves"),
            Action::Tell(ToScaler::Drained { instance }) => format!("drained {instance}"),
            Action::Tell(ToScaler::Spent { instance }) => format!("spent {instance}"),
            Action::Tell(other) => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn from_zero_the_waiting_get_the_slots_of_the_first_instance_in_order() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    assert_eq!(request(&mut machine, start, 1), "waits");
    assert!(matches!(machine.take_wanted(), Some(ToScaler::CapacityWanted { waiting: 1, .. })));
    assert_eq!(machine.take_wanted(), None);
    assert_eq!(request(&mut machine, start, 2), "waits");
    assert_eq!(request(&mut machine, start, 3), "waits");
    assert!(matches!(machine.take_wanted(), Some(ToScaler::CapacityWanted { waiting: 3, .. })));
    assert_eq!(request(&mut machine, start, 4), "QueueFull { limit: 3 }");
    machine.on_grant(at(start, 1), granted("x", 2), &mut actions);
    assert_eq!(words(&mut actions), ["1 → x Cold", "2 → x Cold"]);
    ends(&mut machine, at(start, 1), "x", Some(Duration::ZERO), &mut actions);
    assert_eq!(words(&mut actions), ["3 → x Cold"]);
    ends(&mut machine, at(start, 2), "x", Some(Duration::ZERO), &mut actions);
    assert_eq!(request(&mut machine, at(start, 2), 5), "x Warm");
    assert_eq!(machine.in_flight(), 2);
}

#[test]
fn many_slots_go_to_the_least_loaded_few_to_the_first_available() {
    let start = Instant::now();
    let mut actions = Vec::new();
    for (slots, expected) in [(10, "x y x y"), (2, "x x y y")] {
        let mut machine = machine(start);
        machine.on_grant(start, granted("x", slots), &mut actions);
        machine.on_grant(start, granted("y", slots), &mut actions);
        let order: Vec<String> =
            (0..4).map(|name| request(&mut machine, start, name).replace(" Warm", "")).collect();
        assert_eq!(order.join(" "), expected, "{slots} slots");
    }
}

#[test]
fn a_revoked_instance_drains_and_says_so_once() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("x", 2), &mut actions);
    request(&mut machine, start, 1);
    machine.on_revoke(start, &id("x"), &mut actions);
    assert!(actions.is_empty());
    assert_eq!(request(&mut machine, start, 2), "waits");
    ends(&mut machine, start, "x", Some(Duration::ZERO), &mut actions);
    assert_eq!(words(&mut actions), ["drained x"]);
    machine.on_revoke(start, &id("x"), &mut actions);
    assert_eq!(words(&mut actions), ["drained x"], "who asks again is answered");
}

#[test]
fn a_single_use_instance_takes_one_call() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    let single = |name| Granted { single_use: true, ..granted(name, 1) };
    request(&mut machine, start, 1);
    request(&mut machine, start, 2);
    machine.on_grant(start, single("x"), &mut actions);
    assert_eq!(words(&mut actions), ["1 → x Cold"]);
    ends(&mut machine, start, "x", Some(Duration::ZERO), &mut actions);
    assert_eq!(words(&mut actions), ["spent x"]);
    machine.on_grant(start, single("y"), &mut actions);
    assert_eq!(words(&mut actions), ["2 → y Cold"]);
    // The call never reached it: it is as good as new.
    ends(&mut machine, start, "y", None, &mut actions);
    assert!(actions.is_empty());
    assert_eq!(request(&mut machine, start, 3), "y Warm");
}

#[test]
fn a_failed_start_fails_those_that_wait_and_those_that_come_soon() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    let failure =
        StartFailure { code: StartCode::HandlerMissing, message: "no".to_owned(), last_lines: vec![] };
    request(&mut machine, start, 1);
    machine.on_start_failed(start, failure.clone(), Duration::from_secs(5), &mut actions);
    assert_eq!(words(&mut actions), ["1 ✗ StartFailed"]);
    assert!(request(&mut machine, at(start, 4), 2).starts_with("StartFailed"));
    assert_eq!(request(&mut machine, at(start, 5), 3), "waits");
    // With an instance there, who waits has something to wait for.
    machine.on_grant(at(start, 5), granted("x", 1), &mut actions);
    assert_eq!(words(&mut actions), ["3 → x Cold"]);
    request(&mut machine, at(start, 5), 4);
    machine.on_start_failed(at(start, 5), failure, Duration::from_secs(5), &mut actions);
    assert!(actions.is_empty());
    assert_eq!(request(&mut machine, at(start, 6), 5), "waits");
}

#[test]
fn waiting_ends_by_the_limit_of_what_is_waited_for() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    // No instance: the start's limit counts.
    let Admission::Enqueued { expires, .. } = machine.on_request(start, Origin::New, |_| 1) else { panic!() };
    assert_eq!(expires, at(start, 30));
    request(&mut machine, start, 2);
    // An instance comes, busy from now on: the queue's limit counts from here.
    machine.on_grant(at(start, 20), granted("x", 1), &mut actions);
    assert_eq!(words(&mut actions), ["1 → x Cold"]);
    machine.on_tick(at(start, 29), &mut actions);
    assert!(actions.is_empty());
    machine.on_tick(at(start, 30), &mut actions);
    assert_eq!(words(&mut actions), ["2 ✗ QueueTimeout"]);
    // Instances that come and go do not keep anybody waiting for ever.
    request(&mut machine, at(start, 30), 3);
    machine.on_gone(at(start, 39), &id("x"));
    machine.on_tick(at(start, 68), &mut actions);
    assert!(actions.is_empty());
    machine.on_tick(at(start, 69), &mut actions);
    assert_eq!(words(&mut actions), ["3 ✗ StartTimeout"]);
}

#[test]
fn a_lost_instance_takes_its_slots_with_it_and_a_retry_goes_first() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("x", 1), &mut actions);
    request(&mut machine, start, 1);
    request(&mut machine, at(start, 1), 2);
    let first = grant(&machine, "x");
    assert_eq!(machine.on_gone(at(start, 2), &id("x")), Some("x"));
    assert_eq!(machine.in_flight(), 0);
    machine.on_slot_free(at(start, 2), &id("x"), first, Some(Duration::ZERO), &mut actions);
    assert_eq!(machine.in_flight(), 0, "its slots went with it");
    assert!(matches!(
        machine.on_request(at(start, 2), Origin::Retry(start), |_| 1),
        Admission::Enqueued { .. }
    ));
    machine.on_grant(at(start, 3), granted("y", 1), &mut actions);
    assert_eq!(words(&mut actions), ["1 → y Cold"]);
}

#[test]
fn a_retired_revision_sends_its_queue_away_but_serves_while_it_can() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    request(&mut machine, start, 1);
    machine.retire(start, &mut actions);
    assert_eq!(words(&mut actions), ["1 moves"]);
    assert_eq!(request(&mut machine, start, 2), "moved");
    machine.on_grant(start, granted("x", 1), &mut actions);
    assert_eq!(request(&mut machine, start, 3), "x Warm");
    machine.revive();
    assert_eq!(request(&mut machine, start, 4), "waits");
}

#[test]
fn an_instance_full_of_stuck_calls_is_of_no_use() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("x", 2), &mut actions);
    let first = grant(&machine, "x");
    assert!(!machine.on_stuck(&id("x"), first, &mut actions));
    machine.on_unstuck(&id("x"), first, &mut actions);
    assert!(!machine.on_stuck(&id("x"), first, &mut actions));
    assert!(machine.on_stuck(&id("x"), first, &mut actions));
    assert!(actions.is_empty());
}

#[test]
fn a_client_that_goes_leaves_its_place_to_the_next() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    let Admission::Enqueued { ticket, .. } = machine.on_request(start, Origin::New, |_| 1) else { panic!() };
    request(&mut machine, start, 2);
    assert_eq!(machine.on_client_gone(start, ticket), Some(1));
    machine.on_grant(start, granted("x", 1), &mut actions);
    assert_eq!(words(&mut actions), ["2 → x Cold"]);
    assert_eq!(machine.on_client_gone(start, ticket), None);
}

#[test]
fn an_instance_in_doubt_gets_no_calls_until_it_has_answered() {
    let start = Instant::now();
    let mut machine = machine(start);
    let mut actions = Vec::new();
    machine.on_grant(start, granted("a", 2), &mut actions);
    assert_eq!(request(&mut machine, start, 1), "a Warm");
    machine.on_doubt(&id("a"));
    assert_eq!(request(&mut machine, start, 2), "waits");
    machine.on_grant(start, granted("b", 2), &mut actions);
    assert_eq!(words(&mut actions), ["2 → b Cold"]);
    assert_eq!(request(&mut machine, start, 3), "b Warm");
    assert_eq!(request(&mut machine, start, 4), "waits");
    machine.on_trust(start, &id("a"), &mut actions);
    assert_eq!(words(&mut actions), ["4 → a Warm"]);
}

#[test]
fn what_is_late_of_an_earlier_grant_concerns_no_later_one() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("x", 1), &mut actions);
    request(&mut machine, start, 1);
    let first = grant(&machine, "x");
    machine.on_gone(start, &id("x"));
    machine.on_grant(start, granted("x", 1), &mut actions);
    assert_eq!(request(&mut machine, start, 2), "x Warm");
    machine.on_slot_free(start, &id("x"), first, Some(Duration::ZERO), &mut actions);
    assert_eq!(machine.in_flight(), 1, "the new call still has its slot");
    assert!(
        !machine.on_stuck(&id("x"), first, &mut actions),
        "it is not the new instance's call that is stuck"
    );
    assert_eq!(request(&mut machine, start, 3), "waits");
}

#[test]
fn a_retried_request_has_its_limits_anew_and_keeps_nobody_else_waiting() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    request(&mut machine, at(start, 5), 1);
    // It ran for a long time before its instance was lost.
    let retried = machine.on_request(at(start, 20), Origin::Retry(start), |_| 2);
    assert!(
        matches!(retried, Admission::Enqueued { expires, .. } if expires == at(start, 50)),
        "{retried:?}"
    );
    machine.on_tick(at(start, 35), &mut actions);
    assert_eq!(words(&mut actions), ["1 ✗ StartTimeout"]);
    machine.on_tick(at(start, 50), &mut actions);
    assert_eq!(words(&mut actions), ["2 ✗ StartTimeout"]);
}

#[test]
fn a_frozen_instance_that_is_to_run_is_warm_for_the_next_request() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("i1", 1), &mut actions);
    assert!(!machine.on_wake(&id("i1")), "it runs");
    machine.on_pause(at(start, 30), &id("i1"), Duration::from_secs(10), &mut actions);
    assert!(machine.on_wake(&id("i1")) && !machine.is_paused(&id("i1")));
    assert_eq!(request(&mut machine, at(start, 31), 1), "i1 Warm");
    assert!(!machine.on_wake(&id("i2")), "it is not known");
}

#[test]
fn an_idle_instance_may_be_frozen_and_the_next_request_is_told_to_thaw_it() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    let pause = Duration::from_secs(10);
    machine.on_grant(start, granted("i1", 2), &mut actions);
    assert_eq!(request(&mut machine, start, 1), "i1 Warm");
    machine.on_pause(at(start, 20), &id("i1"), pause, &mut actions);
    assert_eq!(words(&mut actions), ["InUse { instance: i1, idle: 0ns }"]);
    let first = grant(&machine, "i1");
    machine.on_slot_free(at(start, 20), &id("i1"), first, Some(Duration::from_secs(20)), &mut actions);
    machine.on_pause(at(start, 25), &id("i1"), pause, &mut actions);
    assert_eq!(words(&mut actions), ["InUse { instance: i1, idle: 5s }"]);
    machine.on_pause(at(start, 30), &id("i1"), pause, &mut actions);
    assert_eq!(words(&mut actions), ["Quiet { instance: i1 }"]);
    assert!(machine.is_paused(&id("i1")));
    assert_eq!(request(&mut machine, at(start, 31), 2), "i1 Paused");
    assert!(!machine.is_paused(&id("i1")));
    assert_eq!(request(&mut machine, at(start, 31), 3), "i1 Warm");
    // One that is to go is not frozen, nor one that is not known.
    machine.on_revoke(at(start, 32), &id("i1"), &mut actions);
    machine.on_pause(at(start, 99), &id("i1"), pause, &mut actions);
    machine.on_pause(at(start, 99), &id("i2"), pause, &mut actions);
    assert_eq!(words(&mut actions), ["InUse { instance: i1, idle: 0ns }"]);
}

#[test]
fn a_frozen_instance_is_thawed_when_the_others_are_half_full() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    for name in ["i1", "i2"] {
        machine.on_grant(start, granted(name, 4), &mut actions);
    }
    machine.on_pause(at(start, 9), &id("i1"), Duration::from_secs(9), &mut actions);
    let met: Vec<String> = (0..8).map(|name| request(&mut machine, at(start, 10), name)).collect();
    let (one, two) = ("i1 Warm", "i2 Warm");
    assert_eq!(met, [two, two, "i1 Paused", one, one, two, one, two]);
}

#[test]
fn the_first_request_on_an_instance_that_was_kept_says_so() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, Granted { reserved: true, ..granted("i1", 2) }, &mut actions);
    assert_eq!(request(&mut machine, start, 1), "i1 Reserved");
    assert_eq!(request(&mut machine, start, 2), "i1 Warm");
    // Whoever waits for it has not found it there.
    assert_eq!(request(&mut machine, start, 3), "waits");
    machine.on_grant(start, Granted { reserved: true, ..granted("i2", 1) }, &mut actions);
    assert_eq!(words(&mut actions), ["3 → i2 Cold"]);
}

/// A share of the instance `x`, which takes four calls.
fn share(slots: u32, serial: u64) -> Share {
    Share { instance: id("x"), slots, of: 4, serial }
}

#[test]
fn a_share_is_confirmed_at_once_and_with_every_call_that_is_too_many() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    assert_eq!(request(&mut machine, start, 1), "waits");
    machine.on_grant(start, granted("x", 0), &mut actions);
    machine.on_share(start, share(3, 1), &mut actions);
    assert_eq!(words(&mut actions), ["Holds { instance: x, slots: 3, stuck: 0, serial: 1 }", "1 → x Cold"]);
    for name in 2..4 {
        assert_eq!(request(&mut machine, start, name), "x Warm");
    }
    machine.on_share(start, share(1, 2), &mut actions);
    assert_eq!(words(&mut actions), ["Holds { instance: x, slots: 3, stuck: 0, serial: 2 }"]);
    for left in [2, 1] {
        ends(&mut machine, start, "x", Some(Duration::ZERO), &mut actions);
        assert_eq!(
            words(&mut actions),
            [format!("Holds {{ instance: x, slots: {left}, stuck: 0, serial: 2 }}")]
        );
    }
    assert_eq!(request(&mut machine, start, 4), "waits");
    ends(&mut machine, start, "x", Some(Duration::ZERO), &mut actions);
    assert_eq!(words(&mut actions), ["4 → x Warm"], "it is within its share");
    machine.on_share(start, Share { instance: id("y"), ..share(2, 3) }, &mut actions);
    assert_eq!(
        words(&mut actions),
        ["Holds { instance: y, slots: 0, stuck: 0, serial: 3 }"],
        "it is not known"
    );
}

#[test]
fn of_one_that_is_spent_no_slot_is_said_to_be_free() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, Granted { single_use: true, ..granted("x", 0) }, &mut actions);
    machine.on_share(start, share(1, 1), &mut actions);
    request(&mut machine, start, 1);
    // Another waits for it.
    machine.on_share(start, share(0, 2), &mut actions);
    actions.clear();
    ends(&mut machine, start, "x", Some(Duration::ZERO), &mut actions);
    assert_eq!(words(&mut actions), ["spent x"]);
}

#[test]
fn of_an_instance_that_others_use_too_it_is_said_how_many_calls_are_stuck() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    machine.on_grant(start, granted("x", 0), &mut actions);
    machine.on_share(start, share(1, 1), &mut actions);
    request(&mut machine, start, 1);
    let first = grant(&machine, "x");
    actions.clear();
    assert!(!machine.on_stuck(&id("x"), first, &mut actions), "it is not for one of several to say");
    assert_eq!(words(&mut actions), ["Holds { instance: x, slots: 1, stuck: 1, serial: 1 }"]);
    machine.on_unstuck(&id("x"), first, &mut actions);
    assert_eq!(words(&mut actions), ["Holds { instance: x, slots: 1, stuck: 0, serial: 1 }"]);
}

#[test]
fn while_others_wait_idle_slots_are_told() {
    let start = Instant::now();
    let (mut machine, mut actions) = (machine(start), Vec::new());
    let idle = |in_flight| {
        format!("CapacityWanted {{ revision: default/a-00001, waiting: 0, in_flight: {in_flight} }}")
    };
    machine.on_grant(start, granted("x", 2), &mut actions);
    request(&mut machine, start, 1);
    request(&mut machine, start, 2);
    machine.on_scarce(true, &mut actions);
    assert!(actions.is_empty(), "none is");
    ends(&mut machine, start, "x", Some(Duration::ZERO), &mut actions);
    assert_eq!(words(&mut actions), [idle(1)]);
    machine.on_scarce(false, &mut actions);
    ends(&mut machine, start, "x", Some(Duration::ZERO), &mut actions);
    assert!(actions.is_empty(), "nobody asks");
    machine.on_scarce(true, &mut actions);
    assert_eq!(words(&mut actions), [idle(0)]);
}
