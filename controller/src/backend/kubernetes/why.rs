//! What a Pod's status says: how it ended, and why it does not start. Pure.

use hearth_protocol::Exit;
use k8s_openapi::api::core::v1::{ContainerState, Pod};

/// The shell's way to say that a signal ended a program: its number, and this.
const BY_SIGNAL: i32 = 128;

/// What keeps a Pod from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// For people.
    pub(super) what: String,
    /// Whether it may well pass in a moment: nodes come and go.
    pub(super) passes: bool,
}

/// How the instance ended; `None` while it runs, or has not begun.
pub(super) fn ended(pod: &Pod) -> Option<Exit> {
    let status = pod.status.as_ref()?;
    let states = status.container_statuses.iter().flatten();
    let terminated = states.filter_map(|one| one.state.as_ref()?.terminated.as_ref()).next();
    if let Some(terminated) = terminated {
        let out_of_memory = terminated.reason.as_deref() == Some("OOMKilled");
        let signal = terminated
            .signal
            .or_else(|| (terminated.exit_code > BY_SIGNAL).then_some(terminated.exit_code - BY_SIGNAL));
        let code = signal.is_none().then_some(terminated.exit_code);
        return Some(Exit { code, signal, out_of_memory });
    }
    // Evicted, or refused by its node: there is no container to tell of it.
    matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")).then(Exit::default)
}

/// Whether it was told to end: its Pod is being deleted, as where its node is drained. Until it has ended its calls run on.
pub(super) fn leaves(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// What keeps it from starting.
pub(super) fn obstacle(pod: &Pod) -> Option<Obstacle> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    let waiting = all.filter_map(|one| Some((one, waiting(one.state.as_ref()?)?)));
    for (container, (reason, message)) in waiting {
        let what = match reason {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                format!("the image {} cannot be pulled ({reason}): {message}", container.image)
            }
            "CreateContainerConfigError" => format!("its container cannot be configured: {message}"),
            "CreateContainerError" | "RunContainerError" | "CrashLoopBackOff" => {
                format!("its container cannot be started ({reason}): {message}")
            }
            _ => continue,
        };
        return Some(Obstacle { what, passes: false });
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.as_deref().unwrap_or("Failed");
        let message = status.message.as_deref().unwrap_or("its node gives no reason");
        return Some(Obstacle { what: format!("its Pod failed ({reason}): {message}"), passes: false });
    }
    let conditions = status.conditions.iter().flatten();
    let unscheduled = conditions
        .filter(|one| one.type_ == "PodScheduled" && one.status == "False")
        .find(|one| one.reason.as_deref() == Some("Unschedulable"))?;
    let message = unscheduled.message.as_deref().unwrap_or_default();
    Some(Obstacle { what: format!("no node takes its Pod: {message}"), passes: true })
}

fn waiting(state: &ContainerState) -> Option<(&str, &str)> {
    let waiting = state.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or("no details")))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": {}, "status": status })).unwrap()
    }

    fn state(state: Value) -> Pod {
        let status = json!({ "name": "function", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state });
        pod(json!({ "phase": "Pending", "containerStatuses": [status] }))
    }

    #[test]
    fn an_end_is_told_as_of_a_process() {
        let end = |terminated: Value| ended(&state(json!({ "terminated": terminated })));
        assert_eq!(end(json!({ "exitCode": 3 })), Some(Exit { code: Some(3), ..Exit::default() }));
        assert_eq!(end(json!({ "exitCode": 143 })), Some(Exit { signal: Some(15), ..Exit::default() }));
        assert_eq!(
            end(json!({ "exitCode": 137, "reason": "OOMKilled" })),
            Some(Exit { signal: Some(9), out_of_memory: true, code: None })
        );
        assert_eq!(ended(&state(json!({ "running": {} }))), None);
        assert_eq!(ended(&pod(json!({ "phase": "Failed", "reason": "Evicted" }))), Some(Exit::default()));
        assert_eq!(ended(&pod(json!({ "phase": "Pending" }))), None);
    }

    #[test]
    fn what_keeps_it_from_starting_is_said() {
        let missing = state(
            json!({ "waiting": { "reason": "CreateContainerConfigError", "message": "secret \"db\" not found" } }),
        );
        let said = obstacle(&missing).unwrap();
        assert!(said.what.contains("secret \"db\" not found") && !said.passes, "{said:?}");
        let image = state(json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off" } }));
        assert!(obstacle(&image).unwrap().what.starts_with("the image i cannot be pulled"));
        assert_eq!(obstacle(&state(json!({ "waiting": { "reason": "ContainerCreating" } }))), None);
        let condition = json!({ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available" });
        let said = obstacle(&pod(json!({ "phase": "Pending", "conditions": [condition] }))).unwrap();
        assert!(said.passes && said.what.contains("0/1 nodes"), "{said:?}");
    }
}
