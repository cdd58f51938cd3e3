//! The trial of a new Revision: begun by a step, and heard of later. Whatever else there is to do for its Function is done meanwhile.

use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::plan::{self, Number};
use super::{Task, View};
use crate::autoscale::TrialError;

type Outcome = Result<(), TrialError>;

/// A trial, until its Revision is marked or taken away.
#[derive(Debug)]
pub(super) struct Trial {
    number: Number,
    state: State,
}

#[derive(Debug)]
enum State {
    Underway(oneshot::Receiver<Outcome>),
    /// Nothing is heard of it any more: Hearth is shutting down, and the next controller goes on.
    Lost,
    CameUp,
    Failed,
}

impl Trial {
    /// What the plan sees of it.
    pub(super) fn of(&self, number: Number) -> plan::Trial {
        match self.state {
            _ if self.number != number => plan::Trial::No,
            State::Underway(_) | State::Lost => plan::Trial::Underway,
            State::CameUp => plan::Trial::CameUp,
            State::Failed => plan::Trial::Failed,
        }
    }

    fn is_underway(&self) -> bool {
        matches!(self.state, State::Underway(_))
    }
}

/// Waits for the outcome of the trial that is under way; for ever, when none is.
///
/// # Cancel safety
/// It can be dropped and called again; once it has given an outcome, that is to be noted before it is called again.
pub(super) async fn outcome(trial: &mut Option<Trial>) -> Outcome {
    match trial.as_mut().map(|trial| &mut trial.state) {
        Some(State::Underway(heard)) => heard.await.unwrap_or_else(|_| Err(crate::autoscale::Ended.into())),
        _ => std::future::pending().await,
    }
}

impl Task {
    pub(super) async fn begin_trial(&mut self, number: Number) {
        self.memory.failures.remove(&number);
        let begun = self.shared.parts.autoscaler.begin_trial(self.revision_id(number)).await;
        let state = begun.map_or(State::Lost, State::Underway);
        self.memory.trial = Some(Trial { number, state });
    }

    /// What has come of a trial since the last look.
    pub(super) fn hear_of_trial(&mut self) {
        let Some(Trial { state: State::Underway(heard), .. }) = &mut self.memory.trial else { return };
        match heard.try_recv() {
            Ok(outcome) => self.note_outcome(outcome),
            Err(oneshot::error::TryRecvError::Closed) => {
                self.note_outcome(Err(crate::autoscale::Ended.into()));
            }
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
    }

    pub(super) fn note_outcome(&mut self, outcome: Outcome) {
        let Some(trial) = &mut self.memory.trial else { return };
        let number = trial.number;
        trial.state = match outcome {
            Ok(()) => {
                tracing::info!(function = %self.id, revision = number, "revision came up");
                State::CameUp
            }
            Err(TrialError::Failed(failure)) => {
                self.memory.trials.failed(number, Some(failure.code), Instant::now(), Timestamp::now());
                self.memory.failures.insert(number, failure);
                State::Failed
            }
            Err(TrialError::Ended(_)) => State::Lost,
            Err(TrialError::Removed) => {
                self.memory.targets.remove(&number);
                self.memory.trial = None;
                return;
            }
        };
    }

    /// The Revision is marked, or taken away.
    pub(super) fn end_trial(&mut self, number: Number) {
        self.memory.trial.take_if(|trial| trial.number == number);
    }

    /// Whether what the autoscaler shows is to be written. What is started first has its status when it is up, and what is wrong meanwhile at once.
    pub(super) fn shows_news(&self, revisions: &[Number]) -> bool {
        let views = self.views(revisions);
        let fails = |views: &[(Number, View)]| views.iter().any(|(_, (.., failure))| failure.is_some());
        let starts = self.memory.trial.as_ref().is_some_and(Trial::is_underway);
        views != self.memory.shown && (!starts || fails(&views) || fails(&self.memory.shown))
    }
}
