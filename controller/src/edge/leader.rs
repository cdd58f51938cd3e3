//! Where the leader is: the Lease, watched.

use std::net::SocketAddr;

use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::lease::{HUB_ANNOTATION, NAME};
use crate::telemetry::{Seldom, chain};

/// Follows the Lease of `namespace`, for ever.
pub(super) async fn follow(client: Client, namespace: &str, leader: &watch::Sender<Option<SocketAddr>>) {
    let api: Api<Lease> = Api::namespaced(client, namespace);
    let mut changes = Box::pin(watch_object(api, NAME).default_backoff());
    let said = Seldom::new();
    while let Some(change) = changes.next().await {
        match change {
            Ok(lease) => {
                let hub = lease.as_ref().and_then(hub);
                leader.send_if_modified(|known| std::mem::replace(known, hub) != hub);
            }
            Err(error) if said.is_news(()) => {
                tracing::warn!(error = chain(&error), "the lease cannot be watched: it is tried again");
            }
            Err(_) => {}
        }
    }
}

/// The hub of whoever holds the Lease; one that was given back has none.
fn hub(lease: &Lease) -> Option<SocketAddr> {
    let holder = lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty());
    let address = lease.metadata.annotations.as_ref()?.get(HUB_ANNOTATION)?;
    holder.and_then(|_| address.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hub_is_that_of_the_holder() {
        let lease = |holder: &str, hub: &str| {
            let lease = json!({ "metadata": { "name": NAME, "annotations": { HUB_ANNOTATION: hub } },
                "spec": { "holderIdentity": holder } });
            super::hub(&serde_json::from_value(lease).unwrap())
        };
        assert_eq!(lease("a_1", "10.0.0.7:7071"), Some("10.0.0.7:7071".parse().unwrap()));
        assert_eq!(lease("", "10.0.0.7:7071"), None, "given back");
        assert_eq!(lease("a_1", "controller"), None);
    }
}
