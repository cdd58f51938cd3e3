//! The end of an instance: its Pod is deleted, and nothing of it is left.

use std::time::Duration;

use hearth_function::InstanceId;
use kube::api::DeleteParams;
use tokio::time::timeout;

use super::Shared;
use crate::backend::Error;

/// A Pod's end takes its kubelet some seconds longer than its grace; one that has missed a container's end looks again a minute later.
const KUBELET: Duration = Duration::from_secs(150);

/// Between two looks whether it is gone, though the watch said nothing.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Shared {
    /// See [`super::Backend::stop`].
    pub(super) async fn stop(&self, id: &InstanceId, grace: Duration) -> Result<(), Error> {
        const STEP: &str = "delete the Pod";
        let Some(instance) = self.find(id) else { return Ok(()) };
        let pods = self.pods(&instance.namespace);
        // In whole seconds; 0 is at once.
        let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        let how = DeleteParams::default().grace_period(seconds);
        match pods.delete(id.as_str(), &how).await {
            Ok(deleting) => {
                let mut gone = instance.gone.subscribe();
                let left = async {
                    // With no grace nothing is left of it in the API at once.
                    while deleting.is_left() {
                        if timeout(LOOK_AGAIN, gone.wait_for(|gone| *gone)).await.is_ok() {
                            return Ok(());
                        }
                        if pods.get_metadata_opt(id.as_str()).await?.is_none() {
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
        self.books().remove(id);
        Ok(())
    }
}
