//! One gateway of the model: the real state machine, its calls, and its messages that are on their way.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::super::*;
use super::revision;
use crate::verdicts::{Action, Admission, Grant, Granted, Origin, Placement, Policy};
use crate::{Dispatch, Holding};

#[derive(Clone)]
pub(super) struct Call {
    pub(super) on: InstanceId,
    pub(super) grant: Grant,
    pub(super) stuck: bool,
}

pub(super) struct Edge {
    pub(super) id: GatewayId,
    pub(super) name: String,
    pub(super) machine: Dispatch<u32, InstanceId>,
    pub(super) holding: Holding,
    pub(super) calls: Vec<Call>,
    /// Instances for a single call on which one has begun, since it was asked.
    pub(super) spending: Vec<InstanceId>,
    /// It has no connection; what it would say waits.
    pub(super) cut: bool,
    pub(super) unsaid: Vec<ToScaler>,
    single_use: BTreeSet<InstanceId>,
    pub(super) up: VecDeque<ToScaler>,
    pub(super) down: VecDeque<ToGateway>,
    /// It has given an instance up, which it gets no more.
    pub(super) barred: bool,
}

impl Edge {
    pub(super) fn new(name: String, now: Instant) -> Self {
        let day = Duration::from_secs(86_400);
        let policy = Policy { queue_length: 10_000, queue: day, start: day };
        Self {
            id: GatewayId(0),
            name,
            machine: Dispatch::new(revision(), policy, now),
            holding: Holding::default(),
            calls: Vec::new(),
            spending: Vec::new(),
            cut: false,
            unsaid: Vec::new(),
            single_use: BTreeSet::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            barred: false,
        }
    }

    pub(super) fn say(&mut self, message: ToScaler) {
        if self.cut {
            return self.unsaid.push(message);
        }
        self.holding.on_gateway_said(&message);
        self.up.push_back(message);
    }

    pub(super) fn carry_out(&mut self, actions: Vec<Action<u32, InstanceId>>) {
        for action in actions {
            match action {
                Action::Forward { placement: Placement { instance, grant, .. }, .. } => {
                    self.begin(instance, grant);
                }
                Action::Tell(message) => self.say(message),
                other => panic!("{other:?}"),
            }
        }
        if let Some(wanted) = self.machine.take_wanted() {
            self.say(wanted);
        }
    }

    fn begin(&mut self, on: InstanceId, grant: Grant) {
        if self.single_use.contains(&on) {
            self.spending.push(on.clone());
        }
        self.calls.push(Call { on, grant, stuck: false });
    }

    pub(super) fn request(&mut self, now: Instant) {
        self.come(now, Origin::New);
    }

    fn come(&mut self, now: Instant, origin: Origin) {
        match self.machine.on_request(now, origin, |_| 0) {
            Admission::Forward(Placement { instance, grant, .. }) => {
                self.begin(instance, grant);
            }
            Admission::Enqueued { .. } => {}
            other => panic!("{other:?}"),
        }
        self.carry_out(Vec::new());
    }

    pub(super) fn end(&mut self, now: Instant, which: usize) {
        let Call { on, grant, stuck } = self.calls.remove(which);
        let mut actions = Vec::new();
        if stuck {
            self.machine.on_unstuck(&on, grant, &mut actions);
        }
        self.machine.on_slot_free(now, &on, grant, Some(Duration::from_millis(1)), &mut actions);
        self.carry_out(actions);
    }

    /// The instance has no room for a call that it had not begun.
    pub(super) fn refused(&mut self, now: Instant, which: usize) {
        if self.calls.get(which).is_none_or(|call| call.stuck) {
            return;
        }
        let Call { on, grant, .. } = self.calls.remove(which);
        let mut actions = Vec::new();
        assert!(self.machine.on_refused(now, &on, grant, &mut actions).is_some(), "it is known");
        self.carry_out(actions);
        self.come(now, Origin::Untaken { arrived: now, since: now });
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        let mut actions = Vec::new();
        self.machine.on_tick(now, &mut actions);
        self.carry_out(actions);
    }

    pub(super) fn stuck(&mut self, which: usize) {
        let Some(call) = self.calls.get_mut(which).filter(|call| !call.stuck) else { return };
        call.stuck = true;
        let mut actions = Vec::new();
        let alone = self.machine.on_stuck(&call.on, call.grant, &mut actions);
        assert!(!alone, "one of several gateways decides alone");
        self.carry_out(actions);
    }

    pub(super) fn stuck_on(&self, instance: &InstanceId) -> u32 {
        self.calls.iter().filter(|call| call.stuck && call.on == *instance).map(|_| 1).sum()
    }

    pub(super) fn hear(&mut self, now: Instant, message: ToGateway) {
        self.holding.on_gateway_told(&message);
        let mut actions = Vec::new();
        match message {
            ToGateway::Grant { endpoint, slots, .. } => {
                if endpoint.single_use {
                    self.single_use.insert(endpoint.instance.clone());
                }
                let granted = Granted {
                    instance: endpoint.instance.clone(),
                    endpoint: endpoint.instance,
                    slots,
                    single_use: endpoint.single_use,
                    start: endpoint.start,
                    start_time: Duration::ZERO,
                    reserved: false,
                };
                self.machine.on_grant(now, granted, &mut actions);
            }
            ToGateway::Share(share) => self.machine.on_share(now, share, &mut actions),
            ToGateway::Revoke { instance } => self.machine.on_revoke(now, &instance, &mut actions),
            ToGateway::Scarce { scarce, .. } => self.machine.on_scarce(scarce, &mut actions),
            ToGateway::Gone { instance, .. } => self.drop_instance(now, &instance),
            other => panic!("{other:?}"),
        }
        self.carry_out(actions);
    }

    /// Its calls there come again elsewhere.
    pub(super) fn drop_instance(&mut self, now: Instant, instance: &InstanceId) {
        self.machine.on_gone(now, instance);
        let again = self.calls.iter().filter(|call| call.on == *instance && !call.stuck).count();
        self.calls.retain(|call| call.on != *instance);
        (0..again).for_each(|_| self.request(now));
    }

    /// Slots that it uses, or may begin to use, of an instance.
    pub(super) fn uses(&self, instance: &InstanceId) -> u32 {
        let entry = self.machine.instances().find(|(id, ..)| *id == instance);
        entry.map_or(0, |(_, _, calls, slots)| calls.max(slots))
    }
}
