//! `hearth simulate`: what policies would have done with a trace. The simulation is `hearth_scaler`'s; here are files, tables and plots.

mod files;
mod html;

use std::time::{Duration, Instant};

use hearth_function::spec::KeepAlive;
use hearth_scaler::Policy;
use hearth_scaler::pool::PoolPolicy;
use hearth_scaler::simulate::{Contender, Machine, NAMES, Outcome, Spread, Trace, simulate_watched};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use super::args::{KeepAliveChoice, Simulate};
use super::error::Error;
use super::out;
use files::Report;

/// What every policy did with one trace.
#[derive(Debug)]
struct Comparison {
    /// The trace, in words.
    title: String,
    rows: Vec<(&'static str, Outcome)>,
}

/// Deviation of the logarithm of all drawn times: one in a hundred takes two and a half times as long as the median.
const SIGMA: f64 = 0.4;

/// A replay that takes longer says how far it is.
const LONG: Duration = Duration::from_secs(1);

/// Runs the command.
pub(super) fn run(arguments: &Simulate) -> Result<(), Error> {
    let names: Vec<String> = if arguments.traces.is_empty() {
        NAMES.iter().map(|name| (*name).to_owned()).collect()
    } else {
        arguments.traces.clone()
    };
    if names.iter().filter(|name| *name == files::STANDARD_INPUT).count() > 1 {
        return Err(Error::Usage {
            what: "standard input is read once, and `-` stands there more often".to_owned(),
            fix: "give one `-`, and files for other traces".to_owned(),
        });
    }
    // Before the replays, which may take minutes.
    let report = arguments.html.as_deref().map(Report::open).transpose()?;
    let machine = machine(arguments);
    let contenders = contenders(arguments);
    let mut comparisons = Vec::new();
    for name in &names {
        let trace = files::trace(name, arguments.seed, &spread(arguments.service))?;
        out::note(&format!("{}: {} calls", trace.name, trace.calls.len()));
        comparisons.push(compare(&trace, &contenders, &machine));
    }
    if comparisons.len() > 1 {
        comparisons.push(together(&comparisons));
    }
    // A reader who has gone does not keep the report from being written.
    let shown = show(&comparisons, arguments);
    if let Some(report) = report {
        report.write(&html::page(&comparisons, arguments.seed))?;
    }
    shown
}

fn show(comparisons: &[Comparison], arguments: &Simulate) -> Result<(), Error> {
    match arguments.output {
        Some(format) => {
            let all: Vec<Summary<'_>> = comparisons.iter().map(Summary::of).collect();
            out::object(&all, format)
        }
        None => comparisons.iter().try_for_each(|comparison| out::text(&table(comparison))),
    }
}

fn compare(trace: &Trace, contenders: &[(&'static str, Contender)], machine: &Machine) -> Comparison {
    // Virtual time begins at any moment.
    let epoch = Instant::now();
    let bar = progress(contenders.len());
    let mut rows = Vec::new();
    for (who, contender) in contenders {
        bar.set_message(*who);
        let before = 1000 * u64::try_from(rows.len()).unwrap_or(u64::MAX);
        let outcome = simulate_watched(trace, contender, machine, epoch, &mut |thousandths| {
            if bar.is_hidden() && epoch.elapsed() >= LONG {
                // Nothing where standard error is no terminal.
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.set_position(before.saturating_add(thousandths));
        });
        rows.push((*who, outcome));
    }
    bar.finish_and_clear();
    let title = title(&trace.name, trace.calls.len(), trace.functions.len(), trace.length);
    Comparison { title, rows }
}

/// What was replayed, in a unit that says something of it: a record may be of some seconds.
fn title(name: &str, calls: usize, functions: usize, length: Duration) -> String {
    let counted = |count: usize, noun: &str| format!("{count} {noun}{}", if count == 1 { "" } else { "s" });
    let seconds = length.as_secs_f64();
    let length = if seconds >= 3600.0 {
        format!("{:.1} h", seconds / 3600.0)
    } else if seconds >= 120.0 {
        format!("{:.0} min", seconds / 60.0)
    } else {
        format!("{seconds:.0} s")
    };
    format!("{name}: {} of {} in {length}", counted(calls, "call"), counted(functions, "function"))
}

/// A bar that is not drawn yet: most replays are done before anybody would read it.
fn progress(policies: usize) -> ProgressBar {
    let length = 1000 * u64::try_from(policies).unwrap_or(u64::MAX);
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
    if let Ok(style) = ProgressStyle::with_template("replaying {bar:30} {percent} %, {msg}") {
        bar.set_style(style);
    }
    bar
}

fn spread(median: Duration) -> Spread {
    Spread { median, sigma: SIGMA }
}

fn machine(arguments: &Simulate) -> Machine {
    Machine {
        seed: arguments.seed,
        limit: arguments.limit,
        max: arguments.max,
        cold: spread(arguments.cold_start),
        pooled: spread(arguments.pooled_start.unwrap_or(arguments.cold_start / 5)),
        parallel: arguments.parallel_starts,
        ..Machine::default()
    }
}

fn contenders(arguments: &Simulate) -> Vec<(&'static str, Contender)> {
    let policy = Policy {
        idle_timeout: arguments.idle_timeout,
        keep_alive: match arguments.keep_alive {
            KeepAliveChoice::Learned => KeepAlive::Learned,
            KeepAliveChoice::Fixed => KeepAlive::Fixed,
        },
        ..Policy::default()
    };
    let pool = PoolPolicy::default();
    let ours = |contender| match contender {
        Contender::Hearth(_, with) => Contender::Hearth(policy, with.map(|_| pool)),
        other => other,
    };
    Contender::all().into_iter().map(|(who, contender)| (who, ours(contender))).collect()
}

fn together(comparisons: &[Comparison]) -> Comparison {
    let mut rows: Vec<(&'static str, Outcome)> = Vec::new();
    for comparison in comparisons {
        for (place, (who, outcome)) in comparison.rows.iter().enumerate() {
            match rows.get_mut(place) {
                Some((_, sum)) => sum.add(outcome),
                None => rows.push((who, Outcome { samples: Vec::new(), ..outcome.clone() })),
            }
        }
    }
    Comparison { title: "all together".to_owned(), rows }
}

const COLUMNS: [&str; 12] = [
    "POLICY",
    "CALLS",
    "COLD",
    "PREWARMED",
    "REFUSED",
    "STARTS",
    "P50",
    "P99",
    "INSTANCE-S",
    "POOL-S",
    "GIB-H",
    "WASTED-S",
];

/// An outcome as the tables show it.
fn cells(who: &str, outcome: &Outcome) -> Vec<String> {
    let millis =
        |wait: f64| if wait < 10_000.0 { format!("{wait:.0}ms") } else { format!("{:.1}s", wait / 1e3) };
    vec![
        who.to_owned(),
        outcome.served.to_string(),
        outcome.cold.to_string(),
        outcome.prewarmed.to_string(),
        outcome.refused.to_string(),
        (outcome.cold_starts + outcome.pooled_starts).to_string(),
        millis(outcome.wait(50.0)),
        millis(outcome.wait(99.0)),
        format!("{:.0}", outcome.instance_seconds),
        format!("{:.0}", outcome.pool_seconds),
        format!("{:.2}", gib_hours(outcome)),
        format!("{:.0}", outcome.wasted_seconds),
    ]
}

fn gib_hours(outcome: &Outcome) -> f64 {
    outcome.memory_seconds / 1024.0 / 3600.0
}

fn table(comparison: &Comparison) -> String {
    let rows: Vec<Vec<String>> = comparison.rows.iter().map(|(who, outcome)| cells(who, outcome)).collect();
    let columns = out::Columns::new(&COLUMNS, &rows);
    let mut text = format!("{}\n{}", comparison.title, columns.row(&COLUMNS));
    text.extend(rows.iter().map(|row| columns.row(row)));
    text.push('\n');
    text
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary<'a> {
    trace: &'a str,
    policies: Vec<Row>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    policy: &'static str,
    served: u64,
    cold: u64,
    prewarmed: u64,
    refused: u64,
    cold_starts: u64,
    pooled_starts: u64,
    wait_p50_ms: f64,
    wait_p99_ms: f64,
    instance_seconds: f64,
    pool_seconds: f64,
    gib_hours: f64,
    wasted_seconds: f64,
}

impl<'a> Summary<'a> {
    fn of(comparison: &'a Comparison) -> Self {
        let row = |(policy, outcome): &(&'static str, Outcome)| Row {
            policy,
            served: outcome.served,
            cold: outcome.cold,
            prewarmed: outcome.prewarmed,
            refused: outcome.refused,
            cold_starts: outcome.cold_starts,
            pooled_starts: outcome.pooled_starts,
            wait_p50_ms: outcome.wait(50.0),
            wait_p99_ms: outcome.wait(99.0),
            instance_seconds: outcome.instance_seconds,
            pool_seconds: outcome.pool_seconds,
            gib_hours: gib_hours(outcome),
            wasted_seconds: outcome.wasted_seconds,
        };
        Self { trace: &comparison.title, policies: comparison.rows.iter().map(row).collect() }
    }
}

#[cfg(test)]
mod tests {
    use hearth_scaler::simulate::{Random, simulate};

    use super::*;

    #[test]
    fn a_title_says_how_long_the_trace_is_in_a_unit_that_fits() {
        let seconds = Duration::from_secs;
        assert_eq!(title("a", 1, 1, seconds(7)), "a: 1 call of 1 function in 7 s");
        assert_eq!(title("a", 20, 2, seconds(1500)), "a: 20 calls of 2 functions in 25 min");
        assert_eq!(title("a", 20, 2, seconds(5400)), "a: 20 calls of 2 functions in 1.5 h");
    }

    #[test]
    fn the_report_holds_every_policy_and_nothing_from_elsewhere() {
        let calls = "function,start,duration\nhello,0,0.1\nhello,<b>,1\n";
        let machine = Machine::default();
        let read = |text: &str| Trace::parse("t", text, &machine.cold, &mut Random::new(1));
        assert!(read(calls).is_err());
        let trace = read("hello,0,0.1\nhello,100,0.2\n").unwrap();
        let rows = Contender::all()
            .into_iter()
            .map(|(who, contender)| (who, simulate(&trace, &contender, &machine, Instant::now())));
        let comparison = Comparison { title: "a < b".to_owned(), rows: rows.collect() };
        let text = table(&comparison);
        assert_eq!(text.lines().count(), 8, "{text}");
        let comparisons = [comparison];
        let page = html::page(&comparisons, 1);
        assert!(page.contains("a &lt; b") && page.matches("<svg").count() == 3 && !page.contains("http"));
        assert!(Contender::all().iter().all(|(who, _)| page.contains(who)));
        assert_eq!(serde_json::to_value(Summary::of(&comparisons[0])).unwrap()["policies"][0]["served"], 2);
    }
}
