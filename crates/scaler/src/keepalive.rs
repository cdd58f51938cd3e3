//! How long the last instance stays after the last call, and when it comes back ahead of the next: learned from the function's own idle times.
//!
//! After the hybrid histogram policy of "Serverless in the Wild" (USENIX ATC '20), with three differences:
//! * The bins are geometric, 2 % wide from a second to a day, in place of minutes up to four hours: an hour is known to a minute and ten
//!   seconds to a tenth of one.
//! * Between its head (5 %) and its tail (99 %) the window ends where it pays best: each second of an idle instance costs a second, each call
//!   that finds it is worth [`KeepAlivePolicy::price`]. A tail that would be kept for a call in a hundred is cut, and an instance whose calls
//!   come too rarely and too irregularly is not kept at all.
//! * Where the histogram says nothing yet, the fixed idle timeout holds, and not the whole range.
//!
//! ```text
//!   last call                      expected               tail
//!      ├── keep ──┤   (no instance)   ├──── prewarmed ────┤
//!      0          k                   p                   e      idle time ──►
//! ```
//!
//! Worked example (a test below): a function is called every five minutes, give or take four seconds. Its instance goes 10 s after the call
//! and is there again from 4:47 after it until 5:13: 36 s of the 300 are paid for, and no call meets a cold start.

use std::time::Duration;

/// Each bin is so many times as wide as the one before it.
const RATIO: f64 = 1.02;

/// Where the first bin ends: shorter idle times are not told apart, an instance is never stopped so soon.
const SHORTEST: Duration = Duration::from_secs(1);

/// Bins, the first included: enough for a day, as `1.02^574 s` is 24 h. Longer idle times are counted as out of range.
const BINS: usize = 575;

/// When so many idle times are counted, all counts are halved: what has changed is learned within as many calls again.
const FORGET_AT: u32 = 512;

/// An idle time is counted as so much, so that halving keeps what was seen once.
const UNIT: u16 = 4;

/// How keep-alive is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlivePolicy {
    /// Idle times that must have been seen before anything is concluded. Default 4: what is called every quarter of an hour is known after one.
    pub least_history: u32,
    /// Share of idle times, in hundredths, that are shorter than the time at which a prewarmed instance must be there. Default 5, the paper's.
    pub head: u8,
    /// Share of idle times, in hundredths, beyond which nothing is kept. Default 99, the paper's.
    pub tail: u8,
    /// Both ends are moved outwards by this share of themselves, in hundredths. Default 3: the histogram's bins are finer than the
    /// paper's, whose margin is 10.
    pub margin: u8,
    /// Coefficient of variation of the bins' counts, in hundredths, below which the histogram has no shape to learn from. Default 100: the
    /// paper's 2 is for even bins; over geometric ones, idle times without memory (exponential) have 1.6, and those can be learned.
    pub least_variation: u32,
    /// The shortest time an instance stays after a call. Default 10 s: quick follow-ups of one visitor.
    pub least_keep: Duration,
    /// How long an instance may have idled, on average, for each call that it saves from a start. Default 90 s: with a pool, what is
    /// saved is a start out of it; in simulation, what Knative pays for less (`bench/simulate.py`).
    pub price: Duration,
}

impl Default for KeepAlivePolicy {
    fn default() -> Self {
        Self {
            least_history: 4,
            head: 5,
            tail: 99,
            margin: 3,
            least_variation: 100,
            least_keep: Duration::from_secs(10),
            price: Duration::from_secs(90),
        }
    }
}

/// What the history says of the time after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlook {
    /// How long after the last call the last instance stays.
    pub keep: Duration,
    /// The time after the last call in which an instance is there again, ahead of the next call; never begins before `keep` ends.
    pub again: Option<(Duration, Duration)>,
    /// How many idle times this was concluded from.
    pub from: u32,
}

/// The idle times of one function.
#[derive(Debug, Clone, Default)]
pub struct IdleTimes {
    /// Each [`UNIT`] for an idle time; none until there was one.
    bins: Vec<u16>,
    in_range: u32,
    out_of_range: u32,
}

impl IdleTimes {
    /// Counts the time between the end of one call and the beginning of the next.
    pub fn note(&mut self, idle: Duration) {
        if self.bins.is_empty() {
            self.bins = vec![0; BINS];
        }
        match self.bins.get_mut(bin_of(idle)) {
            Some(bin) => {
                *bin = bin.saturating_add(UNIT);
                self.in_range += u32::from(UNIT);
            }
            None => self.out_of_range += u32::from(UNIT),
        }
        if self.in_range + self.out_of_range >= FORGET_AT * u32::from(UNIT) {
            self.bins.iter_mut().for_each(|bin| *bin /= 2);
            self.in_range = self.bins.iter().map(|bin| u32::from(*bin)).sum();
            self.out_of_range /= 2;
        }
    }

    /// How many idle times are remembered.
    #[must_use]
    pub fn count(&self) -> u32 {
        (self.in_range + self.out_of_range) / u32::from(UNIT)
    }

    /// What is to be expected after a call; `None` while the history is thin or has no shape.
    #[must_use]
    pub fn outlook(&self, policy: &KeepAlivePolicy) -> Option<Outlook> {
        let total = self.in_range + self.out_of_range;
        if self.count() < policy.least_history || self.in_range == 0 {
            return None;
        }
        if self.variation() * 100.0 < f64::from(policy.least_variation) {
            return None;
        }
        let margin = f64::from(policy.margin) / 100.0;
        let head = start_of(self.percentile(policy.head)) * (1.0 - margin);
        let tail = self.percentile(policy.tail);
        let least = policy.least_keep.as_secs_f64();

        let stay = self.best(policy, 0.0, tail, total);
        // Going and coming back is worth it only for a gap longer than the shortest stay.
        let come_back = (head > 2.0 * least).then(|| self.best(policy, head, tail, total));
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let outlook = match come_back {
            Some(window) if window.gain > stay.gain && window.gain > 0.0 => Outlook {
                keep: policy.least_keep,
                again: Some((seconds(head), seconds(window.until * (1.0 + margin)))),
                from: self.count(),
            },
            _ => Outlook {
                keep: seconds((stay.until * (1.0 + margin)).max(least)),
                again: None,
                from: self.count(),
            },
        };
        Some(outlook)
    }

    /// The best end of a window that begins at `begin`: the one that gains most.
    fn best(&self, policy: &KeepAlivePolicy, begin: f64, last: usize, total: u32) -> Best {
        let price = policy.price.as_secs_f64();
        let total = f64::from(total);
        let mut best = Best { until: 0.0, gain: 0.0 };
        // Of calls that came within the window: how many, and how long the instance had idled for them together.
        let (mut hits, mut waited, mut before) = (0.0, 0.0, 0.0);
        for (number, count) in self.bins.iter().enumerate().take(last + 1) {
            if *count == 0 {
                continue;
            }
            let (from, until) = (start_of(number), end_of(number));
            let count = f64::from(*count);
            if until <= begin {
                before += count;
                continue;
            }
            hits += count;
            waited += count * ((from + until) / 2.0 - begin).max(0.0);
            let missed = total - hits - before;
            let gain = (hits * price - waited - missed * (until - begin)) / total;
            if gain > best.gain {
                best = Best { until, gain };
            }
        }
        best
    }

    /// The bin below which so many hundredths of the idle times in range lie, or the one that holds the last of them.
    fn percentile(&self, hundredths: u8) -> usize {
        let wanted = f64::from(self.in_range) * f64::from(hundredths.min(100)) / 100.0;
        let mut seen = 0.0;
        for (number, count) in self.bins.iter().enumerate() {
            seen += f64::from(*count);
            if seen > 0.0 && seen >= wanted {
                return number;
            }
        }
        BINS - 1
    }

    /// Coefficient of variation of the counts: 0 when every bin has as many, large when few bins have them all.
    fn variation(&self) -> f64 {
        let bins = BINS as f64;
        let mean = f64::from(self.in_range) / bins;
        let squares: f64 = self.bins.iter().map(|count| (f64::from(*count) - mean).powi(2)).sum();
        if mean > 0.0 { (squares / bins).sqrt() / mean } else { 0.0 }
    }
}

struct Best {
    /// Seconds after the last call.
    until: f64,
    /// Seconds gained for each call.
    gain: f64,
}

/// The bin of an idle time: [`BINS`] when it is out of range.
fn bin_of(idle: Duration) -> usize {
    if idle < SHORTEST {
        return 0;
    }
    let bin = (idle.as_secs_f64() / SHORTEST.as_secs_f64()).ln() / RATIO.ln();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a logarithm of a number from 1 on"
    )]
    let bin = bin as usize + 1;
    bin.min(BINS)
}

/// Where a bin begins, in seconds.
fn start_of(bin: usize) -> f64 {
    if bin == 0 {
        0.0
    } else {
        SHORTEST.as_secs_f64() * RATIO.powi(i32::try_from(bin - 1).unwrap_or(i32::MAX))
    }
}

/// Where a bin ends, in seconds.
fn end_of(bin: usize) -> f64 {
    SHORTEST.as_secs_f64() * RATIO.powi(i32::try_from(bin).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn learned(idle: impl IntoIterator<Item = f64>) -> IdleTimes {
        let mut times = IdleTimes::default();
        idle.into_iter().for_each(|seconds| times.note(Duration::from_secs_f64(seconds)));
        times
    }

    fn outlook(idle: impl IntoIterator<Item = f64>) -> Option<Outlook> {
        learned(idle).outlook(&KeepAlivePolicy::default())
    }

    #[test]
    fn the_worked_example() {
        let outlook = outlook((0..20).map(|call| 296.0 + f64::from(call % 9))).unwrap();
        assert_eq!(outlook.keep, 10 * SECOND);
        let (from, until) = outlook.again.unwrap();
        assert!(from > 270 * SECOND && from < 292 * SECOND, "{from:?}");
        assert!(until > 304 * SECOND && until < 325 * SECOND, "{until:?}");
        assert_eq!(outlook.from, 20);
    }

    #[test]
    fn a_thin_history_says_nothing() {
        assert_eq!(outlook([]), None);
        assert_eq!(outlook([300.0; 3]), None);
        assert!(outlook([300.0; 4]).is_some());
        // Two days apart, always: nothing is in range.
        assert_eq!(outlook([172_800.0; 50]), None);
    }

    #[test]
    fn follow_ups_are_waited_for_and_what_comes_once_a_day_is_not() {
        // A visitor calls every 5 s a few times, and comes again hours later.
        let visits = (0..60).map(|call| if call % 6 == 0 { 9000.0 + f64::from(call) * 700.0 } else { 5.0 });
        let outlook = outlook(visits).unwrap();
        assert_eq!((outlook.keep, outlook.again), (10 * SECOND, None));
    }

    #[test]
    fn irregular_calls_are_waited_for_while_that_pays() {
        // Exponential idle times: quantiles of a mean of 60 s, well below the price, and of 5 h, far above it.
        let exponential =
            |mean: f64| (0..100).map(move |call| -mean * (1.0 - (f64::from(call) + 0.5) / 100.0_f64).ln());
        let often = outlook(exponential(60.0)).unwrap();
        assert!(often.again.is_none() && often.keep > 150 * SECOND && often.keep < 400 * SECOND, "{often:?}");
        let rarely = outlook(exponential(18_000.0)).unwrap();
        assert!(rarely.again.is_none() && rarely.keep < 120 * SECOND, "{rarely:?}");
    }

    #[test]
    fn a_change_is_learned() {
        let mut times = learned([300.0; 2000]);
        assert!(times.count() < FORGET_AT);
        (0..600).for_each(|_| times.note(20 * SECOND));
        let outlook =
            times.outlook(&KeepAlivePolicy { price: SECOND, ..KeepAlivePolicy::default() }).unwrap();
        assert_eq!(outlook.again.map(|(_, until)| until), None, "{outlook:?}");
    }

    #[test]
    fn bins_meet() {
        for bin in 0..BINS {
            assert!((end_of(bin) - start_of(bin + 1)).abs() < 1e-6);
            let middle = f64::midpoint(start_of(bin), end_of(bin));
            assert_eq!(bin_of(Duration::from_secs_f64(middle)), bin);
        }
        assert_eq!(bin_of(Duration::from_secs(86_000)), BINS - 1);
        assert_eq!(bin_of(Duration::from_secs(172_800)), BINS);
    }

    proptest! {
        #[test]
        fn what_is_concluded_is_sound(idle in proptest::collection::vec(0.0f64..200_000.0, 0..200), price in 1u64..7200) {
            let policy = KeepAlivePolicy { price: Duration::from_secs(price), ..KeepAlivePolicy::default() };
            if let Some(outlook) = learned(idle).outlook(&policy) {
                prop_assert!(outlook.keep >= policy.least_keep);
                prop_assert!(outlook.keep <= Duration::from_secs(100_000));
                if let Some((from, until)) = outlook.again {
                    prop_assert!(from >= outlook.keep && until > from, "{outlook:?}");
                }
            }
        }

        #[test]
        fn a_period_is_prewarmed(period in 30.0f64..1_000.0, calls in 6usize..100) {
            let outlook = outlook(std::iter::repeat_n(period, calls)).unwrap();
            let (from, until) = outlook.again.unwrap();
            let period = Duration::from_secs_f64(period);
            prop_assert!(from < period && period < until, "{outlook:?} {period:?}");
            // What is paid is a few hundredths of the period.
            prop_assert!(until - from < period / 8, "{outlook:?} {period:?}");
        }
    }
}
