//! How many `Pooled` instances a runtime class should have: runtime up, no code yet, for whichever function starts next.
//!
//! A pool hides cold starts as long as it lasts: until it is filled again, which takes a start. So what has to be in it is the most starts
//! that came within one such time, lately ([`Demand`]). It shrinks when that has not been seen for [`PoolPolicy::ttl`]. All classes share the
//! memory that there is for pools; where it is not enough for all, none is left without an instance for another's second (`allot.rs`).
//!
//! ```text
//!  start wanted ──► Demand (most starts within a refill, over the TTL) ──► PoolObservation ──► targets ──► PoolDecision
//! ```
//!
//! Worked example (a test below): five functions of one class start within 100 ms, a refill takes 200 ms. The pool should hold five; ten
//! minutes later, with no start since, it holds [`PoolPolicy::least`] again.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::reason::{Counted, Rounded};
use allot::{Wanted, allot};

mod allot;

/// Parts of the TTL that a peak is remembered in.
const PARTS: u32 = 20;

/// How large the pool of a runtime class may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPolicy {
    /// Kept whatever the demand. Default 1: the first call of a function that was just deployed meets a pooled instance. `OpenWhisk` keeps 2,
    /// Fission 3, of each runtime.
    pub least: u32,
    /// Never exceeded. Default 8: twice the reactive maximum of `OpenWhisk`'s stem cells; a burst beyond it is the function's own scaling.
    pub most: u32,
    /// How long a peak of demand keeps the pool as large. Default 10 min, `OpenWhisk`'s expiry check.
    pub ttl: Duration,
    /// Memory that pooled instances of all classes may hold together, in bytes. Default 512 MiB: eight of a runtime that holds 64 MiB.
    pub memory: u64,
}

impl Default for PoolPolicy {
    fn default() -> Self {
        Self { least: 1, most: 8, ttl: Duration::from_secs(600), memory: 512 << 20 }
    }
}

/// What is known of one runtime class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolObservation {
    /// Most starts of the class within one refill time, over the TTL: [`Demand::peak`].
    pub peak: u32,
    /// When a start of the class was last wanted; `None`: never.
    pub last_wanted: Option<Instant>,
    /// Memory that one pooled instance holds, in bytes; 0: not known.
    pub size: u64,
    /// Pooled instances there are, those being made with them.
    pub present: u32,
}

/// How many pooled instances there should be, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolDecision {
    /// Pooled instances there should be, those being made with them.
    pub desired: u32,
    /// What led to it.
    pub reason: PoolReason,
}

/// What led to the size of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolReason {
    /// No start was wanted for the TTL: the least is kept.
    Quiet {
        /// [`PoolPolicy::least`].
        least: u32,
    },
    /// So many starts came within one refill.
    Demand {
        /// How many.
        peak: u32,
        /// How long ago a start was last wanted.
        ago: Duration,
    },
    /// More would be useful than may be.
    Most {
        /// Starts that came within one refill.
        peak: u32,
        /// [`PoolPolicy::most`].
        most: u32,
    },
    /// More would be useful than there is memory for.
    Memory {
        /// What would be useful.
        wanted: u32,
        /// How many the memory is enough for.
        fits: u32,
    },
}

impl fmt::Display for PoolReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Quiet { least } => write!(f, "no start was wanted lately, and prewarm.size keeps {least}"),
            Self::Demand { peak, ago } => {
                let starts = Counted(peak, "start");
                write!(f, "up to {starts} wanted at once, the last {} ago", Rounded(ago))
            }
            Self::Most { peak, most } => {
                write!(f, "up to {} wanted at once, and prewarm.max allows {most}", Counted(peak, "start"))
            }
            Self::Memory { wanted, fits: 0 } => {
                write!(f, "{} wanted, and there is memory for none", Counted(wanted, "instance"))
            }
            Self::Memory { wanted, fits } => {
                write!(f, "{} wanted, and there is memory for {fits}", Counted(wanted, "instance"))
            }
        }
    }
}

/// Says how many pooled instances each of some runtime classes should have, which share `memory` bytes.
///
/// # Guarantees
/// * At most each one's `most`, and at least its `least` as far as memory goes.
/// * More demand never means a smaller pool of that class.
/// * What all of them come to is no more than `memory`; an eighth more where that is there already, and nobody lacks it.
#[must_use]
pub fn targets(memory: u64, pools: &[(PoolPolicy, PoolObservation)], now: Instant) -> Vec<PoolDecision> {
    let since = |(policy, seen): &(PoolPolicy, PoolObservation)| {
        seen.last_wanted.map(|at| now.saturating_duration_since(at)).filter(|ago| *ago < policy.ttl)
    };
    let wanted: Vec<Wanted> = pools
        .iter()
        .map(|pool| {
            let ((policy, seen), is_asked_for) = (pool, since(pool).is_some());
            let peak = if is_asked_for { seen.peak } else { 0 };
            let count = peak.max(policy.least).min(policy.most);
            Wanted { count, is_asked_for, size: seen.size, present: seen.present }
        })
        .collect();
    let given = allot(memory, &wanted);
    let decided = pools.iter().zip(&wanted).zip(given).map(|((pool, wanted), desired)| {
        let (policy, seen) = pool;
        let reason = match since(pool) {
            _ if desired < wanted.count => PoolReason::Memory { wanted: wanted.count, fits: desired },
            Some(_) if seen.peak > policy.most => PoolReason::Most { peak: seen.peak, most: policy.most },
            Some(ago) if seen.peak > policy.least => PoolReason::Demand { peak: seen.peak, ago },
            _ => PoolReason::Quiet { least: policy.least },
        };
        PoolDecision { desired, reason }
    });
    decided.collect()
}

/// Remembers the demand for instances of one runtime class.
#[derive(Debug, Clone)]
pub struct Demand {
    refill: Duration,
    part: Duration,
    began: Instant,
    /// Starts wanted within the last refill time.
    recent: VecDeque<Instant>,
    /// Highest count of `recent` in each part of the TTL, with the number of the part, oldest first: at most [`PARTS`].
    peaks: VecDeque<(u64, u32)>,
    last: Option<Instant>,
}

/// Starts within one refill time that are told apart: more is more than any pool holds.
const RECENT: usize = 1024;

impl Demand {
    /// Nothing was wanted yet. `refill`: how long it takes to make a pooled instance, at least 1 ms.
    #[must_use]
    pub fn new(policy: &PoolPolicy, refill: Duration, now: Instant) -> Self {
        Self {
            refill: refill.max(Duration::from_millis(1)),
            part: (policy.ttl / PARTS).max(Duration::from_millis(1)),
            began: now,
            recent: VecDeque::new(),
            peaks: VecDeque::new(),
            last: None,
        }
    }

    /// A refill takes so long now.
    pub fn refill(&mut self, took: Duration) {
        self.refill = took.max(Duration::from_millis(1));
    }

    /// A start of this class is wanted, whether the pool had an instance for it or not.
    pub fn wanted(&mut self, now: Instant) {
        self.last = self.last.max(Some(now));
        while self.recent.front().is_some_and(|at| now.saturating_duration_since(*at) >= self.refill) {
            self.recent.pop_front();
        }
        if self.recent.len() < RECENT {
            self.recent.push_back(now);
        }
        let count = u32::try_from(self.recent.len()).unwrap_or(u32::MAX);
        let part = self.part_of(now);
        self.forget(part);
        match self.peaks.back_mut() {
            Some((last, peak)) if *last >= part => *peak = (*peak).max(count),
            _ => self.peaks.push_back((part, count)),
        }
    }

    /// Most starts within one refill time, over the TTL.
    #[must_use]
    pub fn peak(&self, now: Instant) -> u32 {
        let oldest = self.part_of(now).saturating_sub(u64::from(PARTS));
        self.peaks
            .iter()
            .filter(|(part, _)| *part > oldest || oldest == 0)
            .map(|(_, peak)| *peak)
            .max()
            .unwrap_or(0)
    }

    /// When a start was last wanted.
    #[must_use]
    pub fn last_wanted(&self) -> Option<Instant> {
        self.last
    }

    fn part_of(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.began).as_nanos() / self.part.as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }

    fn forget(&mut self, part: u64) {
        while self.peaks.front().is_some_and(|(old, _)| old + u64::from(PARTS) <= part) {
            self.peaks.pop_front();
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const POLICY: PoolPolicy =
        PoolPolicy { least: 1, most: 8, ttl: Duration::from_secs(600), memory: 512 << 20 };

    fn seen(peak: u32, now: Instant) -> PoolObservation {
        PoolObservation { peak, last_wanted: Some(now), size: 64 << 20, present: 0 }
    }

    fn target(memory: u64, seen: PoolObservation, now: Instant) -> PoolDecision {
        targets(memory, &[(POLICY, seen)], now)[0]
    }

    #[test]
    fn the_worked_example() {
        let start = Instant::now();
        let mut demand = Demand::new(&POLICY, 200 * MS, start);
        for step in 0..5 {
            demand.wanted(start + step * 20 * MS);
        }
        demand.wanted(start + 5000 * MS);
        let at = |now| PoolObservation {
            peak: demand.peak(now),
            last_wanted: demand.last_wanted(),
            ..seen(0, start)
        };
        let soon = start + Duration::from_secs(60);
        let decision = target(POLICY.memory, at(soon), soon);
        assert_eq!(decision.desired, 5);
        assert_eq!(decision.reason.to_string(), "up to 5 starts wanted at once, the last 55 s ago");
        let later = start + Duration::from_secs(606);
        let decision = target(POLICY.memory, at(later), later);
        assert_eq!((decision.desired, decision.reason), (1, PoolReason::Quiet { least: 1 }));
    }

    #[test]
    fn an_old_peak_is_forgotten_while_starts_go_on() {
        let start = Instant::now();
        let mut demand = Demand::new(&POLICY, 200 * MS, start);
        (0..6).for_each(|_| demand.wanted(start));
        for minute in 1..=11 {
            let now = start + Duration::from_secs(60 * minute);
            demand.wanted(now);
            assert_eq!(demand.peak(now), if minute < 10 { 6 } else { 1 }, "{minute}");
        }
    }

    #[test]
    fn limits_are_named() {
        let now = Instant::now();
        let (plenty, two) = (POLICY.memory, 128 << 20);
        let table = [
            (plenty, seen(0, now), 1, "no start was wanted lately, and prewarm.size keeps 1"),
            (plenty, seen(12, now), 8, "up to 12 starts wanted at once, and prewarm.max allows 8"),
            (two, seen(5, now), 2, "5 instances wanted, and there is memory for 2"),
            (0, seen(5, now), 0, "5 instances wanted, and there is memory for none"),
            (
                0,
                PoolObservation { size: 0, ..seen(5, now) },
                5,
                "up to 5 starts wanted at once, the last 0.0 ms ago",
            ),
        ];
        for (memory, seen, desired, reason) in table {
            let decision = target(memory, seen, now);
            assert_eq!(
                (decision.desired, decision.reason.to_string().as_str()),
                (desired, reason),
                "{seen:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_pool_keeps_within_its_bounds_and_grows_with_demand(
            peak in 0u32..50, more in 0u32..50, least in 0u32..10, extra in 0u32..20, ago in 0u64..1200,
            size in 0u64..(200 << 20), present in 0u32..20,
            others in prop::collection::vec((0u32..20, any::<bool>(), 0u64..(200 << 20), 0u32..20), 0..6),
        ) {
            let now = Instant::now() + Duration::from_secs(1200);
            let policy = PoolPolicy { least, most: least + extra, ..POLICY };
            let last_wanted = now.checked_sub(Duration::from_secs(ago));
            let seen = PoolObservation { peak, last_wanted, size, present };
            let all = |seen| {
                let other = |&(peak, asked, size, present): &(u32, bool, u64, u32)| {
                    (POLICY, PoolObservation { peak, last_wanted: asked.then_some(now), size, present })
                };
                let all: Vec<_> = [(policy, seen)].into_iter().chain(others.iter().map(other)).collect();
                let decisions = targets(policy.memory, &all, now);
                let bytes = |((_, seen), decision): (&(_, PoolObservation), &PoolDecision)| {
                    u64::from(decision.desired) * seen.size
                };
                let sum: u64 = all.iter().zip(&decisions).map(bytes).sum();
                (decisions[0], sum)
            };
            let (decision, sum) = all(seen);
            prop_assert!(decision.desired <= policy.most);
            let fits = decision.desired >= least || matches!(decision.reason, PoolReason::Memory { .. });
            prop_assert!(fits);
            prop_assert!(sum <= policy.memory + policy.memory / 8);
            let (greater, _) = all(PoolObservation { peak: peak + more, ..seen });
            prop_assert!(greater.desired >= decision.desired);
        }
    }
}
