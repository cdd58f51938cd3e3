//! A stream socket to an instance: Unix on this host, TCP elsewhere.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hearth_dispatch::EndpointAddress;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// How long a peer may say nothing before the kernel asks whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);

/// Pause between such questions.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(2);

/// Questions without an answer after which the connection is broken, where the next limit has no say.
const KEEPALIVE_PROBES: u32 = 3;

/// How long a peer may acknowledge neither bytes nor questions: a machine that lost power sends no reset. It is less than calls have by default,
/// so that they are repeated elsewhere in time. Not much less: a peer that is there and reads nothing, as a function that computes while a body
/// comes, is cut off after it as well.
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// Frames go at once, and a peer whose machine is gone is noticed.
///
/// # Errors
/// When the socket is none of TCP, or closed.
pub(crate) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_PAUSE)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// See the module's page.
#[derive(Debug)]
pub(in crate::gateway) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Connects within `limit`.
    pub(in crate::gateway) async fn connect(address: &EndpointAddress, limit: Duration) -> io::Result<Self> {
        let connect = async {
            match address {
                EndpointAddress::Unix(path) => UnixStream::connect(path).await.map(Self::Unix),
                EndpointAddress::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    tune(&stream)?;
                    Ok(Self::Tcp(stream))
                }
            }
        };
        tokio::time::timeout(limit, connect).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// The socket itself, for a registration of another kind.
    pub(super) fn into_descriptor(self) -> io::Result<OwnedFd> {
        match self {
            Self::Unix(stream) => stream.into_std().map(OwnedFd::from),
            Self::Tcp(stream) => stream.into_std().map(OwnedFd::from),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_notices_an_instance_whose_machine_is_gone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = EndpointAddress::Tcp(listener.local_addr().unwrap());
        let Socket::Tcp(stream) = Socket::connect(&address, Duration::from_secs(5)).await.unwrap() else {
            panic!("it is TCP");
        };
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_PAUSE);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
    }
}
