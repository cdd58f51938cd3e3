//! Probes by plain HTTP, and nothing else. What the management port of a controller answers that does not lead: that it is well, and that
//! others work.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
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

/// Answers probes until it is dropped, which gives the address free.
///
/// # Errors
/// When the address is taken.
pub async fn standby(listen: SocketAddr) -> Result<impl Future<Output = ()> + Send, super::Error> {
    let listener = TcpListener::bind(listen).await;
    let listener = listener.map_err(|source| super::Error::Listen { address: listen, source })?;
    Ok(answer_probes(listener, answer))
}

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
        tracing::debug!(%error, "standby: connection");
    }
}

fn answer(path: &str) -> Response {
    match path {
        "/healthz" | "/readyz" | "/livez" => "ok: standing by\n".into_response(),
        "/metrics" => "".into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "another controller leads\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_standby_is_well_and_sends_nobody_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(answer_probes(listener, answer));
        for (path, expected) in [("/healthz", "HTTP/1.1 200"), ("/bundles/x", "HTTP/1.1 503")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.starts_with(expected), "{text}");
        }
    }
}
