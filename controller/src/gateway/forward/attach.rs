//! A dedicated connection for each call: plain HTTP/1.1 after `attach`, kept for the next call when the answer has ended.
//!
//! The end of the answer is the end of the call. A call that is given up before (its client left, its time is over) takes its connection with
//! it, and gives its slot back when the instance has closed that: see [`super::linger`].

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hearth_dispatch::retry::{self, Accepted};
use hearth_protocol::bodies::error_type;
use hearth_protocol::{CallError, Frame as Wire, Hello, Role, decode};
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Sleep;

use super::linger::{Hold, Lent};
use super::socket::Socket;
use super::upgrade::Protocol;
pub(in crate::gateway) use super::upgrade::Tunnel;
use super::{CallFailure, What};
use crate::gateway::admission::Slot;
use crate::gateway::answer::strip_hop_by_hop;
use crate::gateway::body::{Passing, RequestBody};
use crate::gateway::config::ForwardingLimits;
use crate::gateway::errors::Code;
use crate::gateway::lane::Lane;
use crate::gateway::request::{Answer, Call, Unanswered};
use crate::gateway::revisions::{Instance, Target, now};

/// The connections of one thread to one instance that wait for a call.
#[derive(Debug)]
pub(in crate::gateway) struct Pool {
    instance: Arc<Instance>,
    limits: ForwardingLimits,
    idle: RefCell<Vec<Idle>>,
}

/// A connection: where requests go in, and what it shares with its task.
#[derive(Debug)]
struct Line {
    sender: SendRequest<Passing>,
    hold: Arc<Hold>,
}

/// Why there is no connection.
#[derive(Debug)]
enum Refused {
    /// The instance answers and runs its calls, and takes no other: it is to end, or another gateway uses its slots.
    Busy,
    /// It cannot be connected to.
    Unreached(String),
    /// It does not answer, or says what it must not.
    Lost(String),
}

/// A connection without a call.
#[derive(Debug)]
struct Idle {
    line: Line,
    /// [`Instance::pauses`] when its last call began to wait for nothing more.
    pauses: u64,
    since: Instant,
}

/// Which connections may carry a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reuse {
    /// Each: should it be closed in this moment, the call is repeated.
    Any,
    /// One that nobody closes just now: the call may run only once, or its body goes by and is not kept.
    Recent,
}

impl Pool {
    pub(in crate::gateway) fn new(instance: Arc<Instance>, limits: ForwardingLimits) -> Self {
        Self { instance, limits, idle: RefCell::default() }
    }

    /// One that is still open; the last used first, so that the others grow old and are closed by the instance.
    fn take_idle(&self, reuse: Reuse) -> Option<Line> {
        let mut idle = self.idle.borrow_mut();
        let pauses = self.instance.pauses.load(Ordering::Acquire);
        // Node's own server under the bootstrap closes none.
        let own_server = self.instance.endpoint.own_server;
        let recent = (own_server && reuse == Reuse::Recent).then_some(self.limits.recent);
        loop {
            // Those below are older still, and good for other calls.
            let last = idle.last()?;
            if recent.is_some_and(|recent| now().saturating_duration_since(last.since) >= recent) {
                return None;
            }
            let Idle { line, pauses: had, .. } = idle.pop()?;
            if (had == pauses || !own_server) && line.sender.is_ready() {
                return Some(line);
            }
        }
    }

    fn put_back(&self, line: Line) {
        let mut idle = self.idle.borrow_mut();
        let instance = &self.instance;
        let wanted = !instance.revoked.is_cancelled() && !instance.gone.is_cancelled();
        if !wanted || line.sender.is_closed() || self.limits.idle_connections == 0 {
            return;
        }
        if idle.len() >= self.limits.idle_connections {
            // The oldest is the next to be closed, if it is not yet.
            idle.remove(0);
        }
        idle.push(Idle { line, pauses: instance.pauses.load(Ordering::Acquire), since: now() });
    }

    /// A new connection. Its task belongs to the thread and ends with the instance.
    async fn connect(&self, lane: &Lane) -> Result<Line, Refused> {
        let limit = self.limits.connect;
        let deadline = tokio::time::Instant::now() + limit;
        let socket = Socket::connect(&self.instance.endpoint.address, limit)
            .await
            .map_err(|error| Refused::Unreached(format!("cannot connect to it: {error}")))?;
        let attached = tokio::time::timeout_at(deadline, self.attach(socket));
        let socket =
            attached.await.map_err(|_| Refused::Lost(format!("no connection within {limit:?}")))??;
        let hold = Arc::default();
        let (sender, connection) = http1::Builder::new()
            .handshake::<_, Passing>(TokioIo::new(Lent::new(socket, &hold)))
            .await
            .map_err(|error| Refused::Lost(error.to_string()))?;
        let line = Line { sender, hold: Arc::clone(&hold) };
        let (instance, stuck) = (Arc::clone(&self.instance), self.limits.stuck);
        lane.tasks.spawn_local(async move {
            tokio::select! {
                // How it ends is seen by the call that runs on it.
                _ = connection.with_upgrades() => {}
                () = instance.silent() => return,
            }
            hold.call_ends(&instance, stuck).await;
        });
        Ok(line)
    }

    /// `attach`, and the `accept` that answers it.
    async fn attach(&self, mut socket: Socket) -> Result<Socket, Refused> {
        let text = |error: std::io::Error| Refused::Lost(format!("cannot connect to it: {error}"));
        let broken = |what: String| Refused::Lost(format!("it broke the protocol{what}"));
        let mut buffer = BytesMut::new();
        let hello = Hello::new(Role::Attach, self.instance.endpoint.secret.as_str());
        Wire::Attach(hello).encode(&mut buffer).expect("a hello is a few hundred bytes");
        socket.write_all_buf(&mut buffer).await.map_err(text)?;
        loop {
            if socket.read_buf(&mut buffer).await.map_err(text)? == 0 {
                return Err(Refused::Lost("it closed the connection".to_owned()));
            }
            match decode(&mut buffer) {
                // The instance has nothing to say before the first request.
                Ok(Some(Wire::Accept { stream: 0 })) if buffer.is_empty() => return Ok(socket),
                Ok(Some(Wire::Error { error, .. })) if error.kind == error_type::ENDING => {
                    return Err(Refused::Busy);
                }
                Ok(Some(Wire::Error { error, .. })) => {
                    return Err(Refused::Lost(format!("it refused the connection: {error}")));
                }
                Ok(Some(_)) => return Err(broken(" while it was attached".to_owned())),
                Ok(None) => {}
                Err(error) => return Err(broken(format!(": {error}"))),
            }
        }
    }
}

/// Sends the call on a dedicated connection and waits for the head of the answer.
pub(in crate::gateway) async fn send(
    call: &mut Call,
    target: &Target,
    slot: Slot,
) -> Result<Answer, Unanswered> {
    let lane = &Rc::clone(&call.client.lane);
    let pool = lane.pool(&slot.instance);
    let body = Rc::new(RefCell::new(std::mem::replace(&mut call.body, RequestBody::moved())));
    let (instance, revision) = (Arc::clone(&slot.instance), Arc::clone(&slot.revision));
    let result = exchange(call, &pool, slot, &body, target.timeouts.execute).await;
    // The connection's task may hold the body still, if the answer has come before its end; then nobody repeats the call any more.
    if let Some(body) = Rc::into_inner(body) {
        call.body = body.into_inner();
    }
    let (mut response, mut lease) = match result {
        Ok(answered) => answered,
        Err(failure) => {
            if let Unanswered::Instance(CallFailure { what: What::ExecuteTimeout, .. }) = &failure {
                // A runtime that loops answers nobody: the shared connection's ping finds out.
                lane.peer(&instance, &revision).check();
            }
            return Err(failure);
        }
    };
    if let Some(threw) = threw(&response, &instance) {
        lease.give_back();
        return Err(Unanswered::Instance(CallFailure {
            what: What::Threw(threw),
            accepted: Accepted::Perhaps,
        }));
    }
    let idle = target.timeouts.idle_stream;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = call.upgrade.take() else {
            return Err(Unanswered::Instance(CallFailure {
                what: What::Lost("it switched protocols unasked".to_owned()),
                accepted: Accepted::Perhaps,
            }));
        };
        let instance = hyper::upgrade::on(&mut response);
        let drain = lane.shared.config.forwarding.upgrade_drain;
        let (line, slot) = lease.take();
        let whose = Rc::clone(&call.client);
        let protocol = Protocol::of(response.headers());
        let tunnel = Tunnel::new((whose, client), instance, slot, line.sender, protocol, (idle, drain));
        let (parts, _) = response.into_parts();
        return Ok(Answer::Switched(Response::from_parts(parts, ()), tunnel));
    }
    strip_hop_by_hop(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    let ended = response.body().is_end_stream();
    Ok(Answer::Http(response.map(|body| Answering::new(body, lease, idle, ended))))
}

async fn exchange(
    call: &Call,
    pool: &Rc<Pool>,
    mut slot: Slot,
    body: &Rc<RefCell<RequestBody>>,
    execute: Duration,
) -> Result<(Response<Incoming>, Lease), Unanswered> {
    let failed = |what, accepted| Unanswered::Instance(CallFailure { what, accepted });
    let deadline = tokio::time::Instant::now() + execute;
    let mut request = request(call, Rc::clone(body));
    let safe = retry::is_idempotent(call.parts.method.as_str());
    let reuse = if safe && body.borrow().is_complete() { Reuse::Any } else { Reuse::Recent };
    loop {
        let (line, kept) = match pool.take_idle(reuse) {
            Some(line) => (line, true),
            None => match pool.connect(&call.client.lane).await {
                Ok(line) => (line, false),
                Err(Refused::Busy) => {
                    refused(slot, &call.client.lane);
                    return Err(failed(What::Busy, Accepted::Never));
                }
                Err(Refused::Unreached(reason)) => {
                    unreachable(slot, &reason);
                    return Err(failed(What::Lost(reason), Accepted::Unreached));
                }
                Err(Refused::Lost(reason)) => {
                    unreachable(slot, &reason);
                    return Err(failed(What::Lost(reason), Accepted::NotYet));
                }
            },
        };
        let mut lease = Lease { pool: Rc::clone(pool), running: Some((line, slot)) };
        let sent = tokio::time::timeout_at(deadline, lease.sender().try_send_request(request)).await;
        let mut error = match sent {
            Err(_) => return Err(failed(What::ExecuteTimeout, Accepted::Perhaps)),
            Ok(Ok(response)) => return Ok((response, lease)),
            Ok(Err(error)) => error,
        };
        match error.take_message() {
            // The instance closed a kept connection just as it was wanted: nothing was sent.
            Some(unsent) if kept => (request, slot) = (unsent, lease.take().1),
            unsent => {
                let accepted = if unsent.is_some() { Accepted::NotYet } else { Accepted::Perhaps };
                let error = error.into_error();
                if let Some(refused) = refused_body(&error) {
                    return Err(Unanswered::Client(refused));
                }
                return Err(failed(What::Lost(error.to_string()), accepted));
            }
        }
    }
}

/// The bootstrap's own answer when a handler of the `http` signature threw before it answered anything: it has no body.
fn threw(response: &Response<Incoming>, instance: &Instance) -> Option<CallError> {
    let bare = response.status() == StatusCode::INTERNAL_SERVER_ERROR && response.body().is_end_stream();
    if !bare || instance.endpoint.own_server {
        return None;
    }
    let name = response.headers().get("x-hearth-error")?;
    Some(CallError::new(String::from_utf8_lossy(name.as_bytes()), ""))
}

/// The instance takes no connection.
fn unreachable(slot: Slot, reason: &str) {
    let message = |instance| hearth_dispatch::ToScaler::Lost { instance, reason: reason.to_owned() };
    slot.revision.give_up(&slot.instance, message, reason);
    slot.unused();
}

/// The instance takes no calls. Nothing else here wakes those that wait for it when it may be asked again.
fn refused(slot: Slot, lane: &Lane) {
    let revision = Arc::clone(&slot.revision);
    let Some(opens) = slot.refused() else { return };
    lane.tasks.spawn_local(async move {
        tokio::time::sleep_until(opens.into()).await;
        revision.with(|state, actions| state.on_tick(now(), actions));
    });
}

/// The client's own fault, if that is why a request could not be sent.
fn refused_body(error: &hyper::Error) -> Option<crate::gateway::errors::Failure> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(refused) = error.downcast_ref::<crate::gateway::body::Refused>() {
            return Some(refused.0.clone());
        }
        cause = error.source();
    }
    None
}

fn request(call: &Call, body: Rc<RefCell<RequestBody>>) -> Request<Passing> {
    let body = Passing::new(body);
    let is_unsized = body.size_hint().exact().is_none();
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    // Origin form: the authority is in `Host`.
    let path = call.parts.uri.path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let headers = request.headers_mut();
    headers.clone_from(&call.parts.headers);
    headers.extend(call.added.iter().flatten().cloned());
    if is_unsized {
        // hyper drops the body of a GET or HEAD that does not say this.
        headers.remove(header::CONTENT_LENGTH);
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    request
}

/// A connection and a slot in use. Both go back when the answer has ended; when it has not, the call is given up.
#[derive(Debug)]
struct Lease {
    pool: Rc<Pool>,
    running: Option<(Line, Slot)>,
}

impl Lease {
    fn sender(&mut self) -> &mut SendRequest<Passing> {
        &mut self.running.as_mut().expect("it is used before the answer's end").0.sender
    }

    /// For who uses them in another way.
    fn take(&mut self) -> (Line, Slot) {
        self.running.take().expect("it is taken before the answer's end")
    }

    fn give_back(&mut self) {
        if let Some((line, slot)) = self.running.take() {
            self.pool.put_back(line);
            drop(slot);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some((line, slot)) = self.running.take() {
            line.hold.leave(slot);
        }
    }
}

/// The body of an answer that comes over a dedicated connection.
#[derive(Debug)]
pub(in crate::gateway) struct Answering {
    body: Incoming,
    lease: Lease,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Answering {
    fn new(body: Incoming, mut lease: Lease, idle: Duration, ended: bool) -> Self {
        if ended {
            lease.give_back();
        }
        Self { body, lease, idle, timer: None }
    }

    pub(in crate::gateway) fn is_ended(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(in crate::gateway) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    pub(in crate::gateway) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        let Poll::Ready(part) = Pin::new(&mut self.body).poll_frame(cx) else {
            if !self.idle.is_zero() {
                let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.idle)));
                ready!(timer.as_mut().poll(cx));
                return Poll::Ready(Some(Err(Code::IdleStream)));
            }
            return Poll::Pending;
        };
        self.timer = None;
        Poll::Ready(match part {
            Some(Ok(frame)) => {
                if self.body.is_end_stream() {
                    self.lease.give_back();
                }
                Some(Ok(frame))
            }
            Some(Err(_)) => Some(Err(Code::InstanceLost)),
            None => {
                self.lease.give_back();
                None
            }
        })
    }
}
