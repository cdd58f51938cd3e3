//! Several gateways (the real state machine of each), what makes one of them, and messages that take their time: random events, and what
//! must hold whatever happens.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::messages::{EndpointAddress, Forwarding};
use edge::{Call, Edge};

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
    Revoke(usize),
    Gone(usize),
    GivesUp(usize, usize),
    Join,
    Dies(usize),
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
        1 => (0usize..8).prop_map(Event::Revoke),
        1 => (0usize..8).prop_map(Event::Gone),
        1 => (gateway.clone(), 0usize..8).prop_map(|(gateway, which)| Event::GivesUp(gateway, which)),
        2 => Just(Event::Join),
        1 => gateway.prop_map(Event::Dies),
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
    /// What the scaler has granted and not heard the end of: slots, and whether it has taken it back.
    instances: BTreeMap<InstanceId, (u32, bool)>,
    /// Instances on which a stuck call has ended after all, or gone with its gateway: what was said of those may be of before.
    recovered: BTreeSet<InstanceId>,
    names: u32,
    gateways: u64,
    messages: usize,
}

fn revision() -> RevisionId {
    RevisionId::parse("default/a-00001").unwrap()
}

fn some<T>(list: &[T], which: usize) -> Option<usize> {
    (!list.is_empty()).then(|| which % list.len())
}

fn granted(instance: &InstanceId, slots: u32, start: StartKind) -> ToGateway {
    let endpoint = Endpoint {
        instance: instance.clone(),
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

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            now,
            merge: Merge::new(now, Duration::ZERO, 0),
            edges: Vec::new(),
            instances: BTreeMap::new(),
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
            let edge = self.edges.iter_mut().find(|edge| edge.id == id);
            edge.expect("only those that are there are spoken to").down.push_back(message);
        }
        for message in out.up {
            match message {
                ToScaler::Drained { instance } => {
                    let (_, revoked) = self.instances.remove(&instance).expect("drained once");
                    assert!(revoked, "drained without having been told");
                    assert!(self.edges.iter().all(|edge| edge.calls.iter().all(|call| call.on != instance)));
                }
                ToScaler::Lost { instance, .. } => self.gone(instance),
                ToScaler::Unresponsive { instance } => {
                    let slots = self.instances.get(&instance).map_or(0, |(slots, _)| *slots);
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
        let Some(edge) = self.edges.get_mut(which) else { return };
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
        self.does(|merge, now, out| merge.join(now, id, resume, out));
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
                self.edges[which].refused(now, call);
            }
            Event::Stuck(which, call) => {
                let Some(which) = some(&self.edges, which) else { return };
                let Some(call) = some(&self.edges[which].calls, call) else { return };
                self.edges[which].stuck(call);
            }
            Event::Up(which) => self.up(which),
            Event::Down(which) => self.down(which),
            Event::Instance(slots) => {
                self.names += 1;
                let instance = InstanceId::parse(&format!("i{}", self.names)).unwrap();
                self.instances.insert(instance.clone(), (slots, false));
                let grant = granted(&instance, slots, StartKind::Cold);
                self.does(|merge, now, out| merge.on_scaler(now, grant, out));
            }
            Event::Revoke(which) => {
                let Some((instance, entry)) = self.instances.iter_mut().nth(which) else { return };
                entry.1 = true;
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
                self.edges.push(Edge::new(GatewayId(0), now));
                self.join(self.edges.len() - 1);
            }
            Event::Join => {}
            Event::Dies(which) => {
                let Some(which) = some(&self.edges, which) else { return };
                let edge = self.edges.remove(which);
                self.recovered.extend(edge.calls.into_iter().map(|call| call.on));
                let id = edge.id;
                self.does(|merge, now, out| merge.leave(now, id, out));
            }
            Event::Restart => {
                self.merge = Merge::new(
                    now,
                    Duration::from_secs(1),
                    self.messages as u64 + 1_000_000 * u64::from(self.names + 1),
                );
                // What was to go serves on: the next controller decides for itself. It hears of some before the gateways come.
                self.instances.values_mut().for_each(|(_, revoked)| *revoked = false);
                let all: Vec<(InstanceId, u32)> =
                    self.instances.iter().map(|(id, (slots, _))| (id.clone(), *slots)).collect();
                let grant = |world: &mut Self, (instance, slots): &(InstanceId, u32)| {
                    let grant = granted(instance, *slots, StartKind::Warm);
                    world.does(|merge, now, out| merge.on_scaler(now, grant, out));
                };
                let (before, after) = all.split_at(all.len() / 2);
                before.iter().for_each(|one| grant(self, one));
                (0..self.edges.len()).for_each(|which| self.join(which));
                after.iter().for_each(|one| grant(self, one));
            }
            Event::Report => self.report(),
            Event::Wait(ms) => {
                self.now += Duration::from_millis(ms);
                self.tick();
            }
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

    /// No instance is used beyond its slots (INV-18), and what is thought to be used is no less than what is.
    fn check(&self) {
        for (instance, (limit, _)) in &self.instances {
            let uses: Vec<u32> = self.edges.iter().map(|edge| edge.uses(instance)).collect();
            assert!(uses.iter().sum::<u32>() <= *limit, "{instance} has {limit} slots; used: {uses:?}");
        }
        for revision in self.merge.revisions.values() {
            for (instance, used, limit) in revision.shares.used() {
                assert!(used <= limit, "{instance}: {used} of {limit} are given out");
            }
        }
    }

    /// No instance stays that is of no use to anybody, but those that are to go (INV-20).
    fn check_stuck(&self) {
        for (instance, (slots, revoked)) in &self.instances {
            let stuck = self.stuck_on(instance);
            assert!(*revoked || stuck < *slots, "{stuck} calls of {slots} on {instance} do not end");
        }
    }

    /// Lets every message arrive. How many there were: it must come to an end.
    fn quiet(&mut self) -> usize {
        let before = self.messages;
        while self.edges.iter().any(|edge| !edge.up.is_empty() || !edge.down.is_empty()) {
            for which in 0..self.edges.len() {
                self.up(which);
                self.down(which);
                self.check();
            }
            assert!(self.messages - before < 5_000, "no end of messages");
        }
        self.messages - before
    }

    /// Calls that do not end on an instance.
    fn stuck_on(&self, instance: &InstanceId) -> u32 {
        self.edges.iter().map(|edge| edge.stuck_on(instance)).sum()
    }

    fn waiting(&self) -> usize {
        self.edges.iter().map(|edge| edge.machine.waiting()).sum()
    }

    fn idle_slots(&self) -> u32 {
        let free = |edge: &Edge| {
            let open = edge
                .machine
                .instances()
                .filter(|(id, ..)| self.instances.get(*id).is_some_and(|(_, revoked)| !revoked));
            open.map(|(_, _, calls, slots)| slots.saturating_sub(calls)).sum::<u32>()
        };
        self.edges.iter().map(free).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn gateways_together_never_use_more_than_there_is_and_none_waits_beside_an_idle_slot(
        events in prop::collection::vec(event(), 1..200),
    ) {
        let mut world = World::new();
        for event in &events {
            world.happens(event);
            world.check();
        }
        // A load that stays comes to rest, and then nobody waits while another has slots to spare.
        world.now += Duration::from_secs(2);
        world.tick();
        world.quiet();
        // Which of a gateway's slots are in use is known by its reports.
        world.report();
        world.quiet();
        world.check_stuck();
        // What a gateway gave up may lie idle beside it.
        let waits = world.edges.iter().any(|edge| !edge.barred && edge.machine.waiting() > 0);
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
