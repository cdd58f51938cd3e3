//! Pods that Kubernetes takes away: a node that is drained, a Pod that somebody deletes.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Caller, Cluster, pause};
use crate::support::http::Request;
use crate::support::{eventually, node_with};

impl Cluster {
    /// Every Pod with an instance, those that are about to go among them.
    fn all_pods(&self) -> Vec<String> {
        let listed = self.ground.json(&["get", "pods"]).unwrap_or_default();
        let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned);
        listed["items"].as_array().into_iter().flatten().filter_map(name).collect()
    }

    /// Has a Pod evicted, as `kubectl drain` does with every Pod of a node.
    fn evict(&self, pod: &str) {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", self.ground.namespace);
        let evict = |version: &str| {
            let eviction = json!({ "apiVersion": version, "kind": "Eviction", "metadata": { "name": pod } });
            self.ground.kubectl(&["create", "--raw", &path, "-f", "-"], &eviction.to_string())
        };
        // Servers before 1.22 know the older form only.
        evict("policy/v1").or_else(|_| evict("policy/v1beta1")).expect("the Pod is evicted");
    }
}

/// Calls take 20 ms, or as many as they say.
const TAKES: &str = "exports.handler = (event) => new Promise((done) => \
    setTimeout(done, Number(event.queryStringParameters?.ms ?? 20), { statusCode: 200, body: 'done' }))";

/// A call of so many milliseconds that is not safe to repeat; by the end of this one it runs.
fn long_call(cluster: &Cluster, name: &str, milliseconds: u32) -> JoinHandle<Result<u16, String>> {
    let (target, address) = (format!("{}?ms={milliseconds}", cluster.target(name)), cluster.addresses[0]);
    let call = std::thread::spawn(move || match Request::post(&target, "once").send(address) {
        Ok(answer) if answer.status == 200 => Ok(200),
        Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
        Err(error) => Err(error.to_string()),
    });
    pause(Duration::from_millis(500));
    call
}

#[test]
fn the_only_instance_is_replaced_before_its_deleted_pod_is_gone_and_no_call_is_lost() {
    let Some(cluster) = Cluster::working() else { return };
    is_replaced(&cluster, |pod| drop(cluster.kubectl(&["delete", "pod", pod, "--wait=false"])));
    cluster.end();
}

#[test]
fn the_only_instance_is_replaced_before_its_evicted_pod_is_gone_and_no_call_is_lost() {
    let Some(cluster) = Cluster::working() else { return };
    is_replaced(&cluster, |pod| cluster.evict(pod));
    cluster.end();
}

fn is_replaced(cluster: &Cluster, take_away: impl FnOnce(&str)) {
    cluster.apply(&node_with("steady", TAKES, "concurrency: { limit: 20 }"));
    cluster.ready("steady");
    assert_eq!(cluster.call("steady").0, 200);
    let old = cluster.pods();
    assert_eq!(old.len(), 1, "{old:?}");
    let callers: Vec<_> = (0..4).map(|_| cluster.caller("steady")).collect();
    pause(Duration::from_secs(2));
    let long = long_call(cluster, "steady", 8000);
    let began = Instant::now();
    take_away(&old[0]);
    let beside = eventually(|| {
        let new = cluster.pods();
        (!new.is_empty()).then(|| (new, cluster.all_pods().contains(&old[0])))
    });
    let (new, old_is_there) = beside.expect("another one is started");
    assert!(old_is_there && !new.contains(&old[0]), "after {:?}\n{}", began.elapsed(), cluster.logs());
    let long = long.join().expect("the call has an end");
    assert_eq!(long, Ok(200), "a call that ran when its Pod was taken away\n{}", cluster.logs());
    pause(Duration::from_secs(2));
    let ends: Vec<_> = callers.into_iter().map(Caller::end).collect();
    assert!(ends.iter().all(|(good, bad)| *good > 0 && bad.is_empty()), "{ends:?}\n{}", cluster.logs());
    cluster.tells("steady", &["Normal", "TakenAway", "Kubernetes takes its Pod away"]);
}

#[test]
fn a_pod_that_goes_together_with_the_controller_that_works_ends_its_calls_under_the_next() {
    let Some(mut cluster) = Cluster::working() else { return };
    cluster.controller();
    cluster.apply(&node_with("moved", TAKES, "concurrency: { limit: 20 }"));
    cluster.ready("moved");
    let old = cluster.pods();
    let callers: Vec<_> = (0..4).map(|_| cluster.caller("moved")).collect();
    let long = long_call(&cluster, "moved", 15_000);
    // As when the node is drained that both are on.
    cluster.kubectl(&["delete", "pod", &old[0], "--wait=false"]);
    cluster.controllers.remove(0).stop();
    let long = long.join().expect("the call has an end");
    assert_eq!(long, Ok(200), "a call that ran when its Pod was deleted\n{}", cluster.logs());
    pause(Duration::from_secs(1));
    let ends: Vec<_> = callers.into_iter().map(Caller::end).collect();
    assert!(ends.iter().all(|(good, bad)| *good > 0 && bad.is_empty()), "{ends:?}\n{}", cluster.logs());
    assert!(!cluster.pods().contains(&old[0]), "another one serves\n{}", cluster.logs());
    cluster.end();
}
