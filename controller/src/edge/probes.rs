//! The management port of a gateway: `/healthz`, `/readyz` and `/metrics`, plain HTTP.

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Registry;

/// What is answered from.
#[derive(Debug, Clone)]
pub(super) struct Probing {
    /// Whether the table was read.
    pub(super) ready: watch::Receiver<bool>,
    pub(super) stopping: CancellationToken,
    pub(super) registry: Registry,
}

impl Probing {
    /// The answer to a path. A gateway without a leader is ready: it serves by what it has, and so would no other.
    pub(super) fn answer(&self, path: &str) -> Response {
        match path {
            "/healthz" | "/livez" => "ok\n".into_response(),
            "/readyz" if self.stopping.is_cancelled() => not_ready("stopping\n"),
            "/readyz" if !*self.ready.borrow() => not_ready("the functions are not read yet\n"),
            "/readyz" => "ok\n".into_response(),
            "/metrics" => {
                let form = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
                (form, self.registry.render()).into_response()
            }
            _ => (StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics\n").into_response(),
        }
    }
}

fn not_ready(why: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}
