//! What the service does about pools: gives pooled instances to functions, and has enough of them.

use std::time::Duration;

use hearth_function::{InstanceId, RevisionId};
use hearth_scaler::Reach;
use tokio::time::Instant;

use super::Service;
use crate::autoscale::record::{Member, Record};
use crate::pool::{self, Phases, STOP_GRACE};

impl Service {
    /// Whether a start of this Revision can be had from a pool. Only one that a request waits for may: what starts ahead of its need has
    /// the time to begin from nothing, and would take the pool from those that have not.
    pub(super) fn has_spare(&self, record: &Record) -> bool {
        record.waiting > 0 && record.target.template.class().is_some_and(|class| self.prewarm.has(class))
    }

    /// Makes a pooled instance one of this Revision's. `false`: there is none.
    pub(super) fn specialise(&mut self, revision: &RevisionId, waited: Duration, now: Instant) -> bool {
        let Some(record) = self.records.get_mut(revision) else { return false };
        let template = record.target.template.clone();
        let Some(class) = template.class().filter(|_| record.waiting > 0) else { return false };
        // One that has just ended is gone from the pool when its end is heard of.
        while let Some(instance) = self.prewarm.take(class, now) {
            if self.pool.assign(&instance, &template, waited) {
                self.turns.take(instance.clone(), now);
                record.instances.insert(instance, Member::new(now));
                return true;
            }
        }
        false
    }

    /// Stops pooled instances that are too many, and starts some that are missing. Starts that requests wait for come first: for those that
    /// are wanted or begin from nothing, pools leave the cores; not for those that wait for slow ones of their own.
    pub(super) fn prewarm(&mut self, now: Instant) {
        let lives = |record: &Record| record.target.reach != Reach::Retired && record.removing.is_none();
        let living = self.records.values().filter(|record| lives(record));
        let classes = living.filter_map(|record| record.target.template.class());
        self.prewarm.functions_have(classes, now);
        for instance in self.prewarm.surplus(now) {
            self.prewarm.lost(&instance);
            self.pool.stop(&instance, "it is not needed in its pool any more", STOP_GRACE);
        }
        let comes_first = |record: &Record| record.wanted > 0 && !self.is_slow(record);
        if self.records.values().any(|record| comes_first(record)) || !self.turns.leave_time(now) {
            return;
        }
        while self.starting() + self.prewarm.starting() < self.config.cores() {
            let Some(class) = self.prewarm.next(now) else { break };
            let instance = self.pool.start_pooled(&class);
            self.prewarm.began(&class, instance, now);
        }
    }

    /// Stops ephemeral instances that have had their call.
    pub(super) fn stop_spent(&mut self) {
        for instance in std::mem::take(&mut self.spent) {
            self.pool.stop(&instance, "it has served its call", STOP_GRACE);
        }
    }

    pub(super) fn note_pooled(
        &mut self,
        instance: &InstanceId,
        phases: &Phases,
        memory_bytes: u64,
        now: Instant,
    ) {
        tracing::debug!(%instance, took = ?phases.total(), memory_bytes, "instance pooled");
        self.prewarm.pooled(instance, memory_bytes, now);
    }

    pub(super) fn note_pooling_failed(
        &mut self,
        instance: &InstanceId,
        failure: &pool::Failure,
        now: Instant,
    ) {
        let message = &failure.told.message;
        tracing::warn!(%instance, code = %failure.told.code, message, "an instance for a pool did not come up");
        self.prewarm.failed(instance, now);
    }
}
