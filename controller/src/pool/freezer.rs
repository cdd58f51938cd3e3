//! Freezing idle instances, and thawing them in the way of a request.
//!
//! A thaw is one write, and the gateway's thread makes it itself, before it sends. A freeze takes a moment and is the pool's. The two may
//! cross: what must never happen is that an instance is frozen after a request was told that it runs. So each freeze is announced first
//! ([`Freezer::want`]), then the gateway is asked whether the instance is idle, and only then it is frozen ([`Freezer::freeze`]); a
//! thaw in between takes the announcement back.
//!
//! ```text
//!           want             freeze              (frozen)
//!  awake ─────────► Wanted ─────────► Freezing ─────────► Frozen
//!    ▲                │ thaw             │ thaw: when it is over  │ thaw: at once
//!    └────────────────┴──────────────────┴────────────────────────┘
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hearth_function::InstanceId;
use tokio_util::task::TaskTracker;

use crate::backend::Backend;
use crate::telemetry::chain;

/// See the module's page. The pool has one and the gateway uses it too.
#[derive(Debug)]
pub struct Freezer {
    backend: Arc<dyn Backend>,
    books: Mutex<Books>,
    /// Thaws of backends that take longer than one write.
    late: TaskTracker,
    runtime: tokio::runtime::Handle,
}

#[derive(Debug, Default)]
struct Books {
    /// Those that are not awake.
    phases: HashMap<InstanceId, Phase>,
    rounds: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Wanted { round: u64 },
    Freezing { thaw: bool },
    Frozen,
}

impl Freezer {
    /// A freezer for the instances of `backend`. To be made in a runtime.
    #[must_use]
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self { backend, books: Mutex::default(), late: TaskTracker::new(), runtime }
    }

    /// Announces a freeze: its number. The gateway must be asked after this, and [`Freezer::freeze`] called when it has said yes.
    pub fn want(&self, instance: &InstanceId) -> u64 {
        let mut books = self.books();
        books.rounds += 1;
        let round = books.rounds;
        books.phases.insert(instance.clone(), Phase::Wanted { round });
        round
    }

    /// Freezes an instance, unless it was thawed since it was announced. `false`: it runs.
    ///
    /// # Errors
    /// When the backend cannot; the instance runs then.
    ///
    /// # Cancel safety
    /// Not to be dropped before its end: a thaw relies on it.
    pub async fn freeze(&self, instance: &InstanceId, round: u64) -> Result<bool, crate::backend::Error> {
        {
            let mut books = self.books();
            match books.phases.get_mut(instance) {
                Some(phase) if *phase == (Phase::Wanted { round }) => {
                    *phase = Phase::Freezing { thaw: false };
                }
                _ => return Ok(false),
            }
        }
        let frozen = self.backend.pause(instance).await;
        let thaw = {
            let mut books = self.books();
            let thaw = books.phases.get(instance) != Some(&Phase::Freezing { thaw: false });
            if thaw || frozen.is_err() {
                books.phases.remove(instance);
            } else {
                books.phases.insert(instance.clone(), Phase::Frozen);
            }
            thaw
        };
        frozen?;
        if thaw {
            self.backend.resume(instance).await?;
        }
        Ok(!thaw)
    }

    /// Has an instance run again: at once, or in the moment that its freeze is over. One that runs is none the worse.
    pub fn thaw(&self, instance: &InstanceId) {
        let frozen = {
            let mut books = self.books();
            match books.phases.get_mut(instance) {
                None => false,
                Some(Phase::Freezing { thaw }) => {
                    *thaw = true;
                    false
                }
                Some(Phase::Wanted { .. }) => books.phases.remove(instance).is_none(),
                Some(Phase::Frozen) => books.phases.remove(instance).is_some(),
            }
        };
        if frozen {
            self.resume(instance.clone());
        }
    }

    fn resume(&self, instance: InstanceId) {
        let backend = Arc::clone(&self.backend);
        let mut resuming = Box::pin(async move {
            if let Err(error) = backend.resume(&instance).await {
                // It has ended, as a rule, and whoever calls it finds that out.
                tracing::debug!(%instance, error = chain(&error), "not thawed");
            }
        });
        // The embedded backend does it in the first step.
        match resuming.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => {}
            Poll::Pending => drop(self.late.spawn_on(resuming, &self.runtime)),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::staged::Staged;
    use super::*;

    fn freezer() -> (tempfile::TempDir, Arc<Staged>, Freezer, InstanceId) {
        let directory = tempfile::tempdir().unwrap();
        let backend = Staged::new(directory.path());
        let freezer = Freezer::new(Arc::clone(&backend) as Arc<dyn Backend>);
        (directory, backend, freezer, InstanceId::parse("i1").unwrap())
    }

    #[tokio::test]
    async fn what_was_announced_is_frozen_and_thawed() {
        let (_directory, backend, freezer, instance) = freezer();
        let round = freezer.want(&instance);
        assert!(freezer.freeze(&instance, round).await.unwrap());
        assert_eq!(backend.frozen(), std::slice::from_ref(&instance));
        freezer.thaw(&instance);
        assert!(backend.frozen().is_empty());
        // A second thaw writes nothing.
        let writes = backend.thaws();
        freezer.thaw(&instance);
        assert_eq!(backend.thaws(), writes);
    }

    #[tokio::test]
    async fn a_thaw_before_the_freeze_takes_it_back_and_one_of_a_later_round_does_not() {
        let (_directory, backend, freezer, instance) = freezer();
        let round = freezer.want(&instance);
        freezer.thaw(&instance);
        assert!(!freezer.freeze(&instance, round).await.unwrap());
        // A freeze that is late must not be taken for the next one, which the gateway was not asked about yet.
        let next = freezer.want(&instance);
        assert!(!freezer.freeze(&instance, round).await.unwrap());
        assert!(backend.frozen().is_empty());
        assert!(freezer.freeze(&instance, next).await.unwrap());
    }

    #[tokio::test]
    async fn a_thaw_during_the_freeze_comes_at_its_end() {
        let (_directory, backend, freezer, instance) = freezer();
        let round = freezer.want(&instance);
        let hold = backend.hold_freezes();
        let thawing = async {
            backend.freezing.notified().await;
            freezer.thaw(&instance);
            drop(hold);
        };
        let (frozen, ()) = tokio::join!(freezer.freeze(&instance, round), thawing);
        assert!(!frozen.unwrap() && backend.frozen().is_empty());
    }
}
