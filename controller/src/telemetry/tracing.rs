//! Hearth's own diagnostics: to standard error, as text for people or as JSON for machines; or to whoever draws the terminal.

use std::io::{self, IsTerminal, Write as _};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The environment variable with the filter, as in `hearth=debug` or `hearth::pool=trace,info`.
pub const FILTER_VARIABLE: &str = "HEARTH_LOG";

/// The target of what is said to a function's owner too, in its log: [`Verbosity::Quiet`] leaves it out.
pub const TOLD: &str = "hearth::told";

/// Lines that wait for whoever draws the terminal. Beyond, they go to standard error.
const DIVERTED: usize = 64;

/// Where lines go in place of standard error.
static DIVERTED_TO: Mutex<Option<mpsc::Sender<String>>> = Mutex::new(None);

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
    let told = format!("{TOLD}=error")
        .parse()
        .ok()
        .filter(|_| verbosity == Verbosity::Quiet && std::env::var_os(FILTER_VARIABLE).is_none());
    let filter = match told {
        Some(less) => filter.add_directive(less),
        None => filter,
    };
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that a subscriber is set already: a test's, or an earlier call's.
    let _already_set = match format {
        Format::Text => registry
            .with(fmt::layer().with_writer(|| Out).with_ansi(std::io::stderr().is_terminal()))
            .try_init()
            .is_err(),
        Format::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(|| Out)).try_init().is_err()
        }
    };
}

/// Takes every line from now on, for whoever draws the terminal, until this is dropped.
#[derive(Debug)]
pub struct Diversion {
    lines: mpsc::Receiver<String>,
}

impl Diversion {
    /// Begins. There is one at a time: a later one takes over.
    #[must_use]
    pub fn begin() -> Self {
        let (sender, lines) = mpsc::channel(DIVERTED);
        *DIVERTED_TO.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Self { lines }
    }

    /// The next line, with its end. Cancel-safe.
    pub async fn line(&mut self) -> Option<String> {
        self.lines.recv().await
    }
}

impl Drop for Diversion {
    fn drop(&mut self) {
        *DIVERTED_TO.lock().unwrap_or_else(PoisonError::into_inner) = None;
        while let Ok(line) = self.lines.try_recv() {
            // Standard error may be closed; there is nowhere left to say so.
            drop(io::stderr().lock().write_all(line.as_bytes()));
        }
    }
}

/// Where a line is written to: whole, by one call.
struct Out;

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let diverted = DIVERTED_TO.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let line = || String::from_utf8_lossy(bytes).into_owned();
        if diverted.is_none_or(|sender| sender.try_send(line()).is_err()) {
            io::stderr().lock().write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quiet_is_the_default_and_says_warnings() {
        assert_eq!(Verbosity::default().level(), LevelFilter::WARN);
        assert!(Verbosity::Normal.level() > Verbosity::Quiet.level());
    }

    #[tokio::test]
    async fn lines_go_to_whoever_draws_the_terminal_while_there_is_one() {
        let mut diversion = Diversion::begin();
        Out.write_all(b"WARN one\n").unwrap();
        assert_eq!(diversion.line().await.as_deref(), Some("WARN one\n"));
        for _ in 0..2 * DIVERTED {
            Out.write_all(b"").unwrap();
        }
        drop(diversion);
        assert!(DIVERTED_TO.lock().unwrap().is_none());
    }
}
