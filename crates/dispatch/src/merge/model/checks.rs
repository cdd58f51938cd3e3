//! What must hold in the model, and what is counted for it.

use super::*;

impl World {
    /// No instance is used beyond its slots (INV-18), and what is thought to be used is no less than what is. One for a single call begins no
    /// second one, whoever was cut off (INV-22).
    pub(super) fn check(&mut self) {
        for edge in &mut self.edges {
            for instance in std::mem::take(&mut edge.spending) {
                let first = !self.instances.contains_key(&instance) || self.spent.insert(instance.clone());
                assert!(first, "a second call on {instance}");
            }
        }
        for (instance, Granted { slots, single_use, .. }) in &self.instances {
            let uses: Vec<u32> = self.edges.iter().map(|edge| edge.uses(instance)).collect();
            let may = self.twice.contains(instance) && !single_use;
            assert!(
                may || uses.iter().sum::<u32>() <= *slots,
                "{instance} has {slots} slots; used: {uses:?}"
            );
        }
        for revision in self.merge.revisions.values() {
            for (instance, used, limit) in revision.shares.used() {
                let may = self.twice.contains(instance);
                assert!(may || used <= limit, "{instance}: {used} of {limit} are given out");
            }
        }
    }

    /// No instance stays that is of no use to anybody, but those that are to go (INV-20).
    pub(super) fn check_stuck(&self) {
        for (instance, Granted { slots, revoked, .. }) in &self.instances {
            let stuck = self.stuck_on(instance);
            assert!(*revoked || stuck < *slots, "{stuck} calls of {slots} on {instance} do not end");
        }
    }

    /// Calls that do not end on an instance.
    pub(super) fn stuck_on(&self, instance: &InstanceId) -> u32 {
        self.edges.iter().map(|edge| edge.stuck_on(instance)).sum()
    }

    pub(super) fn waiting(&self) -> usize {
        self.edges.iter().map(|edge| edge.machine.waiting()).sum()
    }

    pub(super) fn idle_slots(&self) -> u32 {
        let free = |edge: &Edge| {
            let open = edge
                .machine
                .instances()
                .filter(|(id, ..)| self.instances.get(*id).is_some_and(|granted| !granted.revoked));
            open.map(|(_, _, calls, slots)| slots.saturating_sub(calls)).sum::<u32>()
        };
        self.edges.iter().map(free).sum()
    }
}
