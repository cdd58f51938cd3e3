//! What the scaler is told: wishes, load, and slots that lie idle while others wait.

use std::time::Instant;

use super::{Dispatch, Instance, count};
use crate::messages::{LoadReport, ToScaler};
use crate::verdicts::Action;

impl<W, E: Clone> Dispatch<W, E> {
    /// What the scaler must be told at once: the queue has grown since it last heard, or is new.
    pub fn take_wanted(&mut self) -> Option<ToScaler> {
        if self.waiting.len() <= self.told {
            return None;
        }
        self.told = self.waiting.len();
        Some(ToScaler::CapacityWanted {
            revision: self.revision.clone(),
            waiting: count(self.waiting.len()),
            in_flight: self.in_flight,
        })
    }

    /// The load since the last report; `None` when it was idle and the last report said so.
    pub fn report(&mut self, now: Instant) -> Option<LoadReport> {
        let period = self.meter.take(now)?;
        Some(LoadReport {
            revision: self.revision.clone(),
            in_flight: self.in_flight,
            waiting: count(self.waiting.len()),
            over: period.over,
            average_concurrency: period.average,
            busy: self
                .instances
                .iter()
                .filter(|entry| entry.in_flight > 0)
                .map(|entry| (entry.granted.instance.clone(), entry.in_flight))
                .collect(),
            completed: period.completed,
            arrived: period.arrived,
            service_time: period.service_time,
            refused: period.refused,
        })
    }

    /// At other gateways requests wait, or none do any more: until then the scaler is told at once of slots that lie idle here.
    pub fn on_scarce(&mut self, scarce: bool, actions: &mut Vec<Action<W, E>>) {
        self.scarce = scarce;
        self.spare(actions);
    }

    #[cfg(test)]
    pub(crate) fn is_scarce(&self) -> bool {
        self.scarce
    }

    pub(super) fn spare(&self, actions: &mut Vec<Action<W, E>>) {
        if self.scarce && self.instances.iter().any(Instance::has_free_slot) {
            let (revision, waiting) = (self.revision.clone(), count(self.waiting.len()));
            let in_flight = self.in_flight;
            actions.push(Action::Tell(ToScaler::CapacityWanted { revision, waiting, in_flight }));
        }
    }
}
