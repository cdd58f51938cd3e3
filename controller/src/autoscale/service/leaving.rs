//! Instances that something outside takes away: Kubernetes drains a node, somebody deletes a Pod, or ends a process by SIGTERM.

use std::time::Duration;

use hearth_function::InstanceId;
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Service, holder};
use crate::autoscale::About;

impl Service {
    /// An instance is being taken away: it gets no more calls, and those that it runs have `left` to end. It counts no more, so that another
    /// is started at once where one is needed. One that leaves already has no more time than this, and nothing is said of it again.
    pub(super) fn note_taken_away(&mut self, instance: &InstanceId, why: &str, left: Duration, now: Instant) {
        self.turns.done(instance, now);
        if let Some((revision, record)) = holder(&mut self.records, instance) {
            tracing::info!(%revision, %instance, why, left = ?Some(left).filter(|left| *left < Duration::MAX), "instance taken away");
            record.note_loss(instance, now);
            record.note_event(About::TakenAway, format!("{instance} leaves: {why}"), Timestamp::now());
            let function = record.target.template.function();
            self.logs.remark(function, Some(instance), format!("the instance leaves: {why}"));
        }
        self.drain_within(left, instance, why);
    }
}
