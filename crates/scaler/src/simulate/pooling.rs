//! The pool of the simulation: one runtime class for all functions.

use std::collections::VecDeque;
use std::time::Instant;

use super::Machine;
use super::contender::Contender;
use crate::pool::{Demand, PoolObservation, PoolPolicy, targets};

/// Pooled instances, and how many there should be.
#[derive(Debug)]
pub(super) struct Pool {
    size: Size,
    /// When each was begun, oldest first.
    pooled: VecDeque<Instant>,
    /// When each that is being made was begun.
    filling: VecDeque<Instant>,
    pub(super) seconds: f64,
}

#[derive(Debug)]
enum Size {
    Fixed(u32),
    ByDemand(PoolPolicy, Box<Demand>, u64),
}

impl Pool {
    /// It is filled before the trace begins.
    pub(super) fn new(contender: &Contender, machine: &Machine, now: Instant) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of MiB"
        )]
        let bytes = (machine.pooled_memory * f64::from(1 << 20)) as u64;
        let size = match *contender {
            Contender::Hearth(_, Some(policy)) => {
                Size::ByDemand(policy, Box::new(Demand::new(&policy, machine.cold.median, now)), bytes)
            }
            Contender::Fixed { pool, .. } => Size::Fixed(pool),
            Contender::Hearth(_, None) | Contender::Knative => Size::Fixed(0),
        };
        let mut pool = Self { size, pooled: VecDeque::new(), filling: VecDeque::new(), seconds: 0.0 };
        let first = pool.target(now);
        pool.pooled.extend((0..first).map(|_| now));
        pool
    }

    fn target(&self, now: Instant) -> u32 {
        match &self.size {
            Size::Fixed(size) => *size,
            Size::ByDemand(policy, demand, bytes) => {
                let seen = PoolObservation {
                    peak: demand.peak(now),
                    last_wanted: demand.last_wanted(),
                    size: *bytes,
                    present: self.count(),
                };
                targets(policy.memory, &[(*policy, seen)], now).first().map_or(0, |decision| decision.desired)
            }
        }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.pooled.len() + self.filling.len()).unwrap_or(u32::MAX)
    }

    /// A start is wanted: whether there is a pooled instance for it.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if let Size::ByDemand(_, demand, _) = &mut self.size {
            demand.wanted(now);
        }
        let taken = self.pooled.pop_front();
        if let Some(since) = taken {
            self.seconds += now.duration_since(since).as_secs_f64();
        }
        taken.is_some()
    }

    /// Puts out what is too much; says whether one more is to be made.
    pub(super) fn adjust(&mut self, now: Instant) -> bool {
        let target = self.target(now);
        while self.count() > target {
            let Some(since) = self.pooled.pop_front() else { break };
            self.seconds += now.duration_since(since).as_secs_f64();
        }
        self.count() < target
    }

    pub(super) fn fill(&mut self, now: Instant) {
        self.filling.push_back(now);
    }

    pub(super) fn filled(&mut self) {
        // Which of those that are being made it was makes no difference to the sum.
        self.pooled.extend(self.filling.pop_front());
    }

    pub(super) fn end(&mut self, now: Instant) {
        for since in self.pooled.drain(..).chain(self.filling.drain(..)) {
            self.seconds += now.duration_since(since).as_secs_f64();
        }
    }
}
