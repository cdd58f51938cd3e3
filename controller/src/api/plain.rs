//! What the management port answers without TLS and token: /healthz and /metrics, for probes and scrapers; and to everything else how to
//! connect. The two are answered over TLS as well.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{Method, Request, StatusCode, header};

use super::guard::Guard;
use super::ports::Parts;

/// Prometheus' text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers a request that came in plain HTTP.
pub(super) fn answer<B>(guard: &Guard, parts: &Arc<dyn Parts>, request: &Request<B>) -> Response {
    let known = match request.uri().path() {
        "/healthz" | "/readyz" | "/livez" => health,
        "/metrics" => metrics,
        _ => return how_to_connect(),
    };
    if let Err(refused) = guard.check_host(request) {
        return (refused.code(), format!("{}\n", refused.message())).into_response();
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "GET, HEAD")], "only GET and HEAD\n")
            .into_response();
    }
    known(parts.as_ref())
}

/// `ok` while everything runs.
pub(super) fn health(parts: &dyn Parts) -> Response {
    match parts.health() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

/// Every metric.
pub(super) fn metrics(parts: &dyn Parts) -> Response {
    ([(header::CONTENT_TYPE, METRICS_TYPE)], parts.metrics()).into_response()
}

fn how_to_connect() -> Response {
    let text = "This is Hearth's management port. It speaks HTTPS and wants a token: use the `hearth` command line, or any Kubernetes client\n\
                with the file that `hearth kubeconfig` prints. Plain HTTP is answered for GET /healthz and GET /metrics only.\n\
                Functions answer on the gateway's port (8080 unless configured otherwise).\n";
    (StatusCode::BAD_REQUEST, text).into_response()
}
