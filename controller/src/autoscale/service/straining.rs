//! What the service tells of instances that stand at a limit which kills nothing: of processes and threads.

use std::collections::BTreeMap;

use hearth_function::InstanceId;
use jiff::Timestamp;

use super::{Service, holder};
use crate::autoscale::About;
use crate::pool;
use crate::telemetry::tracing::TOLD;

impl Service {
    /// Tells where its owner looks that an instance was refused processes since the last measurement. `refused`: since its start,
    /// of one that was adopted since the first look at it.
    pub(super) fn note_refused(&mut self, refused: &BTreeMap<InstanceId, u64>) {
        for (instance, &times) in refused {
            let Some((revision, record)) = holder(&mut self.records, instance) else { continue };
            let Some(member) = record.instances.get_mut(instance) else { continue };
            let more = times.saturating_sub(member.refused);
            if more == 0 {
                continue;
            }
            // One that stays there is told of once: an endless loop is refused thousands in each measurement.
            let is_first = member.refused == 0;
            member.refused = times;
            self.metrics.refused(record.target.template.as_ref(), more);
            if !is_first {
                continue;
            }
            let what = pool::refused(more);
            tracing::warn!(target: TOLD, %revision, %instance, what, "process limit");
            record.note_event(About::ProcessLimit, format!("{instance} {what}"), Timestamp::now());
            self.stale.insert(revision.clone());
            let function = record.target.template.function();
            self.logs.remark(function, Some(instance), format!("the instance {what}"));
        }
    }
}
