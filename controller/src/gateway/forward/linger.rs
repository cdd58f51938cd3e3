//! A dedicated connection whose call nobody waits for any more: its client left, or its time was over.
//!
//! The call may run on, and as long as it does its slot is not free. The gateway shuts down its own side of the connection, which tells the
//! instance; the instance closes the other when the call has ended. One that does not end counts as stuck, as on the shared connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hearth_dispatch::ToScaler;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::socket::Socket;
use crate::gateway::admission::Slot;
use crate::gateway::revisions::Instance;

/// Bytes of an answer thrown away at once.
const DISCARDED_BYTES: usize = 16 * 1024;

/// What a connection's task and the call on it share: what each leaves for the other. All of it is on one thread; hyper does not know that.
#[derive(Debug, Default)]
pub(super) struct Hold {
    left: Mutex<Left>,
}

#[derive(Debug, Default)]
struct Left {
    /// When HTTP has done with it.
    socket: Option<Socket>,
    /// Of a call that was given up.
    slot: Option<Slot>,
}

impl Hold {
    fn with<R>(&self, change: impl FnOnce(&mut Left) -> R) -> R {
        change(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The call is given up; HTTP is to end after this. If it has ended already, the slot is free when the last that holds this goes.
    pub(super) fn leave(&self, slot: Slot) {
        self.with(|left| left.slot = Some(slot));
    }

    /// After HTTP has ended: waits until the call that was given up, if one was, has ended too.
    pub(super) async fn call_ends(&self, instance: &Instance, stuck: Duration) {
        let (Some(mut slot), Some(socket)) = self.with(|left| (left.slot.take(), left.socket.take())) else {
            return;
        };
        let mut closed = std::pin::pin!(closed(socket));
        tokio::select! {
            () = &mut closed => return,
            () = instance.gone.cancelled() => return,
            () = tokio::time::sleep(stuck) => {}
        }
        if slot.stuck() {
            let message = |instance| ToScaler::Unresponsive { instance };
            let reason = "none of its calls ends, though all were given up";
            slot.revision.give_up(&slot.instance, message, reason);
            return;
        }
        tokio::select! {
            () = closed => {}
            () = instance.gone.cancelled() => {}
        }
    }
}

/// Ends when the instance has closed its side. What it says until then is for nobody.
async fn closed(mut socket: Socket) {
    let mut discarded = vec![0; DISCARDED_BYTES];
    // An instance that is gone is as good as one that has closed.
    drop(socket.shutdown().await);
    while socket.read(&mut discarded).await.is_ok_and(|read| read > 0) {}
}

/// A connection's socket while HTTP has it.
#[derive(Debug)]
pub(super) struct Lent {
    /// There until the drop.
    socket: Option<Socket>,
    owner: Arc<Hold>,
}

impl Lent {
    pub(super) fn new(socket: Socket, owner: &Arc<Hold>) -> Self {
        Self { socket: Some(socket), owner: Arc::clone(owner) }
    }

    fn socket(self: Pin<&mut Self>) -> Pin<&mut Socket> {
        Pin::new(self.get_mut().socket.as_mut().expect("it is taken out when this is dropped"))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.owner.with(|left| left.socket = self.socket.take());
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket().poll_read(cx, buffer)
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_shutdown(cx)
    }
}
