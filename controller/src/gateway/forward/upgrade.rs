//! An upgraded connection (WebSocket): bytes both ways until one side ends, nothing moves for too long, or the instance is put out or the
//! gateway stops and it has had its time. A WebSocket is told so.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderMap};
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::websocket;
use crate::gateway::admission::Slot;
use crate::gateway::answer::Story;
use crate::gateway::body::Passing;
use crate::gateway::errors::Code;
use crate::gateway::listener::Client;

/// Time for both sides to become bare connections after the answer to the upgrade.
const SWITCH_TIME: Duration = Duration::from_secs(10);

/// See the module's page.
#[derive(Debug)]
pub(in crate::gateway) struct Tunnel {
    /// Whose connection it is: it counts as one until the tunnel's end.
    whose: Rc<Client>,
    client: OnUpgrade,
    instance: OnUpgrade,
    slot: Slot,
    /// Kept until the end: without its sender the connection's task would close it before the upgrade.
    connection: SendRequest<Passing>,
    protocol: Protocol,
    idle: Duration,
    drain: Duration,
}

/// What the connection was upgraded to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    WebSocket,
    Other,
}

impl Protocol {
    /// By the head of the answer that switched.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let upgrade = headers.get(header::UPGRADE);
        let websocket = upgrade.is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        if websocket { Self::WebSocket } else { Self::Other }
    }
}

impl Tunnel {
    pub(super) fn new(
        (whose, client): (Rc<Client>, OnUpgrade),
        instance: OnUpgrade,
        slot: Slot,
        connection: SendRequest<Passing>,
        protocol: Protocol,
        (idle, drain): (Duration, Duration),
    ) -> Self {
        Self { whose, client, instance, slot, connection, protocol, idle, drain }
    }

    /// Carries bytes in a task of its own; the call and its slot end with it.
    pub(in crate::gateway) fn open(self, mut story: Box<Story>) {
        let lane = Rc::clone(&story.lane);
        let tasks = lane.tasks.clone();
        tasks.spawn_local(async move {
            let cut = lane.shared.cut.clone();
            tokio::select! {
                ended = self.carry() => {
                    (story.bytes_in, story.bytes_out) = ended.moved;
                    story.error = ended.error;
                    story.complete = true;
                }
                () = cut.cancelled() => {}
            }
        });
    }

    async fn carry(self) -> Ended {
        let Self { whose, client, instance, slot, connection, protocol, idle, drain } = self;
        let moved = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let last = Rc::new(Cell::new(Instant::now()));
        let both = async { tokio::try_join!(client, instance) };
        let Ok(Ok((client, instance))) = tokio::time::timeout(SWITCH_TIME, both).await else {
            return Ended { moved: (0, 0), error: Some(Code::InstanceLost) };
        };
        let metered = |io, bytes: &Rc<Cell<u64>>| Metered {
            io: TokioIo::new(io),
            bytes: Rc::clone(bytes),
            last: Rc::clone(&last),
        };
        let (mut client, mut instance) = (metered(client, &moved.0), metered(instance, &moved.1));
        let target = &slot.instance;
        let carried = async {
            match protocol {
                Protocol::WebSocket => websocket::carry(&mut client, &mut instance, &target.revoked).await,
                Protocol::Other => {
                    // An error here is a side that went without a word: an end like any other.
                    let _how = tokio::io::copy_bidirectional(&mut client, &mut instance).await;
                }
            }
        };
        let error = tokio::select! {
            () = carried => None,
            () = stands_still(&last, idle) => Some(Code::IdleStream),
            () = target.gone.cancelled() => None,
            () = async {
                tokio::select! {
                    () = target.revoked.cancelled() => {}
                    () = whose.lane.shared.drain.cancelled() => {}
                }
                tokio::time::sleep(drain).await;
            } => None,
        };
        drop((client, instance, connection, slot));
        Ended { moved: (moved.0.get(), moved.1.get()), error }
    }
}

struct Ended {
    /// Bytes from the client and to it.
    moved: (u64, u64),
    error: Option<Code>,
}

/// Ends when nothing has moved for `idle`; never if that is zero.
async fn stands_still(last: &Cell<Instant>, idle: Duration) {
    if idle.is_zero() {
        return std::future::pending().await;
    }
    loop {
        let end = last.get() + idle;
        if Instant::now() >= end {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}

/// Counts what is read.
struct Metered<T> {
    io: T,
    bytes: Rc<Cell<u64>>,
    last: Rc<Cell<Instant>>,
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(cx, buffer);
        if result.is_ready() {
            self.bytes.set(self.bytes.get() + (buffer.filled().len() - before) as u64);
            self.last.set(Instant::now());
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
