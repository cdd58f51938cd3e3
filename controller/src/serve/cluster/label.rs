//! The label of the Pod that leads, by which a Service finds it: instances report there, and the command line uploads there.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use crate::telemetry::chain;

/// The label.
pub(super) const LEADER: &str = "hearth.dev/leader";

/// What is not done after so long is tried anew, or left: a client repeats what fails for minutes.
const ATTEMPT: Duration = Duration::from_secs(5);

/// From one attempt to the next: first, and at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// Why a label is not as it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The API server refuses.
    #[error(transparent)]
    Refused(#[from] kube::Error),
    /// It takes too long.
    #[error("the API server does not answer")]
    Silent,
}

/// Labels this Pod, and then takes the label off every other that an earlier leader has left it on; again until it is done. Until then no new
/// instance can report, for the Service leads nowhere, or elsewhere too.
pub(super) async fn lead(client: &Client, namespace: &str, pod: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let leader = Value::from("true");
    until_it_succeeds("this Pod cannot be labelled as the leader: the Service does not lead here", || {
        set(&pods, pod, &leader)
    })
    .await;
    until_it_succeeds("another Pod has the label of the leader: the Service may lead there", || {
        take_off_others(&pods, pod)
    })
    .await;
}

/// Takes the label off this Pod: one attempt.
///
/// # Errors
/// When it stays.
pub(super) async fn leave(client: &Client, namespace: &str, pod: &str) -> Result<(), Error> {
    in_time(set(&Api::namespaced(client.clone(), namespace), pod, &Value::Null)).await
}

async fn take_off_others(pods: &Api<Pod>, pod: &str) -> kube::Result<()> {
    let labelled = pods.list_metadata(&ListParams::default().labels(&format!("{LEADER}=true"))).await?;
    for other in labelled.items.iter().filter_map(|pod| pod.metadata.name.as_deref()) {
        if other != pod {
            set(pods, other, &Value::Null).await?;
        }
    }
    Ok(())
}

async fn until_it_succeeds<T: Future<Output = kube::Result<()>>>(otherwise: &str, attempt: impl Fn() -> T) {
    let mut pause = PAUSE;
    while let Err(error) = in_time(attempt()).await {
        tracing::warn!(error = chain(&error), again = %humantime::format_duration(pause), "{otherwise}");
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn in_time(attempt: impl Future<Output = kube::Result<()>>) -> Result<(), Error> {
    Ok(timeout(ATTEMPT, attempt).await.map_err(|_| Error::Silent)??)
}

async fn set(pods: &Api<Pod>, pod: &str, value: &Value) -> kube::Result<()> {
    let patch = json!({ "metadata": { "labels": { LEADER: value } } });
    match pods.patch_metadata(pod, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        // It went meanwhile.
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use axum::extract::{Path, State};
    use axum::response::{IntoResponse, Response};
    use axum::routing::get;
    use axum::{Json, Router};
    use http::StatusCode;

    use super::*;

    #[derive(Clone)]
    struct Server(Arc<Mutex<Inside>>);

    struct Inside {
        /// Whether they have the label.
        pods: BTreeMap<String, bool>,
        /// What becomes of the next requests, the last first; all others are answered.
        trouble: Vec<Does>,
    }

    #[derive(Clone, Copy)]
    enum Does {
        Refuse,
        Hang,
    }

    impl Server {
        fn new(trouble: impl IntoIterator<Item = Does>) -> Self {
            let pods = [("mine", false), ("old", true)].map(|(name, has)| (name.to_owned(), has)).into();
            Self(Arc::new(Mutex::new(Inside { pods, trouble: trouble.into_iter().collect() })))
        }

        fn client(&self) -> Client {
            let pods = "/api/v1/namespaces/hearth/pods";
            let router: Router = Router::new()
                .route(pods, get(list))
                .route(&format!("{pods}/{{name}}"), axum::routing::patch(patch))
                .with_state(self.clone());
            Client::new(router, "hearth")
        }

        fn labelled(&self) -> Vec<String> {
            let inside = self.0.lock().unwrap();
            inside.pods.iter().filter(|(_, has)| **has).map(|(name, _)| name.clone()).collect()
        }

        async fn does(&self) -> Option<Response> {
            let next = self.0.lock().unwrap().trouble.pop()?;
            if matches!(next, Does::Hang) {
                std::future::pending::<()>().await;
            }
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "code": 500, "reason": "InternalError", "message": "etcd is away" });
            Some((StatusCode::INTERNAL_SERVER_ERROR, Json(status)).into_response())
        }
    }

    fn metadata(name: &str) -> Value {
        json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": { "name": name } })
    }

    async fn list(State(server): State<Server>) -> Response {
        if let Some(other) = server.does().await {
            return other;
        }
        let items: Vec<Value> = server.labelled().iter().map(|name| metadata(name)).collect();
        Json(json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {}, "items": items }))
            .into_response()
    }

    async fn patch(
        State(server): State<Server>,
        Path(name): Path<String>,
        Json(patch): Json<Value>,
    ) -> Response {
        if let Some(other) = server.does().await {
            return other;
        }
        let has = patch["metadata"]["labels"][LEADER] == "true";
        server.0.lock().unwrap().pods.insert(name.clone(), has);
        Json(metadata(&name)).into_response()
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_the_server_does_this_pod_and_no_other_has_the_label_in_the_end() {
        use Does::{Hang, Refuse};
        for trouble in [&[][..], &[Refuse], &[Hang], &[Refuse, Hang, Refuse]] {
            let server = Server::new(trouble.iter().copied());
            timeout(Duration::from_secs(60), lead(&server.client(), "hearth", "mine")).await.unwrap();
            assert_eq!(server.labelled(), ["mine"]);
            leave(&server.client(), "hearth", "mine").await.unwrap();
            assert!(server.labelled().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn this_pod_has_the_label_though_it_cannot_be_taken_off_another() {
        let server = Server::new([]);
        let client = server.client();
        let mut leading = std::pin::pin!(lead(&client, "hearth", "mine"));
        // All that is asked after the first.
        let refusing = async {
            while server.labelled() != ["mine", "old"] {
                tokio::task::yield_now().await;
            }
            server.0.lock().unwrap().trouble.extend([Does::Refuse; 1000]);
            sleep(Duration::from_secs(300)).await;
        };
        tokio::select! {
            () = &mut leading => panic!("the label is off"),
            () = refusing => {}
        }
        assert_eq!(server.labelled(), ["mine", "old"]);
        server.0.lock().unwrap().trouble.clear();
        timeout(PAUSE_MAX + ATTEMPT, leading).await.unwrap();
        assert_eq!(server.labelled(), ["mine"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_label_that_cannot_be_taken_off_holds_up_no_end() {
        let server = Server::new([Does::Hang]);
        let left = timeout(ATTEMPT * 2, leave(&server.client(), "hearth", "mine")).await.unwrap();
        assert!(matches!(left, Err(Error::Silent)));
    }
}
