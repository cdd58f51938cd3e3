//! What a Function's task does beside its steps: it has what failed tried again, clients told why nothing serves yet, and the object held until
//! its instances have ended.

use hearth_function::{Function, Revision, RevisionState};
use jiff::Timestamp;
use tokio::time::Instant;

use super::super::COME_AGAIN;
use super::super::routes;
use super::super::status::{self, Known};
use super::Task;
use crate::store;

impl Task {
    /// Sees to it that a Revision that has failed is tried again: after a while, and at once when somebody has asked for it since the last
    /// look; then code and dependencies that are not there are looked for again too.
    pub(super) fn note_retries(&mut self) {
        let annotations =
            self.memory.function.as_ref().and_then(|function| function.metadata.annotations.as_ref());
        let wish = annotations.and_then(|all| all.get(hearth_function::RETRY_ANNOTATION)).cloned();
        let before = std::mem::replace(&mut self.memory.wish, wish.clone());
        let looked = std::mem::replace(&mut self.memory.looked, true);
        // At the first look the wish is one that an earlier controller has seen to.
        let asked = looked && wish.is_some() && wish != before;
        if looked && !asked {
            return;
        }
        let latest = self.revisions().pop_last();
        let state =
            |revision: &Revision| revision.status.as_ref().map(|status| status.state).unwrap_or_default();
        let failed = latest.filter(|(_, revision)| state(revision) == RevisionState::Failed);
        let (now, time) = (Instant::now(), Timestamp::now());
        if !asked {
            if let Some((number, _)) = failed {
                self.memory.trials.failed(number, None, now, time);
            }
            return;
        }
        if let Some((number, _)) = failed {
            self.memory.trials.hurry(number, now, time);
        }
        self.memory.code = self.memory.code.take().filter(|known| known.code.is_ok());
        self.memory.build = self.memory.build.take().filter(|(_, found, _)| found.is_ok());
        self.memory.prepared.retain(|_, template| template.is_ok());
    }

    /// Has those who ask for a Function of which nothing serves yet told why.
    pub(super) fn say_unready(&self, known: &Known) {
        let Some(function) = self.memory.function.as_deref() else { return };
        let (reason, passes) = status::unready(known);
        let unready = routes::unready(function, &self.id, reason, passes.then_some(COME_AGAIN));
        self.shared.parts.routes.unready(unready);
    }

    /// Whether the Function is not gone before its instances are, and no other Hearth runs it.
    pub(super) fn is_held(&self, function: &Function) -> bool {
        let Some(finalizer) = self.shared.config.finalizer else { return true };
        let holds = |function: &Function| holds(function, finalizer);
        // What was written just now is in the store before it is told.
        let newest = || self.shared.parts.store.get::<Function>(self.id.namespace(), self.id.name()).ok();
        holds(function)
            || newest().is_some_and(|newest| newest.metadata.uid == function.metadata.uid && holds(&newest))
    }

    /// Sees to that.
    pub(super) async fn hold(&self) -> Result<(), store::Error> {
        let (Some(finalizer), Some(function)) = (self.shared.config.finalizer, &self.memory.function) else {
            return Ok(());
        };
        self.shared.parts.store.finalize(function.as_ref(), finalizer, true).await.map(drop)
    }

    /// Waits until what an earlier controller left of a deleted Function has ended, if something holds its object until then. Without an
    /// autoscaler nobody knows.
    pub(super) async fn is_outlived(&mut self) -> bool {
        if self.shared.config.finalizer.is_none() {
            return true;
        }
        // Nobody waits for it.
        self.settle();
        self.shared.parts.autoscaler.clear(&self.id).await.is_ok()
    }

    /// Nothing of a deleted Function is left: its object may go.
    pub(super) async fn let_go(&mut self) -> Result<(), store::Error> {
        let Some(finalizer) = self.shared.config.finalizer else { return Ok(()) };
        let (namespace, name) = (self.id.namespace(), self.id.name());
        let Ok(function) = self.shared.parts.store.get::<Function>(namespace, name) else { return Ok(()) };
        let is_deleted = function.metadata.deletion_timestamp.is_some();
        if !is_deleted || !has_finalizer(&function, finalizer) {
            return Ok(());
        }
        match self.shared.parts.store.finalize(&*function, finalizer, false).await {
            Err(store::Error::NotFound { .. } | store::Error::Conflict { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether a Function has this finalizer and a claim.
pub(super) fn holds(function: &Function, finalizer: &str) -> bool {
    // Claims of others are not in the store.
    let annotations = function.metadata.annotations.as_ref();
    let is_claimed =
        annotations.is_some_and(|all| all.contains_key(hearth_function::INSTALLATION_ANNOTATION));
    has_finalizer(function, finalizer) && is_claimed
}

fn has_finalizer(function: &Function, finalizer: &str) -> bool {
    function.metadata.finalizers.iter().flatten().any(|one| one == finalizer)
}
