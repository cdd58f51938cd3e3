//! Writes to the API server. What it answers is in memory when they return.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hearth_function::INSTALLATION_ANNOTATION;
use kube::api::{
    DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions as ApiPreconditions,
    PropagationPolicy,
};
use kube::{Api, Client, Resource as _};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::error::Error;
use super::super::object::{Key, Kind, Object};
use super::super::plan::{self, Preconditions};
use super::elsewhere::claimant;
use super::lost::lost;
use super::reading::{Read, Unreadable};
use super::{From, Memory, Unlisted};

/// As what the API server knows our writes.
const MANAGER: &str = "hearth-controller";

/// One request: an API server that takes longer is as good as away.
const REQUEST: Duration = Duration::from_secs(15);

/// How long a write is tried again while the API server is away or overloaded; then whoever asked decides.
const PATIENCE: Duration = Duration::from_secs(10);

/// The pause before the second attempt; each is twice the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often a write that has no condition of its own is made anew when somebody was faster.
const ROUNDS: u32 = 5;

/// Writes.
#[derive(Clone)]
pub(in super::super) struct Writer {
    client: Client,
    memory: Weak<Memory>,
    unlisted: Unlisted,
    ended: CancellationToken,
    /// What Functions are claimed for.
    claim: Option<String>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) fn new(
        client: Client,
        memory: Weak<Memory>,
        unlisted: Unlisted,
        ended: CancellationToken,
        claim: Option<String>,
    ) -> Self {
        Self { client, memory, unlisted, ended, claim }
    }

    pub(in super::super) fn unlisted(&self) -> BTreeSet<String> {
        self.unlisted.get()
    }

    /// Ends the watches; what is asked for from then on is refused.
    pub(in super::super) fn close(&self) {
        self.ended.cancel();
    }

    pub(in super::super) async fn create<O: Object>(&self, mut object: O) -> Result<Arc<O>, Error> {
        let key = key(&object)?;
        let api = self.api::<O>(&key)?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let status = object.said_status();
        object.meta_mut().resource_version = None;
        let (made, attempts) = patiently(|| api.create(&params, &object)).await;
        let made = match made {
            Ok(made) => made,
            // The answer to an earlier attempt may have been lost.
            Err(kube::Error::Api(refused)) if attempts > 1 && refused.is_already_exists() => {
                let there =
                    api.get(&key.name).await.map_err(|error| of::<O>(&key, "create an object", error))?;
                if !there.same_spec(&object) {
                    return Err(Error::AlreadyExists { kind: O::KIND, name: key.qualified() });
                }
                there
            }
            Err(error) if is_unfit::<O>(&error) => return Err(unfit::<O>(&error)),
            Err(error) => return Err(of::<O>(&key, "create an object", error)),
        };
        if let Some(field) = dropped(&object, &made) {
            // Without that field it would run as something else than was asked for.
            let uid = made.meta().uid.clone();
            let params = DeleteParams {
                preconditions: Some(ApiPreconditions { uid, resource_version: None }),
                ..DeleteParams::default()
            };
            if let Err(error) = patiently(|| api.delete(&key.name, &params)).await.0 {
                let error = crate::telemetry::chain(&error);
                tracing::warn!(name = key.qualified(), error, "an object that was not kept whole is left");
            }
            return Err(outdated::<O>(&format!("it does not know the field {field}")));
        }
        let made = self.keep(made)?;
        match status {
            // The API server takes no status with a new object.
            Some(status) => self.patch_status(&key, made.as_ref(), status).await,
            None => Ok(made),
        }
    }

    /// Replaces the whole object. Defaults that a type fills in are written out by this: not for what people write.
    pub(in super::super) async fn update<O: Object>(&self, mut object: O) -> Result<Arc<O>, Error> {
        let key = key(&object)?;
        let api = self.api::<O>(&key)?;
        let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let unconditional = object.meta().resource_version.is_none();
        let mut round = 0;
        loop {
            round += 1;
            if unconditional {
                let newest = self.newest::<O>(&key, round > 1).await?;
                let uid = object.meta().uid.as_ref();
                if uid.is_some_and(|uid| Some(uid) != newest.meta().uid.as_ref()) {
                    return Err(another::<O>(&key));
                }
                object.meta_mut().resource_version.clone_from(&newest.meta().resource_version);
            }
            match patiently(|| api.replace(&key.name, &params, &object)).await.0 {
                Ok(newest) => return self.keep(newest),
                Err(kube::Error::Api(refused))
                    if unconditional && refused.is_conflict() && round < ROUNDS => {}
                Err(error) => return Err(of::<O>(&key, "change an object", error)),
            }
        }
    }

    pub(in super::super) async fn update_status<O: Object>(&self, object: O) -> Result<Arc<O>, Error> {
        let key = key(&object)?;
        self.patch_status(&key, &object, object.said_status().unwrap_or_else(|| json!({}))).await
    }

    /// Replaces the status, as a merge patch: keys that are known and not in the new one are taken out.
    async fn patch_status<O: Object>(
        &self,
        key: &Key,
        object: &O,
        mut status: Value,
    ) -> Result<Arc<O>, Error> {
        let api = self.readable::<O>(key)?;
        let before = self.memory()?.stored(key);
        let before = before.as_ref().and_then(O::peel).and_then(|known| known.said_status());
        let said = status.clone();
        take_out(&mut status, before.as_ref());
        let mut metadata = json!({});
        if let Some(fields) = metadata.as_object_mut() {
            fields.extend(object.meta().uid.clone().map(|uid| ("uid".to_owned(), uid.into())));
            let version = object.meta().resource_version.clone().filter(|version| !version.is_empty());
            fields.extend(version.map(|version| ("resourceVersion".to_owned(), version.into())));
        }
        let patch = Patch::Merge(json!({ "metadata": metadata, "status": status }));
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = match patiently(|| api.patch_status(&key.name, &params, &patch)).await.0 {
            Ok(patched) => patched,
            Err(error) if is_unfit_status(&error) => return Err(unfit::<O>(&error)),
            Err(kube::Error::Api(refused)) if refused.code == 404 && self.is_there::<O>(&api, key).await => {
                return Err(outdated::<O>("it has no status of its own"));
            }
            Err(error) => return Err(of::<O>(key, "write a status", error)),
        };
        let kept = patched.0.as_ref().ok().map(|patched| patched.said_status().unwrap_or_default());
        let patched = self.keep_readable(key, patched, Some(object))?;
        match kept.and_then(|kept| lost(&said, &kept)) {
            Some(field) => Err(outdated::<O>(&format!("it does not know the field {}", in_status(&field)))),
            None => Ok(patched),
        }
    }

    /// Whether the object is there though its status is not.
    async fn is_there<O: Object>(&self, api: &Api<Read<O>>, key: &Key) -> bool {
        matches!(timeout(REQUEST, api.get_metadata_opt(&key.name)).await, Ok(Ok(Some(_))))
    }

    /// A Function that gets a finalizer is claimed with it, unless another Hearth has done so.
    pub(in super::super) async fn finalize<O: Object>(
        &self,
        object: &O,
        finalizer: &str,
        on: bool,
    ) -> Result<Arc<O>, Error> {
        let key = key(object)?;
        let api = self.readable::<O>(&key)?;
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let claim = self.claim.as_deref().filter(|_| O::KIND == Kind::Function && on);
        let mut round = 0;
        loop {
            round += 1;
            let newest = self.newest::<O>(&key, round > 1).await?;
            if newest.meta().uid != object.meta().uid {
                return Err(another::<O>(&key));
            }
            let claimant = claimant(newest.meta());
            if let (Some(_), Some(other)) = (claim, claimant.filter(|claimant| Some(*claimant) != claim)) {
                let detail = format!("the Hearth in namespace {other} serves it");
                return Err(Error::Refused { kind: O::KIND, name: key.qualified(), detail });
            }
            let wanted = plan::with_finalizer(newest.meta(), finalizer, on);
            let missing = claim.filter(|_| claimant.is_none());
            if wanted == newest.meta().finalizers && missing.is_none() {
                return Ok(newest);
            }
            // With the version that the list is made from: somebody else's finalizer, or claim, is never lost.
            let mut patch = json!({ "metadata": {
                "uid": newest.meta().uid, "resourceVersion": newest.meta().resource_version, "finalizers": wanted,
            } });
            if let Some(mine) = missing {
                patch["metadata"]["annotations"] = json!({ INSTALLATION_ANNOTATION: mine });
            }
            let patch = Patch::Merge(patch);
            match patiently(|| api.patch(&key.name, &params, &patch)).await.0 {
                // The last finalizer of an object that is being deleted: the answer is its last form.
                Ok(last) if is_over(last.meta()) => {
                    let last = last.0.map_or(newest, Arc::new);
                    self.memory()?.leave(&key, Some(&O::wrap(Arc::clone(&last))), From::Answer);
                    return Ok(last);
                }
                Ok(newest) => return self.keep_readable(&key, newest, None),
                Err(kube::Error::Api(refused)) if refused.is_conflict() && round < ROUNDS => {}
                Err(error) => return Err(of::<O>(&key, "change the finalizers of an object", error)),
            }
        }
    }

    pub(in super::super) async fn delete<O: Object>(
        &self,
        namespace: &str,
        name: &str,
        preconditions: &Preconditions,
    ) -> Result<Arc<O>, Error> {
        let key = Key { kind: O::KIND, namespace: namespace.to_owned(), name: name.to_owned() };
        let api = self.api::<O>(&key)?;
        let known = self.newest::<O>(&key, false).await?;
        let params = DeleteParams {
            // Never another one of the same name that memory does not know yet.
            preconditions: Some(ApiPreconditions {
                uid: preconditions.uid.clone().or_else(|| known.meta().uid.clone()),
                resource_version: preconditions.resource_version.clone(),
            }),
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        let (deleted, attempts) = patiently(|| api.delete(&key.name, &params)).await;
        match deleted {
            Ok(answer) => match answer.left().filter(|object| !is_over(object.meta())) {
                Some(marked) => self.keep(marked),
                None => {
                    self.memory()?.leave(&key, Some(&O::wrap(Arc::clone(&known))), From::Answer);
                    Ok(known)
                }
            },
            Err(kube::Error::Api(refused)) if attempts > 1 && refused.is_not_found() => Ok(known),
            Err(error) => Err(of::<O>(&key, "delete an object", error)),
        }
    }

    /// The object as memory has it, or as the API server has it.
    async fn newest<O: Object>(&self, key: &Key, ask: bool) -> Result<Arc<O>, Error> {
        let known = if ask { None } else { self.memory()?.stored(key) };
        if let Some(known) = known.as_ref().and_then(O::peel) {
            return Ok(Arc::clone(known));
        }
        let api = self.readable::<O>(key)?;
        let found = patiently(|| api.get(&key.name)).await.0;
        self.keep_readable(key, found.map_err(|error| of::<O>(key, "read an object", error))?, None)
    }

    fn keep<O: Object>(&self, mut object: O) -> Result<Arc<O>, Error> {
        object.meta_mut().managed_fields = None;
        let object = Arc::new(object);
        self.memory()?.arrive(O::wrap(Arc::clone(&object)));
        Ok(object)
    }

    /// As [`Self::keep`], of an answer whose spec may be one that cannot be read: it is known then as one. `status`: what was written with it.
    fn keep_readable<O: Object>(
        &self,
        key: &Key,
        answer: Read<O>,
        status: Option<&O>,
    ) -> Result<Arc<O>, Error> {
        let Unreadable { why: error, metadata } = match answer.0 {
            Ok(object) => return self.keep(object),
            Err(invalid) => invalid,
        };
        let placeholder = O::unreadable(metadata, &error).map(|mut placeholder| {
            if let Some(written) = status {
                placeholder.take_status(written);
            }
            O::wrap(Arc::new(placeholder))
        });
        let memory = self.memory()?;
        if let Some(placeholder) = placeholder {
            memory.arrive_unreadable(placeholder, &error);
        }
        let known = memory.stored(key);
        let unread = || Error::Io { doing: "read what the API server answered", source: error.into() };
        known.as_ref().and_then(O::peel).map(Arc::clone).ok_or_else(unread)
    }

    /// Where answers are taken whatever their spec is.
    fn readable<O: Object>(&self, key: &Key) -> Result<Api<Read<O>>, Error> {
        self.api::<O>(key)?;
        Ok(Api::namespaced(self.client.clone(), &key.namespace))
    }

    fn api<O: Object>(&self, key: &Key) -> Result<Api<O>, Error> {
        if self.ended.is_cancelled() {
            return Err(Error::Closed);
        }
        Ok(Api::namespaced(self.client.clone(), &key.namespace))
    }

    fn memory(&self) -> Result<Arc<Memory>, Error> {
        self.memory.upgrade().ok_or(Error::Closed)
    }
}

/// Whether an object that the API server answered with is one that is there no more.
fn is_over(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some() && metadata.finalizers.as_ref().is_none_or(Vec::is_empty)
}

/// Names what is no more in `status`, for a merge patch.
fn take_out(status: &mut Value, before: Option<&Value>) {
    let (Some(status), Some(before)) = (status.as_object_mut(), before.and_then(Value::as_object)) else {
        return;
    };
    for (key, before) in before {
        match status.get_mut(key) {
            Some(now) => take_out(now, Some(before)),
            None => {
                status.insert(key.clone(), Value::Null);
            }
        }
    }
}

/// Sends a request, and sends it again while the API server is away or asks for time; with the number of attempts.
async fn patiently<T, F: Future<Output = kube::Result<T>>>(
    request: impl Fn() -> F,
) -> (kube::Result<T>, u32) {
    let until = Instant::now() + PATIENCE;
    let (mut pause, mut attempt) = (FIRST_PAUSE, 0);
    loop {
        attempt += 1;
        let outcome = match timeout(REQUEST, request()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(kube::Error::Service("the API server does not answer".into())),
        };
        let passes = outcome.as_ref().is_err_and(may_pass);
        if !passes || Instant::now() + pause > until {
            return (outcome, attempt);
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether the same request may be taken a moment later.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_) => true,
        _ => false,
    }
}

fn key<O: Object>(object: &O) -> Result<Key, Error> {
    let key = O::wrap(Arc::new(object.clone())).key();
    let detail = match (key.name.is_empty(), key.namespace.is_empty()) {
        (true, _) => "it has no name",
        (_, true) => "it has no namespace",
        _ => return Ok(key),
    };
    Err(Error::Invalid { kind: O::KIND, detail })
}

fn outdated<O: Object>(detail: &str) -> Error {
    Error::Outdated { kind: O::KIND, detail: detail.to_owned() }
}

/// The field of a new object's spec that was not kept.
fn dropped<O: Object>(sent: &O, made: &O) -> Option<String> {
    let spec = |object: &O| serde_json::to_value(object).ok().map(|mut whole| whole["spec"].take());
    lost(&spec(sent)?, &spec(made)?).map(|field| format!("spec.{field}"))
}

fn in_status(field: &str) -> String {
    if field.is_empty() { "status".to_owned() } else { format!("status.{field}") }
}

/// Whether a definition refuses what Hearth alone has written.
fn is_unfit<O: Object>(error: &kube::Error) -> bool {
    O::KIND == Kind::Revision && is_unfit_status(error)
}

fn is_unfit_status(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(refused) if refused.code == 422)
}

fn unfit<O: Object>(error: &kube::Error) -> Error {
    let said = match error {
        kube::Error::Api(refused) => refused.message.clone(),
        error => crate::telemetry::chain(error),
    };
    outdated::<O>(&format!("it does not take what Hearth writes: {said}"))
}

fn another<O: Object>(key: &Key) -> Error {
    let detail = "it was deleted and made again".to_owned();
    Error::Conflict { kind: O::KIND, name: key.qualified(), detail }
}

fn of<O: Object>(key: &Key, doing: &'static str, error: kube::Error) -> Error {
    let name = key.qualified();
    match error {
        kube::Error::Api(status) if status.is_not_found() => Error::NotFound { kind: O::KIND, name },
        kube::Error::Api(status) if status.is_already_exists() => {
            Error::AlreadyExists { kind: O::KIND, name }
        }
        kube::Error::Api(status) if status.is_conflict() => {
            Error::Conflict { kind: O::KIND, name, detail: status.message }
        }
        kube::Error::Api(status) if status.code < 500 && status.code != 429 => {
            Error::Refused { kind: O::KIND, name, detail: status.message }
        }
        error => Error::Io { doing, source: Box::new(error) },
    }
}
