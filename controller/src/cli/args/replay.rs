//! `hearth record` and `hearth simulate`: what can be typed.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hearth_function::{HumanDuration, validate_idle_timeout};

use super::{Format, Place, duration};

/// `hearth record`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth record hello > hello.csv          the calls that are still in its log
  hearth record api web --since 1h         of several functions, of the last hour
  hearth simulate hello.csv                what other policies would have done with them

Each line is a call: function, start in seconds since the first one, duration in seconds.")]
pub(in crate::cli) struct Record {
    /// The functions
    #[arg(required = true, value_name = "NAME")]
    pub(in crate::cli) names: Vec<String>,
    /// Only calls of the last while, as in 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(in crate::cli) since: Option<std::time::Duration>,
    /// Where the functions are.
    #[command(flatten)]
    pub(in crate::cli) place: Place,
}

/// How long instances stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum KeepAliveChoice {
    /// By the times between calls
    Learned,
    /// For the idle timeout
    Fixed,
}

/// `hearth simulate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth simulate                          all traces that come with it
  hearth simulate burst flash --seed 7     two of them, from another seed
  hearth simulate hello.csv                what `hearth record` wrote
  hearth record hello | hearth simulate -  the same without a file
  hearth simulate invocations_per_function_md.anon.d01.csv --service 300ms
                                           a day of the Azure Functions 2019 trace
  hearth simulate --html report.html       and plots

Policies: Hearth's with its pool and without, Knative's, a fixed keep-alive of 10 minutes (OpenWhisk), and one of 2 minutes with a
pool of 3 (Fission). COLD and PREWARMED are calls that waited for such a start; P50 and P99 are the waits of all calls.

A file of calls has a line for each: function, start, duration, both in seconds. The trace begins
with the first start, so Unix timestamps will do; a name with a comma stands in quotes. In a file of
the Azure trace each row has a count for every minute of the header. A trace has at most 10,000,000
calls of 100,000 functions in 31 days, and its file at most 1 GiB: more is refused.")]
pub(in crate::cli) struct Simulate {
    /// Files, `-` for standard input, or traces that come with it: steady, diurnal, burst, cron, rare, flash; all of these when none is named
    #[arg(value_name = "TRACE")]
    pub(in crate::cli) traces: Vec<String>,
    /// What all random numbers follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(in crate::cli) seed: u64,
    /// Calls an instance runs at once
    #[arg(long, value_name = "N", default_value = "10")]
    pub(in crate::cli) limit: std::num::NonZeroU32,
    /// Instances of one function, at most
    #[arg(long, value_name = "N", default_value = "100")]
    pub(in crate::cli) max: std::num::NonZeroU32,
    /// Median time of a start from nothing
    #[arg(long, value_name = "DURATION", default_value = "400ms", value_parser = duration)]
    pub(in crate::cli) cold_start: std::time::Duration,
    /// Median time of a start out of the pool [default: a fifth of a cold one]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(in crate::cli) pooled_start: Option<std::time::Duration>,
    /// Median time of a call, for traces that do not say
    #[arg(long, value_name = "DURATION", default_value = "500ms", value_parser = duration)]
    pub(in crate::cli) service: std::time::Duration,
    /// Starts that run at the same time
    #[arg(long, value_name = "N", default_value = "8")]
    pub(in crate::cli) parallel_starts: std::num::NonZeroU32,
    /// Hearth's `scale.idleTimeout`, from 1s to 24h
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = idle_timeout)]
    pub(in crate::cli) idle_timeout: std::time::Duration,
    /// Hearth's `scale.keepAlive`
    #[arg(long, value_enum, default_value = "learned")]
    pub(in crate::cli) keep_alive: KeepAliveChoice,
    /// Write a report with plots
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) html: Option<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum)]
    pub(in crate::cli) output: Option<Format>,
}

/// What a manifest takes, and its words when it does not.
fn idle_timeout(text: &str) -> Result<std::time::Duration, String> {
    let timeout = duration(text)?;
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    match validate_idle_timeout(HumanDuration::from_millis(millis)) {
        Some(problem) => Err(match problem.fix {
            Some(fix) => format!("{}; {fix}", problem.message),
            None => problem.message,
        }),
        None => Ok(timeout),
    }
}
