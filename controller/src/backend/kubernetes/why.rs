//! What a Pod's status says: how it ended, and why it does not start. Pure.

use std::time::Duration;

use hearth_protocol::Exit;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};

use super::pod::CONTAINER;

/// The shell's way to say that a signal ended a program: its number, and this.
const BY_SIGNAL: i32 = 128;

/// What is said of an instance whose Pod somebody else deletes.
pub(super) const TAKEN: &str = "Kubernetes takes its Pod away";

/// What keeps a Pod from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// For people.
    pub(super) what: String,
    /// What it lacks.
    pub(super) lack: Lack,
}

/// What a Pod lacks that does not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// A node: that may well pass in a moment, for nodes come and go.
    Node,
    /// An image.
    Image,
    /// A Secret or a ConfigMap, or a key in it.
    Settings,
    /// Time: its node makes it ready, and pulls its image where it has none.
    Time,
    /// Something else.
    Other,
}

impl Obstacle {
    /// Whether it may well pass in a moment.
    pub(super) fn passes(&self) -> bool {
        self.lack == Lack::Node
    }
}

/// What is told of the function's container. Who admits Pods may have put others beside it, with ends of their own.
fn function(status: &PodStatus) -> Option<&ContainerStatus> {
    status.container_statuses.iter().flatten().find(|one| one.name == CONTAINER)
}

/// How the instance ended; `None` while it runs, or has not begun.
pub(super) fn ended(pod: &Pod) -> Option<Exit> {
    let status = pod.status.as_ref()?;
    if let Some(terminated) = function(status).and_then(|one| one.state.as_ref()?.terminated.as_ref()) {
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

/// How long a Pod that is being deleted has for that; `None` while nobody deletes it.
pub(super) fn leaves_within(pod: &Pod) -> Option<Duration> {
    pod.metadata.deletion_timestamp.as_ref()?;
    let seconds = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Who takes it away, as far as is known: API servers since 1.26 say it of evictions and the like, and of nothing that people delete.
pub(super) fn taker(pod: &Pod) -> String {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut disrupted = conditions.filter(|one| one.type_ == "DisruptionTarget" && one.status == "True");
    let said = disrupted.next().and_then(|one| {
        let message = one.message.as_deref().filter(|message| !message.is_empty());
        message.or(one.reason.as_deref())
    });
    said.map_or_else(|| TAKEN.to_owned(), |said| format!("{TAKEN} ({said})"))
}

/// What keeps it from starting.
pub(super) fn obstacle(pod: &Pod) -> Option<Obstacle> {
    let status = pod.status.as_ref()?;
    // What comes before it; it does not wait for what is beside it.
    let all = status.init_container_statuses.iter().flatten().chain(function(status));
    let stands = all.filter_map(|one| Some((one, waiting(one.state.as_ref()?)?)));
    for (container, (reason, message)) in stands {
        let (lack, what) = match reason {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                (Lack::Image, format!("the image {} cannot be pulled ({reason}): {message}", container.image))
            }
            "CreateContainerConfigError" => {
                (Lack::Settings, format!("its container cannot be configured: {message}"))
            }
            "CreateContainerError" | "RunContainerError" | "CrashLoopBackOff" => {
                (Lack::Other, format!("its container cannot be started ({reason}): {message}"))
            }
            _ => continue,
        };
        return Some(Obstacle { what, lack });
    }
    if status.phase.as_deref() == Some("Failed") {
        let reason = status.reason.as_deref().unwrap_or("Failed");
        let message = status.message.as_deref().unwrap_or("its node gives no reason");
        let what = format!("its Pod failed ({reason}): {message}");
        return Some(Obstacle { what, lack: Lack::Other });
    }
    let conditions = status.conditions.iter().flatten();
    let mut unscheduled = conditions.filter(|one| one.type_ == "PodScheduled" && one.status == "False");
    let what = unscheduled.find_map(|one| {
        let message = one.message.as_deref().unwrap_or_default();
        match one.reason.as_deref()? {
            "Unschedulable" => Some(format!("no node takes its Pod: {message}")),
            // Whoever set the gates, as one who admits Pods, opens them.
            "SchedulingGated" => Some(format!("its Pod may not be scheduled yet: {message}")),
            _ => None,
        }
    });
    if let Some(what) = what {
        return Some(Obstacle { what, lack: Lack::Node });
    }
    // Told by its node: one that is lost says nothing, and takes no time.
    let (reason, _) = waiting(function(status)?.state.as_ref()?)?;
    let takes_time = matches!(reason, "ContainerCreating" | "PodInitializing");
    let what = || format!("its node still makes it ready ({reason}), for which it pulls the image");
    takes_time.then(|| Obstacle { what: what(), lack: Lack::Time })
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
        let beside = |state: Value, its: Value| {
            let one = |name: &str, state: Value| json!({ "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state });
            pod(
                json!({ "phase": "Running", "containerStatuses": [one("proxy", state), one("function", its)] }),
            )
        };
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } });
        assert_eq!(ended(&beside(killed, json!({ "running": {} }))), None, "a proxy beside it");
        let over = json!({ "terminated": { "exitCode": 0 } });
        assert_eq!(
            ended(&beside(json!({ "running": {} }), over)),
            Some(Exit { code: Some(0), ..Exit::default() })
        );
        let stuck = json!({ "waiting": { "reason": "ImagePullBackOff" } });
        assert_eq!(obstacle(&beside(stuck, json!({ "running": {} }))), None);
        assert_eq!(ended(&pod(json!({ "phase": "Failed", "reason": "Evicted" }))), Some(Exit::default()));
        assert_eq!(ended(&pod(json!({ "phase": "Pending" }))), None);
    }

    #[test]
    fn a_pod_that_is_deleted_says_how_long_it_has_and_who_does_it_where_that_is_known() {
        let pod = |metadata: Value, conditions: Value| -> Pod {
            serde_json::from_value(json!({ "metadata": metadata, "status": { "conditions": conditions } }))
                .unwrap()
        };
        let deleted =
            json!({ "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30 });
        let by_hand = pod(deleted.clone(), json!([]));
        assert_eq!(leaves_within(&by_hand), Some(Duration::from_secs(30)));
        assert_eq!(taker(&by_hand), "Kubernetes takes its Pod away");
        let evicted = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting" }]);
        assert_eq!(taker(&pod(deleted, evicted)), "Kubernetes takes its Pod away (Eviction API: evicting)");
        assert_eq!(leaves_within(&pod(json!({}), json!([]))), None);
    }

    #[test]
    fn what_keeps_it_from_starting_is_said() {
        let missing = state(
            json!({ "waiting": { "reason": "CreateContainerConfigError", "message": "secret \"db\" not found" } }),
        );
        let said = obstacle(&missing).unwrap();
        assert!(said.what.contains("secret \"db\" not found") && said.lack == Lack::Settings, "{said:?}");
        let image = state(json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off" } }));
        let said = obstacle(&image).unwrap();
        assert!(said.what.starts_with("the image i cannot be pulled"), "{said:?}");
        assert_eq!((said.lack, said.passes()), (Lack::Image, false));
        let creating = obstacle(&state(json!({ "waiting": { "reason": "ContainerCreating" } }))).unwrap();
        assert_eq!((creating.lack, creating.passes()), (Lack::Time, false));
        assert_eq!(obstacle(&state(json!({ "running": {} }))), None);
        assert_eq!(obstacle(&pod(json!({ "phase": "Pending" }))), None, "its node has said nothing");
        for (reason, message) in [
            ("Unschedulable", "0/1 nodes are available"),
            ("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates"),
        ] {
            let condition =
                json!({ "type": "PodScheduled", "status": "False", "reason": reason, "message": message });
            let said = obstacle(&pod(json!({ "phase": "Pending", "conditions": [condition] }))).unwrap();
            assert!(said.passes() && said.what.contains(message), "{said:?}");
        }
    }
}
