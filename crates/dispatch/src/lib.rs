//! Which instance takes a request, and who waits: state machines without I/O, clock or randomness.
//!
//! - [`Dispatch`]: one gateway's view of one Revision: the slots granted to it, the requests that wait, which instance takes the next.
//! - [`routes`]: which Function answers a request: host, path, method.
//! - [`retry`]: whether a call whose instance failed may run again.
//! - [`Merge`]: what makes one of several gateways for a scaler, and [`Holding`], the other end of it.
//! - [`messages`](ToGateway): what a gateway and the scaler tell each other.
//!
//! Time comes in as `now`; the caller carries out the [`Action`]s that come back.

mod dispatch;
mod holding;
mod load;
mod merge;
mod messages;
pub mod retry;
pub mod routes;
mod shares;
mod verdicts;

pub use dispatch::Dispatch;
pub use holding::Holding;
pub use merge::{GatewayId, Merge, Out};
pub use messages::{
    Demand, Endpoint, EndpointAddress, Forwarding, Held, LoadReport, Resume, Share, StartCode, StartFailure,
    StartKind, ToGateway, ToScaler,
};
pub use verdicts::{Action, Admission, Grant, Granted, Origin, Placement, Policy, Refusal, Ticket};
