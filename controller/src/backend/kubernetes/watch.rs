//! What the API server tells of Pods: ends, and what keeps one from starting.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt as _, TryStreamExt as _};
use hearth_function::InstanceId;
use hearth_protocol::Exit;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};

use super::instance::Instance;
use super::request::repeated;
use super::whereabouts::Whereabouts;
use super::{Shared, plain, why};

/// How a Pod ended that nobody has seen end: it was taken away, as by a node that is gone.
pub(super) const TAKEN_AWAY: Exit = Exit { code: None, signal: Some(9), out_of_memory: false };

/// Pauses between two looks for Pods of which the API server gave no answer: the first, and the longest. Each is twice the one before.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Follows the Pods of one namespace, or of all, until the backend is gone.
pub(super) async fn follow(shared: Weak<Shared>, api: Api<Pod>, selector: String) {
    let mut watching = Watching::of(api.namespace());
    let config = watcher::Config::default().labels(&selector);
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    loop {
        // Both arms are cancel-safe.
        let event = tokio::select! {
            event = events.try_next() => event,
            Some(instance) = watching.looking.next() => {
                let Some(shared) = shared.upgrade() else { return };
                gone(&shared, &instance, why::TAKEN.to_owned()).await;
                continue;
            }
        };
        // Errors are tried again, ever later: the stream has no end.
        let event = match event {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = crate::telemetry::chain(&error), "Pods cannot be watched now");
                continue;
            }
        };
        let Some(shared) = shared.upgrade() else { return };
        watching.take(&shared, event).await;
    }
}

/// What is known of the Pods of one namespace, or of all.
struct Watching {
    /// Which one.
    scope: Option<String>,
    /// What the API server has told since it began to tell of all Pods there.
    listed: Option<HashSet<InstanceId>>,
    /// Those of which it turns out that it left them out the last time because they are gone.
    looking: BoxStream<'static, Arc<Instance>>,
}

impl Watching {
    fn of(scope: Option<&str>) -> Self {
        Self { scope: scope.map(str::to_owned), listed: None, looking: stream::empty().boxed() }
    }

    /// Notes what the API server tells.
    async fn take(&mut self, shared: &Arc<Shared>, event: Event<Pod>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(pod) => {
                let known = shared.of_pod(&pod).map(|instance| instance.id.clone());
                self.listed.get_or_insert_default().extend(known);
                seen(shared, &pod).await;
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let missing = missing(shared, self.scope.as_deref(), &listed);
                // Whoever is being looked for is among them, if he was not found.
                self.looking = Look::at(shared, missing);
            }
            Event::Apply(pod) => seen(shared, &pod).await,
            Event::Delete(pod) => {
                seen(shared, &pod).await;
                shared.forget_stray(&pod);
                if let Some(instance) = shared.of_pod(&pod) {
                    gone(shared, &instance, why::taker(&pod)).await;
                }
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

/// The Pod of an instance is gone.
async fn gone(shared: &Shared, instance: &Arc<Instance>, why: String) {
    leaves(shared, instance, why, Duration::ZERO).await;
    shared.end(instance, TAKEN_AWAY).await;
    instance.gone.send_replace(true);
}

/// Instances that a list left out, though the API server has had their Pods: also those that nothing has reported of yet, as where no node
/// has room.
fn missing(shared: &Shared, scope: Option<&str>, listed: &HashSet<InstanceId>) -> Vec<Arc<Instance>> {
    // Of another namespace its own watch tells.
    let is_here = |one: &Instance| scope.is_none_or(|scope| *scope == *one.namespace);
    let books = shared.books();
    let known = books.values().filter(|one| one.is_made() && is_here(one));
    known.filter(|one| !listed.contains(&one.id)).cloned().collect()
}

/// A look for Pods that a list left out: it may be older than they are. As long as the API server does not say whether one is there, it is
/// asked again.
struct Look {
    shared: Weak<Shared>,
    left: Vec<Arc<Instance>>,
    /// Of those that come again, after a pause.
    unknown: Vec<Arc<Instance>>,
    pause: Duration,
}

impl Look {
    /// The instances whose Pods turn out to be gone.
    fn at(shared: &Arc<Shared>, missing: Vec<Arc<Instance>>) -> BoxStream<'static, Arc<Instance>> {
        let shared = Arc::downgrade(shared);
        let look = Self { shared, left: missing, unknown: Vec::new(), pause: LOOK_AGAIN.0 };
        stream::unfold(look, Self::next).fuse().boxed()
    }

    async fn next(mut self) -> Option<(Arc<Instance>, Self)> {
        loop {
            let mut why = None;
            while let Some(instance) = self.left.pop() {
                let shared = self.shared.upgrade()?;
                // Stopped meanwhile.
                if *instance.gone.borrow() {
                    continue;
                }
                let pods = shared.pods(&instance.namespace);
                match repeated(|| pods.get_metadata_opt(instance.id.as_str())).await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Some((instance, self)),
                    Err(error) => {
                        why = Some(plain(&error));
                        self.unknown.push(instance);
                    }
                }
            }
            if self.unknown.is_empty() {
                return None;
            }
            let (count, again) = (self.unknown.len(), humantime::format_duration(self.pause));
            tracing::warn!(count, error = why, %again, "instances are not listed, and nobody says whether they are gone");
            tokio::time::sleep(self.pause).await;
            self.pause = (self.pause * 2).min(LOOK_AGAIN.1);
            std::mem::swap(&mut self.left, &mut self.unknown);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

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
        let mut watching = Watching::of(None);
        for event in [
            Event::Apply(pod("evil", &stuck)),
            Event::Apply(pod("evil", &failed)),
            Event::InitApply(pod("evil", &failed)),
            Event::Delete(pod("evil", &failed)),
        ] {
            watching.take(&shared, event).await;
        }
        assert_eq!(watching.listed.take(), Some(HashSet::new()), "nor is it there when the other is listed");
        assert!(!instance.has_ended() && instance.obstacle.borrow().is_none() && !*instance.gone.borrow());
        assert!(ends.try_recv().is_err() && taken_away.try_recv().is_err());

        watching.take(&shared, Event::Delete(pod("default", &failed))).await;
        assert!(instance.has_ended() && *instance.gone.borrow());
        assert_eq!(ends.try_recv().unwrap().instance, instance.id);
    }

    /// An API server that answers every question so, in turn, and the last for ever.
    fn answering(codes: &'static [u16]) -> Arc<Shared> {
        let asked = Arc::new(AtomicUsize::new(0));
        let router = axum::Router::new().fallback(move || {
            let code = codes[asked.fetch_add(1, Ordering::AcqRel).min(codes.len() - 1)];
            async move { status(code) }
        });
        let client = kube::Client::new(router, "default");
        Arc::new(Shared::new(config(client), mpsc::channel(4).0, mpsc::channel(1).0, mpsc::channel(4).0))
    }

    fn status(code: u16) -> (StatusCode, axum::Json<Value>) {
        let reason = if code == 404 { "NotFound" } else { "InternalError" };
        let status = json!({ "kind": "Status", "status": "Failure", "reason": reason, "code": code });
        (StatusCode::from_u16(code).unwrap(), axum::Json(status))
    }

    fn instance(shared: &Shared) -> Arc<Instance> {
        let instance = Arc::new(Instance::new(spec("hello-a"), "default"));
        shared.books().insert(instance.id.clone(), Arc::clone(&instance));
        instance
    }

    /// To its end.
    async fn look(shared: &Shared, mut watching: Watching) {
        let looking = async {
            while let Some(instance) = watching.looking.next().await {
                gone(shared, &instance, why::TAKEN.to_owned()).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looking).await.expect("it has an end");
    }

    #[tokio::test]
    async fn a_list_of_one_namespace_says_nothing_of_another() {
        let shared = answering(&[404]);
        let instance = instance(&shared);
        instance.start_is_over();
        // Whoever were asked would say that it is gone.
        for (scope, is_gone) in [("shop", false), ("default", true)] {
            let mut watching = Watching::of(Some(scope));
            watching.take(&shared, Event::InitDone).await;
            look(&shared, watching).await;
            assert_eq!(instance.has_ended(), is_gone, "{scope}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_is_not_listed_is_looked_for_until_it_is_known_whether_it_is_there() {
        let shared = answering(&[500, 500, 404]);
        let instance = instance(&shared);
        instance.start_is_over();
        let mut watching = Watching::of(None);
        watching.take(&shared, Event::InitDone).await;
        assert!(!instance.has_ended(), "nothing waits for that");
        look(&shared, watching).await;
        assert!(instance.has_ended() && *instance.gone.borrow());
    }

    #[tokio::test]
    async fn one_whose_pod_is_not_made_yet_is_not_looked_for() {
        let shared = answering(&[404]);
        let instance = instance(&shared);
        let mut watching = Watching::of(None);
        watching.take(&shared, Event::InitDone).await;
        look(&shared, watching).await;
        assert!(!instance.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_waits_for_a_node_ends_with_its_pod_though_nobody_saw_that_go() {
        let make = axum::routing::post(|axum::Json(pod): axum::Json<Value>| async { axum::Json(pod) });
        let router =
            axum::Router::new().route("/api/v1/namespaces/default/pods", make).fallback(async || status(404));
        let (hinder, mut hindered) = mpsc::channel(4);
        let client = kube::Client::new(router, "default");
        let shared = Arc::new(Shared::new(config(client), mpsc::channel(4).0, hinder, mpsc::channel(4).0));
        let mut spec = spec("hello-a");
        spec.owner.as_mut().unwrap().uid = Some("uid-1".to_owned());
        let vanishes = async {
            while shared.find(&spec.id).is_none_or(|one| !one.is_made()) {
                tokio::task::yield_now().await;
            }
            let condition = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable" });
            let pending = json!({ "metadata": { "name": "hello-a", "namespace": "default" },
                "status": { "phase": "Pending", "conditions": [condition] } });
            seen(&shared, &serde_json::from_value(pending).unwrap()).await;
            hindered.recv().await.unwrap();
            let mut watching = Watching::of(None);
            watching.take(&shared, Event::InitDone).await;
            look(&shared, watching).await;
        };
        let (started, ()) = tokio::join!(shared.start(&spec), vanishes);
        let error = crate::telemetry::chain(&started.unwrap_err());
        assert!(error.contains("it ended before it reported"), "{error}");
    }
}
