//! What the owner of a Function wants of its scaling.

use std::num::NonZeroU32;
use std::time::Duration;

use hearth_function::Percent;
use hearth_function::spec::{Concurrency, FunctionSpec, KeepAlive, Metric, ProcessModel, Scale};

use crate::keepalive::KeepAlivePolicy;

/// How instances of one Revision are to be scaled. [`Policy::of`] takes it from the Function; the defaults are those of the manifest, and
/// for what a manifest does not say Knative's (`config-autoscaler`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether an instance serves many calls or one.
    pub process_model: ProcessModel,
    /// Calls an instance runs at once. 1 for [`ProcessModel::Ephemeral`], whatever is said here.
    pub limit: NonZeroU32,
    /// How full the slots should be on average before another instance is added, from 1 %. Default 70 %, Knative's
    /// `container-concurrency-target-percentage`. Of [`Policy::rps`] too, as there.
    pub target: Percent,
    /// What is averaged: calls that run and wait, or requests per second. Default concurrency, Knative's. Slots are counted in either case.
    pub metric: Metric,
    /// Requests per second of one instance at full use, with [`Metric::Rps`]. Default [`Scale::FULL_RPS`], 200.
    pub rps: NonZeroU32,
    /// Instances kept whatever the traffic. Default 0, Knative's `min-scale`.
    pub min: u32,
    /// Instances never exceeded. Default 20, `OpenFaaS`'s; Knative's `max-scale` is unlimited.
    pub max: NonZeroU32,
    /// Instances a new Revision starts with, once, before it has any traffic. Default 1, Knative's `initial-scale`; at most [`Policy::max`]
    /// are started.
    pub initial: u32,
    /// Fewest instances while there is any need at all, of [`ProcessModel::Resident`]. Default 0, which is no more than Knative's
    /// `activation-scale` of 1.
    pub activation: u32,
    /// Over what time the load is averaged, and how far back the highest need keeps instances from being put out. Default 60 s, Knative's
    /// `stable-window`.
    pub window: Duration,
    /// The share of the window over which the load is averaged for a burst. Default 10 % (6 s of 60 s), Knative's
    /// `panic-window-percentage`.
    pub panic_window: Percent,
    /// When the load over the panic window asks for so many hundredths of the instances that serve, it counts in place of the average over
    /// the window. Default 200, Knative's `panic-threshold-percentage`.
    pub panic_threshold: NonZeroU32,
    /// At most so many times the instances that serve are wanted at once; one that serves none counts as one. Default 1000, Knative's
    /// `max-scale-up-rate`.
    pub scale_up_rate: NonZeroU32,
    /// At least the instances of the last two seconds divided by this are kept while there is traffic, from 2. Default 2, Knative's
    /// `max-scale-down-rate` and tick.
    pub scale_down_rate: NonZeroU32,
    /// A need holds instances for so long, if that is longer than [`Policy::window`], and the last one for so long after the last call.
    /// Default 0 s, Knative's `scale-down-delay`.
    pub scale_down_delay: Duration,
    /// Time without traffic after which only [`Policy::min`] instances stay, with [`KeepAlive::Fixed`] and as long as nothing is learned.
    /// Default 60 s.
    pub idle_timeout: Duration,
    /// Whether the time without traffic is learned. Default learned.
    pub keep_alive: KeepAlive,
    /// How it is learned.
    pub learning: KeepAlivePolicy,
}

/// A policy that contradicts itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No instance could be filled so little.
    #[error("a target of 0 % asks for endless instances")]
    NoTarget,
    /// More instances are to be kept than may be there.
    #[error("min {min} is more than max {max}")]
    MinAboveMax {
        /// The minimum.
        min: u32,
        /// The maximum.
        max: u32,
    },
    /// Nothing could be remembered.
    #[error("a window of no length remembers nothing")]
    EmptyWindow,
    /// Nothing would ever be put out.
    #[error("a scale-down rate of 1 puts out nothing")]
    NoScaleDown,
}

impl Default for Policy {
    fn default() -> Self {
        Self::new(ProcessModel::default(), &Concurrency::default(), &Scale::default())
    }
}

impl Policy {
    /// Of [`Policy::panic_window`].
    pub const DEFAULT_PANIC_WINDOW: Percent = Percent::new(10).expect("10 is a percentage");
    /// Of [`Policy::panic_threshold`].
    pub const DEFAULT_PANIC_THRESHOLD: NonZeroU32 = NonZeroU32::new(200).expect("200 is not 0");
    /// Of [`Policy::scale_up_rate`].
    pub const DEFAULT_SCALE_UP_RATE: NonZeroU32 = NonZeroU32::new(1000).expect("1000 is not 0");
    /// Of [`Policy::scale_down_rate`].
    pub const DEFAULT_SCALE_DOWN_RATE: NonZeroU32 = NonZeroU32::new(2).expect("2 is not 0");

    /// What a Function's manifest says.
    #[must_use]
    pub fn of(spec: &FunctionSpec) -> Self {
        Self::new(spec.process_model, &spec.concurrency, &spec.scale)
    }

    fn new(process_model: ProcessModel, concurrency: &Concurrency, scale: &Scale) -> Self {
        let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            process_model,
            limit: at_least_one(concurrency.limit_for(process_model)),
            target: concurrency.target,
            metric: scale.metric,
            rps: Scale::FULL_RPS,
            min: scale.min,
            max: at_least_one(scale.max),
            initial: scale.initial,
            activation: scale.activation,
            window: scale.window.get(),
            panic_window: Self::DEFAULT_PANIC_WINDOW,
            panic_threshold: Self::DEFAULT_PANIC_THRESHOLD,
            scale_up_rate: Self::DEFAULT_SCALE_UP_RATE,
            scale_down_rate: Self::DEFAULT_SCALE_DOWN_RATE,
            scale_down_delay: scale.scale_down_delay.get(),
            idle_timeout: scale.idle_timeout.get(),
            keep_alive: scale.keep_alive(),
            learning: KeepAlivePolicy::default(),
        }
    }

    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// When two fields contradict each other; the manifest's validation says the same with line and column before it comes to this.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.min > self.max.get() {
            return Err(PolicyError::MinAboveMax { min: self.min, max: self.max.get() });
        }
        if self.target.hundredths() == 0 {
            return Err(PolicyError::NoTarget);
        }
        if self.window.is_zero() || self.panic_window.hundredths() == 0 {
            return Err(PolicyError::EmptyWindow);
        }
        if self.scale_down_rate.get() < 2 {
            return Err(PolicyError::NoScaleDown);
        }
        Ok(())
    }

    /// Calls one instance runs at once under this policy.
    #[must_use]
    pub fn slots(&self) -> u32 {
        match self.process_model {
            ProcessModel::Resident => self.limit.get(),
            ProcessModel::Ephemeral => 1,
        }
    }

    /// What one instance should bear on average: calls, or requests per second.
    #[must_use]
    pub fn per_instance(&self) -> f64 {
        let whole = match self.metric {
            Metric::Concurrency => self.slots(),
            Metric::Rps => self.rps.get(),
        };
        f64::from(whole) * self.target.ratio().max(0.01)
    }

    /// How long a need holds instances.
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.window.max(self.scale_down_delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_is_sound() {
        assert_eq!(Policy::default().validate(), Ok(()));
    }

    #[test]
    fn what_a_function_says_of_its_scaling_counts() {
        let scale = Scale { activation: 3, scale_down_delay: "5m".parse().unwrap(), ..Scale::default() };
        let policy = Policy::new(ProcessModel::Resident, &Concurrency::default(), &scale);
        assert_eq!((policy.activation, policy.scale_down_delay), (3, Duration::from_secs(300)));
        assert_eq!(policy.hold(), Duration::from_secs(300));
    }

    #[test]
    fn contradictions_are_named() {
        let policy = Policy { min: 21, ..Policy::default() };
        assert_eq!(policy.validate(), Err(PolicyError::MinAboveMax { min: 21, max: 20 }));
        let policy = Policy { window: Duration::ZERO, ..Policy::default() };
        assert_eq!(policy.validate(), Err(PolicyError::EmptyWindow));
        let policy = Policy { target: Percent::new(0).unwrap(), ..Policy::default() };
        assert_eq!(policy.validate(), Err(PolicyError::NoTarget));
        let policy = Policy { scale_down_rate: NonZeroU32::MIN, ..Policy::default() };
        assert_eq!(policy.validate(), Err(PolicyError::NoScaleDown));
    }
}
