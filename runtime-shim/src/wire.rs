//! Frames over a socket, as the instance's side sees them.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use hearth_protocol::bodies::error_type;
use hearth_protocol::sequence::{Connection, Violation};
use hearth_protocol::{CallError, DecodeError, Frame, Hello, Role, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::socket::{Reader, Stream, Writer};

/// Bytes made ready for one read.
const READ_BYTES: usize = 16 * 1024;

/// How long whoever connects may take for its first frame.
const GREETING: Duration = Duration::from_secs(5);

/// Why a connection is of no further use.
#[derive(Debug)]
pub(crate) enum Error {
    /// The socket broke; there is nobody to tell.
    Io,
    /// The caller broke the protocol; it is told.
    Protocol(String),
}

impl From<io::Error> for Error {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.to_string())
    }
}

impl From<Violation> for Error {
    fn from(violation: Violation) -> Self {
        Self::Protocol(violation.to_string())
    }
}

/// Frames that come in.
#[derive(Debug)]
pub(crate) struct Incoming {
    reader: Reader,
    buffer: BytesMut,
}

impl Incoming {
    /// The next frame; `None` at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = decode(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            self.buffer.reserve(READ_BYTES);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// What comes in after the last frame, and what of it was read already.
    pub(crate) fn into_reader(self) -> (Reader, BytesMut) {
        (self.reader, self.buffer)
    }
}

/// A connection whose first frame was good. What answers it (`welcome`, or `accept` to an attach) is still to be sent.
#[derive(Debug)]
pub(crate) struct Greeted {
    /// The first frame.
    pub hello: Hello,
    /// The version of the protocol both speak.
    pub version: u16,
    /// What comes in after it.
    pub incoming: Incoming,
    /// Where answers go.
    pub writer: Writer,
    /// The rules, fed with the first frame.
    pub connection: Connection,
}

/// Reads the first frame and checks it; `None` when the connection was refused (and told why) or went away.
pub(crate) async fn greet(stream: Stream, secret: &str, roles: &[Role]) -> Option<Greeted> {
    let (reader, mut writer) = stream.into_split();
    let mut incoming = Incoming { reader, buffer: BytesMut::new() };
    let frame = match timeout(GREETING, incoming.next()).await {
        Ok(Ok(Some(frame))) => frame,
        Ok(Err(Error::Protocol(why))) => {
            refuse(&mut writer, error_type::PROTOCOL, &why).await;
            return None;
        }
        _ => return None,
    };
    let outline = frame.outline();
    let hello = match frame {
        Frame::Hello(hello) | Frame::Attach(hello) if roles.contains(&hello.role) => hello,
        other => {
            let why = format!("{} is not legal here", other.outline().kind);
            refuse(&mut writer, error_type::PROTOCOL, &why).await;
            return None;
        }
    };
    if !same(hello.secret.as_bytes(), secret.as_bytes()) {
        refuse(&mut writer, error_type::SECRET, "the secret is not this instance's").await;
        return None;
    }
    let Some(version) = hello.common_version() else {
        let (oldest, newest) = hearth_protocol::VERSIONS;
        let why = format!("this instance speaks versions {oldest} to {newest}");
        refuse(&mut writer, error_type::VERSION, &why).await;
        return None;
    };
    let mut connection = Connection::new(hello.role);
    if let Err(violation) = connection.from_caller(outline) {
        refuse(&mut writer, error_type::PROTOCOL, &violation.to_string()).await;
        return None;
    }
    Some(Greeted { hello, version, incoming, writer, connection })
}

/// Compares without telling by its duration where the first difference is.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Tells the caller why the connection ends.
pub(crate) async fn refuse(writer: &mut Writer, kind: &str, why: &str) {
    // Who does not listen any more need not be told.
    send(writer, &Frame::Error { stream: 0, error: CallError::new(kind, why) }).await.ok();
}

/// Writes one frame.
pub(crate) async fn send(writer: &mut Writer, frame: &Frame) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).map_err(io::Error::other)?;
    writer.write_all(&bytes).await
}

/// Frames that go out, from several tasks over one connection. What is in it is bounded by the credit of the calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outbox {
    bytes: Rc<RefCell<BytesMut>>,
    filled: Rc<Notify>,
    closed: Rc<Cell<bool>>,
}

impl Outbox {
    /// Puts a frame in.
    pub(crate) fn push(&self, frame: &Frame) {
        if self.closed.get() {
            return;
        }
        // The frames made here are far below the longest payload.
        let encoded = frame.encode(&mut self.bytes.borrow_mut());
        debug_assert!(encoded.is_ok(), "{encoded:?}");
        self.filled.notify_one();
    }

    /// Writes what is put in, until the connection breaks.
    pub(crate) async fn drain(&self, writer: &mut Writer) -> io::Result<()> {
        loop {
            let bytes = self.bytes.borrow_mut().split();
            if bytes.is_empty() {
                self.filled.notified().await;
            } else {
                writer.write_all(&bytes).await?;
            }
        }
    }

    /// Throws away what is put in from now on: the connection is gone.
    pub(crate) fn close(&self) {
        self.closed.set(true);
    }

    /// Writes what is left in it.
    pub(crate) async fn flush(&self, writer: &mut Writer) -> io::Result<()> {
        let bytes = self.bytes.borrow_mut().split();
        writer.write_all(&bytes).await
    }
}
