//! What is counted of instances.

use std::time::Duration;

use super::ladder::Rung;
use crate::label_set;
use crate::pool::{Mishaps, Phases, Template};
use crate::telemetry::metrics::{
    Counter, Counters, Gauges, Histograms, Label as _, Registry, RevisionCounters, RevisionGauges,
};

label_set! {
    /// What an instance does.
    pub(super) enum State("state") { Starting = "starting", Ready = "ready", Leaving = "leaving" }
}

label_set! {
    /// How a start ended.
    pub(super) enum Outcome("outcome") { Ready = "ready", Failed = "failed" }
}

label_set! {
    /// What the scaler decided last.
    pub(super) enum Decided("figure") { Desired = "desired", Wanted = "wanted" }
}

label_set! {
    /// What should not happen.
    pub(super) enum Mishap("mishap") { NotRemoved = "not_removed", Panic = "panic" }
}

label_set! {
    /// A limit that an instance meets without being killed.
    pub(super) enum Limit("limit") { Pids = "pids" }
}

label_set! {
    /// A part of a start.
    pub(super) enum Phase("phase") { Schedule = "schedule", Create = "create", Boot = "boot", Load = "load" }
}

/// From a thaw to a start from nothing that waits for a database.
const RESTORE_SECONDS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 2.5, 10.0];

/// From a start out of a pool to one that waits for a database.
const START_SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

#[derive(Debug)]
pub(super) struct Metrics {
    instances: RevisionGauges<State>,
    decided: RevisionGauges<Decided>,
    starts: RevisionCounters<Outcome>,
    start_seconds: Histograms<Phase>,
    ladder_instances: Gauges<Rung>,
    ladder_bytes: Gauges<Rung>,
    restore_seconds: Histograms<Rung>,
    refused: RevisionCounters<Limit>,
    lost_log_entries: Counter,
    mishaps: Counters<Mishap>,
}

impl Metrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            instances: registry.revision_gauges("hearth_instances", "Instances by what they do."),
            decided: registry.revision_gauges(
                "hearth_scaler_instances",
                "Decided last: instances that there should be (desired), starts that wait for their turn (wanted).",
            ),
            starts: registry.revision_counters("hearth_instance_starts_total", "Starts by how they ended."),
            start_seconds: registry.histograms(
                "hearth_instance_start_seconds",
                "Time of each part of a start that succeeded.",
                &START_SECONDS,
            ),
            ladder_instances: registry
                .gauges("hearth_ladder_instances", "Instances by the rung of the warmth ladder they stand on."),
            ladder_bytes: registry
                .gauges("hearth_ladder_held_bytes", "Memory that the instances of a rung hold, as last measured."),
            restore_seconds: registry.histograms(
                "hearth_ladder_restore_seconds",
                "Time to restore an instance from a rung: to Ready from built and pooled, to running from paused.",
                &RESTORE_SECONDS,
            ),
            refused: registry.revision_counters(
                "hearth_instance_refused_total",
                "What instances could not have because they stood at a limit: processes and threads (pids), as last measured.",
            ),
            lost_log_entries: registry.counter(
                "hearth_log_entries_lost_total",
                "Entries of function logs that were dropped because the disk was too slow.",
            ),
            mishaps: registry.counters(
                "hearth_instance_mishaps_total",
                "What should not happen to an instance: the backend could not take it away (it is asked again), its task panicked.",
            ),
        }
    }

    pub(super) fn came_up(&self, template: &Template, phases: &Phases) {
        self.starts.of(template.function(), template.revision()).inc(Outcome::Ready);
        for (phase, time) in [
            (Phase::Schedule, phases.schedule),
            (Phase::Create, phases.create),
            (Phase::Boot, phases.boot),
            (Phase::Load, phases.load),
        ] {
            self.start_seconds.get(phase).observe(time.as_secs_f64());
        }
    }

    pub(super) fn restored(&self, rung: Rung, took: Duration) {
        self.restore_seconds.get(rung).observe(took.as_secs_f64());
    }

    /// Instances on their rungs, each with what it holds in bytes.
    pub(super) fn ladder(&self, instances: impl Iterator<Item = (Rung, u64)>) {
        let mut sums = [(0, 0); Rung::ALL.len()];
        for (rung, bytes) in instances {
            if let Some((count, held)) = sums.get_mut(rung.index()) {
                *count += 1;
                *held += i64::try_from(bytes).unwrap_or(i64::MAX);
            }
        }
        for (&rung, (count, held)) in Rung::ALL.iter().zip(sums) {
            self.ladder_instances.get(rung).set(count);
            self.ladder_bytes.get(rung).set(held);
        }
    }

    pub(super) fn failed(&self, template: &Template) {
        self.starts.of(template.function(), template.revision()).inc(Outcome::Failed);
    }

    /// So much more was refused at the limit of processes and threads.
    pub(super) fn refused(&self, template: &Template, more: u64) {
        self.refused.of(template.function(), template.revision()).inc_by(Limit::Pids, more);
    }

    pub(super) fn count(&self, template: &Template, starting: u32, ready: u32, leaving: u32) {
        let gauges = self.instances.of(template.function(), template.revision());
        for (state, count) in [(State::Starting, starting), (State::Ready, ready), (State::Leaving, leaving)]
        {
            gauges.set(state, count.into());
        }
    }

    pub(super) fn decided(&self, template: &Template, desired: u32, wanted: u32) {
        let gauges = self.decided.of(template.function(), template.revision());
        gauges.set(Decided::Desired, desired.into());
        gauges.set(Decided::Wanted, wanted.into());
    }

    pub(super) fn remove(&self, template: &Template) {
        self.instances.remove(template.revision());
        self.decided.remove(template.revision());
        self.starts.remove(template.revision());
        self.refused.remove(template.revision());
    }

    /// `lost`: since the start.
    pub(super) fn lost_log_entries(&self, lost: u64) {
        self.lost_log_entries.inc_by(lost.saturating_sub(self.lost_log_entries.get()));
    }

    /// `mishaps`: since the start.
    pub(super) fn mishaps(&self, mishaps: Mishaps) {
        for (mishap, count) in [(Mishap::NotRemoved, mishaps.not_removed), (Mishap::Panic, mishaps.panics)] {
            let counter = self.mishaps.get(mishap);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}
