//! Where the parts of a Revision are, for those who start its instances.
//!
//! A controller that begins with an empty disk may find instances of a Revision that run, whose code is not here and whose dependencies would
//! have to be installed again. What runs needs neither: such a Revision goes on at once, by the places that its parts will have, and they are
//! brought while it serves. Until then no more instances of it come up.

use std::sync::Arc;
use std::time::Duration;

use hearth_function::{Code, Revision, RevisionState, Template};
use tokio::time::Instant;

use super::super::missing::{Lack, Missing};
use super::super::parts::{Found, Sources};
use super::super::plan::{Number, Observed};
use super::{Made, RETRY, Task};
use crate::backend::Root;
use crate::pool;
use crate::store;

/// What is here is found by then, as a rule; and instances of a Revision that is still tried are ended when it is not.
const PATIENCE: Duration = Duration::from_secs(30);

impl Task {
    pub(super) async fn prepare(&mut self, number: Number, observed: &Observed) -> Result<(), store::Error> {
        let Some(revision) = self.revisions().remove(&number) else { return Ok(()) };
        if self.prepare_on_credit(number, &revision) {
            return Ok(());
        }
        let patience = self.patience(number, &revision);
        let template = match self.ensure(&revision.spec.template, observed, patience).await {
            Ok(found) => self.pool_template(&revision, found),
            Err(missing) => Err(Box::new((missing, Instant::now() + RETRY))),
        };
        self.memory.prepared.insert(number, template);
        Ok(())
    }

    /// How long a restarted controller waits for the parts of a Revision before it serves all others. Code that is to be fetched may lie where
    /// nobody ever answers.
    fn patience(&self, number: Number, revision: &Revision) -> Duration {
        let is_here = match revision.spec.template.code() {
            Some(Code::Bundle(digest)) => self.shared.parts.sources.bundles.has(&digest),
            Some(Code::Image(_)) | None => true,
        };
        let runs = self.shared.parts.left.contains_key(&self.revision_id(number));
        if is_here || runs { PATIENCE } else { Duration::ZERO }
    }

    pub(super) fn pool_template(&self, revision: &Revision, found: Found) -> Made {
        let places = pool::Places {
            code: found.code,
            image: found.image,
            dependencies: found.dependencies,
            interpreter: found.interpreter,
            runtime_image: found.runtime_image,
            fixity: self.shared.parts.sources.fixity,
            gateway: self.shared.config.url_inside.clone(),
        };
        pool::Template::new(revision, places).map(Arc::new).map_err(|error| {
            let missing = Missing { reason: Lack::Invalid, message: error.to_string() };
            Box::new((missing, Instant::now() + RETRY))
        })
    }

    /// Whether the Revision goes on without its parts.
    fn prepare_on_credit(&mut self, number: Number, revision: &Revision) -> bool {
        let Some(root) = self.shared.parts.left.get(&self.revision_id(number)) else { return false };
        let status = revision.status.as_ref();
        let is_ready = status.is_some_and(|status| status.state == RevisionState::Ready);
        if !is_ready || self.memory.prepared.contains_key(&number) {
            return false;
        }
        let key = status.and_then(|status| status.dependencies.as_deref());
        let Some(found) = to_be_brought(&self.shared.parts.sources, &revision.spec.template, key, root)
        else {
            return false;
        };
        let template = self.pool_template(revision, found);
        tracing::info!(function = %self.id, revision = number, "instances of it run: its parts are brought here meanwhile");
        self.memory.prepared.insert(number, template);
        self.memory.owed = Some((number, Instant::now()));
        true
    }

    /// Brings the parts of a Revision that goes on without them, if that is due; whether there was something to do.
    pub(super) async fn bring_owed(&mut self, observed: &Observed) -> bool {
        let Some((number, at)) = self.memory.owed else { return false };
        let is_wanted = observed.targets.contains_key(&number)
            && observed.revisions.get(&number).is_some_and(|revision| revision.intact);
        let Some(revision) = self.revisions().remove(&number).filter(|_| is_wanted) else {
            // It is overtaken, or no longer what runs.
            self.memory.owed = None;
            return true;
        };
        if at > Instant::now() {
            return false;
        }
        let mut object = self.object.clone();
        let template = revision.spec.template.clone();
        let brought = {
            let bringing = Box::pin(self.ensure(&template, observed, Duration::ZERO));
            tokio::select! {
                biased;
                // What is under way goes on, and is asked for again at the next look.
                _ = object.changed() => return true,
                brought = bringing => brought,
            }
        };
        match brought {
            Ok(found) => {
                let template = self.pool_template(&revision, found);
                self.memory.prepared.insert(number, template);
                self.memory.owed = None;
            }
            Err(Missing { reason, message }) => {
                let reason = reason.as_str();
                tracing::warn!(function = %self.id, revision = number, reason, message, "no more instances can be started");
                self.memory.owed = Some((number, Instant::now() + RETRY));
            }
        }
        true
    }
}

/// Where the parts of `template` will be, if any of them is not here: `key` is that of its dependencies, `root` that of an instance that runs.
/// `None` where they are all here, or where an image has them, which needs nothing here.
fn to_be_brought(sources: &Sources, template: &Template, key: Option<&str>, root: &Root) -> Option<Found> {
    let Some(Code::Bundle(digest)) = template.code() else { return None };
    let (code, dependencies) =
        (sources.bundles.place(&digest), key.map(|key| sources.dependencies.place(key)));
    if std::iter::once(&code).chain(&dependencies).all(|path| path.is_dir()) {
        return None;
    }
    let (interpreter, runtime_image) = if template.runtime.has_handler() {
        let interpreter = sources.interpreters.find(&template.runtime.to_string()).ok()?;
        (Some(interpreter.path), interpreter.image)
    } else {
        // What a program is run by takes its code to tell; what runs tells it too.
        match root {
            Root::Runtime { image, interpreter } => (interpreter.clone(), Some(image.clone())),
            Root::Host { interpreter } => (interpreter.clone(), None),
            Root::Directory(_) | Root::Image(_) => return None,
        }
    };
    let (code, key) = (Some(code), key.map(str::to_owned));
    Some(Found { code, image: None, dependencies, interpreter, runtime_image, key })
}
