//! How long a start has waited for something outside, which is no part of what it takes.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The waits of one start.
#[derive(Debug, Default)]
pub(super) struct Waited(Mutex<Waits>);

#[derive(Debug, Default)]
struct Waits {
    /// Of the one that goes on.
    since: Option<Instant>,
    /// Somebody was told of it.
    told: bool,
    total: Duration,
}

impl Waited {
    /// A wait begins.
    pub(super) fn begin(&self) {
        self.waits().since = Some(Instant::now());
    }

    /// Somebody is told of it.
    pub(super) fn tell(&self) {
        self.waits().told = true;
    }

    /// It is over, if there is one; whether somebody was told of it.
    pub(super) fn end(&self) -> bool {
        let mut waits = self.waits();
        let last = waits.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        waits.total += last;
        std::mem::take(&mut waits.told)
    }

    /// All that are over.
    pub(super) fn total(&self) -> Duration {
        self.waits().total
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_counts_once_it_is_over_and_is_told_of_once() {
        let waited = Waited::default();
        assert!(!waited.end(), "there was none");
        waited.begin();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(waited.total(), Duration::ZERO);
        waited.tell();
        assert!(waited.end() && !waited.end());
        tokio::time::advance(Duration::from_secs(5)).await;
        waited.begin();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!waited.end(), "nobody was told of this one");
        assert_eq!(waited.total(), Duration::from_secs(4));
    }
}
