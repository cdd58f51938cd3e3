//! Feeds the scaler and carries out what it decides.
//!
//! One task ([`Service`]) owns the pool and one record for each Revision. It decides when something has happened (at once when a gateway
//! wants capacity) and once every [`TICK`]; what it decides is `hearth_scaler`'s, how it is done is the pool's.
//!
//! ```text
//!  gateway ── ToScaler ──► ┌─────────┐ ── start, drain, stop ──► Pool
//!          ◄── ToGateway ─ │ Service │ ◄── ready, failed, ended ──┘
//!  deploy ── Target, try ─►└─────────┘ ── Snapshot ──► deploy (status), API (describe)
//! ```
//!
//! Starts take turns: at most [`Config::parallelism`] at the same time. Those that a request waits for come first, then the Revision with
//! the fewest starts under way: a function that wants twenty instances does not hold up one that wants its first. A start that a request
//! waits for takes a pooled instance where its runtime class has one ([`Prewarming`]), a few at a time; pools are filled, and ephemeral
//! instances that have served are taken away, when nothing else is to be started.

mod decisions;
mod ladder;
mod mending;
mod metrics;
pub(crate) mod pauses;
mod pressure;
mod prewarm;
mod record;
mod reserved;
mod rest;
mod service;
mod snapshot;
mod turns;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use hearth_dispatch::StartFailure;
use hearth_function::{FunctionId, RevisionId};
use hearth_scaler::{Policy, Reach};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use ladder::{Restored, Rung};
pub use prewarm::{PoolView, Settings as Prewarming};
pub use reserved::{Invalid as InvalidWindow, Windows};
pub use service::{Adoptable, Channels, Service};
pub use snapshot::{About, Decided, RevisionView, Snapshot, Start};

use crate::pool::Template;

/// How often every Revision is looked at though nothing was heard of it.
pub const TICK: Duration = Duration::from_secs(1);

/// Commands that wait for the service; whoever comes then waits.
const COMMANDS: usize = 64;

/// The autoscaler's own settings.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Instances that start at the same time.
    pub parallelism: NonZeroU32,
    /// Time that the calls of an instance which is to go have to end, if their own time limit is not longer.
    pub drain: Duration,
    /// Pooled instances.
    pub prewarm: Prewarming,
    /// Memory of the machine that is kept free, in bytes; `None`: a twentieth; 0: the machine's memory limits nothing, as where instances
    /// are on others.
    pub keep_free_bytes: Option<u64>,
}

impl Config {
    /// Starts that keep the machine busy: half of those that may run at the same time, for each also waits.
    const fn cores(&self) -> u32 {
        let half = self.parallelism.get() / 2;
        if half == 0 { 1 } else { half }
    }
}

/// A Revision that may have instances.
#[derive(Debug, Clone)]
pub struct Target {
    /// What its instances are made from.
    pub template: Arc<Template>,
    /// How many there should be.
    pub policy: Policy,
    /// Whether requests come to it.
    pub reach: Reach,
    /// How long an instance may be idle before it is frozen; `None`: it runs on.
    pub pause: Option<Duration>,
    /// When more than the policy's minimum are kept.
    pub reserved: Windows,
    /// Whether it is tried again by itself after a start that failed, though nobody calls it; not one that has failed its trial, for that is
    /// tried out again as a whole.
    pub mends: bool,
}

/// The service has ended: Hearth is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the autoscaler has ended")]
pub struct Ended;

/// Why a Revision did not come up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrialError {
    /// Its first instance did not start.
    #[error("{}", .0.message)]
    Failed(StartFailure),
    /// It was taken away meanwhile.
    #[error("the revision was taken away")]
    Removed,
    /// Hearth is shutting down.
    #[error(transparent)]
    Ended(#[from] Ended),
}

#[derive(Debug)]
enum Command {
    Put(Target),
    Try {
        revision: RevisionId,
        reply: oneshot::Sender<Result<(), TrialError>>,
    },
    Remove {
        revision: RevisionId,
        reply: oneshot::Sender<()>,
    },
    /// With the namespaces of which that is not known.
    Settled(BTreeSet<String>),
    Clear {
        function: FunctionId,
        reply: oneshot::Sender<TaskTracker>,
    },
    Shutdown {
        deadline: Instant,
        reply: oneshot::Sender<Left>,
    },
}

/// What a shutdown had to cut off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// Instances whose calls had not ended.
    pub busy: usize,
    /// Instances that could not be taken away in time.
    pub instances: usize,
}

/// Tells the service what there is to scale. Clones speak to one service.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Handle {
    /// Names a Revision, or says that its policy or reach has changed.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn put(&self, target: Target) -> Result<(), Ended> {
        self.commands.send(Command::Put(target)).await.map_err(|_| Ended)
    }

    /// Starts a new Revision's initial instances. Its [`Target`] was put before, untried. The outcome, that they are up or why one is not, comes
    /// by what is returned, which is closed when the service ends; dropping that changes nothing: the Revision goes on starting until it is
    /// retired or removed.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn begin_trial(
        &self,
        revision: RevisionId,
    ) -> Result<oneshot::Receiver<Result<(), TrialError>>, Ended> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Try { revision, reply }).await.map_err(|_| Ended)?;
        Ok(answer)
    }

    /// Drains a Revision's instances and forgets it; what is returned is answered when nothing of them is left. One that is not there is gone
    /// already. It is closed when the service ends, which takes all instances away, or when the Revision is put again.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn begin_removal(&self, revision: RevisionId) -> Result<oneshot::Receiver<()>, Ended> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Remove { revision, reply }).await.map_err(|_| Ended)?;
        Ok(answer)
    }

    /// Says that every Revision of the store was named: instances of an earlier controller that belong to none of them are taken away.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn settled(&self) -> Result<(), Ended> {
        self.settled_but(BTreeSet::new()).await
    }

    /// The same, but for these namespaces: which Revisions they have is not known, and instances of Functions there stay until it is, and this is
    /// said again.
    ///
    /// # Errors
    /// When the service has ended.
    pub async fn settled_but(&self, unknown: BTreeSet<String>) -> Result<(), Ended> {
        self.commands.send(Command::Settled(unknown)).await.map_err(|_| Ended)
    }

    /// Takes away what an earlier controller left of a Function that is gone, and returns when nothing of it is left.
    ///
    /// # Errors
    /// When the service has ended, whether or not something was left.
    pub async fn clear(&self, function: &FunctionId) -> Result<(), Ended> {
        loop {
            let (reply, answer) = oneshot::channel();
            let command = Command::Clear { function: function.clone(), reply };
            self.commands.send(command).await.map_err(|_| Ended)?;
            let going = answer.await.map_err(|_| Ended)?;
            if going.is_empty() {
                return Ok(());
            }
            going.close();
            // A pool that is dropped lets go of them too: it is asked again.
            going.wait().await;
        }
    }

    /// Drains and stops every instance until `deadline`, kills what is left then, and ends the service. A second call with an earlier deadline
    /// shortens the first.
    pub async fn shutdown(&self, deadline: Instant) -> Left {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Shutdown { deadline, reply }).await.is_err() {
            return Left::default();
        }
        answer.await.unwrap_or_default()
    }

    /// What there is now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Follows what there is: the newest, without what was between.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }
}
