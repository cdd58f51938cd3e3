//! What the service decides for its Revisions, and whose turn it is to start.

use std::time::Duration;

use hearth_function::RevisionId;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Service;
use crate::autoscale::record::{Member, Record};

/// So many starts for each place may wait for what takes its time (an image), in all, without holding a place. More of them hold one again: what
/// begins is never without a bound.
const SLOW: u32 = 4;

impl Service {
    /// Decides for every Revision of which something was heard, puts out what is too much, and starts what is wanted, as far as turns go.
    pub(super) fn decide(&mut self, now: Instant) {
        self.stale.extend(self.dirty.iter().cloned());
        if self.shutdown.is_some() {
            return self.stop_spent();
        }
        let due = |record: &Record| record.recheck.is_some_and(|at| at <= now);
        let rechecked = self.records.iter().filter(|(_, record)| due(record)).map(|(id, _)| id.clone());
        self.dirty.extend(rechecked.collect::<Vec<_>>());
        for revision in std::mem::take(&mut self.dirty) {
            self.decide_for(&revision, now);
        }
        while let Some(revision) = self.next_to_start(now) {
            self.start(&revision, now);
            self.decide_for(&revision, now);
        }
        self.prewarm(now);
        if !self.spent.is_empty() && self.turns.leave_time(now) {
            self.stop_spent();
        }
    }

    fn decide_for(&mut self, revision: &RevisionId, now: Instant) {
        let (parallelism, time) = (self.config.parallelism, Timestamp::now());
        let Some(record) = self.records.get_mut(revision) else { return };
        let decision = record.decide(parallelism, now, time);
        let out = record.to_put_out(&decision, now);
        if record.wanted > 0 || !out.is_empty() {
            record.note_decision(&decision, now, time);
            tracing::debug!(%revision, %decision, "decided");
        }
        let why = decision.to_string();
        for instance in out {
            self.drain(&instance, &why);
        }
        self.tell_hindered(revision, now);
    }

    /// Whose turn it is: those that requests wait for, then those with the fewest starts under way, then who has waited longest. Those out
    /// of a pool have turns of their own, which are short. Starts that nobody waits for have a quarter of the turns, so that one that
    /// somebody begins to wait for finds a core. One that is slow holds no turn, up to a bound.
    fn next_to_start(&self, now: Instant) -> Option<RevisionId> {
        let starting = self.starting();
        let may = |record: &Record| {
            if self.has_spare(record) {
                self.turns.is_free(now)
            } else {
                starting < self.places(record) && !self.is_slow(record)
            }
        };
        self.records
            .iter()
            .filter(|(_, record)| record.wanted > 0 && may(record))
            .min_by_key(|(_, record)| (record.waiting == 0, record.starting(), record.wanted_since))
            .map(|(revision, _)| revision.clone())
    }

    /// How many of the turns a start of this Revision can have.
    fn places(&self, record: &Record) -> u32 {
        let all = self.config.parallelism.get();
        if record.waiting > 0 { all } else { (all / 4).max(1) }
    }

    /// Whether a Revision begins no others beside its slow starts: with those that may become slow they are as many as it may have turns.
    pub(super) fn is_slow(&self, record: &Record) -> bool {
        record.slow() > 0 && record.starting() >= self.places(record)
    }

    /// Starts that keep the machine, or the cluster, busy: not those that wait, within the bound of the slow ones.
    pub(super) fn starting(&self) -> u32 {
        let busy = |record: &Record| record.starting() - record.hindered() - record.slow();
        let slow: u32 = self.records.values().map(|record| record.slow()).sum();
        let over = slow.saturating_sub(self.config.parallelism.get().saturating_mul(SLOW));
        self.records.values().map(|record| busy(record)).sum::<u32>() + over
    }

    fn start(&mut self, revision: &RevisionId, now: Instant) {
        let Some(record) = self.records.get(revision) else { return };
        let waited = record.wanted_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        if self.specialise(revision, waited, now) {
            return;
        }
        let Some(record) = self.records.get_mut(revision) else { return };
        let instance = self.pool.start(&record.target.template, waited, record.waiting == 0);
        record.instances.insert(instance, Member::new(now));
        self.stale.insert(revision.clone());
    }
}
