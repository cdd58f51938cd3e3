//! What the store did not take: said in the status where that can be written, and remarked where it cannot.

use super::super::Remark;
use super::super::plan::Observed;
use super::{COUNTS, Task};
use crate::store;
use crate::telemetry::chain;

/// What is not taken at the moment.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Why the step that is due was not taken.
    pub(super) step: Option<String>,
    /// How often in a row.
    times: u32,
    /// What of the status was not kept, and what to do.
    pub(super) outdated: Option<String>,
    /// Why the status was not written at all.
    pub(super) status: Option<String>,
}

impl Refused {
    /// Every step that is due was taken.
    pub(super) fn step_taken(&mut self) {
        (self.step, self.times) = (None, 0);
    }
}

impl Task {
    /// A step was not taken: says why, and waits before it is tried again, or until the Function changes. What the store holds is seen at the next
    /// look.
    pub(super) async fn not_taken(&mut self, error: &store::Error, observed: &Observed) {
        let times = self.memory.refused.times;
        self.memory.refused.times = times.saturating_add(1);
        // The others pass by themselves, and nothing can be written while the API server is away.
        let stays = match error {
            store::Error::Refused { .. } | store::Error::Outdated { .. } => true,
            // As a rule the store has not heard yet of what is there.
            store::Error::AlreadyExists { .. } => times > 0,
            _ => false,
        };
        if stays {
            self.memory.refused.step = Some(chain(error));
            Box::pin(self.write_status(observed)).await;
        }
        let mut object = self.object.clone();
        tokio::select! {
            () = tokio::time::sleep(COUNTS * (1 << times.min(5))) => {}
            _ = object.changed() => {}
        }
    }

    /// The status was not kept as it was written: said once, since the status itself may be what cannot say it.
    pub(super) fn note_outdated(&mut self, error: &store::Error) {
        let message = error.to_string();
        if self.memory.refused.outdated.as_ref() == Some(&message) {
            return;
        }
        tracing::warn!(function = %self.id, message, "the status is not kept");
        self.memory.refused.outdated = Some(message.clone());
        self.remark("DefinitionOutdated", message);
    }

    /// The status was not written: that it is refused is said once, for the status cannot say it.
    pub(super) fn note_unwritten(&mut self, error: &store::Error) {
        let message = chain(error);
        tracing::warn!(function = %self.id, error = message, "status not written");
        if matches!(error, store::Error::Refused { .. })
            && self.memory.refused.status.as_ref() != Some(&message)
        {
            self.memory.refused.status = Some(message.clone());
            self.remark("Refused", format!("its status cannot be written: {message}"));
        }
    }

    pub(super) fn remark(&self, reason: &'static str, message: String) {
        let remark = Remark { function: self.id.clone(), reason, message };
        if let Some(remarks) = &self.shared.parts.remarks
            && remarks.try_send(remark).is_err()
        {
            tracing::debug!(function = %self.id, "a remark was dropped: too many wait");
        }
    }
}
