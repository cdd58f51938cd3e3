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
//!    └────────────────┘                  └────────► Thawing ◄─────┘
//!    ▲                                                 │ done
//!    └─────────────────────────────────────────────────┘
//! ```
//!
//! Whoever has an instance thawed believes that it runs. A thaw that fails (an engine that is being restarted) is tried again a few times, and
//! then the instance is given up: calls that wait for it must not wait for ever.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hearth_function::InstanceId;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use crate::backend::{self, Backend};
use crate::telemetry::chain;

/// Pauses between the attempts to thaw an instance: six seconds in all, about as long as a restart of Docker's engine takes.
const THAW_AGAIN: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(400),
    Duration::from_millis(1500),
    Duration::from_secs(2),
    Duration::from_secs(2),
];

/// See the module's page. The pool has one and the gateway uses it too.
#[derive(Debug)]
pub struct Freezer {
    backend: Arc<dyn Backend>,
    books: Arc<Mutex<Books>>,
    /// Instances that could not be thawed.
    given_up: mpsc::Sender<InstanceId>,
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
    Thawing,
}

impl Freezer {
    /// A freezer for the instances of `backend`; `given_up` is told of those that cannot be thawed. To be made in a runtime.
    #[must_use]
    pub(super) fn new(backend: Arc<dyn Backend>, given_up: mpsc::Sender<InstanceId>) -> Self {
        let runtime = tokio::runtime::Handle::current();
        Self { backend, books: Arc::default(), given_up, late: TaskTracker::new(), runtime }
    }

    /// Announces a freeze: its number. The gateway must be asked after this, and [`Freezer::freeze`] called when it has said yes.
    pub fn want(&self, instance: &InstanceId) -> u64 {
        let mut books = self.books();
        books.rounds += 1;
        let round = books.rounds;
        // One that is being thawed is left to that: its freeze will find that it was not announced.
        if books.phases.get(instance) != Some(&Phase::Thawing) {
            books.phases.insert(instance.clone(), Phase::Wanted { round });
        }
        round
    }

    /// Freezes an instance, unless it was thawed since it was announced. `false`: it runs.
    ///
    /// # Errors
    /// When the backend cannot; the instance runs then.
    ///
    /// # Cancel safety
    /// Not to be dropped before its end: a thaw relies on it.
    pub async fn freeze(&self, instance: &InstanceId, round: u64) -> Result<bool, backend::Error> {
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
            match (frozen.is_err(), thaw) {
                (true, _) => books.phases.remove(instance),
                (false, true) => books.phases.insert(instance.clone(), Phase::Thawing),
                (false, false) => books.phases.insert(instance.clone(), Phase::Frozen),
            };
            thaw
        };
        frozen?;
        if thaw {
            self.thawing(instance.clone()).await;
        }
        Ok(!thaw)
    }

    /// Has an instance run again: at once, or in the moment that its freeze is over. One that runs is none the worse.
    pub fn thaw(&self, instance: &InstanceId) {
        let frozen = {
            let mut books = self.books();
            match books.phases.get_mut(instance) {
                None | Some(Phase::Thawing) => false,
                Some(Phase::Freezing { thaw }) => {
                    *thaw = true;
                    false
                }
                Some(Phase::Wanted { .. }) => books.phases.remove(instance).is_none(),
                Some(phase @ Phase::Frozen) => {
                    *phase = Phase::Thawing;
                    true
                }
            }
        };
        if frozen {
            self.resume(instance.clone());
        }
    }

    /// Thaws what is [`Phase::Thawing`], or gives it up.
    fn thawing(&self, instance: InstanceId) -> impl Future<Output = ()> + Send + 'static {
        let (backend, books) = (Arc::clone(&self.backend), Arc::clone(&self.books));
        let given_up = self.given_up.clone();
        async move {
            let mut pauses = THAW_AGAIN.into_iter();
            let runs = loop {
                match (backend.resume(&instance).await, pauses.next()) {
                    // One that has ended is found so by whoever calls it.
                    (Ok(()) | Err(backend::Error::NotFound(_)), _) => break true,
                    (Err(error), Some(pause)) => {
                        tracing::debug!(%instance, error = chain(&error), "not thawed; tried again");
                        tokio::time::sleep(pause).await;
                    }
                    (Err(error), None) => {
                        tracing::warn!(%instance, error = chain(&error), "an instance cannot be thawed and is given up");
                        break false;
                    }
                }
            };
            books.lock().unwrap_or_else(PoisonError::into_inner).phases.remove(&instance);
            if !runs {
                let _nobody = given_up.send(instance).await.is_err();
            }
        }
    }

    fn resume(&self, instance: InstanceId) {
        let mut resuming = Box::pin(self.thawing(instance));
        // Its timers are the pool's: this thread may have none.
        let _runtime = self.runtime.enter();
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
        let (directory, backend, freezer, instance, _) = with_given_up();
        (directory, backend, freezer, instance)
    }

    fn with_given_up() -> (tempfile::TempDir, Arc<Staged>, Freezer, InstanceId, mpsc::Receiver<InstanceId>) {
        let directory = tempfile::tempdir().unwrap();
        let backend = Staged::new(directory.path());
        let (lost, given_up) = mpsc::channel(1);
        let freezer = Freezer::new(Arc::clone(&backend) as Arc<dyn Backend>, lost);
        (directory, backend, freezer, InstanceId::parse("i1").unwrap(), given_up)
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

    #[tokio::test(start_paused = true)]
    async fn a_thaw_that_fails_is_tried_again_and_given_up_at_last() {
        let (_directory, backend, freezer, instance, mut given_up) = with_given_up();
        let round = freezer.want(&instance);
        assert!(freezer.freeze(&instance, round).await.unwrap());
        backend.fail_thaws(2);
        freezer.thaw(&instance);
        assert_eq!(backend.frozen(), std::slice::from_ref(&instance));
        // Not before it runs.
        let early = freezer.want(&instance);
        assert!(!freezer.freeze(&instance, early).await.unwrap());
        freezer.late.close();
        freezer.late.wait().await;
        assert!(backend.frozen().is_empty() && given_up.try_recv().is_err());

        freezer.late.reopen();
        let round = freezer.want(&instance);
        assert!(freezer.freeze(&instance, round).await.unwrap());
        backend.fail_thaws(usize::MAX);
        freezer.thaw(&instance);
        assert_eq!(given_up.recv().await, Some(instance));
    }
}
