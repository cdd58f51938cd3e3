//! Frames that no caller would send, to the bootstraps: whatever comes, a connection ends at most, and the runtime goes on serving.
//!
//! Only a controller can reach the socket; these are the nets below a mistake of its own. `HEARTH_FUZZ_ROUNDS` and `HEARTH_FUZZ_SEED` say
//! how long and from where.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use hearth_protocol::{Frame, Hello, Invoke, RequestId, Role};
use serde_json::json;

use crate::client::{PATIENCE, SECRET, Setup, Shim, pause};

/// xorshift64*: the same bytes for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next()).unwrap() % bound
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next().to_le_bytes()[0]).collect()
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn encoded(frame: &Frame) -> BytesMut {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

/// A frame by its parts, which need not fit.
fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u32(u32::try_from(payload.len()).unwrap());
    bytes.put_u8(kind);
    bytes.put_u8(flags);
    bytes.put_u32(stream);
    bytes.put_slice(payload);
    bytes
}

/// JSON that is none, or not what it should be.
const TEXTS: [&str; 8] = [
    "",
    "null",
    "[]",
    "5",
    "\"text\"",
    "{\"secret\":5,\"minVersion\":1,\"maxVersion\":1}",
    "{\"a\":",
    "\u{e9}",
];

fn invoke(random: &mut Random, stream: u32) -> BytesMut {
    let head = match random.below(3) {
        0 => random.one(&TEXTS).as_bytes().to_vec(),
        1 => random.bytes(64),
        _ => b"{\"rawPath\":\"/\",\"headers\":{}}".to_vec(),
    };
    let invoke = Invoke {
        deadline_ms: u32::try_from(random.below(10_000)).unwrap(),
        request_id: RequestId::copied("hostile").unwrap(),
        accept: random.below(2) == 0,
        head: head.into(),
        body: random.bytes(64).into(),
        end: random.below(2) == 0,
    };
    encoded(&Frame::Invoke { stream, invoke })
}

/// What is sent over one connection. Half of them begin as they should.
fn conversation(random: &mut Random) -> BytesMut {
    const DRAIN: u8 = 18;
    let mut bytes = BytesMut::new();
    if random.below(8) > 0 {
        bytes.extend(encoded(&Frame::Hello(Hello::new(Role::Invoke, SECRET))));
    }
    let mut last = 0;
    for _ in 0..random.below(20) {
        let stream = match random.below(4) {
            0 => u32::try_from(random.below(5)).unwrap(),
            1 => u32::MAX,
            _ => last,
        };
        let mut frame = match random.below(6) {
            0 | 1 => {
                last += 1;
                invoke(random, last)
            }
            // A load that names nothing is a load all the same, and there is only one.
            2 => match (random.one(&[1, 3, 5, 19]), random.one(&TEXTS)) {
                (3, text) if text.starts_with('{') && text.ends_with('}') => continue,
                (kind, text) => raw(kind, 0, 0, text.as_bytes()),
            },
            3 => raw(random.one(&[7, 8, 12]), random.one(&[0, 1, 255]), stream, &random.bytes(8)),
            4 => raw(15, 0, 0, &random.bytes(16)),
            // To drain is an order, and obeyed.
            _ => match random.next().to_le_bytes()[0] % 24 {
                DRAIN => continue,
                kind => raw(kind, random.one(&[0, 1, 2, 255]), stream, &random.bytes(40)),
            },
        };
        // One in eight is damaged, but for the byte that says what it is.
        if random.below(8) == 0 {
            let at = random.below(frame.len());
            if at != 4 {
                frame[at] = random.next().to_le_bytes()[0];
            }
        }
        if random.below(16) == 0 {
            frame.truncate(random.below(frame.len()));
        }
        bytes.extend(frame);
    }
    bytes
}

fn converse(shim: &Shim, bytes: &[u8]) {
    let mut stream = shim.connect("invoke.sock");
    // It may refuse in the middle.
    let _refused = stream.write_all(bytes).is_err();
    let _closed = stream.shutdown(Shutdown::Write).is_err();
    // As much as it has to say at once; it need not say when it is done.
    stream.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut answers = [0; 4096];
    while stream.read(&mut answers).is_ok_and(|read| read > 0) {}
}

fn survives(shim: &Shim, load_first: bool) {
    let seed = setting("HEARTH_FUZZ_SEED", 0x1234_5678_9abc_def1);
    let mut random = Random(seed);
    if load_first {
        shim.loaded(HANDLER);
    }
    for round in 0..setting("HEARTH_FUZZ_ROUNDS", 150) {
        converse(shim, &conversation(&mut random));
        let process = rustix::process::Pid::from_raw(i32::try_from(shim.pid()).unwrap()).unwrap();
        let there = rustix::process::test_kill_process(process).is_ok() && !shim.path("exit.json").exists();
        assert!(there, "the runtime has ended in round {round}; HEARTH_FUZZ_SEED={seed}");
    }
    let mut caller = if load_first { shim.invoke() } else { shim.loaded(HANDLER) };
    // Calls of broken connections end in their own time.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stream = caller.open("after", &json!({"rawPath": "/", "headers": {}}), b"", true);
        match caller.next() {
            Frame::Busy { .. } => {
                assert!(Instant::now() < deadline, "slots are lost; HEARTH_FUZZ_SEED={seed}");
                pause();
            }
            Frame::Answer { stream: of, answer } => {
                assert_eq!((of, answer.status), (stream, 200));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
}

const HANDLER: &str = "index.handler";
const NODE: &str = "exports.handler = async () => 'fine';";
const PYTHON: &str = "def handler(event, context):\n    return 'fine'\n";

#[test]
fn node_survives_whatever_comes() {
    survives(&Setup::node().file("index.js", NODE).start(), true);
}

#[test]
fn node_survives_whatever_comes_before_it_has_loaded() {
    survives(&Setup::node().file("index.js", NODE).start(), false);
}

#[test]
fn python_survives_whatever_comes() {
    survives(&Setup::python().file("index.py", PYTHON).start(), true);
}

#[test]
fn python_survives_whatever_comes_before_it_has_loaded() {
    survives(&Setup::python().file("index.py", PYTHON).start(), false);
}
