//! What is worth an Event: pure.

use hearth_function::{ConditionStatus, ConditionType, Function, Revision};
use jiff::Timestamp;

use crate::autoscale::RevisionView;
use crate::deploy::Isolation;

/// Something that a person would want to read in `kubectl describe`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Happening {
    pub(super) kind: Kind,
    /// The state that it tells of; `None`: it has passed when it is told.
    pub(super) state: Option<ConditionType>,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Happening {
    fn of(self, state: ConditionType) -> Self {
        Self { state: Some(state), ..self }
    }
}

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Warning,
}

fn normal(reason: &str, message: impl Into<String>) -> Happening {
    Happening { kind: Kind::Normal, state: None, reason: reason.to_owned(), message: message.into() }
}

pub(super) fn warning(reason: &str, message: impl Into<String>) -> Happening {
    Happening { kind: Kind::Warning, state: None, reason: reason.to_owned(), message: message.into() }
}

/// What a Function's conditions say that they did not say before.
pub(super) fn of_function(before: &Function, after: &Function) -> Vec<Happening> {
    let said = |function: &Function, kind| {
        let condition = function.status.as_ref()?.condition(kind)?;
        Some((condition.status, condition.reason.clone(), condition.message.clone()))
    };
    let mut happened = Vec::new();
    for about in [ConditionType::Built, ConditionType::Ready, ConditionType::RoutesReady] {
        let (was, now) = (said(before, about), said(after, about));
        let Some((status, reason, message)) = now else { continue };
        let before = was.map(|(status, reason, _)| (status, reason));
        // Progress within the same state is in the condition's message.
        if before.as_ref().is_some_and(|(was, why)| *was == status && *why == reason) {
            continue;
        }
        let was_false = before.is_some_and(|(was, _)| was == ConditionStatus::False);
        match (about, status) {
            (ConditionType::Built, ConditionStatus::Unknown) if reason == "Installing" => {
                happened.push(normal(&reason, message));
            }
            (ConditionType::Ready, ConditionStatus::True) => {
                happened.push(normal("Ready", message).of(about));
            }
            (ConditionType::RoutesReady, ConditionStatus::True) if was_false => {
                happened.push(normal(&reason, message).of(about));
            }
            // What Built lacks, Ready says too.
            (ConditionType::Ready | ConditionType::RoutesReady, ConditionStatus::False) => {
                happened.push(warning(&reason, message).of(about));
            }
            _ => {}
        }
    }
    happened
}

/// Whether the Function says nothing certain of this condition: what it said before is no more.
pub(super) fn is_undecided(function: &Function, about: ConditionType) -> bool {
    let condition = function.status.as_ref().and_then(|status| status.condition(about));
    condition.is_none_or(|condition| condition.status == ConditionStatus::Unknown)
}

/// A Revision that was made, and what it asks for and does not get in this namespace.
pub(super) fn of_revision(revision: &Revision, namespace: &str, isolation: &Isolation) -> Vec<Happening> {
    let name = revision.metadata.name.as_deref().unwrap_or_default();
    let made = normal("RevisionCreated", format!("made {name} of generation {}", revision.spec.generation));
    let lack = isolation.lack(revision.spec.template.network, namespace);
    std::iter::once(made).chain(lack.map(|lack| warning("NoNetworkPolicy", lack))).collect()
}

/// Up to when a Revision's decisions and starts are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) decisions: Timestamp,
    pub(super) starts: Timestamp,
}

/// What of a Revision's decisions and starts is new: the last of a kind stands for all of a moment.
pub(super) fn of_view(revision: &str, view: &RevisionView, told: &mut Told) -> Vec<Happening> {
    let mut happened = Vec::new();
    let fresh: Vec<_> = view.decisions.iter().filter(|decided| decided.time > told.decisions).collect();
    for (place, decided) in fresh.iter().enumerate() {
        told.decisions = told.decisions.max(decided.time);
        if fresh.iter().skip(place + 1).all(|later| later.about != decided.about) {
            let tell = if decided.about.is_wrong() { warning } else { normal };
            happened.push(tell(decided.about.reason(), format!("{revision}: {}", decided.text)));
        }
    }
    let fresh: Vec<_> = view.starts.iter().filter(|start| start.time > told.starts).collect();
    if let Some(newest) = fresh.last() {
        told.starts = newest.time;
    }
    let failed = fresh.iter().rev().find_map(|start| Some((&start.instance, start.failure.as_ref()?)));
    if let Some((instance, failure)) = failed {
        let message = format!("instance {instance} of {revision} did not come up: {failure}");
        happened.push(warning("StartFailed", message));
    }
    happened
}

/// Says what of a Function is told now, what later, and what not: so many at once, and one more after each pause. The state that it is in is told
/// in the end; of states that came while none could be told, the newest stands for all.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Voice {
    left: f64,
    at: Timestamp,
    /// At most one for each condition.
    pending: Vec<Happening>,
}

impl Voice {
    const AT_ONCE: f64 = 12.0;
    const PAUSE_SECONDS: f64 = 20.0;

    pub(super) fn new(now: Timestamp) -> Self {
        Self { left: Self::AT_ONCE, at: now, pending: Vec::new() }
    }

    /// Something has happened: whether it is to be told now. A state that is not is kept.
    pub(super) fn hear(&mut self, happening: Happening, now: Timestamp) -> Option<Happening> {
        if let Some(state) = happening.state {
            self.pending.retain(|other| other.state != Some(state));
        }
        // Where things stand comes before what passes, and what is wrong before what goes well: the last quarter is for these.
        let passes = happening.state.is_none();
        let reserve = if passes && happening.kind == Kind::Normal { Self::AT_ONCE / 4.0 } else { 0.0 };
        if !(passes && self.is_waiting()) && self.take(reserve, now) {
            return Some(happening);
        }
        self.keep(happening);
        None
    }

    /// It could not be told: a state is told later.
    pub(super) fn keep(&mut self, happening: Happening) {
        if happening.state.is_some() {
            self.pending.push(happening);
        }
    }

    /// Drops what was kept of the states that the Function has left.
    pub(super) fn forget(&mut self, has_left: impl Fn(ConditionType) -> bool) {
        self.pending.retain(|happening| !happening.state.is_some_and(&has_left));
    }

    /// What was kept and is to be told now.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Happening> {
        let may = self.is_waiting() && self.take(0.0, now);
        may.then(|| self.pending.remove(0))
    }

    /// Whether something is kept.
    pub(super) fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes one of those that are left, if `reserve` stay.
    fn take(&mut self, reserve: f64, now: Timestamp) -> bool {
        let passed = now.duration_since(self.at).as_secs_f64().max(0.0);
        self.at = now;
        self.left = (self.left + passed / Self::PAUSE_SECONDS).min(Self::AT_ONCE);
        let may = self.left >= reserve + 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use hearth_function::InstanceId;
    use serde_json::json;

    use super::*;
    use crate::autoscale::{About, Decided, Start};

    fn function(conditions: &[(&str, &str, &str)]) -> Function {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status, reason)| {
                json!({ "type": kind, "status": status, "reason": reason, "message": format!("{kind} {reason}"),
                    "lastTransitionTime": "2026-01-01T00:00:00Z" })
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": "a", "namespace": "n", "uid": "u" },
            "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
            "status": { "conditions": conditions },
        }))
        .unwrap()
    }

    fn reasons(before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]) -> Vec<(Kind, String)> {
        let happened = of_function(&function(before), &function(after));
        happened.into_iter().map(|one| (one.kind, one.reason)).collect()
    }

    #[test]
    fn a_condition_that_turns_is_told_once() {
        let building = [("Built", "Unknown", "Building"), ("Ready", "Unknown", "Building")];
        let installing = [("Built", "Unknown", "Installing"), ("Ready", "Unknown", "Building")];
        let ready =
            [("Built", "True", "Built"), ("Ready", "True", "Ready"), ("RoutesReady", "True", "Routed")];
        let lost = [("Ready", "True", "Ready"), ("RoutesReady", "False", "RouteTaken")];
        let failed = [("Built", "False", "BuildFailed"), ("Ready", "False", "BuildFailed")];
        assert_eq!(reasons(&[], &building), []);
        assert_eq!(reasons(&building, &installing), [(Kind::Normal, "Installing".to_owned())]);
        assert_eq!(reasons(&installing, &installing), []);
        assert_eq!(reasons(&installing, &ready), [(Kind::Normal, "Ready".to_owned())]);
        assert_eq!(reasons(&ready, &lost), [(Kind::Warning, "RouteTaken".to_owned())]);
        assert_eq!(reasons(&lost, &ready), [(Kind::Normal, "Routed".to_owned())]);
        assert_eq!(reasons(&ready, &failed), [(Kind::Warning, "BuildFailed".to_owned())]);
    }

    #[test]
    fn a_revision_without_network_warns_where_no_policy_is_known() {
        let happened = |network: &str, namespaces: &[String]| {
            let template = json!({ "network": network });
            let revision = crate::pool::template::tests::revision("a-00001", template);
            of_revision(&revision, "n", &Isolation::listed(namespaces))
        };
        let open = happened("none", &["other".to_owned()]);
        let said: Vec<_> = open.iter().map(|one| (one.kind, one.reason.as_str())).collect();
        assert_eq!(said, [(Kind::Normal, "RevisionCreated"), (Kind::Warning, "NoNetworkPolicy")]);
        assert_eq!(happened("none", &["n".to_owned()]).len(), 1);
        assert_eq!(happened("outbound", &[]).len(), 1);
    }

    #[test]
    fn decisions_and_starts_are_told_once_and_the_newest_stands_for_all() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let start = |second, failure: Option<&str>| Start {
            time: at(second),
            instance: InstanceId::parse(&format!("i-{second}")).unwrap(),
            phases: Default::default(),
            failure: failure.map(str::to_owned),
        };
        let mut view = RevisionView::default();
        let decided = |second, about| Decided { time: at(second), about, text: format!("at {second}") };
        view.decisions.extend([
            decided(1, About::Scaled),
            decided(2, About::Killed),
            decided(3, About::TakenAway),
            decided(4, About::Killed),
            decided(5, About::Scaled),
        ]);
        view.starts.extend([start(1, Some("old")), start(3, Some("exit code 1")), start(4, None)]);
        let mut told = Told { decisions: at(0), starts: at(2) };
        let happened = of_view("a-00001", &view, &mut told);
        let said: Vec<_> =
            happened.iter().map(|one| (one.kind, one.reason.as_str(), one.message.as_str())).collect();
        assert_eq!(
            said,
            [
                (Kind::Normal, "TakenAway", "a-00001: at 3"),
                (Kind::Warning, "Killed", "a-00001: at 4"),
                (Kind::Normal, "Scaled", "a-00001: at 5"),
                (Kind::Warning, "StartFailed", "instance i-3 of a-00001 did not come up: exit code 1"),
            ]
        );
        assert_eq!(of_view("a-00001", &view, &mut told), []);
    }

    #[test]
    fn a_function_that_comes_and_goes_is_not_told_of_for_ever_but_its_failures_are() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut voice = Voice::new(at(0));
        let scaled = || normal("Scaled", "");
        let told = (0..20).filter_map(|_| voice.hear(scaled(), at(0))).count();
        assert_eq!(told, 9);
        assert!(voice.hear(warning("StartFailed", ""), at(0)).is_some());
        assert_eq!(voice.hear(scaled(), at(20)), None);
        let later = (60..3660).filter_map(|second| voice.hear(scaled(), at(second))).count();
        assert!((170..=182).contains(&later), "{later}");
        assert!(!voice.is_waiting());
    }

    #[test]
    fn the_last_state_is_told_in_the_end_and_stands_for_those_before_it() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut voice = Voice::new(at(0));
        let failed = || warning("StartFailed", "").of(ConditionType::Ready);
        let ready = |message: &str| normal("Ready", message).of(ConditionType::Ready);
        let routed = || normal("Routed", "").of(ConditionType::RoutesReady);
        while voice.hear(warning("StartFailed", ""), at(0)).is_some() {}
        assert_eq!((voice.hear(ready("first"), at(1)), voice.hear(routed(), at(1))), (None, None));
        assert_eq!((voice.hear(failed(), at(2)), voice.hear(ready("second"), at(3))), (None, None));
        assert_eq!(voice.next(at(3)), None);
        // One for each condition, a pause apart; what goes well does not wait until the reserve is full.
        assert_eq!(voice.next(at(20)), Some(routed()));
        assert_eq!((voice.next(at(21)), voice.hear(warning("StartFailed", ""), at(40))), (None, None));
        assert_eq!(voice.next(at(40)), Some(ready("second")));
        assert!(!voice.is_waiting() && voice.next(at(400)).is_none());
        // A newer one that is told at once leaves none behind.
        while voice.hear(warning("StartFailed", ""), at(400)).is_some() {}
        assert_eq!(voice.hear(failed(), at(400)), None);
        assert_eq!(voice.hear(ready("third"), at(420)), Some(ready("third")));
        assert!(!voice.is_waiting());
    }
}
