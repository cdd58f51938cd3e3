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
    /// None was needed; the last start failed, and one is tried again.
    Mending,
    /// None was needed; one waits for room outside, and is kept until there is.
    Waiting,
    /// More were needed; `scale.max` allows so many.
    Max(u32),
    /// More were needed; at most so many times what serves is wanted at once.
    UpRate(u32),
    /// Fewer were needed; of so many, one is kept for now.
    DownRate(u32),
}

/// Each is a plain sentence without its full stop, that stands behind [`span`].
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Initial { initial } => {
                write!(f, "a new revision is tried with {}", Counted(initial, "instance"))
            }
            Self::Backlog { waiting, in_flight, limit, service, start } => {
                write!(f, "{}, an instance runs {limit} at once", Calls { waiting, in_flight })?;
                match (service, start) {
                    (Some(service), Some(start)) => {
                        write!(f, ", a call takes {} and a start {}", Rounded(service), Rounded(start))
                    }
                    (Some(service), None) => write!(f, ", a call takes {}", Rounded(service)),
                    (None, Some(start)) => write!(f, ", a start takes {}", Rounded(start)),
                    (None, None) => Ok(()),
                }
            }
            Self::Utilisation { average, per_instance, metric, burst } => {
                let unit = match metric {
                    Metric::Concurrency => "calls run at once",
                    Metric::Rps => "requests come in a second",
                };
                let when = if burst { "in this burst" } else { "on average" };
                write!(f, "{average:.1} {unit} {when}, and an instance is meant to have {per_instance:.1}")
            }
            Self::Activation { activation } => {
                write!(
                    f,
                    "there are calls, and scale.activation wants {} for them",
                    Counted(activation, "instance")
                )
            }
            Self::Ephemeral { waiting, in_flight } => {
                write!(f, "{}, and each has an instance of its own", Calls { waiting, in_flight })
            }
            Self::Steady { calls: 0 } => f.write_str("no calls"),
            Self::Steady { calls } => write!(f, "{} running or waiting", Counted(calls, "call")),
            Self::Held { need, for_at_most } => {
                match need {
                    0 => f.write_str("none is needed now")?,
                    1 => f.write_str("1 instance would do now")?,
                    need => write!(f, "{need} instances would do now")?,
                }
                write!(f, ", and those that were needed stay for up to {}", Rounded(for_at_most))
            }
            Self::Quiet { need, window } => {
                let was = if need == 1 { "was" } else { "were" };
                let (need, window) = (Counted(need, "instance"), Rounded(window));
                write!(f, "no more than {need} {was} needed in the last {window}")
            }
            Self::Idle { idle } => write!(f, "no calls for {}", Rounded(idle)),
            Self::Kept { keep, from } => write!(
                f,
                "no calls, and one instance stays until {} after the last call, as {} between calls suggest",
                Rounded(keep),
                Counted(from, "pause")
            ),
            Self::Prewarmed { quiet, again: (begin, end), from } => write!(
                f,
                "no calls for {}, and the next is expected {} to {} after the last, as {} between calls suggest",
                Rounded(quiet),
                Rounded(begin),
                Rounded(end),
                Counted(from, "pause")
            ),
            Self::Unexpected { quiet, next: Some(next), from } => write!(
                f,
                "no calls for {}, and none is expected until {} after the last, as {} between calls suggest",
                Rounded(quiet),
                Rounded(next),
                Counted(from, "pause")
            ),
            Self::Unexpected { quiet, next: None, from } => write!(
                f,
                "no calls for {}, and too few are expected to keep an instance for them, as {} between calls suggest",
                Rounded(quiet),
                Counted(from, "pause")
            ),
            Self::Retired { calls: 0 } => {
                f.write_str("another revision has taken over, and its last call has ended")
            }
            Self::Retired { calls } => write!(
                f,
                "another revision has taken over, and {} still to end here",
                if calls == 1 { "1 call is".to_owned() } else { format!("{calls} calls are") }
            ),
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Min(min) => write!(f, "scale.min keeps {min}"),
            Self::Reserved(count) => write!(f, "scale.reserved keeps {count} now"),
            Self::Mending => f.write_str("the last start failed and is tried again"),
            Self::Waiting => f.write_str("one is kept that waits for a node"),
            Self::Max(max) => write!(f, "scale.max allows {max}"),
            Self::UpRate(rate) => write!(f, "at most {rate} times what serves now"),
            Self::DownRate(rate) => write!(f, "at least one in {rate} stays for now"),
        }
    }
}

/// From how many instances to how many: what a sentence about a decision begins with.
#[must_use]
pub fn span(from: u32, to: u32) -> String {
    let to_instances = Counted(to, "instance");
    if from == to { format!("still {to_instances}") } else { format!("from {from} to {to_instances}") }
}

/// Calls that wait and calls that run, as a clause.
struct Calls {
    waiting: u32,
    in_flight: u32,
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = |count: u32, verb: &str| format!("{verb}{}", if count == 1 { "s" } else { "" });
        let Self { waiting, in_flight } = *self;
        match (waiting, in_flight) {
            (0, running) => write!(f, "{} {}", Counted(running, "call"), verb(running, "run")),
            (waiting, 0) => write!(f, "{} {}", Counted(waiting, "call"), verb(waiting, "wait")),
            (waiting, running) => write!(
                f,
                "{} {} and {running} {}",
                Counted(waiting, "call"),
                verb(waiting, "wait"),
                verb(running, "run")
            ),
        }
    }
}

/// So many of something, with its plural.
pub(crate) struct Counted(pub(crate) u32, pub(crate) &'static str);

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
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
        } else if seconds < 120.0 {
            write!(f, "{seconds:.0} s")
        } else if seconds < 7200.0 {
            write!(f, "{:.0} min", seconds / 60.0)
        } else {
            write!(f, "{:.1} h", seconds / 3600.0)
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
                shown(60_000_000),
                shown(600_000_000),
                shown(9_000_000_000),
            ],
            ["1.5 ms", "60 ms", "999 ms", "1.5 s", "2 s", "60 s", "10 min", "2.5 h"]
        );
    }

    /// Each reason in each of its forms. The match has no arm for what is left out: a new reason does not compile until it is here.
    fn every_reason() -> Vec<Reason> {
        let (service, start) = (Duration::from_millis(120), Duration::from_millis(90));
        let minute = Duration::from_secs(60);
        let mut reasons = vec![Reason::Initial { initial: 1 }];
        while let Some(last) = reasons.last().copied() {
            let next = match last {
                Reason::Initial { .. } => vec![
                    Reason::Backlog { waiting: 1, in_flight: 0, limit: 10, service: None, start: None },
                    Reason::Backlog {
                        waiting: 40,
                        in_flight: 12,
                        limit: 1,
                        service: Some(service),
                        start: Some(start),
                    },
                ],
                Reason::Backlog { .. } => {
                    let of = |metric, burst| Reason::Utilisation {
                        average: 8.04,
                        per_instance: 7.0,
                        metric,
                        burst,
                    };
                    vec![
                        of(Metric::Rps, false),
                        of(Metric::Rps, true),
                        of(Metric::Concurrency, true),
                        of(Metric::Concurrency, false),
                    ]
                }
                Reason::Utilisation { .. } => vec![Reason::Activation { activation: 3 }],
                Reason::Activation { .. } => vec![Reason::Ephemeral { waiting: 3, in_flight: 2 }],
                Reason::Ephemeral { .. } => [0, 1, 5].map(|calls| Reason::Steady { calls }).to_vec(),
                Reason::Steady { .. } => {
                    [0, 1, 2].map(|need| Reason::Held { need, for_at_most: minute }).to_vec()
                }
                Reason::Held { .. } => [1, 2].map(|need| Reason::Quiet { need, window: minute }).to_vec(),
                Reason::Quiet { .. } => vec![Reason::Idle { idle: minute * 3 }],
                Reason::Idle { .. } => vec![Reason::Kept { keep: minute * 2, from: 15 }],
                Reason::Kept { .. } => {
                    vec![Reason::Prewarmed { quiet: minute * 4, again: (minute * 5, minute * 6), from: 30 }]
                }
                Reason::Prewarmed { .. } => [Some(minute * 300), None]
                    .map(|next| Reason::Unexpected { quiet: minute, next, from: 30 })
                    .to_vec(),
                Reason::Unexpected { .. } => [0, 1, 2].map(|calls| Reason::Retired { calls }).to_vec(),
                Reason::Retired { .. } => break,
            };
            reasons.extend(next);
        }
        reasons
    }

    #[test]
    fn every_reason_is_a_plain_sentence() {
        let said: Vec<String> = every_reason().iter().map(ToString::to_string).collect();
        let lines: String = said.iter().map(|text| format!("{text}\n")).collect();
        insta::assert_snapshot!("reasons", lines);
        for text in said {
            assert!(text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()), "{text}");
            assert!(text.len() < 130 && !text.ends_with('.') && !text.contains("  "), "{text}");
            for wrong in ["(s)", "None", "Some", "{", "1 calls", "1 instances", "1 pauses", "0.0 ms"] {
                let alone = text
                    .split(", ")
                    .any(|part| part.starts_with(wrong) || part.contains(&format!(" {wrong}")));
                assert!(!alone, "{text}: {wrong}");
            }
        }
        let bounds = [
            Bound::Min(1),
            Bound::Reserved(3),
            Bound::Mending,
            Bound::Waiting,
            Bound::Max(20),
            Bound::UpRate(1000),
            Bound::DownRate(2),
        ];
        insta::assert_snapshot!("bounds", bounds.map(|bound| format!("{bound}\n")).concat());
    }
}
