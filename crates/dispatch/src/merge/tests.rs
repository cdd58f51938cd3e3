use std::time::{Duration, Instant};

use super::*;
use crate::messages::{EndpointAddress, Forwarding, StartCode, StartFailure};

const A: GatewayId = GatewayId(1);
const B: GatewayId = GatewayId(2);
/// Another connection of A's.
const A_AGAIN: GatewayId = GatewayId(3);
const SETTLE: Duration = Duration::from_secs(2);

fn name(gateway: GatewayId) -> &'static str {
    if gateway == B { "b" } else { "a" }
}

fn id(name: &str) -> InstanceId {
    InstanceId::parse(name).unwrap()
}

fn revision() -> RevisionId {
    RevisionId::parse("default/a-00001").unwrap()
}

/// One for a single call.
fn single(name: &str, start: StartKind) -> ToGateway {
    let mut grant = grant(name, 1, start);
    if let ToGateway::Grant { endpoint, .. } = &mut grant {
        endpoint.single_use = true;
    }
    grant
}

fn grant(name: &str, slots: u32, start: StartKind) -> ToGateway {
    let endpoint = Endpoint {
        instance: id(name),
        address: EndpointAddress::Tcp("127.0.0.1:1".parse().unwrap()),
        secret: String::new(),
        forwarding: Forwarding::Frames,
        start,
        start_time: Duration::ZERO,
        single_use: false,
        reserved: false,
        own_server: false,
    };
    ToGateway::Grant { revision: revision(), endpoint, slots }
}

/// A merge, and what it says in few words.
struct Scene {
    merge: Merge,
    now: Instant,
    /// The number of the last share of an instance that a gateway was told.
    serials: BTreeMap<(GatewayId, InstanceId), u64>,
    /// Whether it was told that others wait.
    scarce: BTreeMap<GatewayId, bool>,
}

impl Scene {
    fn new(gateways: &[GatewayId]) -> Self {
        let now = Instant::now();
        let merge = Merge::new(now, SETTLE, 0);
        let mut scene = Self { merge, now, serials: BTreeMap::new(), scarce: BTreeMap::new() };
        for gateway in gateways {
            scene.does(|merge, now, out| merge.join(now, *gateway, name(*gateway), Resume::default(), out));
        }
        scene
    }

    fn does(&mut self, change: impl FnOnce(&mut Merge, Instant, &mut Out)) -> Vec<String> {
        let mut out = Out::default();
        change(&mut self.merge, self.now, &mut out);
        let mut words = Vec::new();
        for (gateway, message) in out.down {
            let to = name(gateway).to_uppercase();
            words.push(match message {
                ToGateway::Grant { endpoint, slots, .. } => {
                    assert_eq!(slots, 0, "how many is said by the share");
                    format!("{to} gets {}", endpoint.instance)
                }
                ToGateway::Share(share) => {
                    self.serials.insert((gateway, share.instance.clone()), share.serial);
                    format!("{to} {}={}/{}", share.instance, share.slots, share.of)
                }
                ToGateway::Revoke { instance } => format!("{to} revoke {instance}"),
                ToGateway::Gone { instance, .. } => format!("{to} gone {instance}"),
                ToGateway::StartFailed { .. } => format!("{to} failed"),
                ToGateway::Scarce { scarce, .. } => {
                    self.scarce.insert(gateway, scarce);
                    continue;
                }
                other => panic!("{other:?}"),
            });
        }
        words.extend(out.up.into_iter().map(|message| match message {
            ToScaler::CapacityWanted { waiting, in_flight, .. } => format!("wanted {waiting}+{in_flight}"),
            ToScaler::Drained { instance } => format!("drained {instance}"),
            ToScaler::Lost { instance, .. } => format!("lost {instance}"),
            ToScaler::Spent { instance } => format!("spent {instance}"),
            ToScaler::Unresponsive { instance } => format!("unresponsive {instance}"),
            ToScaler::Orphaned { instance } => format!("orphaned {instance}"),
            ToScaler::InUse { instance, .. } => format!("in use {instance}"),
            other => panic!("{other:?}"),
        }));
        words
    }

    fn scaler(&mut self, message: ToGateway) -> Vec<String> {
        self.does(|merge, now, out| merge.on_scaler(now, message, out))
    }

    fn says(&mut self, gateway: GatewayId, message: ToScaler) -> Vec<String> {
        self.does(|merge, now, out| merge.on_gateway(now, gateway, message, out))
    }

    fn wants(&mut self, gateway: GatewayId, waiting: u32, in_flight: u32) -> Vec<String> {
        self.says(gateway, ToScaler::CapacityWanted { revision: revision(), waiting, in_flight })
    }

    fn holds(&mut self, gateway: GatewayId, name: &str, slots: u32) -> Vec<String> {
        self.stuck(gateway, name, slots, 0)
    }

    fn stuck(&mut self, gateway: GatewayId, name: &str, slots: u32, stuck: u32) -> Vec<String> {
        let serial = self.serials[&(gateway, id(name))];
        self.says(gateway, ToScaler::Holds { instance: id(name), slots, stuck, serial })
    }

    fn lost(&mut self, gateway: GatewayId, name: &str) -> Vec<String> {
        self.says(gateway, ToScaler::Lost { instance: id(name), reason: String::new() })
    }

    fn joins(&mut self, gateway: GatewayId, resume: Resume) -> Vec<String> {
        self.does(|merge, now, out| merge.join(now, gateway, name(gateway), resume, out))
    }

    fn leaves(&mut self, gateway: GatewayId) -> Vec<String> {
        self.does(|merge, now, out| merge.leave(now, gateway, out))
    }

    fn waits(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.does(Merge::on_tick)
    }
}

#[test]
fn one_gateway_gets_all_and_the_next_its_part_when_the_first_has_let_go() {
    let mut scene = Scene::new(&[A]);
    assert_eq!(scene.scaler(grant("x", 4, StartKind::Cold)), ["A gets x", "A x=4/4"]);
    let joined = scene.does(|merge, now, out| merge.join(now, B, "b", Resume::default(), out));
    assert_eq!(joined, ["A x=2/4"], "it has none at all");
    assert!(scene.holds(A, "x", 4).is_empty(), "four calls run");
    let news = scene.holds(A, "x", 3);
    assert_eq!(news, ["A x=3/4", "B gets x", "B x=1/4"], "it has one, and needs no more yet");
    assert_eq!(scene.wants(B, 2, 1), ["A x=1/4", "wanted 2+1"]);
    assert_eq!(scene.holds(A, "x", 2), ["B x=2/4"]);
}

#[test]
fn who_waits_gets_what_lies_idle_elsewhere() {
    let mut scene = Scene::new(&[A, B]);
    let given = scene.scaler(grant("x", 10, StartKind::Cold));
    assert_eq!(given, ["A gets x", "A x=5/10", "B gets x", "B x=5/10"]);
    assert_eq!(scene.wants(A, 3, 5), ["B x=1/10", "wanted 3+5"], "8 for A, and half of what is left");
    assert_eq!(scene.holds(B, "x", 1), ["A x=9/10"]);
    // B needs two: what nobody asked for is divided anew.
    assert_eq!(scene.wants(B, 1, 1), ["A x=8/10", "wanted 4+6"]);
    assert_eq!(scene.holds(A, "x", 8), ["B x=2/10"]);
}

#[test]
fn the_slots_of_a_gateway_that_dies_come_back_at_once() {
    let mut scene = Scene::new(&[A, B]);
    scene.scaler(grant("x", 2, StartKind::Cold));
    assert_eq!(scene.wants(A, 1, 1), ["B x=0/2", "wanted 1+1"]);
    let left = scene.does(|merge, now, out| merge.leave(now, B, out));
    assert_eq!(left, ["A x=2/2"]);
}

#[test]
fn a_single_slot_goes_round_among_those_that_wait() {
    let mut scene = Scene::new(&[A, B]);
    scene.scaler(grant("x", 1, StartKind::Cold));
    assert_eq!(scene.wants(A, 1, 1), ["wanted 1+1"]);
    assert_eq!(scene.wants(B, 1, 0), ["wanted 2+1"], "A has it, and that is well for a while");
    assert_eq!(scene.waits(TURN_AND_MORE), ["A x=0/1"]);
    assert_eq!(scene.holds(A, "x", 0), ["B gets x", "B x=1/1"]);
    assert!(scene.waits(Duration::from_millis(10)).is_empty());
    assert_eq!(scene.waits(TURN_AND_MORE), ["B x=0/1"]);
}

const TURN_AND_MORE: Duration = Duration::from_millis(60);

#[test]
fn it_is_drained_when_the_last_has_nothing_more_to_do_with_it() {
    let mut scene = Scene::new(&[A, B]);
    scene.scaler(grant("x", 2, StartKind::Cold));
    scene.scaler(grant("y", 2, StartKind::Cold));
    let revoke = |name: &str| ToGateway::Revoke { instance: id(name) };
    assert_eq!(scene.scaler(revoke("x")), ["A revoke x", "B revoke x"]);
    assert!(scene.says(B, ToScaler::Drained { instance: id("x") }).is_empty());
    assert_eq!(scene.says(A, ToScaler::Drained { instance: id("x") }), ["drained x"]);
    scene.scaler(revoke("y"));
    assert!(scene.says(B, ToScaler::Drained { instance: id("y") }).is_empty());
    let left = scene.does(|merge, now, out| merge.leave(now, A, out));
    assert_eq!(left, ["drained y"], "the other has gone");
    assert_eq!(scene.scaler(revoke("z")), ["drained z"], "nobody knows it");
}

#[test]
fn a_gateway_that_loses_everything_is_not_believed_alone() {
    let mut scene = Scene::new(&[A, B]);
    for number in 1..=6 {
        scene.scaler(grant(&format!("i{number}"), 2, StartKind::Cold));
    }
    for number in 1..=3 {
        assert!(scene.lost(A, &format!("i{number}")).contains(&format!("lost i{number}")));
    }
    assert!(!scene.lost(A, "i4").contains(&"lost i4".to_owned()), "B uses it");
    assert!(!scene.lost(A, "i5").contains(&"lost i5".to_owned()));
    assert!(scene.lost(B, "i4").contains(&"lost i4".to_owned()), "now both say so");
    assert!(scene.waits(trust::FORGIVEN).contains(&"lost i5".to_owned()), "it has said no more for a while");
    assert_eq!(scene.scaler(ToGateway::Gone { instance: id("i6"), reason: String::new() }).len(), 2);
}

#[test]
fn calls_that_are_stuck_at_several_gateways_are_judged_together() {
    let mut scene = Scene::new(&[A, B]);
    assert_eq!(scene.scaler(grant("x", 4, StartKind::Cold)), ["A gets x", "A x=2/4", "B gets x", "B x=2/4"]);
    assert!(scene.stuck(A, "x", 2, 2).is_empty(), "B has two that are not");
    assert!(scene.stuck(B, "x", 2, 1).is_empty());
    assert!(scene.stuck(A, "x", 2, 1).is_empty(), "one has ended after all");
    assert!(scene.stuck(B, "x", 2, 2).is_empty());
    assert_eq!(scene.stuck(A, "x", 2, 2), ["unresponsive x"]);
    assert!(scene.stuck(A, "x", 2, 2).is_empty(), "it is said once");
    // What an earlier controller has not heard, the next one does.
    let mut scene = Scene::new(&[]);
    for (gateway, stuck) in [(A, 2), (B, 2)] {
        let held = Held { instance: id("x"), revision: revision(), slots: 2, stuck, draining: false };
        let resume = Resume { held: vec![held], ..Resume::default() };
        scene.does(|merge, now, out| merge.join(now, gateway, name(gateway), resume, out));
    }
    assert!(scene.scaler(grant("x", 4, StartKind::Warm)).contains(&"unresponsive x".to_owned()));
}

#[test]
fn what_cannot_be_divided_or_concerns_all_is_said_to_all() {
    let mut scene = Scene::new(&[A, B]);
    let failure = StartFailure { code: StartCode::LoadFailed, message: String::new(), last_lines: vec![] };
    let failed = ToGateway::StartFailed { revision: revision(), failure, retry_after: Duration::ZERO };
    assert_eq!(scene.scaler(failed), ["A failed", "B failed"]);
    scene.scaler(grant("x", 1, StartKind::Cold));
    let pause = ToGateway::Pause { instance: id("x"), idle: Duration::from_secs(1) };
    assert_eq!(scene.scaler(pause), ["in use x"]);
    assert_eq!(scene.says(A, ToScaler::Spent { instance: id("x") }), ["spent x"]);
    assert!(scene.says(A, ToScaler::Spent { instance: id("x") }).is_empty(), "once");
}

fn held(name: &str, slots: u32, draining: bool) -> Resume {
    let held = Held { instance: id(name), revision: revision(), slots, stuck: 0, draining };
    Resume { held: vec![held], ..Resume::default() }
}

#[test]
fn what_gateways_hold_of_an_earlier_controller_is_theirs_and_is_granted_once() {
    let mut scene = Scene::new(&[]);
    let joined = scene.does(|merge, now, out| merge.join(now, A, "a", held("x", 3, false), out));
    assert!(joined.is_empty());
    assert_eq!(scene.scaler(grant("x", 10, StartKind::Warm)), ["A x=3/10"], "another may be using the rest");
    assert!(scene.holds(A, "x", 3).is_empty());
    assert_eq!(scene.wants(A, 2, 3), ["wanted 2+3"]);
    let demand = vec![Demand { revision: revision(), waiting: 0, in_flight: 6 }];
    let resume = Resume { demand, ..held("x", 6, false) };
    let joined = scene.does(|merge, now, out| merge.join(now, B, "b", resume, out));
    assert_eq!(joined, ["B x=5/10"], "of nine that are in use, each has half");
    assert!(scene.holds(B, "x", 6).is_empty());
    assert_eq!(scene.waits(Duration::from_secs(2)), ["A x=4/10"], "the tenth");
    assert_eq!(scene.holds(B, "x", 5), ["A x=5/10"]);
}

#[test]
fn a_gateway_whose_calls_outlive_its_share_may_use_again_what_it_holds() {
    let mut scene = Scene::new(&[]);
    scene.scaler(grant("x", 1, StartKind::Cold));
    // An earlier controller had asked for its only slot, on which a call runs: it uses one, and would begin none.
    let joined = scene.does(|merge, now, out| merge.join(now, A, "a", held("x", 1, false), out));
    assert_eq!(joined, ["A x=1/1"], "what it was told before is not known here");
}

#[test]
fn one_that_was_to_be_drained_and_serves_on_is_granted_again() {
    let mut scene = Scene::new(&[]);
    scene.does(|merge, now, out| merge.join(now, A, "a", held("x", 2, true), out));
    assert_eq!(scene.scaler(grant("x", 2, StartKind::Warm)), ["A gets x", "A x=2/2"]);
    // Its last call had ended before it heard that.
    assert!(scene.says(A, ToScaler::Drained { instance: id("x") }).is_empty());
    assert_eq!(scene.merge.revisions[&revision()].shares.used().map(|(_, used, _)| used).sum::<u32>(), 2);
}

#[test]
fn what_is_used_twice_is_asked_back_though_nobody_needs_it() {
    let mut scene = Scene::new(&[A]);
    scene.scaler(grant("x", 4, StartKind::Cold));
    // It was cut off for a while, and served with what it had.
    let joined = scene.does(|merge, now, out| merge.join(now, B, "b", held("x", 4, false), out));
    assert_eq!(joined, ["A x=2/4", "B x=2/4"]);
}

#[test]
fn what_only_gateways_know_is_drained_after_a_while() {
    let mut scene = Scene::new(&[]);
    scene.does(|merge, now, out| merge.join(now, A, "a", held("x", 2, false), out));
    assert!(scene.waits(UNKNOWN / 2).is_empty());
    assert_eq!(scene.waits(UNKNOWN), ["A revoke x"]);
    // It is adopted in the last moment.
    assert_eq!(scene.scaler(grant("x", 2, StartKind::Warm)), ["A gets x", "A x=2/2"]);
}

#[test]
fn who_has_slots_is_told_that_others_wait_and_that_they_do_no_more() {
    let mut scene = Scene::new(&[A, B]);
    scene.scaler(grant("x", 2, StartKind::Cold));
    scene.wants(B, 0, 1);
    assert_eq!(scene.wants(A, 3, 1), ["wanted 3+2"], "by what is known, B's is in use");
    assert_eq!(scene.scarce, BTreeMap::from([(B, true)]));
    assert_eq!(scene.wants(B, 0, 0), ["B x=0/2"]);
    assert_eq!(scene.holds(B, "x", 0), ["A x=2/2"]);
    scene.wants(A, 0, 2);
    assert_eq!(scene.scarce, BTreeMap::from([(B, false)]));
}

#[test]
fn a_gateway_that_was_told_that_others_wait_is_told_whether_they_do_still() {
    let mut scene = Scene::new(&[]);
    let resume = Resume { scarce: vec![revision()], ..Resume::default() };
    scene.does(|merge, now, out| merge.join(now, A, "a", resume, out));
    assert_eq!(scene.scarce, BTreeMap::from([(A, false)]));
    scene.does(|merge, now, out| merge.join(now, B, "b", held("x", 1, false), out));
    assert_eq!(scene.scarce, BTreeMap::from([(A, false)]), "it was told nothing");
}

#[test]
fn an_instance_for_a_single_call_is_nobody_elses_when_its_gateway_goes() {
    let mut scene = Scene::new(&[A, B]);
    assert_eq!(scene.scaler(single("x", StartKind::Cold)), ["A gets x", "A x=1/1"]);
    scene.wants(B, 1, 0);
    assert!(scene.leaves(A).is_empty(), "it may have been used");
    assert!(scene.waits(TURN_AND_MORE).is_empty());
    assert_eq!(scene.waits(SETTLE), ["orphaned x"], "whoever waits gets another one started");
    assert!(scene.waits(SETTLE).is_empty(), "it is said once");
    // It comes back after all; the scaler has it end.
    assert!(scene.joins(A_AGAIN, held("x", 1, false)).is_empty());
    let gone = ToGateway::Gone { instance: id("x"), reason: String::new() };
    assert_eq!(scene.scaler(gone), ["A gone x"]);
}

#[test]
fn a_gateway_that_comes_back_in_time_has_its_instance_for_a_single_call() {
    let mut scene = Scene::new(&[A, B]);
    scene.scaler(single("x", StartKind::Cold));
    scene.leaves(A);
    assert_eq!(scene.joins(A_AGAIN, held("x", 1, false)), ["A x=1/1"]);
    assert!(scene.waits(SETTLE * 2).is_empty());
    // It has not used it, and says so.
    assert_eq!(scene.wants(B, 1, 0), ["A x=0/1", "wanted 1+0"]);
    assert_eq!(scene.holds(A_AGAIN, "x", 0), ["B gets x", "B x=1/1"]);
    // That it goes now is nothing to B.
    scene.leaves(A_AGAIN);
    assert!(scene.waits(SETTLE * 2).is_empty());
    assert_eq!(scene.says(B, ToScaler::Spent { instance: id("x") }), ["spent x"]);
}

#[test]
fn one_for_a_single_call_that_is_to_go_keeps_its_call_while_its_gateway_may_come_back() {
    let mut scene = Scene::new(&[A, B]);
    scene.scaler(single("x", StartKind::Cold));
    scene.leaves(A);
    assert!(scene.scaler(ToGateway::Revoke { instance: id("x") }).is_empty(), "its call may run");
    assert_eq!(scene.joins(A_AGAIN, held("x", 1, false)), ["A revoke x"]);
    assert!(scene.waits(SETTLE).is_empty());
    assert_eq!(scene.says(A_AGAIN, ToScaler::Drained { instance: id("x") }), ["drained x"]);
}

#[test]
fn a_gateway_that_was_seen_to_go_late_has_what_it_came_back_with() {
    let mut scene = Scene::new(&[A]);
    scene.scaler(single("x", StartKind::Cold));
    scene.joins(A_AGAIN, held("x", 1, false));
    scene.holds(A_AGAIN, "x", 1);
    scene.leaves(A);
    assert!(scene.waits(SETTLE * 2).is_empty());
}

#[test]
fn one_for_a_single_call_that_a_gateway_gave_up_is_told_at_once_and_given_to_nobody() {
    let mut scene = Scene::new(&[A, B]);
    for number in 1..=4 {
        scene.scaler(single(&format!("i{number}"), StartKind::Cold));
        scene.wants(A, 0, 0);
    }
    let held: Vec<String> = scene
        .serials
        .keys()
        .filter(|(gateway, _)| *gateway == A)
        .map(|(_, instance)| instance.to_string())
        .collect();
    assert_eq!(held.len(), 2);
    scene.wants(B, 4, 2);
    for name in held {
        assert_eq!(scene.lost(A, &name), [format!("lost {name}")]);
    }
}

#[test]
fn whoever_knows_one_that_is_spent_forgets_it() {
    let mut scene = Scene::new(&[A, B]);
    scene.scaler(single("x", StartKind::Cold));
    scene.wants(B, 1, 0);
    scene.waits(TURN_AND_MORE);
    assert_eq!(scene.holds(A, "x", 0), ["B gets x", "B x=1/1"]);
    assert_eq!(scene.says(B, ToScaler::Spent { instance: id("x") }), ["A revoke x", "spent x"]);
}

#[test]
fn one_for_a_single_call_of_an_earlier_controller_is_used_by_none_but_who_holds_it() {
    let mut scene = Scene::new(&[]);
    scene.joins(A, held("x", 1, false));
    scene.joins(B, held("y", 0, false));
    assert_eq!(scene.scaler(single("x", StartKind::Warm)), ["A x=1/1"]);
    scene.wants(B, 1, 0);
    assert_eq!(scene.scaler(single("y", StartKind::Warm)), ["B y=0/1"], "whoever had it may have gone");
    assert_eq!(scene.waits(SETTLE), ["B revoke y", "orphaned y"]);
}

#[test]
fn a_gateway_whose_link_flaps_is_one_accuser_and_has_one_credit() {
    let mut scene = Scene::new(&[A, B]);
    for number in 1..=5 {
        scene.scaler(grant(&format!("i{number}"), 2, StartKind::Cold));
    }
    for number in 1..=3 {
        scene.lost(A, &format!("i{number}"));
    }
    assert!(!scene.lost(A, "i4").contains(&"lost i4".to_owned()), "B uses it");
    scene.leaves(A);
    let news = scene.joins(A_AGAIN, Resume::default());
    assert!(!news.contains(&"A gets i4".to_owned()), "it has given that up: {news:?}");
    assert!(!scene.lost(A_AGAIN, "i4").contains(&"lost i4".to_owned()), "it has said so before");
    assert!(!scene.lost(A_AGAIN, "i5").contains(&"lost i5".to_owned()), "it has accused as many as it may");
    scene.leaves(A_AGAIN);
    assert!(scene.waits(trust::FORGIVEN).is_empty(), "one that is not there is not believed alone");
    assert!(scene.lost(B, "i4").contains(&"lost i4".to_owned()), "now there are two");
    // When it might accuse as many as ever, what it said before is forgotten.
    assert!(scene.waits(trust::FORGIVEN * 3).is_empty());
    scene.joins(A, Resume::default());
    let news = scene.leaves(B);
    assert!(news.contains(&"A gets i5".to_owned()), "{news:?}");
}
