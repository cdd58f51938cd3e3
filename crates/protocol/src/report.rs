//! The report connection: how an instance that its backend cannot reach into (a Pod) learns what to run, gets its files and tells its end.
//!
//! The shim connects to the controller, and not the other way round. Every connection begins with the shim's [`Hello`]; what it is for, its
//! [`Purpose`] says. Messages are frames of a 4-byte big-endian length, at most [`MAX_MESSAGE`], and that much JSON.
//!
//! ```text
//!  report     shim: hello (report, running: false)       controller: start                    shim: mounted (number 0)
//!                                                         controller: mount ... end            shim: mounted ... ended
//!             shim: hello (report, running: true)        controller: goOn, mount ... end      shim: mounted ... ended
//!  fetch      shim: hello (fetch, digest)                controller: blob, then the tar, raw
//!  result     shim: hello (result, digest, bytes), then the tar, raw                          controller: taken
//!  any        controller: elsewhere (it is not the leader: again later), or refused (the instance ends)
//! ```
//!
//! The connection stays open for the instance's life; its break tells the controller at once. The invocation protocol goes over other
//! connections, from the controller to the ports that the shim has told: they listen before the first hello, and what connects there is
//! answered once the runtime is up. There is no TLS here: contents are checked against digests that
//! come with [`ToShim::Start`] and [`ToShim::Mount`], and the token is good for this one instance.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Exit, ShimConfig};

/// The version that this code speaks.
pub const VERSION: u16 = 1;

/// The longest message, in bytes of JSON: longer is a violation and ends the connection. The largest one is a `start` with its environment.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Bytes before the JSON.
pub const HEADER_BYTES: usize = 4;

/// Port of the invocation protocol in an instance that reports.
pub const INVOKE_PORT: u16 = 7073;

/// Port of the shim's own connections ([`crate::Role::Control`]).
pub const CONTROL_PORT: u16 = 7074;

/// Environment variable of the shim: where the controller listens, `host:port`. Without it (or with a configuration file) nothing is reported.
pub const ADDRESS_VARIABLE: &str = "HEARTH_REPORT";

/// Environment variable of the shim: the instance's name.
pub const INSTANCE_VARIABLE: &str = "HEARTH_INSTANCE";

/// Environment variable of the shim: what proves that it is this instance.
pub const TOKEN_VARIABLE: &str = "HEARTH_TOKEN";

/// Environment variable of the shim: another port than [`INVOKE_PORT`]; 0 is any that is free.
pub const INVOKE_PORT_VARIABLE: &str = "HEARTH_INVOKE_PORT";

/// Environment variable of the shim: another port than [`CONTROL_PORT`]; 0 is any that is free.
pub const CONTROL_PORT_VARIABLE: &str = "HEARTH_CONTROL_PORT";

/// Where a job finds, and leaves, what is built. A start's mount of this name may be written to, and what is in it at the end is the job's
/// result.
pub const BUILD_DIRECTORY: &str = "/build";

/// What of the build directory is for the job alone (its home, caches, certificates): no part of the result.
pub const BUILD_PRIVATE: &str = ".hearth";

/// Number by which the mounts of [`ToShim::Start`] are answered.
pub const START: u32 = 0;

/// What the shim says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum FromShim {
    /// First message of every connection.
    Hello(Hello),
    /// Report: how a [`ToShim::Mount`] went, or the mounts of [`ToShim::Start`]. After those that failed the instance ends.
    Mounted {
        /// The mount's, or [`START`].
        number: u32,
        /// Why it failed, for people; the instance is of no use then.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Report: the runtime has ended, and the shim goes.
    Ended {
        /// How.
        exit: Exit,
    },
}

/// What the controller says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum ToShim {
    /// Report: answer to `running: false`.
    Start {
        /// What to run. Where it is unpacked, the modes are the shim's affair.
        config: Box<ShimConfig>,
        /// What to unpack before.
        mounts: Vec<Mount>,
    },
    /// Report: answer to `running: true`. The instance is known.
    GoOn,
    /// Report: unpack this while the runtime runs. Answered by [`FromShim::Mounted`].
    Mount {
        /// Chosen by the controller, from 1 on; the answer repeats it.
        number: u32,
        /// What to unpack.
        mounts: Vec<Mount>,
    },
    /// Report: end, as by SIGTERM. Answered by [`FromShim::Ended`].
    End,
    /// Fetch: the tar follows, raw, and then the connection ends.
    Blob {
        /// Its length.
        bytes: u64,
    },
    /// Result: it has arrived whole and is what its digest says.
    Taken,
    /// The controller that answers is not the leader: try again later.
    Elsewhere,
    /// The instance is not wanted, or not the one it says: the shim ends.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

/// First message of a connection.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Which the shim speaks: [`VERSION`].
    pub version: u16,
    /// The instance's name.
    pub instance: String,
    /// Proves that it is this instance.
    pub token: String,
    /// What the connection is for.
    pub purpose: Purpose,
}

impl fmt::Debug for Hello {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("version", &self.version)
            .field("instance", &self.instance)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "camelCase")]
pub enum Purpose {
    /// Orders and their answers, for as long as the instance lives.
    Report {
        /// The instance runs already: the connection had broken.
        running: bool,
        /// Port of the invocation protocol, at the address that the connection comes from.
        invoke: u16,
        /// Port of the shim's own connections, at the same address.
        control: u16,
    },
    /// One tar.
    Fetch {
        /// Of the tar: `sha256:` and 64 hex digits.
        digest: String,
    },
    /// A job's [`BUILD_DIRECTORY`] as it is at the job's end; the tar follows, raw.
    Result {
        /// Of the tar: `sha256:` and 64 hex digits.
        digest: String,
        /// Its length.
        bytes: u64,
    },
}

/// A tar that is unpacked in the instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Of the tar, uncompressed: `sha256:` and 64 hex digits.
    pub digest: String,
    /// Its length.
    pub bytes: u64,
    /// The directory that it is unpacked in, which is there already and empty: `/code`.
    pub at: String,
}

/// Why bytes are no message. The connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a report message of {0} bytes is too long")]
    TooLong(usize),
    /// Not what is spoken here.
    #[error("malformed report message")]
    Json(#[source] serde_json::Error),
}

/// Why a message cannot be sent: it would be longer than [`MAX_MESSAGE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a report message of {0} bytes is too long")]
pub struct EncodeError(pub usize);

/// Takes one message off the front of `buffer`; `None` when the bytes of it are not all there yet. What follows it (a tar) is left alone.
///
/// # Errors
/// When the bytes are no message.
pub fn decode<M: DeserializeOwned>(buffer: &mut BytesMut) -> Result<Option<M>, DecodeError> {
    let Some((header, rest)) = buffer.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*header) as usize;
    // Judged before anything is waited for: a buffer never has to hold more (INV-13).
    if length > MAX_MESSAGE {
        return Err(DecodeError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = serde_json::from_slice(body).map_err(DecodeError::Json)?;
    buffer.advance(HEADER_BYTES + length);
    Ok(Some(message))
}

/// Appends a message to `out`.
///
/// # Errors
/// When it is too long; `out` is as it was.
pub fn encode<M: Serialize>(message: &M, out: &mut BytesMut) -> Result<(), EncodeError> {
    let before = out.len();
    out.put_u32(0);
    // A BytesMut takes everything, and these types have no form that JSON cannot say.
    let written = serde_json::to_writer((&mut *out).writer(), message);
    debug_assert!(written.is_ok(), "{written:?}");
    let length = out.len() - before - HEADER_BYTES;
    match u32::try_from(length) {
        Ok(header) if length <= MAX_MESSAGE => {
            out[before..before + HEADER_BYTES].copy_from_slice(&header.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(before);
            Err(EncodeError(length))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ShimProcess;

    #[test]
    fn the_json_is_what_another_version_reads() {
        let purpose = Purpose::Report { running: true, invoke: 7073, control: 7074 };
        let hello = FromShim::Hello(Hello { version: 1, instance: "i".into(), token: "t".into(), purpose });
        assert_eq!(
            serde_json::to_string(&hello).unwrap(),
            r#"{"kind":"hello","version":1,"instance":"i","token":"t","purpose":{"for":"report","running":true,"invoke":7073,"control":7074}}"#
        );
        let known = r#"{"kind":"goOn","later":true}"#;
        assert_eq!(serde_json::from_str::<ToShim>(known).unwrap(), ToShim::GoOn);
        assert!(serde_json::from_str::<ToShim>(r#"{"kind":"later"}"#).is_err());
    }

    #[test]
    fn secrets_are_not_printed() {
        let purpose = Purpose::Fetch { digest: "sha256:00".into() };
        let hello = Hello { version: 1, instance: "i".into(), token: "deadbeef".into(), purpose };
        assert!(!format!("{hello:?}").contains("deadbeef"));
        let job = ShimProcess::Job { command: Vec::new() };
        let config = Box::new(ShimConfig::new("i", "deadbeef", job, 1, 1));
        assert!(!format!("{:?}", ToShim::Start { config, mounts: Vec::new() }).contains("deadbeef"));
    }

    #[test]
    fn a_message_that_is_too_long_is_not_sent() {
        let mut out = BytesMut::from(&b"before"[..]);
        let message = ToShim::Refused { reason: "x".repeat(MAX_MESSAGE) };
        assert!(matches!(encode(&message, &mut out), Err(EncodeError(length)) if length > MAX_MESSAGE));
        assert_eq!(out, "before");
    }

    #[test]
    fn a_length_is_judged_before_its_bytes_are_there() {
        let mut buffer = BytesMut::from(&[0, 0x10, 0, 1][..]);
        assert!(
            matches!(decode::<ToShim>(&mut buffer), Err(DecodeError::TooLong(length)) if length == MAX_MESSAGE + 1)
        );
    }
}
