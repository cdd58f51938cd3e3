//! Probes by plain HTTP, and nothing else: what answers the management port of a process that has no management API, or none yet.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// For a request head. Probes are quick.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections at once; probes need two.
const CONNECTIONS: usize = 16;

/// After a failed `accept`.
const PAUSE: Duration = Duration::from_millis(50);

/// Answers requests by their path, one for each connection, for ever.
pub async fn answer_probes<A>(listener: TcpListener, answer: A)
where
    A: Fn(&str) -> Response + Clone + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => _ = connections.spawn(connection(stream, answer.clone())),
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection<A>(stream: TcpStream, answer: A)
where
    A: Fn(&str) -> Response + Send + Sync + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer(request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = serving.await {
        tracing::debug!(%error, "probes: connection");
    }
}
