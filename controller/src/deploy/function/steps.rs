//! The steps of a deployment, carried out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_function::spec::Pause;
use hearth_function::{
    Code, Revision, RevisionSpec, RevisionState, RevisionStatus, Template, next_revision_name,
    revision_number,
};
use hearth_scaler::{Policy, Reach};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::super::missing::{Lack, Missing};
use super::super::parts::{Found, Told};
use super::super::plan::{Action, Number, Observed};
use super::super::{routes, status};
use super::{PROGRESS, RETRY, SOURCE, Task, retry, source};
use crate::autoscale::{Target, Windows, pauses};
use crate::backend::Fixity;
use crate::store::{self, Preconditions};

impl Task {
    pub(super) async fn take(&mut self, action: Action, observed: &Observed) -> Result<(), store::Error> {
        match action {
            Action::Hold => self.hold().await?,
            Action::Resolve => self.resolve(observed.generation).await,
            Action::Build => Box::pin(self.build(observed)).await,
            Action::Create => self.create(observed).await?,
            Action::Prepare(number) => self.prepare(number, observed).await?,
            Action::Put(number, reach) => self.put(number, reach, observed.generation).await,
            Action::Try(number) => self.begin_trial(number).await,
            Action::Mark(number, state) => {
                let why = self.memory.failures.get(&number).filter(|_| state == RevisionState::Failed);
                let why = why.map(status::with_lines);
                self.mark(number, state, why).await?;
                self.end_trial(number);
                if state == RevisionState::Ready {
                    self.memory.trials.forget(number);
                    // A call may have brought it up that came after the trial.
                    self.memory.failures.remove(&number);
                }
            }
            Action::Serve(number) => self.serve(number, observed.generation),
            Action::Unserve => {
                self.shared.parts.routes.unserve(&self.id);
                self.memory.served = None;
            }
            Action::Remove(number) => self.begin_removal(number).await,
            Action::Delete(number) => {
                let name = self.revision_name(number);
                let now = Timestamp::now();
                let store = &self.shared.parts.store;
                store.delete::<Revision>(self.id.namespace(), &name, Preconditions::default(), now).await?;
                self.memory.prepared.remove(&number);
                self.memory.trials.forget(number);
                self.memory.changed.remove(&number);
            }
        }
        Ok(())
    }

    async fn build(&mut self, observed: &Observed) {
        let Some(template) = self.template() else { return };
        self.memory.progress = None;
        let found = self.ensure(&template, observed, Duration::ZERO).await;
        let digest = template.digest();
        let before = self.memory.build.as_ref().filter(|(built, ..)| *built == digest);
        let failures = before.map_or(0, |_| self.memory.build_failures);
        // A look for a bundle costs nothing; npm and pip go out into the network.
        let costly = matches!(&found, Err(missing) if missing.reason == Lack::BuildFailed);
        let pause = if costly { pauses::pause(RETRY, pauses::LONGEST, failures) } else { RETRY };
        self.memory.build_failures = if found.is_err() { failures + 1 } else { 0 };
        self.memory.build_again = found.is_err().then(|| retry::after(Timestamp::now(), pause));
        self.memory.build = Some((digest, found, Instant::now() + pause));
    }

    /// Has the parts of a template, and shows in the status how that goes on. What takes longer than `patience` is not waited for at a start.
    pub(super) async fn ensure(
        &mut self,
        template: &Template,
        observed: &Observed,
        patience: Duration,
    ) -> Result<Found, Missing> {
        let shared = Arc::clone(&self.shared);
        let mut overdue = std::pin::pin!(sleep(patience));
        if let (Some(Code::Bundle(digest)), Some(function)) = (template.code(), self.memory.function.clone())
        {
            let id = self.id.clone();
            let bringing = shared.parts.sources.bring_back(&digest, id.namespace(), &function.spec);
            let mut bringing = Box::pin(bringing);
            tokio::select! {
                biased;
                () = &mut bringing => {}
                () = &mut overdue, if self.settled.is_some() => {
                    self.settle_meanwhile(observed);
                    bringing.await;
                }
            }
        }
        let said = watch::Sender::new(None);
        let mut heard = said.subscribe();
        let (logs, id) = (shared.parts.logs.clone(), self.id.clone());
        let mut ensuring = std::pin::pin!(shared.parts.sources.ensure(template, |told| match told {
            Told::Progress(text) => drop(said.send_replace(Some(text))),
            Told::Line(text) => logs.remark(&id, None, text),
        }));
        let found = loop {
            tokio::select! {
                biased;
                found = &mut ensuring => break found,
                Ok(()) = heard.changed() => {
                    self.memory.progress = heard.borrow_and_update().clone();
                    if self.memory.written.is_none_or(|written| written.elapsed() >= PROGRESS) {
                        self.write_status(observed).await;
                        self.settle();
                    }
                }
                () = &mut overdue, if self.settled.is_some() => self.settle_meanwhile(observed),
            }
        };
        self.memory.progress = None;
        found
    }

    /// Nobody waits any longer for this Function; who asks for it is told why.
    fn settle_meanwhile(&mut self, observed: &Observed) {
        if observed.served.is_none() {
            self.say_unready(&self.known(observed));
        }
        self.settle();
    }

    async fn create(&mut self, observed: &Observed) -> Result<(), store::Error> {
        let (Some(function), Some(template)) = (self.memory.function.clone(), self.template()) else {
            return Ok(());
        };
        // Those of a Function before it count, which was deleted without them: whoever owns it, a name is taken.
        let prefix = format!("{}-", self.id.name());
        let known = self.shared.parts.store.list_named::<Revision>(self.id.namespace(), &prefix);
        let known = known.iter().filter_map(|revision| revision.metadata.name.as_deref());
        let latest = function.status.as_ref().and_then(|status| status.latest_revision.as_deref());
        let names = known.chain(latest);
        let name = next_revision_name(self.id.name(), names);
        let digest = template.digest();
        let spec = RevisionSpec {
            function: self.id.name().to_owned(),
            generation: observed.generation,
            template_digest: digest.clone(),
            template,
        };
        let mut revision = Revision::new(&name, spec);
        revision.metadata = ObjectMeta {
            namespace: Some(self.id.namespace().to_owned()),
            labels: Some(BTreeMap::from([(
                hearth_function::FUNCTION_LABEL.to_owned(),
                self.id.name().to_owned(),
            )])),
            owner_references: Some(vec![OwnerReference {
                api_version: hearth_function::API_VERSION.to_owned(),
                kind: "Function".to_owned(),
                name: self.id.name().to_owned(),
                uid: self.memory.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            annotations: source::text(&function.spec)
                .map(|source| BTreeMap::from([(SOURCE.to_owned(), source)])),
            ..revision.metadata
        };
        let key = match &self.memory.build {
            Some((built, Ok(found), _)) if *built == digest => found.key.clone(),
            _ => None,
        };
        revision.status = Some(RevisionStatus { dependencies: key, ..RevisionStatus::default() });
        let revision = self.shared.parts.store.create(revision, Timestamp::now()).await?;
        tracing::info!(function = %self.id, revision = name, "new revision");
        let number = revision_number(self.id.name(), &name);
        self.memory.made = number.map(|number| (number, revision.spec.template.digest()));
        if let (Some(number), Some((_, Ok(found), _))) = (number, &self.memory.build) {
            let template = self.pool_template(&revision, found.clone());
            self.memory.prepared.insert(number, template);
        }
        Ok(())
    }

    async fn put(&mut self, number: Number, reach: Reach, generation: i64) {
        let (Some(Ok(template)), Some(function)) = (self.memory.prepared.get(&number), &self.memory.function)
        else {
            return;
        };
        // The limits of an instance are its Revision's; only how many there are is the newest spec's.
        let mut spec = function.spec.clone();
        // One that has failed its trial is tried out again.
        let mut mends = true;
        if let Some(revision) = self.revisions().get(&number) {
            mends = revision.status.as_ref().is_none_or(|status| status.state != RevisionState::Failed);
            spec.process_model = revision.spec.template.process_model;
            spec.concurrency = revision.spec.template.concurrency;
        }
        // Validation has let no other schedule in.
        let reserved = Windows::new(&spec.scale.reserved).unwrap_or_else(|error| {
            tracing::error!(function = %self.id, %error, "instances are not reserved");
            Windows::default()
        });
        let pause = match spec.scale.pause() {
            Pause::After(time) if self.shared.parts.sources.fixity == Fixity::Free => Some(time.get()),
            Pause::After(_) | Pause::Off => None,
        };
        let policy = Policy::of(&spec);
        let target = Target { template: Arc::clone(template), policy, reach, pause, reserved, mends };
        if self.shared.parts.autoscaler.put(target).await.is_ok() {
            self.memory.targets.insert(number, (reach, generation));
            // It was given up by this.
            self.memory.removals.forget(number);
        }
    }

    async fn mark(
        &mut self,
        number: Number,
        state: RevisionState,
        message: Option<String>,
    ) -> Result<(), store::Error> {
        let store = &self.shared.parts.store;
        let revision = store.get::<Revision>(self.id.namespace(), &self.revision_name(number))?;
        let mut revision = Arc::unwrap_or_clone(revision);
        let before = revision.status.take().unwrap_or_default();
        revision.status = Some(RevisionStatus { state, message, ..before });
        revision.metadata.resource_version = None;
        store.update_status(revision).await?;
        Ok(())
    }

    fn serve(&mut self, number: Number, generation: i64) {
        let revisions = self.revisions();
        let (Some(function), Some(revision)) = (self.memory.function.as_deref(), revisions.get(&number))
        else {
            return;
        };
        let timeouts = &revision.spec.template.timeouts;
        let served = routes::served(function, &self.id, self.revision_id(number), timeouts);
        self.shared.parts.routes.serve(served);
        self.memory.served = Some((number, generation));
        tracing::info!(function = %self.id, revision = number, "routes lead to the revision");
    }

    /// Takes away what a deleted Function printed.
    pub(super) async fn forget(&self) {
        self.shared.parts.routes.unserve(&self.id);
        if let Err(error) = self.shared.parts.logs.remove(&self.id).await {
            let error = crate::telemetry::chain(&error);
            tracing::warn!(function = %self.id, error, "logs of a deleted function stay");
        }
        tracing::info!(function = %self.id, "function deleted");
    }
}
