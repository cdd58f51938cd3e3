//! The ends of a cluster's controller: where instances run, and how gateways are reached.

use std::sync::Arc;

use super::{Error, Ground};
use crate::autoscale;
use crate::backend::Backend;
use crate::telemetry::metrics::Registry;

/// What a controller works upon.
pub(super) struct Ends {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) channels: autoscale::Channels,
    pub(super) registry: Registry,
}

/// Opens them.
pub(super) async fn open(_ground: &Ground) -> Result<Ends, Error> {
    Err(Error::Failed("this build has no backend for Kubernetes".to_owned()))
}
