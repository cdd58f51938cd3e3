//! What the reports of the instances' tasks, and those of the backend, come to: the next state of an instance, and what is told of it.

use std::time::Duration;

use tokio::task::JoinError;

use super::event::{Event, Happened};
use super::failure::{Failure, INTERNAL};
use super::instance::{Report, What};
use super::life::{self, State};
use super::{Entry, Pool};
use crate::backend::{Ended, Exit, Hindered, Hindrance, TakenAway};

/// By which SIGTERM ends a process: the signal's number, and the shell's word for it.
const SIGTERM: i32 = 15;
const BY_SIGTERM: i32 = 128 + SIGTERM;

/// Why an instance leaves of which nothing else is known: somebody has sent it SIGTERM.
const TOLD_TO_END: &str = "it was told to end from outside";

impl Pool {
    pub(super) fn take(&mut self, report: Report) -> Option<Event> {
        let Report { instance, what } = report;
        if matches!(what, What::NotRemoved) {
            self.mishaps.not_removed += 1;
        }
        let entry = self.instances.get_mut(&instance)?;
        let happened = match what {
            What::Created => {
                entry.step(&instance, life::Event::Created);
                None
            }
            What::Booted => {
                entry.step(&instance, life::Event::Booted);
                None
            }
            What::Pooled { phases, memory_bytes } => {
                entry.phases = phases;
                entry.step(&instance, life::Event::Pooled);
                (entry.state == State::Pooled).then_some(Happened::Pooled { phases, memory_bytes })
            }
            // Only who asked for it knows whether it was thawed since: see `Pool::paused`.
            What::Paused { round, frozen } => Some(Happened::Paused { round, frozen }),
            What::Ready { endpoint, phases, served } => {
                entry.phases = phases;
                entry.step(&instance, life::Event::Loaded);
                // It may have been told to stop meanwhile.
                (entry.state == State::Ready).then_some(Happened::Ready { endpoint, phases, served })
            }
            What::StartFailed(failure) => {
                let wanted = entry.state.is_starting();
                entry.step(&instance, life::Event::StartFailed(failure.told.clone()));
                wanted.then_some(Happened::Failed(failure))
            }
            What::Ended { exit } => {
                // Whoever took it away has told it to end, beside us.
                let as_told = entry.taken_away.is_some() && is_in_good_order(exit);
                let how = match &entry.taken_away {
                    Some(why) => format!("{why}: {exit}"),
                    None => exit.to_string(),
                };
                entry.step(&instance, life::Event::Ended { how: how.clone() });
                Some(Happened::Ended { how, as_told })
            }
            What::Leaves => entry.leaves().map(|why| Happened::TakenAway { why, left: Duration::MAX }),
            What::Overdue => {
                let why = "its calls did not end in time".to_owned();
                entry.step(&instance, life::Event::Stop { why });
                Some(Happened::Overdue)
            }
            What::NotRemoved => None,
        };
        let revision = entry.subject.revision();
        happened.map(|what| Event { instance, revision, what })
    }

    pub(super) fn note_exit(&mut self, ended: Ended) {
        if let Some(entry) = self.instances.get(&ended.instance) {
            entry.orders.send_modify(|orders| orders.exit = Some(ended.exit));
        }
    }

    pub(super) fn note_hindered(&mut self, hindered: Hindered) -> Option<Event> {
        let Hindered { instance, by } = hindered;
        let entry = self.instances.get(&instance)?;
        if by != Hindrance::Over && !entry.state.is_starting() {
            return None;
        }
        entry.orders.send_modify(|orders| orders.hindered = by != Hindrance::Over);
        let what = match by {
            Hindrance::Outside(why) => Happened::Hindered(Some(Failure::hindered(why))),
            Hindrance::Over => Happened::Hindered(None),
            Hindrance::Time => Happened::Slow,
        };
        let revision = entry.subject.revision();
        Some(Event { instance, revision, what })
    }

    /// Whoever owns the pool has it drained. What is on its way out in any case goes on so.
    pub(super) fn note_taken_away(&mut self, taken: TakenAway) -> Option<Event> {
        let TakenAway { instance, why, left } = taken;
        let entry = self.instances.get_mut(&instance)?;
        if matches!(entry.state, State::Stopping { .. } | State::Stopped { .. } | State::Failed(_)) {
            return None;
        }
        entry.taken_away = Some(why.clone());
        let revision = entry.subject.revision();
        Some(Event { instance, revision, what: Happened::TakenAway { why, left } })
    }

    /// A task that has panicked takes nobody along: its instance has failed or ended, and another task takes it away.
    pub(super) fn contain(&mut self, error: JoinError) -> Option<Event> {
        if !error.is_panic() {
            // Nobody cancels them.
            return None;
        }
        self.mishaps.panics += 1;
        let Some(instance) = self.owners.remove(&error.id()) else {
            tracing::error!(%error, "taking away what an earlier run left has panicked");
            return None;
        };
        tracing::error!(%instance, %error, "the task of an instance has panicked: the instance is taken away");
        let task = self.take_away(instance.clone(), Duration::ZERO, None);
        self.owners.insert(task, instance.clone());
        let entry = self.instances.get_mut(&instance)?;
        let happened = match entry.state {
            State::Starting(_) | State::Loading => {
                let failure = Failure::internal();
                entry.step(&instance, life::Event::StartFailed(failure.told.clone()));
                Some(Happened::Failed(failure))
            }
            State::Pooled | State::Ready | State::Paused | State::Draining { .. } => {
                let how = INTERNAL.to_owned();
                entry.step(&instance, life::Event::Ended { how: how.clone() });
                Some(Happened::Ended { how, as_told: false })
            }
            // It was on its way out.
            State::Stopping { .. } | State::Stopped { .. } | State::Failed(_) => None,
        };
        let revision = entry.subject.revision();
        happened.map(|what| Event { instance, revision, what })
    }
}

impl Entry {
    /// It has heard from somebody else that it is to end; why that is news, if it is: whoever has it taken away and says so knows better why.
    fn leaves(&mut self) -> Option<String> {
        let serves = matches!(self.state, State::Ready | State::Paused);
        let news = serves && self.taken_away.is_none();
        news.then(|| self.taken_away.insert(TOLD_TO_END.to_owned()).clone())
    }
}

/// Whether a process that was told to end did so.
fn is_in_good_order(exit: Exit) -> bool {
    matches!((exit.code, exit.signal), (Some(0 | BY_SIGTERM), _) | (None, Some(SIGTERM)))
}
