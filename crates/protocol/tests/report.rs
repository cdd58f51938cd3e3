//! The report connection's codec against everything.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is one test module")]

use bytes::BytesMut;
use hearth_protocol::report::{self, FromShim, Hello, Mount, Purpose, ToShim, decode, encode};
use hearth_protocol::{Exit, ShimConfig, ShimProcess};
use proptest::prelude::*;

fn purpose() -> impl Strategy<Value = Purpose> {
    prop_oneof![
        any::<(bool, u16, u16)>().prop_map(|(running, invoke, control)| Purpose::Report {
            running,
            invoke,
            control
        }),
        any::<String>().prop_map(|digest| Purpose::Fetch { digest }),
        any::<(String, u64)>().prop_map(|(digest, bytes)| Purpose::Result { digest, bytes }),
    ]
}

fn from_shim() -> impl Strategy<Value = FromShim> {
    prop_oneof![
        (any::<(u16, String, String)>(), purpose()).prop_map(|((version, instance, token), purpose)| {
            FromShim::Hello(Hello { version, instance, token, purpose })
        }),
        any::<(u32, Option<String>)>().prop_map(|(number, error)| FromShim::Mounted { number, error }),
        any::<(Option<i32>, Option<i32>, bool)>().prop_map(|(code, signal, out_of_memory)| FromShim::Ended {
            exit: Exit { code, signal, out_of_memory }
        }),
    ]
}

fn mounts() -> impl Strategy<Value = Vec<Mount>> {
    let mount = any::<(String, u64, String)>().prop_map(|(digest, bytes, at)| Mount { digest, bytes, at });
    prop::collection::vec(mount, 0..3)
}

fn config() -> impl Strategy<Value = ShimConfig> {
    let env = prop::collection::btree_map(any::<String>(), any::<String>(), 0..4);
    let process = prop_oneof![
        any::<String>().prop_map(|interpreter| ShimProcess::Nodejs { interpreter }),
        any::<Vec<String>>().prop_map(|command| ShimProcess::Job { command }),
    ];
    (any::<(String, String, u32, u64)>(), process, env, any::<Vec<String>>()).prop_map(
        |((instance, secret, concurrency, memory), process, env, inherit)| {
            let config = ShimConfig::new(instance, secret, process, concurrency, memory);
            ShimConfig { env, inherit, ..config }
        },
    )
}

fn to_shim() -> impl Strategy<Value = ToShim> {
    prop_oneof![
        (config(), mounts()).prop_map(|(config, mounts)| ToShim::Start { config: Box::new(config), mounts }),
        Just(ToShim::GoOn),
        (any::<u32>(), mounts()).prop_map(|(number, mounts)| ToShim::Mount { number, mounts }),
        any::<u64>().prop_map(|bytes| ToShim::Blob { bytes }),
        Just(ToShim::Taken),
        Just(ToShim::Elsewhere),
        any::<String>().prop_map(|reason| ToShim::Refused { reason }),
    ]
}

proptest! {
    #[test]
    fn what_the_controller_says_comes_back_whatever_the_pieces(
        messages in prop::collection::vec(to_shim(), 1..5), size in 1..200_usize,
    ) {
        let mut wire = BytesMut::new();
        for message in &messages {
            encode(message, &mut wire).unwrap();
        }
        let (mut buffer, mut decoded) = (BytesMut::new(), Vec::new());
        for piece in wire.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Some(message) = decode::<ToShim>(&mut buffer).unwrap() {
                decoded.push(message);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(decoded, messages);
    }

    #[test]
    fn what_the_shim_says_comes_back_and_the_tar_behind_it_is_left(
        message in from_shim(), tar in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut wire = BytesMut::new();
        encode(&message, &mut wire).unwrap();
        let length = wire.len();
        wire.extend_from_slice(&tar);
        for at in 0..length {
            let mut buffer = BytesMut::from(&wire[..at]);
            prop_assert!(decode::<FromShim>(&mut buffer).unwrap().is_none());
            prop_assert_eq!(buffer.len(), at, "nothing is taken early");
        }
        prop_assert_eq!(decode::<FromShim>(&mut wire).unwrap(), Some(message));
        prop_assert_eq!(&wire[..], &tar[..]);
    }

    #[test]
    fn arbitrary_bytes_are_messages_or_errors(bytes in prop::collection::vec(any::<u8>(), 0..400), small in any::<bool>()) {
        let mut buffer = BytesMut::from(&bytes[..]);
        if small && buffer.len() >= report::HEADER_BYTES {
            buffer[..3].fill(0);
        }
        while let Ok(Some(_)) = decode::<FromShim>(&mut buffer) {}
    }

    #[test]
    fn a_damaged_message_is_a_message_or_an_error(
        message in to_shim(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut wire = BytesMut::new();
        encode(&message, &mut wire).unwrap();
        let at = at.index(wire.len());
        wire[at] = byte;
        while let Ok(Some(message)) = decode::<ToShim>(&mut wire) {
            // Whatever it is now can be said again.
            encode(&message, &mut BytesMut::new()).unwrap();
        }
    }
}
