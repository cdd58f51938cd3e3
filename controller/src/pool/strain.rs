//! Whether an instance stands at a limit that kills nothing: it goes on, and what it tries fails.

use std::sync::Arc;
use std::time::Duration;

use hearth_function::InstanceId;
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::template::PIDS;
use crate::backend::{Backend, Stats};

/// A call that has failed waits no longer for the answer.
const ASKED_WITHIN: Duration = Duration::from_millis(100);

/// Calls can fail by the thousand in a second, and each question costs the backend some files, or an engine a request of its own. So many are
/// open at once; a call that has failed beside them says nothing of a limit, which those before it do.
const ASKED_AT_ONCE: usize = 4;

/// Processes below the limit at which an instance still counts as standing there: what could not be made was more than one, as a rule.
const NEAR: u32 = PIDS / 16;

/// Asks what an instance lacks. The gateway does when a call has failed: no sooner.
#[derive(Debug, Clone)]
pub struct Strain {
    backend: Arc<dyn Backend>,
    asking: Arc<Semaphore>,
    tasks: TaskTracker,
    runtime: tokio::runtime::Handle,
}

impl Strain {
    /// To be made in the runtime that the backend works in.
    #[must_use]
    pub(super) fn new(backend: Arc<dyn Backend>) -> Self {
        let (asking, tasks) = (Arc::new(Semaphore::new(ASKED_AT_ONCE)), TaskTracker::new());
        Self { backend, asking, tasks, runtime: tokio::runtime::Handle::current() }
    }

    /// At which limit the instance stands now, if at any: a clause for people, as in `the instance stands at its limit of …`. Nothing, too,
    /// while enough others ask.
    pub async fn of(&self, instance: &InstanceId) -> Option<String> {
        let permit = Arc::clone(&self.asking).try_acquire_owned().ok()?;
        let (backend, instance) = (Arc::clone(&self.backend), instance.clone());
        let asking = async move {
            let stats = backend.stats(&instance).await;
            drop(permit);
            stats
        };
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
    use futures_util::future::join_all;

    use super::*;
    use crate::pool::staged::Staged;

    #[tokio::test(start_paused = true)]
    async fn only_so_many_questions_are_open_at_once_and_the_rest_are_left_out() {
        let directory = tempfile::TempDir::new().unwrap();
        let backend = Staged::new(directory.path());
        backend.refuse_processes(1);
        let strain = Strain::new(Arc::clone(&backend) as Arc<dyn Backend>);
        let instance = InstanceId::parse("hello-a").unwrap();
        backend.hang_stats(true);
        let of_many = join_all((0..1000).map(|_| strain.of(&instance))).await;
        assert_eq!((backend.stats_asked(), of_many.into_iter().flatten().count()), (ASKED_AT_ONCE, 0));
        backend.hang_stats(false);
        // Those that were given up are cleared away.
        tokio::task::yield_now().await;
        let said = strain.of(&instance).await;
        assert_eq!(said.as_deref(), Some("the instance stands at its limit of 512 processes and threads"));
    }

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
