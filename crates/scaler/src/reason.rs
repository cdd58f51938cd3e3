//! Why a decision is what it is: for `hearth describe`, for events and for tests. A value; words only at the edge.

use std::fmt;
use std::time::Duration;

use hearth_function::spec::Metric;

/// What led to a decision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reason {
    /// A new Revision is tried with its initial instances.
    Initial {
        /// How many.
        initial: u32,
    },
    /// Calls wait, or would have to.
    Backlog {
        /// Calls that wait.
        waiting: u32,
        /// Calls that run.
        in_flight: u32,
        /// Calls an instance runs at once.
        limit: u32,
        /// Mean service time, if any call has ended in the window.
        service: Option<Duration>,
        /// Time a start takes, if any was seen.
        start: Option<Duration>,
    },
    /// The instances bear more than they should on average.
    Utilisation {
        /// Average load.
        average: f64,
        /// What an instance should bear on average: limit × target.
        per_instance: f64,
        /// What is measured.
        metric: Metric,
        /// Whether the average is that of the panic window.
        burst: bool,
    },
    /// While there is any need, there are so many.
    Activation {
        /// [`crate::Policy::activation`].
        activation: u32,
    },
    /// An instance for each call.
    Ephemeral {
        /// Calls that wait.
        waiting: u32,
        /// Calls that run.
        in_flight: u32,
    },
    /// What is there is what is needed.
    Steady {
        /// Calls that run or wait.
        calls: u32,
    },
    /// Fewer would do, but more were needed within the window, or the idle timeout is not over.
    Held {
        /// What is needed now.
        need: u32,
        /// How long it has been held at most: the window or the idle timeout.
        for_at_most: Duration,
    },
    /// For a whole window fewer were needed.
    Quiet {
        /// The highest need of the window.
        need: u32,
        /// The window.
        window: Duration,
    },
    /// No traffic for the idle timeout.
    Idle {
        /// How long there was none.
        idle: Duration,
    },
    /// No calls, but it pays to wait for the next: learned from the times between calls.
    Kept {
        /// How long after the last call it is kept.
        keep: Duration,
        /// Idle times this was learned from.
        from: u32,
    },
    /// A call is expected: learned from the times between calls.
    Prewarmed {
        /// How long ago the last call was.
        quiet: Duration,
        /// How long after the last call one is expected.
        again: (Duration, Duration),
        /// Idle times this was learned from.
        from: u32,
    },
    /// No calls, and none expected now: learned from the times between calls.
    Unexpected {
        /// How long ago the last call was.
        quiet: Duration,
        /// How long after the last call one is expected, if any is worth to be waited for.
        next: Option<Duration>,
        /// Idle times this was learned from.
        from: u32,
    },
    /// No route leads to this Revision any more: it keeps what its last calls need.
    Retired {
        /// Calls that run or wait.
        calls: u32,
    },
}

/// What kept a decision from being higher or lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Fewer were needed; `scale.min` says so many.
    Min(u32),
    /// The same, of a window of `scale.reserved`.
    Reserved(u32),
    /// More were needed; `scale.max` allows so many.
    Max(u32),
    /// More were needed; at most so many times what serves is wanted at once.
    UpRate(u32),
    /// Fewer were needed; of so many, one is kept for now.
    DownRate(u32),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Initial { initial } => write!(f, "new revision, initial {initial}"),
            Self::Backlog { waiting, in_flight, limit, service, start } => {
                write!(f, "{waiting} waiting")?;
                if in_flight > 0 {
                    write!(f, ", {in_flight} running")?;
                }
                write!(f, ", limit {limit}")?;
                if let Some(service) = service {
                    write!(f, ", service {}", Rounded(service))?;
                }
                if let Some(start) = start {
                    write!(f, ", start {}", Rounded(start))?;
                }
                Ok(())
            }
            Self::Utilisation { average, per_instance, metric, burst } => {
                let unit = match metric {
                    Metric::Concurrency => "calls",
                    Metric::Rps => "requests per second",
                };
                write!(f, "average {average:.1} {unit}, target {per_instance:.1} for each instance")?;
                if burst { f.write_str(", burst") } else { Ok(()) }
            }
            Self::Activation { activation } => write!(f, "any need, activation {activation}"),
            Self::Ephemeral { waiting, in_flight } => {
                write!(f, "{waiting} waiting, {in_flight} running, one instance for each")
            }
            Self::Steady { calls: 0 } => f.write_str("no calls"),
            Self::Steady { calls } => write!(f, "{calls} calls"),
            Self::Held { need, for_at_most } => {
                write!(f, "{need} needed now, held for up to {}", Rounded(for_at_most))
            }
            Self::Quiet { need, window } => write!(f, "{need} needed in the last {}", Rounded(window)),
            Self::Idle { idle } => write!(f, "idle for {}", Rounded(idle)),
            Self::Kept { keep, from } => {
                write!(f, "no calls, kept until {} after the last: learned from {from} pauses", Rounded(keep))
            }
            Self::Prewarmed { quiet, again: (begin, end), from } => write!(
                f,
                "no calls for {}, one expected {} to {} after the last: learned from {from} pauses",
                Rounded(quiet),
                Rounded(begin),
                Rounded(end)
            ),
            Self::Unexpected { quiet, next: Some(next), from } => write!(
                f,
                "no calls for {}, none expected before {}: learned from {from} pauses",
                Rounded(quiet),
                Rounded(next)
            ),
            Self::Unexpected { quiet, next: None, from } => {
                write!(
                    f,
                    "no calls for {}, too rare to be waited for: learned from {from} pauses",
                    Rounded(quiet)
                )
            }
            Self::Retired { calls } => write!(f, "no route leads here, {calls} calls left"),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Min(min) => write!(f, "min {min}"),
            Self::Reserved(count) => write!(f, "reserved {count}"),
            Self::Max(max) => write!(f, "max {max}"),
            Self::UpRate(rate) => write!(f, "at most {rate} times what serves at once"),
            Self::DownRate(rate) => write!(f, "at least one in {rate} stays for now"),
        }
    }
}

/// A duration as people read it: three digits at most, and a unit.
pub(crate) struct Rounded(pub(crate) Duration);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (millis, seconds) = (self.0.as_secs_f64() * 1e3, self.0.as_secs_f64());
        if millis < 10.0 {
            write!(f, "{millis:.1} ms")
        } else if millis < 1000.0 {
            write!(f, "{millis:.0} ms")
        } else if seconds < 10.0 && self.0.subsec_millis() >= 50 {
            write!(f, "{seconds:.1} s")
        } else {
            write!(f, "{seconds:.0} s")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        let shown = |micros| Rounded(Duration::from_micros(micros)).to_string();
        assert_eq!(
            [
                shown(1_500),
                shown(60_000),
                shown(999_000),
                shown(1_500_000),
                shown(2_000_000),
                shown(60_000_000)
            ],
            ["1.5 ms", "60 ms", "999 ms", "1.5 s", "2 s", "60 s"]
        );
    }
}
