//! Pods that nobody owns: one whose making was never answered may be stored after all, and one that a leader made at its end may come after
//! the next has asked which there are. They are sealed, so a controller of this Hearth made them, and they are in no book. Nobody sends
//! calls to such a Pod; it is deleted a minute after it was seen.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hearth_function::InstanceId;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::{Instant, sleep};

use super::request::asked;
use super::standing::{self, Proof};
use super::{Shared, plain};

/// How long one has no owner before it is deleted.
const OLD: Duration = Duration::from_secs(60);

/// Between two looks.
const LOOK: Duration = Duration::from_secs(20);

/// Kept in mind at once. There are hardly ever any.
const MOST: usize = 1024;

/// Those that were seen, by their uids.
#[derive(Debug, Default)]
pub(super) struct Strays(Mutex<HashMap<String, Stray>>);

#[derive(Debug)]
struct Stray {
    namespace: String,
    instance: InstanceId,
    since: Instant,
}

impl Strays {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Stray>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of those that were seen some time ago, no longer kept in mind.
    fn take_old(&self, now: Instant) -> Vec<(String, Stray)> {
        self.all().extract_if(|_, stray| now >= stray.since + OLD).collect()
    }
}

impl Shared {
    /// Keeps a Pod in mind that is in no book. What was there before anybody looked is the list's.
    pub(super) fn note_stray(&self, pod: &Pod) {
        let metadata = &pod.metadata;
        if !self.has_looked() || metadata.deletion_timestamp.is_some() {
            return;
        }
        let (Some(uid), Some(namespace)) = (&metadata.uid, &metadata.namespace) else { return };
        let judged = standing::judge(pod, &self.config.namespace, &self.keys);
        let Ok(judged) = judged.map(|judged| (judged.proof, judged.spec.id)) else { return };
        let (Proof::Seal, instance) = judged else { return };
        let mut strays = self.strays.all();
        if strays.len() < MOST || strays.contains_key(uid) {
            let stray = Stray { namespace: namespace.clone(), instance, since: Instant::now() };
            strays.entry(uid.clone()).or_insert(stray);
        }
    }

    /// One is gone.
    pub(super) fn forget_stray(&self, pod: &Pod) {
        if let Some(uid) = &pod.metadata.uid {
            self.strays.all().remove(uid);
        }
    }

    async fn sweep(&self) {
        for (uid, stray) in self.strays.take_old(Instant::now()) {
            let Stray { namespace, instance, .. } = &stray;
            if self.find(instance).is_some() {
                continue;
            }
            tracing::info!(%namespace, %instance, "a Pod that nobody owns is deleted");
            // Nor another of its name.
            let its = Preconditions { uid: Some(uid.clone()), resource_version: None };
            let how = DeleteParams::default().preconditions(its);
            match asked(self.pods(namespace).delete(instance.as_str(), &how)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => {
                    let error = plain(&error);
                    tracing::warn!(%namespace, %instance, error, "a Pod that nobody owns is left for now");
                    self.strays.all().insert(uid, Stray { since: Instant::now(), ..stray });
                }
            }
        }
    }
}

/// Deletes them until the backend is gone.
pub(super) async fn keep_away(shared: Weak<Shared>) {
    loop {
        sleep(LOOK).await;
        let Some(shared) = shared.upgrade() else { return };
        shared.sweep().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use axum::extract::Path;
    use axum::routing::delete;
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tokio::task::JoinSet;

    use super::*;
    use crate::backend::kubernetes::instance::Instance;
    use crate::backend::kubernetes::pod::SEAL;
    use crate::backend::kubernetes::tests::{config, pod, spec};
    use crate::backend::kubernetes::watch::seen;

    #[tokio::test(start_paused = true)]
    async fn a_sealed_pod_that_is_in_no_book_is_deleted_after_a_while_and_no_other() {
        let (deleted, mut deletions) = mpsc::channel(8);
        let handler = move |Path((namespace, name)): Path<(String, String)>, Json(how): Json<Value>| async move {
            let uid = how["preconditions"]["uid"].as_str().unwrap().to_owned();
            deleted.send((namespace, name, uid)).await.unwrap();
            Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
        };
        let router = Router::new().route("/api/v1/namespaces/{namespace}/pods/{name}", delete(handler));
        let client = kube::Client::new(router, "default");
        let (ends, hindrances) = (mpsc::channel(1).0, mpsc::channel(1).0);
        let shared = Arc::new(Shared::new(config(client), ends, hindrances, mpsc::channel(1).0));
        let made = |name: &str, change: fn(&mut Value)| -> Pod {
            let mut made =
                pod(name, &json!({ "uid": format!("uid-of-{name}") }), &json!({ "phase": "Pending" }));
            change(&mut made);
            serde_json::from_value(made).unwrap()
        };
        seen(&shared, &made("hello-before", |_| ())).await;
        shared.looked.store(true, Ordering::Release);
        let known = Arc::new(Instance::new(spec("hello-known"), "default"));
        let comes = made("hello-comes", |_| ());
        for pod in [
            &made("hello-known", |_| ()),
            &comes,
            &made("hello-goes", |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:30Z")),
            &made("hello-forged", |pod| pod["metadata"]["annotations"][SEAL] = json!("00")),
            &made("hello-stray", |_| ()),
        ] {
            seen(&shared, pod).await;
        }
        // It is seen before its start has written it down.
        shared.books().insert(known.id.clone(), known);
        let mut keeping = JoinSet::new();
        keeping.spawn(keep_away(Arc::downgrade(&shared)));
        shared.forget_stray(&comes);
        tokio::time::sleep(OLD - Duration::from_secs(1)).await;
        assert!(deletions.try_recv().is_err());
        tokio::time::sleep(OLD * 2).await;
        let stray = ("default".to_owned(), "hello-stray".to_owned(), "uid-of-hello-stray".to_owned());
        assert_eq!(deletions.try_recv().unwrap(), stray);
        assert!(deletions.try_recv().is_err());
    }
}
