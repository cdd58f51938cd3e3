//! Several gateways (the real state machine of each), what makes one of them, and messages that take their time: random events, and what
//! must hold whatever happens.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::messages::{EndpointAddress, Forwarding};
use edge::{Call, Edge};

mod checks;
mod edge;

#[derive(Debug, Clone)]
enum Event {
    Requests(usize, u32),
    /// A call on some gateway ends.
    Ends(usize, usize),
    /// One finds no room.
    Refused(usize, usize),
    /// One was given up and does not end.
    Stuck(usize, usize),
    /// The next message of a gateway arrives, or the next to it.
    Up(usize),
    Down(usize),
    Instance(u32),
    /// One for a single call.
    SingleUse,
    Revoke(usize),
    Gone(usize),
    GivesUp(usize, usize),
    Join,
    Dies(usize),
    /// One loses its connection, with what was on its way. That it has gone is seen at once, or later.
    Cut(usize, bool),
    Seen,
    Back(usize),
    /// Another controller takes over; every gateway comes to it.
    Restart,
    Report,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let gateway = 0usize..4;
    prop_oneof![
        8 => (gateway.clone(), 1u32..6).prop_map(|(gateway, count)| Event::Requests(gateway, count)),
        12 => (gateway.clone(), 0usize..16).prop_map(|(gateway, which)| Event::Ends(gateway, which)),
        4 => (gateway.clone(), 0usize..16).prop_map(|(gateway, which)| Event::Refused(gateway, which)),
        6 => (gateway.clone(), 0usize..16).prop_map(|(gateway, which)| Event::Stuck(gateway, which)),
        20 => gateway.clone().prop_map(Event::Up),
        20 => gateway.clone().prop_map(Event::Down),
        4 => (1u32..6).prop_map(Event::Instance),
        4 => Just(Event::SingleUse),
        1 => (0usize..8).prop_map(Event::Revoke),
        1 => (0usize..8).prop_map(Event::Gone),
        1 => (gateway.clone(), 0usize..8).prop_map(|(gateway, which)| Event::GivesUp(gateway, which)),
        2 => Just(Event::Join),
        1 => gateway.clone().prop_map(Event::Dies),
        2 => (gateway.clone(), any::<bool>()).prop_map(|(gateway, seen)| Event::Cut(gateway, seen)),
        1 => Just(Event::Seen),
        2 => gateway.prop_map(Event::Back),
        1 => Just(Event::Restart),
        3 => Just(Event::Report),
        4 => (1u64..200).prop_map(Event::Wait),
    ]
}

/// The whole of it.
struct World {
    now: Instant,
    merge: Merge,
    edges: Vec<Edge>,
    /// What the scaler has granted and not heard the end of.
    instances: BTreeMap<InstanceId, Granted>,
    /// Those for a single call on which one has begun.
    spent: BTreeSet<InstanceId>,
    /// What a gateway used when it was cut off: it goes on with it, and another may have been given the same.
    twice: BTreeSet<InstanceId>,
    /// Connections that are no more, which was not seen yet.
    unseen: Vec<GatewayId>,
    /// Instances on which a stuck call has ended after all, or gone with its gateway: what was said of those may be of before.
    recovered: BTreeSet<InstanceId>,
    names: u32,
    gateways: u64,
    messages: usize,
}

#[derive(Clone, Copy)]
struct Granted {
    slots: u32,
    single_use: bool,
    /// The scaler has taken it back.
    revoked: bool,
}

fn revision() -> RevisionId {
    RevisionId::parse("default/a-00001").unwrap()
}

fn some<T>(list: &[T], which: usize) -> Option<usize> {
    (!list.is_empty()).then(|| which % list.len())
}

fn grant(instance: &InstanceId, granted: Granted, start: StartKind) -> ToGateway {
    let endpoint = Endpoint {
        instance: instance.clone(),
        address: EndpointAddress::Tcp("127.0.0.1:1".parse().unwrap()),
        secret: String::new(),
        forwarding: Forwarding::Frames,
        start,
        start_time: Duration::ZERO,
        single_use: granted.single_use,
        reserved: false,
        own_server: false,
    };
    ToGateway::Grant { revision: revision(), endpoint, slots: granted.slots }
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            merge: Merge::new(now, Duration::ZERO, 0),
            edges: Vec::new(),
            instances: BTreeMap::new(),
            spent: BTreeSet::new(),
            twice: BTreeSet::new(),
            unseen: Vec::new(),
            recovered: BTreeSet::new(),
            names: 0,
            gateways: 0,
            messages: 0,
        }
    }

    fn does(&mut self, change: impl FnOnce(&mut Merge, Instant, &mut Out)) {
        let mut out = Out::default();
        change(&mut self.merge, self.now, &mut out);
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: Out) {
        for (id, message) in out.down {
            self.messages += 1;
            if !self.unseen.contains(&id) {
                let edge = self.edges.iter_mut().find(|edge| edge.id == id && !edge.cut);
                edge.expect("only those that are there are spoken to").down.push_back(message);
            }
        }
        for message in out.up {
            match message {
                ToScaler::Drained { instance } => {
                    let granted = self.instances.remove(&instance).expect("drained once");
                    assert!(granted.revoked, "drained without having been told");
                    let on = |edge: &Edge| edge.calls.iter().any(|call| call.on == instance);
                    let may = self.twice.contains(&instance) && !granted.single_use;
                    assert!(may || !self.edges.iter().any(on), "a call runs on {instance}");
                }
                ToScaler::Spent { instance } => {
                    let granted = self.instances.get(&instance).expect("it is granted");
                    assert!(granted.single_use && self.spent.contains(&instance));
                    self.gone(instance);
                }
                ToScaler::Orphaned { instance } => {
                    assert!(self.instances.get(&instance).expect("it is granted").single_use);
                    let there = self.edges.iter().filter(|edge| !edge.cut);
                    let using = there.map(|edge| edge.uses(&instance)).sum::<u32>();
                    assert_eq!(using, 0, "{instance} is used by one that is there");
                    self.gone(instance);
                }
                ToScaler::Lost { instance, .. } => self.gone(instance),
                ToScaler::Unresponsive { instance } => {
                    let slots = self.instances.get(&instance).map_or(0, |granted| granted.slots);
                    let stuck = self.stuck_on(&instance);
                    let recovered = self.recovered.contains(&instance);
                    assert!(recovered || stuck >= slots, "{stuck} calls of {slots} on {instance} are stuck");
                    self.gone(instance);
                }
                _ => {}
            }
        }
    }

    /// The scaler has killed it.
    fn gone(&mut self, instance: InstanceId) {
        self.instances.remove(&instance);
        let gone = ToGateway::Gone { instance, reason: String::new() };
        self.does(|merge, now, out| merge.on_scaler(now, gone, out));
    }

    fn up(&mut self, which: usize) {
        let Some(edge) = self.edges.get_mut(which).filter(|edge| !edge.cut) else { return };
        let id = edge.id;
        if let Some(message) = edge.up.pop_front() {
            self.does(|merge, now, out| merge.on_gateway(now, id, message, out));
        }
    }

    fn down(&mut self, which: usize) {
        let now = self.now;
        if let Some(edge) = self.edges.get_mut(which)
            && let Some(message) = edge.down.pop_front()
        {
            edge.hear(now, message);
        }
    }

    fn join(&mut self, which: usize) {
        self.gateways += 1;
        let id = GatewayId(self.gateways);
        let Some(edge) = self.edges.get_mut(which) else { return };
        edge.id = id;
        edge.up.clear();
        edge.down.clear();
        let resume = edge.holding.resume();
        edge.cut = false;
        for message in std::mem::take(&mut edge.unsaid) {
            edge.say(message);
        }
        let name = edge.name.clone();
        self.does(|merge, now, out| merge.join(now, id, &name, resume, out));
    }

    /// An instance is there.
    fn come_up(&mut self, slots: u32, single_use: bool) {
        self.names += 1;
        let instance = InstanceId::parse(&format!("i{}", self.names)).unwrap();
        let granted = Granted { slots, single_use, revoked: false };
        self.instances.insert(instance.clone(), granted);
        let grant = grant(&instance, granted, StartKind::Cold);
        self.does(|merge, now, out| merge.on_scaler(now, grant, out));
    }

    fn happens(&mut self, event: &Event) {
        let now = self.now;
        match *event {
            Event::Requests(which, count) => {
                let Some(which) = some(&self.edges, which) else { return };
                (0..count).for_each(|_| self.edges[which].request(now));
            }
            Event::Ends(which, call) => {
                let Some(which) = some(&self.edges, which) else { return };
                let Some(call) = some(&self.edges[which].calls, call) else { return };
                let Call { on, stuck, .. } = self.edges[which].calls[call].clone();
                self.recovered.extend(stuck.then_some(on));
                self.edges[which].end(now, call);
            }
            Event::Refused(which, call) => {
                let Some(which) = some(&self.edges, which) else { return };
                let Some(call) = some(&self.edges[which].calls, call) else { return };
                let Call { on, stuck, .. } = &self.edges[which].calls[call];
                if !stuck {
                    self.spent.remove(on);
                }
                self.edges[which].refused(now, call);
            }
            Event::Stuck(which, call) => {
                let Some(which) = some(&self.edges, which) else { return };
                let Some(call) = some(&self.edges[which].calls, call) else { return };
                self.edges[which].stuck(call);
            }
            Event::Up(which) => self.up(which),
            Event::Down(which) => self.down(which),
            Event::Instance(slots) => self.come_up(slots, false),
            Event::SingleUse => self.come_up(1, true),
            Event::Revoke(which) => {
                let Some((instance, entry)) = self.instances.iter_mut().nth(which) else { return };
                entry.revoked = true;
                let revoke = ToGateway::Revoke { instance: instance.clone() };
                self.does(|merge, now, out| merge.on_scaler(now, revoke, out));
            }
            Event::Gone(which) => {
                let Some(instance) = self.instances.keys().nth(which).cloned() else { return };
                self.gone(instance);
            }
            Event::GivesUp(which, instance) => {
                let Some(which) = some(&self.edges, which) else { return };
                let edge = &mut self.edges[which];
                let Some((instance, ..)) = edge.machine.instances().nth(instance) else { return };
                let instance = instance.clone();
                self.recovered.insert(instance.clone());
                edge.drop_instance(now, &instance);
                edge.barred = true;
                edge.say(ToScaler::Lost { instance, reason: String::new() });
            }
            Event::Join if self.edges.len() < 4 => {
                let name = format!("gateway-{}", self.gateways);
                self.edges.push(Edge::new(name, now));
                self.join(self.edges.len() - 1);
            }
            Event::Join => {}
            Event::Dies(which) => {
                let Some(which) = some(&self.edges, which) else { return };
                let edge = self.edges.remove(which);
                self.recovered.extend(edge.calls.into_iter().map(|call| call.on));
                let id = edge.id;
                if !edge.cut {
                    self.does(|merge, now, out| merge.leave(now, id, out));
                }
            }
            Event::Cut(which, seen) => {
                let Some(which) = some(&self.edges, which) else { return };
                let edge = &mut self.edges[which];
                if std::mem::replace(&mut edge.cut, true) {
                    return;
                }
                let id = edge.id;
                edge.down.clear();
                let used = edge.machine.instances().filter(|(_, _, calls, slots)| calls + slots > 0);
                self.twice.extend(used.map(|(instance, ..)| instance.clone()));
                self.recovered.extend(edge.calls.iter().map(|call| call.on.clone()));
                self.unseen.push(id);
                if seen {
                    self.see();
                }
            }
            Event::Seen => self.see(),
            Event::Back(which) => {
                let Some(which) = some(&self.edges, which).filter(|which| self.edges[*which].cut) else {
                    return;
                };
                self.join(which);
            }
            Event::Restart => {
                self.unseen.clear();
                self.merge = Merge::new(
                    now,
                    Duration::from_secs(1),
                    self.messages as u64 + 1_000_000 * u64::from(self.names + 1),
                );
                // What was to go serves on: the next controller decides for itself. It hears of some before the gateways come.
                self.instances.values_mut().for_each(|granted| granted.revoked = false);
                let all: Vec<(InstanceId, Granted)> =
                    self.instances.iter().map(|(id, granted)| (id.clone(), *granted)).collect();
                let adopt = |world: &mut Self, (instance, granted): &(InstanceId, Granted)| {
                    let grant = grant(instance, *granted, StartKind::Warm);
                    world.does(|merge, now, out| merge.on_scaler(now, grant, out));
                };
                let (before, after) = all.split_at(all.len() / 2);
                before.iter().for_each(|one| adopt(self, one));
                (0..self.edges.len()).for_each(|which| self.join(which));
                after.iter().for_each(|one| adopt(self, one));
            }
            Event::Report => self.report(),
            Event::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.tick();
            }
        }
    }

    /// That connections are no more is seen.
    fn see(&mut self) {
        while let Some(id) = self.unseen.pop() {
            self.does(|merge, now, out| merge.leave(now, id, out));
        }
    }

    fn tick(&mut self) {
        let now = self.now;
        self.edges.iter_mut().for_each(|edge| edge.tick(now));
        self.does(Merge::on_tick);
    }

    fn report(&mut self) {
        let now = self.now;
        for edge in &mut self.edges {
            if let Some(report) = edge.machine.report(now) {
                edge.say(ToScaler::Load(report));
            }
        }
    }

    /// Lets every message arrive. How many there were: it must come to an end.
    fn quiet(&mut self) -> usize {
        let before = self.messages;
        self.check();
        while self.edges.iter().any(|edge| !(edge.cut || edge.up.is_empty() && edge.down.is_empty())) {
            for which in 0..self.edges.len() {
                self.up(which);
                self.down(which);
                self.check();
            }
            assert!(self.messages - before < 5_000, "no end of messages");
        }
        self.messages - before
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn gateways_together_never_use_more_than_there_is_and_none_waits_beside_an_idle_slot(
        events in prop::collection::vec(event(), 1..200),
        cuts in any::<bool>(),
    ) {
        let mut world = World::new();
        for event in events.iter().filter(|event| cuts || !matches!(event, Event::Cut(..))) {
            world.happens(event);
            world.check();
        }
        // Whoever was cut off comes back. A load that stays comes to rest, and then nobody waits while another has slots to spare.
        world.see();
        for which in 0..world.edges.len() {
            world.happens(&Event::Back(which));
        }
        world.now += Duration::from_secs(2);
        world.tick();
        world.quiet();
        // Which of a gateway's slots are in use is known by its reports.
        world.report();
        world.quiet();
        world.check_stuck();
        // What a gateway gave up may lie idle beside it, and what is used twice is not all that there is for it.
        let twice = world.instances.keys().any(|instance| world.twice.contains(instance));
        let waits = !twice && world.edges.iter().any(|edge| !edge.barred && edge.machine.waiting() > 0);
        prop_assert!(!waits || world.idle_slots() == 0, "somebody waits, {} are idle", world.idle_slots());
        let rest = world.quiet();
        prop_assert_eq!(rest, 0);

        // However few slots there are, everybody is served in the end.
        world.happens(&Event::Join);
        world.happens(&Event::Instance(1));
        world.quiet();
        for _ in 0..3000 {
            if world.waiting() == 0 {
                break;
            }
            let now = world.now;
            for edge in world.edges.iter_mut().filter(|edge| !edge.calls.is_empty()) {
                edge.end(now, 0);
            }
            world.happens(&Event::Wait(60));
            world.quiet();
        }
        prop_assert_eq!(world.waiting(), 0, "somebody starves");
        world.report();
        world.quiet();
        prop_assert!(world.edges.iter().all(|edge| !edge.machine.is_scarce()), "nobody waits any more");

        // When no call ends any more, no instance stays that has no slot beside them.
        world.happens(&Event::Join);
        world.happens(&Event::Instance(4));
        for which in 0..world.edges.len() {
            world.happens(&Event::Requests(which, 4));
        }
        for _ in 0..4 {
            world.happens(&Event::Wait(60));
            world.quiet();
        }
        for which in 0..world.edges.len() {
            (0..world.edges[which].calls.len()).for_each(|call| world.edges[which].stuck(call));
        }
        world.quiet();
        world.check_stuck();
    }
}
