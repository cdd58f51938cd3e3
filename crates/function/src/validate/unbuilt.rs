//! What a manifest can say and Hearth cannot do yet. It is refused, never ignored. One table; a row goes when its feature comes.

use super::Problems;
use crate::spec::FunctionSpec;
use crate::values::{Percent, RuntimeName};

/// Something that is not built yet.
struct Unbuilt {
    /// What it is, for people.
    what: &'static str,
    /// What works in its place.
    instead: &'static str,
    /// Where a manifest uses it.
    used: fn(&FunctionSpec) -> Vec<String>,
}

const UNBUILT: &[Unbuilt] = &[
    Unbuilt {
        what: "the runtime `provided`",
        instead: "use nodejs, python, http or exec",
        used: |spec| one(spec.runtime == RuntimeName::Provided, "spec.runtime"),
    },
    Unbuilt {
        what: "the trigger `cron`",
        instead: "call the function's URL from the system's cron",
        used: |spec| each(&spec.triggers, |trigger| trigger.cron.is_some(), "spec.triggers", ".cron"),
    },
    Unbuilt {
        what: "the trigger `event`",
        instead: "use `http`, and send the event to the function's URL",
        used: |spec| each(&spec.triggers, |trigger| trigger.event.is_some(), "spec.triggers", ".event"),
    },
    Unbuilt {
        what: "dividing traffic among revisions",
        instead: "take it out: everything goes to the latest revision that is ready",
        used: |spec| {
            let whole = |target: &crate::spec::TrafficTarget| {
                target.latest && target.percent == Percent::WHOLE && target.tag.is_none()
            };
            one(!spec.traffic.iter().all(whole), "spec.traffic")
        },
    },
];

pub(super) fn check(spec: &FunctionSpec, found: &mut Problems) {
    for row in UNBUILT {
        for path in (row.used)(spec) {
            found.add(path, format!("{} is not built yet", row.what), row.instead);
        }
    }
}

fn one(used: bool, path: &str) -> Vec<String> {
    if used { vec![path.to_owned()] } else { Vec::new() }
}

fn each<T>(items: &[T], used: impl Fn(&T) -> bool, list: &str, field: &str) -> Vec<String> {
    let items = items.iter().enumerate();
    items.filter(|(_, item)| used(item)).map(|(index, _)| format!("{list}[{index}]{field}")).collect()
}
