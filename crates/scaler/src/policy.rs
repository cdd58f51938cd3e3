//! What the owner of a Function wants of its scaling.

use std::num::NonZeroU32;
use std::time::Duration;

use hearth_function::Percent;
use hearth_function::spec::{Concurrency, FunctionSpec, ProcessModel, Scale};

/// How instances of one Revision are to be scaled. [`Policy::of`] takes it from the Function; the defaults are those of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether an instance serves many calls or one.
    pub process_model: ProcessModel,
    /// Calls an instance runs at once. 1 for [`ProcessModel::Ephemeral`], whatever is said here.
    pub limit: NonZeroU32,
    /// How full the slots should be on average before another instance is added, from 1 %. Default 70 %, Knative's.
    pub target: Percent,
    /// Instances kept whatever the traffic. Default 0.
    pub min: u32,
    /// Instances never exceeded. Default 20.
    pub max: NonZeroU32,
    /// Instances a new Revision starts with, once, before it has any traffic. Default 1; at most [`Policy::max`] are started.
    pub initial: u32,
    /// How far back the highest need keeps instances from being put out. Default 60 s, Knative's stable window.
    pub window: Duration,
    /// Time without traffic after which only [`Policy::min`] instances stay. Default 60 s.
    pub idle_timeout: Duration,
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
}

impl Default for Policy {
    fn default() -> Self {
        Self::new(ProcessModel::default(), &Concurrency::default(), &Scale::default())
    }
}

impl Policy {
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
            min: scale.min,
            max: at_least_one(scale.max),
            initial: scale.initial,
            window: scale.window.get(),
            idle_timeout: scale.idle_timeout.get(),
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
        if self.window.is_zero() {
            return Err(PolicyError::EmptyWindow);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_is_sound() {
        assert_eq!(Policy::default().validate(), Ok(()));
    }

    #[test]
    fn contradictions_are_named() {
        let policy = Policy { min: 21, ..Policy::default() };
        assert_eq!(policy.validate(), Err(PolicyError::MinAboveMax { min: 21, max: 20 }));
        let policy = Policy { window: Duration::ZERO, ..Policy::default() };
        assert_eq!(policy.validate(), Err(PolicyError::EmptyWindow));
        let policy = Policy { target: Percent::new(0).unwrap(), ..Policy::default() };
        assert_eq!(policy.validate(), Err(PolicyError::NoTarget));
    }
}
