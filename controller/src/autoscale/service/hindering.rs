//! Starts that wait for something outside: no node of a cluster has room. They go on, whoever waits for them is told why, and no more are begun
//! beside them.

use hearth_dispatch::{StartFailure, ToGateway};
use hearth_function::{InstanceId, RevisionId};
use jiff::Timestamp;
use tokio::time::Instant;

use super::Service;
use crate::autoscale::record::{TOLD_FOR, Waits};
use crate::autoscale::snapshot::Start;
use crate::pool::Phases;

impl Service {
    /// A start waits for something outside, or does so no more.
    pub(super) fn note_hindered(
        &mut self,
        instance: &InstanceId,
        revision: &RevisionId,
        why: Option<StartFailure>,
        now: Instant,
    ) {
        let Some(record) = self.records.get_mut(revision) else { return };
        let is_first = record.hindered() == 0;
        // What nobody was told of may be over too.
        if !record.hinder(instance, why.as_ref()) {
            return;
        }
        self.turns.done(instance, now);
        let Some(why) = why else {
            tracing::info!(%revision, %instance, "the start goes on");
            return;
        };
        if is_first {
            tracing::warn!(%revision, %instance, message = why.message, "a start waits");
            let function = record.target.template.function();
            let text = format!("the instance does not start yet: {}", why.message);
            self.logs.remark(function, Some(instance), text);
            let start = Start {
                time: Timestamp::now(),
                instance: instance.clone(),
                phases: Phases::default(),
                failure: Some(why.message),
            };
            record.note_start(start, None);
        }
    }

    /// A start waits for what takes its time. Nobody is told: it leaves its place to others, and that is all.
    pub(super) fn note_slow(&mut self, instance: &InstanceId, revision: &RevisionId) {
        let record = self.records.get_mut(revision);
        if let Some(member) = record.and_then(|record| record.instances.get_mut(instance)) {
            tracing::debug!(%revision, %instance, "the start takes its time");
            member.waits = Some(Waits::Time);
        }
    }

    /// Tells those who wait for nothing but starts that wait themselves.
    pub(super) fn tell_hindered(&mut self, revision: &RevisionId, now: Instant) {
        let Some(record) = self.records.get_mut(revision) else { return };
        let Some(failure) = record.waits_in_vain(now) else { return };
        let message = ToGateway::StartFailed { revision: revision.clone(), failure, retry_after: TOLD_FOR };
        self.outbox.push_back(message);
    }
}
