//! Connections: accepting them, telling TLS from plain HTTP by the first byte, and ending them in good order.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::plain;
use super::ports::Parts;

/// Open connections; clients beyond it wait to be accepted. A handful of people and their watches stay far below.
const MAX_CONNECTIONS: usize = 512;

/// For the first byte, the TLS handshake and each request head. A client that is slower is gone or hostile.
const PATIENCE: Duration = Duration::from_secs(30);

/// After a failed `accept` (no descriptors left): time for some to be given back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// First byte of every TLS handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// HTTP/2 streams at once on one connection: each watch holds one.
const MAX_STREAMS: u32 = 128;

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) acceptor: TlsAcceptor,
    pub(super) router: Router,
    pub(super) guard: Guard,
    pub(super) parts: Arc<dyn Parts>,
    pub(super) shutdown: CancellationToken,
}

impl Server {
    /// Serves until the shutdown token is cancelled; then ends idle connections at once and gives running requests `grace`.
    pub(super) async fn run(self, listener: TcpListener, grace: Duration) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                // Dropped between permit and connection nothing is lost: `accept` is cancel-safe.
                accepted = accept(&listener, &permits) => accepted,
                Some(ended) = connections.join_next() => {
                    report(ended);
                    continue;
                }
            };
            match accepted {
                Ok((stream, permit)) => {
                    let server = self.clone();
                    connections.spawn(async move {
                        server.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "management API: cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        let drained = tokio::time::timeout(grace, async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        });
        if drained.await.is_err() {
            tracing::info!(
                connections = connections.len(),
                "management API: cut connections that did not end in time"
            );
            connections.shutdown().await;
        }
    }

    async fn connection(self, stream: TcpStream) {
        let mut first = [0; 1];
        // Whoever sends nothing, or breaks off, has nothing to be told.
        let Ok(Ok(1)) = tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await else { return };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "management API: no TCP_NODELAY");
        }
        if first == [TLS_HANDSHAKE] { self.encrypted(stream).await } else { self.plain(stream).await }
    }

    async fn encrypted(self, stream: TcpStream) {
        let stream = match tokio::time::timeout(PATIENCE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%error, "management API: TLS handshake"),
            Err(_) => return,
        };
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PATIENCE)
            .max_concurrent_streams(MAX_STREAMS);
        let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router));
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(error, "management API: connection");
        }
    }

    async fn plain(self, stream: TcpStream) {
        let service = service_fn(|request: Request<Incoming>| {
            let answer = plain::answer(&self.guard, &self.parts, &request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            // One answer each: the port is not for bulk.
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = connection.await {
            tracing::debug!(%error, "management API: plain connection");
        }
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "management API: a connection's task panicked");
    }
}
