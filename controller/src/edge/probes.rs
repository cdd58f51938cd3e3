//! The management port of a gateway: `/healthz`, `/readyz` and `/metrics`, plain HTTP.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics::Registry;

/// What is answered from.
#[derive(Debug, Clone)]
pub(super) struct Probing {
    /// Whether the table was read.
    pub(super) ready: watch::Receiver<bool>,
    /// Whether a leader was met since the start, or was waited for long enough.
    pub(super) met: watch::Receiver<bool>,
    pub(super) stopping: CancellationToken,
    pub(super) registry: Registry,
}

impl Probing {
    /// The answer to a path. A gateway that has lost its leader is ready: it serves by what it has. One that has met none since its start knows
    /// no instance, and an older one may.
    pub(super) fn answer(&self, path: &str) -> Response {
        match path {
            "/healthz" | "/livez" => "ok\n".into_response(),
            "/readyz" if self.stopping.is_cancelled() => not_ready("stopping\n"),
            "/readyz" if !*self.ready.borrow() => not_ready("the functions are not read yet\n"),
            "/readyz" if !*self.met.borrow() => not_ready("no controller that works was met yet\n"),
            "/readyz" => "ok\n".into_response(),
            "/metrics" => {
                let form = [(header::CONTENT_TYPE, "text/plain; version=0.0.4")];
                (form, self.registry.render()).into_response()
            }
            _ => (StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics\n").into_response(),
        }
    }
}

/// Ends when there has been a connection to a leader, or at the latest after `patience`.
pub(super) async fn leader_met(mut connected: watch::Receiver<bool>, patience: Duration) {
    // A link that has ended ends the process.
    match timeout(patience, connected.wait_for(|connected| *connected)).await {
        Ok(_) => {}
        Err(_) => tracing::warn!(
            "no controller that works was met: ready all the same, and what needs an instance waits for one"
        ),
    }
}

fn not_ready(why: &'static str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}
