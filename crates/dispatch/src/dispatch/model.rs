//! Random sequences of events against a model that only counts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::StartCode;
use crate::messages::StartKind;
use crate::verdicts::Placement;

#[derive(Debug, Clone)]
enum Event {
    Request,
    /// A call whose instance was lost, could not be reached or has refused it, comes again.
    Retry(usize),
    /// The oldest, or some, call that runs ends.
    Ends(usize),
    NeverSent(usize),
    /// The instance has no room for a call.
    Refused(usize),
    /// The instance of a call cannot be connected to.
    Unreached(usize),
    /// A call was given up long ago and has not ended.
    Stuck(usize),
    /// A call of an instance that is gone ends, when the instance may have been granted anew.
    EndsLate(usize),
    StuckLate(usize),
    Grant {
        instance: u8,
        slots: u32,
        single_use: bool,
    },
    Share {
        instance: u8,
        slots: u32,
    },
    Scarce(bool),
    Revoke(u8),
    Pause(u8, u64),
    Gone(u8),
    Doubt(u8),
    Trust(u8),
    StartFailed(u64),
    Wait(u64),
    ClientGone(usize),
    Retire,
    Revive,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Request),
        4 => (0usize..16).prop_map(Event::Retry),
        8 => (0usize..16).prop_map(Event::Ends),
        1 => (0usize..16).prop_map(Event::NeverSent),
        3 => (0usize..16).prop_map(Event::Refused),
        1 => (0usize..16).prop_map(Event::Unreached),
        1 => (0usize..16).prop_map(Event::Stuck),
        2 => (0usize..16).prop_map(Event::EndsLate),
        1 => (0usize..16).prop_map(Event::StuckLate),
        4 => (0u8..6, 0u32..5, prop::bool::weighted(0.2))
            .prop_map(|(instance, slots, single_use)| Event::Grant { instance, slots, single_use }),
        4 => (0u8..6, 0u32..5).prop_map(|(instance, slots)| Event::Share { instance, slots }),
        1 => any::<bool>().prop_map(Event::Scarce),
        2 => (0u8..6).prop_map(Event::Revoke),
        4 => (0u8..6, 0u64..2000).prop_map(|(instance, idle)| Event::Pause(instance, idle)),
        2 => (0u8..6).prop_map(Event::Gone),
        1 => (0u8..6).prop_map(Event::Doubt),
        2 => (0u8..6).prop_map(Event::Trust),
        1 => (0u64..3000).prop_map(Event::StartFailed),
        3 => (0u64..4000).prop_map(Event::Wait),
        3 => (0u64..40).prop_map(Event::Wait),
        1 => (0usize..16).prop_map(Event::ClientGone),
        1 => Just(Event::Retire),
        1 => Just(Event::Revive),
    ]
}

/// A call that runs, or ran on an instance that is gone.
#[derive(Debug, Clone, Copy)]
struct Run {
    on: u8,
    grant: Grant,
    came: Instant,
    /// Since when no instance takes it.
    since: Option<Instant>,
    stuck: bool,
}

#[derive(Debug, Clone, Copy)]
struct Waits {
    request: u32,
    ticket: Ticket,
    came: Instant,
    retried: bool,
    since: Option<Instant>,
}

#[derive(Default)]
struct Model {
    /// Calls that run, in the order they were forwarded.
    running: Vec<Run>,
    /// Calls of instances that are gone, which have not ended.
    lost: Vec<Run>,
    /// Those that may come again.
    retries: Vec<Origin>,
    /// Requests that wait, oldest first.
    waiting: Vec<Waits>,
    /// Slots of the instances that take calls.
    slots: BTreeMap<u8, u32>,
    settled: BTreeSet<u32>,
    /// Every attempt is a request of its own here.
    requests: u32,
    /// Instances that may be frozen.
    paused: BTreeSet<u8>,
    /// Where there are shares, slots that are used at most as was said last.
    held: BTreeMap<u8, u32>,
    /// Until when instances get no calls that have refused one, unless something happens before.
    closed: BTreeMap<u8, Instant>,
    /// Shares so far: their numbers.
    shares: u64,
}

impl Model {
    fn settle(&mut self, request: u32) {
        assert!(self.settled.insert(request), "request {request} got two verdicts");
    }

    /// Whoever gets a slot on an instance that may be frozen is told so, and nobody else.
    fn runs(&mut self, placement: &Placement<u8>, came: Instant, since: Option<Instant>) {
        assert!(!self.closed.contains_key(&placement.endpoint), "it has just refused one");
        let paused = self.paused.remove(&placement.endpoint);
        assert_eq!(placement.start == StartKind::Paused, paused, "{placement:?}");
        let Placement { grant, endpoint, .. } = *placement;
        self.running.push(Run { on: endpoint, grant, came, since, stuck: false });
    }

    fn waits(&mut self, request: Waits) {
        let at = self.waiting.partition_point(|other| other.came <= request.came);
        self.waiting.insert(at, request);
    }

    fn admitted(&mut self, admission: Admission<u8>, now: Instant, origin: Origin) {
        let request = self.requests;
        let (came, retried, since) = match origin {
            Origin::New => (now, false, None),
            Origin::Retry(came) => (came, true, None),
            Origin::Untaken { arrived, since } => (arrived, true, Some(since)),
        };
        match admission {
            Admission::Forward(placement) => {
                self.settle(request);
                self.runs(&placement, came, since);
            }
            Admission::Enqueued { ticket, expires } => {
                assert!(expires > now, "it has time to wait");
                self.waits(Waits { request, ticket, came, retried, since });
            }
            Admission::Rejected(_) | Admission::Moved => self.settle(request),
        }
    }

    /// The instance is gone, and its calls may come again.
    fn gone(&mut self, instance: u8) {
        self.paused.remove(&instance);
        self.held.remove(&instance);
        self.slots.remove(&instance);
        self.closed.remove(&instance);
        let (lost, run): (Vec<Run>, Vec<Run>) = self.running.iter().partition(|run| run.on == instance);
        self.running = run;
        self.retries.extend(lost.iter().map(|run| Origin::Retry(run.came)));
        self.lost.extend(lost);
    }

    fn carry_out(&mut self, actions: Vec<Action<u32, u8>>) {
        for action in actions {
            match action {
                Action::Forward { waiter, placement } => {
                    let first = self.waiting.remove(0);
                    assert_eq!(first.request, waiter, "not in order");
                    self.settle(waiter);
                    self.runs(&placement, first.came, first.since);
                }
                Action::Reject { waiter, .. } | Action::Move { waiter } => {
                    let at = self.waiting.iter().position(|waits| waits.request == waiter);
                    self.waiting.remove(at.expect("only who waits is refused or moved"));
                    self.settle(waiter);
                }
                Action::Tell(ToScaler::Drained { instance } | ToScaler::Spent { instance }) => {
                    let number: u8 = instance.as_str().trim_start_matches('i').parse().unwrap();
                    assert!(!self.running.iter().any(|run| run.on == number), "ended too early");
                    self.slots.remove(&number);
                    self.paused.remove(&number);
                    self.held.remove(&number);
                    self.closed.remove(&number);
                }
                Action::Tell(ToScaler::Quiet { instance }) => {
                    let number: u8 = instance.as_str().trim_start_matches('i').parse().unwrap();
                    assert!(!self.running.iter().any(|run| run.on == number), "frozen with a call");
                    self.paused.insert(number);
                }
                Action::Tell(ToScaler::InUse { .. }) => {}
                Action::Tell(ToScaler::CapacityWanted { waiting, .. }) => {
                    assert_eq!(waiting, 0, "somebody waits beside a slot that lies idle");
                }
                Action::Tell(ToScaler::Holds { instance, slots, .. }) => {
                    let number: u8 = instance.as_str().trim_start_matches('i').parse().unwrap();
                    self.held.insert(number, slots);
                }
                Action::Tell(other) => panic!("{other:?}"),
            }
        }
    }
}

fn name(instance: u8) -> InstanceId {
    InstanceId::parse(&format!("i{instance}")).unwrap()
}

/// One of them, if there are any.
fn some<T>(list: &[T], which: usize) -> Option<usize> {
    (!list.is_empty()).then(|| which % list.len())
}

type Machine = Dispatch<u32, u8>;

/// Lets `event` happen to both.
fn happens(machine: &mut Machine, model: &mut Model, now: &mut Instant, event: &Event) {
    let mut actions = Vec::new();
    match *event {
        Event::Request => {
            model.requests += 1;
            let admission = machine.on_request(*now, Origin::New, |_| model.requests);
            model.admitted(admission, *now, Origin::New);
            let wanted = machine.take_wanted();
            assert!(wanted.is_none() || !model.waiting.is_empty());
        }
        Event::Retry(which) => {
            let Some(which) = some(&model.retries, which) else { return };
            let origin = model.retries.remove(which);
            model.requests += 1;
            let admission = machine.on_request(*now, origin, |_| model.requests);
            model.admitted(admission, *now, origin);
        }
        Event::Ends(which) | Event::NeverSent(which) => {
            let Some(which) = some(&model.running, which) else { return };
            let run = model.running.remove(which);
            if run.stuck {
                machine.on_unstuck(&name(run.on), run.grant, &mut actions);
            }
            let served = matches!(event, Event::Ends(_)).then_some(Duration::from_millis(5));
            if served.is_some() {
                model.closed.remove(&run.on);
            }
            machine.on_slot_free(*now, &name(run.on), run.grant, served, &mut actions);
        }
        Event::Refused(which) => {
            let Some(which) = some(&model.running, which) else { return };
            let run = model.running.remove(which);
            if run.stuck {
                machine.on_unstuck(&name(run.on), run.grant, &mut actions);
            }
            let opens = machine.on_refused(*now, &name(run.on), run.grant, &mut actions);
            model.closed.insert(run.on, opens.expect("what runs there has its slot of it"));
            let since = run.since.unwrap_or(*now);
            model.retries.push(Origin::Untaken { arrived: run.came, since });
        }
        Event::Unreached(which) => {
            let Some(which) = some(&model.running, which).filter(|which| !model.running[*which].stuck) else {
                return;
            };
            let run = model.running.remove(which);
            machine.on_gone(*now, &name(run.on));
            model.gone(run.on);
            machine.on_slot_free(*now, &name(run.on), run.grant, None, &mut actions);
            assert!(actions.is_empty(), "its slot went with it: {actions:?}");
            let since = run.since.unwrap_or(*now);
            model.retries.push(Origin::Untaken { arrived: run.came, since });
        }
        Event::Stuck(which) => {
            let Some(which) = some(&model.running, which) else { return };
            if model.running[which].stuck {
                return;
            }
            model.running[which].stuck = true;
            let run = model.running[which];
            let stuck = model.running.iter().filter(|other| other.on == run.on && other.stuck).count();
            let entry = machine.instances.iter().find(|entry| entry.granted.endpoint == run.on);
            let (slots, shared) =
                entry.map_or((0, false), |entry| (entry.granted.slots, entry.share.is_some()));
            let hopeless = machine.on_stuck(&name(run.on), run.grant, &mut actions);
            assert_eq!(hopeless, !shared && stuck >= slots.max(1) as usize, "{stuck} stuck of {slots}");
            let said = |action: &Action<_, _>| matches!(action, Action::Tell(ToScaler::Holds { stuck: said, .. }) if *said as usize == stuck);
            assert_eq!(actions.iter().any(said), shared, "{actions:?}");
        }
        Event::EndsLate(which) => {
            let Some(which) = some(&model.lost, which) else { return };
            let run = model.lost.remove(which);
            if run.stuck {
                machine.on_unstuck(&name(run.on), run.grant, &mut actions);
            }
            machine.on_slot_free(*now, &name(run.on), run.grant, Some(Duration::ZERO), &mut actions);
            assert!(actions.is_empty(), "it concerns nobody: {actions:?}");
        }
        Event::StuckLate(which) => {
            let Some(which) = some(&model.lost, which) else { return };
            let run = &mut model.lost[which];
            run.stuck = true;
            let hopeless = machine.on_stuck(&name(run.on), run.grant, &mut actions);
            assert!(!hopeless && actions.is_empty(), "it is another instance by now: {actions:?}");
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
            model.held.remove(&instance);
            model.closed.remove(&instance);
            machine.on_grant(*now, granted, &mut actions);
        }
        Event::Share { instance, slots } => {
            model.shares += 1;
            model.closed.remove(&instance);
            if let Some(known) = model.slots.get_mut(&instance) {
                *known = slots;
            }
            let share = Share { instance: name(instance), slots, of: 5, serial: model.shares };
            machine.on_share(*now, share, &mut actions);
            let told = |action: &Action<u32, u8>| matches!(action, Action::Tell(ToScaler::Holds { serial, .. }) if *serial == model.shares);
            assert!(actions.first().is_some_and(told), "a share is answered at once: {actions:?}");
        }
        Event::Scarce(scarce) => machine.on_scarce(scarce, &mut actions),
        Event::Revoke(instance) => {
            machine.on_revoke(*now, &name(instance), &mut actions);
            model.slots.remove(&instance);
        }
        Event::Pause(instance, idle) => {
            machine.on_pause(*now, &name(instance), Duration::from_millis(idle), &mut actions);
        }
        Event::Gone(instance) => {
            machine.on_gone(*now, &name(instance));
            model.gone(instance);
        }
        Event::Doubt(instance) => machine.on_doubt(&name(instance)),
        Event::Trust(instance) => machine.on_trust(*now, &name(instance), &mut actions),
        Event::StartFailed(ms) => {
            let failure =
                StartFailure { code: StartCode::LoadFailed, message: String::new(), last_lines: vec![] };
            machine.on_start_failed(*now, failure, Duration::from_millis(ms), &mut actions);
        }
        Event::Wait(ms) => {
            *now += Duration::from_millis(ms);
            model.closed.retain(|_, until| *until > *now);
            machine.on_tick(*now, &mut actions);
        }
        Event::ClientGone(which) => {
            let Some(which) = some(&model.waiting, which) else { return };
            let Waits { request, ticket, .. } = model.waiting.remove(which);
            assert_eq!(machine.on_client_gone(*now, ticket), Some(request));
            model.settle(request);
        }
        Event::Retire => machine.retire(*now, &mut actions),
        Event::Revive => machine.revive(),
    }
    model.carry_out(actions);
}

fn agree(machine: &Machine, model: &Model, policy: &Policy, now: Instant) {
    assert_eq!(machine.in_flight() as usize, model.running.len(), "slots are conserved");
    assert_eq!(machine.waiting(), model.waiting.len());
    let new = model.waiting.iter().filter(|waits| !waits.retried).count();
    assert!(new <= policy.queue_length, "retried ones come on top");
    for (instance, &endpoint, in_flight, slots) in machine.instances() {
        let running = model.running.iter().filter(|run| run.on == endpoint).count();
        assert_eq!(in_flight as usize, running, "{instance}");
        if let Some(&granted) = model.slots.get(&endpoint) {
            assert_eq!(granted, slots);
        }
    }
    for entry in &machine.instances {
        let on = entry.granted.endpoint;
        let stuck = model.running.iter().filter(|run| run.on == on && run.stuck).count();
        assert_eq!(entry.stuck as usize, stuck, "stuck on {}", entry.granted.instance);
    }
    for (instance, held) in &model.held {
        let running = model.running.iter().filter(|run| run.on == *instance).count();
        assert!(running <= *held as usize, "more run on i{instance} than was said");
    }
    let closed: BTreeSet<u8> = machine
        .instances
        .iter()
        .filter(|entry| entry.is_closed())
        .map(|entry| entry.granted.endpoint)
        .collect();
    assert!(closed.iter().all(|instance| model.closed.contains_key(instance)), "nobody would open it");
    let free = machine.instances.iter().any(Instance::has_free_slot);
    assert!(machine.waiting.is_empty() || !free, "somebody waits beside a free slot");
    for waits in &model.waiting {
        let longest = policy.queue + policy.start;
        assert!(machine.expires_at(waits.ticket).unwrap() <= now + longest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn slots_are_conserved_and_nobody_waits_beside_a_free_one(events in prop::collection::vec(event(), 1..120)) {
        let mut now = Instant::now();
        let policy =
            Policy { queue_length: 6, queue: Duration::from_secs(3), start: Duration::from_secs(5) };
        let mut machine = Machine::new(RevisionId::parse("default/a-00001").unwrap(), policy, now);
        let mut model = Model::default();
        for event in events {
            happens(&mut machine, &mut model, &mut now, &event);
            agree(&machine, &model, &policy, now);
            if matches!(event, Event::Wait(_)) {
                let overdue = |waits: &Waits| machine.expires_at(waits.ticket).unwrap() <= now;
                prop_assert!(!model.waiting.iter().any(overdue), "somebody waits beyond his time");
            }
            machine.report(now);
        }
        // Nobody is forgotten: everybody has a verdict or waits.
        prop_assert_eq!(model.settled.len() + model.waiting.len(), model.requests as usize);
        // And all that wait are answered in the end.
        let mut actions = Vec::new();
        model.closed.clear();
        machine.on_tick(now + policy.queue + policy.start, &mut actions);
        model.carry_out(actions);
        prop_assert!(model.waiting.is_empty());
    }
}
