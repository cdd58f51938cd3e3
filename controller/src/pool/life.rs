//! The life of an instance: its states, and the one function that leads from one to the next (INV-8).
//!
//! ```text
//!                       Created        Booted             Loaded          Paused
//!  Starting(Creating) ─────► Starting(Booting) ─────► Loading ─────► Ready ─────► Paused
//!        │                      │    │                 ▲  │             │ ▲ Resumed  │
//!        │                      │    │ Pooled          │  │             │ └──────────┤
//!        │                      │    └─────► Pooled ───┘  │             │ Drain      │ Drain
//!        │ StartFailed          │              │ Assigned │             ▼            │
//!        ├──────────────────────┴──► Failed ◄──┼──────────┤         Draining ◄───────┘
//!        │                                     │          │             │
//!        │ Drain, Stop                         │          │             │ Stop, Ended
//!        └─────────────────────► Stopping ◄────┴──────────┴─────────────┘ (Pooled, Ready and Paused too)
//!                                   │ Removed
//!                                   ▼
//!                                Stopped
//! ```
//!
//! An order and a report can cross: what an instance that is being stopped still says changes nothing. Everything else that is not drawn
//! is a mistake of Hearth's own, and [`State::next`] says so.

use std::fmt;

use hearth_dispatch::StartFailure;

/// Where an instance is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// On its way to a running runtime.
    Starting(Phase),
    /// Its runtime is up and knows no function.
    Pooled,
    /// Its runtime is up and loads the code.
    Loading,
    /// It can take calls.
    Ready,
    /// It is idle and frozen; a call thaws it.
    Paused,
    /// It gets no new calls and ends those it has.
    Draining {
        /// Why it is to go.
        why: String,
    },
    /// It is being taken away.
    Stopping {
        /// Why.
        why: String,
    },
    /// Nothing of it is left.
    Stopped {
        /// Why.
        why: String,
    },
    /// It did not come up.
    Failed(StartFailure),
}

/// How far a start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The backend makes the container.
    Creating,
    /// Its shim and runtime come up.
    Booting,
}

/// What happens to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The container runs.
    Created,
    /// The runtime answers.
    Booted,
    /// The runtime answers and was exercised, for a function that comes later.
    Pooled,
    /// Its function has come.
    Assigned,
    /// The code is loaded and the limits are set.
    Loaded,
    /// It was frozen.
    Paused,
    /// It was thawed.
    Resumed,
    /// It did not come up.
    StartFailed(StartFailure),
    /// It is to end the calls it has.
    Drain {
        /// Why.
        why: String,
    },
    /// It is to end.
    Stop {
        /// Why.
        why: String,
    },
    /// Its process has ended by itself.
    Ended {
        /// How: `exit code 1`.
        how: String,
    },
    /// Nothing of it is left.
    Removed,
}

/// An event that cannot happen in this state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} cannot happen to an instance that is {state}")]
pub struct Illegal {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

impl State {
    /// The state after `event`.
    ///
    /// # Errors
    /// When the event cannot happen in this state.
    pub fn next(self, event: Event) -> Result<Self, Box<Illegal>> {
        Ok(match (self, event) {
            (Self::Starting(Phase::Creating), Event::Created) => Self::Starting(Phase::Booting),
            (Self::Starting(Phase::Booting), Event::Booted) => Self::Loading,
            (Self::Starting(Phase::Booting), Event::Pooled) => Self::Pooled,
            (Self::Pooled, Event::Assigned) => Self::Loading,
            // A thaw and a freeze can cross: what was thawed already is thawed.
            (Self::Loading, Event::Loaded) | (Self::Ready | Self::Paused, Event::Resumed) => Self::Ready,
            (Self::Ready, Event::Paused) => Self::Paused,
            (Self::Starting(_) | Self::Loading, Event::StartFailed(failure)) => Self::Failed(failure),
            // It has no calls yet that could be waited for.
            (Self::Starting(_) | Self::Pooled | Self::Loading, Event::Drain { why }) => {
                Self::Stopping { why }
            }
            (Self::Ready | Self::Paused, Event::Drain { why }) => Self::Draining { why },
            (
                Self::Starting(_)
                | Self::Pooled
                | Self::Loading
                | Self::Ready
                | Self::Paused
                | Self::Draining { .. },
                Event::Stop { why },
            ) => Self::Stopping { why },
            (Self::Pooled | Self::Ready | Self::Paused | Self::Draining { .. }, Event::Ended { how }) => {
                Self::Stopping { why: how }
            }
            (Self::Draining { why }, Event::Drain { .. } | Event::Paused | Event::Resumed) => {
                Self::Draining { why }
            }
            (Self::Stopping { why }, Event::Removed) => Self::Stopped { why },
            (Self::Stopping { why }, _) => Self::Stopping { why },
            // Told before the backend has taken the remains away.
            (Self::Failed(failure), Event::Stop { .. } | Event::Drain { .. } | Event::Removed) => {
                Self::Failed(failure)
            }
            (state, event) => return Err(Box::new(Illegal { state, event })),
        })
    }

    /// Whether it is on its way to Ready.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self, Self::Starting(_) | Self::Loading)
    }

    /// Why it is in this state, when the state alone does not tell.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Starting(_) | Self::Pooled | Self::Loading | Self::Ready | Self::Paused => None,
            Self::Draining { why } | Self::Stopping { why } | Self::Stopped { why } => Some(why),
            Self::Failed(failure) => Some(&failure.message),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting(_) => "Starting",
            Self::Pooled => "Pooled",
            Self::Loading => "Loading",
            Self::Ready => "Ready",
            Self::Paused => "Paused",
            Self::Draining { .. } => "Draining",
            Self::Stopping { .. } => "Stopping",
            Self::Stopped { .. } => "Stopped",
            Self::Failed(_) => "Failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use hearth_dispatch::StartCode;

    use super::*;

    fn failure() -> StartFailure {
        StartFailure { code: StartCode::LoadFailed, message: "no".to_owned(), last_lines: Vec::new() }
    }

    fn why() -> String {
        "why".to_owned()
    }

    fn states() -> [State; 10] {
        [
            State::Starting(Phase::Creating),
            State::Starting(Phase::Booting),
            State::Pooled,
            State::Loading,
            State::Ready,
            State::Paused,
            State::Draining { why: why() },
            State::Stopping { why: why() },
            State::Stopped { why: why() },
            State::Failed(failure()),
        ]
    }

    #[test]
    fn every_event_leads_where_the_drawing_says() {
        let events = [
            Event::Created,
            Event::Booted,
            Event::Pooled,
            Event::Assigned,
            Event::Loaded,
            Event::Paused,
            Event::Resumed,
            Event::StartFailed(failure()),
            Event::Drain { why: why() },
            Event::Stop { why: why() },
            Event::Ended { how: why() },
            Event::Removed,
        ];
        // A row for each state, a column for each event; a dot is a mistake.
        let table = [
            ("Starting", "Starting . . . . . . Failed Stopping Stopping . ."),
            ("Starting", ". Loading Pooled . . . . Failed Stopping Stopping . ."),
            ("Pooled", ". . . Loading . . . . Stopping Stopping Stopping ."),
            ("Loading", ". . . . Ready . . Failed Stopping Stopping . ."),
            ("Ready", ". . . . . Paused Ready . Draining Stopping Stopping ."),
            ("Paused", ". . . . . . Ready . Draining Stopping Stopping ."),
            ("Draining", ". . . . . Draining Draining . Draining Stopping Stopping ."),
            (
                "Stopping",
                "Stopping Stopping Stopping Stopping Stopping Stopping Stopping Stopping Stopping Stopping Stopping Stopped",
            ),
            ("Stopped", ". . . . . . . . . . . ."),
            ("Failed", ". . . . . . . . Failed Failed . Failed"),
        ];
        for (state, (name, row)) in states().into_iter().zip(table) {
            assert_eq!(state.to_string(), name);
            for (event, expected) in events.clone().into_iter().zip(row.split(' ')) {
                let next = state.clone().next(event.clone());
                let found = next.map_or_else(|_| ".".to_owned(), |next| next.to_string());
                assert_eq!(found, expected, "{event:?} in {state:?}");
            }
        }
    }

    #[test]
    fn what_ended_it_is_kept_as_its_reason() {
        let ended = State::Ready.next(Event::Ended { how: "exit code 1".to_owned() }).unwrap();
        assert_eq!(ended.reason(), Some("exit code 1"));
        let stopped = ended.next(Event::Stop { why: why() }).unwrap().next(Event::Removed).unwrap();
        assert_eq!(stopped.reason(), Some("exit code 1"));
    }
}
