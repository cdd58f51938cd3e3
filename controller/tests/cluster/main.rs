//! Hearth in a real Kubernetes, the one that `KUBECONFIG` names: controller and gateway as processes of this machine, instances as Pods. Pods
//! must reach this machine (at the address that leads to the API server, or `HEARTH_TEST_HOST`), this machine the Pods, and the nodes take
//! images from this machine's Docker, as with `.ci/cluster up`. Without all that nothing is tried, and that is said.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod cluster;
mod faults;
mod handover;
mod leaving;
#[path = "../support/pods.rs"]
mod pods;
mod registries;
mod rivals;
mod shared;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, pause};
use serde_json::json;
use support::{eventually, node, node_with, text};

const HELLO: &str =
    "exports.handler = async () => ({ statusCode: 200, body: 'hello from ' + process.env.HEARTH_FUNCTION })";

#[test]
fn a_function_applied_by_kubectl_answers_through_the_gateway_and_leaves_nothing() {
    let Some(cluster) = Cluster::working() else { return };
    let began = Instant::now();
    cluster.apply(&node("hello", HELLO));
    cluster.ready("hello");
    let (status, body) = cluster.call("hello");
    assert_eq!(
        (status, body.as_str()),
        (200, "hello from hello"),
        "after {:?}\n{}",
        began.elapsed(),
        cluster.logs()
    );
    let described = cluster.kubectl(&["describe", "function", "hello"]);
    for reason in ["RevisionCreated", "Ready"] {
        assert!(described.contains(reason), "{described}");
    }
    let listed = cluster.kubectl(&["get", "functions"]);
    assert!(listed.contains("http://") && listed.contains("True"), "{listed}");
    cluster.end();
}

#[test]
fn a_function_at_zero_comes_up_for_a_request() {
    let Some(cluster) = Cluster::working() else { return };
    cluster.apply(&node_with("cold", HELLO, "scale: { initial: 0 }"));
    cluster.ready("cold");
    assert!(cluster.pods().is_empty());
    let (status, body) = cluster.call("cold");
    assert_eq!((status, body.as_str()), (200, "hello from cold"), "{}", cluster.logs());
    cluster.end();
}

#[test]
fn calls_go_on_while_the_controller_that_works_is_killed_and_another_follows() {
    let Some(mut cluster) = Cluster::working() else { return };
    cluster.controller();
    cluster.apply(&node_with("steady", HELLO, "scale: { min: 1 }"));
    cluster.ready("steady");
    let pods = cluster.pods();
    let caller = cluster.caller("steady");
    // Killed, as by a crash.
    drop(cluster.controllers.remove(0));
    // One that is applied while nobody leads is seen to by the next, and waits for it.
    cluster.apply(&node("later", HELLO));
    cluster.ready("later");
    assert_eq!(cluster.call("later").0, 200);
    let (good, bad) = caller.end();
    assert!(bad.is_empty() && good > 0, "{good} good, {bad:?}\n{}", cluster.logs());
    assert!(
        pods.iter().all(|pod| cluster.pods().contains(pod)),
        "its instance was adopted\n{}",
        cluster.logs()
    );
    cluster.end();
}

#[test]
fn a_leader_and_its_instances_that_are_killed_together_lose_no_call_that_can_be_repeated() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.gateway();
    cluster.work();
    cluster.controller();
    let slow = "exports.handler = () => new Promise((done) => setTimeout(done, 20, { statusCode: 200 }))";
    // More than a call has attempts: it may meet each of them dead.
    cluster.apply(&node_with("struck", slow, "scale: { min: 4, max: 4 }\nconcurrency: { limit: 2 }"));
    cluster.ready("struck");
    let callers: Vec<_> = (0..12).map(|number| cluster.caller_at("struck", number % 2)).collect();
    pause(Duration::from_secs(1));
    let struck = cluster.pods();
    drop(cluster.controllers.remove(0));
    cluster.kubectl(&["delete", "pods", "--all", "--force", "--grace-period=0", "--wait=false"]);
    let back = eventually(|| {
        let pods = cluster.pods();
        (!pods.is_empty() && pods.iter().all(|pod| !struck.contains(pod)) && cluster.call("struck").0 == 200)
            .then_some(())
    });
    assert!(back.is_some(), "{}", cluster.logs());
    pause(Duration::from_secs(2));
    let ends: Vec<_> = callers.into_iter().map(cluster::Caller::end).collect();
    assert!(ends.iter().all(|(good, bad)| *good > 0 && bad.is_empty()), "{ends:?}\n{}", cluster.logs());
    cluster.end();
}

#[test]
fn instances_stay_when_the_next_controller_has_to_install_their_dependencies_again() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.ground.add_npm().expect("this machine has npm, and Docker makes an image with it");
    cluster.work();
    cluster.controller();
    let function = json!({ "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "needs" }, "spec": {
        "runtime": "nodejs", "handler": "index.handler", "scale": { "min": 1 }, "source": { "inline": {
            "index.js": "exports.handler = async () => ({ statusCode: 200, body: require('one') })",
            "package.json": r#"{ "name": "needs", "version": "1.0.0", "dependencies": { "one": "file:one" } }"#,
            "one/package.json": r#"{ "name": "one", "version": "1.0.0" }"#,
            "one/index.js": "module.exports = 'a dependency'",
        } },
    } });
    cluster.apply(&function.to_string());
    cluster.ready("needs");
    assert_eq!(cluster.call("needs"), (200, "a dependency".to_owned()));
    let pods = cluster.pods();
    let caller = cluster.caller("needs");
    drop(cluster.controllers.remove(0));
    // Its disk is empty.
    let installed = eventually(|| {
        let mut all = std::fs::read_dir(cluster.data.path().join("data-1/deps")).ok()?;
        all.any(|entry| entry.is_ok_and(|entry| entry.file_name().len() == 64)).then_some(())
    });
    assert!(installed.is_some(), "{}", cluster.logs());
    cluster.ready("needs");
    let (good, bad) = caller.end();
    assert!(bad.is_empty() && good > 0, "{good} good, {bad:?}\n{}", cluster.logs());
    assert!(cluster.pods().iter().any(|pod| pods.contains(pod)), "its instance stays\n{}", cluster.logs());
    cluster.end();
}

#[test]
fn the_command_line_uploads_code_and_reads_logs_through_the_api_server() {
    let Some(cluster) = Cluster::working() else { return };
    // What the chart makes: a Service to the controller, and the Secret.
    let key = cluster.key();
    cluster.kubectl(&[
        "create",
        "secret",
        "generic",
        "hearth-key",
        &format!("--from-file=key={}", key.display()),
    ]);
    cluster.relay();
    let directory = cluster.data.path().join("code");
    std::fs::create_dir(&directory).expect("a temporary directory is ours");
    let code = "exports.handler = async () => { console.log('a line'); return 'uploaded' }";
    std::fs::write(directory.join("index.js"), code).expect("a temporary directory is ours");
    let manifest = "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: { name: uploaded }\nspec: { runtime: nodejs, handler: index.handler, source: { path: . } }\n";
    let file = write(&directory.join("function.yaml"), manifest);
    cluster.cli(&["apply", "-f", &file]);
    let said = cluster.cli(&["invoke", "uploaded"]);
    assert!(said.contains("uploaded"), "{said}");
    let logged = eventually(|| cluster.cli(&["logs", "uploaded"]).contains("a line").then_some(()));
    assert!(logged.is_some(), "{}", cluster.logs());
    // An instance answers before its Pod's status says that it runs, without which kubectl shows nothing.
    let of_pods = || {
        let shown = cluster.ground.kubectl(&["logs", "-l", "hearth.dev/function=uploaded"], "");
        shown.unwrap_or_else(|why| why)
    };
    assert!(eventually(|| of_pods().contains("a line\n").then_some(())).is_some(), "{}", of_pods());
    assert!(cluster.cli(&["describe", "uploaded"]).contains("uploaded-00001"));
    assert!(cluster.cli(&["get", "instances"]).contains("uploaded"));
    cluster.kubectl(&["delete", "pod", "hearth-controller", "--wait=false"]);
    cluster.end();
}

#[test]
fn kubectl_and_hearth_apply_in_turns_and_the_last_source_is_the_only_one() {
    let Some(cluster) = Cluster::working() else { return };
    let bundle = "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: { name: turns }\nspec: { runtime: nodejs, handler: index.handler, source: { git: { url: 'https://127.0.0.1:1/none' } } }\n";
    let file = write(&cluster.data.path().join("function.yaml"), bundle);
    let only = |kind: &str| {
        let source = cluster.function("turns").expect("it is there")["spec"]["source"].clone();
        assert!(source[kind].is_object() && source.as_object().is_some_and(|all| all.len() == 1), "{source}");
    };
    let inline = node_with("turns", HELLO, "scale: { initial: 0 }");
    for _ in 0..2 {
        cluster.apply(&inline);
        cluster.ready("turns");
        only("inline");
        cluster.cli(&["apply", "--no-wait", "-f", &file]);
        only("git");
    }
    cluster.end();
}

impl Cluster {
    /// A Pod that leads to the controller on this machine: the API server's proxy goes to Pods only.
    fn relay(&self) {
        let (host, port) = (&self.ground.host, self.controllers[0].management.port());
        let code = format!(
            "require('net').createServer((near) => {{ const far = require('net').connect({port}, '{host}'); near.pipe(far).pipe(near); \
             near.on('error', () => far.destroy()); far.on('error', () => near.destroy()); }}).listen(7070)"
        );
        let (node, image) = (self.ground.interpreter(), &self.ground.image);
        let labels =
            json!({ "app.kubernetes.io/name": "hearth", "app.kubernetes.io/component": "controller" });
        let named = json!({ "name": "hearth-controller", "labels": labels });
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Service", "metadata": named,
                "spec": { "selector": labels, "ports": [{ "name": "management", "port": 7070 }] } },
            { "apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": { "containers": [{
                "name": "relay", "image": image, "imagePullPolicy": "Never", "command": [node, "-e", code] }] } },
        ] });
        self.apply(&objects.to_string());
        self.kubectl(&["wait", "--for=condition=Ready", "pod/hearth-controller", "--timeout=60s"]);
    }

    fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_hearth"))
            .args(arguments)
            .args(["-n", &self.ground.namespace])
            .env("HEARTH_CLUSTER_NAMESPACE", &self.ground.namespace)
            .stdin(Stdio::null())
            .output()
            .expect("the binary under test can be run");
        assert!(output.status.success(), "{}\n{}", text(&output), self.logs());
        text(&output)
    }
}

fn write(path: &Path, content: &str) -> String {
    std::fs::write(path, content).expect("a temporary directory is ours");
    path.to_str().expect("temporary paths are text").to_owned()
}
