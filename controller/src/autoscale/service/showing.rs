//! What the service shows of itself: the snapshot that others read, and metrics.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_function::InstanceId;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Service;
use crate::autoscale::ladder::Rung;
use crate::autoscale::record::Over;
use crate::autoscale::snapshot::Snapshot;
use crate::pool::View;

impl Service {
    pub(super) fn show(&mut self) {
        // A thousand idle functions cost nothing here.
        for revision in std::mem::take(&mut self.stale) {
            let Some(record) = self.records.get(&revision) else { continue };
            self.metrics.count(
                record.target.template.as_ref(),
                record.starting(),
                record.ready(),
                record.leaving,
            );
            self.metrics.decided(record.target.template.as_ref(), record.desired, record.wanted);
            let view = record.view();
            if self.views.get(&revision).is_none_or(|shown| **shown != view) {
                self.views.insert(revision, Arc::new(view));
            }
        }
        self.metrics.lost_log_entries(self.logs.dropped());
        self.metrics.mishaps(self.pool.mishaps());
        let (instances, time): (Vec<_>, _) = (self.pool.views().collect(), Timestamp::now());
        let rungs: BTreeMap<InstanceId, Rung> =
            instances.iter().filter_map(|view| Some((view.id.clone(), self.rung(view, time)?))).collect();
        let held =
            instances.iter().filter_map(|view| Some((*rungs.get(&view.id)?, view.memory_bytes.unwrap_or(0))));
        self.metrics.ladder(held);
        let snapshot = Snapshot {
            restored: self.ladder.view(),
            rungs,
            instances,
            revisions: self.views.clone(),
            pools: self.prewarm.views(Instant::now()),
        };
        self.shown.send_replace(Arc::new(snapshot));
    }

    /// Says what came of trials that are over, and shows it before: whoever hears it looks at once.
    pub(super) fn tell_trials(&mut self) {
        if self.over.is_empty() {
            return;
        }
        self.show();
        self.over.drain(..).for_each(Over::tell);
    }

    /// On which rung of the ladder an instance stands.
    fn rung(&self, view: &View, time: Timestamp) -> Option<Rung> {
        let record = view.revision.as_ref().and_then(|revision| self.records.get(revision));
        let calls = record.and_then(|record| record.instances.get(&view.id)).map_or(0, |member| member.calls);
        let kept = record.is_some_and(|record| record.ready() <= record.reserved(time));
        Rung::of(&view.state, kept, calls)
    }
}
