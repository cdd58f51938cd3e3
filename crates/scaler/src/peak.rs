//! The highest of a number over the last stretch of time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Parts that the time is divided into: what is told is the highest of the whole time and at most one part more.
const PARTS: u32 = 60;

/// A sliding maximum.
///
/// Numbers that a later one exceeds are forgotten at once, so that those kept fall from the oldest to the newest; of each part of the time
/// one is kept at most.
#[derive(Debug, Clone)]
pub(crate) struct Peak {
    part: Duration,
    began: Instant,
    kept: VecDeque<(u64, u32)>,
}

impl Peak {
    pub(crate) fn new(over: Duration, now: Instant) -> Self {
        Self { part: (over / PARTS).max(Duration::from_millis(1)), began: now, kept: VecDeque::new() }
    }

    pub(crate) fn note(&mut self, number: u32, now: Instant) {
        let part = self.part_of(now);
        while self.kept.back().is_some_and(|(_, kept)| *kept <= number) {
            self.kept.pop_back();
        }
        if self.kept.back().is_none_or(|(last, _)| *last < part) {
            self.kept.push_back((part, number));
        }
        while self.kept.front().is_some_and(|(old, _)| old + u64::from(PARTS) <= part) {
            self.kept.pop_front();
        }
    }

    pub(crate) fn highest(&self, now: Instant) -> u32 {
        let part = self.part_of(now);
        let lately = self.kept.iter().find(|(old, _)| old + u64::from(PARTS) > part);
        lately.map_or(0, |(_, number)| *number)
    }

    fn part_of(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.began).as_nanos() / self.part.as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_peak_is_forgotten_after_its_time_and_what_came_after_it_counts() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut peak = Peak::new(Duration::from_secs(60), start);
        for (second, number) in [(0, 7), (10, 5), (20, 6), (30, 2)] {
            peak.note(number, at(second));
        }
        assert_eq!(
            [30, 59, 60, 79, 80, 89, 90].map(|second| peak.highest(at(second))),
            [7, 7, 6, 6, 2, 2, 0]
        );
    }

    proptest! {
        #[test]
        fn it_is_the_highest_of_the_parts(numbers in proptest::collection::vec((0u64..3, 0u32..100), 1..300)) {
            let start = Instant::now();
            let mut peak = Peak::new(Duration::from_secs(60), start);
            let mut all = Vec::new();
            let mut second = 0;
            for (step, number) in numbers {
                second += step;
                peak.note(number, start + Duration::from_secs(second));
                all.push((second, number));
                let highest = all.iter().filter(|(at, _)| at + 60 > second).map(|(_, number)| *number).max();
                prop_assert_eq!(Some(peak.highest(start + Duration::from_secs(second))), highest);
                prop_assert!(peak.kept.len() <= 60);
            }
        }
    }
}
