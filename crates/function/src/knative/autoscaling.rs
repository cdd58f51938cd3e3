//! What `autoscaling.knative.dev/` annotations come to.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{Notes, Scale, UNLIMITED};
use crate::HumanDuration;
use crate::spec::KeepAlive;
use crate::validate::{LEAST_WINDOW, MOST_CONCURRENCY, MOST_INSTANCES};

const PREFIX: &str = "autoscaling.knative.dev/";

/// Percent of its target at which Knative keeps an instance (`container-concurrency-target-percentage`); Hearth's default too.
const UTILISATION: f64 = 70.0;

/// Longest time that an annotation can have, Knative's bound.
const LONGEST: Duration = Duration::from_secs(3600);

/// The fields of a Function.
#[derive(Debug)]
pub(super) struct Scaling {
    pub(super) concurrency: Value,
    pub(super) scale: Value,
}

/// What a Service is scaled by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Calls running and waiting.
    Calls,
    /// Requests per second.
    Requests,
    /// What Hearth does not measure: its targets are no number of calls.
    Other,
}

/// Takes the annotations that are understood. `limit` is the Service's `containerConcurrency`, 0 for none.
pub(super) fn read(annotations: &mut Fields, limit: u64, notes: &mut Notes) -> Scaling {
    let mut scale = Map::new();
    instances(annotations, &mut scale, notes);
    times(annotations, &mut scale, notes);
    let measure = measure(annotations, notes);
    if measure == Measure::Requests {
        scale.insert("metric".to_owned(), json!("rps"));
    }
    let concurrency = concurrency(annotations, limit, measure, notes);
    Scaling { concurrency, scale: Value::Object(scale) }
}

/// How many instances there are. Knative has no limit unless it is told one (0 is none as well); a Function always has one, which leaves room for
/// what the Service asks for.
fn instances(annotations: &mut Fields, scale: &mut Map<String, Value>, notes: &mut Notes) {
    let mut asked = Vec::new();
    for (annotation, field) in
        [("min-scale", "min"), ("initial-scale", "initial"), ("activation-scale", "activation")]
    {
        if let Some((path, count)) = number(annotations, annotation, notes) {
            asked.push((annotation, field, path, count));
        }
    }
    let told = number(annotations, "max-scale", notes);
    let bound = told.as_ref().map(|(_, count)| *count).filter(|count| *count > 0);
    let default = u64::from(Scale::default().max);
    let largest = asked.iter().max_by_key(|(.., count)| *count);
    let most = u64::from(MOST_INSTANCES);
    let needed = largest.map_or(0, |(.., count)| *count).clamp(default, most);
    let max = bound.unwrap_or(needed).min(most);
    if bound.is_some() || max != default {
        scale.insert("max".to_owned(), json!(max));
    }
    match (&told, largest) {
        (Some((path, 0)), _) => {
            notes.warn(path, format!("no limit is not to be had: there are at most {max} instances"));
        }
        (Some((path, count)), _) if *count > max => {
            notes.warn(path, format!("{count} is not to be had: there are at most {max} instances"));
        }
        (None, Some((.., path, count))) if max > default && *count <= max => {
            let message = format!(
                "this makes {max} the most instances too: without max-scale Knative has no limit, and Hearth one of {default}"
            );
            notes.warn(path, message);
        }
        _ => {}
    }
    for (annotation, field, path, count) in asked {
        match bound {
            // Knative refuses this as well, but for the initial scale, which may be above it there.
            Some(bound) if count > bound && field != "initial" => {
                let message = format!("{annotation} is {count}, and max-scale is {bound}");
                notes.problem(&path, message, &format!("lower it to {bound}, or raise max-scale"));
            }
            _ if count > max => {
                notes.warn(&path, format!("{count} is not to be had: there are at most {max} instances"));
            }
            _ => {}
        }
        scale.insert(field.to_owned(), json!(count.min(max)));
    }
}

fn times(annotations: &mut Fields, scale: &mut Map<String, Value>, notes: &mut Notes) {
    let window = duration(annotations, "window", LEAST_WINDOW.get(), notes);
    let delay = duration(annotations, "scale-down-delay", Duration::ZERO, notes);
    let retention = duration(annotations, "scale-to-zero-pod-retention-period", Duration::ZERO, notes);
    let mut insert = |field: &str, time: HumanDuration| {
        scale.insert(field.to_owned(), json!(time));
    };
    if let Some(window) = window {
        insert("window", window);
    }
    if let Some(delay) = delay.filter(|delay| !delay.get().is_zero()) {
        insert("scaleDownDelay", delay);
    }
    if let Some(retention) = retention.filter(|retention| !retention.get().is_zero()) {
        // It begins when the last instance is to go, which is a window after the last call.
        let idle = window.unwrap_or_else(|| Scale::default().window).get() + retention.get();
        let millis = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
        insert("idleTimeout", HumanDuration::from_millis(millis));
        // What is learned may be shorter.
        scale.insert("keepAlive".to_owned(), json!(KeepAlive::Fixed));
    }
}

fn measure(annotations: &mut Fields, notes: &mut Notes) -> Measure {
    let class = text(annotations, "class", notes).filter(|(_, class)| !class.starts_with("kpa."));
    if let Some((path, class)) = &class {
        notes.warn(path, format!("{class} is not honoured: Hearth scales by concurrency or requests"));
    }
    match text(annotations, "metric", notes) {
        Some((_, metric)) if metric == "rps" => Measure::Requests,
        Some((_, metric)) if metric == "concurrency" => Measure::Calls,
        Some((path, metric)) => {
            notes.warn(&path, format!("{metric} is not honoured: scaled by concurrency"));
            Measure::Other
        }
        // Another class has a metric of its own: cpu for Kubernetes' autoscaler.
        None if class.is_some() => Measure::Other,
        None => Measure::Calls,
    }
}

fn concurrency(annotations: &mut Fields, limit: u64, measure: Measure, notes: &mut Notes) -> Value {
    const TARGET: &str = "target";
    const UTILISATION_TARGET: &str = "target-utilization-percentage";
    if measure == Measure::Other {
        for name in [TARGET, UTILISATION_TARGET] {
            if let Some((path, text)) = text(annotations, name, notes) {
                notes.warn(
                    &path,
                    format!("{text} is not honoured: it is for a metric that Hearth does not scale by"),
                );
            }
        }
        return concurrency_of(if limit > 0 { limit } else { UNLIMITED }, UTILISATION);
    }
    let target = text(annotations, TARGET, notes);
    let utilisation = text(annotations, UTILISATION_TARGET, notes);
    let utilisation = utilisation.and_then(|(path, text)| Some((fraction(&path, &text, notes)?, path)));
    let wanted = target.and_then(|(path, text)| {
        let number = text.parse::<f64>().ok().filter(|number| *number > 0.0);
        if number.is_none() {
            let fix = match measure {
                Measure::Requests => "write requests per second, as in \"50\"",
                Measure::Calls | Measure::Other => "write calls at once, as in \"10\"",
            };
            notes.problem(&path, format!("{text:?} is not a number above 0"), fix);
        }
        number.map(|number| (path, number))
    });
    if measure == Measure::Requests {
        let share = utilisation.map(|(share, _)| share);
        let target = match wanted {
            Some((path, wanted)) => Some(of_rps(&path, wanted, share, notes)),
            None => share.map(whole_percent),
        };
        let limit = if limit > 0 { limit } else { UNLIMITED };
        return concurrency_of(limit, target.unwrap_or(UTILISATION));
    }
    of_calls(wanted, utilisation, limit, notes)
}

/// The limit and the target that keep `wanted` calls in an instance, or all that it takes, times the utilisation; each with where it stands.
fn of_calls(
    wanted: Option<(String, f64)>,
    utilisation: Option<(f64, String)>,
    limit: u64,
    notes: &mut Notes,
) -> Value {
    let most = f64::from(MOST_CONCURRENCY);
    let asked = wanted.as_ref().map(|(_, wanted)| wanted.min(most));
    if let Some((path, wanted)) = wanted.as_ref().filter(|(_, wanted)| limit == 0 && *wanted > most) {
        notes.warn(path, format!("{wanted} is not to be had: an instance takes {most} calls at once"));
    }
    // Without a limit a Service takes what comes; a Function has one, with room above the target.
    let limit = if limit > 0 {
        limit
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and a thousand"
        )]
        asked.map_or(UNLIMITED, |asked| asked.ceil().max(UNLIMITED as f64) as u64)
    };
    let full = limit as f64;
    let share = utilisation.as_ref().map_or(UTILISATION, |(share, _)| *share);
    let calls = asked.unwrap_or(full).min(full) * share / 100.0;
    let percent = whole_percent(calls * 100.0 / full);
    let kept = percent * full / 100.0;
    let path = wanted.map(|(path, _)| path).or_else(|| utilisation.map(|(_, path)| path));
    if let Some(path) = path.filter(|_| differ(kept, calls)) {
        let (kept, calls) = (shown(kept), shown(calls));
        let message = format!(
            "{kept} calls at once for each instance are the nearest to {calls}: {percent}% of {full}"
        );
        notes.warn(&path, message);
    }
    concurrency_of(limit, percent)
}

/// The target that keeps `wanted` requests per second in an instance, or the given percentage of them. Without one they are kept as they are
/// written: that is the number that somebody who scales by it has in mind.
fn of_rps(path: &str, wanted: f64, utilisation: Option<f64>, notes: &mut Notes) -> f64 {
    let wanted = wanted * utilisation.unwrap_or(100.0) / 100.0;
    let full = f64::from(Scale::FULL_RPS.get());
    let percent = whole_percent(wanted * 100.0 / full);
    let kept = percent * full / 100.0;
    if differ(kept, wanted) {
        let (kept, wanted) = (shown(kept), shown(wanted));
        notes.warn(
            path,
            format!(
                "{kept} requests a second for each instance are the nearest to {wanted}: {percent}% of {full}"
            ),
        );
    }
    percent
}

fn differ(one: f64, other: f64) -> bool {
    (one - other).abs() > 1e-6
}

/// As it is read: no more than it takes to see that two differ.
fn shown(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// The nearest percentage that a Function can have.
fn whole_percent(percent: f64) -> f64 {
    percent.round().clamp(1.0, 100.0)
}

fn concurrency_of(limit: u64, percent: f64) -> Value {
    let mut concurrency = json!({ "limit": limit });
    if percent != UTILISATION {
        concurrency["target"] = json!(format!("{percent}%"));
    }
    concurrency
}

/// An annotation, also in its older spelling (`minScale` for `min-scale`), and where it stands.
fn text(annotations: &mut Fields, name: &str, notes: &mut Notes) -> Option<(String, String)> {
    let mut old = String::new();
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '-' => upper = true,
            _ if upper => {
                old.push(letter.to_ascii_uppercase());
                upper = false;
            }
            _ => old.push(letter),
        }
    }
    [name, &old].into_iter().find_map(|name| {
        let name = format!("{PREFIX}{name}");
        let text = annotations.text(&name, notes)?;
        Some((annotations.path_of(&name), text))
    })
}

/// A whole number, and where it stands.
fn number(annotations: &mut Fields, name: &str, notes: &mut Notes) -> Option<(String, u64)> {
    let (path, text) = text(annotations, name, notes)?;
    let number = text.parse().ok();
    if number.is_none() {
        notes.problem(&path, format!("{text:?} is not a whole number"), "write a whole number, as in \"3\"");
    }
    number.map(|number| (path, number))
}

/// A time from `least` to [`LONGEST`], as Knative takes them.
fn duration(
    annotations: &mut Fields,
    name: &str,
    least: Duration,
    notes: &mut Notes,
) -> Option<HumanDuration> {
    let (path, text) = text(annotations, name, notes)?;
    // The one time that Knative takes without a unit.
    let text = if text == "0" { "0s" } else { &text };
    match text.parse::<HumanDuration>() {
        Ok(time) if (least..=LONGEST).contains(&time.get()) => Some(time),
        Ok(_) => {
            let (least, most) = (least.as_secs(), LONGEST.as_secs());
            let fix = format!("write a time from {least}s to {most}s");
            notes.problem(&path, format!("{text} is too little or too much"), &fix);
            None
        }
        Err(error) => {
            notes.problem(&path, error.what, &error.fix);
            None
        }
    }
}

/// A percentage, as `70` or as `0.7`: Knative has taken both. 1 is one percent.
fn fraction(path: &str, text: &str, notes: &mut Notes) -> Option<f64> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 100.0);
    if number.is_none() {
        notes.problem(
            path,
            format!("{text:?} is not a percentage"),
            "write a number from 1 to 100, as in \"70\"",
        );
    }
    number.map(|number| if number < 1.0 { number * 100.0 } else { number })
}
