//! What causes calls, and how they are divided among Revisions.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use super::Problems;
use crate::ids::is_label;
use crate::spec::{FunctionSpec, HttpMethod, HttpTrigger, TrafficTarget};

const MOST_TRIGGERS: usize = 100;
const LONGEST_PATH: usize = 1024;

pub(super) fn check(spec: &FunctionSpec, found: &mut Problems) {
    if spec.triggers.len() > MOST_TRIGGERS {
        let message = format!("there are {} triggers", spec.triggers.len());
        found.add("spec.triggers", message, format!("use at most {MOST_TRIGGERS}"));
    }
    for (index, trigger) in spec.triggers.iter().enumerate() {
        let path = format!("spec.triggers[{index}]");
        let kinds = [trigger.http.is_some(), trigger.cron.is_some(), trigger.event.is_some()];
        match kinds.iter().filter(|given| **given).count() {
            0 => found.add(&path, "the trigger is empty", "give one of http, cron, event"),
            1 => {}
            _ => found.add(
                &path,
                "the trigger is of several kinds",
                "begin each of them with a dash of its own",
            ),
        }
        if let Some(http) = &trigger.http {
            route(http, &format!("{path}.http"), found);
        }
        if let Some(cron) = &trigger.cron {
            schedule(&cron.schedule, &format!("{path}.cron.schedule"), found);
            if cron.timezone.is_empty() {
                let fix = "write an IANA name, as in Europe/Berlin, or take it out";
                found.add(format!("{path}.cron.timezone"), "the time zone is empty", fix);
            }
        }
        if trigger.event.as_ref().is_some_and(|event| event.event_type.is_empty()) {
            let fix = "write the type of the event, as in order.created";
            found.add(format!("{path}.event.type"), "the type is empty", fix);
        }
    }
    repeated_routes(spec, found);
    traffic(&spec.traffic, found);
}

fn route(http: &HttpTrigger, path: &str, found: &mut Problems) {
    let at = format!("{path}.path");
    let text = http.path.as_str();
    if !text.starts_with('/') {
        found.add(&at, format!("{text:?} does not begin with a slash"), format!("write /{text}"));
    } else if let Some(c) =
        text.chars().find(|c| matches!(c, '?' | '#' | '\\') || c.is_whitespace() || c.is_control())
    {
        let fix = "write the path alone, other characters percent-encoded";
        found.add(&at, format!("a path has no {c:?}"), fix);
    } else if text.contains("//") || text.split('/').any(|part| matches!(part, "." | "..")) {
        found.add(
            &at,
            format!("{text:?} has empty or relative segments"),
            "write the path that clients ask for",
        );
    } else if text.len() > LONGEST_PATH {
        found.add(
            &at,
            format!("the path has {} characters", text.len()),
            format!("use at most {LONGEST_PATH}"),
        );
    } else if text == "/function" || text.starts_with("/function/") {
        let fix = "use another path; every function answers at /function/NAMESPACE/NAME/ anyway";
        found.add(&at, "paths below /function belong to the gateway", fix);
    }
    let mut methods = BTreeSet::new();
    for (index, method) in http.methods.iter().enumerate() {
        if !methods.insert(method) {
            found.add(
                format!("{path}.methods[{index}]"),
                format!("{method} is given twice"),
                "keep one of them",
            );
        }
    }
    let host = http.host.as_str();
    let name = host.strip_prefix("*.").unwrap_or(host);
    if !host.is_empty() && (name.len() > 253 || !name.split('.').all(is_label)) {
        let fix = if name.contains(':') {
            "write it without a port: a route holds for the port that the gateway listens on"
        } else {
            "write a name in lower case, as in api.example.com or *.example.com"
        };
        found.add(format!("{path}.host"), format!("{host:?} is not the name of a host"), fix);
    }
}

/// Two triggers of one function for the same requests: the second would never be met.
fn repeated_routes(spec: &FunctionSpec, found: &mut Problems) {
    let claims: Vec<(usize, &HttpTrigger)> = spec
        .triggers
        .iter()
        .enumerate()
        .filter_map(|(index, trigger)| Some((index, trigger.http.as_ref()?)))
        .collect();
    for (position, (index, http)) in claims.iter().enumerate() {
        let earlier = claims.iter().take(position).find(|(_, other)| {
            (&other.host, &other.path, other.path_type) == (&http.host, &http.path, http.path_type)
                && overlap(&other.methods, &http.methods)
        });
        if let Some((other, _)) = earlier {
            let message = format!("spec.triggers[{other}] has this route already");
            found.add(format!("spec.triggers[{index}].http"), message, "take one of them out");
        }
    }
}

fn overlap(one: &[HttpMethod], other: &[HttpMethod]) -> bool {
    one.is_empty() || other.is_empty() || one.iter().any(|method| other.contains(method))
}

/// The five fields of a schedule. Whether it ever comes due is for whoever runs it.
pub(super) fn schedule(text: &str, path: &str, found: &mut Problems) {
    let fix = "write minute, hour, day of the month, month and day of the week, as in \"*/5 * * * *\"";
    if text.split_whitespace().count() != 5 {
        found.add(path, format!("{text:?} is not a schedule"), fix);
    } else if let Err(error) = croner::Cron::from_str(text) {
        found.add(path, format!("{text:?} is not a schedule: {error}"), fix);
    }
}

fn traffic(targets: &[TrafficTarget], found: &mut Problems) {
    let mut seen = BTreeSet::new();
    let mut tags = BTreeSet::new();
    for (index, target) in targets.iter().enumerate() {
        let path = format!("spec.traffic[{index}]");
        match (&target.revision, target.latest) {
            (Some(_), true) => {
                found.add(&path, "the share has a revision and `latest`", "keep one of them");
            }
            (None, false) => {
                found.add(&path, "it is not said for which revision", "give `revision`, or `latest: true`");
            }
            (revision, _) => {
                if !seen.insert(revision.as_deref()) {
                    let name = revision.as_deref().unwrap_or("latest");
                    found.add(&path, format!("`{name}` has a share already"), "add the two shares up");
                }
            }
        }
        if let Some(tag) = target.tag.as_deref() {
            if !is_label(tag) {
                let fix = "use lower-case letters, digits and dashes";
                found.add(format!("{path}.tag"), format!("{tag:?} is not a tag"), fix);
            } else if !tags.insert(tag) {
                found.add(format!("{path}.tag"), format!("`{tag}` is given twice"), "use another tag");
            }
        }
    }
    let sum: u32 = targets.iter().map(|target| u32::from(target.percent.hundredths())).sum();
    if !targets.is_empty() && sum != 100 {
        found.add("spec.traffic", format!("the shares make {sum}% together"), "make them 100%");
    }
}
