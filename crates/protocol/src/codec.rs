//! Frames to bytes and back.
//!
//! [`decode`] takes frames off the front of a buffer without copying bodies. What it reads is hostile (INV-13): a length is judged before anything
//! is waited for, so that a buffer never has to hold more than [`HEADER_BYTES`] + [`MAX_PAYLOAD`], and JSON is bounded by
//! [`MAX_JSON`]. The `put_*` functions write a frame without building it first: what the gateway does for each request.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::MAX_PAYLOAD;
use crate::frame::{Answer, Frame, Invoke, LogRecord, LogStream, RequestId};
use crate::headers::{self, HeaderLines};
use crate::kind::{Flags, Kind};

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 10;

/// Longest JSON body of a frame, in bytes (`load` carries an environment, `error` a stack). The head of a call is bounded by
/// [`MAX_PAYLOAD`] alone.
pub const MAX_JSON: usize = 256 * 1024;

/// Why bytes are not a frame. The connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The payload would be longer than this kind may be.
    #[error("a {kind} frame of {length} bytes is too long")]
    TooLong {
        /// Of this frame.
        kind: Kind,
        /// As its header says.
        length: u32,
    },
    /// No such kind.
    #[error("frame kind {0} does not exist")]
    UnknownKind(u8),
    /// The contents do not have the form that the kind asks for.
    #[error("malformed {kind} frame: {what}")]
    Malformed {
        /// Of this frame.
        kind: Kind,
        /// What is wrong.
        what: &'static str,
    },
    /// The JSON body is not what the kind asks for.
    #[error("malformed {kind} frame")]
    Json {
        /// Of this frame.
        kind: Kind,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The header lines are not what HTTP allows.
    #[error("malformed {kind} frame")]
    Headers {
        /// Of this frame.
        kind: Kind,
        /// What is wrong.
        #[source]
        source: headers::Error,
    },
}

/// Why a frame cannot be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} frame of {length} bytes is too long")]
pub struct EncodeError {
    /// Of this frame.
    pub kind: Kind,
    /// Its payload's length.
    pub length: usize,
}

/// Takes one frame off the front of `buffer`; `None` when the bytes of it are not all there yet.
///
/// # Errors
/// When the bytes are no frame. The buffer is then in no particular state: end the connection.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
    let Some((header, _)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [l0, l1, l2, l3, number, flags, s0, s1, s2, s3] = *header;
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    let stream = u32::from_be_bytes([s0, s1, s2, s3]);
    let kind = Kind::from_number(number).ok_or(DecodeError::UnknownKind(number))?;
    if flags & !kind.allowed_flags() != 0 {
        return Err(DecodeError::Malformed { kind, what: "unknown flags" });
    }
    if !kind.stream_is_valid(stream) {
        return Err(DecodeError::Malformed { kind, what: "wrong stream" });
    }
    let size = length as usize;
    if size > longest_payload(kind) {
        return Err(DecodeError::TooLong { kind, length });
    }
    if buffer.len() < HEADER_BYTES + size {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let payload = buffer.split_to(size).freeze();
    frame(kind, Flags(flags), stream, payload).map(Some)
}

/// The longest payload that a frame of this kind may have.
const fn longest_payload(kind: Kind) -> usize {
    match kind {
        Kind::Invoke | Kind::Data | Kind::Answer | Kind::Log => MAX_PAYLOAD,
        Kind::Trailers => headers::MAX_BYTES,
        Kind::Credit => 4,
        Kind::Ping | Kind::Pong => 8,
        Kind::Accept | Kind::Cancel | Kind::End | Kind::Busy | Kind::Drain => 0,
        Kind::Hello | Kind::Welcome | Kind::Load | Kind::Loaded | Kind::Error | Kind::Attach | Kind::Exit => {
            MAX_JSON
        }
    }
}

fn frame(kind: Kind, flags: Flags, stream: u32, payload: Bytes) -> Result<Frame, DecodeError> {
    let malformed = |what| DecodeError::Malformed { kind, what };
    Ok(match kind {
        Kind::Hello => Frame::Hello(json(kind, &payload)?),
        Kind::Welcome => Frame::Welcome(json(kind, &payload)?),
        Kind::Load => Frame::Load(json(kind, &payload)?),
        Kind::Loaded => Frame::Loaded(json(kind, &payload)?),
        Kind::Invoke => Frame::Invoke { stream, invoke: invoke(flags, payload).map_err(malformed)? },
        Kind::Accept => Frame::Accept { stream },
        Kind::Data => Frame::Data { stream, bytes: payload, end: flags.end() },
        Kind::Credit => {
            let bytes = payload.as_ref().try_into().map_err(|_| malformed("not four bytes"))?;
            Frame::Credit { stream, bytes: u32::from_be_bytes(bytes) }
        }
        Kind::Answer => Frame::Answer { stream, answer: answer(flags, payload)? },
        Kind::Trailers => Frame::Trailers {
            stream,
            lines: HeaderLines::parse(payload).map_err(|source| DecodeError::Headers { kind, source })?,
        },
        Kind::Error => Frame::Error { stream, error: json(kind, &payload)? },
        Kind::Cancel => Frame::Cancel { stream },
        Kind::End => Frame::End { stream },
        Kind::Log => Frame::Log(log(payload).map_err(malformed)?),
        Kind::Ping => Frame::Ping(payload.as_ref().try_into().map_err(|_| malformed("not eight bytes"))?),
        Kind::Pong => Frame::Pong(payload.as_ref().try_into().map_err(|_| malformed("not eight bytes"))?),
        Kind::Busy => Frame::Busy { stream },
        Kind::Drain => Frame::Drain,
        Kind::Attach => Frame::Attach(json(kind, &payload)?),
        Kind::Exit => Frame::Exit(json(kind, &payload)?),
    })
}

fn json<T: DeserializeOwned>(kind: Kind, payload: &[u8]) -> Result<T, DecodeError> {
    serde_json::from_slice(payload).map_err(|source| DecodeError::Json { kind, source })
}

/// `size` bytes off the front, sharing their memory.
fn take(payload: &mut Bytes, size: usize) -> Result<Bytes, &'static str> {
    if payload.len() < size {
        return Err("shorter than it says");
    }
    Ok(payload.split_to(size))
}

fn take_array<const N: usize>(payload: &mut Bytes) -> Result<[u8; N], &'static str> {
    take(payload, N)?.as_ref().try_into().map_err(|_| "shorter than it says")
}

fn take_request_id(payload: &mut Bytes) -> Result<Option<RequestId>, &'static str> {
    let [length] = take_array(payload)?;
    let text = take(payload, usize::from(length))?;
    if text.is_empty() {
        return Ok(None);
    }
    RequestId::new(text).map(Some).ok_or("a request id that is not visible ASCII")
}

fn invoke(flags: Flags, mut payload: Bytes) -> Result<Invoke, &'static str> {
    let deadline_ms = u32::from_be_bytes(take_array(&mut payload)?);
    let request_id = take_request_id(&mut payload)?.ok_or("no request id")?;
    let head_length = u32::from_be_bytes(take_array(&mut payload)?);
    let head = take(&mut payload, head_length as usize)?;
    Ok(Invoke { deadline_ms, request_id, accept: flags.accept(), head, body: payload, end: flags.end() })
}

fn answer(flags: Flags, mut payload: Bytes) -> Result<Answer, DecodeError> {
    let kind = Kind::Answer;
    let malformed = |what| DecodeError::Malformed { kind, what };
    let status = u16::from_be_bytes(take_array(&mut payload).map_err(malformed)?);
    if !(200..=599).contains(&status) {
        return Err(malformed("a status that is not final"));
    }
    let head_length = u32::from_be_bytes(take_array(&mut payload).map_err(malformed)?);
    let lines = take(&mut payload, head_length as usize).map_err(malformed)?;
    let headers = HeaderLines::parse(lines).map_err(|source| DecodeError::Headers { kind, source })?;
    Ok(Answer { status, headers, body: payload, end: flags.end() })
}

fn log(mut payload: Bytes) -> Result<LogRecord, &'static str> {
    let sequence = u64::from_be_bytes(take_array(&mut payload)?);
    let unix_micros = u64::from_be_bytes(take_array(&mut payload)?);
    let [stream, flags] = take_array(&mut payload)?;
    let stream = match stream {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        3 => LogStream::Platform,
        _ => return Err("no such log stream"),
    };
    if flags & !3 != 0 {
        return Err("unknown log flags");
    }
    let dropped = u32::from_be_bytes(take_array(&mut payload)?);
    let request_id = take_request_id(&mut payload)?;
    let (shared, truncated) = (flags & 1 != 0, flags & 2 != 0);
    Ok(LogRecord { sequence, unix_micros, stream, shared, truncated, dropped, request_id, line: payload })
}

/// Appends `frame` to `out`.
pub(crate) fn encode(frame: &Frame, out: &mut BytesMut) -> Result<(), EncodeError> {
    match frame {
        Frame::Hello(body) => put_json(out, Kind::Hello, 0, body),
        Frame::Welcome(body) => put_json(out, Kind::Welcome, 0, body),
        Frame::Load(body) => put_json(out, Kind::Load, 0, body),
        Frame::Loaded(body) => put_json(out, Kind::Loaded, 0, body),
        Frame::Invoke { stream, invoke } => put_invoke(
            out,
            *stream,
            Flags::new(invoke.end, invoke.accept),
            invoke.deadline_ms,
            &invoke.request_id,
            |out| out.extend_from_slice(&invoke.head),
            &invoke.body,
        ),
        Frame::Data { stream, bytes, end } => put_data(out, *stream, bytes, *end),
        Frame::Credit { stream, bytes } => {
            put_credit(out, *stream, *bytes);
            Ok(())
        }
        Frame::Answer { stream, answer } => {
            put(out, Kind::Answer, Flags::new(answer.end, false), *stream, |out| {
                out.put_u16(answer.status);
                // Header lines are at most 64 KiB.
                out.put_u32(u32::try_from(answer.headers.as_bytes().len()).unwrap_or(u32::MAX));
                out.extend_from_slice(answer.headers.as_bytes());
                out.extend_from_slice(&answer.body);
            })
        }
        Frame::Trailers { stream, lines } => put(out, Kind::Trailers, Flags::NONE, *stream, |out| {
            out.extend_from_slice(lines.as_bytes());
        }),
        Frame::Error { stream, error } => put_json(out, Kind::Error, *stream, error),
        Frame::Log(record) => put_log(out, record),
        Frame::Ping(bytes) => put(out, Kind::Ping, Flags::NONE, 0, |out| out.extend_from_slice(bytes)),
        Frame::Pong(bytes) => put(out, Kind::Pong, Flags::NONE, 0, |out| out.extend_from_slice(bytes)),
        Frame::Attach(body) => put_json(out, Kind::Attach, 0, body),
        Frame::Exit(body) => put_json(out, Kind::Exit, 0, body),
        Frame::Accept { .. }
        | Frame::Cancel { .. }
        | Frame::End { .. }
        | Frame::Busy { .. }
        | Frame::Drain => {
            let outline = frame.outline();
            put_plain(out, outline.kind, outline.stream);
            Ok(())
        }
    }
}

/// Appends `invoke`. `head` writes the JSON of the head (the event, or a [`crate::RequestHead`]); `body` is its first part, and
/// END in `flags` says that it is all of it.
///
/// # Errors
/// When head and body together are too long; `out` is as before then.
pub fn put_invoke(
    out: &mut BytesMut,
    stream: u32,
    flags: Flags,
    deadline_ms: u32,
    request_id: &RequestId,
    head: impl FnOnce(&mut BytesMut),
    body: &[u8],
) -> Result<(), EncodeError> {
    put(out, Kind::Invoke, flags, stream, |out| {
        out.put_u32(deadline_ms);
        let id = request_id.as_str().as_bytes();
        out.put_u8(u8::try_from(id.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(id);
        let at = out.len();
        out.put_u32(0);
        head(out);
        let length = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
        out[at..at + 4].copy_from_slice(&length.to_be_bytes());
        out.extend_from_slice(body);
    })
}

/// Appends `data`.
///
/// # Errors
/// When `bytes` are too long for one frame.
pub fn put_data(out: &mut BytesMut, stream: u32, bytes: &[u8], end: bool) -> Result<(), EncodeError> {
    put(out, Kind::Data, Flags::new(end, false), stream, |out| out.extend_from_slice(bytes))
}

/// Appends the header of a `data` frame alone: the caller writes the `length` bytes of its payload right after it, from where they are.
///
/// # Errors
/// When they are too long for one frame.
pub fn put_data_header(out: &mut BytesMut, stream: u32, length: usize, end: bool) -> Result<(), EncodeError> {
    match u32::try_from(length) {
        Ok(length) if length as usize <= MAX_PAYLOAD => {
            put_header(out, length, Kind::Data, Flags::new(end, false), stream);
            Ok(())
        }
        _ => Err(EncodeError { kind: Kind::Data, length }),
    }
}

/// Appends `credit`.
pub fn put_credit(out: &mut BytesMut, stream: u32, bytes: u32) {
    put_header(out, 4, Kind::Credit, Flags::NONE, stream);
    out.put_u32(bytes);
}

/// Appends a frame that has no payload: `accept`, `cancel`, `end`, `busy`, `drain`.
pub fn put_plain(out: &mut BytesMut, kind: Kind, stream: u32) {
    debug_assert_eq!(longest_payload(kind), 0, "{kind} has a payload");
    put_header(out, 0, kind, Flags::NONE, stream);
}

/// Appends `log`.
///
/// # Errors
/// When the line is too long.
pub fn put_log(out: &mut BytesMut, record: &LogRecord) -> Result<(), EncodeError> {
    put(out, Kind::Log, Flags::NONE, 0, |out| {
        out.put_u64(record.sequence);
        out.put_u64(record.unix_micros);
        out.put_u8(record.stream as u8);
        out.put_u8(u8::from(record.shared) | u8::from(record.truncated) << 1);
        out.put_u32(record.dropped);
        let id = record.request_id.as_ref().map_or("", RequestId::as_str).as_bytes();
        out.put_u8(u8::try_from(id.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(id);
        out.extend_from_slice(&record.line);
    })
}

fn put_json(out: &mut BytesMut, kind: Kind, stream: u32, body: &impl Serialize) -> Result<(), EncodeError> {
    let mut failed = false;
    put(out, kind, Flags::NONE, stream, |out| {
        // The bodies are plain structures with text keys: only the writer could fail, and memory does not.
        failed = serde_json::to_writer(out.writer(), body).is_err();
    })?;
    debug_assert!(!failed, "a body that JSON cannot carry");
    Ok(())
}

fn put_header(out: &mut BytesMut, length: u32, kind: Kind, flags: Flags, stream: u32) {
    out.reserve(HEADER_BYTES);
    out.put_u32(length);
    out.put_u8(kind as u8);
    out.put_u8(flags.bits());
    out.put_u32(stream);
}

/// Appends a frame whose payload `write` appends; the length is filled in afterwards.
fn put(
    out: &mut BytesMut,
    kind: Kind,
    flags: Flags,
    stream: u32,
    write: impl FnOnce(&mut BytesMut),
) -> Result<(), EncodeError> {
    let start = out.len();
    put_header(out, 0, kind, flags, stream);
    write(out);
    let length = out.len() - start - HEADER_BYTES;
    match u32::try_from(length) {
        Ok(field) if length <= longest_payload(kind) => {
            out[start..start + 4].copy_from_slice(&field.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(EncodeError { kind, length })
        }
    }
}
