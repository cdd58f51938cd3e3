//! The end of an instance: its Pod is deleted, and nothing of it is left.
//!
//! A kubelet takes some seconds to notice that a container has ended, and only then its Pod goes. So the shim is told to end by the connection
//! that it keeps, and when it has said that it did, the Pod needs no grace any more.

use std::time::Duration;

use hearth_function::InstanceId;
use kube::api::DeleteParams;
use tokio::time::timeout;

use super::Shared;
use super::instance::{Instance, Order};
use super::request::repeated;
use crate::backend::Error;

/// A Pod's end takes its kubelet some seconds longer than its grace; one that has missed a container's end looks again a minute later.
const KUBELET: Duration = Duration::from_secs(150);

/// Between two looks whether it is gone, though the watch said nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The shortest grace with which a kubelet still ends the containers before their Pod goes.
const LAST: Duration = Duration::from_secs(1);

impl Shared {
    /// See [`super::Backend::stop`].
    pub(super) async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<(), Error> {
        const STEP: &str = "delete the Pod";
        let Some(instance) = self.find(id) else { return Ok(()) };
        instance.intake.close().await;
        // Nobody is told of what we do ourselves.
        let _news = instance.leaves();
        // Whoever began it may not wait for its Pod any more, which there may be only in a moment.
        drop(instance.making.lock().await);
        let pods = self.pods(&instance.namespace);
        let grace = if grace.is_zero() { grace } else { left_of(&instance, grace).await };
        // In whole seconds; 0 is at once.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let how = DeleteParams::default().grace_period(seconds);
        match repeated(|| pods.delete(id.as_str(), &how)).await {
            Ok(deleting) => {
                let mut gone = instance.gone.subscribe();
                let left = async {
                    // With no grace nothing is left of it in the API at once.
                    while deleting.is_left() {
                        if timeout(LOOK_AGAIN, gone.wait_for(|gone| *gone)).await.is_ok() {
                            return Ok(());
                        }
                        if repeated(|| pods.get_metadata_opt(id.as_str())).await?.is_none() {
                            return Ok(());
                        }
                    }
                    Ok(())
                };
                let left = timeout(grace + KUBELET, left).await;
                left.map_err(|late| Error::Step {
                    step: STEP,
                    instance: id.clone(),
                    source: std::io::Error::other(late),
                })?
                .map_err(|error: kube::Error| Self::step(STEP, id, &error))?;
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(Self::step(STEP, id, &error)),
        }
        // Another one that stops it waits no longer: the watch does not find it any more.
        instance.gone.send_replace(true);
        self.books().remove(id);
        Ok(())
    }
}

/// Has the shim end, and waits so long for it: what grace its Pod needs then.
async fn left_of(instance: &Instance, grace: Duration) -> Duration {
    let (mut end, mut gone) = (instance.end.subscribe(), instance.gone.subscribe());
    let Some(orders) = instance.orders().filter(|_| !instance.has_ended()) else { return grace };
    let ended = async {
        // Without the connection the kubelet has to do it.
        orders.send(Order::End).await.ok()?;
        tokio::select! {
            // It may close the connection as soon as it has said so.
            biased;
            end = end.wait_for(Option::is_some) => end.is_ok().then_some(()),
            () = orders.closed() => None,
            // Its Pod was deleted meanwhile, with less grace.
            _ = gone.wait_for(|gone| *gone) => None,
        }
    };
    match timeout(grace, ended).await {
        Ok(Some(())) => Duration::ZERO,
        Ok(None) => grace,
        // It has had its grace.
        Err(_) => LAST,
    }
}
