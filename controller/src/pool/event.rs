//! What the pool says of its instances.

use std::time::Duration;

use hearth_dispatch::{Endpoint, StartFailure};
use hearth_function::{FunctionId, InstanceId, RevisionId};
use jiff::Timestamp;

use super::failure::Failure;
use super::instance::Phases;
use super::life::State;

/// What became of an instance.
#[derive(Debug)]
pub struct Event {
    /// Which.
    pub instance: InstanceId,
    /// Of which Revision; `None` while it is of none.
    pub revision: Option<RevisionId>,
    /// What happened.
    pub what: Happened,
}

/// What happened to an instance.
#[derive(Debug)]
pub enum Happened {
    /// It is up without a function, and can be given one.
    Pooled {
        /// How long the parts of its start took.
        phases: Phases,
        /// What it holds, in bytes.
        memory_bytes: u64,
    },
    /// It can take calls.
    Ready {
        /// As gateways see it.
        endpoint: Box<Endpoint>,
        /// How long the parts of its start took.
        phases: Phases,
        /// Calls that it had ended before: not 0 for one that was adopted.
        served: u64,
    },
    /// What came of [`Pool::freeze`](super::Pool::freeze).
    Paused {
        /// Of which announcement ([`Freezer::want`](super::Freezer::want)).
        round: u64,
        /// Whether it stands still.
        frozen: bool,
    },
    /// Its start waits for something outside, for this reason; or goes on.
    Hindered(Option<StartFailure>),
    /// Its start waits for something that takes its time and comes by itself, as an image that is pulled; `Hindered(None)` says that it goes on.
    Slow,
    /// It did not come up. Its remains are being taken away.
    Failed(Failure),
    /// Something outside has begun to take it away.
    TakenAway {
        /// Who, for people.
        why: String,
        /// How long its calls have to end; [`Duration::MAX`]: as long as calls have where an instance is drained.
        left: Duration,
    },
    /// Its process ended by itself. Its remains are being taken away.
    Ended {
        /// How: `exit code 1`.
        how: String,
        /// It was taken away from outside, was told to end there, and did.
        as_told: bool,
    },
    /// Its calls did not end in time; it is being stopped.
    Overdue,
    /// It stands still and cannot be made to run again.
    NotThawed,
    /// Nothing of it is left.
    Removed,
}

/// An instance as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Its name.
    pub id: InstanceId,
    /// For which Function; `None` while it is pooled.
    pub function: Option<FunctionId>,
    /// For which Revision.
    pub revision: Option<RevisionId>,
    /// Its state.
    pub state: State,
    /// Calls it may run at once.
    pub slots: u32,
    /// When its start began; of one that was pooled, when it was given to its function. A restart of the controller changes nothing of that.
    pub started: Timestamp,
    /// How long the parts of its start took, as far as it is.
    pub phases: Phases,
    /// What it holds, in bytes, as last measured.
    pub memory_bytes: Option<u64>,
}

/// What should not happen, since the pool was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mishaps {
    /// Times that the backend could not take an instance away.
    pub not_removed: u64,
    /// Tasks of instances that panicked.
    pub panics: u64,
}
