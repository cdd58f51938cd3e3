//! The label of the Pod that leads, by which a Service finds it: instances report there, and the command line uploads there.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// The label.
pub(super) const LEADER: &str = "hearth.dev/leader";

/// Labels this Pod, and takes the label off every other that an earlier leader has left it on.
pub(super) async fn lead(client: &Client, namespace: &str, pod: &str) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labelled = pods.list_metadata(&ListParams::default().labels(&format!("{LEADER}=true"))).await?;
    for other in labelled.items.iter().filter_map(|pod| pod.metadata.name.as_deref()) {
        if other != pod {
            set(&pods, other, &Value::Null).await?;
        }
    }
    set(&pods, pod, &json!("true")).await
}

/// Takes the label off this Pod.
pub(super) async fn leave(client: &Client, namespace: &str, pod: &str) -> kube::Result<()> {
    set(&Api::namespaced(client.clone(), namespace), pod, &Value::Null).await
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
