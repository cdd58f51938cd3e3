//! Pods that Kubernetes takes away: a node that is drained, a Pod that somebody deletes.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Caller, Cluster, pause};
use crate::support::{eventually, node_with};

impl Cluster {
    /// Every Pod with an instance, those that are about to go among them.
    fn all_pods(&self) -> Vec<String> {
        let listed = self.ground.json(&["get", "pods"]).unwrap_or_default();
        let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned);
        listed["items"].as_array().into_iter().flatten().filter_map(name).collect()
    }
}

#[test]
fn the_only_instance_is_replaced_before_its_deleted_pod_is_gone_and_no_call_is_lost() {
    let Some(cluster) = Cluster::working() else { return };
    // The longest of its calls keeps the Pod for as long as its kubelet lets it.
    let code = "exports.handler = (event) => new Promise((done) => setTimeout(done, Number(event.queryStringParameters?.ms ?? 20), { statusCode: 200, body: 'done' }))";
    cluster.apply(&node_with("steady", code, "concurrency: { limit: 20 }"));
    cluster.ready("steady");
    assert_eq!(cluster.call("steady").0, 200);
    let old = cluster.pods();
    assert_eq!(old.len(), 1, "{old:?}");
    let callers: Vec<_> = (0..4).map(|_| cluster.caller("steady")).collect();
    pause(Duration::from_secs(2));
    let (answer, address) = (format!("{}?ms=8000", cluster.target("steady")), cluster.addresses[0]);
    let long = std::thread::spawn(move || {
        crate::support::http::Request::get(&answer).send(address).map(|answer| answer.status)
    });
    pause(Duration::from_millis(500));
    let began = Instant::now();
    cluster.kubectl(&["delete", "pod", &old[0], "--wait=false"]);
    let beside = eventually(|| {
        let new = cluster.pods();
        (!new.is_empty()).then(|| (new, cluster.all_pods().contains(&old[0])))
    });
    let (new, old_is_there) = beside.expect("another one is started");
    assert!(old_is_there && !new.contains(&old[0]), "after {:?}\n{}", began.elapsed(), cluster.logs());
    let long = long.join().expect("the call has an end").expect("and an answer");
    assert_eq!(long, 200, "a call that ran when its Pod was deleted\n{}", cluster.logs());
    pause(Duration::from_secs(2));
    let ends: Vec<_> = callers.into_iter().map(Caller::end).collect();
    assert!(ends.iter().all(|(good, bad)| *good > 0 && bad.is_empty()), "{ends:?}\n{}", cluster.logs());
    cluster.tells("steady", &["Normal", "TakenAway", "Kubernetes takes its Pod away"]);
    cluster.end();
}
