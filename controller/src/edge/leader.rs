//! Where the leader is: the Lease, watched.

use std::net::SocketAddr;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::lease::{DURATION, HUB_ANNOTATION, Watch};
use crate::telemetry::{Seldom, chain};

/// Follows the Lease of `namespace`, for ever.
pub(super) async fn follow(client: Client, namespace: &str, leader: &watch::Sender<Option<SocketAddr>>) {
    let mut watch = Watch::new(Api::namespaced(client, namespace), DURATION);
    let said = Seldom::new();
    loop {
        match watch.next().await {
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
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::lease::NAME;
    use crate::lease::tests::Server;

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_hears_nothing_of_the_lease_finds_the_next_leader() {
        let server = Server::default();
        let first = server.candidate("10.0.0.1").acquire().await;
        let way = server.another_way();
        let (leader, mut leads) = watch::channel(None);
        let moves = async {
            let hub = |last: u8| Some(SocketAddr::from(([10, 0, 0, last], 7071)));
            leads.wait_for(|known| *known == hub(1)).await.unwrap();
            way.silence();
            first.release().await.unwrap();
            drop(server.candidate("10.0.0.2").acquire().await);
            leads.wait_for(|known| *known == hub(2)).await.unwrap();
        };
        tokio::select! {
            () = follow(way.client(), "hearth", &leader) => {}
            moved = tokio::time::timeout(Duration::from_secs(60), moves) => {
                moved.expect("it follows one that has gone");
            }
        }
    }

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
