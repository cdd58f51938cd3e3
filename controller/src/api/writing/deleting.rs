//! Deleting Functions.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use hearth_function::Function;

use super::{Effect, success};
use crate::api::extract::{Params, Place, Sent};
use crate::api::failure::Failure;
use crate::api::objects::{ListQuery, answer, to_json};
use crate::api::render::{Rendering, View};
use crate::api::selector::Selector;
use crate::api::{Context, kinds, patch};
use crate::store::{self, Preconditions};

/// `DeleteOptions`, in the body or (some of them) as parameters. A grace period has no meaning here: running calls end whatever it says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteOptions {
    dry_run: Option<Vec<String>>,
    propagation_policy: Option<String>,
    orphan_dependents: Option<bool>,
    preconditions: Option<DeletePreconditions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeletePreconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

/// The parameters of a deletion.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::api) struct DeleteQuery {
    dry_run: String,
    propagation_policy: Option<String>,
}

/// What a deletion is to do.
struct Deletion {
    effect: Effect,
    preconditions: Preconditions,
}

impl Deletion {
    fn read(asked: DeleteQuery, content: &[u8]) -> Result<Self, Failure> {
        let options: DeleteOptions = if content.is_empty() {
            DeleteOptions::default()
        } else {
            serde_json::from_value(patch::yaml(content)?).map_err(|error| {
                Failure::bad_request(&format!("the delete options cannot be read: {error}"))
            })?
        };
        let policy = options.propagation_policy.or(asked.propagation_policy);
        if policy.as_deref() == Some("Orphan") || options.orphan_dependents == Some(true) {
            return Err(Failure::bad_request(
                "a Function takes its Revisions along: propagationPolicy Orphan is not served",
            ));
        }
        let inside = options.dry_run.unwrap_or_default();
        let effect = Effect::of(inside.first().map_or(asked.dry_run.as_str(), String::as_str))?;
        let DeletePreconditions { uid, resource_version } = options.preconditions.unwrap_or_default();
        Ok(Self { effect, preconditions: Preconditions { uid, resource_version } })
    }

    async fn run(&self, context: &Context, namespace: &str, name: &str) -> Result<Function, store::Error> {
        let (store, now) = (&context.store, Timestamp::now());
        let last = match self.effect {
            Effect::Stored => {
                store.delete::<Function>(namespace, name, self.preconditions.clone(), now).await?
            }
            Effect::Previewed => {
                store.preview_delete::<Function>(namespace, name, &self.preconditions, now)?
            }
        };
        Ok(Function::clone(&last))
    }
}

pub(in crate::api) async fn delete(
    State(context): State<Context>,
    Place { namespace, name }: Place,
    Params(asked): Params<DeleteQuery>,
    headers: HeaderMap,
    Sent(sent): Sent,
) -> Result<Response, Failure> {
    let view = View::of(&headers, "")?;
    let deletion = Deletion::read(asked, &sent)?;
    let last = deletion.run(&context, &namespace, &name).await?;
    if !last.finalizers().is_empty() {
        return answer(view, StatusCode::OK, &last);
    }
    Ok(success(
        &json!({ "name": name, "group": "hearth.dev", "kind": Function::plural(&()), "uid": last.uid() }),
    ))
}

/// All of a namespace that match the selectors.
pub(in crate::api) async fn delete_several(
    State(context): State<Context>,
    Path(namespace): Path<String>,
    Params(asked): Params<DeleteQuery>,
    Params(wanted): Params<ListQuery>,
    headers: HeaderMap,
    Sent(sent): Sent,
) -> Result<Response, Failure> {
    let facts = kinds::of::<Function>();
    let selector =
        Selector::parse(Some(&namespace), &wanted.label_selector, &wanted.field_selector, &facts.selectable)?;
    let view = View::of(&headers, "")?;
    let deletion = Deletion::read(asked, &sent)?;
    let listed = context.store.list::<Function>(Some(&namespace));
    let mut deleted: Vec<Value> = Vec::new();
    for function in listed.items.iter().filter(|function| selector.matches(function.as_ref())) {
        match deletion.run(&context, &namespace, &function.name_any()).await {
            Ok(last) => deleted.push(to_json(&last)?),
            // Somebody else was faster.
            Err(store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let metadata = json!({ "resourceVersion": context.store.resource_version().to_string() });
    let rendering = Rendering { view, columns: &facts.columns, now: Timestamp::now() };
    Ok(Json(rendering.list("hearth.dev/v1", "FunctionList", metadata, deleted)).into_response())
}
