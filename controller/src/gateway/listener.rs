//! A gateway thread: listeners, client connections, and their end.
//!
//! HTTP/1.1 and HTTP/2 by prior knowledge share the port. Which of them a client speaks is seen in its first bytes, which are only looked at
//! and not taken; a client that says nothing within the time for a head is closed here, one that stops in the middle of a head by hyper.

mod closing;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;

use super::config::Limits;
use super::http2;
use super::lane::{Lane, Shared};
use super::request;

/// Connections that the kernel holds for one listener while the thread is busy.
const BACKLOG: i32 = 1024;

/// What HTTP/2 begins with (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Pause before the second look at a preface that has come in part, and the longest before a later one: each is twice the one before.
const PREFACE_PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(250));

/// Time for the rest of a preface that has begun: it is 24 bytes, which clients send at once.
const PREFACE_TIME: Duration = Duration::from_secs(1);

/// Pause after an accept that failed (no descriptors left): the backlog holds those that come.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Once the gateway drains, how long a connection on which nothing runs may begin a last request, which may be on its way: so long after its
/// client is accepted, too. Round the world and back.
const LAST_REQUEST: Duration = Duration::from_millis(250);

/// Silence after which the kernel asks whether a client is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A socket that listens; each thread has one for each address. With `free_bind` the address need not exist yet.
pub(super) fn listen(address: SocketAddr, free_bind: bool) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if free_bind && address.is_ipv4() {
        socket.set_freebind_v4(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A connection that has no place yet.
type Accepted = (TcpStream, SocketAddr);

/// Accepts until the gateway drains, then closes the listener; has ended when every connection that was made has a place.
pub(super) async fn accept(lane: Rc<Lane>, listener: TcpListener) {
    let shared = &lane.shared;
    let without_place = loop {
        // Both arms are cancel-safe: an accept that is dropped has taken nothing.
        let accepted = tokio::select! {
            () = shared.drain.cancelled() => break None,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        // With all connections taken this one waits, and the others in the kernel.
        let place = tokio::select! {
            () = shared.drain.cancelled() => break Some(accepted),
            place = place(shared) => place,
        };
        let Some(place) = place else { return };
        admit(&lane, accepted, place);
    };
    closing::close(&lane, listener, without_place).await;
}

/// Waits for a place; there is none when the gateway is gone.
///
/// # Cancel safety
/// Who is dropped has taken none, and is no longer in the queue.
async fn place(shared: &Arc<Shared>) -> Option<Place> {
    let permit = Arc::clone(&shared.connections).acquire_owned().await.ok()?;
    Some(Place::take(shared, permit))
}

fn admit(lane: &Rc<Lane>, (stream, peer): Accepted, place: Place) {
    let owner = Rc::clone(lane);
    lane.tasks.spawn_local(async move { serve(&owner, stream, peer, place).await });
}

/// A connection's place among all that may be open; it is free again when this is dropped.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(shared: &Arc<Shared>, permit: OwnedSemaphorePermit) -> Self {
        shared.stats.accepted.inc();
        shared.stats.connections.inc();
        Self { shared: Arc::clone(shared), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.stats.connections.dec();
    }
}

/// A client's connection, as its requests see it. Whatever keeps it keeps the connection's place: its requests, and the tunnel that it may
/// become.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) lane: Rc<Lane>,
    /// Its address, as text and as a header's value; and with its port.
    pub(super) ip: String,
    pub(super) ip_value: HeaderValue,
    pub(super) peer: String,
    _place: Place,
}

impl Client {
    fn new(lane: &Rc<Lane>, peer: SocketAddr, place: Place) -> Rc<Self> {
        let ip = peer.ip().to_canonical().to_string();
        let ip_value = HeaderValue::from_str(&ip).expect("an address is a header's value");
        Rc::new(Self { lane: Rc::clone(lane), ip, ip_value, peer: peer.to_string(), _place: place })
    }
}

async fn serve(lane: &Rc<Lane>, stream: TcpStream, peer: SocketAddr, place: Place) {
    let shared = &lane.shared;
    let limits = &shared.config.limits;
    prepare(&stream, limits);
    let mut last_request = std::pin::pin!(async {
        shared.drain.cancelled().await;
        tokio::time::sleep(LAST_REQUEST).await;
    });
    let begins = tokio::select! {
        // What has come counts, however late it is seen.
        biased;
        begins = tokio::time::timeout(limits.head_time, begins_as_http2(&stream)) => begins,
        () = last_request.as_mut() => return,
    };
    let Ok(Ok(is_http2)) = begins else { return };
    let client = Client::new(lane, peer, place);
    if is_http2 {
        return http2::serve(lane, stream, client).await;
    }
    let service =
        service_fn(move |request: http::Request<Incoming>| request::serve(Rc::clone(&client), request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(64 * 1024))
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // First what the client has sent: a request that is there is answered, though its connection looks idle.
        biased;
        // What goes wrong on a client's connection is the client's affair; hyper has answered what can be answered.
        _ = connection.as_mut() => return,
        () = shared.cut.cancelled() => return,
        // A request that comes until then is answered, with the word that it was the last.
        () = last_request.as_mut() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = shared.cut.cancelled() => {}
    }
}

/// Settings of a client's socket. None of them can fail on a socket that was just accepted, and without them it serves all the same.
fn prepare(stream: &TcpStream, limits: &Limits) {
    // Answers are written whole: waiting for more to send would only delay them.
    drop(stream.set_nodelay(true));
    let socket = socket2::SockRef::from(stream);
    // A client that does not read its answer, or has gone without a word, is cut by the kernel.
    drop(socket.set_tcp_user_timeout(Some(limits.body_silence)));
    drop(socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(KEEPALIVE)));
}

/// Whether the first bytes are HTTP/2's preface.
async fn begins_as_http2(stream: &TcpStream) -> io::Result<bool> {
    let Some(begins) = first_bytes(stream).await? else {
        // The kernel wakes nobody for bytes that were seen before.
        let rest = async {
            let mut pause = PREFACE_PAUSES.0;
            loop {
                tokio::time::sleep(pause).await;
                if let Some(begins) = first_bytes(stream).await? {
                    return Ok(begins);
                }
                pause = (pause * 2).min(PREFACE_PAUSES.1);
            }
        };
        return tokio::time::timeout(PREFACE_TIME, rest)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    };
    Ok(begins)
}

/// Whether they are the preface; `None` while both may be.
async fn first_bytes(stream: &TcpStream) -> io::Result<Option<bool>> {
    let mut first = [0; PREFACE.len()];
    let seen = stream.peek(&mut first).await?;
    let seen = first.get(..seen).unwrap_or_default();
    if seen.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if !PREFACE.starts_with(seen) {
        return Ok(Some(false));
    }
    Ok((seen.len() == PREFACE.len()).then_some(true))
}
