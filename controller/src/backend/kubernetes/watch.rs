//! What the API server tells of Pods: ends, and what keeps one from starting.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use hearth_function::InstanceId;
use hearth_protocol::Exit;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};

use super::instance::Instance;
use super::{Shared, pod, why};

/// How a Pod ended that nobody has seen end: it was taken away, as by a node that is gone.
const TAKEN_AWAY: Exit = Exit { code: None, signal: Some(9), out_of_memory: false };

/// Follows the Pods of one namespace, or of all, until the backend is gone.
pub(super) async fn follow(shared: Weak<Shared>, api: Api<Pod>, selector: String) {
    let config = watcher::Config::default().labels(&selector);
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed: Option<HashSet<InstanceId>> = None;
    loop {
        // Errors are tried again, ever later: the stream has no end.
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = crate::telemetry::chain(&error), "Pods cannot be watched now");
                continue;
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        match event {
            Event::Init => listed = Some(HashSet::new()),
            Event::InitApply(pod) => {
                listed.get_or_insert_default().extend(pod::instance(&pod));
                seen(&shared, &pod).await;
            }
            Event::InitDone => {
                let listed = listed.take().unwrap_or_default();
                missing(&shared, &listed).await;
            }
            Event::Apply(pod) => seen(&shared, &pod).await,
            Event::Delete(pod) => {
                seen(&shared, &pod).await;
                if let Some(instance) = pod::instance(&pod).and_then(|id| shared.find(&id)) {
                    leaves(&shared, &instance, why::taker(&pod), Duration::ZERO).await;
                    shared.end(&instance, TAKEN_AWAY).await;
                    instance.gone.send_replace(true);
                }
            }
        }
    }
}

async fn seen(shared: &Arc<Shared>, pod: &Pod) {
    let Some(instance) = pod::instance(pod).and_then(|id| shared.find(&id)) else { return };
    if let Some(exit) = why::ended(pod) {
        shared.end(&instance, exit).await;
    } else if let Some(left) = why::leaves_within(pod) {
        leaves(shared, &instance, why::taker(pod), left).await;
    }
    let obstacle = why::obstacle(pod);
    instance.obstacle.send_if_modified(|known| {
        let changed = *known != obstacle && instance.reported.borrow().is_none();
        if changed {
            *known = obstacle;
        }
        changed
    });
}

/// Tells, once, that an instance leaves that runs still, unless it is we who delete its Pod.
async fn leaves(shared: &Shared, instance: &Instance, why: String, left: Duration) {
    if instance.leaves() && !instance.has_ended() {
        shared.tell_taken_away(instance, why, left).await;
    }
}

/// Instances whose Pods went while nobody watched.
async fn missing(shared: &Arc<Shared>, listed: &HashSet<InstanceId>) {
    let known: Vec<_> = shared.books().values().filter(|one| one.is_started()).cloned().collect();
    for instance in known.into_iter().filter(|one| !listed.contains(&one.id)) {
        // This watch may be of another namespace, or older than the Pod.
        let found = shared.pods(&instance.namespace).get_metadata_opt(instance.id.as_str()).await;
        if matches!(found, Ok(None)) {
            leaves(shared, &instance, why::TAKEN.to_owned(), Duration::ZERO).await;
            shared.end(&instance, TAKEN_AWAY).await;
            instance.gone.send_replace(true);
        }
    }
}
