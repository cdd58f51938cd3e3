//! What stands beside the resources: invocation, logs, live instances, recent activity, bundles, the machine's capabilities.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderName, StatusCode, header};
use serde::Deserialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use hearth_function::{Digest, Function, FunctionId};

use super::failure::Failure;
use super::ports::{Instance, LogQuery};
use super::{Context, body};

/// Header on the answer of an invocation that came from the gateway or the function, not from the management API itself.
pub const ANSWERED_BY_FUNCTION: &str = "x-hearth-answered-by";

/// A header of the management request with this prefix goes to the function without it; all others stay here (the token is one of them).
pub const FORWARDED_HEADER: &str = "x-hearth-forward-";

/// Bundles that are received at once; more wait. Each may be large, and unpacking is work for the disk.
const UPLOADS: usize = 4;

/// The routes below `/apis/hearth.dev/v1`.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/instances", get(all_instances))
        .route(
            "/ladder",
            get(|State(context): State<Context>| async move { Json(context.parts.ladder().await) }),
        )
        .route("/namespaces/{namespace}/instances", get(instances))
        .route("/namespaces/{namespace}/requests/{id}", get(functions_of_request))
        .route("/namespaces/{namespace}/functions/{name}/activity", get(activity))
        .route("/namespaces/{namespace}/functions/{name}/logs", get(logs))
        .route("/namespaces/{namespace}/functions/{name}/invoke", any(invoke))
        .route("/namespaces/{namespace}/functions/{name}/invoke/", any(invoke))
        .route("/namespaces/{namespace}/functions/{name}/invoke/{*path}", any(invoke))
}

/// The routes at the root.
pub(super) fn root_routes() -> Router<Context> {
    Router::new()
        .route(
            "/capabilities",
            get(|State(context): State<Context>| async move { Json(context.parts.capabilities().await) }),
        )
        .route("/bundles/{digest}", get(bundle).put(put_bundle))
        .merge(super::images::routes())
}

/// The Function of a path, which must be there.
fn existing(context: &Context, namespace: &str, name: &str) -> Result<FunctionId, Failure> {
    context.store.get::<Function>(namespace, name)?;
    FunctionId::parse(&format!("{namespace}/{name}")).map_err(|_| Failure::not_found("functions", name))
}

async fn all_instances(State(context): State<Context>) -> Response {
    list_instances(context.parts.instances().await)
}

async fn instances(State(context): State<Context>, Path(namespace): Path<String>) -> Response {
    let mut instances = context.parts.instances().await;
    instances.retain(|instance| {
        instance.function.as_ref().is_some_and(|function| function.namespace() == namespace)
    });
    list_instances(instances)
}

fn list_instances(mut instances: Vec<Instance>) -> Response {
    instances.sort_by(|one, other| {
        (&one.function, &one.started, &one.name).cmp(&(&other.function, &other.started, &other.name))
    });
    Json(json!({ "apiVersion": "hearth.dev/v1", "kind": "InstanceList", "metadata": {}, "items": instances }))
        .into_response()
}

async fn activity(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Response, Failure> {
    let function = existing(&context, &namespace, &name)?;
    Ok(Json(context.parts.activity(&function).await).into_response())
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct LogParameters {
    follow: bool,
    request: Option<String>,
    tail: Option<usize>,
    since_seconds: Option<u64>,
    calls: bool,
}

/// A JSON object each line.
async fn logs(
    State(context): State<Context>,
    Path((namespace, name)): Path<(String, String)>,
    parameters: Result<Query<LogParameters>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(parameters) = parameters.map_err(|error| Failure::bad_request(&error.body_text()))?;
    let query = LogQuery {
        function: existing(&context, &namespace, &name)?,
        request: parameters.request,
        tail: parameters.tail,
        since: parameters
            .since_seconds
            .and_then(|seconds| SystemTime::now().checked_sub(Duration::from_secs(seconds))),
        follow: parameters.follow,
        calls: parameters.calls,
    };
    let lines = context.parts.logs(query).await?;
    let lines = lines.take_until(context.shutdown.clone().cancelled_owned()).map(|line| {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        Ok::<_, serde_json::Error>(Bytes::from(text))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Which Functions have logs of a request.
async fn functions_of_request(
    State(context): State<Context>,
    Path((namespace, request)): Path<(String, String)>,
) -> Result<Response, Failure> {
    // Logs may be there of others: of one that was just deleted.
    let there = context.store.list::<Function>(Some(&namespace)).items;
    let ids = there.iter().filter_map(|function| function.id().ok()).collect();
    let functions = context.parts.of_request(ids, &request).await?;
    let names: Vec<&str> = functions.iter().map(FunctionId::name).collect();
    Ok(Json(json!({ "request": request, "functions": names })).into_response())
}

/// Hands the request on as one for the function: method, what follows `/invoke` of the target, the forwarded headers, the body.
async fn invoke(
    State(context): State<Context>,
    Path(path): Path<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Failure> {
    let part = |wanted: &str| {
        path.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str()).unwrap_or_default()
    };
    let function = existing(&context, part("namespace"), part("name"))?;
    let (parts, body) = request.into_parts();
    let target = target(&parts.uri);
    let mut forwarded = http::Request::builder().method(parts.method).uri(target);
    for (name, value) in &parts.headers {
        if let Some(name) = name.as_str().strip_prefix(FORWARDED_HEADER) {
            forwarded = forwarded.header(name, value);
        }
    }
    let forwarded = forwarded
        .body(body)
        .map_err(|error| Failure::bad_request(&format!("this is no request: {error}")))?;
    let mut answer = context.parts.invoke(&function, forwarded).await?;
    answer
        .headers_mut()
        .insert(HeaderName::from_static(ANSWERED_BY_FUNCTION), header::HeaderValue::from_static("gateway"));
    Ok(answer)
}

/// What the function sees of `/namespaces/NS/functions/NAME/invoke/a%20b?c`: `/a%20b?c`, not decoded.
fn target(uri: &http::Uri) -> String {
    let path = uri.path().splitn(7, '/').nth(6).unwrap_or_default();
    match uri.query() {
        Some(query) => format!("/{path}?{query}"),
        None => format!("/{path}"),
    }
}

pub(super) fn parse_digest(text: &str) -> Result<String, Failure> {
    let digest: Digest = text
        .parse()
        .map_err(|_| Failure::bad_request(&format!("{text:?} is no digest: sha256: and 64 hex digits")))?;
    Ok(digest.to_string())
}

/// Whether a bundle is here: for HEAD; it is not given out.
async fn bundle(State(context): State<Context>, Path(digest): Path<String>) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    if context.parts.has_bundle(&digest).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(Failure::not_found("bundles", &digest))
    }
}

async fn put_bundle(
    State(context): State<Context>,
    Path(digest): Path<String>,
    mut content: Body,
) -> Result<Response, Failure> {
    let digest = parse_digest(&digest)?;
    if context.parts.has_bundle(&digest).await? {
        return Ok(StatusCode::OK.into_response());
    }
    let _permit =
        context.uploads.acquire().await.map_err(|_| Failure::unavailable("the server is stopping"))?;
    let file = Incoming::new(&context.config.incoming);
    receive(&mut content, &file.0, context.config.max_bundle_bytes).await?;
    context.parts.put_bundle(&digest, &file.0).await?;
    Ok(StatusCode::CREATED.into_response())
}

pub(super) async fn receive(content: &mut Body, path: &FilePath, limit_bytes: u64) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        tracing::error!(%error, path = %path.display(), "management API: receiving a file");
        Failure::inside("storing what was sent", &error)
    };
    let mut file = tokio::fs::File::create(path).await.map_err(failed)?;
    let mut length = 0;
    while let Some(data) = body::next(content).await? {
        length += data.len() as u64;
        if length > limit_bytes {
            return Err(Failure::too_large(limit_bytes));
        }
        file.write_all(&data).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)
}

/// A file that goes away with this value.
pub(super) struct Incoming(pub(super) PathBuf);

impl Incoming {
    pub(super) fn new(directory: &FilePath) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(directory.join(format!("{}.tar.gz", NEXT.fetch_add(1, Ordering::Relaxed))))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %self.0.display(), "management API: a received bundle stays behind");
        }
    }
}

/// Room for bundles on their way in.
pub(super) fn uploads() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(UPLOADS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_sees_what_follows_invoke() {
        let seen = |uri: &str| target(&uri.parse().unwrap());
        assert_eq!(seen("/namespaces/a/functions/b/invoke"), "/");
        assert_eq!(seen("/namespaces/a/functions/b/invoke/"), "/");
        assert_eq!(seen("/namespaces/a/functions/b/invoke/x%2Fy//z?q=%20&r"), "/x%2Fy//z?q=%20&r");
    }
}
