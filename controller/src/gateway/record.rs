//! What the gateway tells of each call when it has ended, for the logs.

use std::time::{Duration, SystemTime};

use hearth_dispatch::StartKind;
use hearth_function::{FunctionId, InstanceId, RevisionId};

/// One request that reached a Function, served or refused.
#[derive(Debug, Clone)]
pub struct CallRecord {
    /// Which Function.
    pub function: FunctionId,
    /// Which Revision.
    pub revision: RevisionId,
    /// Where it ran; `None` when it was refused before it ran.
    pub instance: Option<InstanceId>,
    /// `x-hearth-request-id`.
    pub request_id: String,
    /// The method.
    pub method: http::Method,
    /// The path, without query (a query may hold secrets).
    pub path: String,
    /// The status that the client got.
    pub status: u16,
    /// The code of Hearth's own error answer, as in `queue_full`; `None` when the function answered.
    pub error: Option<&'static str>,
    /// What the request met; `None` when it was refused before it ran.
    pub start: Option<StartKind>,
    /// How often it was sent.
    pub attempts: u32,
    /// When it came.
    pub began: SystemTime,
    /// From there to the moment it was sent, or refused.
    pub queued: Duration,
    /// From there to the head of the answer.
    pub executed: Duration,
    /// From its coming to the last byte of the answer.
    pub total: Duration,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Whether the client went before the answer was complete.
    pub client_gone: bool,
}
