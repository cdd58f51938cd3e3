//! Errors of the command line: what went wrong, and the fix; a manifest's errors with the source line.

use std::io;
use std::process::ExitCode;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

use super::manifest::BadManifest;

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Error {
    /// It failed.
    Failed {
        /// What went wrong, a sentence without its full stop.
        what: String,
        /// More of it, a line each: a server's causes.
        details: Vec<String>,
        /// What to do about it.
        fix: Option<String>,
    },
    /// The command line cannot be meant so.
    Usage {
        /// What is wrong with it.
        what: String,
        /// What to type.
        fix: String,
    },
    /// Manifests have errors; each knows its file and lines.
    Manifests(Vec<BadManifest>),
    /// Several things failed, each for itself.
    Several(Vec<Error>),
    /// What is wrong was shown already.
    Shown,
    /// The reader of our output has gone: an end like any other.
    Pipe,
}

/// The exit code of wrong usage, clap's too.
const USAGE: u8 = 2;

impl Error {
    /// A failure without a fix; for those that explain themselves.
    pub(super) fn failed(what: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), details: Vec::new(), fix: None }
    }

    /// A failure and what to do.
    pub(super) fn fixable(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), details: Vec::new(), fix: Some(fix.into()) }
    }

    /// Standard output cannot be written.
    pub(super) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::Pipe
        } else {
            Self::failed(format!("cannot write the output: {error}"))
        }
    }

    /// Shows it on standard error.
    pub(super) fn show(&self) -> ExitCode {
        let text = self.text();
        if !text.is_empty() {
            super::out::note(text.trim_end());
        }
        match self {
            Self::Pipe => ExitCode::SUCCESS,
            Self::Usage { .. } => ExitCode::from(USAGE),
            Self::Failed { .. } | Self::Manifests(_) | Self::Several(_) | Self::Shown => ExitCode::FAILURE,
        }
    }

    /// As it is shown on a terminal, or without one.
    pub(super) fn text(&self) -> String {
        self.render(color_on_stderr(), width())
    }

    fn render(&self, color: bool, width: usize) -> String {
        match self {
            Self::Failed { what, details, fix } => plain(what, details, fix.as_deref()),
            Self::Usage { what, fix } => plain(what, &[], Some(fix)),
            Self::Manifests(manifests) => {
                manifests.iter().map(|manifest| picture(manifest, color, width)).collect()
            }
            Self::Several(errors) => errors.iter().map(|error| error.render(color, width)).collect(),
            Self::Shown | Self::Pipe => String::new(),
        }
    }
}

fn plain(what: &str, details: &[String], fix: Option<&str>) -> String {
    let mut text = format!("error: {what}\n");
    for detail in details {
        text.push_str(&format!("  {detail}\n"));
    }
    if let Some(fix) = fix {
        text.push_str(&format!("  fix: {fix}\n"));
    }
    text
}

/// A diagnostic with its source lines.
pub(super) fn picture(diagnostic: &dyn Diagnostic, color: bool, width: usize) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    let handler = GraphicalReportHandler::new_themed(theme).with_width(width).with_links(false);
    match handler.render_report(&mut text, diagnostic) {
        Ok(()) => text,
        Err(_) => format!("error: {diagnostic}\n"),
    }
}

/// Columns of the terminal, for wrapping; with none, what fits most.
pub(super) fn width() -> usize {
    let columns = rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    // A terminal that does not know its size says 0.
    if columns == 0 { 100 } else { columns.clamp(40, 140) }
}

pub(super) fn color_on_stderr() -> bool {
    use std::io::IsTerminal;
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_and_the_fix() {
        let error = Error::fixable("no server answers at https://127.0.0.1:7070", "start one: hearth serve");
        assert_eq!(
            error.render(false, 80),
            "error: no server answers at https://127.0.0.1:7070\n  fix: start one: hearth serve\n"
        );
    }

    #[test]
    fn a_closed_pipe_is_quiet() {
        let error = Error::output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(matches!(error, Error::Pipe));
        assert_eq!(error.render(false, 80), "");
    }
}
