//! Writing Functions: create, update, patch, server-side apply, delete; each with what it means for the owners of fields, and each as a dry
//! run that stores nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::ResourceExt;
use serde::Deserialize;
use serde_json::{Value, json};

use hearth_function::Function;

use super::extract::{Params, Place, Sent};
use super::failure::Failure;
use super::objects::{answer, is_set, to_json};
use super::ownership::{self, Apply, Force, MAX_MANAGER_BYTES};
use super::patch::{self, Form};
use super::render::View;
use super::{Context, kinds, reading};
use crate::store;

mod deleting;

pub(super) use deleting::{delete, delete_several};

/// A patch that does not name a version is tried on the newest object so often before the client is told of the conflict.
const PATCH_TRIES: usize = 5;

/// What a write can be asked for. Unknown fields are errors whatever `fieldValidation` says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct WriteQuery {
    pub(super) dry_run: String,
    field_manager: String,
    field_validation: String,
    force: String,
}

/// Whether a write is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It is.
    Stored,
    /// Only its answer is made.
    Previewed,
}

impl Effect {
    /// By a `dryRun` parameter.
    pub(super) fn of(dry_run: &str) -> Result<Self, Failure> {
        match dry_run {
            "" => Ok(Self::Stored),
            "All" => Ok(Self::Previewed),
            other => Err(Failure::bad_request(&format!("dryRun is {other:?}: only All is served"))),
        }
    }
}

/// Who writes what, and how it is answered.
pub(super) struct Writing {
    context: Context,
    namespace: String,
    /// Of the object; empty for a collection.
    name: String,
    manager: String,
    effect: Effect,
    view: View,
    force: Force,
}

impl FromRequestParts<Context> for Writing {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, context: &Context) -> Result<Self, Failure> {
        let Place { namespace, name } = Place::from_request_parts(parts, context).await?;
        let Params(asked) = Params::<WriteQuery>::from_request_parts(parts, context).await?;
        let (context, headers) = (context.clone(), &parts.headers);
        let effect = Effect::of(&asked.dry_run)?;
        if !matches!(asked.field_validation.as_str(), "" | "Ignore" | "Warn" | "Strict") {
            return Err(Failure::bad_request("fieldValidation is Ignore, Warn or Strict"));
        }
        let manager = manager(asked.field_manager, headers)?;
        let force = if is_set(&asked.force) { Force::Yes } else { Force::No };
        let view = View::of(headers, "")?;
        Ok(Self { context, namespace, name, manager, effect, view, force })
    }
}

impl Writing {
    /// The name of the object; empty for a collection.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The object as it is.
    pub(super) fn live(&self) -> Result<Arc<Function>, Failure> {
        Ok(self.context.store.get::<Function>(&self.namespace, &self.name)?)
    }

    async fn create(&self, mut object: Value) -> Result<Response, Failure> {
        // Of an object that is new, whatever it carries of another's managers means nothing.
        reading::take_managers(&mut object)?;
        generate_name(&mut object)?;
        let mut function = reading::function(&self.namespace, None, object.clone())?;
        let schema = &kinds::of::<Function>().schema;
        let managers = ownership::update(&[], &Value::Null, &object, &self.manager, schema, Timestamp::now());
        set_managers(&mut function, managers);
        self.store_new(function).await
    }

    async fn store_new(&self, mut function: Function) -> Result<Response, Failure> {
        // A status is what we observe, not what a client says.
        function.status = None;
        let (store, now) = (&self.context.store, Timestamp::now());
        let created = match self.effect {
            Effect::Stored => store.create(function, now).await?,
            Effect::Previewed => store.preview_create(function, now)?,
        };
        answer(self.view, StatusCode::CREATED, created.as_ref())
    }

    /// Puts `object` in the place of `live`.
    pub(super) async fn replace(&self, live: &Function, mut object: Value) -> Result<Function, Failure> {
        let given = reading::take_managers(&mut object)?;
        let mut function = reading::function(&self.namespace, Some(&live.name_any()), object)?;
        let known = given.unwrap_or_else(|| store::managers(&live.metadata));
        let (before, after) = (to_json(live)?, to_json(&function)?);
        let schema = &kinds::of::<Function>().schema;
        let managers = ownership::update(&known, &before, &after, &self.manager, schema, Timestamp::now());
        set_managers(&mut function, managers);
        self.store(function).await
    }

    async fn store(&self, function: Function) -> Result<Function, Failure> {
        let stored = match self.effect {
            Effect::Stored => self.context.store.update(function).await?,
            Effect::Previewed => self.context.store.preview_update(function)?,
        };
        Ok(Function::clone(&stored))
    }

    async fn apply(&self, name: &str, mut applied: Value) -> Result<Response, Failure> {
        reading::place(&self.namespace, Some(name), &mut applied)?;
        if reading::take_managers(&mut applied)?.is_some() {
            return Err(Failure::bad_request("metadata.managedFields must be nil"));
        }
        for _ in 0..PATCH_TRIES {
            let live = match self.context.store.get::<Function>(&self.namespace, name) {
                Ok(live) => live,
                Err(store::Error::NotFound { .. }) => match self.apply_new(name, &applied).await {
                    // Somebody was faster: now it is a change.
                    Err(failure) if failure.is_already_exists() => continue,
                    answer => return answer,
                },
                Err(error) => return Err(error.into()),
            };
            let own_version = !applied["metadata"]["resourceVersion"].is_null();
            let function = self.applied_to(&live, &applied)?;
            match self.store(function).await {
                Err(failure) if failure.is_conflict() && !own_version => {}
                stored => return answer(self.view, StatusCode::OK, &stored?),
            }
        }
        Err(Failure::conflict("functions", name))
    }

    async fn apply_new(&self, name: &str, applied: &Value) -> Result<Response, Failure> {
        if !applied["metadata"]["resourceVersion"].is_null() {
            return Err(Failure::conflict("functions", name));
        }
        let mut function = reading::function(&self.namespace, Some(name), applied.clone())?;
        let managers = self.settle(&Value::Null, &[], applied, &to_json(&function)?)?;
        set_managers(&mut function, managers);
        self.store_new(function).await
    }

    /// What `applied` makes of `live`.
    fn applied_to(&self, live: &Function, applied: &Value) -> Result<Function, Failure> {
        let managers = store::managers(&live.metadata);
        let mut before = to_json(live)?;
        reading::take_managers(&mut before)?;
        let schema = &kinds::of::<Function>().schema;
        let apply = Apply { live: &before, managers: &managers, applied, manager: &self.manager, schema };
        let mut merged = apply.merge();
        // What else is said must be right, too, though it changes nothing: a version and a uid to be compared, fields that do not exist.
        add_missing(&mut merged, applied);
        add_missing(&mut merged["metadata"], &applied["metadata"]);
        for compared in ["resourceVersion", "uid"] {
            if let Some(value) = applied["metadata"].get(compared) {
                merged["metadata"][compared] = value.clone();
            }
        }
        let mut function = reading::function(&self.namespace, Some(&live.name_any()), merged)?;
        let managers = self.settle(&before, &managers, applied, &to_json(&function)?)?;
        set_managers(&mut function, managers);
        Ok(function)
    }

    fn settle(
        &self,
        live: &Value,
        managers: &[ManagedFieldsEntry],
        applied: &Value,
        result: &Value,
    ) -> Result<Vec<ManagedFieldsEntry>, Failure> {
        let schema = &kinds::of::<Function>().schema;
        let apply = Apply { live, managers, applied, manager: &self.manager, schema };
        apply.settle(result, self.force, Timestamp::now()).map_err(|conflicts| {
            let name = applied["metadata"]["name"].as_str().unwrap_or_default();
            Failure::apply_conflict(name, conflicts.into_iter().map(|one| (one.manager, one.field)).collect())
        })
    }
}

fn add_missing(object: &mut Value, more: &Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        for (name, value) in more {
            object.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
}

fn set_managers(function: &mut Function, managers: Vec<ManagedFieldsEntry>) {
    function.metadata.managed_fields = Some(managers).filter(|managers| !managers.is_empty());
}

/// Who writes: the parameter, or the program's name in `User-Agent`, as in Kubernetes.
fn manager(parameter: String, headers: &HeaderMap) -> Result<String, Failure> {
    if parameter.len() > MAX_MANAGER_BYTES || parameter.contains(char::is_control) {
        return Err(Failure::bad_request(&format!(
            "fieldManager is a name of at most {MAX_MANAGER_BYTES} bytes"
        )));
    }
    if !parameter.is_empty() {
        return Ok(parameter);
    }
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
    let program = agent.unwrap_or_default().split('/').next().unwrap_or_default();
    let name: String = program.chars().take(MAX_MANAGER_BYTES).collect();
    Ok(if name.is_empty() { "unknown".to_owned() } else { name })
}

/// `metadata.generateName` and five letters and digits that nobody else has. A name that is taken all the same is a conflict, as for
/// every name.
fn generate_name(object: &mut Value) -> Result<(), Failure> {
    // Without what can be read as something else.
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return Ok(()) };
    let Some(prefix) = metadata.get("generateName").and_then(Value::as_str) else { return Ok(()) };
    if metadata.get("name").and_then(Value::as_str).is_some_and(|name| !name.is_empty()) {
        return Ok(());
    }
    let mut random = [0; 5];
    getrandom::fill(&mut random).map_err(|error| {
        tracing::error!(%error, "management API: no randomness for a generated name");
        Failure::internal("making a name")
    })?;
    let letter =
        |byte: &u8| char::from(LETTERS.get(usize::from(*byte) % LETTERS.len()).copied().unwrap_or(b'x'));
    let name = format!("{prefix}{}", random.iter().map(letter).collect::<String>());
    metadata.insert("name".to_owned(), json!(name));
    Ok(())
}

pub(super) async fn create(writing: Writing, Sent(sent): Sent) -> Result<Response, Failure> {
    writing.create(patch::yaml(&sent)?).await
}

pub(super) async fn update(writing: Writing, Sent(sent): Sent) -> Result<Response, Failure> {
    let object = patch::yaml(&sent)?;
    let live = writing.live()?;
    // As for every custom resource: who replaces an object says which one was seen.
    if object["metadata"]["resourceVersion"].as_str().unwrap_or_default().is_empty() {
        let cause = ("metadata.resourceVersion".to_owned(), "must be specified for an update".to_owned());
        return Err(Failure::invalid("Function", &writing.name, vec![cause]));
    }
    answer(writing.view, StatusCode::OK, &writing.replace(&live, object).await?)
}

pub(super) async fn patch(
    Params(asked): Params<WriteQuery>,
    writing: Writing,
    form: Form,
    Sent(sent): Sent,
) -> Result<Response, Failure> {
    if form == Form::Apply && asked.field_manager.is_empty() {
        return Err(Failure::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let change = form.read(&sent)?;
    if form == Form::Apply {
        return writing.apply(&writing.name, change).await;
    }
    let (writing, change) = (&writing, &change);
    let stored = on_the_newest(&writing.name, || async move {
        let live = writing.live()?;
        let before = to_json(live.as_ref())?;
        let after = form.apply(&before, change)?;
        let version = Version::of_patched(&before, &after);
        Ok((version, writing.replace(&live, after).await))
    });
    answer(writing.view, StatusCode::OK, &stored.await?)
}

/// Whether a change names the version of the object that it is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Named,
    Any,
}

impl Version {
    /// By what the patch has made of an object.
    pub(super) fn of_patched(before: &Value, after: &Value) -> Self {
        let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
        if version(after) == version(before) { Self::Any } else { Self::Named }
    }
}

/// What `change` makes of the Function of this name and has stored: again on the newest when somebody else was faster, unless it is for a
/// version that was named.
///
/// # Errors
/// Those of `change`; 409 when others were faster [`PATCH_TRIES`] times.
pub(super) async fn on_the_newest<T, F>(name: &str, change: impl Fn() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<(Version, Result<T, Failure>), Failure>>,
{
    for _ in 0..PATCH_TRIES {
        match change().await? {
            (Version::Any, Err(failure)) if failure.is_conflict() => {}
            (_, stored) => return stored,
        }
    }
    Err(Failure::conflict("functions", name))
}

/// `Status` of a success, as a deletion answers.
fn success(details: &Value) -> Response {
    Json(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details }))
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// What comes of a patch that meets so many conflicts, and how often it was tried.
    async fn patched(version: Version, conflicts: usize) -> (Result<usize, Failure>, usize) {
        let tries = Cell::new(0);
        let stored = on_the_newest("a", || {
            let tried = tries.replace(tries.get() + 1);
            let stored = if tried < conflicts { Err(Failure::conflict("functions", "a")) } else { Ok(tried) };
            std::future::ready(Ok((version, stored)))
        });
        (stored.await, tries.get())
    }

    #[tokio::test]
    async fn a_patch_that_names_no_version_is_tried_again() {
        let conflict = Err(Failure::conflict("functions", "a"));
        assert_eq!(patched(Version::Any, 2).await, (Ok(2), 3));
        assert_eq!(patched(Version::Any, PATCH_TRIES).await, (conflict.clone(), PATCH_TRIES));
        assert_eq!(patched(Version::Named, 2).await, (conflict, 1));
    }
}
