//! What a policy would have done with a trace: the same [`crate::decide()`] and the same dispatch as in production, under virtual time.
//!
//! ```text
//!  Trace ──► World: arrivals, calls' ends, starts' ends, reports, in the order of their time ──► Outcome
//!              │        ▲
//!              ▼        │ grants, revocations
//!          Dispatch ──► Contender: Tracker + decide, KPA, or a fixed keep-alive ──► starts (by turns, from the pool or cold)
//! ```
//!
//! Everything is drawn from a seed; two runs with the same trace, settings and seed are the same. The machine is the same for all policies:
//! how long starts take, how many run at the same time, how calls are placed and queued. What is compared is only who starts and stops what,
//! and when.

mod contender;
mod kpa;
mod outcome;
mod pooling;
mod random;
mod read;
mod shipped;
mod trace;
mod world;

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

pub use contender::Contender;
pub use kpa::{Kpa, Settings};
pub use outcome::{Outcome, Sample};
pub use random::{Random, Spread};
pub use read::{HEADER, LONGEST, MOST_CALLS, MOST_FUNCTIONS};
pub use shipped::{NAMES, shipped};
pub use trace::{Call, Trace, TraceError};

/// The machine that all policies are given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Machine {
    /// What all random numbers follow from.
    pub seed: u64,
    /// Calls an instance runs at once.
    pub limit: NonZeroU32,
    /// Instances of one function, at most.
    pub max: NonZeroU32,
    /// How long a start from nothing takes. Default: 400 ms and sometimes three times as long, a small function on a container platform.
    pub cold: Spread,
    /// How long a start out of the pool takes. Default: a fifth of a cold one: the function's own code has still to be loaded.
    pub pooled: Spread,
    /// Starts that run at the same time. Default 8.
    pub parallel: NonZeroU32,
    /// Memory of one instance, in MiB. Default 128, the manifest's.
    pub memory: f64,
    /// Memory of one pooled instance, in MiB. Default 64: a runtime without anybody's code.
    pub pooled_memory: f64,
    /// Who may wait, how many and how long.
    pub queue: hearth_dispatch::Policy,
}

impl Default for Machine {
    fn default() -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            seed: 1,
            limit: at_least_one(10),
            max: at_least_one(100),
            cold: Spread { median: Duration::from_millis(400), sigma: 0.4 },
            pooled: Spread { median: Duration::from_millis(80), sigma: 0.4 },
            parallel: at_least_one(8),
            memory: 128.0,
            pooled_memory: 64.0,
            queue: hearth_dispatch::Policy::default(),
        }
    }
}

/// Runs `trace` through `contender`. `epoch` is any moment: virtual time begins there.
#[must_use]
pub fn simulate(trace: &Trace, contender: &Contender, machine: &Machine, epoch: Instant) -> Outcome {
    simulate_watched(trace, contender, machine, epoch, &mut |_| {})
}

/// The same, and `watch` is told every now and then how many thousandths of it are done.
#[must_use]
pub fn simulate_watched(
    trace: &Trace,
    contender: &Contender,
    machine: &Machine,
    epoch: Instant,
    watch: &mut dyn FnMut(u64),
) -> Outcome {
    world::World::new(trace, contender, machine, epoch).run(watch)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests {
    use super::*;

    #[test]
    fn a_replay_says_how_far_it_is_and_does_the_same() {
        let trace = shipped("cron", 3).expect("it comes with it");
        let (contender, machine, epoch) = (Contender::hearth(), Machine::default(), Instant::now());
        let mut said = Vec::new();
        let outcome =
            simulate_watched(&trace, &contender, &machine, epoch, &mut |thousandths| said.push(thousandths));
        assert!(said.is_sorted() && said.len() > 10, "{said:?}");
        assert!(said[0] == 0 && (900..=1000).contains(&said[said.len() - 1]), "{said:?}");
        assert_eq!(outcome, simulate(&trace, &contender, &machine, epoch));
    }
}
