//! What a Function's status says: a pure function of what is known of it.

use hearth_dispatch::routes::{Conflict, Holder};
use hearth_dispatch::{StartCode, StartFailure};
use hearth_function::{
    Condition, ConditionStatus, ConditionType, FunctionStatus, InstanceCounts, RevisionState, set_condition,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// What is known of a Function.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Known {
    pub(super) generation: i64,
    pub(super) url: String,
    /// The Revision that routes lead to.
    pub(super) serving: Option<String>,
    /// The same, if it has ever come up; one that is still tried has not.
    pub(super) came_up: Option<String>,
    /// The Revision made last.
    pub(super) latest: Option<String>,
    pub(super) instances: InstanceCounts,
    pub(super) ready: Stage,
    pub(super) built: Stage,
    /// Routes that it did not get.
    pub(super) conflicts: Vec<Conflict>,
}

/// How far something is: a reason word and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Done { reason: &'static str, message: String },
    Underway { reason: &'static str, message: String },
    Failed { reason: String, message: String },
}

impl Default for Stage {
    fn default() -> Self {
        Self::Underway { reason: "Pending", message: "not looked at yet".to_owned() }
    }
}

/// The status to be written after `before`.
pub(super) fn status(before: Option<&FunctionStatus>, known: &Known, now: Timestamp) -> FunctionStatus {
    let mut status = FunctionStatus {
        observed_generation: Some(known.generation),
        url: Some(known.url.clone()),
        ready_revision: known.came_up.clone(),
        latest_revision: known.latest.clone(),
        instances: known.instances,
        conditions: before.map(|before| before.conditions.clone()).unwrap_or_default(),
    };
    let routes = if known.conflicts.is_empty() {
        // They are there before anything comes up: they answer why.
        if known.came_up.is_some() {
            Stage::Done { reason: "Routed", message: "every route leads here".to_owned() }
        } else {
            Stage::Underway { reason: "NotServing", message: "nothing serves yet".to_owned() }
        }
    } else {
        let mut lost: Vec<String> = known.conflicts.iter().map(lost).collect();
        // A host that is another's is said once, however many of its paths were asked for.
        lost.dedup();
        let message = format!("{}; reachable at {}", lost.join("; "), known.url);
        Stage::Failed { reason: "RouteTaken".to_owned(), message }
    };
    for (condition_type, stage) in [
        (ConditionType::Ready, known.ready.clone()),
        (ConditionType::Built, known.built.clone()),
        (ConditionType::RoutesReady, routes),
    ] {
        let (status_now, reason, message) = match stage {
            Stage::Done { reason, message } => (ConditionStatus::True, reason.to_owned(), message),
            Stage::Underway { reason, message } => (ConditionStatus::Unknown, reason.to_owned(), message),
            Stage::Failed { reason, message } => (ConditionStatus::False, reason, message),
        };
        let condition = Condition {
            condition_type,
            status: status_now,
            reason,
            message,
            last_transition_time: Time(now),
            observed_generation: Some(known.generation),
        };
        set_condition(&mut status.conditions, condition);
    }
    status
}

/// What Ready and Built are made from.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts {
    /// What is wrong with the spec.
    pub(super) problems: Vec<String>,
    /// Why code or dependencies are not there: a reason word and a sentence.
    pub(super) missing: Option<(&'static str, String)>,
    /// Why the next step of the deployment is not taken by the store.
    pub(super) refused: Option<String>,
    /// What of this status itself is not kept.
    pub(super) outdated: Option<String>,
    /// What it asks for and does not get, though it serves.
    pub(super) lack: Option<String>,
    /// When they are looked for again.
    pub(super) again: Option<Timestamp>,
    /// What an installation says.
    pub(super) progress: Option<String>,
    /// The Revision that routes lead to.
    pub(super) serving: Option<String>,
    /// The Revision of the spec as it is, once it was made.
    pub(super) current: Option<Current>,
}

/// The Revision of the spec as it is.
#[derive(Debug, Clone)]
pub(super) struct Current {
    pub(super) name: String,
    pub(super) state: RevisionState,
    pub(super) prepared: bool,
    /// Its instances that serve.
    pub(super) ready: u32,
    /// Why its last start failed.
    pub(super) failure: Option<StartFailure>,
    /// The same as an earlier controller has written it.
    pub(super) message: Option<String>,
    /// And the word for it.
    pub(super) reason: Option<String>,
    /// When it is tried again, if it has failed.
    pub(super) again: Option<Timestamp>,
}

/// Comes before what is to be known of a Function that is Ready all the same.
const BUT: &str = "; but ";

/// What is to be known of a Function that is Ready all the same.
#[must_use]
pub fn reservation(status: &FunctionStatus) -> Option<&str> {
    let ready = status.condition(ConditionType::Ready)?;
    let (_, but) = ready.message.split_once(BUT)?;
    status.is_ready().then_some(but)
}

/// Ready and Built.
pub(super) fn stages(facts: &Facts) -> (Stage, Stage) {
    let failed = |reason: &str, message: &str| Stage::Failed {
        reason: reason.to_owned(),
        message: match &facts.serving {
            Some(serving) if facts.current.as_ref().is_none_or(|current| current.name != *serving) => {
                format!("{message}; {serving} goes on serving")
            }
            _ => message.to_owned(),
        },
    };
    if !facts.problems.is_empty() {
        let built =
            Stage::Failed { reason: "Invalid".to_owned(), message: "the spec is not valid".to_owned() };
        return (failed("Invalid", &facts.problems.join("; ")), built);
    }
    if let Some((reason, message)) = &facts.missing {
        let built = Stage::Failed { reason: (*reason).to_owned(), message: message.clone() };
        return (failed(reason, &noted(message, facts.again)), built);
    }
    let built = match (&facts.progress, &facts.current) {
        (Some(progress), _) => {
            Stage::Underway { reason: "Installing", message: format!("installing dependencies: {progress}") }
        }
        (None, Some(current)) if current.prepared => {
            Stage::Done { reason: "Built", message: "the code is there, with its dependencies".to_owned() }
        }
        (None, _) => Stage::Underway {
            reason: "Building",
            message: "looking at the code and its dependencies".to_owned(),
        },
    };
    if let Some(refused) = &facts.refused {
        return (failed("Refused", refused), built);
    }
    let Some(current) = &facts.current else {
        return (
            Stage::Underway { reason: "Building", message: "making its first revision".to_owned() },
            built,
        );
    };
    let name = &current.name;
    let ready = match (current.state, &current.failure) {
        (RevisionState::Ready, Some(failure)) if current.ready == 0 => {
            failed(&reason_word(failure.code.as_str()), &with_lines(failure))
        }
        (RevisionState::Ready, _) => Stage::Done {
            reason: "Ready",
            message: [&facts.outdated, &facts.lack]
                .into_iter()
                .flatten()
                .fold(format!("{name} serves"), |said, but| format!("{said}{BUT}{but}")),
        },
        (RevisionState::Failed, failure) => {
            let why = failure.as_ref().map(with_lines).or_else(|| current.message.clone());
            let why = why.unwrap_or_else(|| "it did not come up before a restart".to_owned());
            let reason = failure.as_ref().map(|failure| reason_word(failure.code.as_str()));
            let reason =
                reason.or_else(|| current.reason.clone()).unwrap_or_else(|| "StartFailed".to_owned());
            failed(&reason, &noted(&not_up(name, &why), current.again))
        }
        // It comes up by itself when there is a node for it: until then something is wrong.
        (_, Some(failure)) if failure.code == StartCode::Unschedulable => failed(
            &reason_word(failure.code.as_str()),
            &format!("{name} has not come up: {}", with_lines(failure)),
        ),
        (_, Some(failure)) => Stage::Underway {
            reason: "Starting",
            message: format!("starting {name} again, the last start failed: {}", with_lines(failure)),
        },
        (_, None) => Stage::Underway { reason: "Starting", message: format!("starting {name}") },
    };
    (ready, built)
}

/// Why nothing of a Function serves, as a word for whoever asks (`build_failed`), and whether that may pass by itself.
pub(super) fn unready(known: &Known) -> (String, bool) {
    match (&known.ready, &known.built) {
        (Stage::Failed { reason, .. }, _) => (code_word(reason), false),
        (_, Stage::Underway { reason, .. }) => (code_word(reason), true),
        (Stage::Underway { reason, .. } | Stage::Done { reason, .. }, _) => (code_word(reason), true),
    }
}

/// The same, as a Function's written status says it.
pub(super) fn unready_by(status: Option<&FunctionStatus>) -> (String, bool) {
    let condition = |of| {
        let conditions = status.map(|status| status.conditions.as_slice()).unwrap_or_default();
        conditions.iter().find(|condition| condition.condition_type == of)
    };
    match (condition(ConditionType::Ready), condition(ConditionType::Built)) {
        (Some(ready), _) if ready.status == ConditionStatus::False => (code_word(&ready.reason), false),
        (_, Some(built)) if built.status == ConditionStatus::Unknown => (code_word(&built.reason), true),
        (Some(ready), _) => (code_word(&ready.reason), true),
        // Nobody has looked at it yet.
        (None, _) => (code_word("Pending"), true),
    }
}

/// A condition's reason as codes are written: `BuildFailed` is `build_failed`.
fn code_word(reason: &str) -> String {
    let mut word = String::new();
    for letter in reason.chars() {
        if letter.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(letter.to_ascii_lowercase());
    }
    word
}

/// Says that a Revision has failed.
fn not_up(revision: &str, why: &str) -> String {
    format!("{revision} did not come up: {why}")
}

/// Whether a message of ours says that of this Revision.
pub(super) fn is_of(message: &str, revision: &str) -> bool {
    message.starts_with(&not_up(revision, ""))
}

/// The message with the time of the next trial at the end of its first line: the others are what the function printed.
fn noted(message: &str, again: Option<Timestamp>) -> String {
    let Some(again) = again else { return message.to_owned() };
    let (first, rest) = message.split_at(message.find('\n').unwrap_or(message.len()));
    format!("{first}; it is tried again at {again}, or by `hearth apply`{rest}")
}

/// A failure with the last lines, for people.
pub(super) fn with_lines(failure: &StartFailure) -> String {
    let mut text = failure.message.clone();
    for line in &failure.last_lines {
        text.push_str("\n  ");
        text.push_str(line);
    }
    text
}

fn lost(conflict: &Conflict) -> String {
    let Conflict { function: _, claim, holder } = conflict;
    let host = &claim.host;
    match holder {
        Holder::Function(holder) => {
            let methods =
                if claim.methods.is_empty() { String::new() } else { claim.methods.join(",") + " " };
            let path = &claim.path;
            format!("{methods}{host}{path} belongs to {holder}, which is older: change one of the two routes")
        }
        Holder::Namespace { namespace, host: claimed } => {
            let claimed = if claimed == host { "it" } else { claimed };
            format!(
                "host {host} belongs to namespace {namespace}, which claimed {claimed} first: use another host"
            )
        }
    }
}

/// `handler_missing` as a reason word: `HandlerMissing`.
pub(super) fn reason_word(code: &str) -> String {
    code.split('_')
        .map(|part| {
            let mut letters = part.chars();
            letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str())
        })
        .map(Option::unwrap_or_default)
        .collect()
}

#[cfg(test)]
mod tests;
