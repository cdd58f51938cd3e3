//! Instances that have ended, that do not answer, or whose calls do not end.

use std::time::Instant;

use hearth_function::InstanceId;

use super::Dispatch;
use crate::verdicts::{Action, Grant};

impl<W, E: Clone> Dispatch<W, E> {
    /// The instance has ended, or cannot be reached: its slots are gone, those in use too. Returns how to reach it, if it was known.
    /// The calls that ran there come back by `on_request` if they may run again.
    pub fn on_gone(&mut self, now: Instant, instance: &InstanceId) -> Option<E> {
        let index = self.position(instance)?;
        let entry = self.remove(now, index);
        self.in_flight = self.in_flight.saturating_sub(entry.in_flight);
        self.meter.set(now, self.level());
        Some(entry.granted.endpoint)
    }

    /// A call on `instance` was given up long ago and the instance has not said that it ended. Returns `true` when no slot is left that is
    /// not held so: the instance is of no use any more. One that several gateways share is judged over all of them (INV-20): this one says
    /// what it knows.
    pub fn on_stuck(&mut self, instance: &InstanceId, grant: Grant, actions: &mut Vec<Action<W, E>>) -> bool {
        let Some(entry) = self.granted(instance, grant) else { return false };
        entry.stuck += 1;
        match entry.holds() {
            Some(holds) => {
                actions.push(Action::Tell(holds));
                false
            }
            None => entry.stuck >= entry.granted.slots.max(1),
        }
    }

    /// A call that was stuck has ended after all.
    pub fn on_unstuck(&mut self, instance: &InstanceId, grant: Grant, actions: &mut Vec<Action<W, E>>) {
        if let Some(entry) = self.granted(instance, grant) {
            entry.stuck = entry.stuck.saturating_sub(1);
            actions.extend(entry.holds().map(Action::Tell));
        }
    }

    /// It is not certain that the instance still does anything: until that is cleared up it gets no new calls, which would only share the
    /// fate of those that made it doubtful.
    pub fn on_doubt(&mut self, instance: &InstanceId) {
        self.set_doubted(instance, true);
    }

    /// The instance has answered.
    pub fn on_trust(&mut self, now: Instant, instance: &InstanceId, actions: &mut Vec<Action<W, E>>) {
        self.set_doubted(instance, false);
        self.feed(now, actions);
        self.spare(actions);
    }

    fn set_doubted(&mut self, instance: &InstanceId, doubted: bool) {
        if let Some(entry) = self.instances.iter_mut().find(|entry| entry.granted.instance == *instance) {
            entry.doubted = doubted;
        }
    }
}
