//! The load of a Revision over time, for the reports to the scaler.

use std::time::{Duration, Instant};

/// Integrates a level (calls that run or wait) over time and counts events, from one report to the next.
#[derive(Debug)]
pub(crate) struct Meter {
    /// When the current period began.
    since: Instant,
    /// Up to when `area` is integrated.
    until: Instant,
    /// Level × seconds of this period so far.
    area: f64,
    level: u32,
    /// Whether the level was above zero, or anything happened, in this period.
    active: bool,
    /// Whether the last period was reported: one more report says that the Revision has turned idle.
    reported: bool,
    pub(crate) completed: u64,
    pub(crate) arrived: u64,
    pub(crate) refused: u64,
    pub(crate) service_time: Duration,
}

/// What a [`Meter`] saw in one period.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Period {
    pub(crate) over: Duration,
    pub(crate) average: f64,
    pub(crate) completed: u64,
    pub(crate) arrived: u64,
    pub(crate) refused: u64,
    pub(crate) service_time: Duration,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            since: now,
            until: now,
            area: 0.0,
            level: 0,
            active: false,
            reported: false,
            completed: 0,
            arrived: 0,
            refused: 0,
            service_time: Duration::ZERO,
        }
    }

    /// From `now` on, `level` calls run or wait. Gateway threads take their `now` before they take the lock, so it may lie a
    /// little before the last one: that counts as no time.
    pub(crate) fn set(&mut self, now: Instant, level: u32) {
        if level > 0 && !self.active && !self.reported {
            // It was idle and the last report said so: the time in between says nothing about its load.
            self.since = self.since.max(now);
            self.until = self.since;
        }
        let passed = now.saturating_duration_since(self.until);
        self.area += f64::from(self.level) * passed.as_secs_f64();
        self.until = self.until.max(now);
        self.level = level;
        self.active |= level > 0;
    }

    /// Ends the period. `None` when there is nothing to say: idle all the time, and the last report said so too.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Period> {
        self.set(now, self.level);
        let busy = self.active || self.arrived + self.completed + self.refused > 0;
        let over = self.until.saturating_duration_since(self.since);
        let period = Period {
            over,
            average: if over > Duration::ZERO {
                self.area / over.as_secs_f64()
            } else {
                f64::from(self.level)
            },
            completed: self.completed,
            arrived: self.arrived,
            refused: self.refused,
            service_time: self.service_time,
        };
        let say = busy || self.reported;
        *self = Self { level: self.level, active: self.level > 0, reported: busy, ..Self::new(self.until) };
        say.then_some(period)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests {
    use super::*;

    #[test]
    fn averages_over_time_and_says_once_that_it_is_idle() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut meter = Meter::new(start);
        assert_eq!(meter.take(at(100)), None);
        // It comes to life at 150. 4 calls for a quarter of the period, then 2 for a quarter: 1.5 on average.
        meter.set(at(150), 4);
        meter.set(at(200), 2);
        meter.set(at(250), 0);
        let period = meter.take(at(350)).unwrap();
        assert!((period.average - 1.5).abs() < 1e-9, "{period:?}");
        assert_eq!(period.over, Duration::from_millis(200));
        assert_eq!(meter.take(at(450)).map(|period| period.average), Some(0.0));
        assert_eq!(meter.take(at(550)), None);
    }

    #[test]
    fn a_clock_that_was_read_earlier_counts_as_no_time() {
        let start = Instant::now();
        let mut meter = Meter::new(start + Duration::from_millis(10));
        meter.set(start, 3);
        let period = meter.take(start + Duration::from_millis(20)).unwrap();
        assert!((period.average - 3.0).abs() < 1e-9, "{period:?}");
    }
}
