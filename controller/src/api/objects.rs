//! Functions and Revisions as resources: their routes, and reading them: get, list, watch.

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use hearth_function::{Function, Revision};

use super::extract::{Params, Place};
use super::failure::Failure;
use super::render::{Rendering, View};
use super::selector::Selector;
use super::watching::{self, Asked};
use super::{Context, kinds, scale, status, writing};
use crate::store::{self, Object, ResourceVersion};

/// The routes below `/apis/hearth.dev/v1`.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/functions", get(list_all::<Function>))
        .route("/revisions", get(list_all::<Revision>))
        .route(
            "/namespaces/{namespace}/functions",
            get(list::<Function>).post(writing::create).delete(writing::delete_several),
        )
        .route("/namespaces/{namespace}/revisions", get(list::<Revision>))
        .route(
            "/namespaces/{namespace}/functions/{name}",
            get(read::<Function>).put(writing::update).patch(writing::patch).delete(writing::delete),
        )
        .route(
            "/namespaces/{namespace}/functions/{name}/status",
            get(read::<Function>).put(status::update).patch(status::patch),
        )
        .route(
            "/namespaces/{namespace}/functions/{name}/scale",
            get(scale::read).put(scale::update).patch(scale::patch),
        )
        .route(
            "/namespaces/{namespace}/revisions/{name}",
            get(read::<Revision>)
                .put(revisions_are_ours)
                .patch(revisions_are_ours)
                .delete(revisions_are_ours),
        )
}

async fn revisions_are_ours() -> Failure {
    Failure::not_allowed(
        "Revisions are made and taken away by Hearth: change or delete the Function that they belong to",
    )
}

/// What a list or a watch can be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListQuery {
    watch: String,
    resource_version: String,
    resource_version_match: String,
    timeout_seconds: Option<u64>,
    allow_watch_bookmarks: String,
    send_initial_events: String,
    pub(super) field_selector: String,
    pub(super) label_selector: String,
    limit: Option<usize>,
    #[serde(rename = "continue")]
    continue_: String,
    include_object: String,
}

/// What a get can be asked for.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct GetQuery {
    include_object: String,
}

pub(super) fn is_set(flag: &str) -> bool {
    matches!(flag, "true" | "1" | "True")
}

impl ListQuery {
    /// Whether it asks for changes.
    pub(super) fn is_watch(&self) -> bool {
        is_set(&self.watch)
    }

    /// For how long.
    pub(super) fn timeout(&self) -> Option<std::time::Duration> {
        self.timeout_seconds.filter(|seconds| *seconds > 0).map(std::time::Duration::from_secs)
    }

    /// In which form.
    pub(super) fn view(&self, headers: &HeaderMap) -> Result<View, Failure> {
        View::of(headers, &self.include_object)
    }

    /// The version that a watch begins after; empty without one.
    pub(super) fn since(&self) -> &str {
        if self.resource_version == "0" { "" } else { &self.resource_version }
    }

    /// With what a watch begins.
    ///
    /// # Errors
    /// 400 when it is to begin as a list, and not with the newest.
    pub(super) fn beginning(&self) -> Result<Beginning, Failure> {
        if is_set(&self.send_initial_events) {
            if self.resource_version_match != "NotOlderThan" {
                return Err(Failure::bad_request(
                    "sendInitialEvents needs resourceVersionMatch=NotOlderThan",
                ));
            }
            return Ok(Beginning::Streamed);
        }
        let is_plain = self.since().is_empty() && self.send_initial_events.is_empty();
        Ok(if is_plain { Beginning::There } else { Beginning::Changes })
    }
}

/// With what a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beginning {
    /// With what is there, and a bookmark behind it.
    Streamed,
    /// With what is there.
    There,
    /// With what changes after a version; without one, from now on.
    Changes,
}

impl Beginning {
    /// Whether what is there comes first.
    pub(super) fn is_with_all(self) -> bool {
        matches!(self, Self::Streamed | Self::There)
    }
}

async fn list_all<O: Object>(
    State(context): State<Context>,
    Params(asked): Params<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    list_or_watch::<O>(&context, None, &asked, &headers)
}

async fn list<O: Object>(
    State(context): State<Context>,
    Path(namespace): Path<String>,
    Params(asked): Params<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    list_or_watch::<O>(&context, Some(&namespace), &asked, &headers)
}

fn list_or_watch<O: Object>(
    context: &Context,
    namespace: Option<&str>,
    asked: &ListQuery,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let facts = kinds::of::<O>();
    let selector =
        Selector::parse(namespace, &asked.label_selector, &asked.field_selector, &facts.selectable)?;
    let view = asked.view(headers)?;
    if asked.is_watch() {
        return watch::<O>(context, namespace, selector, view, asked);
    }
    let listed = context.store.list::<O>(namespace);
    fresh_enough(asked, listed.resource_version)?;
    let wanted: Vec<&O> =
        listed.items.iter().map(AsRef::as_ref).filter(|object| selector.matches(*object)).collect();
    let page = Page::of(asked, listed.resource_version)?.cut(&wanted, asked.limit);
    let items = page.items.into_iter().map(to_json).collect::<Result<Vec<_>, _>>()?;
    let rendering = Rendering { view, columns: &facts.columns, now: Timestamp::now() };
    let kind = format!("{}List", O::kind(&()));
    Ok(Json(rendering.list(&O::api_version(&()), &kind, page.metadata, items)).into_response())
}

/// A list is always of now. That is as new as any version that there was; only another version exactly cannot be had.
fn fresh_enough(asked: &ListQuery, now: ResourceVersion) -> Result<(), Failure> {
    if asked.resource_version.is_empty() {
        return Ok(());
    }
    let wanted = parse_version(&asked.resource_version)?;
    if asked.resource_version_match == "Exact" && wanted != now {
        return Err(Failure::expired(&wanted, &now));
    }
    if wanted > now { Err(Failure::expired(&wanted, &now)) } else { Ok(()) }
}

/// Where a page of a list begins.
#[derive(Debug, Serialize, Deserialize)]
struct Page {
    /// The version of the first page, for all of them: who watches from it misses nothing that happened meanwhile.
    version: String,
    /// Namespace and name of the last object of the page before; empty on the first.
    after: (String, String),
}

struct Cut<'a, O> {
    items: Vec<&'a O>,
    metadata: Value,
}

impl Page {
    fn of(asked: &ListQuery, now: ResourceVersion) -> Result<Self, Failure> {
        if asked.continue_.is_empty() {
            return Ok(Self { version: now.to_string(), after: <_>::default() });
        }
        URL_SAFE_NO_PAD
            .decode(&asked.continue_)
            .ok()
            .and_then(|token| serde_json::from_slice(&token).ok())
            .ok_or_else(|| Failure::bad_request("the continue token is none of this server's"))
    }

    /// The page out of the objects, which are sorted by namespace and name.
    fn cut<'a, O: Object>(self, objects: &[&'a O], limit: Option<usize>) -> Cut<'a, O> {
        let key = |object: &O| {
            let meta = object.meta();
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        let start = objects.partition_point(|object| key(object) <= self.after);
        let rest = objects.get(start..).unwrap_or_default();
        let count = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX).min(rest.len());
        let (items, left) = rest.split_at(count);
        let mut metadata = json!({ "resourceVersion": self.version });
        if let (Some(last), false) = (items.last(), left.is_empty()) {
            let next = Self { version: self.version, after: key(last) };
            let token = serde_json::to_vec(&next).unwrap_or_default();
            metadata["continue"] = json!(URL_SAFE_NO_PAD.encode(token));
            metadata["remainingItemCount"] = json!(left.len());
        }
        Cut { items: items.to_vec(), metadata }
    }
}

fn watch<O: Object>(
    context: &Context,
    namespace: Option<&str>,
    selector: Selector,
    view: View,
    asked: &ListQuery,
) -> Result<Response, Failure> {
    let since = asked.since();
    let beginning = asked.beginning()?;
    let (first, from) = if beginning.is_with_all() {
        let listed = context.store.list::<O>(namespace);
        // Only a list that is streamed can name one.
        if !since.is_empty() && parse_version(since)? > listed.resource_version {
            return Err(Failure::expired(&since, &listed.resource_version));
        }
        let there = listed.items.into_iter().filter(|object| selector.matches(object.as_ref())).collect();
        (there, listed.resource_version)
    } else if since.is_empty() {
        (Vec::new(), context.store.resource_version())
    } else {
        (Vec::new(), parse_version(since)?)
    };
    let watch = context.store.watch::<O>(from).map_err(Failure::from);
    let asked = Asked {
        selector,
        view,
        bookmarks: is_set(&asked.allow_watch_bookmarks),
        initial_end: beginning == Beginning::Streamed,
        timeout: asked.timeout(),
    };
    Ok(watching::answer(first, watch, asked, context.shutdown.clone()))
}

pub(super) fn parse_version(text: &str) -> Result<ResourceVersion, Failure> {
    ResourceVersion::parse(text)
        .ok_or_else(|| Failure::bad_request(&format!("invalid resource version {text:?}")))
}

async fn read<O: Object>(
    State(context): State<Context>,
    Place { namespace, name }: Place,
    Params(asked): Params<GetQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let view = View::of(&headers, &asked.include_object)?;
    answer(view, StatusCode::OK, context.store.get::<O>(&namespace, &name)?.as_ref())
}

/// One object, in the form that was asked for.
pub(super) fn answer<O: Object>(view: View, code: StatusCode, object: &O) -> Result<Response, Failure> {
    let rendering = Rendering { view, columns: &kinds::of::<O>().columns, now: Timestamp::now() };
    Ok((code, Json(rendering.one(to_json(object)?))).into_response())
}

pub(super) fn to_json<O: Object>(object: &O) -> Result<Value, Failure> {
    store::to_json(object).map_err(|error| {
        tracing::error!(%error, "a stored object has no JSON form");
        Failure::internal("reading the object")
    })
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        // The store names objects with their namespace; clients expect the bare name.
        let bare = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
        match error {
            store::Error::NotFound { kind, name } => Self::not_found(kind.plural(), &bare(&name)),
            store::Error::AlreadyExists { kind, name } => Self::already_exists(kind.plural(), &bare(&name)),
            store::Error::Conflict { kind, name, .. } => Self::conflict(kind.plural(), &bare(&name)),
            store::Error::Invalid { kind, detail } => {
                Self::invalid(&kind.to_string(), "", vec![("metadata".to_owned(), detail.to_owned())])
            }
            // The list is written as Go writes it: clients show the text as it is.
            store::Error::Deleting { kind, name, finalizers } => Self::forbidden_field(
                &kind.to_string(),
                &bare(&name),
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    finalizers.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ")
                ),
            ),
            store::Error::Expired { since, oldest } => Self::expired(&since, &oldest),
            store::Error::Closed => Self::unavailable("the server is stopping"),
            other @ (store::Error::InUse { .. }
            | store::Error::TooNew { .. }
            | store::Error::Corrupt { .. }
            | store::Error::NoRecords
            | store::Error::Refused { .. }
            | store::Error::Outdated { .. }
            | store::Error::Io { .. }) => {
                tracing::error!(error = &other as &dyn std::error::Error, "management API: the store");
                Self::internal(&format!("the store failed: {}", crate::telemetry::chain(&other)))
            }
        }
    }
}
