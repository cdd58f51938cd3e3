//! What stands on one line of a segment.

use std::time::Duration;

use hearth_dispatch::StartKind;
use hearth_function::{InstanceId, RevisionId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One thing that happened in a function.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Entry {
    /// It printed a line.
    Line(Line),
    /// A call ended.
    Call(CallRecord),
    /// Something about the log itself.
    Note(Note),
}

impl Entry {
    /// When it happened.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        match self {
            Self::Line(line) => line.time,
            Self::Call(call) => call.time,
            Self::Note(note) => note.time,
        }
    }

    /// The request it belongs to, where that is known for certain.
    #[must_use]
    pub fn request(&self) -> Option<&str> {
        match self {
            Self::Line(line) => line.request.as_deref(),
            Self::Call(call) => Some(&call.request),
            Self::Note(note) => note.request.as_deref(),
        }
    }
}

/// Where a line was printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// What the shim itself has to say, as in `the runtime exited with code 1`.
    Platform,
}

/// A line that a function printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// When it was printed, by the instance's clock.
    pub time: Timestamp,
    /// The call that printed it, where that is known for certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Which instance.
    pub instance: InstanceId,
    /// Of which Revision.
    pub revision: RevisionId,
    /// The number of the line in its instance, from 1, without gaps but for lost lines.
    pub sequence: u64,
    /// Where it was printed.
    pub stream: Stream,
    /// Several calls ran and any of them may have printed it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// It was longer than a line may be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
    /// The line without its end. Bytes that are not UTF-8 are replaced.
    pub text: String,
}

/// What a gateway says of a call that ended. Gateways write it of borrowed `Text`; what is read is owned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallRecord<Text = String> {
    /// When the request came in.
    pub time: Timestamp,
    /// Its id.
    pub request: Text,
    /// The Revision that it was for.
    pub revision: RevisionId,
    /// The instance that ran it last, if any did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// The method.
    pub method: Text,
    /// The path, without the query (which may hold secrets).
    pub path: Text,
    /// The status of the answer; 0 when the client went away before one was there.
    pub status: u16,
    /// The gateway's own error code, as in `execute_timeout`.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub code: Option<Text>,
    /// What it met.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<StartKind>,
    /// How often it was sent; more than once when an instance failed before it took the call.
    pub attempts: u32,
    /// Time waiting for a slot, without the start that it waited for.
    #[serde(with = "micros")]
    pub queue: Duration,
    /// The start that it waited for.
    #[serde(with = "micros")]
    pub init: Duration,
    /// Time from the hand-over to the instance until the end of the answer.
    #[serde(with = "micros")]
    pub exec: Duration,
    /// Bytes of the request's body.
    pub received: u64,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// The client went away before the answer was complete.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client_gone: bool,
}

/// What serde's own default cannot say of a `Text` that has none.
const fn none<Text>() -> Option<Text> {
    None
}

/// Durations as whole microseconds.
mod micros {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_micros)
    }
}

/// Something about the log itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Note {
    /// When it was noted.
    pub time: Timestamp,
    /// The call that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The instance that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// A sentence, as in `12 lines lost: printed faster than they could be written`.
    pub text: String,
}

impl Note {
    /// Lines of an instance were lost before they reached the log: it is told of the call whose line came next, as nobody knows whose they were.
    #[must_use]
    pub fn lost(time: Timestamp, request: Option<String>, instance: InstanceId, lines: u64) -> Self {
        let lines = if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") };
        let text = format!("{lines} lost: printed faster than they could be written");
        Self { time, request, instance: Some(instance), text }
    }

    /// A reader did not keep up.
    #[must_use]
    pub fn missed(entries: u64) -> Self {
        let entries = if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") };
        let text = format!("{entries} not shown: the reader was too slow");
        Self { time: Timestamp::now(), request: None, instance: None, text }
    }

    /// A call has printed all that is kept of one call.
    #[must_use]
    pub fn cut(time: Timestamp, request: String, limit: u64) -> Self {
        let text = format!("this call printed more than {limit} bytes; the rest is not kept");
        Self { time, request: Some(request), instance: None, text }
    }
}
