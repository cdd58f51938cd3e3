//! Functions and Revisions as resources: get, list, watch, create, update, patch, delete, status.

use axum::Json;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use kube::core::response::Status;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};

use hearth_function::{Function, Revision};

use super::failure::Failure;
use super::patch::{self, Form};
use super::selector::Selector;
use super::watching::{self, Asked};
use super::{Context, body, reading};
use crate::store::{self, Object, Preconditions, ResourceVersion};

/// A patch that does not name a version is tried on the newest object so often before the client is told of the conflict.
const PATCH_TRIES: usize = 5;

/// The routes below `/apis/hearth.dev/v1`.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/functions", get(list_all::<Function>))
        .route("/revisions", get(list_all::<Revision>))
        .route("/namespaces/{namespace}/functions", get(list::<Function>).post(create))
        .route("/namespaces/{namespace}/revisions", get(list::<Revision>))
        .route(
            "/namespaces/{namespace}/functions/{name}",
            get(read::<Function>).put(update).patch(patch).delete(delete),
        )
        .route(
            "/namespaces/{namespace}/functions/{name}/status",
            get(read::<Function>).put(update_status).patch(patch_status),
        )
        .route("/namespaces/{namespace}/revisions/{name}", get(read::<Revision>))
}

/// What a list or a watch can be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListQuery {
    watch: String,
    resource_version: String,
    timeout_seconds: Option<u64>,
    allow_watch_bookmarks: String,
    send_initial_events: String,
    field_selector: String,
    label_selector: String,
}

/// What a write can be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WriteQuery {
    dry_run: String,
    field_manager: String,
}

fn is_set(flag: &str) -> bool {
    matches!(flag, "true" | "1" | "True")
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Failure> {
    query.map(|Query(query)| query).map_err(|error| Failure::bad_request(&error.body_text()))
}

impl WriteQuery {
    fn check(&self) -> Result<(), Failure> {
        if self.dry_run.is_empty() { Ok(()) } else { Err(Failure::bad_request("dryRun is not served")) }
    }
}

async fn list_all<O: Object>(
    State(context): State<Context>,
    asked: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    list_or_watch::<O>(&context, None, &query(asked)?)
}

async fn list<O: Object>(
    State(context): State<Context>,
    Path(namespace): Path<String>,
    asked: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Failure> {
    list_or_watch::<O>(&context, Some(&namespace), &query(asked)?)
}

fn list_or_watch<O: Object>(
    context: &Context,
    namespace: Option<&str>,
    asked: &ListQuery,
) -> Result<Response, Failure> {
    let selector = Selector::parse(namespace, &asked.label_selector, &asked.field_selector)?;
    if is_set(&asked.watch) {
        return watch::<O>(context, namespace, selector, asked);
    }
    let listed = context.store.list::<O>(namespace);
    let items: Vec<&O> =
        listed.items.iter().map(AsRef::as_ref).filter(|object| selector.matches(*object)).collect();
    let answer = json!({
        "apiVersion": O::api_version(&()),
        "kind": format!("{}List", O::kind(&())),
        "metadata": { "resourceVersion": listed.resource_version.to_string() },
        "items": items,
    });
    Ok(Json(answer).into_response())
}

fn watch<O: Object>(
    context: &Context,
    namespace: Option<&str>,
    selector: Selector,
    asked: &ListQuery,
) -> Result<Response, Failure> {
    if is_set(&asked.send_initial_events) {
        return Err(Failure::bad_request(
            "sendInitialEvents is not served: list, then watch from the list's resourceVersion",
        ));
    }
    let (first, since) = match asked.resource_version.as_str() {
        "" | "0" => {
            let listed = context.store.list::<O>(namespace);
            let first = listed
                .items
                .iter()
                .filter(|object| selector.matches(object.as_ref()))
                .map(|object| watching::added(object.as_ref()));
            (first.collect(), listed.resource_version)
        }
        version => (Vec::new(), parse_version(version)?),
    };
    let watch = context.store.watch::<O>(since).map_err(Failure::from);
    let asked = Asked {
        selector,
        bookmarks: is_set(&asked.allow_watch_bookmarks),
        timeout: asked.timeout_seconds.filter(|seconds| *seconds > 0).map(std::time::Duration::from_secs),
    };
    Ok(watching::answer(first, watch, asked, context.shutdown.clone()))
}

fn parse_version(text: &str) -> Result<ResourceVersion, Failure> {
    ResourceVersion::parse(text)
        .ok_or_else(|| Failure::bad_request(&format!("invalid resource version {text:?}")))
}

async fn read<O: Object>(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Failure> {
    Ok(Json(context.store.get::<O>(&namespace, &name)?.as_ref()).into_response())
}

async fn create(
    State(context): State<Context>,
    Path(namespace): Path<String>,
    asked: Result<Query<WriteQuery>, QueryRejection>,
    request_body: Body,
) -> Result<Response, Failure> {
    query(asked)?.check()?;
    let object = patch::yaml(&body::object(request_body).await?)?;
    store_new(&context, &namespace, None, object).await
}

async fn store_new(
    context: &Context,
    namespace: &str,
    name: Option<&str>,
    object: Value,
) -> Result<Response, Failure> {
    let mut function = reading::function(namespace, name, object)?;
    // A status is what we observe, not what a client says.
    function.status = None;
    let created = context.store.create(function, Timestamp::now()).await?;
    Ok((StatusCode::CREATED, Json(created.as_ref())).into_response())
}

async fn update(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    asked: Result<Query<WriteQuery>, QueryRejection>,
    request_body: Body,
) -> Result<Response, Failure> {
    query(asked)?.check()?;
    let object = patch::yaml(&body::object(request_body).await?)?;
    let function = reading::function(&namespace, Some(&name), object)?;
    require_version(&function)?;
    Ok(Json(context.store.update(function).await?.as_ref()).into_response())
}

/// As for every custom resource: who replaces an object says which one was seen.
fn require_version(function: &Function) -> Result<(), Failure> {
    if function.resource_version().is_some_and(|version| !version.is_empty()) {
        return Ok(());
    }
    let cause = ("metadata.resourceVersion".to_owned(), "must be specified for an update".to_owned());
    Err(Failure::invalid("Function", "functions", &function.name_any(), vec![cause]))
}

async fn patch(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    asked: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Response, Failure> {
    let asked = query(asked)?;
    asked.check()?;
    let form = Form::of(&headers)?;
    if form == Form::Apply && asked.field_manager.is_empty() {
        return Err(Failure::bad_request(
            "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
        ));
    }
    let change = form.read(&body::object(request_body).await?)?;
    for _ in 0..PATCH_TRIES {
        let current = match context.store.get::<Function>(&namespace, &name) {
            Err(store::Error::NotFound { .. }) if form == Form::Apply => {
                match store_new(&context, &namespace, Some(&name), change.clone()).await {
                    // Somebody was faster: now it is a change.
                    Err(failure) if failure.code() == StatusCode::CONFLICT => continue,
                    answer => return answer,
                }
            }
            found => found?,
        };
        let before = to_json(current.as_ref())?;
        let after = form.apply(&before, &change)?;
        let own_version = after["metadata"]["resourceVersion"] != before["metadata"]["resourceVersion"];
        if form == Form::Apply {
            // Also what the applied object says beside its spec must be right.
            reading::function(&namespace, Some(&name), change.clone())?;
        }
        let function = reading::function(&namespace, Some(&name), after)?;
        match context.store.update(function).await {
            Err(store::Error::Conflict { .. }) if !own_version => {}
            answer => return Ok(Json(answer?.as_ref()).into_response()),
        }
    }
    Err(Failure::conflict("functions", &name))
}

async fn update_status(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    asked: Result<Query<WriteQuery>, QueryRejection>,
    request_body: Body,
) -> Result<Response, Failure> {
    query(asked)?.check()?;
    let object = patch::yaml(&body::object(request_body).await?)?;
    store_status(&context, reading::with_status(&namespace, &name, object)?).await
}

async fn patch_status(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    asked: Result<Query<WriteQuery>, QueryRejection>,
    headers: HeaderMap,
    request_body: Body,
) -> Result<Response, Failure> {
    query(asked)?.check()?;
    let form = Form::of(&headers)?;
    if form == Form::Apply {
        return Err(Failure::unsupported_media_type(
            "a status is changed by update, merge patch or JSON patch",
        ));
    }
    let change = form.read(&body::object(request_body).await?)?;
    let current = context.store.get::<Function>(&namespace, &name)?;
    let after = form.apply(&to_json(current.as_ref())?, &change)?;
    store_status(&context, reading::with_status(&namespace, &name, after)?).await
}

async fn store_status(context: &Context, function: Function) -> Result<Response, Failure> {
    Ok(Json(context.store.update_status(function).await?.as_ref()).into_response())
}

fn to_json(function: &Function) -> Result<Value, Failure> {
    serde_json::to_value(function).map_err(|error| {
        tracing::error!(%error, "a stored function has no JSON form");
        Failure::internal("reading the function")
    })
}

/// The part of `DeleteOptions` that is served; grace periods and propagation have no meaning here (what a Function owns goes with it).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DeleteOptions {
    preconditions: DeletePreconditions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeletePreconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

async fn delete(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    asked: Result<Query<WriteQuery>, QueryRejection>,
    request_body: Body,
) -> Result<Response, Failure> {
    query(asked)?.check()?;
    let content = body::object(request_body).await?;
    let options: DeleteOptions = if content.is_empty() {
        DeleteOptions::default()
    } else {
        serde_json::from_slice(&content)
            .map_err(|error| Failure::bad_request(&format!("the delete options cannot be read: {error}")))?
    };
    let DeletePreconditions { uid, resource_version } = options.preconditions;
    let preconditions = Preconditions { uid, resource_version };
    let last = context.store.delete::<Function>(&namespace, &name, preconditions, Timestamp::now()).await?;
    if !last.finalizers().is_empty() {
        return Ok(Json(last.as_ref()).into_response());
    }
    let details =
        json!({ "name": name, "group": "hearth.dev", "kind": Function::plural(&()), "uid": last.uid() });
    let mut answer = serde_json::to_value(Status::success()).unwrap_or_default();
    answer["kind"] = json!("Status");
    answer["apiVersion"] = json!("v1");
    answer["details"] = details;
    Ok(Json(answer).into_response())
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        // The store names objects with their namespace; clients expect the bare name.
        let bare = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        match error {
            store::Error::NotFound { kind, name } => Self::not_found(kind.plural(), &bare(&name)),
            store::Error::AlreadyExists { kind, name } => Self::already_exists(kind.plural(), &bare(&name)),
            store::Error::Conflict { kind, name, .. } => Self::conflict(kind.plural(), &bare(&name)),
            store::Error::Invalid { kind, detail } => Self::invalid(
                &kind.to_string(),
                kind.plural(),
                "",
                vec![("metadata".to_owned(), detail.to_owned())],
            ),
            store::Error::Expired { since, oldest } => Self::expired(&since, &oldest),
            store::Error::Closed => Self::unavailable("the server is stopping"),
            other @ (store::Error::InUse { .. }
            | store::Error::TooNew { .. }
            | store::Error::Corrupt { .. }
            | store::Error::Io { .. }) => {
                tracing::error!(error = &other as &dyn std::error::Error, "management API: the store");
                Self::internal(&format!("the store failed: {}", crate::telemetry::chain(&other)))
            }
        }
    }
}
