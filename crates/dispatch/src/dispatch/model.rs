//! Random sequences of events against a model that only counts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::messages::StartKind;
use crate::verdicts::Placement;

#[derive(Debug, Clone)]
enum Event {
    Request,
    /// The oldest, or some, call that runs ends.
    Ends(usize),
    NeverSent(usize),
    Grant {
        instance: u8,
        slots: u32,
        single_use: bool,
    },
    Revoke(u8),
    Pause(u8, u64),
    Gone(u8),
    StartFailed(u64),
    Wait(u64),
    ClientGone(usize),
    Retire,
    Revive,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Request),
        8 => (0usize..16).prop_map(Event::Ends),
        1 => (0usize..16).prop_map(Event::NeverSent),
        4 => (0u8..6, 0u32..5, prop::bool::weighted(0.2))
            .prop_map(|(instance, slots, single_use)| Event::Grant { instance, slots, single_use }),
        2 => (0u8..6).prop_map(Event::Revoke),
        4 => (0u8..6, 0u64..2000).prop_map(|(instance, idle)| Event::Pause(instance, idle)),
        2 => (0u8..6).prop_map(Event::Gone),
        1 => (0u64..3000).prop_map(Event::StartFailed),
        3 => (0u64..4000).prop_map(Event::Wait),
        1 => (0usize..16).prop_map(Event::ClientGone),
        1 => Just(Event::Retire),
        1 => Just(Event::Revive),
    ]
}

#[derive(Default)]
struct Model {
    /// Calls that run, in the order they were forwarded: request and instance.
    running: Vec<(u32, u8)>,
    /// Requests that wait, oldest first.
    waiting: Vec<(u32, Ticket)>,
    /// Slots of the instances that take calls.
    slots: BTreeMap<u8, u32>,
    settled: BTreeSet<u32>,
    drained: u32,
    /// Instances that may be frozen.
    paused: BTreeSet<u8>,
}

impl Model {
    fn settle(&mut self, request: u32) {
        assert!(self.settled.insert(request), "request {request} got two verdicts");
    }

    /// Whoever gets a slot on an instance that may be frozen is told so, and nobody else.
    fn thaw(&mut self, placement: &Placement<u8>) {
        let paused = self.paused.remove(&placement.endpoint);
        assert_eq!(placement.start == StartKind::Paused, paused, "{placement:?}");
    }

    fn carry_out(&mut self, actions: Vec<Action<u32, u8>>) {
        for action in actions {
            match action {
                Action::Forward { waiter, placement } => {
                    assert_eq!(self.waiting.first().map(|(name, _)| *name), Some(waiter), "not in order");
                    self.waiting.remove(0);
                    self.settle(waiter);
                    self.thaw(&placement);
                    self.running.push((waiter, placement.endpoint));
                }
                Action::Reject { waiter, .. } | Action::Move { waiter } => {
                    assert_eq!(self.waiting.first().map(|(name, _)| *name), Some(waiter), "not in order");
                    self.waiting.remove(0);
                    self.settle(waiter);
                }
                Action::Tell(ToScaler::Drained { instance } | ToScaler::Spent { instance }) => {
                    let number: u8 = instance.as_str().trim_start_matches('i').parse().unwrap();
                    assert!(!self.running.iter().any(|(_, on)| *on == number), "ended too early");
                    self.slots.remove(&number);
                    self.paused.remove(&number);
                    self.drained += 1;
                }
                Action::Tell(ToScaler::Quiet { instance }) => {
                    let number: u8 = instance.as_str().trim_start_matches('i').parse().unwrap();
                    assert!(!self.running.iter().any(|(_, on)| *on == number), "frozen with a call");
                    self.paused.insert(number);
                }
                Action::Tell(ToScaler::InUse { .. }) => {}
                Action::Tell(other) => panic!("{other:?}"),
            }
        }
    }
}

fn name(instance: u8) -> InstanceId {
    InstanceId::parse(&format!("i{instance}")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn slots_are_conserved_and_nobody_waits_beside_a_free_one(events in prop::collection::vec(event(), 1..120)) {
        let start = Instant::now();
        let mut now = start;
        let policy =
            Policy { queue_length: 6, queue: Duration::from_secs(3), start: Duration::from_secs(5) };
        let mut machine: Dispatch<u32, u8> =
            Dispatch::new(RevisionId::parse("default/a-00001").unwrap(), policy, now);
        let mut model = Model::default();
        let mut requests = 0;
        for event in events {
            let mut actions = Vec::new();
            match event {
                Event::Request => {
                    requests += 1;
                    match machine.on_request(now, Origin::New, |_| requests) {
                        Admission::Forward(placement) => {
                            model.thaw(&placement);
                            model.settle(requests);
                            model.running.push((requests, placement.endpoint));
                        }
                        Admission::Enqueued { ticket, expires } => {
                            prop_assert!(expires > now);
                            model.waiting.push((requests, ticket));
                        }
                        Admission::Rejected(_) | Admission::Moved => model.settle(requests),
                    }
                    let wanted = machine.take_wanted();
                    prop_assert!(wanted.is_none() || !model.waiting.is_empty());
                }
                Event::Ends(which) | Event::NeverSent(which) if !model.running.is_empty() => {
                    let (_, on) = model.running.remove(which % model.running.len());
                    let served = matches!(event, Event::Ends(_)).then_some(Duration::from_millis(5));
                    machine.on_slot_free(now, &name(on), served, &mut actions);
                }
                Event::Grant { instance, slots, single_use } => {
                    let granted = Granted {
                        instance: name(instance),
                        endpoint: instance,
                        slots,
                        single_use,
                        start: StartKind::Cold,
                        start_time: Duration::ZERO,
                        reserved: false,
                    };
                    model.slots.insert(instance, slots);
                    machine.on_grant(now, granted, &mut actions);
                }
                Event::Revoke(instance) => {
                    machine.on_revoke(now, &name(instance), &mut actions);
                    model.slots.remove(&instance);
                }
                Event::Pause(instance, idle) => {
                    machine.on_pause(now, &name(instance), Duration::from_millis(idle), &mut actions);
                }
                Event::Gone(instance) => {
                    model.paused.remove(&instance);
                    machine.on_gone(now, &name(instance));
                    model.slots.remove(&instance);
                    model.running.retain(|(_, on)| *on != instance);
                }
                Event::StartFailed(ms) => {
                    let failure = StartFailure { code: String::new(), message: String::new(), last_lines: vec![] };
                    machine.on_start_failed(now, failure, Duration::from_millis(ms), &mut actions);
                }
                Event::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    machine.on_tick(now, &mut actions);
                }
                Event::ClientGone(which) if !model.waiting.is_empty() => {
                    let (request, ticket) = model.waiting.remove(which % model.waiting.len());
                    prop_assert_eq!(machine.on_client_gone(now, ticket), Some(request));
                    model.settle(request);
                }
                Event::Retire => machine.retire(now, &mut actions),
                Event::Revive => machine.revive(),
                Event::Ends(_) | Event::NeverSent(_) | Event::ClientGone(_) => {}
            }
            model.carry_out(actions);

            prop_assert_eq!(machine.in_flight() as usize, model.running.len(), "slots are conserved");
            prop_assert_eq!(machine.waiting(), model.waiting.len());
            prop_assert!(machine.waiting() <= policy.queue_length);
            for (instance, &endpoint, in_flight, slots) in machine.instances() {
                let running = model.running.iter().filter(|(_, on)| *on == endpoint).count();
                prop_assert_eq!(in_flight as usize, running, "{}", instance);
                if let Some(&granted) = model.slots.get(&endpoint) {
                    prop_assert_eq!(granted, slots);
                }
            }
            let free = machine.instances.iter().any(Instance::has_free_slot);
            prop_assert!(machine.waiting.is_empty() || !free, "somebody waits beside a free slot");
            for (_, ticket) in &model.waiting {
                let longest = policy.queue + policy.start;
                prop_assert!(machine.expires_at(*ticket).unwrap() <= now + longest);
            }
            machine.report(now);
        }
        // Nobody is forgotten: everybody has a verdict or waits.
        prop_assert_eq!(model.settled.len() + model.waiting.len(), requests as usize);
        // And all that wait are answered in the end.
        let mut actions = Vec::new();
        machine.on_tick(now + policy.queue + policy.start, &mut actions);
        model.carry_out(actions);
        prop_assert!(model.waiting.is_empty());
    }
}
