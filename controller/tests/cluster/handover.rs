//! Calls that outlive a change of leader, in instances that the next one does not go on with.

use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::{Cluster, pause};
use crate::support::http::Request;
use crate::support::{eventually, node_with};

/// Takes as many seconds as the path ends with.
const SLOW: &str = "exports.handler = (event) => new Promise((done) =>
  setTimeout(done, 1000 * Number(event.rawPath.split('/').pop()) || 0, { statusCode: 200, body: 'slept' }))";

impl Cluster {
    /// Begins a call of so many seconds, which cannot be repeated, and waits until an instance has it.
    fn sleeper(&self, name: &str, seconds: u32) -> JoinHandle<(u16, String)> {
        let (address, target) = (self.addresses[0], format!("{}/{seconds}", self.target(name)));
        let call = std::thread::spawn(move || {
            let answer = Request::post(&target, "once").send(address).expect("an answer");
            (answer.status, answer.text())
        });
        let runs = eventually(|| {
            let function = self.function(name)?;
            (function["status"]["instances"]["busy"].as_u64()? > 0).then_some(())
        });
        assert!(runs.is_some(), "{name}: {:#?}\n{}", self.function(name), self.logs());
        call
    }

    /// The Pods of a Function.
    fn pods_of(&self, function: &str) -> Vec<String> {
        let mine = |pod: &String| pod.starts_with(&format!("{function}-"));
        self.pods().into_iter().filter(mine).collect()
    }
}

#[test]
fn calls_in_instances_that_the_next_leader_does_not_adopt_come_to_their_end() {
    let Some(mut cluster) = Cluster::working() else { return };
    cluster.controller();
    cluster.apply(&node_with("once", SLOW, "processModel: ephemeral"));
    cluster.apply(&node_with("retired", SLOW, "scale: { min: 1 }"));
    cluster.apply(&node_with("leaving", SLOW, "scale: { min: 1 }"));
    ["once", "retired", "leaving"].into_iter().for_each(|name| cluster.ready(name));

    let mut left = cluster.pods_of("retired");
    let retired = cluster.sleeper("retired", 25);
    cluster.apply(&node_with("retired", &format!("{SLOW} // again"), "scale: { min: 1 }"));
    let served = eventually(|| {
        (cluster.function("retired")?["status"]["readyRevision"] == "retired-00002").then_some(())
    });
    assert!(served.is_some(), "{}", cluster.logs());
    let leaving = cluster.sleeper("leaving", 15);
    let once = cluster.sleeper("once", 12);
    left.extend(cluster.pods_of("leaving"));
    for pod in cluster.pods_of("leaving") {
        cluster.kubectl(&["delete", "pod", &pod, "--wait=false"]);
    }
    left.extend(cluster.pods_of("once"));
    cluster.controllers.remove(0).stop();

    // The next one has found all of them, and does not go on with any.
    let reaped = eventually(|| {
        let told = cluster.controllers[0].text();
        let reaped = |pod: &String| {
            told.lines()
                .any(|line| line.contains("taking away what an earlier run left") && line.contains(pod))
        };
        left.iter().all(reaped).then_some(())
    });
    assert!(reaped.is_some(), "{left:?}\n{}", cluster.logs());
    let calls = [("retired", retired), ("leaving", leaving), ("once", once)];
    for (name, call) in &calls {
        assert!(!call.is_finished(), "{name} had ended before: nothing is tried\n{}", cluster.logs());
    }
    for (name, call) in calls {
        let answer = call.join().expect("it was answered");
        assert_eq!(answer, (200, "slept".to_owned()), "{name}\n{}", cluster.logs());
    }
    assert!(!cluster.logs().contains("ended while the controller was away"), "{}", cluster.logs());
    cluster.end();
}

#[test]
fn a_deleted_function_stays_until_its_calls_have_ended_though_the_leader_changes_meanwhile() {
    let Some(mut cluster) = Cluster::working() else { return };
    cluster.controller();
    cluster.apply(&node_with("deleted", SLOW, "scale: { min: 1 }"));
    cluster.ready("deleted");
    let call = cluster.sleeper("deleted", 20);
    cluster.kubectl(&["delete", "function", "deleted", "--wait=false"]);
    drop(cluster.controllers.remove(0));
    let found = eventually(|| {
        cluster.controllers[0].text().contains("taking away what an earlier run left").then_some(())
    });
    assert!(found.is_some() && !call.is_finished(), "nothing is tried\n{}", cluster.logs());
    while !call.is_finished() {
        let stays = cluster.function("deleted").is_some();
        assert!(stays || call.is_finished(), "it is gone before its call\n{}", cluster.logs());
        pause(Duration::from_millis(200));
    }
    assert_eq!(call.join().expect("it was answered"), (200, "slept".to_owned()), "{}", cluster.logs());
    let gone = eventually(|| cluster.function("deleted").is_none().then_some(()));
    assert!(gone.is_some(), "{}", cluster.logs());
    cluster.end();
}
