//! Whether an instance stands at a limit that kills nothing: it goes on, and what it tries fails.

use std::sync::Arc;
use std::time::Duration;

use hearth_function::InstanceId;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::template::PIDS;
use crate::backend::{Backend, Stats};

/// A call that has failed waits no longer for the answer.
const ASKED_WITHIN: Duration = Duration::from_millis(100);

/// Processes below the limit at which an instance still counts as standing there: what could not be made was more than one, as a rule.
const NEAR: u32 = PIDS / 16;

/// Asks what an instance lacks. The gateway does when a call has failed: no sooner.
#[derive(Debug, Clone)]
pub struct Strain {
    backend: Arc<dyn Backend>,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl Strain {
    /// To be made in the runtime that the backend works in.
    #[must_use]
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, tasks: TaskTracker::new(), runtime: tokio::runtime::Handle::current() }
    }

    /// At which limit the instance stands now, if at any: a clause for people, as in `the instance stands at its limit of …`.
    pub async fn of(&self, instance: &InstanceId) -> Option<String> {
        let (backend, instance) = (Arc::clone(&self.backend), instance.clone());
        let asking = async move { backend.stats(&instance).await };
        let asked = AbortOnDropHandle::new(self.tasks.spawn_on(asking, &self.runtime));
        // What does not answer, or is no more, has nothing to say.
        let stats = tokio::time::timeout(ASKED_WITHIN, asked).await.ok()?.ok()?.ok()?;
        stands_at_limit(&stats).then(|| format!("the instance stands at its {}", limit()))
    }
}

fn stands_at_limit(stats: &Stats) -> bool {
    stats.pids_refused > 0 && stats.pids + NEAR >= PIDS
}

/// The limit, in words.
fn limit() -> String {
    format!("limit of {PIDS} processes and threads")
}

/// Told of an instance that has met the limit, for its function's log and among the decisions: how often since it was told last.
#[must_use]
pub fn refused(times: u64) -> String {
    let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
    format!("met its {}: {times} it could not make another", limit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_stands_at_its_limit_while_it_is_full_and_was_refused_more() {
        let stats = |pids, pids_refused| Stats { pids, pids_refused, ..Stats::default() };
        assert!(stands_at_limit(&stats(PIDS, 1)));
        assert!(stands_at_limit(&stats(PIDS - 3, 7)), "some have ended since");
        assert!(!stands_at_limit(&stats(PIDS, 0)), "nothing was refused yet");
        assert!(!stands_at_limit(&stats(12, 7)), "that was earlier");
        assert_eq!(refused(1), "met its limit of 512 processes and threads: once it could not make another");
        assert!(refused(3).ends_with("3 times it could not make another"));
    }
}
