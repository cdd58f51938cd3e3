//! Talking to an instance before the gateway does: waiting for it to come up, loading its code, and its control connection (logs, exit,
//! drain). Every wait has a deadline; whatever an instance says is checked by the protocol's own rules.
//!
//! - [`Pending`] is a connection to `invoke.sock` after `welcome`: the runtime is up. It can be exercised and kept (a pooled instance), and
//!   [`Pending::load`] brings the code in. [`load`] does all of it at once. Kept, it is told when the instance is to end ([`Pending::ends`]).
//! - [`connect_control`] opens the control connection; [`Events`] are what the shim says, [`Commands`] what it can be told.

#[cfg(test)]
mod tests;

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use hearth_protocol::sequence::{Connection, Violation};
use hearth_protocol::{
    CallError, DecodeError, EncodeError, Exit, Frame, Hello, Load, Loaded, LogRecord, Role, Signature,
    Welcome, decode,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout_at};

use super::Address;

/// The phase of a [`Error::Timeout`] in which the code loads.
pub const LOADS: &str = "load the code";

/// Pause between two attempts to connect. The shim binds its sockets first thing, a few milliseconds after its start, and a wait here is a
/// wait in every cold start. (The timer's own grain is a millisecond.)
const RETRY: Duration = Duration::from_micros(500);

/// Bytes made ready for one read: a burst of log lines fits.
const READ_BYTES: usize = 16 * 1024;

/// The same where next to nothing is to come, for as long as an instance serves.
const FEW_BYTES: usize = 64;

/// Why an instance could not be talked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The deadline came first.
    #[error("the instance did not {phase} in time")]
    Timeout {
        /// What was waited for, as in `start its runtime`.
        phase: &'static str,
    },
    /// The socket cannot be reached, or the connection broke.
    #[error("the connection to the instance broke while it was to {phase}")]
    Io {
        /// What was waited for.
        phase: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The instance closed the connection: as a rule it has ended.
    #[error("the instance closed the connection while it was to {phase}")]
    Closed {
        /// What was waited for.
        phase: &'static str,
    },
    /// The instance sent something that is no frame.
    #[error("the instance broke the protocol")]
    Decode(#[from] DecodeError),
    /// The instance sent a frame that is not legal there.
    #[error("the instance broke the protocol")]
    Violation(#[from] Violation),
    /// What was to be sent does not fit into a frame.
    #[error("too long for the protocol")]
    Encode(#[from] EncodeError),
    /// The instance refused the connection.
    #[error("the instance refused the connection: {0}")]
    Refused(CallError),
    /// The code could not be loaded: the user's matter.
    #[error("the code could not be loaded: {0}")]
    Load(CallError),
}

/// How long the parts of a start took, as seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BootTimes {
    /// Until the shim listened.
    pub connect: Duration,
    /// From there until the runtime said `welcome`.
    pub boot: Duration,
}

/// A loaded instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadReport {
    /// How the handler is called; never [`Signature::Auto`].
    pub signature: Signature,
    /// From `load` to `loaded`.
    pub load: Duration,
}

/// An instance whose runtime is up, on a connection to `invoke.sock`.
#[derive(Debug)]
pub struct Pending {
    wire: Wire,
    welcome: Welcome,
    times: BootTimes,
}

impl Pending {
    /// Connects, again and again until the shim listens, and says `hello`.
    ///
    /// # Errors
    /// [`Error::Timeout`] at `deadline`; [`Error::Refused`] for a wrong secret or version; [`Error::Closed`] when the instance ended.
    pub async fn connect(address: &Address, secret: &str, deadline: Instant) -> Result<Self, Error> {
        let begin = Instant::now();
        let (mut wire, connected) = Wire::connect(address, Role::Invoke, deadline).await?;
        let welcome = wire.greet(Hello::new(Role::Invoke, secret), deadline).await?;
        let times = BootTimes { connect: connected - begin, boot: connected.elapsed() };
        Ok(Self { wire, welcome, times })
    }

    /// What the runtime said of itself. With a `signature` in it, code is loaded already (an instance that is adopted).
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.welcome
    }

    /// How long it took to come up.
    #[must_use]
    pub fn times(&self) -> BootTimes {
        self.times
    }

    /// Sends a ping and waits for its answer: whether the runtime's loop turns. Two of them before an instance is pooled take 3 ms off its
    /// later load, for what they made the runtime compile.
    ///
    /// # Errors
    /// [`Error::Timeout`] at `deadline`, and when the connection breaks.
    pub async fn ping(&mut self, deadline: Instant) -> Result<(), Error> {
        const PHASE: &str = "answer a ping";
        self.wire.send(&Frame::Ping(*b"exercise"), PHASE, deadline).await?;
        match self.wire.receive(PHASE, deadline).await? {
            Frame::Pong(_) => Ok(()),
            other => Err(Violation::Unexpected(other.outline().kind).into()),
        }
    }

    /// Loads the code. The gateway opens connections of its own; this one is best kept: its end is work for the runtime, which comes
    /// before the first call if it is closed now.
    ///
    /// # Errors
    /// [`Error::Load`] when the code is at fault, [`Error::Timeout`] at `deadline`, [`Error::Closed`] when the instance ended.
    pub async fn load(&mut self, load: Load, deadline: Instant) -> Result<LoadReport, Error> {
        let begin = Instant::now();
        self.wire.send(&Frame::Load(load), LOADS, deadline).await?;
        let loaded = self.wire.receive(LOADS, deadline).await?;
        match loaded {
            Frame::Loaded(Loaded::Ok { signature }) => Ok(LoadReport { signature, load: begin.elapsed() }),
            Frame::Loaded(Loaded::Error(error)) => Err(Error::Load(error)),
            other => Err(Violation::Unexpected(other.outline().kind).into()),
        }
    }

    /// Waits until the instance says that it is to end, by whosever word; for ever once the connection is of no use, whose end says nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn ends(&mut self) {
        if self.wire.buffer.is_empty() {
            // There is one for each instance.
            self.wire.buffer = BytesMut::new();
        }
        while !self.wire.ending {
            match self.wire.frame("serve", FEW_BYTES).await {
                Ok(Frame::Drain) => self.wire.ending = true,
                Ok(_) => {}
                Err(_) => std::future::pending().await,
            }
        }
    }
}

/// Waits for a fresh instance to come up and loads its code.
///
/// # Errors
/// As [`Pending::connect`] and [`Pending::load`].
pub async fn load(
    address: &Address,
    secret: &str,
    load: Load,
    deadline: Instant,
) -> Result<(BootTimes, LoadReport), Error> {
    let mut pending = Pending::connect(address, secret, deadline).await?;
    let times = pending.times();
    Ok((times, pending.load(load, deadline).await?))
}

/// What a shim says on its control connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The function printed a line.
    Log(LogRecord),
    /// The runtime ended; nothing but log lines that were still on the way comes after it.
    Exit(Exit),
}

/// Opens the control connection of an instance. Records after `logs_after` come first (0: all that the shim still has).
///
/// # Errors
/// [`Error::Timeout`] at `deadline`; [`Error::Refused`] for a wrong secret or version.
pub async fn connect_control(
    address: &Address,
    secret: &str,
    logs_after: u64,
    deadline: Instant,
) -> Result<(Events, Commands), Error> {
    let (mut wire, _) = Wire::connect(address, Role::Control, deadline).await?;
    let hello = Hello { logs_after, ..Hello::new(Role::Control, secret) };
    wire.greet(hello, deadline).await?;
    let Wire { reader, writer, buffer, connection, .. } = wire;
    Ok((Events { reader, buffer, connection }, Commands { writer }))
}

/// The shim's side of a control connection. Whoever reads slowly slows nobody down: the shim keeps a bounded ring, and counts what it loses.
pub struct Events {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    buffer: BytesMut,
    connection: Connection,
}

impl Events {
    /// The next event; `None` when the shim has closed the connection (it ended).
    ///
    /// # Errors
    /// When the connection breaks or the shim breaks the protocol.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            while let Some(frame) = decode(&mut self.buffer)? {
                self.connection.from_instance(frame.outline())?;
                match frame {
                    Frame::Log(record) => return Ok(Some(Event::Log(record))),
                    Frame::Exit(exit) => return Ok(Some(Event::Exit(exit))),
                    Frame::Error { error, .. } => return Err(Error::Refused(error)),
                    // A pong, which nobody asked for.
                    _ => {}
                }
            }
            self.buffer.reserve(READ_BYTES);
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // A shim that is killed resets what it had not read.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(source) => return Err(Error::Io { phase: "send its logs", source }),
            }
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// The controller's side of a control connection.
pub struct Commands {
    writer: Box<dyn AsyncWrite + Send + Unpin>,
}

impl Commands {
    /// Asks the runtime to end what it has and then itself. How that goes is told by [`Event::Exit`].
    ///
    /// # Errors
    /// When the connection is broken or the shim does not read until `deadline`.
    pub async fn drain(&mut self, deadline: Instant) -> Result<(), Error> {
        send(&mut self.writer, &Frame::Drain, "drain", deadline).await
    }
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").finish_non_exhaustive()
    }
}

/// A connection, its buffer and its rules.
struct Wire {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    buffer: BytesMut,
    connection: Connection,
    /// The instance has said that it is to end.
    ending: bool,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Wire {
    /// Connects, again and again until somebody listens, and says since when that is.
    async fn connect(address: &Address, role: Role, deadline: Instant) -> Result<(Self, Instant), Error> {
        const PHASE: &str = "listen";
        let stream = timeout_at(deadline, async {
            loop {
                match open(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) if comes_later(&error) => sleep(RETRY).await,
                    Err(source) => return Err(Error::Io { phase: PHASE, source }),
                }
            }
        });
        let (reader, writer) = stream.await.map_err(|_| Error::Timeout { phase: PHASE })??;
        let connection = Connection::new(role);
        Ok((Self { reader, writer, buffer: BytesMut::new(), connection, ending: false }, Instant::now()))
    }

    async fn greet(&mut self, hello: Hello, deadline: Instant) -> Result<Welcome, Error> {
        const PHASE: &str = "start its runtime";
        self.send(&Frame::Hello(hello), PHASE, deadline).await?;
        match self.receive(PHASE, deadline).await? {
            Frame::Welcome(welcome) => Ok(welcome),
            other => Err(Violation::Unexpected(other.outline().kind).into()),
        }
    }

    async fn send(&mut self, frame: &Frame, phase: &'static str, deadline: Instant) -> Result<(), Error> {
        self.connection.from_caller(frame.outline())?;
        send(&mut self.writer, frame, phase, deadline).await
    }

    /// The next frame that answers something.
    async fn receive(&mut self, phase: &'static str, deadline: Instant) -> Result<Frame, Error> {
        loop {
            let frame = timeout_at(deadline, self.frame(phase, READ_BYTES));
            match frame.await.map_err(|_| Error::Timeout { phase })?? {
                Frame::Drain => self.ending = true,
                frame => return Ok(frame),
            }
        }
    }

    /// The next frame, read with so much room; an `error` on stream 0 is [`Error::Refused`]. Cancel-safe.
    async fn frame(&mut self, phase: &'static str, room: usize) -> Result<Frame, Error> {
        loop {
            if let Some(frame) = decode(&mut self.buffer)? {
                self.connection.from_instance(frame.outline())?;
                return match frame {
                    Frame::Error { stream: 0, error } => Err(Error::Refused(error)),
                    frame => Ok(frame),
                };
            }
            self.buffer.reserve(room);
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Error::Closed { phase }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(Error::Closed { phase });
                }
                Err(source) => return Err(Error::Io { phase, source }),
            }
        }
    }
}

type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

async fn open(address: &Address) -> io::Result<Halves> {
    Ok(match address {
        Address::Unix(path) => {
            let (reader, writer) = UnixStream::connect(path).await?.into_split();
            (Box::new(reader), Box::new(writer))
        }
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            (Box::new(reader), Box::new(writer))
        }
    })
}

/// Whether a connect that failed so may succeed when the shim is up (or has taken those that wait).
fn comes_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
    )
}

async fn send(
    writer: &mut (impl AsyncWrite + Unpin),
    frame: &Frame,
    phase: &'static str,
    deadline: Instant,
) -> Result<(), Error> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes)?;
    let written = timeout_at(deadline, writer.write_all(&bytes));
    match written.await.map_err(|_| Error::Timeout { phase })? {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
            Err(Error::Closed { phase })
        }
        Err(source) => Err(Error::Io { phase, source }),
    }
}
