//! The warmth ladder, as it is shown: on which rung instances stand, what they hold there, and how long it took to restore one from it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::label_set;
use crate::pool::life::State;

/// Restorations of each rung that are remembered.
const KEPT: usize = 200;

label_set! {
    /// Where an instance stands; the further down, the sooner it answers and the more it costs.
    #[derive(PartialOrd, Ord)]
    pub enum Rung("rung") {
        /// There is none: it is made from the built code.
        Built = "built",
        /// Its runtime is up, and it has no function.
        Pooled = "pooled",
        /// It is loaded and frozen.
        Paused = "paused",
        /// It is loaded and idle, and kept so.
        Reserved = "reserved",
        /// It is loaded, and runs calls or has lately.
        Active = "active",
    }
}

impl Rung {
    /// Where an instance in this state stands; `None` while it comes up or goes. `kept`: whatever the traffic.
    #[must_use]
    pub fn of(state: &State, kept: bool, calls: u32) -> Option<Self> {
        match state {
            State::Pooled => Some(Self::Pooled),
            State::Paused => Some(Self::Paused),
            State::Ready if kept && calls == 0 => Some(Self::Reserved),
            State::Ready => Some(Self::Active),
            State::Starting(_)
            | State::Loading
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::Stopped { .. }
            | State::Failed(_) => None,
        }
    }
}

/// How long restorations took, the last of each rung.
#[derive(Debug, Default)]
pub(super) struct Ladder {
    restored: BTreeMap<Rung, VecDeque<Duration>>,
}

/// What is known of one rung's restorations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// From where.
    pub rung: Rung,
    /// How many are looked at: the last ones.
    pub count: usize,
    /// Half of them took less.
    pub p50: Duration,
    /// Of a hundred, one took longer.
    pub p99: Duration,
}

impl Ladder {
    pub(super) fn restored(&mut self, rung: Rung, took: Duration) {
        let times = self.restored.entry(rung).or_default();
        if times.len() == KEPT {
            times.pop_front();
        }
        times.push_back(took);
    }

    /// What a restoration from this rung usually takes.
    pub(super) fn usual(&self, rung: Rung) -> Option<Duration> {
        self.view().into_iter().find(|restored| restored.rung == rung).map(|restored| restored.p50)
    }

    pub(super) fn view(&self) -> Vec<Restored> {
        let view = |(&rung, times): (&Rung, &VecDeque<Duration>)| {
            let mut sorted: Vec<Duration> = times.iter().copied().collect();
            sorted.sort_unstable();
            let at = |percent: usize| {
                let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
                sorted.get(rank).copied().unwrap_or_default()
            };
            Restored { rung, count: sorted.len(), p50: at(50), p99: at(99) }
        };
        self.restored.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_restorations_count() {
        let mut ladder = Ladder::default();
        ladder.restored(Rung::Built, Duration::from_secs(9));
        for millis in 1..=200 {
            ladder.restored(Rung::Built, Duration::from_millis(millis));
        }
        let built = ladder.view()[0];
        assert_eq!(
            (built.count, built.p50, built.p99),
            (200, Duration::from_millis(100), Duration::from_millis(198))
        );
    }

    #[test]
    fn an_idle_instance_that_is_kept_stands_higher_than_one_that_is_not() {
        assert_eq!(Rung::of(&State::Ready, true, 0), Some(Rung::Reserved));
        assert_eq!(Rung::of(&State::Ready, true, 1), Some(Rung::Active));
        assert_eq!(Rung::of(&State::Ready, false, 0), Some(Rung::Active));
        assert_eq!(Rung::of(&State::Loading, true, 0), None);
    }
}
