//! Carrying a call to its instance and the answer back.
//!
//! - [`frames`]: the connection that a gateway thread shares among all calls of one instance; [`event`] writes the heads.
//! - [`exchange`]: one call on it, from the request to the head of its answer; [`call`] is its state.
//! - [`attach`]: a dedicated connection for each call, plain HTTP/1.1 and upgrades; [`linger`] is its end when nobody waits for it.
//! - [`upgrade`]: a connection that is another protocol's; `websocket` says goodbye on one.
//! - [`socket`]: either kind of stream socket; `shared` is the one of a shared connection.

pub(super) mod attach;
pub(super) mod call;
pub(super) mod event;
pub(super) mod exchange;
pub(super) mod frames;
mod linger;
mod shared;
pub(super) mod socket;
pub(super) mod upgrade;
mod websocket;

use hearth_dispatch::retry::Accepted;
use hearth_protocol::CallError;
use hearth_protocol::bodies::error_type;

use super::errors::{Code, Failure};

/// A call that ended without (the rest of) an answer.
#[derive(Debug, Clone)]
pub(super) struct CallFailure {
    pub(super) what: What,
    /// What the instance had said by then.
    pub(super) accepted: Accepted,
}

/// What went wrong.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// The instance ended, cannot be reached, or broke the protocol.
    Lost(String),
    /// It refused the call before anything ran.
    Busy,
    /// The function threw, or its answer was none.
    Threw(CallError),
    /// The head of the answer did not come in time.
    ExecuteTimeout,
    /// The answer stood still for too long.
    IdleStream,
    /// The head of the call does not fit into a frame.
    TooLong,
}

impl What {
    /// Whether another instance could do better.
    pub(super) const fn concerns_instance(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Busy)
    }
}

impl From<What> for Failure {
    fn from(what: What) -> Self {
        match what {
            What::Lost(reason) => Self::new(
                Code::InstanceLost,
                format!("the instance was lost while it ran this call: {reason}"),
            ),
            What::Busy => {
                Self::new(Code::InstanceLost, "the instance refused the call: it had no room for it")
            }
            What::Threw(error) if error.kind == error_type::PROCESS_ENDED => Self::process_failed(&error),
            // The text is the function's own and may tell its secrets: it is in the function's log.
            What::Threw(error) => Self::new(
                Code::FunctionError,
                format!("the function failed with {}; its log has the details", error.kind),
            ),
            What::ExecuteTimeout => Self::new(
                Code::ExecuteTimeout,
                "the function did not answer within its time (timeouts.execute)",
            ),
            What::IdleStream => {
                Self::new(Code::IdleStream, "the answer stood still for too long (timeouts.idleStream)")
            }
            What::TooLong => {
                Self::new(Code::BadRequest, "the request's head and body do not fit into an event")
            }
        }
    }
}
