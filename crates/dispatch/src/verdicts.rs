//! What goes into [`crate::Dispatch`] and what comes out of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_function::InstanceId;

use crate::messages::{StartFailure, StartKind, ToScaler};

/// How long, and how many, may wait. From the manifest (`timeouts`) and the gateway's configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Requests that may wait at once; one more is refused.
    pub queue_length: usize,
    /// Longest wait while instances run but have no slot free.
    pub queue: Duration,
    /// Longest wait while no instance is there at all, so that one has to start.
    pub start: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { queue_length: 2000, queue: Duration::from_secs(30), start: Duration::from_secs(60) }
    }
}

/// Names a waiting request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// Whence a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From a client.
    New,
    /// It came at this time, was admitted, and its instance failed: it goes before those that came later.
    Retry(Instant),
    /// No instance has it: the one that it was sent to has refused it for want of room, or could not be connected to
    /// ([`Next::GoOn`](crate::retry::Next::GoOn)). It waits on, before those that came later.
    Untaken {
        /// When it came.
        arrived: Instant,
        /// When that happened first, since it last failed in another way: its limits count from here. What it had waited before, as for a start,
        /// was another wait.
        since: Instant,
    },
}

/// Which time an instance was granted: a number that no later grant of an instance of the same name has again. Whoever took a slot gives it
/// back with this, so that a call which ends late does not free a slot of its instance's successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grant(pub(crate) u64);

/// A grant of slots as [`crate::Dispatch::on_grant`] takes it.
#[derive(Debug, Clone)]
pub struct Granted<E> {
    /// Which instance.
    pub instance: InstanceId,
    /// How to reach it.
    pub endpoint: E,
    /// Calls at once for this gateway.
    pub slots: u32,
    /// It serves one call.
    pub single_use: bool,
    /// What a request that waited for it met.
    pub start: StartKind,
    /// How long its start took.
    pub start_time: Duration,
    /// It was made ahead of any request, to be kept.
    pub reserved: bool,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement<E> {
    /// Which instance.
    pub instance: InstanceId,
    /// Under which grant its slot was taken.
    pub grant: Grant,
    /// How to reach it.
    pub endpoint: E,
    /// What the request met. [`StartKind::Paused`]: it must be thawed before anything is sent to it.
    pub start: StartKind,
    /// How long the start took that the request waited for; zero when it waited for none.
    pub init: Duration,
}

/// Why a request does not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many wait as may.
    #[error("{limit} requests wait already")]
    QueueFull {
        /// How many may wait.
        limit: usize,
    },
    /// All instances were busy for too long.
    #[error("every instance was busy for {waited:?}")]
    QueueTimeout {
        /// How long it waited.
        waited: Duration,
    },
    /// No instance came up for too long.
    #[error("no instance came up within {waited:?}")]
    StartTimeout {
        /// How long it waited.
        waited: Duration,
    },
    /// A start failed, or one failed so shortly ago that none is tried yet.
    #[error("no instance could be started: {}", failure.message)]
    StartFailed {
        /// Why.
        failure: Arc<StartFailure>,
        /// When it makes sense to come again.
        retry_after: Duration,
    },
}

/// What becomes of a request that has just come.
#[derive(Debug)]
pub enum Admission<E> {
    /// It runs now.
    Forward(Placement<E>),
    /// It waits; [`crate::Dispatch::take_wanted`] says whether the scaler must hear of it.
    Enqueued {
        /// Its name in the queue.
        ticket: Ticket,
        /// When [`crate::Dispatch::on_tick`] would end its wait, as things stand.
        expires: Instant,
    },
    /// It does not run.
    Rejected(Refusal),
    /// The Revision serves no longer: look up the Function's present one.
    Moved,
}

/// What the caller has to do after an event.
#[derive(Debug)]
pub enum Action<W, E> {
    /// A waiting request runs now.
    Forward {
        /// Who.
        waiter: W,
        /// Where.
        placement: Placement<E>,
    },
    /// A waiting request does not run.
    Reject {
        /// Who.
        waiter: W,
        /// Why.
        refusal: Refusal,
    },
    /// A waiting request has to look up the Function's present Revision.
    Move {
        /// Who.
        waiter: W,
    },
    /// The scaler must hear this.
    Tell(ToScaler),
}
