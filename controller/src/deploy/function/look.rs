//! How a Function's task looks at the world: for the plan, and for the status.

use std::collections::BTreeMap;
use std::sync::Arc;

use hearth_dispatch::routes::Conflict;
use hearth_function::{
    ConditionStatus, ConditionType, Function, InstanceCounts, Revision, RevisionState, Side, Template,
    revision_number, validate,
};
use tokio::time::Instant;

use super::super::missing::Missing;
use super::super::plan::{self, Build, Number, Observed, Prepared, Trial, Wanted};
use super::super::routes;
use super::super::status::{self, Known};
use super::{Task, View, generation, source};
use crate::autoscale::RevisionView;
use crate::backend::Fixity;

/// The Revisions that were observed.
pub(super) fn numbers(observed: &Observed) -> Box<[Number]> {
    observed.revisions.keys().copied().collect()
}

/// What is wrong with a Function as it is declared, where instances are what `fixity` says.
pub(in super::super) fn problems(function: &Function, fixity: Fixity) -> Vec<String> {
    if let Some(error) = crate::store::unreadable(&function.metadata) {
        return vec![error.to_owned()];
    }
    let side = match fixity {
        Fixity::Free => Side::Server,
        Fixity::Fixed => Side::Cluster,
    };
    validate(function, side).iter().map(ToString::to_string).collect()
}

impl Task {
    /// What the autoscaler says of this Function's Revisions, as far as it goes into the status or the plan.
    pub(super) fn views(&self, revisions: &[Number]) -> Vec<(Number, View)> {
        let snapshot = self.shared.parts.autoscaler.snapshot();
        let view = |number: Number| -> Option<Arc<RevisionView>> {
            snapshot.revisions.get(&self.revision_id(number)).cloned()
        };
        let mut views: Vec<_> = revisions
            .iter()
            .filter_map(|&number| {
                view(number).map(|view| (number, (view.counts, view.came_up, view.failure.clone())))
            })
            .collect();
        // It is kept for as long as nothing changes.
        views.shrink_to_fit();
        views
    }

    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let conflicts = self.shared.parts.routes.conflicts();
        let all = conflicts.borrow();
        all.iter().filter(|conflict| conflict.function == self.id).cloned().collect()
    }

    pub(super) fn observe(&self) -> Observed {
        let function = self.memory.function.as_deref();
        let snapshot = self.shared.parts.autoscaler.snapshot();
        let now = Instant::now();
        let mut revisions = BTreeMap::new();
        for (number, revision) in self.revisions() {
            let prepared = match self.memory.prepared.get(&number) {
                Some(Ok(_)) => Prepared::Yes,
                Some(Err(lack)) if lack.1 > now => Prepared::Failed,
                _ => Prepared::No,
            };
            let came_up = snapshot.revisions.get(&self.revision_id(number)).is_some_and(|view| view.came_up);
            let state = revision.status.as_ref().map(|status| status.state).unwrap_or_default();
            let digest = revision.spec.template_digest.clone();
            let intact = self.is_intact(number, &revision);
            let retry = self.memory.trials.is_due(number, now);
            let trial = self.memory.trial.as_ref().map_or(Trial::No, |trial| trial.of(number));
            let seen = plan::Revision { digest, intact, state, prepared, came_up, retry, trial };
            revisions.insert(number, seen);
        }
        let template = self.template().map(|template| template.digest());
        let build = match &self.memory.build {
            Some((digest, found, at)) if Some(digest) == template.as_ref() => match found {
                Ok(_) => Build::Done,
                Err(_) if *at > now => Build::Failed,
                Err(_) => Build::No,
            },
            _ => Build::No,
        };
        let is_left = |number: &Number| self.shared.parts.left.contains_key(&self.revision_id(*number));
        let runs = !self.memory.targets.is_empty() || revisions.keys().any(is_left);
        Observed {
            generation: generation(function),
            revisions,
            served: self.memory.served,
            targets: self.memory.targets.clone(),
            removing: self.memory.removals.numbers(),
            build,
            tried_first: function.is_some_and(|function| function.spec.scale.initial > 0),
            runs,
        }
    }

    pub(super) fn wanted(&self, observed: &Observed) -> Wanted {
        let Some(function) = self.memory.function.as_deref() else { return Wanted::Gone };
        if !self.is_held(function) {
            return Wanted::Unheld;
        }
        if !problems(function, self.shared.parts.sources.fixity).is_empty() {
            return Wanted::Invalid;
        }
        match &self.memory.code {
            Some(known) if known.generation != observed.generation => Wanted::Unresolved,
            Some(known) if known.code.is_ok() => {
                self.template().map_or(Wanted::Unresolved, |template| Wanted::Template(template.digest()))
            }
            Some(known) if known.due().is_none_or(|due| due > Instant::now()) => Wanted::Unresolvable,
            Some(_) | None => Wanted::Unresolved,
        }
    }

    /// The template that the spec asks for, once its code is known.
    pub(super) fn template(&self) -> Option<Template> {
        let function = self.memory.function.as_deref()?;
        match &self.memory.code {
            Some(source::Known { generation, code: Ok(code), .. })
                if *generation == self::generation(Some(function)) =>
            {
                Some(Template::of(&function.spec, code.clone()))
            }
            _ => None,
        }
    }

    /// This Function's Revisions by number.
    pub(super) fn revisions(&self) -> BTreeMap<Number, Arc<Revision>> {
        let prefix = format!("{}-", self.id.name());
        let listed = self.shared.parts.store.list_named::<Revision>(self.id.namespace(), &prefix);
        let own = |revision: &Revision| revision.spec.function == self.id.name() && self.owns(revision);
        listed
            .into_iter()
            .filter(|revision| own(revision))
            .filter_map(|revision| {
                let name = revision.metadata.name.as_deref()?;
                Some((revision_number(self.id.name(), name)?, revision))
            })
            .collect()
    }

    pub(super) fn owns(&self, revision: &Revision) -> bool {
        let owners = revision.metadata.owner_references.as_deref().unwrap_or_default();
        owners.iter().any(|owner| Some(&owner.uid) == self.memory.uid.as_ref())
    }

    /// Whether a Revision is as it was made. That one is not which was made just now is the API server's doing, and would be so of the next.
    fn is_intact(&self, number: Number, revision: &Revision) -> bool {
        // Nothing is run of those that are over, and most are.
        let is_over = revision.status.as_ref().is_some_and(|status| status.state == RevisionState::Retired);
        is_over
            || revision.is_intact()
            || self
                .memory
                .made
                .as_ref()
                .is_some_and(|made| *made == (number, revision.spec.template.digest()))
    }

    /// Says, once of each, that a Revision was changed.
    pub(super) fn note_changed(&mut self, observed: &Observed) {
        for (&number, _) in observed.revisions.iter().filter(|(_, revision)| !revision.intact) {
            if self.memory.changed.insert(number) {
                let name = self.revision_name(number);
                tracing::warn!(function = %self.id, revision = number, "somebody has changed a revision");
                let message = format!("{name} was changed, as no Revision may be: another takes its place");
                self.remark("RevisionChanged", message);
            }
        }
    }

    /// What the conditions are made from.
    pub(super) fn facts(&self, observed: &Observed, views: &[(Number, View)]) -> status::Facts {
        let fixity = self.shared.parts.sources.fixity;
        let problems = self.memory.function.as_deref().map(|function| problems(function, fixity));
        let wanted = self.template().map(|template| template.digest());
        let missing = |missing: &Missing| (missing.reason.as_str(), missing.message.clone());
        let found = self.memory.code.as_ref().filter(|known| known.generation == observed.generation);
        let no_code = found.and_then(|known| known.code.as_ref().err()).map(missing);
        let no_build = match &self.memory.build {
            Some((digest, Err(why), _)) if Some(digest) == wanted.as_ref() => Some(missing(why)),
            _ => None,
        };
        let current = wanted.as_ref().and_then(|template| observed.current(template));
        let current = current.map(|(&number, revision)| (number, revision));
        let no_parts = current.and_then(|(number, _)| match self.memory.prepared.get(&number) {
            Some(Err(lack)) => Some(missing(&lack.0)),
            _ => None,
        });
        let view = current.and_then(|(current, _)| views.iter().find(|(number, _)| *number == current));
        let view = view.map(|(_, view)| view);
        status::Facts {
            problems: problems.unwrap_or_default(),
            again: match &no_code {
                Some(_) => found.and_then(source::Known::again),
                None => no_build.as_ref().and(self.memory.build_again),
            },
            missing: no_code.or(no_build).or(no_parts),
            refused: self.memory.refused.step.clone(),
            outdated: self.memory.refused.outdated.clone(),
            lack: self.memory.function.as_deref().and_then(|function| {
                self.shared.config.isolation.lack(function.spec.network, self.id.namespace())
            }),
            progress: self.memory.progress.clone(),
            serving: observed.served.map(|(number, _)| self.revision_name(number)),
            current: current.map(|(number, revision)| status::Current {
                name: self.revision_name(number),
                state: revision.state,
                prepared: revision.prepared == Prepared::Yes,
                again: self.memory.trials.next(number).map(|(_, at)| at),
                reason: self.reason_before(&self.revision_name(number)),
                ready: view.map_or(0, |(counts, ..)| counts.ready),
                failure: view
                    .and_then(|(.., failure)| failure.clone())
                    .or_else(|| self.memory.failures.get(&number).cloned()),
                message: self
                    .revisions()
                    .get(&number)
                    .and_then(|revision| revision.status.as_ref().and_then(|status| status.message.clone())),
            }),
        }
    }

    /// The word for the failure of this Revision in the last status, which may be an earlier controller's.
    fn reason_before(&self, revision: &str) -> Option<String> {
        let status = self.memory.function.as_deref()?.status.as_ref()?;
        let ready = status.condition(ConditionType::Ready)?;
        let failed = ready.status == ConditionStatus::False && status::is_of(&ready.message, revision);
        failed.then(|| ready.reason.clone())
    }

    pub(super) fn known(&self, observed: &Observed) -> Known {
        let mut instances = InstanceCounts::default();
        let views = self.views(&numbers(observed));
        for (_, (counts, ..)) in &views {
            instances.ready += counts.ready;
            instances.busy += counts.busy;
            instances.starting += counts.starting;
            instances.paused += counts.paused;
        }
        let (ready, built) = status::stages(&self.facts(observed, &views));
        let conflicts = self.conflicts();
        Known {
            generation: observed.generation,
            url: self
                .memory
                .function
                .as_deref()
                .map(|function| routes::url(&self.shared.config.url, function, &self.id, &conflicts))
                .unwrap_or_default(),
            serving: observed.served.map(|(number, _)| self.revision_name(number)),
            came_up: observed.served_and_ready().map(|number| self.revision_name(number)),
            latest: observed.revisions.keys().last().map(|number| self.revision_name(*number)),
            instances,
            ready,
            built,
            conflicts,
        }
    }
}
