//! The codec against everything: what goes in comes out, whatever the pieces; what is no frame is an error, and never a panic.
#![expect(
    clippy::unwrap_used,
    clippy::tests_outside_test_module,
    reason = "an integration test is one test module"
)]

#[path = "../fuzz/judge.rs"]
mod judge;

use std::path::Path;

use bytes::{Bytes, BytesMut};
use hearth_protocol::codec::HEADER_BYTES;
use hearth_protocol::sequence::{Connection, Phase};
use hearth_protocol::{
    Answer, CallError, Exit, Flags, Frame, HeaderLines, Hello, Invoke, Kind, Load, Loaded, LogRecord,
    LogStream, MAX_PAYLOAD, Outline, RequestId, Role, Signature, Welcome, decode,
};
use proptest::prelude::*;

fn body() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn request_id() -> impl Strategy<Value = RequestId> {
    "[!-~]{1,255}".prop_map(|text| RequestId::copied(&text).unwrap())
}

fn headers() -> impl Strategy<Value = HeaderLines> {
    prop::collection::vec(("[a-zA-Z0-9-]{1,20}", "[ -~\t]{0,40}"), 0..10)
        .prop_map(|pairs| HeaderLines::from_pairs(pairs).unwrap())
}

fn signature() -> impl Strategy<Value = Signature> {
    prop::sample::select(vec![Signature::Auto, Signature::Event, Signature::Http, Signature::Asgi])
}

fn error() -> impl Strategy<Value = CallError> {
    (any::<String>(), any::<String>(), any::<Option<String>>(), prop::collection::vec(any::<String>(), 0..3))
        .prop_map(|(kind, message, stack, lines)| CallError { kind, message, stack, lines })
}

fn hello() -> impl Strategy<Value = Hello> {
    let role = prop::sample::select(vec![Role::Invoke, Role::Control, Role::Attach]);
    (any::<u16>(), any::<u16>(), any::<String>(), role, any::<u64>()).prop_map(
        |(min_version, max_version, secret, role, logs_after)| Hello {
            min_version,
            max_version,
            secret,
            role,
            logs_after,
        },
    )
}

fn load() -> impl Strategy<Value = Load> {
    let env = prop::collection::btree_map(any::<String>(), any::<String>(), 0..4);
    (any::<String>(), any::<Option<String>>(), signature(), env, any::<(u32, u64, u32)>()).prop_map(
        |(code, handler, signature, env, (concurrency, memory_bytes, execute_timeout_ms))| Load {
            function: code.clone(),
            namespace: code.clone(),
            revision: code.clone(),
            code,
            handler,
            signature,
            env,
            concurrency,
            memory_bytes,
            execute_timeout_ms,
        },
    )
}

fn log() -> impl Strategy<Value = LogRecord> {
    let stream = prop::sample::select(vec![LogStream::Stdout, LogStream::Stderr, LogStream::Platform]);
    (any::<(u64, u64, bool, bool, u32)>(), stream, prop::option::of(request_id()), body()).prop_map(
        |((sequence, unix_micros, shared, truncated, dropped), stream, request_id, line)| LogRecord {
            sequence,
            unix_micros,
            stream,
            shared,
            truncated,
            dropped,
            request_id,
            line,
        },
    )
}

fn frame() -> impl Strategy<Value = Frame> {
    let stream = 1..=u32::MAX;
    prop_oneof![
        hello().prop_map(Frame::Hello),
        hello().prop_map(Frame::Attach),
        (any::<u16>(), any::<String>(), any::<u64>(), prop::option::of(signature())).prop_map(
            |(version, instance, served, signature)| Frame::Welcome(Welcome {
                version,
                instance,
                served,
                signature
            })
        ),
        load().prop_map(Frame::Load),
        signature().prop_map(|signature| Frame::Loaded(Loaded::Ok { signature })),
        error().prop_map(|error| Frame::Loaded(Loaded::Error(error))),
        (stream.clone(), any::<u32>(), request_id(), any::<(bool, bool)>(), body(), body()).prop_map(
            |(stream, deadline_ms, request_id, (accept, end), head, body)| Frame::Invoke {
                stream,
                invoke: Invoke { deadline_ms, request_id, accept, head, body, end }
            }
        ),
        any::<u32>().prop_map(|stream| Frame::Accept { stream }),
        (stream.clone(), body(), any::<bool>()).prop_map(|(stream, bytes, end)| Frame::Data {
            stream,
            bytes,
            end
        }),
        (stream.clone(), any::<u32>()).prop_map(|(stream, bytes)| Frame::Credit { stream, bytes }),
        (stream.clone(), 200..600_u16, headers(), body(), any::<bool>()).prop_map(
            |(stream, status, headers, body, end)| Frame::Answer {
                stream,
                answer: Answer { status, headers, body, end }
            }
        ),
        (stream.clone(), headers()).prop_map(|(stream, lines)| Frame::Trailers { stream, lines }),
        (any::<u32>(), error()).prop_map(|(stream, error)| Frame::Error { stream, error }),
        stream.clone().prop_map(|stream| Frame::Cancel { stream }),
        stream.clone().prop_map(|stream| Frame::End { stream }),
        stream.prop_map(|stream| Frame::Busy { stream }),
        log().prop_map(Frame::Log),
        any::<[u8; 8]>().prop_map(Frame::Ping),
        any::<[u8; 8]>().prop_map(Frame::Pong),
        Just(Frame::Drain),
        any::<(Option<i32>, Option<i32>, bool)>()
            .prop_map(|(code, signal, out_of_memory)| Frame::Exit(Exit { code, signal, out_of_memory })),
    ]
}

fn outline() -> impl Strategy<Value = Outline> {
    (1..=20_u8, 0..6_u32, any::<(bool, bool)>(), prop_oneof![0..100_u32, any::<u32>()]).prop_map(
        |(kind, stream, (end, accept), amount)| Outline {
            kind: Kind::from_number(kind).unwrap(),
            stream,
            flags: Flags::new(end, accept),
            amount,
        },
    )
}

/// Frames one after the other, some of them damaged, cut short or followed by anything: what gets past the first of them.
fn stream_of_bytes() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    // Small stream numbers, so that frames belong to calls of each other.
    let call = (1..4_u32, body(), any::<(bool, bool)>()).prop_map(|(stream, body, (accept, end))| {
        let request_id = RequestId::copied("r").unwrap();
        Frame::Invoke {
            stream,
            invoke: Invoke { deadline_ms: 0, request_id, accept, head: Bytes::new(), body, end },
        }
    });
    let of_call =
        (1..4_u32, body(), any::<bool>(), 0..7_u8).prop_map(|(stream, bytes, end, which)| match which {
            0 => Frame::Accept { stream },
            1 => Frame::Credit { stream, bytes: 7 },
            2 => Frame::Cancel { stream },
            3 => Frame::End { stream },
            4 => Frame::Busy { stream },
            5 => Frame::Answer {
                stream,
                answer: Answer { status: 200, headers: HeaderLines::default(), body: bytes, end },
            },
            _ => Frame::Data { stream, bytes, end },
        });
    let welcome = Welcome { version: 1, instance: String::new(), served: 0, signature: None };
    let one = prop_oneof![1 => frame(), 3 => call, 6 => of_call, 1 => Just(Frame::Welcome(welcome))];
    (prop::collection::vec((one, damage), 0..20), body()).prop_map(|(frames, rest)| {
        let mut bytes = BytesMut::new();
        for (frame, damage) in frames {
            let mut one = BytesMut::new();
            frame.encode(&mut one).unwrap();
            if let Some((at, byte)) = damage {
                let at = at.index(one.len());
                one[at] = byte;
            }
            bytes.extend_from_slice(&one);
        }
        [bytes.as_ref(), rest.as_ref()].concat()
    })
}

#[test]
fn what_was_kept_by_fuzzing_still_holds() {
    let mut judged = 0;
    for directory in ["seeds", "corpus/decode", "artifacts/decode"] {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(directory);
        for file in std::fs::read_dir(directory).into_iter().flatten() {
            judge::judge(&std::fs::read(file.unwrap().path()).unwrap());
            judged += 1;
        }
    }
    assert!(judged >= 5, "the seeds are there");
}

proptest! {
    #[test]
    fn any_stream_of_bytes_is_borne(bytes in stream_of_bytes()) {
        judge::judge(&bytes);
    }

    #[test]
    fn frames_come_back_whatever_the_pieces(frames in prop::collection::vec(frame(), 1..6), size in 1..200_usize) {
        let mut wire = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut wire).unwrap();
        }
        let (mut buffer, mut decoded) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decode(&mut buffer).unwrap() {
                decoded.push(frame);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn a_frame_split_at_any_byte_waits_for_the_rest(frame in frame()) {
        let mut wire = BytesMut::new();
        frame.encode(&mut wire).unwrap();
        for at in 0..wire.len() {
            let mut buffer = BytesMut::from(&wire[..at]);
            prop_assert!(decode(&mut buffer).unwrap().is_none());
            prop_assert_eq!(buffer.len(), at, "nothing is taken early");
            buffer.extend_from_slice(&wire[at..]);
            prop_assert_eq!(decode(&mut buffer).unwrap(), Some(frame.clone()));
        }
    }

    #[test]
    fn arbitrary_bytes_are_frames_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(_)) = decode(&mut buffer) {}
    }

    #[test]
    fn a_damaged_frame_is_a_frame_or_an_error(frame in frame(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut wire = BytesMut::new();
        frame.encode(&mut wire).unwrap();
        let at = at.index(wire.len());
        wire[at] = byte;
        while let Ok(Some(frame)) = decode(&mut wire) {
            // Whatever it is now can be written again.
            frame.encode(&mut BytesMut::new()).unwrap();
        }
    }

    #[test]
    fn a_reader_never_has_to_hold_more_than_a_frame(header in any::<[u8; HEADER_BYTES]>()) {
        let mut buffer = BytesMut::from(&header[..]);
        if let Ok(None) = decode(&mut buffer) {
            let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
            prop_assert!(length as usize <= MAX_PAYLOAD);
        }
    }

    #[test]
    fn the_rules_hold_whatever_comes(
        role in prop::sample::select(vec![Role::Invoke, Role::Control, Role::Attach]),
        frames in prop::collection::vec((any::<bool>(), outline()), 0..60),
    ) {
        let mut connection = Connection::new(role);
        let first = if role == Role::Attach { Kind::Attach } else { Kind::Hello };
        connection.from_caller(Outline::plain(first, 0)).unwrap();
        let mut opened = 0;
        for (caller, frame) in frames {
            let before = connection.clone();
            let step = if caller { connection.from_caller(frame) } else { connection.from_instance(frame) };
            if step.is_err() {
                // A violation changes nothing.
                prop_assert_eq!(connection.open_calls(), before.open_calls());
                prop_assert_eq!(connection.phase(), before.phase());
                prop_assert_eq!(connection.next_stream(), before.next_stream());
            } else if frame.kind == Kind::Invoke {
                opened += 1;
                prop_assert_eq!(frame.stream, opened, "calls are numbered by one");
            }
            if step.is_ok() && frame.kind == Kind::Data && frame.amount > 0 && caller
                && let Some(call) = before.call(frame.stream) {
                prop_assert!(frame.amount <= call.body_window());
            }
            if connection.phase() == Phase::Closed || connection.phase() == Phase::Raw {
                prop_assert!(connection.from_caller(Outline::plain(Kind::Ping, 0)).is_err());
            }
        }
        prop_assert!(connection.open_calls() <= opened as usize);
    }
}
