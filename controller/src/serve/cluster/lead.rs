//! The parts of the controller that leads, started in order and stopped again.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::super::addresses;
use super::super::parts::{Health, Wired};
use super::super::running::Tasks;
use super::super::stores::{self, Stores};
use super::super::{memory, wire};
use super::claims::Claims;
use super::depot::Depot;
use super::ends::{Ends, Gateways};
use super::events::Events;
use super::keyring::Keyring;
use super::table::OnPaper;
use super::{FINALIZER, Ground, label};
use crate::autoscale;
use crate::backend::{Backend, Found, InstanceSpec};
use crate::build::Dependencies;
use crate::pool::Pool;
use crate::store::{Store, kubernetes};
use crate::telemetry::chain;
use crate::telemetry::logs::Logs;
use crate::telemetry::metrics::Registry;
use crate::{api, deploy};

/// Instances that start at the same time where nothing is configured, 32: it is the cluster's machines that work, not this one.
const STARTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(31);

/// How long the deployer has to end the step that it is at.
const FOR_DEPLOYER: Duration = Duration::from_secs(5);

/// Pauses between two questions for the instances that there are: the first, and the longest. Each is twice the one before.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Remarks of the deployer that wait to become Events.
const REMARKS: usize = 256;

/// Why a part does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What is kept on this machine.
    #[error(transparent)]
    Stores(#[from] stores::Error),
    /// The management API.
    #[error(transparent)]
    Api(#[from] api::Error),
    /// The store.
    #[error("the watches of the API server ended")]
    Watches,
}

/// The running parts. Dropped, everything stops where it is.
#[derive(Debug)]
pub(super) struct Leading {
    health: Arc<Health>,
    tasks: Tasks,
    deploying: CancellationToken,
    /// Ends the hub: gateways go on with what they hold.
    leaving: CancellationToken,
    /// What the management API is about to show.
    wired: Option<Arc<Wired>>,
    api: Option<api::Api>,
    autoscaler: Option<autoscale::Handle>,
    dependencies: Arc<Dependencies>,
    logs: Logs,
    store: Store,
    backend: Arc<dyn Backend>,
}

/// Starts the parts.
///
/// # Cancel safety
/// What has begun is dropped where it is, as by [`Leading`] itself.
pub(super) async fn start(ground: &Ground, ends: Ends) -> Result<Leading, Error> {
    let config = &ground.config;
    let Ends { backend, gateways: Gateways { hub, channels, calls }, registry } = ends;
    let mut tasks = Tasks::default();
    let logs = stores::open_logs(config, &mut tasks)?;

    tasks.spawn("call log", wire::keep_calls(calls, logs.clone()));

    let store = open_store(ground, &mut tasks, &registry).await?;
    let versions = store.changes();
    tasks.spawn("memory", async move {
        memory::run(versions).await;
        Ok(())
    });
    let adoptable = stores::adoptable(found(backend.as_ref()).await, &store, &logs).await?;
    let running = adoptable.iter().filter(|one| one.found.stays());
    let of = |spec: &InstanceSpec| Some((spec.owner.as_ref()?.revision.clone(), spec.root.clone()));
    let left: HashMap<_, _> = running.filter_map(|one| of(&one.found.spec)).collect();
    let stores = Stores::open(config, &backend)?;

    let pool = Pool::new(Arc::clone(&backend), logs.clone());
    let (service, autoscaler) =
        autoscale::Service::new(scaling(ground), pool, logs.clone(), channels, adoptable, &registry);
    tasks.spawn("autoscaler", async move {
        service.run().await;
        Ok(())
    });
    let (remarks, remarked) = mpsc::channel(REMARKS);
    let (store_of_events, reporter) = (store.clone(), ground.place.clone());
    let (events, sender) =
        Events::new(store_of_events, autoscaler.watch(), remarked, isolation(ground), reporter);
    let client = ground.client.clone();
    tasks.spawn("events", async move {
        tokio::join!(events.run(), sender.run(client));
        Ok(())
    });

    let deploying = CancellationToken::new();
    let depot = Arc::new(Depot::new(
        ground.client.clone(),
        &config.cluster.namespace,
        config.controller.keep_bundles.as_bytes(),
    ));
    let sources = deploy::Sources {
        program_image: config.cluster.runtimes.program_image().map(str::to_owned),
        interpreters: config.cluster.runtimes.catalogue(),
        depot: Some(depot.clone()),
        keyring: Some(Arc::new(Keyring(ground.client.clone()))),
        ..stores.sources(&backend)
    };
    let routes = deploy::Routes::default();
    routes.open(Arc::new(OnPaper));
    let parts = deploy::Parts {
        store: store.clone(),
        sources,
        autoscaler: autoscaler.clone(),
        routes,
        logs: logs.clone(),
        left,
        remarks: Some(remarks),
    };
    let deployer = deploy::Service::new(deploying_config(ground), parts, &registry);
    // What was serving is known again before anybody is told where it is.
    tasks.deploy(deployer, deploying.clone()).await;
    let leaving = CancellationToken::new();
    let left = leaving.clone();
    tasks.spawn("hub", async move {
        hub.run(left).await;
        Ok(())
    });

    let health = Arc::new(Health::default());
    let wired = Wired {
        autoscaler: autoscaler.clone(),
        backend: Arc::clone(&backend),
        bundles: stores.bundles,
        images: stores.images,
        logs: logs.clone(),
        metrics: registry,
        gateway: gateway_address(ground),
        health: Arc::clone(&health),
        depot: Some(depot),
    };
    let (autoscaler, wired) = (Some(autoscaler), Some(Arc::new(wired)));
    Ok(Leading {
        health,
        tasks,
        deploying,
        leaving,
        wired,
        api: None,
        autoscaler,
        dependencies: stores.dependencies,
        logs,
        store,
        backend,
    })
}

/// The instances of an earlier controller, as soon as the API server tells them: another that led would get the same answer. Whoever holds
/// the Lease sees to it that this has an end.
async fn found(backend: &dyn Backend) -> Vec<Found> {
    let (mut pause, longest) = ASK_AGAIN;
    loop {
        match backend.list().await {
            Ok(found) => return found,
            Err(error) => {
                let (error, again) = (chain(&error), humantime::format_duration(pause));
                tracing::warn!(error, %again, "which instances there are cannot be seen, and nothing begins before that");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn open_store(ground: &Ground, tasks: &mut Tasks, metrics: &Registry) -> Result<Store, Error> {
    let namespaces = ground.config.cluster.watch_namespaces.clone();
    let installation = Some(ground.config.cluster.namespace.clone());
    let opened = kubernetes::open(ground.client.clone(), &kubernetes::Config { namespaces, installation });
    let kubernetes::Opened { store, follower, listed, elsewhere } = opened;
    let follower = follower.measured(metrics);
    tasks.spawn("watches", async move {
        follower.run().await;
        Ok(())
    });
    listed.await.map_err(|_| Error::Watches)?;
    let mine = &ground.config.cluster.namespace;
    let claims = Claims::new(ground.client.clone(), mine, &ground.place, elsewhere);
    tasks.spawn("claims", async move {
        claims.run().await;
        Ok(())
    });
    Ok(store)
}

fn scaling(ground: &Ground) -> autoscale::Config {
    let config = &ground.config;
    autoscale::Config {
        parallelism: config.start.parallelism.and_then(NonZeroU32::new).unwrap_or(STARTS),
        drain: config.drain.deadline,
        prewarm: wire::prewarming(config, wire::POOLED_IN_CLUSTER),
        // Instances are on other machines, whose kubelets see to it.
        keep_free_bytes: Some(0),
    }
}

fn deploying_config(ground: &Ground) -> deploy::Config {
    let config = &ground.config;
    let trimmed = |url: &String| addresses::bracketed(url.trim_end_matches('/'));
    let url = trimmed(&config.controller.gateway_url);
    deploy::Config {
        url_inside: Some(config.controller.gateway_url_inside.as_ref().map_or_else(|| url.clone(), trimmed)),
        url,
        keeping: stores::keeping(config),
        finalizer: Some(FINALIZER),
        isolation: isolation(ground),
    }
}

fn isolation(ground: &Ground) -> deploy::Isolation {
    deploy::Isolation::listed(&ground.config.controller.network_policies)
}

/// Host and port of the gateways, for calls by the management API.
fn gateway_address(ground: &Ground) -> String {
    let controller = &ground.config.controller;
    let url = controller.gateway_url_inside.as_ref().unwrap_or(&controller.gateway_url);
    // The configuration lets no other through.
    let url: http::Uri = addresses::bracketed(url).parse().unwrap_or_default();
    format!("{}:{}", url.host().unwrap_or("localhost"), url.port_u16().unwrap_or(80))
}

impl Leading {
    /// Begins to answer on the management port, which must be free, and has the Service lead here.
    pub(super) async fn answer(&mut self, ground: &Ground) -> Result<(), Error> {
        let Some(wired) = self.wired.take() else { return Ok(()) };
        let config = &ground.config;
        let api_config = api::Config { listen: config.controller.management, ..config.api() };
        self.api =
            Some(api::start_beside(api_config, ground.token.clone(), self.store.clone(), wired).await?);
        if ground.is_pod {
            let (client, pod) = (ground.client.clone(), ground.place.clone());
            let namespace = config.cluster.namespace.clone();
            self.tasks.spawn("label", async move {
                label::lead(&client, &namespace, &pod).await;
                // It stays as long as this process leads, and a part that ends has failed.
                std::future::pending().await
            });
        }
        Ok(())
    }

    /// Returns when a part has ended by itself: which, and why.
    pub(super) async fn failed(&mut self) -> String {
        self.tasks.failed().await
    }

    /// Ends the work, and leaves instances and objects as they are.
    pub(super) async fn stop(mut self) {
        self.health.stopping();
        self.leaving.cancel();
        self.deploying.cancel();
        let deployer = async {
            while self.tasks.runs("deployer") {
                if self.tasks.next().await.is_none() {
                    return;
                }
            }
        };
        if tokio::time::timeout(FOR_DEPLOYER, deployer).await.is_err() {
            tracing::warn!("a step of a deployment is cut off: the next controller takes it again");
        }
        self.dependencies.close().await;
        if let Some(api) = self.api.take() {
            api.stop().await;
        }
        // Without a handle the autoscaler ends, and leaves the instances.
        (self.autoscaler, self.wired) = (None, None);
        self.logs.close().await;
        self.store.clone().close().await;
        self.tasks.abort().await;
        if let Err(error) = self.backend.close().await {
            tracing::warn!(error = chain(&error), "the backend left something behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::fake::Fake;

    #[tokio::test(start_paused = true)]
    async fn instances_that_cannot_be_listed_are_asked_for_until_they_can() {
        let backend = Fake::new();
        backend.fail_lists(2);
        let begin = tokio::time::Instant::now();
        assert!(found(backend.as_ref()).await.is_empty());
        assert_eq!(begin.elapsed().as_secs(), 3, "twice as long each time");
    }
}
