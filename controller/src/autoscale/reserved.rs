//! How many instances are kept for a Function at a time of day (`scale.reserved`): pure.

use std::str::FromStr;

use croner::Cron;
use hearth_function::spec::ReservedWindow;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// The windows of one Function. Schedules are in UTC.
#[derive(Debug, Clone, Default)]
pub struct Windows(Vec<Window>);

#[derive(Debug, Clone)]
struct Window {
    begins: Cron,
    lasts: SignedDuration,
    count: u32,
}

/// A schedule that says no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{schedule:?} is not a schedule: {why}")]
pub struct Invalid {
    schedule: String,
    why: String,
}

impl Windows {
    /// Reads the windows of a manifest.
    ///
    /// # Errors
    /// The first schedule that says no time.
    pub fn new(windows: &[ReservedWindow]) -> Result<Self, Invalid> {
        let read = |window: &ReservedWindow| {
            let invalid = |error: croner::errors::CronError| Invalid {
                schedule: window.schedule.clone(),
                why: error.to_string(),
            };
            Ok(Window {
                begins: Cron::from_str(&window.schedule).map_err(invalid)?,
                lasts: SignedDuration::try_from(window.duration.get()).unwrap_or(SignedDuration::MAX),
                count: window.count,
            })
        };
        windows.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// How many instances are kept at `now`: of windows that overlap, the most.
    #[must_use]
    pub fn count(&self, now: Timestamp) -> u32 {
        self.0.iter().filter(|window| window.is_open(now)).map(|window| window.count).max().unwrap_or(0)
    }
}

impl Window {
    fn is_open(&self, now: Timestamp) -> bool {
        let now = now.to_zoned(TimeZone::UTC).datetime();
        // A schedule that has never been due, as on 30 February, opens nothing.
        let Ok(began) = self.begins.find_previous_occurrence(&now, true) else { return false };
        now.duration_since(began) < self.lasts
    }
}

#[cfg(test)]
mod tests {
    use hearth_function::HumanDuration;

    use super::*;

    fn windows(list: &[(&str, u64, u32)]) -> Result<Windows, Invalid> {
        let window = |&(schedule, minutes, count): &(&str, u64, u32)| ReservedWindow {
            schedule: schedule.to_owned(),
            duration: HumanDuration::from_secs(minutes * 60),
            count,
        };
        Windows::new(&list.iter().map(window).collect::<Vec<_>>())
    }

    #[test]
    fn a_window_is_open_from_its_beginning_to_its_end() {
        let office = windows(&[("0 8 * * 1-5", 600, 3)]).unwrap();
        // 2026-03-02 is a Monday.
        for (time, count) in [
            ("2026-03-02T07:59:59Z", 0),
            ("2026-03-02T08:00:00Z", 3),
            ("2026-03-02T17:59:59Z", 3),
            ("2026-03-02T18:00:00Z", 0),
            ("2026-03-07T12:00:00Z", 0),
        ] {
            assert_eq!(office.count(time.parse().unwrap()), count, "{time}");
        }
    }

    #[test]
    fn the_most_of_those_that_overlap_counts_and_one_may_last_over_midnight() {
        let both = windows(&[("0 22 * * *", 240, 2), ("30 23 * * *", 60, 5)]).unwrap();
        for (time, count) in [
            ("2026-03-02T23:00:00Z", 2),
            ("2026-03-03T00:15:00Z", 5),
            ("2026-03-03T01:00:00Z", 2),
            ("2026-03-03T02:00:00Z", 0),
        ] {
            assert_eq!(both.count(time.parse().unwrap()), count, "{time}");
        }
        assert_eq!(Windows::default().count(Timestamp::UNIX_EPOCH), 0);
    }

    #[test]
    fn what_is_no_schedule_is_told() {
        let error = windows(&[("0 25 * * *", 60, 1)]).unwrap_err();
        assert!(error.to_string().starts_with("\"0 25 * * *\" is not a schedule: "), "{error}");
    }
}
