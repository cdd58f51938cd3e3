//! A frame with its contents, typed.

use bytes::{Bytes, BytesMut};

use crate::bodies::{CallError, Exit, Hello, Load, Loaded, Welcome};
use crate::codec::{self, EncodeError};
use crate::headers::HeaderLines;
use crate::kind::{Flags, Kind, Outline};

/// One frame. Bodies share the memory of the buffer they were read into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// First frame of a connection.
    Hello(Hello),
    /// The instance's answer to it.
    Welcome(Welcome),
    /// Which code to load.
    Load(Load),
    /// How that went.
    Loaded(Loaded),
    /// Head of a call.
    Invoke {
        /// The call's number.
        stream: u32,
        /// Its contents.
        invoke: Invoke,
    },
    /// The call is taken; on stream 0 the connection is attached.
    Accept {
        /// The call's number.
        stream: u32,
    },
    /// Bytes of a body or an answer.
    Data {
        /// The call's number.
        stream: u32,
        /// They.
        bytes: Bytes,
        /// Whether these are the last.
        end: bool,
    },
    /// More bytes may be sent.
    Credit {
        /// The call's number.
        stream: u32,
        /// How many.
        bytes: u32,
    },
    /// Head of an answer.
    Answer {
        /// The call's number.
        stream: u32,
        /// Its contents.
        answer: Answer,
    },
    /// Trailers; they end the answer.
    Trailers {
        /// The call's number.
        stream: u32,
        /// They.
        lines: HeaderLines,
    },
    /// A call failed; on stream 0 the connection is refused or broken off.
    Error {
        /// The call's number.
        stream: u32,
        /// Why.
        error: CallError,
    },
    /// Nobody waits for the call.
    Cancel {
        /// The call's number.
        stream: u32,
    },
    /// A cancelled call is over.
    End {
        /// The call's number.
        stream: u32,
    },
    /// A log record.
    Log(LogRecord),
    /// Are you there? Any eight bytes.
    Ping([u8; 8]),
    /// Yes; the same bytes.
    Pong([u8; 8]),
    /// Refused before anything ran.
    Busy {
        /// The call's number.
        stream: u32,
    },
    /// Take no new calls; of the instance: it takes none.
    Drain,
    /// This connection becomes plain HTTP/1.1.
    Attach(Hello),
    /// The runtime ended.
    Exit(Exit),
}

/// The contents of `invoke`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invoke {
    /// Milliseconds that are left for the call; 0: no limit.
    pub deadline_ms: u32,
    /// The request id: 1 to 255 visible ASCII characters.
    pub request_id: RequestId,
    /// Whether the caller wants to hear `accept`.
    pub accept: bool,
    /// JSON: the event, or a [`crate::RequestHead`].
    pub head: Bytes,
    /// The first part of the body.
    pub body: Bytes,
    /// Whether that is all of it.
    pub end: bool,
}

/// The contents of `answer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 599: the final status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderLines,
    /// The first part of the body.
    pub body: Bytes,
    /// Whether that is all of it.
    pub end: bool,
}

/// One line that an instance printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Grows by one from 1 with each record that the shim keeps.
    pub sequence: u64,
    /// When the shim read it: microseconds since 1970.
    pub unix_micros: u64,
    /// Where it came from.
    pub stream: LogStream,
    /// Several calls were running, so that it is not known whose it is.
    pub shared: bool,
    /// It was longer than the limit, and its end is missing.
    pub truncated: bool,
    /// Lines lost just before this one, because nobody fetched them in time.
    pub dropped: u32,
    /// The call it belongs to, where that is certain.
    pub request_id: Option<RequestId>,
    /// The line, without its newline; any bytes.
    pub line: Bytes,
}

/// Where a log line came from. The numbers are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LogStream {
    /// Standard output.
    Stdout = 1,
    /// Standard error.
    Stderr = 2,
    /// The shim and the bootstraps themselves.
    Platform = 3,
}

/// A request id: 1 to 255 visible ASCII characters.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Bytes);

impl RequestId {
    /// Takes `text` as a request id; `None` if it is empty, too long or has other characters than visible ASCII.
    #[must_use]
    pub fn new(text: Bytes) -> Option<Self> {
        ((1..=255).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)).then_some(Self(text))
    }

    /// A copy of `text` as a request id, by the same rule.
    #[must_use]
    pub fn copied(text: &str) -> Option<Self> {
        Self::new(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII is taken in `new`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Frame {
    /// The frame without its contents, for [`crate::sequence`].
    #[must_use]
    pub fn outline(&self) -> Outline {
        // A payload is at most 1 MiB, so its length fits.
        let amount = |bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match self {
            Self::Hello(_) => Outline::plain(Kind::Hello, 0),
            Self::Welcome(_) => Outline::plain(Kind::Welcome, 0),
            Self::Load(_) => Outline::plain(Kind::Load, 0),
            Self::Loaded(_) => Outline::plain(Kind::Loaded, 0),
            Self::Invoke { stream, invoke } => Outline {
                kind: Kind::Invoke,
                stream: *stream,
                flags: Flags::new(invoke.end, invoke.accept),
                amount: amount(&invoke.body),
            },
            Self::Accept { stream } => Outline::plain(Kind::Accept, *stream),
            Self::Data { stream, bytes, end } => Outline {
                kind: Kind::Data,
                stream: *stream,
                flags: Flags::new(*end, false),
                amount: amount(bytes),
            },
            Self::Credit { stream, bytes } => {
                Outline { amount: *bytes, ..Outline::plain(Kind::Credit, *stream) }
            }
            Self::Answer { stream, answer } => Outline {
                kind: Kind::Answer,
                stream: *stream,
                flags: Flags::new(answer.end, false),
                amount: amount(&answer.body),
            },
            Self::Trailers { stream, .. } => Outline::plain(Kind::Trailers, *stream),
            Self::Error { stream, .. } => Outline::plain(Kind::Error, *stream),
            Self::Cancel { stream } => Outline::plain(Kind::Cancel, *stream),
            Self::End { stream } => Outline::plain(Kind::End, *stream),
            Self::Log(_) => Outline::plain(Kind::Log, 0),
            Self::Ping(_) => Outline::plain(Kind::Ping, 0),
            Self::Pong(_) => Outline::plain(Kind::Pong, 0),
            Self::Busy { stream } => Outline::plain(Kind::Busy, *stream),
            Self::Drain => Outline::plain(Kind::Drain, 0),
            Self::Attach(_) => Outline::plain(Kind::Attach, 0),
            Self::Exit(_) => Outline::plain(Kind::Exit, 0),
        }
    }

    /// Appends the frame to `out`.
    ///
    /// # Errors
    /// When the payload is longer than the protocol allows; `out` is as before then.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        codec::encode(self, out)
    }
}
