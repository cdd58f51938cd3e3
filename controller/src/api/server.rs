//! Connections: accepting them, telling TLS from plain HTTP by the first byte, and ending them in good order.
//!
//! Everybody reaches the port who reaches the machine, in a cluster functions' code among them. Who has not shown the token is a stranger: a
//! connection of his has its time, and a newcomer takes the place of the one that stays longest. So probes always find a place, and who has
//! the token is in nobody's way.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::plain;
use super::ports::Parts;
use super::probes::answer_one;
use crate::door::{Passer, Passing, Place, Places};
use crate::telemetry::Seldom;

/// Connections of clients that have the token; one beyond it is a stranger's. A handful of people and their watches stay far below.
const MAX_KNOWN: usize = 512;

/// Connections of strangers.
const MAX_STRANGERS: usize = 512;

/// Those of one address. In a cluster all clients come from that of its API server, and are strangers for the time of a handshake.
const MAX_STRANGERS_OF_ONE: usize = 128;

/// For the first byte, the TLS handshake and each request head; and a stranger's connection, whatever comes by it. A client that is slower is
/// gone or hostile.
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
        let known = Places::new(MAX_KNOWN, MAX_KNOWN);
        let mut strangers = Passing::new(MAX_STRANGERS, MAX_STRANGERS_OF_ONE);
        let said = Seldom::new();
        let mut connections = JoinSet::new();
        loop {
            // All are cancel-safe.
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
                Some(ended) = connections.join_next() => {
                    report(ended);
                    continue;
                }
            };
            match accepted {
                Ok((stream, peer)) => {
                    let client = Arc::new(Client::new(known.clone()));
                    let task = connections.spawn(self.clone().connection(stream, Arc::clone(&client)));
                    let newcomer = Newcomer { task, client };
                    if let Some(longest) = strangers.welcome(peer.ip().to_canonical(), newcomer) {
                        if said.is_news(()) {
                            tracing::warn!(%peer, "management API: too many connections without the token: the longest was closed");
                        }
                        longest.task.abort();
                    }
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

    async fn connection(self, stream: TcpStream, client: Arc<Client>) {
        let mut first = [0; 1];
        // Whoever sends nothing, or breaks off, has nothing to be told.
        let Ok(Ok(1)) = tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await else { return };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "management API: no TCP_NODELAY");
        }
        if first == [TLS_HANDSHAKE] { self.encrypted(stream, client).await } else { self.plain(stream).await }
    }

    async fn encrypted(self, stream: TcpStream, client: Arc<Client>) {
        match tokio::time::timeout(PATIENCE, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => speak(stream, self.router, client, &self.shutdown).await,
            Ok(Err(error)) => tracing::debug!(%error, "management API: TLS handshake"),
            Err(_) => {}
        }
    }

    async fn plain(self, stream: TcpStream) {
        let answer = |request: &Request<Incoming>| plain::answer(&self.guard, &self.parts, request);
        // One answer each: the port is not for bulk.
        answer_one(stream, answer).await;
    }
}

/// Serves HTTP/1.1 or HTTP/2, as long as the client is known or its time as a stranger lasts.
async fn speak<S>(stream: S, router: Router, client: Arc<Client>, shutdown: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(PATIENCE).max_concurrent_streams(MAX_STREAMS);
    let (routes, whose) = (TowerToHyperService::new(router), Arc::clone(&client));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&whose));
        routes.call(request)
    });
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = client.is_stranger_for(PATIENCE) => {
            // Requests on their way are answered; who shows the token by one of them may take his time.
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = client.is_stranger_for(PATIENCE) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "management API: connection");
    }
}

/// Whose a connection is.
pub(super) struct Client {
    all: Places<()>,
    place: OnceLock<Place<()>>,
}

impl Client {
    fn new(all: Places<()>) -> Self {
        Self { all, place: OnceLock::new() }
    }

    /// A request of it had the token.
    pub(super) fn is_known_now(&self) {
        if !self.is_known()
            && let Ok(place) = self.all.take(())
        {
            // Another request of the connection may have been quicker; one place is enough.
            let _second = self.place.set(place).is_err();
        }
    }

    fn is_known(&self) -> bool {
        self.place.get().is_some()
    }

    /// Ends when so long has passed and it is a stranger's still.
    async fn is_stranger_for(&self, limit: Duration) {
        tokio::time::sleep(limit).await;
        if self.is_known() {
            std::future::pending().await
        }
    }
}

/// A stranger's connection.
struct Newcomer {
    task: AbortHandle,
    client: Arc<Client>,
}

impl Passer for Newcomer {
    fn has_left(&self) -> bool {
        self.task.is_finished() || self.client.is_known()
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "management API: a connection's task panicked");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Empty};
    use hyper::client::conn::http2;

    use super::*;

    /// How long a connection by HTTP/2 lives whose client pings, asks once and says nothing more.
    async fn lifetime(known: bool) -> Duration {
        let client = Arc::new(Client::new(Places::new(1, 1)));
        let router = Router::new().route(
            "/",
            get(move |request: axum::extract::Request| async move {
                if known {
                    request.extensions().get::<Arc<Client>>().unwrap().is_known_now();
                }
            }),
        );
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { speak(theirs, router, client, &CancellationToken::new()).await });
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(Duration::from_secs(1))
            .keep_alive_while_idle(true)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(ours))
            .await
            .unwrap();
        let began = tokio::time::Instant::now();
        let mut pinging = JoinSet::new();
        pinging.spawn(connection);
        let asked = sender.send_request(Request::get("http://localhost/").body(Empty::new()).unwrap());
        asked.await.unwrap().into_body().collect().await.unwrap();
        let _lives = tokio::time::timeout(PATIENCE * 20, pinging.join_next()).await.is_err();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn pings_keep_a_connection_only_of_those_who_have_shown_the_token() {
        let stranger = lifetime(false).await;
        assert!(stranger >= PATIENCE && stranger <= PATIENCE * 2, "{stranger:?}");
        assert_eq!(lifetime(true).await, PATIENCE * 20);
    }
}
