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
use super::request::repeated;
use super::whereabouts::Whereabouts;
use super::{Shared, why};

/// How a Pod ended that nobody has seen end: it was taken away, as by a node that is gone.
pub(super) const TAKEN_AWAY: Exit = Exit { code: None, signal: Some(9), out_of_memory: false };

/// Follows the Pods of one namespace, or of all, until the backend is gone.
pub(super) async fn follow(shared: Weak<Shared>, api: Api<Pod>, selector: String) {
    let scope = api.namespace().map(str::to_owned);
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
        take(&shared, event, scope.as_deref(), &mut listed).await;
    }
}

/// Notes what the API server tells of one namespace (`scope`), or of all; `listed`: what it has told since it began to tell of all Pods there.
async fn take(
    shared: &Arc<Shared>,
    event: Event<Pod>,
    scope: Option<&str>,
    listed: &mut Option<HashSet<InstanceId>>,
) {
    match event {
        Event::Init => *listed = Some(HashSet::new()),
        Event::InitApply(pod) => {
            listed.get_or_insert_default().extend(shared.of_pod(&pod).map(|instance| instance.id.clone()));
            seen(shared, &pod).await;
        }
        Event::InitDone => {
            let listed = listed.take().unwrap_or_default();
            missing(shared, scope, &listed).await;
        }
        Event::Apply(pod) => seen(shared, &pod).await,
        Event::Delete(pod) => {
            seen(shared, &pod).await;
            shared.forget_stray(&pod);
            if let Some(instance) = shared.of_pod(&pod) {
                leaves(shared, &instance, why::taker(&pod), Duration::ZERO).await;
                shared.end(&instance, TAKEN_AWAY).await;
                instance.gone.send_replace(true);
            }
        }
    }
}

pub(super) async fn seen(shared: &Shared, pod: &Pod) {
    let Some(instance) = shared.of_pod(pod) else { return shared.note_stray(pod) };
    let whereabouts = Whereabouts::of(pod);
    let moved = instance.whereabouts.send_if_modified(|known| {
        let news = *known != whereabouts;
        *known = whereabouts;
        news
    });
    if moved {
        shared.compare(&instance).await;
    }
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
async fn missing(shared: &Arc<Shared>, scope: Option<&str>, listed: &HashSet<InstanceId>) {
    // Of another namespace its own watch tells.
    let is_here = |one: &Instance| scope.is_none_or(|scope| *scope == *one.namespace);
    let known: Vec<_> =
        shared.books().values().filter(|one| one.is_started() && is_here(one)).cloned().collect();
    for instance in known.into_iter().filter(|one| !listed.contains(&one.id)) {
        // The list may be older than the Pod.
        let pods = shared.pods(&instance.namespace);
        let found = repeated(|| pods.get_metadata_opt(instance.id.as_str())).await;
        if matches!(found, Ok(None)) {
            leaves(shared, &instance, why::TAKEN.to_owned(), Duration::ZERO).await;
            shared.end(&instance, TAKEN_AWAY).await;
            instance.gone.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;

    use super::*;
    use crate::backend::kubernetes::tests::{config, spec};

    fn pod(namespace: &str, status: &Value) -> Pod {
        let metadata =
            json!({ "name": "hello-a", "namespace": namespace, "deletionTimestamp": "2026-01-01T00:00:30Z" });
        serde_json::from_value(json!({ "metadata": metadata, "status": status })).unwrap()
    }

    #[tokio::test]
    async fn what_becomes_of_a_pod_of_the_same_name_in_another_namespace_is_nobodys_affair() {
        let (end, mut ends) = mpsc::channel(4);
        let (take_away, mut taken_away) = mpsc::channel(4);
        // Of the API server there is nothing, so a Pod that a list leaves out is gone.
        let client = kube::Client::new(axum::Router::new(), "default");
        let shared = Arc::new(Shared::new(config(client), end, mpsc::channel(1).0, take_away));
        let instance = Arc::new(Instance::new(spec("hello-a"), "default"));
        instance.start_is_over();
        shared.books().insert(instance.id.clone(), Arc::clone(&instance));
        let failed = json!({ "phase": "Failed" });
        let stuck = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" }] });
        let mut listed = None;
        for event in [
            Event::Apply(pod("evil", &stuck)),
            Event::Apply(pod("evil", &failed)),
            Event::InitApply(pod("evil", &failed)),
            Event::Delete(pod("evil", &failed)),
        ] {
            take(&shared, event, None, &mut listed).await;
        }
        assert_eq!(listed.take(), Some(HashSet::new()), "nor is it there when the other is listed");
        assert!(!instance.has_ended() && instance.obstacle.borrow().is_none() && !*instance.gone.borrow());
        assert!(ends.try_recv().is_err() && taken_away.try_recv().is_err());

        take(&shared, Event::Delete(pod("default", &failed)), None, &mut listed).await;
        assert!(instance.has_ended() && *instance.gone.borrow());
        assert_eq!(ends.try_recv().unwrap().instance, instance.id);
    }

    #[tokio::test]
    async fn a_list_of_one_namespace_says_nothing_of_another() {
        let gone = json!({ "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404 });
        let router = axum::Router::new().fallback(async || (StatusCode::NOT_FOUND, axum::Json(gone)));
        let client = kube::Client::new(router, "default");
        let shared =
            Arc::new(Shared::new(config(client), mpsc::channel(4).0, mpsc::channel(1).0, mpsc::channel(4).0));
        let instance = Arc::new(Instance::new(spec("hello-a"), "default"));
        instance.start_is_over();
        shared.books().insert(instance.id.clone(), Arc::clone(&instance));
        // Whoever were asked would say that it is gone.
        take(&shared, Event::InitDone, Some("shop"), &mut None).await;
        assert!(!instance.has_ended());
        take(&shared, Event::InitDone, Some("default"), &mut None).await;
        assert!(instance.has_ended());
    }
}
