//! The JSON bodies of frames. Unknown fields are skipped, so that a newer side can say more.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// First frame of a connection, and the body of `attach`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// Oldest version of the protocol that the caller speaks.
    pub min_version: u16,
    /// Newest version that it speaks.
    pub max_version: u16,
    /// The instance's secret, 64 hex digits: whoever can reach the socket must not be able to load code.
    pub secret: String,
    /// What the connection is for.
    pub role: Role,
    /// On a control connection: send the log records after this sequence number (0: all that the ring still has).
    #[serde(default)]
    pub logs_after: u64,
}

impl Hello {
    /// A `hello` of this code's versions.
    #[must_use]
    pub fn new(role: Role, secret: impl Into<String>) -> Self {
        let (min_version, max_version) = crate::VERSIONS;
        Self { min_version, max_version, secret: secret.into(), role, logs_after: 0 }
    }

    /// The newest version that both sides speak.
    #[must_use]
    pub fn common_version(&self) -> Option<u16> {
        let (oldest, newest) = crate::VERSIONS;
        let version = self.max_version.min(newest);
        (version >= self.min_version.max(oldest)).then_some(version)
    }
}

impl fmt::Debug for Hello {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hello")
            .field("versions", &(self.min_version..=self.max_version))
            .field("role", &self.role)
            .field("logs_after", &self.logs_after)
            .finish_non_exhaustive()
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Load and calls, on `invoke.sock`.
    Invoke,
    /// Logs, exit and drain, on `control.sock`.
    Control,
    /// Plain HTTP/1.1 after `accept`, on `invoke.sock`; the frame is `attach` then.
    Attach,
}

/// The instance's answer to `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Welcome {
    /// The version that both speak from here on.
    pub version: u16,
    /// The instance's name.
    pub instance: String,
    /// Calls that it has ended so far.
    #[serde(default)]
    pub served: u64,
    /// How the loaded handler is called; absent while no code is loaded. A controller that adopts the instance learns it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

/// How a handler is called. `auto` only in `load`; `loaded` says which it turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signature {
    /// Look at what the code exports.
    Auto,
    /// `(event, context)`: the head of a call is a Function URL event 2.0.
    Event,
    /// Node's `(req, res)`, or any HTTP server: the calls come over attached connections.
    Http,
    /// A web Request in, a web Response out.
    Fetch,
    /// An ASGI 3 application.
    Asgi,
    /// A WSGI application.
    Wsgi,
    /// A process for each call.
    Exec,
}

/// Which code to load, and as what. Once in an instance's life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// The directory of the code as the instance sees it: `/code`.
    pub code: String,
    /// `file.export`, as in `index.handler`; unused for `http` and `exec`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<String>,
    /// How to call it.
    pub signature: Signature,
    /// Environment on top of what the instance was started with (a pooled instance learns its function only now).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The Function's name, for the context: `hello`.
    pub function: String,
    /// Its namespace.
    pub namespace: String,
    /// Its Revision's name, for the context: `hello-00003`.
    pub revision: String,
    /// Calls it may run at once: log lines of raw descriptors are attributed by it, and Python sizes its threads.
    pub concurrency: u32,
    /// The function's memory limit in bytes, for the context.
    pub memory_bytes: u64,
    /// How long a call may run, in milliseconds: what `getRemainingTimeInMillis` counts from when a call has no deadline of its own. 0: no limit.
    #[serde(default)]
    pub execute_timeout_ms: u32,
}

/// How `load` went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Loaded {
    /// The handler can be called.
    Ok {
        /// How; never `auto`.
        signature: Signature,
    },
    /// It cannot. The instance is of no further use.
    Error(CallError),
}

/// Head of a call of every signature but `event`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestHead {
    /// `GET`.
    pub method: String,
    /// Path and query as the client sent them: `/a%20b?c=d`.
    pub target: String,
    /// `Host` or `:authority`.
    pub authority: String,
    /// `http` or `https`.
    pub scheme: String,
    /// Names in lower case, in the order they came. A value is bytes: each character of the string is one byte (ISO 8859-1).
    pub headers: Vec<(String, String)>,
    /// The client's address, as in `192.0.2.1:4711`.
    #[serde(default)]
    pub peer: String,
}

/// Why a call (or a load, or a connection) failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallError {
    /// A word for programs: the error's class (`TypeError`), or one of the instance's own, as in `HandlerMissing`. See [`error_type`].
    #[serde(rename = "type")]
    pub kind: String,
    /// A sentence for people.
    pub message: String,
    /// Where, if the language knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<String>,
    /// The last lines that the process printed, where they tell more than the message (a server that ended before it listened).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
}

impl CallError {
    /// An error without a stack.
    #[must_use]
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), stack: None, lines: Vec::new() }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind, self.message)
    }
}

/// The `type` words of [`CallError`] that the instance gives by itself; all others are classes of the user's language.
pub mod error_type {
    /// The secret in `hello` is not the instance's.
    pub const SECRET: &str = "SecretRefused";
    /// No common version.
    pub const VERSION: &str = "VersionRefused";
    /// A frame that is not legal here; the connection ends.
    pub const PROTOCOL: &str = "ProtocolViolation";
    /// A second `load`.
    pub const ALREADY_LOADED: &str = "AlreadyLoaded";
    /// A call before `load`.
    pub const NOT_LOADED: &str = "NotLoaded";
    /// The handler's file is not there.
    pub const FILE_MISSING: &str = "HandlerFileMissing";
    /// The file has no such export, or it is nothing that can be called.
    pub const HANDLER_MISSING: &str = "HandlerMissing";
    /// The file is of a kind that the runtime does not load (TypeScript), or the signature does not fit the runtime.
    pub const UNSUPPORTED: &str = "HandlerUnsupported";
    /// The code did not parse or threw while it was loaded; the message says the language's own error.
    pub const LOAD_FAILED: &str = "LoadFailed";
    /// The user's server or program ended, or could not be started.
    pub const PROCESS_ENDED: &str = "ProcessEnded";
    /// The handler gave an answer that HTTP cannot carry.
    pub const ANSWER_INVALID: &str = "AnswerInvalid";
    /// The process threw outside of any call and ends.
    pub const UNCAUGHT: &str = "UncaughtException";
    /// No connection is taken now, as `busy` says of a call: the instance is to end, or as many calls run as may. What would have come by it
    /// can go elsewhere.
    pub const ENDING: &str = "Ending";
    /// The call was to be upgraded, or is of a kind that this signature does not serve.
    pub const NOT_SERVED: &str = "NotServed";
}

/// How the runtime ended. Also the contents of `exit.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// The kernel killed it because the memory limit was reached.
    pub out_of_memory: bool,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.out_of_memory, self.code, self.signal) {
            (true, ..) => f.write_str("killed: out of memory"),
            (false, Some(code), _) => write!(f, "exit code {code}"),
            (false, None, Some(signal)) => write!(f, "killed by signal {signal}"),
            (false, None, None) => f.write_str("ended"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_what_the_bootstraps_read() {
        let loaded = Loaded::Ok { signature: Signature::Fetch };
        assert_eq!(serde_json::to_string(&loaded).unwrap(), r#"{"result":"ok","signature":"fetch"}"#);
        let failed = Loaded::Error(CallError::new(error_type::LOAD_FAILED, "no"));
        let json = serde_json::to_string(&failed).unwrap();
        assert_eq!(json, r#"{"result":"error","type":"LoadFailed","message":"no"}"#);
        assert_eq!(serde_json::from_str::<Loaded>(&json).unwrap(), failed);
        let hello =
            r#"{"minVersion":1,"maxVersion":1,"secret":"s","role":"control","logsAfter":7,"later":true}"#;
        let hello: Hello = serde_json::from_str(hello).unwrap();
        assert_eq!((hello.role, hello.logs_after), (Role::Control, 7));
    }

    #[test]
    fn both_sides_agree_on_the_newest_common_version() {
        let hello =
            |min_version, max_version| Hello { min_version, max_version, ..Hello::new(Role::Invoke, "") };
        assert_eq!(hello(1, 1).common_version(), Some(1));
        assert_eq!(hello(1, 9).common_version(), Some(1));
        assert_eq!(hello(2, 9).common_version(), None);
        assert_eq!(hello(0, 0).common_version(), None);
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert!(!format!("{:?}", Hello::new(Role::Invoke, "deadbeef")).contains("deadbeef"));
    }
}
