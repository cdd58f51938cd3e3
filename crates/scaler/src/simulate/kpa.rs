//! Knative's pod autoscaler, to be compared with: its rule (`pkg/autoscaler/scaling/autoscaler.go`, read, not copied), with its defaults.
//!
//! What is left out makes it look better than it is: pods report without delay, the activator is always in the path, nothing keeps the last
//! pod after the stable window (the grace period is a limit for the network to follow). Checked against Knative's own table tests below.

use std::time::{Duration, Instant};

/// Knative's settings (`config-autoscaler`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// What one pod should bear on average.
    pub target: f64,
    /// `stable-window`.
    pub stable_window: Duration,
    /// `panic-threshold-percentage` / 100.
    pub panic_threshold: f64,
    /// `max-scale-up-rate`.
    pub max_up: f64,
    /// `max-scale-down-rate`.
    pub max_down: f64,
    /// `scale-down-delay`.
    pub scale_down_delay: Duration,
    /// `activation-scale`.
    pub activation: u32,
    /// Whether routes lead there.
    pub reachable: bool,
}

impl Settings {
    /// The defaults, for pods that run `limit` calls at once and should be filled to 70 %.
    #[must_use]
    pub fn with_limit(limit: u32) -> Self {
        Self {
            target: f64::from(limit) * 0.7,
            stable_window: Duration::from_secs(60),
            panic_threshold: 2.0,
            max_up: 1000.0,
            max_down: 2.0,
            scale_down_delay: Duration::ZERO,
            activation: 1,
            reachable: true,
        }
    }
}

/// The state between two ticks.
#[derive(Debug, Clone)]
pub struct Kpa {
    settings: Settings,
    panic: Option<Instant>,
    max_panic: f64,
    /// What was wanted within the scale-down delay.
    delayed: Vec<(Instant, f64)>,
}

impl Kpa {
    /// An autoscaler that has seen nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, panic: None, max_panic: 0.0, delayed: Vec::new() }
    }

    /// How many pods there should be, from the averages over the stable and the panic window. To be asked every 2 s.
    pub fn scale(&mut self, ready: u32, stable: f64, panic: f64, now: Instant) -> u32 {
        let settings = &self.settings;
        let serving = f64::from(ready.max(1));
        let most = (settings.max_up * serving).ceil();
        let least = if settings.reachable { (serving / settings.max_down).floor() } else { 0.0 };
        let lift = |wanted: f64| {
            let bounded = wanted.max(least).min(most);
            if settings.activation > 1 && wanted > 0.0 {
                bounded.max(f64::from(settings.activation))
            } else {
                bounded
            }
        };
        let for_stable = (stable / settings.target).ceil();
        let for_panic = (panic / settings.target).ceil();
        let over = for_panic / serving >= settings.panic_threshold;

        if over {
            self.panic = Some(now);
        } else if self.panic.is_some_and(|since| now > since + settings.stable_window) {
            (self.panic, self.max_panic) = (None, 0.0);
        }
        let mut desired = lift(for_stable);
        if self.panic.is_some() {
            self.max_panic = self.max_panic.max(desired).max(lift(for_panic));
            desired = self.max_panic;
        }
        if !settings.scale_down_delay.is_zero() {
            let delay = settings.scale_down_delay;
            self.delayed.push((now, desired));
            // A window of whole ticks: what is exactly as old as the delay still counts.
            self.delayed.retain(|(at, _)| now.saturating_duration_since(*at) < delay);
            desired = self.delayed.iter().map(|(_, desired)| *desired).fold(desired, f64::max);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, not negative, and the cast saturates"
        )]
        let desired = desired as u32;
        desired
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests {
    use super::*;

    fn settings(target: f64) -> Settings {
        Settings { target, max_up: 10.0, max_down: 10.0, ..Settings::with_limit(1) }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// `TestAutoscalerScale` and the single-step tests beside it: (name, settings, ready, stable, panic, wanted).
    #[test]
    fn one_step_as_in_knatives_table() {
        let slow_up = Settings { max_up: 1.1, ..settings(1.0) };
        let slow_down = Settings { max_down: 1.1, ..settings(10.0) };
        let activation = Settings { activation: 2, ..settings(10.0) };
        let table = [
            ("no data at zero", settings(10.0), 1, 0.0, 0.0, 0),
            ("stable, unlimited burst capacity", settings(181.0), 1, 21.0, 26.0, 1),
            ("stable, no burst capacity", settings(10.0), 1, 50.0, 49.0, 5),
            ("stable, no change", settings(10.0), 1, 50.0, 50.0, 5),
            ("already scaled", settings(10.0), 5, 50.0, 50.0, 5),
            ("small scale-up rate", slow_up, 2, 3.0, 3.1, 3),
            ("small scale-down rate", slow_down, 100, 1.0, 1.0, 90),
            ("not reachable", Settings { reachable: false, ..slow_down }, 100, 1.0, 1.0, 1),
            ("panic doubles", settings(10.0), 1, 50.0, 100.0, 10),
            ("stable increase", settings(10.0), 1, 100.0, 10.0, 10),
            ("stable increase to its limit", settings(10.0), 1, 50.0, 10.0, 5),
            ("stable decrease", settings(10.0), 8, 50.0, 50.0, 5),
            ("one call", settings(10.0), 1, 1.0, 0.0, 1),
            ("no traffic", settings(10.0), 1, 0.0, 0.0, 0),
            ("activation, no need", activation, 1, 0.0, 0.0, 0),
            ("activation", activation, 1, 1.0, 0.0, 2),
            ("rate limit up", settings(10.0), 1, 1000.0, 1001.0, 10),
            ("rate limit up again", settings(10.0), 10, 1000.0, 1001.0, 100),
            ("rate limit down", settings(10.0), 100, 1.0, 1.0, 10),
            ("rate limit down again", settings(10.0), 10, 1.0, 1.0, 1),
            ("no endpoints count as one", settings(10.0), 0, 1000.0, 888.0, 10),
        ];
        for (name, settings, ready, stable, panic, wanted) in table {
            assert_eq!(Kpa::new(settings).scale(ready, stable, panic, Instant::now()), wanted, "{name}");
        }
    }

    #[test]
    fn in_a_panic_the_larger_of_both_counts() {
        let now = Instant::now() + 60 * SECOND;
        for (stable, panic, wanted) in [(50.0, 30.0, 50), (20.0, 30.0, 30)] {
            let mut kpa = Kpa {
                panic: Some(now),
                max_panic: 5.0,
                ..Kpa::new(Settings { max_up: 10.0, ..settings(1.0) })
            };
            assert_eq!(kpa.scale(5, stable, panic, now + 5 * SECOND), wanted);
        }
    }

    #[test]
    fn a_panic_ends_after_a_slow_increase_and_is_extended_by_a_fast_one() {
        let start = Instant::now();
        let mut slow = Kpa::new(settings(1.0));
        assert_eq!(slow.scale(10, 11.0, 25.0, start), 25);
        let mut fast = slow.clone();
        assert_eq!(slow.scale(40, 30.0, 41.0, start + 30 * SECOND), 41);
        assert_eq!(slow.scale(55, 50.0, 56.0, start + 62 * SECOND), 50);
        assert_eq!(slow.panic, None);
        assert_eq!(fast.scale(40, 30.0, 80.0, start + 30 * SECOND), 80);
        assert_eq!(fast.panic, Some(start + 30 * SECOND));
    }

    #[test]
    fn an_exponential_increase_is_followed_and_held() {
        let mut now = Instant::now();
        let mut kpa = Kpa::new(settings(1.0));
        for (ready, calls) in [(1, 6.0), (6, 36.0), (36, 216.0), (216, 1296.0), (1296, 1296.0)] {
            assert_eq!(f64::from(kpa.scale(ready, calls, calls, now)), calls);
            now += SECOND;
        }
    }

    #[test]
    fn a_panic_is_not_undone_before_the_window_is_over() {
        let start = Instant::now();
        let mut kpa = Kpa::new(settings(10.0));
        assert_eq!(kpa.scale(1, 100.0, 100.0, start), 10);
        assert_eq!(kpa.scale(10, 100.0, 1000.0, start), 100);
        assert_eq!(kpa.scale(10, 1.0, 1.0, start + 30 * SECOND), 100);
        assert_eq!(kpa.scale(10, 1.0, 1.0, start + 61 * SECOND), 1);
    }

    #[test]
    fn a_scale_down_delay_holds_the_highest() {
        let start = Instant::now();
        let minute = 60 * SECOND;
        let delay = Settings { panic_threshold: 100.0, scale_down_delay: 5 * minute, ..settings(10.0) };
        let mut kpa = Kpa::new(delay);
        let table = [
            (2 * SECOND, 40.0, 4),
            (5 * minute, 0.0, 4),
            (5 * minute + 2 * SECOND, 0.0, 0),
            (9 * minute, 40.0, 4),
            (10 * minute, 30.0, 4),
            (11 * minute, 0.0, 4),
            (14 * minute, 0.0, 3),
            (15 * minute, 0.0, 0),
        ];
        for (after, calls, wanted) in table {
            assert_eq!(kpa.scale(0, calls, calls, start + after), wanted, "{after:?}");
        }
        let mut none = Kpa::new(Settings { scale_down_delay: Duration::ZERO, ..delay });
        assert_eq!(none.scale(0, 40.0, 40.0, start), 4);
        assert_eq!(none.scale(0, 20.0, 20.0, start + SECOND / 2), 2);
    }
}
