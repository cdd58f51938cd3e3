//! What `autoscaling.knative.dev/` annotations come to.

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::{Notes, Scale, UNLIMITED};
use crate::HumanDuration;

const PREFIX: &str = "autoscaling.knative.dev/";

/// Percent of its target at which Knative keeps an instance (`container-concurrency-target-percentage`); Hearth's default too.
const UTILISATION: f64 = 70.0;

/// Most calls at once that a Function can have in an instance.
pub(super) const MOST: u64 = 1000;

/// The fields of a Function.
#[derive(Debug)]
pub(super) struct Scaling {
    pub(super) concurrency: Value,
    pub(super) scale: Value,
}

/// Takes the annotations that are understood. `limit` is the Service's `containerConcurrency`, 0 for none.
pub(super) fn read(annotations: &mut Fields, limit: u64, notes: &mut Notes) -> Scaling {
    let mut scale = Map::new();
    for (annotation, field) in
        [("min-scale", "min"), ("initial-scale", "initial"), ("activation-scale", "activation")]
    {
        if let Some(count) = number(annotations, annotation, notes) {
            scale.insert(field.to_owned(), json!(count));
        }
    }
    // None at most is Knative's word for no limit.
    match number(annotations, "max-scale", notes) {
        Some(0) => {
            let default = Scale::default().max;
            let path = annotations.path_of(&format!("{PREFIX}max-scale"));
            notes.warn(&path, format!("no limit is not to be had: there are at most {default} instances"));
        }
        Some(count) => drop(scale.insert("max".to_owned(), json!(count))),
        None => {}
    }
    for (annotation, field) in [
        ("window", "window"),
        ("scale-down-delay", "scaleDownDelay"),
        ("scale-to-zero-pod-retention-period", "idleTimeout"),
    ] {
        if let Some(time) = duration(annotations, annotation, notes).filter(|time| time != "0s") {
            scale.insert(field.to_owned(), json!(time));
        }
    }
    let class = text(annotations, "class", notes);
    if let Some((path, class)) = class.filter(|(_, class)| !class.starts_with("kpa.")) {
        notes.warn(&path, format!("{class} is not honoured: Hearth scales by concurrency or requests"));
    }
    let rps = match text(annotations, "metric", notes) {
        Some((_, metric)) if metric == "rps" => true,
        Some((path, metric)) if metric != "concurrency" => {
            notes.warn(&path, format!("{metric} is not honoured: scaled by concurrency"));
            false
        }
        _ => false,
    };
    if rps {
        scale.insert("metric".to_owned(), json!("rps"));
    }
    let concurrency = concurrency(annotations, limit, rps, notes);
    Scaling { concurrency, scale: Value::Object(scale) }
}

fn concurrency(annotations: &mut Fields, limit: u64, rps: bool, notes: &mut Notes) -> Value {
    let target = text(annotations, "target", notes);
    let utilisation = text(annotations, "target-utilization-percentage", notes);
    let utilisation = utilisation.and_then(|(path, text)| fraction(&path, &text, notes));
    let wanted = target.and_then(|(path, text)| {
        let number = text.parse::<f64>().ok().filter(|number| *number > 0.0);
        if number.is_none() {
            let fix = if rps {
                "write requests per second, as in \"50\""
            } else {
                "write calls at once, as in \"10\""
            };
            notes.problem(&path, format!("{text:?} is not a number above 0"), fix);
        }
        number.map(|number| (path, number))
    });
    if rps {
        let target = match wanted {
            Some((path, wanted)) => Some(of_rps(&path, wanted, utilisation, notes)),
            None => utilisation.map(whole_percent),
        };
        let limit = if limit > 0 { limit } else { UNLIMITED };
        return concurrency_of(limit, target.unwrap_or(UTILISATION));
    }
    let wanted = wanted.map(|(_, wanted)| wanted);
    // Without a limit a Service takes what comes; a Function has one, with room above the target.
    let limit = if limit > 0 {
        limit
    } else {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and a thousand"
        )]
        wanted.map_or(UNLIMITED, |wanted| wanted.ceil().clamp(UNLIMITED as f64, MOST as f64) as u64)
    };
    let full = limit as f64;
    let utilisation = utilisation.unwrap_or(UTILISATION);
    concurrency_of(limit, whole_percent(wanted.unwrap_or(full).min(full) * utilisation / full))
}

/// The target that keeps `wanted` requests per second in an instance, or the given percentage of them. Without one they are kept as they are
/// written: that is the number that somebody who scales by it has in mind.
fn of_rps(path: &str, wanted: f64, utilisation: Option<f64>, notes: &mut Notes) -> f64 {
    let wanted = wanted * utilisation.unwrap_or(100.0) / 100.0;
    let full = f64::from(Scale::FULL_RPS.get());
    let percent = whole_percent(wanted * 100.0 / full);
    let kept = percent * full / 100.0;
    if (kept - wanted).abs() > 1e-6 {
        notes.warn(
            path,
            format!(
                "{kept} requests a second for each instance are the nearest to {wanted}: {percent}% of {full}"
            ),
        );
    }
    percent
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

fn number(annotations: &mut Fields, name: &str, notes: &mut Notes) -> Option<u64> {
    let (path, text) = text(annotations, name, notes)?;
    let number = text.parse().ok();
    if number.is_none() {
        notes.problem(&path, format!("{text:?} is not a whole number"), "write a whole number, as in \"3\"");
    }
    number
}

fn duration(annotations: &mut Fields, name: &str, notes: &mut Notes) -> Option<String> {
    let (path, text) = text(annotations, name, notes)?;
    match text.parse::<HumanDuration>() {
        Ok(time) if time.get().is_zero() => Some("0s".to_owned()),
        Ok(time) => Some(time.to_string()),
        Err(error) => {
            notes.problem(&path, error.what, &error.fix);
            None
        }
    }
}

/// A percentage, as `70` or as `0.7`: Knative takes both.
fn fraction(path: &str, text: &str, notes: &mut Notes) -> Option<f64> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && *number <= 100.0);
    if number.is_none() {
        notes.problem(
            path,
            format!("{text:?} is not a percentage"),
            "write a number from 1 to 100, as in \"70\"",
        );
    }
    number.map(|number| if number <= 1.0 { number * 100.0 } else { number })
}
