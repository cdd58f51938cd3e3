//! The ways in: a Unix socket where the host reaches into the instance's directory, TCP where it cannot.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// How long a peer may say nothing before the kernel asks whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// Pause between such questions.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(5);

/// Questions without an answer after which the connection is broken.
const KEEPALIVE_PROBES: u32 = 3;

/// Milliseconds that sent bytes may stay without an acknowledgement: a host that vanished sends no reset.
const USER_TIMEOUT_MS: u32 = 30_000;

/// A socket that listens. It may be handed to a bootstrap.
#[derive(Debug)]
pub(crate) enum Listener {
    /// In the instance's directory.
    Unix(UnixListener),
    /// On a port of every address.
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on `port` of every address, of both families where there are both. 0 is any port.
    pub(crate) fn on_port(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)))
            .map_err(|error| io::Error::new(error.kind(), format!("port {port}: {error}")))?;
        // What is accepted inherits it, whoever accepts.
        tune(&listener)?;
        Ok(Self::Tcp(listener))
    }

    /// The port, of one that has one.
    pub(crate) fn port(&self) -> io::Result<u16> {
        match self {
            Self::Unix(_) => Ok(0),
            Self::Tcp(listener) => Ok(listener.local_addr()?.port()),
        }
    }

    /// To be accepted from here.
    pub(crate) fn accepting(self) -> io::Result<Accepting> {
        self.set_nonblocking()?;
        Ok(match self {
            Self::Unix(listener) => Accepting::Unix(tokio::net::UnixListener::from_std(listener)?),
            Self::Tcp(listener) => Accepting::Tcp(tokio::net::TcpListener::from_std(listener)?),
        })
    }

    /// To be accepted from elsewhere.
    pub(crate) fn into_fd(self) -> io::Result<OwnedFd> {
        // The bootstrap sets its own O_NONBLOCK; a blocking one would stop it in `accept`.
        self.set_nonblocking()?;
        Ok(match self {
            Self::Unix(listener) => listener.into(),
            Self::Tcp(listener) => listener.into(),
        })
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(listener) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }
}

/// Frames go at once, and a peer whose host is gone is noticed.
pub(crate) fn tune(socket: impl AsFd) -> io::Result<()> {
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(&socket, KEEPALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(&socket, USER_TIMEOUT_MS)?;
    Ok(())
}

/// A [`Listener`] on the shim's own loop.
#[derive(Debug)]
pub(crate) enum Accepting {
    Unix(tokio::net::UnixListener),
    Tcp(tokio::net::TcpListener),
}

impl Accepting {
    /// The next connection.
    ///
    /// # Cancel safety
    /// No connection is lost.
    pub(crate) async fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Unix(listener) => Stream::Unix(listener.accept().await?.0),
            Self::Tcp(listener) => Stream::Tcp(listener.accept().await?.0),
        })
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// Both directions, each with an owner. Dropping the writer shuts its direction down.
    pub(crate) fn into_split(self) -> (Reader, Writer) {
        match self {
            Self::Unix(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Unix(reader), Writer::Unix(writer))
            }
            Self::Tcp(stream) => {
                let (reader, writer) = stream.into_split();
                (Reader::Tcp(reader), Writer::Tcp(writer))
            }
        }
    }
}

/// What comes in.
#[derive(Debug)]
pub(crate) enum Reader {
    Unix(unix::OwnedReadHalf),
    Tcp(tcp::OwnedReadHalf),
}

/// What goes out.
#[derive(Debug)]
pub(crate) enum Writer {
    Unix(unix::OwnedWriteHalf),
    Tcp(tcp::OwnedWriteHalf),
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(half) => Pin::new(half).poll_read(cx, buffer),
            Self::Tcp(half) => Pin::new(half).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(half) => Pin::new(half).poll_write(cx, bytes),
            Self::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(half) => Pin::new(half).poll_flush(cx),
            Self::Tcp(half) => Pin::new(half).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
