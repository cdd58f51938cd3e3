//! What Hearth says about itself and about the functions it runs.
//!
//! - [`logs`]: what functions print, kept per invocation on disk, with a record of each call.
//! - [`metrics`]: counters and histograms for Prometheus.
//! - [`tracing`]: Hearth's own diagnostics, on standard error.

pub mod logs;
pub mod metrics;
mod seldom;
pub mod tracing;

pub(crate) use seldom::Seldom;

/// An error with all its causes as one sentence, without repeating what a cause says again.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
