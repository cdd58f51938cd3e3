//! A dedicated connection for each call: plain HTTP/1.1 after `attach`, kept for the next call when the answer has ended.
//!
//! The end of the answer is the end of the call, and so is the end of its connection: a client that goes takes the connection with it.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hearth_dispatch::retry::Accepted;
use hearth_protocol::{Frame as Wire, Hello, Role, decode};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Sleep;

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
use crate::gateway::revisions::{Instance, Target};

/// Most header lines of an answer.
const MAX_HEADERS: usize = 256;

/// The connections of one thread to one instance that wait for a call.
#[derive(Debug)]
pub(in crate::gateway) struct Pool {
    instance: Arc<Instance>,
    limits: ForwardingLimits,
    idle: RefCell<Vec<Idle>>,
}

/// A connection without a call.
#[derive(Debug)]
struct Idle {
    connection: SendRequest<Passing>,
    /// [`Instance::pauses`] when its last call began to wait for nothing more.
    pauses: u64,
}

impl Pool {
    pub(in crate::gateway) fn new(instance: Arc<Instance>, limits: ForwardingLimits) -> Self {
        Self { instance, limits, idle: RefCell::default() }
    }

    /// One that is still open; the last used first, so that the others grow old and are closed by the instance.
    fn take_idle(&self) -> Option<SendRequest<Passing>> {
        let mut idle = self.idle.borrow_mut();
        let pauses = self.instance.pauses.load(Ordering::Acquire);
        std::iter::from_fn(|| idle.pop())
            // Node's own server under the bootstrap closes none.
            .find(|idle| {
                let young = idle.pauses == pauses || !self.instance.endpoint.own_server;
                young && idle.connection.is_ready()
            })
            .map(|idle| idle.connection)
    }

    fn put_back(&self, connection: SendRequest<Passing>) {
        let mut idle = self.idle.borrow_mut();
        let instance = &self.instance;
        let wanted = !instance.revoked.is_cancelled() && !instance.gone.is_cancelled();
        if wanted && !connection.is_closed() && idle.len() < self.limits.idle_connections {
            idle.push(Idle { connection, pauses: instance.pauses.load(Ordering::Acquire) });
        }
    }

    /// A new connection. Its task belongs to the thread and ends with the instance.
    async fn connect(&self, lane: &Lane) -> Result<SendRequest<Passing>, String> {
        let limit = self.limits.connect;
        let attached = tokio::time::timeout(limit, self.attach());
        let socket = attached.await.map_err(|_| format!("no connection within {limit:?}"))??;
        let (sender, connection) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .handshake::<_, Passing>(TokioIo::new(socket))
            .await
            .map_err(|error| error.to_string())?;
        let instance = Arc::clone(&self.instance);
        lane.tasks.spawn_local(async move {
            tokio::select! {
                // How it ends is seen by the call that runs on it.
                _ = connection.with_upgrades() => {}
                () = instance.silent() => {}
            }
        });
        Ok(sender)
    }

    /// `attach`, and the `accept` that answers it.
    async fn attach(&self) -> Result<Socket, String> {
        let endpoint = &self.instance.endpoint;
        let text = |error: std::io::Error| format!("cannot connect to it: {error}");
        let mut socket = Socket::connect(&endpoint.address, self.limits.connect).await.map_err(text)?;
        let mut buffer = BytesMut::new();
        let hello = Hello::new(Role::Attach, endpoint.secret.as_str());
        Wire::Attach(hello).encode(&mut buffer).expect("a hello is a few hundred bytes");
        socket.write_all_buf(&mut buffer).await.map_err(text)?;
        loop {
            if socket.read_buf(&mut buffer).await.map_err(text)? == 0 {
                return Err("it closed the connection".to_owned());
            }
            match decode(&mut buffer) {
                // The instance has nothing to say before the first request.
                Ok(Some(Wire::Accept { stream: 0 })) if buffer.is_empty() => return Ok(socket),
                Ok(Some(Wire::Error { error, .. })) => {
                    return Err(format!("it refused the connection: {error}"));
                }
                Ok(Some(_)) => return Err("it broke the protocol while it was attached".to_owned()),
                Ok(None) => {}
                Err(error) => return Err(format!("it broke the protocol: {error}")),
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
    let result = exchange(call, &pool, &body, target.timeouts.execute).await;
    // The connection's task may hold the body still, if the answer has come before its end; then nobody repeats the call any more.
    if let Some(body) = Rc::into_inner(body) {
        call.body = body.into_inner();
    }
    let (mut response, connection) = match result {
        Ok(answered) => answered,
        Err(failure) => {
            match &failure {
                Unanswered::Instance(CallFailure { what: What::Lost(reason), accepted: Accepted::Never }) => {
                    // It cannot even be connected to.
                    slot.revision.give_up(
                        &slot.instance,
                        |instance| hearth_dispatch::ToScaler::Lost { instance, reason: reason.clone() },
                        reason,
                    );
                    slot.unused();
                }
                Unanswered::Instance(CallFailure { what: What::ExecuteTimeout, .. }) => {
                    // A runtime that loops answers nobody: the shared connection's ping finds out.
                    lane.peer(&slot.instance, &slot.revision).check();
                }
                _ => {}
            }
            return Err(failure);
        }
    };
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
        let protocol = Protocol::of(response.headers());
        let tunnel = Tunnel::new(client, instance, slot, connection, protocol, (idle, drain));
        let (parts, _) = response.into_parts();
        return Ok(Answer::Switched(Response::from_parts(parts, ()), tunnel));
    }
    strip_hop_by_hop(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    let ended = response.body().is_end_stream();
    let lease = Lease { pool, connection: Some(connection), slot: Some(slot) };
    Ok(Answer::Http(response.map(|body| Answering::new(body, lease, idle, ended))))
}

async fn exchange(
    call: &Call,
    pool: &Pool,
    body: &Rc<RefCell<RequestBody>>,
    execute: Duration,
) -> Result<(Response<Incoming>, SendRequest<Passing>), Unanswered> {
    let failed = |what, accepted| Unanswered::Instance(CallFailure { what, accepted });
    let deadline = tokio::time::Instant::now() + execute;
    let mut request = request(call, Rc::clone(body));
    loop {
        let (mut connection, kept) = match pool.take_idle() {
            Some(connection) => (connection, true),
            None => {
                let connection = pool.connect(&call.client.lane).await;
                (connection.map_err(|reason| failed(What::Lost(reason), Accepted::Never))?, false)
            }
        };
        let sent = tokio::time::timeout_at(deadline, connection.try_send_request(request)).await;
        let mut error = match sent {
            Err(_) => return Err(failed(What::ExecuteTimeout, Accepted::Perhaps)),
            Ok(Ok(response)) => return Ok((response, connection)),
            Ok(Err(error)) => error,
        };
        match error.take_message() {
            // The instance closed a kept connection just as it was wanted: nothing was sent.
            Some(unsent) if kept => request = unsent,
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
    let mut request = Request::new(Passing::new(body));
    *request.method_mut() = call.parts.method.clone();
    // Origin form: the authority is in `Host`.
    let path = call.parts.uri.path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    let headers = request.headers_mut();
    headers.clone_from(&call.parts.headers);
    headers.extend(call.added.iter().flatten().cloned());
    request
}

/// A connection and a slot in use; both go back when the answer has ended, and the connection is closed when it has not.
#[derive(Debug)]
struct Lease {
    pool: Rc<Pool>,
    connection: Option<SendRequest<Passing>>,
    slot: Option<Slot>,
}

impl Lease {
    fn give_back(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put_back(connection);
        }
        self.slot = None;
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
