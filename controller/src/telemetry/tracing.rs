//! Hearth's own diagnostics: to standard error, as text for people or as JSON for machines.

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable with the filter, as in `hearth=debug` or `hearth::pool=trace,info`.
pub const FILTER_VARIABLE: &str = "HEARTH_LOG";

/// The form of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// What is said when [`FILTER_VARIABLE`] is not set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Warnings and errors: `up` shows a table of its own.
    #[default]
    Quiet,
    /// What a server's log has: starts, stops, deployments.
    Normal,
    /// Decisions and their reasons too.
    Debug,
}

impl Verbosity {
    fn level(self) -> LevelFilter {
        match self {
            Self::Quiet => LevelFilter::WARN,
            Self::Normal => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
        }
    }
}

/// Sets up the diagnostics of this process. A second call does nothing.
///
/// [`FILTER_VARIABLE`] wins over `verbosity`. A part of it that cannot be understood is left out and named on standard error.
pub fn init(format: Format, verbosity: Verbosity) {
    let filter = EnvFilter::builder()
        .with_default_directive(verbosity.level().into())
        .with_env_var(FILTER_VARIABLE)
        .from_env_lossy();
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that a subscriber is set already: a test's, or an earlier call's.
    let _already_set = match format {
        Format::Text => registry
            .with(fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()))
            .try_init()
            .is_err(),
        Format::Json => registry
            .with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr))
            .try_init()
            .is_err(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_the_default_and_says_warnings() {
        assert_eq!(Verbosity::default().level(), LevelFilter::WARN);
        assert!(Verbosity::Normal.level() > Verbosity::Quiet.level());
    }
}
