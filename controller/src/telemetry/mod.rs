//! What Hearth says about itself and about the functions it runs.
//!
//! - [`logs`]: what functions print, kept per invocation on disk, with a record of each call.
//! - [`metrics`]: counters and histograms for Prometheus.
//! - [`tracing`]: Hearth's own diagnostics, on standard error.

pub mod logs;
pub mod metrics;
pub mod tracing;
