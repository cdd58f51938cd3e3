//! Which instance takes a request, and who waits: state machines without I/O, clock or randomness.

mod messages;

pub use messages::{
    Endpoint, EndpointAddress, Forwarding, LoadReport, StartFailure, StartKind, ToGateway, ToScaler,
};
