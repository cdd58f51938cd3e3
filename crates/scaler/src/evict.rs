//! Which warmth goes first when memory is short: greedy-dual, as in `FaaSCache` (ASPLOS '21).
//!
//! Each warm instance is worth `clock + start cost × frequency / size`: what its loss would cost, per byte it holds. The clock stands at the
//! worth of the last one that went, so that an instance that was worth much and is never used again grows old beside those that are.
//!
//! Worked example (a test below): of an instance that starts in 1 s, is used once a minute and holds 128 MiB, and one that starts in 100 ms,
//! is used ten times a minute and holds 256 MiB, the second goes first: its loss costs the same time a minute, and it frees twice the memory.

use std::cmp::Ordering;
use std::time::Duration;

/// Something warm that could go: a paused, idle or pooled instance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warm<Id> {
    /// Which.
    pub id: Id,
    /// Time it would take to have it again: from where it would fall to (built, or pooled), not from nothing, if that is nearer.
    pub start_cost: Duration,
    /// How often it is used: calls, or starts out of a pool, per minute.
    pub frequency: f64,
    /// Memory it holds, in bytes.
    pub size: u64,
    /// What [`Clock::now`] said when it was last used.
    pub used_at: f64,
}

impl<Id> Warm<Id> {
    /// What its loss would cost: milliseconds of waiting per minute and mebibyte, on top of the clock.
    #[must_use]
    pub fn worth(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a hair of a size of petabytes")]
        let mebibytes = (self.size as f64 / f64::from(1 << 20)).max(1e-3);
        let frequency = if self.frequency.is_finite() { self.frequency.max(0.0) } else { 0.0 };
        self.used_at + self.start_cost.as_secs_f64() * 1e3 * frequency / mebibytes
    }
}

/// The clock of greedy-dual: does not go with time but with what is lost. One for each memory budget.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Clock(f64);

impl Clock {
    /// Goes into [`Warm::used_at`] at each use.
    #[must_use]
    pub fn now(self) -> f64 {
        self.0
    }

    /// Something of this [`Warm::worth`] was put out for memory's sake.
    pub fn evicted(&mut self, worth: f64) {
        if worth.is_finite() {
            self.0 = self.0.max(worth);
        }
    }
}

/// All of `warm`, what costs least to lose first. Among equals the largest goes first: fewer have to.
#[must_use]
pub fn order<Id: Clone + Ord>(warm: &[Warm<Id>]) -> Vec<Id> {
    sorted(warm).into_iter().map(|warm| warm.id.clone()).collect()
}

/// The first of [`order`] that hold `bytes` together; all of them when that is not enough.
#[must_use]
pub fn to_free<Id: Clone + Ord>(warm: &[Warm<Id>], bytes: u64) -> Vec<Id> {
    let mut freed = 0u64;
    let mut chosen = Vec::new();
    for warm in sorted(warm) {
        if freed >= bytes {
            break;
        }
        freed = freed.saturating_add(warm.size);
        chosen.push(warm.id.clone());
    }
    chosen
}

fn sorted<Id: Ord>(warm: &[Warm<Id>]) -> Vec<&Warm<Id>> {
    let mut order: Vec<&Warm<Id>> = warm.iter().collect();
    // The name decides at last, so that the order is the same whatever the order of the candidates.
    let compare = |a: &&Warm<Id>, b: &&Warm<Id>| -> Ordering {
        a.worth().total_cmp(&b.worth()).then_with(|| b.size.cmp(&a.size)).then_with(|| a.id.cmp(&b.id))
    };
    order.sort_by(compare);
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn warm(id: &'static str, millis: u64, frequency: f64, mebibytes: u64) -> Warm<&'static str> {
        let start_cost = Duration::from_millis(millis);
        Warm { id, start_cost, frequency, size: mebibytes << 20, used_at: 0.0 }
    }

    #[test]
    fn the_worked_example() {
        let both = [warm("dear", 1000, 1.0, 128), warm("cheap", 100, 10.0, 256)];
        assert_eq!(order(&both), ["cheap", "dear"]);
        assert!((both[0].worth() - 7.8125).abs() < 1e-9);
    }

    #[test]
    fn what_starts_slowly_or_is_used_often_or_is_small_stays() {
        let base = warm("base", 100, 1.0, 128);
        for better in [warm("slow", 200, 1.0, 128), warm("often", 100, 2.0, 128), warm("small", 100, 1.0, 64)]
        {
            assert_eq!(order(&[better, base]), ["base", better.id]);
        }
        // What nobody uses is worth nothing, the largest of it first.
        let unused = [warm("a", 900, 0.0, 64), warm("b", 10, 0.0, 128), base];
        assert_eq!(order(&unused), ["b", "a", "base"]);
    }

    #[test]
    fn what_was_worth_much_once_grows_old() {
        let mut clock = Clock::default();
        let dear = warm("dear", 1000, 10.0, 100);
        let mut rounds = 0;
        loop {
            let used = Warm { used_at: clock.now(), ..warm("used", 100, 10.0, 100) };
            let first = order(&[dear, used]);
            if first[0] == "dear" {
                break;
            }
            clock.evicted(used.worth());
            rounds += 1;
        }
        // 100 against 10 more each round; among equals the name decides.
        assert_eq!(rounds, 9);
    }

    #[test]
    fn only_as_many_go_as_are_needed() {
        let all = [warm("a", 1, 1.0, 100), warm("b", 2, 1.0, 100), warm("c", 3, 1.0, 100)];
        assert_eq!(to_free(&all, 0), Vec::<&str>::new());
        assert_eq!(to_free(&all, 1), ["a"]);
        assert_eq!(to_free(&all, 101 << 20), ["a", "b"]);
        assert_eq!(to_free(&all, 1 << 40), ["a", "b", "c"]);
    }

    proptest! {
        #[test]
        fn the_order_is_total_and_the_same_for_every_arrangement(
            parts in proptest::collection::vec((0u64..2000, 0.0f64..100.0, 0u64..2000, 0.0f64..50.0), 0..12),
        ) {
            let mut all: Vec<Warm<usize>> = parts.iter().enumerate().map(|(id, (cost, frequency, size, used_at))| Warm {
                id, start_cost: Duration::from_millis(*cost), frequency: *frequency, size: size << 20, used_at: *used_at,
            }).collect();
            let order_of = order(&all);
            prop_assert!(order_of.windows(2).all(|pair| all[pair[0]].worth() <= all[pair[1]].worth()));
            all.reverse();
            prop_assert_eq!(order(&all), order_of);
        }
    }
}
