// What holds of any bytes: of the fuzz target, of the property tests, and of every file that either of them has ever kept.

use bytes::BytesMut;
use hearth_protocol::sequence::Connection;
use hearth_protocol::{Kind, Outline, Role, decode};

/// Decodes bytes as an instance might send them, has the rules judge them, and writes them again: no panic, the same frame after a second
/// trip, and a violation changes nothing.
pub(crate) fn judge(input: &[u8]) {
    for role in [Role::Invoke, Role::Control, Role::Attach] {
        let mut buffer = BytesMut::from(input);
        let mut connection = Connection::new(role);
        let first = if role == Role::Attach { Kind::Attach } else { Kind::Hello };
        connection.from_caller(Outline::plain(first, 0)).expect("its first frame opens a connection");
        while let Ok(Some(frame)) = decode(&mut buffer) {
            let outline = frame.outline();
            // Whose frame it is cannot be seen; both must bear it.
            let before = (connection.phase(), connection.open_calls(), connection.next_stream());
            if connection.from_instance(outline).is_err() {
                let after = (connection.phase(), connection.open_calls(), connection.next_stream());
                assert_eq!(before, after, "a violation changes nothing");
                connection.from_caller(outline).ok();
            }
            let mut again = BytesMut::new();
            if frame.encode(&mut again).is_ok() {
                let second = decode(&mut again).expect("what was encoded can be decoded");
                assert_eq!(second.as_ref(), Some(&frame));
            }
        }
    }
}
