//! When to try again after a start failed, and when those who wait are told so instead of being left to wait.
//!
//! ```text
//!            failed                       time is up                 failed
//!  Healthy ─────────► Waiting { until } ─────────────► Trial ─────────────────► Waiting, for twice as long
//!     ▲                                                  │
//!     └──────────────────────── succeeded ───────────────┘
//! ```
//!
//! Starts that were under way together and fail together are one failure. While a trial is due only one instance is started: a function
//! that is broken costs one start each time, not `max`.

use std::time::{Duration, Instant};

/// How long to wait after failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackoffPolicy {
    /// After the first failure. Default 1 s.
    pub first: Duration,
    /// Never longer than this. Default 60 s: a function that was mended outside (a database is back) is up within a minute.
    pub longest: Duration,
    /// Failures of the platform that are tried again at once before anyone is told. Default 2.
    pub platform_retries: u32,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(60), platform_retries: 2 }
    }
}

/// Whose fault a failed start is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The function's: its code does not load, its process ends. The same will happen again.
    Function,
    /// The platform's: a container could not be made. Likely to go away by itself.
    Platform,
}

/// What to do after a failed start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// Those who wait go on waiting: other instances are there or coming, or it is tried again at once.
    Retry {
        /// When a start may be tried again.
        at: Instant,
    },
    /// Nobody else is coming: those who wait are told now, and those who come before `retry_after` has passed too.
    FailWaiting {
        /// How long until a start is tried again.
        retry_after: Duration,
    },
}

/// How many starts are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// As many as are wanted.
    Free,
    /// One, and no second beside it: the last one failed.
    Trial,
    /// None before then.
    None {
        /// When a trial is due.
        until: Instant,
    },
}

/// The back-off of one Revision's starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    policy: BackoffPolicy,
    failures: u32,
    platform_failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// One that has seen no failure.
    #[must_use]
    pub fn new(policy: BackoffPolicy) -> Self {
        Self { policy, failures: 0, platform_failures: 0, until: None }
    }

    /// A start failed while `others` of the Revision's instances are ready or starting. `jitter`, from 0 to 1, is drawn by the caller: the
    /// wait is between 80 % and 120 % of its nominal length by it, so that functions that failed together are not tried together.
    pub fn failed(&mut self, fault: Fault, others: u32, jitter: f64, now: Instant) -> AfterFailure {
        if let Some(until) = self.until.filter(|until| *until > now) {
            // It was under way together with the one that failed before.
            return self.verdict(others, until, now);
        }
        if fault == Fault::Platform && self.platform_failures < self.policy.platform_retries {
            self.platform_failures += 1;
            return AfterFailure::Retry { at: now };
        }
        let doubled = 2u32.saturating_pow(self.failures.min(31));
        let nominal = self.policy.first.saturating_mul(doubled).min(self.policy.longest);
        let wait = nominal.mul_f64(0.8 + 0.4 * jitter.clamp(0.0, 1.0)).min(self.policy.longest);
        self.failures = self.failures.saturating_add(1);
        let until = now + wait;
        self.until = Some(until);
        self.verdict(others, until, now)
    }

    /// Somebody has a reason to think that it comes up now: a trial is due at once. That those before failed still counts.
    pub fn hurry(&mut self, now: Instant) {
        self.until = self.until.map(|until| until.min(now));
    }

    /// A start succeeded: all is forgotten.
    pub fn succeeded(&mut self) {
        *self = Self::new(self.policy);
    }

    /// How many starts are allowed now.
    #[must_use]
    pub fn allowance(&self, now: Instant) -> Allowance {
        match self.until {
            None => Allowance::Free,
            Some(until) if until > now => Allowance::None { until },
            Some(_) => Allowance::Trial,
        }
    }

    /// Of `wanted` starts, how many may begin now, with `starting` under way.
    #[must_use]
    pub fn allow(&self, wanted: u32, starting: u32, now: Instant) -> u32 {
        match self.allowance(now) {
            Allowance::Free => wanted,
            Allowance::Trial => wanted.min(1u32.saturating_sub(starting)),
            Allowance::None { .. } => 0,
        }
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    fn verdict(&self, others: u32, until: Instant, now: Instant) -> AfterFailure {
        if others > 0 {
            AfterFailure::Retry { at: until }
        } else {
            AfterFailure::FailWaiting { retry_after: until.saturating_duration_since(now) }
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_that_is_hurried_is_tried_at_once_and_alone_and_waits_longer_when_it_fails() {
        let now = Instant::now();
        let mut backoff = Backoff::new(BackoffPolicy::default());
        backoff.hurry(now);
        assert_eq!(backoff.allowance(now), Allowance::Free);
        backoff.failed(Fault::Function, 0, 0.5, now);
        backoff.hurry(now);
        assert_eq!((backoff.allow(3, 0, now), backoff.allow(3, 1, now)), (1, 0));
        let verdict = backoff.failed(Fault::Function, 0, 0.5, now);
        assert_eq!(verdict, AfterFailure::FailWaiting { retry_after: 2 * SECOND });
    }

    #[test]
    fn it_doubles_up_to_the_longest_and_forgets_at_a_success() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(BackoffPolicy::default());
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let AfterFailure::FailWaiting { retry_after } = backoff.failed(Fault::Function, 0, 0.5, now)
            else {
                panic!("nobody else is coming")
            };
            assert_eq!(retry_after, seconds * SECOND);
            assert_eq!(backoff.allowance(now), Allowance::None { until: now + retry_after });
            now += retry_after;
            assert_eq!(backoff.allow(5, 0, now), 1);
            assert_eq!(backoff.allow(5, 1, now), 0);
        }
        backoff.succeeded();
        assert_eq!(backoff.allow(5, 3, now), 5);
        assert_eq!(backoff.failures(), 0);
    }

    #[test]
    fn starts_that_fail_together_are_one_failure() {
        let now = Instant::now();
        let mut backoff = Backoff::new(BackoffPolicy::default());
        assert_eq!(backoff.failed(Fault::Function, 2, 0.5, now), AfterFailure::Retry { at: now + SECOND });
        assert_eq!(backoff.failed(Fault::Function, 1, 0.9, now), AfterFailure::Retry { at: now + SECOND });
        assert_eq!(
            backoff.failed(Fault::Function, 0, 0.0, now + SECOND / 2),
            AfterFailure::FailWaiting { retry_after: SECOND / 2 }
        );
        assert_eq!(backoff.failures(), 1);
    }

    #[test]
    fn the_platform_is_given_another_chance_before_anyone_is_told() {
        let now = Instant::now();
        let mut backoff = Backoff::new(BackoffPolicy::default());
        assert_eq!(backoff.failed(Fault::Platform, 0, 0.5, now), AfterFailure::Retry { at: now });
        assert_eq!(backoff.failed(Fault::Platform, 0, 0.5, now), AfterFailure::Retry { at: now });
        assert_eq!(
            backoff.failed(Fault::Platform, 0, 0.5, now),
            AfterFailure::FailWaiting { retry_after: SECOND }
        );
    }

    proptest! {
        #[test]
        fn a_wait_keeps_within_its_bounds(failures in 0u32..100, jitter in -1.0f64..2.0) {
            let policy = BackoffPolicy::default();
            let mut now = Instant::now();
            let mut backoff = Backoff::new(policy);
            for _ in 0..=failures {
                let AfterFailure::FailWaiting { retry_after } = backoff.failed(Fault::Function, 0, jitter, now) else {
                    return Err(TestCaseError::fail("nobody else is coming"));
                };
                prop_assert!(retry_after >= policy.first.mul_f64(0.79) && retry_after <= policy.longest);
                now += retry_after;
            }
        }
    }
}
