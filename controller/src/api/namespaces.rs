//! Namespaces (`v1`), for clients that list them: `default` and those that Functions are in. They need not be made and are not kept.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::HeaderMap;
use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use hearth_function::Function;

use super::Context;
use super::extract::Params;
use super::failure::Failure;
use super::kinds::Column;
use super::objects::ListQuery;
use super::render::{Rendering, View};
use super::selector::Selector;

static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let name = Column::new("Name", "string", "name", "", ".metadata.name");
    let status = Column::new("Status", "string", "", "", ".status.phase");
    name.into_iter().chain(status).collect()
});

/// The routes below `/api/v1`.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/namespaces", get(list).post(not_made))
        .route("/namespaces/{namespace}", get(read).put(not_made).patch(not_made).delete(not_made))
}

async fn not_made() -> Failure {
    Failure::not_allowed(
        "a namespace here is only a part of a Function's name: it is there as soon as a Function names it, and gone with the last",
    )
}

async fn list(
    State(context): State<Context>,
    Params(asked): Params<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    if asked.is_watch() {
        return Err(Failure::not_allowed("namespaces cannot be watched here: watch Functions"));
    }
    let view = asked.view(&headers)?;
    let selector = Selector::parse(None, &asked.label_selector, &asked.field_selector, &[])?;
    let listed = context.store.list::<Function>(None);
    let metadata = json!({ "resourceVersion": listed.resource_version.to_string() });
    let items = known(&listed.items).into_values().filter(|item| selector.matches_json(item)).collect();
    let rendering = Rendering { view, columns: &COLUMNS, now: Timestamp::now() };
    Ok(Json(rendering.list("v1", "NamespaceList", metadata, items)).into_response())
}

async fn read(
    State(context): State<Context>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let view = View::of(&headers, "")?;
    let namespace = known(&context.store.list::<Function>(None).items)
        .remove(&name)
        .ok_or_else(|| Failure::no_core_object("namespaces", &name))?;
    let rendering = Rendering { view, columns: &COLUMNS, now: Timestamp::now() };
    Ok(Json(rendering.one(namespace)).into_response())
}

fn known(functions: &[std::sync::Arc<Function>]) -> BTreeMap<String, Value> {
    let named = functions.iter().filter_map(|function| function.namespace());
    std::iter::once(hearth_function::DEFAULT_NAMESPACE.to_owned())
        .chain(named)
        .map(|name| {
            let namespace = json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
                "status": { "phase": "Active" },
            });
            (name, namespace)
        })
        .collect()
}
