//! The socket of a connection that the calls of one gateway thread share.
//!
//! It listens for readability alone. A Unix socket says that it is writable each time its other end has read, which here would wake the
//! thread once more for every call, while the instance works on it. So writability is asked for only while a write did not fit, by a
//! second registration.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use hearth_dispatch::EndpointAddress;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::socket::Socket;

/// See the module's page.
#[derive(Debug)]
pub(super) struct SharedSocket {
    socket: AsyncFd<OwnedFd>,
    /// The same socket, while it takes no more.
    full: RefCell<Option<AsyncFd<OwnedFd>>>,
}

impl SharedSocket {
    /// Connects within `limit`.
    pub(super) async fn connect(address: &EndpointAddress, limit: Duration) -> io::Result<Self> {
        let socket = Socket::connect(address, limit).await?.into_descriptor()?;
        Ok(Self { socket: registered(socket, Interest::READABLE)?, full: RefCell::default() })
    }

    /// Reads what is there, as much as `buffer` has room for; 0 is the end.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.socket.poll_read_ready(cx))?;
            let room = buffer.capacity() - buffer.len();
            match ready.try_io(|socket| receive(socket.get_ref(), buffer)) {
                Ok(read) => {
                    // What did not fill the room was all there was: no second read to find that out.
                    if read.as_ref().is_ok_and(|read| (1..room).contains(read)) {
                        ready.clear_ready();
                    }
                    return Poll::Ready(read);
                }
                Err(_would_block) => {}
            }
        }
    }

    /// Writes as much as the socket takes; the task is woken when it takes more.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut full = self.full.borrow_mut();
        loop {
            match &*full {
                None => match self.try_write(bytes) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let socket = self.socket.get_ref().try_clone()?;
                        *full = Some(registered(socket, Interest::WRITABLE)?);
                    }
                    written => return Poll::Ready(written),
                },
                Some(socket) => {
                    let mut ready = ready!(socket.poll_write_ready(cx))?;
                    if let Ok(written) = ready.try_io(|_| self.try_write(bytes)) {
                        if written.as_ref().is_ok_and(|written| *written == bytes.len()) {
                            drop(full.take());
                        }
                        return Poll::Ready(written);
                    }
                }
            }
        }
    }

    /// Nothing is left to be written, whoever wrote it: its writability is of no interest any more.
    pub(super) fn is_written(&self) {
        drop(self.full.take());
    }

    /// Writes as much as the socket takes at once.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.socket.get_ref(), bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }
}

#[expect(unsafe_code, reason = "tokio marks every registration of a foreign type so")]
fn registered(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same, for as long as it lives.
    Ok(unsafe { AsyncFd::register_with_interest(socket, interest) }?)
}

/// Appends what the socket has to `buffer`.
#[expect(unsafe_code, reason = "no crate in use reads into the spare room of a BytesMut by a descriptor")]
fn receive(socket: &OwnedFd, buffer: &mut BytesMut) -> io::Result<usize> {
    let length = buffer.len();
    let (_, read) = rustix::net::recv(socket, buffer.spare_capacity_mut(), RecvFlags::DONTWAIT)?;
    // SAFETY: the kernel has written `read` bytes behind `length`.
    unsafe { buffer.set_len(length + read) };
    Ok(read)
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn what_does_not_fit_is_written_when_there_is_room_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let socket =
            SharedSocket::connect(&EndpointAddress::Unix(path), Duration::from_secs(5)).await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();

        let sent: Vec<u8> = (0..4_000_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut rest = sent.as_slice();
        let write = async {
            while !rest.is_empty() {
                let written = poll_fn(|cx| socket.poll_write(cx, rest)).await.unwrap();
                rest = &rest[written..];
            }
        };
        let mut got = vec![0; sent.len()];
        tokio::join!(write, async { other.read_exact(&mut got).await.unwrap() });
        assert_eq!(got, sent);
        assert!(socket.full.borrow().is_none(), "it listens for writability no longer");

        // What waits for room may be written by somebody else, who does not wait.
        let full = poll_fn(|cx| {
            while socket.poll_write(cx, &sent).is_ready() {}
            std::task::Poll::Ready(socket.full.borrow().is_some())
        });
        assert!(full.await);
        socket.is_written();
        assert!(socket.full.borrow().is_none());
        let mut rest = vec![0; 1 << 20];
        while tokio::time::timeout(Duration::ZERO, other.read(&mut rest)).await.is_ok() {}

        // And it still hears what comes, in pieces larger and smaller than the room for it, and the end.
        let mut buffer = BytesMut::new();
        for piece in [&b"one"[..], &[7; 100_000]] {
            let read = async {
                let mut left = piece.len();
                while left > 0 {
                    buffer.reserve(1000);
                    left -= poll_fn(|cx| socket.poll_read(cx, &mut buffer)).await.unwrap();
                }
            };
            tokio::join!(read, async { other.write_all(piece).await.unwrap() });
            assert_eq!(buffer.split(), piece);
        }
        drop(other);
        buffer.reserve(1000);
        assert_eq!(poll_fn(|cx| socket.poll_read(cx, &mut buffer)).await.unwrap(), 0);
    }
}
