//! Frame kinds, flags, and the outline of a frame that the rules of a connection work on.

use std::fmt;

/// What a frame is. The numbers are the wire's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// First frame of a connection.
    Hello = 1,
    /// The instance's answer to it.
    Welcome = 2,
    /// Which code to load.
    Load = 3,
    /// How that went.
    Loaded = 4,
    /// Head of a call.
    Invoke = 5,
    /// The call is taken; on stream 0 the connection is attached.
    Accept = 6,
    /// Bytes of a body or an answer.
    Data = 7,
    /// More bytes may be sent.
    Credit = 8,
    /// Head of an answer.
    Answer = 9,
    /// Trailers; they end an answer.
    Trailers = 10,
    /// A call failed; on stream 0 the connection is refused.
    Error = 11,
    /// Nobody waits for the call.
    Cancel = 12,
    /// A cancelled call is over.
    End = 13,
    /// A log record.
    Log = 14,
    /// Are you there?
    Ping = 15,
    /// Yes.
    Pong = 16,
    /// Refused before anything ran.
    Busy = 17,
    /// Take no new calls; of the instance: it takes none.
    Drain = 18,
    /// This connection becomes plain HTTP/1.1.
    Attach = 19,
    /// The runtime ended.
    Exit = 20,
}

impl Kind {
    /// The kind of this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Load,
            4 => Self::Loaded,
            5 => Self::Invoke,
            6 => Self::Accept,
            7 => Self::Data,
            8 => Self::Credit,
            9 => Self::Answer,
            10 => Self::Trailers,
            11 => Self::Error,
            12 => Self::Cancel,
            13 => Self::End,
            14 => Self::Log,
            15 => Self::Ping,
            16 => Self::Pong,
            17 => Self::Busy,
            18 => Self::Drain,
            19 => Self::Attach,
            20 => Self::Exit,
            _ => return None,
        })
    }

    /// The name that the protocol page uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "hello",
            Self::Welcome => "welcome",
            Self::Load => "load",
            Self::Loaded => "loaded",
            Self::Invoke => "invoke",
            Self::Accept => "accept",
            Self::Data => "data",
            Self::Credit => "credit",
            Self::Answer => "answer",
            Self::Trailers => "trailers",
            Self::Error => "error",
            Self::Cancel => "cancel",
            Self::End => "end",
            Self::Log => "log",
            Self::Ping => "ping",
            Self::Pong => "pong",
            Self::Busy => "busy",
            Self::Drain => "drain",
            Self::Attach => "attach",
            Self::Exit => "exit",
        }
    }

    /// Where the frame belongs: to the connection (stream 0), to a call (any other), or to either.
    #[must_use]
    pub(crate) const fn stream_is_valid(self, stream: u32) -> bool {
        match self {
            Self::Hello
            | Self::Welcome
            | Self::Load
            | Self::Loaded
            | Self::Log
            | Self::Ping
            | Self::Pong
            | Self::Drain
            | Self::Attach
            | Self::Exit => stream == 0,
            Self::Invoke
            | Self::Data
            | Self::Credit
            | Self::Answer
            | Self::Trailers
            | Self::Cancel
            | Self::End
            | Self::Busy => stream != 0,
            Self::Accept | Self::Error => true,
        }
    }

    /// The flags that a frame of this kind may carry.
    pub(crate) const fn allowed_flags(self) -> u8 {
        match self {
            Self::Invoke => Flags::END.0 | Flags::ACCEPT.0,
            Self::Data | Self::Answer => Flags::END.0,
            _ => 0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The flags of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub(crate) u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The body or the answer is complete.
    pub const END: Self = Self(1);
    /// Say when you take the call.
    pub const ACCEPT: Self = Self(2);

    /// The flags END and ACCEPT as wished.
    #[must_use]
    pub const fn new(end: bool, accept: bool) -> Self {
        Self(end as u8 | (accept as u8) << 1)
    }

    /// The byte on the wire.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether END is set.
    #[must_use]
    pub const fn end(self) -> bool {
        self.0 & Self::END.0 != 0
    }

    /// Whether ACCEPT is set.
    #[must_use]
    pub const fn accept(self) -> bool {
        self.0 & Self::ACCEPT.0 != 0
    }
}

/// A frame without its contents: what [`crate::sequence`] judges. [`crate::Frame::outline`] makes one; a sender that writes frames without
/// building them makes its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outline {
    /// What it is.
    pub kind: Kind,
    /// Where it belongs; 0 is the connection.
    pub stream: u32,
    /// Its flags.
    pub flags: Flags,
    /// Body bytes in it (`invoke`, `data`, `answer`), or the bytes that a `credit` gives; 0 for the rest.
    pub amount: u32,
}

impl Outline {
    /// A frame without flags and body.
    #[must_use]
    pub const fn plain(kind: Kind, stream: u32) -> Self {
        Self { kind, stream, flags: Flags::NONE, amount: 0 }
    }
}
