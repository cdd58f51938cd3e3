//! Why a start failed: in the words that a waiting client and the Function's condition get.

use hearth_dispatch::{StartCode, StartFailure};
use hearth_protocol::CallError;
use hearth_protocol::bodies::error_type;
use hearth_scaler::Fault;

use crate::backend::{self, Exit, control};
use crate::telemetry::chain;

/// What is said of an instance whose task has panicked; more is in Hearth's own log.
pub(super) const INTERNAL: &str = "an error inside Hearth ended the instance";

/// A failed start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What those who wait are told.
    pub told: StartFailure,
    /// Whether trying again at once may help.
    pub fault: Fault,
}

impl Failure {
    fn new(fault: Fault, code: StartCode, message: String) -> Self {
        let told = StartFailure { code, message, last_lines: Vec::new() };
        Self { told, fault }
    }

    /// Its task has panicked.
    pub(super) fn internal() -> Self {
        Self::new(Fault::Platform, StartCode::StartFailed, INTERNAL.to_owned())
    }

    /// The same, when the function has no part in it.
    pub(super) fn platform(mut self) -> Self {
        self.fault = Fault::Platform;
        self
    }

    /// The runtime ended before it was loaded.
    pub(super) fn ended(exit: &Exit) -> Self {
        let message = format!("the instance ended while it started: {exit}");
        if exit.out_of_memory {
            let message = format!("{message}; give it more in spec.resources.memory");
            Self::new(Fault::Function, StartCode::OutOfMemory, message)
        } else {
            Self::new(Fault::Function, StartCode::ProcessEnded, message)
        }
    }

    /// The start took longer than `spec.timeouts.start`.
    pub(super) fn timeout(phase: &str, limit: std::time::Duration) -> Self {
        let limit = humantime::format_duration(limit);
        let message = format!(
            "the instance did not {phase} within {limit} (spec.timeouts.start says how long it may take)"
        );
        Self::new(Fault::Function, StartCode::StartTimeout, message)
    }

    pub(super) fn backend(error: &backend::Error) -> Self {
        let (fault, code) = match error {
            backend::Error::Invalid { .. } => (Fault::Function, StartCode::Invalid),
            backend::Error::Unsupported { .. } => (Fault::Function, StartCode::Unsupported),
            backend::Error::NotFound(_) | backend::Error::Step { .. } => {
                (Fault::Platform, StartCode::StartFailed)
            }
        };
        Self::new(fault, code, chain(error))
    }

    pub(super) fn control(error: control::Error, limit: std::time::Duration) -> Self {
        match error {
            control::Error::Timeout { phase } => Self::timeout(phase, limit),
            control::Error::Load(error) => Self::load(error),
            // The process is gone; how is not known yet.
            control::Error::Closed { .. } => {
                Self::new(Fault::Function, StartCode::ProcessEnded, error.to_string())
            }
            control::Error::Io { .. }
            | control::Error::Decode(_)
            | control::Error::Violation(_)
            | control::Error::Encode(_)
            | control::Error::Refused(_) => Self::new(Fault::Platform, StartCode::StartFailed, chain(&error)),
        }
    }

    fn load(error: CallError) -> Self {
        // An earlier controller was killed while it loaded: what became of that nobody knows.
        if error.kind == error_type::ALREADY_LOADED {
            return Self::new(Fault::Platform, StartCode::StartFailed, error.message);
        }
        let code = match error.kind.as_str() {
            error_type::FILE_MISSING => StartCode::HandlerFileMissing,
            error_type::HANDLER_MISSING => StartCode::HandlerMissing,
            error_type::UNSUPPORTED => StartCode::HandlerUnsupported,
            error_type::PROCESS_ENDED => StartCode::ProcessEnded,
            _ => StartCode::LoadFailed,
        };
        let mut failure = Self::new(Fault::Function, code, error.message);
        failure.told.last_lines = error.lines;
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_handler_is_the_functions_fault_and_a_step_that_failed_is_not() {
        let missing = CallError::new(error_type::HANDLER_MISSING, "index.js has no export \"handler\"");
        let failure = Failure::control(control::Error::Load(missing), std::time::Duration::from_secs(60));
        assert_eq!((failure.told.code, failure.fault), (StartCode::HandlerMissing, Fault::Function));
        let step = backend::Error::Step {
            step: "create the cgroup",
            instance: hearth_function::InstanceId::parse("hello-x").unwrap(),
            source: std::io::Error::other("no space left"),
        };
        let failure = Failure::backend(&step);
        assert_eq!(failure.fault, Fault::Platform);
        assert_eq!(failure.told.message, "create the cgroup for instance hello-x: no space left");
    }

    #[test]
    fn out_of_memory_says_what_to_change() {
        let failure = Failure::ended(&Exit { code: None, signal: Some(9), out_of_memory: true });
        assert_eq!(failure.told.code, StartCode::OutOfMemory);
        assert!(failure.told.message.contains("spec.resources.memory"), "{}", failure.told.message);
    }
}
