//! When a Revision that is at zero, and whose last start failed, is started though nobody calls it: what it lacked (a Secret, a database) may be
//! there by now, and whoever brought it may not even know of the Function. Pure.

use std::time::Duration;

use hearth_dispatch::StartCode;
use tokio::time::Instant;

use super::pauses;

/// The longest pause where the instance could not be made at all.
const LONGEST_UNMADE: Duration = Duration::from_secs(300);

/// The attempts of one Revision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mending {
    failures: u32,
    due: Option<Instant>,
}

impl Mending {
    /// A start has failed, whoever asked for it.
    pub(super) fn failed(&mut self, code: StartCode, now: Instant) {
        if !code.may_pass() {
            self.due = None;
            return;
        }
        // Those that were under way together are one failure.
        if self.due.is_some_and(|due| due > now) {
            return;
        }
        let pause = pauses::after_start(Some(code), LONGEST_UNMADE, self.failures);
        self.failures = self.failures.saturating_add(1);
        self.due = Some(now + pause);
    }

    /// An instance has come up.
    pub(super) fn came_up(&mut self) {
        *self = Self::default();
    }

    /// Whether one is to be there now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// When that will be, if it is not yet.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        self.due.filter(|due| *due > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pauses(code: StartCode, count: usize) -> Vec<u64> {
        let (mut mending, mut now) = (Mending::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..count {
            mending.failed(code, now);
            let next = mending.next(now).unwrap();
            assert!(!mending.is_due(now) && mending.is_due(next));
            pauses.push((next - now).as_secs());
            now = next;
        }
        pauses
    }

    #[test]
    fn what_could_not_be_made_is_tried_within_five_minutes_and_code_that_does_not_come_up_within_an_hour() {
        assert_eq!(pauses(StartCode::StartFailed, 8), [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(pauses(StartCode::LoadFailed, 8), [60, 120, 240, 480, 960, 1920, 3600, 3600]);
    }

    #[test]
    fn starts_that_fail_together_are_one_failure_and_a_success_forgets_it() {
        let (mut mending, now) = (Mending::default(), Instant::now());
        mending.failed(StartCode::StartFailed, now);
        mending.failed(StartCode::StartFailed, now);
        assert_eq!(mending.next(now), Some(now + pauses::FIRST_UNMADE));
        mending.came_up();
        assert_eq!(mending, Mending::default());
    }

    #[test]
    fn what_only_other_code_can_mend_is_not_tried() {
        let (mut mending, now) = (Mending::default(), Instant::now());
        mending.failed(StartCode::HandlerMissing, now);
        assert_eq!(mending.next(now), None);
    }
}
