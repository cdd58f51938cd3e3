//! The Lease, watched.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, watch_object};
use tokio::time::{Instant, sleep, timeout_at};

use super::NAME;

/// Pause before a watch that failed begins again; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: a new leader waits for twice as long that gateways come.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// So long after the last failure the pauses are short again.
const FORGIVEN: Duration = Duration::from_secs(30);

/// A watch of the Lease that does not trust its connection: a held Lease is renewed several times in its duration, so that one of which nothing
/// is heard for two of them is watched anew. The connection of an API server whose machine lost power says nothing either, for minutes.
pub(crate) struct Watch {
    api: Api<Lease>,
    changes: BoxStream<'static, watcher::Result<Option<Lease>>>,
    /// How long the Lease is good for, as its holder says.
    duration: Duration,
    heard: Instant,
}

impl Watch {
    /// `duration` is believed until a holder says another.
    pub(crate) fn new(api: Api<Lease>, duration: Duration) -> Self {
        let changes = begin(&api);
        Self { api, changes, duration, heard: Instant::now() }
    }

    /// The Lease as it is now, `None` for one that does not exist; again and again.
    ///
    /// # Errors
    /// When it cannot be watched: it is tried again with the next call.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> watcher::Result<Option<Lease>> {
        loop {
            match timeout_at(self.heard + self.duration * 2, self.changes.next()).await {
                Ok(Some(change)) => {
                    self.heard = Instant::now();
                    if let Ok(Some(lease)) = &change {
                        self.duration = held_for(lease).unwrap_or(self.duration);
                    }
                    return change;
                }
                // It has no end of its own.
                Ok(None) => sleep(LONGEST_PAUSE).await,
                Err(_) => tracing::debug!("nothing is heard of the lease: it is watched anew"),
            }
            self.changes = begin(&self.api);
            self.heard = Instant::now();
        }
    }
}

fn begin(api: &Api<Lease>) -> BoxStream<'static, watcher::Result<Option<Lease>>> {
    let pauses = ResetTimerBackoff::new(Pauses { next: FIRST_PAUSE }, FORGIVEN);
    watch_object(api.clone(), NAME).backoff(pauses).boxed()
}

/// From [`FIRST_PAUSE`] to [`LONGEST_PAUSE`].
struct Pauses {
    next: Duration,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let longer = (self.next * 2).min(LONGEST_PAUSE);
        Some(std::mem::replace(&mut self.next, longer))
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.next = FIRST_PAUSE;
    }
}

/// The duration of a Lease that somebody holds; what is given back says none that counts.
fn held_for(lease: &Lease) -> Option<Duration> {
    let spec = lease.spec.as_ref()?;
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
    let seconds = u64::try_from(spec.lease_duration_seconds?).ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}
