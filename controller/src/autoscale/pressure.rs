//! What is known for the choice of what goes when memory is short: pure. The choice itself is the scaler's (greedy-dual).

use std::time::Duration;

use tokio::time::Instant;

/// How often something happens, by the last minute that is complete, or by the present one while that is busier.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    count: u64,
    since: Instant,
    last: u64,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Rate {
    pub(super) fn new(now: Instant) -> Self {
        Self { count: 0, since: now, last: 0 }
    }

    /// It happened so often since it was last noted.
    pub(super) fn note(&mut self, count: u64, now: Instant) {
        self.roll(now);
        self.count += count;
    }

    /// How often in a minute.
    pub(super) fn per_minute(&mut self, now: Instant) -> f64 {
        self.roll(now);
        #[expect(clippy::cast_precision_loss, reason = "a count of calls in a minute")]
        let often = self.count.max(self.last) as f64;
        often
    }

    fn roll(&mut self, now: Instant) {
        let minutes = now.saturating_duration_since(self.since).as_secs() / MINUTE.as_secs();
        if minutes > 0 {
            self.last = if minutes == 1 { self.count } else { 0 };
            self.count = 0;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_minute_until_this_one_is_busier() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut rate = Rate::new(start);
        rate.note(5, at(10));
        assert!((rate.per_minute(at(20)) - 5.0).abs() < 1e-9);
        rate.note(1, at(65));
        assert!((rate.per_minute(at(66)) - 5.0).abs() < 1e-9);
        assert!((rate.per_minute(at(130)) - 1.0).abs() < 1e-9);
        assert!(rate.per_minute(at(300)).abs() < 1e-9);
    }
}
