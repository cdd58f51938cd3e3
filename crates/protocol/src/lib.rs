//! The invocation protocol: what controller and gateway say to an instance, and what it answers.
//!
//! Frames over a byte stream (a Unix socket on one host, TCP to a Pod). Integers are big-endian.
//!
//! ```text
//! | length: u32 | kind: u8 | flags: u8 | stream: u32 | payload: length bytes |
//! ```
//!
//! `length` counts the payload alone and is at most [`MAX_PAYLOAD`]. Stream 0 is the connection itself; each call has a
//! stream of its own, whose number the caller gives, growing by one from 1.
//!
//! | kind | name | who | payload |
//! |---|---|---|---|
//! | 1 | `hello` | caller | JSON [`Hello`]: first frame of every connection |
//! | 2 | `welcome` | instance | JSON [`Welcome`]: the version both speak |
//! | 3 | `load` | caller | JSON [`Load`]: which code, which handler |
//! | 4 | `loaded` | instance | JSON [`Loaded`] |
//! | 5 | `invoke` | caller | head of a call, see below. Flags: END (body complete), ACCEPT (say when you take it) |
//! | 6 | `accept` | instance | empty: from here on the call is not safe to repeat. On stream 0: answer to `attach` |
//! | 7 | `data` | both | bytes of the body or the answer. Flag: END |
//! | 8 | `credit` | both | u32: so many bytes more may be sent on this stream |
//! | 9 | `answer` | instance | head of the answer, see below. Flag: END |
//! | 10 | `trailers` | both | header lines; implies END |
//! | 11 | `error` | instance | JSON [`CallError`]: the call ended without an answer, or its answer broke off. On stream 0: the connection is refused |
//! | 12 | `cancel` | caller | empty: nobody waits for this call. The instance still sends `end` when it is over |
//! | 13 | `end` | instance | empty: a cancelled call is over; its slot is free |
//! | 14 | `log` | shim | a log record, on the control connection only |
//! | 15 | `ping` | caller | any 8 bytes |
//! | 16 | `pong` | instance | the same 8 bytes |
//! | 17 | `busy` | instance | empty: refused before anything ran; it can go elsewhere |
//! | 18 | `drain` | both | empty, stream 0. Caller: take no new calls (`invoke` is answered by `busy`, `attach` by an `error` of type `Ending`), end the ones you have, then close. Instance: it was told so, by whomever; not on a control connection |
//! | 19 | `attach` | caller | JSON [`Hello`]: this connection becomes plain HTTP/1.1 after `accept`; an `error` of type `Ending` also where as many calls run as may |
//! | 20 | `exit` | shim | JSON [`Exit`]: the runtime ended; control connection only |
//!
//! A call is over when the instance has sent END on its answer (`answer`, `data` or `trailers`), `error`, `end` or `busy`.
//! Its slot is free then, and not before.
//!
//! **`invoke`**: `deadline_ms: u32` (time left; 0: none), `id_len: u8`, request id, `head_len: u32`, head (JSON), and the rest
//! is the first part of the body. For the `event` signature the head is the event itself (Function URL payload 2.0) with the
//! body in it when the whole body is there; for the others it is [`RequestHead`].
//!
//! **`answer`**: `status: u16`, `head_len: u32`, header lines (`name: value\n`, each), and the rest is the first part of the body.
//!
//! **`log`**: `sequence: u64`, `unix_micros: u64`, `stream: u8` (1 stdout, 2 stderr, 3 the platform's own), `flags: u8` (1 shared,
//! 2 truncated), `dropped: u32` (lines lost just before this one), `id_len: u8`, request id, and the rest is one line without its newline.
//!
//! **Credit.** Each direction of each stream starts with [`INITIAL_CREDIT`] bytes. Body bytes inside `invoke` and `answer` count.
//! Only the first frame's body goes before `accept` where ACCEPT was asked for.
//!
//! **Versions.** A `hello` carries the range the caller speaks; the instance answers with the highest that both do, or `error`.
//!
//! What comes out of an instance is hostile input: user code lives in that process.
//!
//! The modules: [`codec`] (bytes ↔ [`Frame`]), [`bodies`] (the JSON in them), [`headers`] (header lines), [`sequence`] (which frame is
//! legal when, credit), [`config`] (what a backend writes for the shim before it starts), [`report`] (how a shim that no backend can write to
//! asks for that), [`bundle`] (paths in archives, as both sides take them).

pub mod bodies;
pub mod bundle;
pub mod codec;
pub mod config;
pub mod frame;
pub mod headers;
pub mod kind;
pub mod report;
pub mod sequence;

pub use bodies::{CallError, Exit, Hello, Load, Loaded, RequestHead, Role, Signature, Welcome};
pub use codec::{DecodeError, EncodeError, decode};
pub use config::{ShimConfig, ShimProcess};
pub use frame::{Answer, Frame, Invoke, LogRecord, LogStream, RequestId};
pub use headers::HeaderLines;
pub use kind::{Flags, Kind, Outline};

/// The longest payload of a frame, in bytes: longer is a protocol violation and ends the connection.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// Bytes that may be sent on a stream, in each direction, before credit is given.
pub const INITIAL_CREDIT: u32 = 64 * 1024;

/// The oldest and the newest version of the protocol that this code speaks.
pub const VERSIONS: (u16, u16) = (1, 1);
