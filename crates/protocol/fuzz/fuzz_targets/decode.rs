//! Bytes as an instance might send them: decoded, judged by the rules, and written again. No panic, and the same frame after a second trip.
#![no_main]

use bytes::BytesMut;
use hearth_protocol::sequence::Connection;
use hearth_protocol::{Kind, Outline, Role, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut buffer = BytesMut::from(input);
    let mut connection = Connection::new(Role::Invoke);
    connection.from_caller(Outline::plain(Kind::Hello, 0)).expect("hello opens a connection");
    while let Ok(Some(frame)) = decode(&mut buffer) {
        let outline = frame.outline();
        // Whose frame it is cannot be seen; both must bear it.
        if connection.from_instance(outline).is_err() {
            connection.from_caller(outline).ok();
        }
        let mut again = BytesMut::new();
        if frame.encode(&mut again).is_ok() {
            let second = decode(&mut again).expect("what was encoded can be decoded");
            assert_eq!(second.as_ref(), Some(&frame));
        }
    }
});
