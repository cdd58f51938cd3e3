//! When a Revision that did not come up is tried again: pure. Its code is the same, but what it lacked may be there by now: a database, a
//! name, memory.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_dispatch::StartCode;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Number;
use crate::autoscale::pauses;

/// The longest pause where the instance could not be made at all.
const LONGEST_UNMADE: Duration = Duration::from_secs(60);

/// The trials of one Function's Revisions that failed.
#[derive(Debug, Default)]
pub(super) struct Trials(BTreeMap<Number, Trial>);

#[derive(Debug, Clone, Copy)]
struct Trial {
    failures: u32,
    next: Instant,
    /// The same for people.
    at: Timestamp,
}

impl Trials {
    /// A trial has failed. Without a code it was an earlier controller's.
    pub(super) fn failed(&mut self, number: Number, code: Option<StartCode>, now: Instant, time: Timestamp) {
        if !code.is_none_or(StartCode::may_pass) {
            self.0.remove(&number);
            return;
        }
        let failures = self.0.get(&number).map_or(0, |trial| trial.failures);
        let pause = pauses::after_start(code, LONGEST_UNMADE, failures);
        self.0.insert(number, Trial { failures: failures + 1, next: now + pause, at: after(time, pause) });
    }

    /// It has come up, or is no more.
    pub(super) fn forget(&mut self, number: Number) {
        self.0.remove(&number);
    }

    /// Whether it is to be tried now.
    pub(super) fn is_due(&self, number: Number, now: Instant) -> bool {
        self.0.get(&number).is_some_and(|trial| trial.next <= now)
    }

    /// When it is tried again.
    pub(super) fn next(&self, number: Number) -> Option<(Instant, Timestamp)> {
        self.0.get(&number).map(|trial| (trial.next, trial.at))
    }

    /// Somebody asks for it: what has failed is tried at once, and pauses begin anew.
    pub(super) fn hurry(&mut self, number: Number, now: Instant, time: Timestamp) {
        self.0.insert(number, Trial { failures: 0, next: now, at: time });
    }
}

/// So long after `time`, in whole seconds, as people read it.
pub(super) fn after(time: Timestamp, pause: Duration) -> Timestamp {
    let at = time.checked_add(jiff::SignedDuration::try_from(pause).unwrap_or_default()).unwrap_or(time);
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_is_twice_as_long_and_none_longer_than_an_hour() {
        let (mut trials, now) = (Trials::default(), Instant::now());
        let time = Timestamp::UNIX_EPOCH;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            trials.failed(1, Some(StartCode::LoadFailed), now, time);
            let (next, at) = trials.next(1).unwrap();
            assert_eq!(u64::try_from(at.as_second()).unwrap(), (next - now).as_secs());
            assert!(!trials.is_due(1, now) && trials.is_due(1, next));
            pauses.push((next - now).as_secs());
        }
        assert_eq!(pauses, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
        trials.hurry(1, now, time);
        assert!(trials.is_due(1, now));
        trials.failed(1, None, now, time);
        assert_eq!(trials.next(1).unwrap().0 - now, pauses::FIRST);
    }

    #[test]
    fn what_could_not_be_made_is_tried_again_within_a_minute() {
        let (mut trials, now) = (Trials::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..6 {
            trials.failed(1, Some(StartCode::StartFailed), now, Timestamp::UNIX_EPOCH);
            pauses.push((trials.next(1).unwrap().0 - now).as_secs());
        }
        assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
    }

    #[test]
    fn what_only_other_code_can_mend_is_not_tried_by_itself() {
        let mut trials = Trials::default();
        trials.failed(1, Some(StartCode::HandlerMissing), Instant::now(), Timestamp::UNIX_EPOCH);
        assert_eq!(trials.next(1), None);
    }
}
