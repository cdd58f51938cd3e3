//! What a gateway holds, kept beside it by whoever carries its messages: what it says of itself when it meets another controller, or the
//! same again ([`Resume`]).

use std::collections::{BTreeMap, BTreeSet};

use hearth_function::{InstanceId, RevisionId};

use crate::messages::{Demand, Held, Resume, ToGateway, ToScaler};

/// See the module's page.
#[derive(Debug, Default)]
pub struct Holding {
    instances: BTreeMap<InstanceId, Part>,
    demand: BTreeMap<RevisionId, (u32, u32)>,
    /// For which it was told that others wait.
    scarce: BTreeSet<RevisionId>,
}

#[derive(Debug)]
struct Part {
    revision: RevisionId,
    /// It uses so many slots at most.
    slots: u32,
    /// Calls that do not end.
    stuck: u32,
    /// The last share.
    share: u32,
    serial: u64,
    draining: bool,
}

impl Holding {
    /// The gateway is told this now.
    pub fn on_gateway_told(&mut self, message: &ToGateway) {
        match message {
            ToGateway::Grant { revision, endpoint, slots } => {
                let part = self.instances.entry(endpoint.instance.clone()).or_insert_with(|| Part {
                    revision: revision.clone(),
                    slots: 0,
                    stuck: 0,
                    share: 0,
                    serial: 0,
                    draining: false,
                });
                (part.share, part.draining) = (*slots, false);
                part.slots = part.slots.max(*slots);
            }
            ToGateway::Share(share) => {
                if let Some(part) = self.instances.get_mut(&share.instance) {
                    (part.share, part.serial) = (share.slots, share.serial);
                    part.slots = part.slots.max(share.slots);
                }
            }
            ToGateway::Revoke { instance } => {
                if let Some(part) = self.instances.get_mut(instance) {
                    part.draining = true;
                }
            }
            ToGateway::Gone { instance, .. } => {
                self.instances.remove(instance);
            }
            ToGateway::Scarce { revision, scarce: true } => {
                self.scarce.insert(revision.clone());
            }
            ToGateway::Scarce { revision, scarce: false } => {
                self.scarce.remove(revision);
            }
            ToGateway::Pause { .. } | ToGateway::Wake { .. } | ToGateway::StartFailed { .. } => {}
        }
    }

    /// The gateway has said this.
    pub fn on_gateway_said(&mut self, message: &ToScaler) {
        match message {
            ToScaler::CapacityWanted { revision, waiting: 0, in_flight: 0 } => {
                self.demand.remove(revision);
            }
            ToScaler::CapacityWanted { revision, waiting, in_flight } => {
                self.demand.insert(revision.clone(), (*waiting, *in_flight));
            }
            ToScaler::Load(report) if report.waiting + report.in_flight == 0 => {
                self.demand.remove(&report.revision);
            }
            ToScaler::Load(report) => {
                self.demand.insert(report.revision.clone(), (report.waiting, report.in_flight));
            }
            ToScaler::Holds { instance, slots, stuck, serial } => {
                let Some(part) = self.instances.get_mut(instance) else { return };
                part.stuck = *stuck;
                if part.serial == *serial {
                    part.slots = (*slots).max(part.share);
                }
            }
            // One that was granted again since it was to be drained is known again.
            ToScaler::Drained { instance } => {
                if self.instances.get(instance).is_some_and(|part| part.draining) {
                    self.instances.remove(instance);
                }
            }
            ToScaler::Lost { instance, .. }
            | ToScaler::Unresponsive { instance }
            | ToScaler::Spent { instance } => {
                self.instances.remove(instance);
            }
            ToScaler::Quiet { .. }
            | ToScaler::InUse { .. }
            | ToScaler::Resumed { .. }
            | ToScaler::Orphaned { .. } => {}
        }
    }

    /// What a controller must know that the gateway meets now.
    #[must_use]
    pub fn resume(&self) -> Resume {
        let held = self.instances.iter().map(|(instance, part)| Held {
            instance: instance.clone(),
            revision: part.revision.clone(),
            slots: part.slots,
            stuck: part.stuck,
            draining: part.draining,
        });
        let demand = self.demand.iter().map(|(revision, (waiting, in_flight))| Demand {
            revision: revision.clone(),
            waiting: *waiting,
            in_flight: *in_flight,
        });
        Resume {
            held: held.collect(),
            demand: demand.collect(),
            scarce: self.scarce.iter().cloned().collect(),
        }
    }
}
