//! What came of a simulation.

use std::time::Duration;

/// Moments of a trace that are looked at for the plots.
pub(super) const SAMPLES: u32 = 480;

/// What came of a simulation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Calls that ran.
    pub served: u64,
    /// Calls that waited for an instance that was made from nothing.
    pub cold: u64,
    /// Calls that waited for an instance out of the pool.
    pub prewarmed: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Instances that were started from nothing.
    pub cold_starts: u64,
    /// Instances that were started out of the pool.
    pub pooled_starts: u64,
    /// Seconds that instances of functions existed, from the beginning of their start to their end.
    pub instance_seconds: f64,
    /// Of which: ready, and without any call.
    pub wasted_seconds: f64,
    /// Seconds that pooled instances existed.
    pub pool_seconds: f64,
    /// MiB × seconds of both.
    pub memory_seconds: f64,
    /// The waits of the calls that ran, in milliseconds, ascending.
    pub waits: Vec<f32>,
    /// The course of things.
    pub samples: Vec<Sample>,
}

/// A moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Since the beginning.
    pub at: Duration,
    /// Instances that serve, and those that start.
    pub instances: u32,
    /// Pooled instances.
    pub pooled: u32,
    /// Calls that run.
    pub in_flight: u32,
    /// Most calls that waited since the last sample.
    pub waiting: u32,
}

impl Outcome {
    /// The wait that so many hundredths of the calls did not exceed, in milliseconds.
    #[must_use]
    pub fn wait(&self, hundredths: f64) -> f64 {
        if self.waits.is_empty() {
            return 0.0;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in a list in memory"
        )]
        let place = ((self.waits.len() as f64 * hundredths / 100.0).ceil() as usize).saturating_sub(1);
        f64::from(self.waits.get(place).copied().unwrap_or_default())
    }

    /// Instances' seconds, the pool's with them.
    #[must_use]
    pub fn all_seconds(&self) -> f64 {
        self.instance_seconds + self.pool_seconds
    }

    /// Adds up two simulations: of other traces under the same policy.
    pub fn add(&mut self, other: &Self) {
        self.served += other.served;
        self.cold += other.cold;
        self.prewarmed += other.prewarmed;
        self.refused += other.refused;
        self.cold_starts += other.cold_starts;
        self.pooled_starts += other.pooled_starts;
        self.instance_seconds += other.instance_seconds;
        self.wasted_seconds += other.wasted_seconds;
        self.pool_seconds += other.pool_seconds;
        self.memory_seconds += other.memory_seconds;
        self.waits.extend(&other.waits);
        self.waits.sort_by(f32::total_cmp);
    }
}
