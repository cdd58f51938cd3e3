//! The ends of a cluster's controller: where instances run, and how gateways are reached.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Error, Ground};
use crate::autoscale;
use crate::backend::Backend;
use crate::backend::kubernetes::{self, Kubernetes};
use crate::build;
use crate::hub::{self, Hub};
use crate::serve::stores;
use crate::telemetry::logs::Calls;
use crate::telemetry::metrics::Registry;

/// What a controller works upon.
pub(super) struct Ends {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) gateways: Gateways,
    pub(super) registry: Registry,
}

/// The way to the gateways.
pub(super) struct Gateways {
    /// Nobody is let in before it runs.
    pub(super) hub: Hub,
    pub(super) channels: autoscale::Channels,
    pub(super) calls: mpsc::Receiver<Calls>,
}

/// Opens them.
pub(super) async fn open(ground: &Ground) -> Result<Ends, Error> {
    let registry = Registry::new();
    let gateways = gateways(ground, &registry).await?;
    let backend = Kubernetes::open(pods(ground), &registry).await?;
    Ok(Ends { backend, gateways, registry })
}

/// Listens for gateways.
pub(super) async fn gateways(ground: &Ground, registry: &Registry) -> Result<Gateways, Error> {
    let config =
        hub::Config { listen: ground.config.controller.hub_listen, key: ground.key.0, settle: hub::SETTLE };
    let (hub, ends) = Hub::open(config, registry).await?;
    Ok(Gateways { hub, channels: ends.autoscaler, calls: ends.calls })
}

fn pods(ground: &Ground) -> kubernetes::Config {
    let cluster = &ground.config.cluster;
    let installed_bytes = ground.config.build.max_installed.as_bytes();
    kubernetes::Config {
        client: ground.client.clone(),
        namespace: cluster.namespace.clone(),
        namespaces: cluster.watch_namespaces.clone(),
        report_listen: ground.config.controller.report_listen,
        report_advertise: ground.report_advertise(),
        key: ground.key.0,
        pull_policy: cluster.pull_policy.clone(),
        // Every runtime image has it.
        shim_image: cluster.runtimes.program_image().map(str::to_owned),
        compared: ground.config.controller.pod_addresses,
        sizes: stores::pod_sizes(&ground.config),
        unpack: Arc::new(move |packed, into| build::unpack_result(packed, into, installed_bytes)),
    }
}
