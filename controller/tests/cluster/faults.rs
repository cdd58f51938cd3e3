//! What a Function lacks in its cluster: kubectl shows what it is, in words to act on, and the Function comes up by itself when it is there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::HELLO;
use crate::cluster::{Cluster, pause};
use crate::pods::{self, run};
use crate::support::{eventually, inline, node, node_with, python};

#[test]
fn what_is_wrong_with_a_function_is_said_by_kubectl_and_mended_by_the_next_apply() {
    let Some(cluster) = Cluster::working() else { return };
    let how = "runtime: nodejs\n  handler: other.handler";
    cluster.apply(&inline("misnamed", how, "index.js", HELLO, "env: [{ name: PORT, value: '1' }]"));
    cluster.apply(&node_with("crossed", HELLO, "scale: { min: 3, max: 2 }"));
    cluster.apply(&node_with("unbuilt", HELLO, "triggers: [{ cron: { schedule: '0 * * * *' } }]"));
    cluster.apply(&node("broken", "exports.handler = ("));
    cluster.apply(&node("nothing", "exports.other = 1"));
    cluster.apply(&node("unread", HELLO).replace("runtime: nodejs", "runtime: nodejs18"));
    let path = json!({ "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "directory" },
        "spec": { "runtime": "nodejs", "handler": "index.handler", "source": { "path": "." } } });
    cluster.apply(&path.to_string());

    let both = ["spec.handler", "name a file that is there", "spec.env[0].name", "use another name"];
    cluster.says("misnamed", "False", &both);
    cluster.says("crossed", "False", &["spec.scale", "min", "max"]);
    cluster.says("unbuilt", "False", &["spec.triggers[0].cron", "not built yet"]);
    cluster.says("directory", "False", &["spec.source.path", "hearth apply"]);
    cluster.says("broken", "False", &["SyntaxError", "index.js"]);
    cluster.says("nothing", "False", &["handler"]);
    cluster.says("unread", "False", &["spec.runtime", "\"nodejs18\" is not a runtime", "oldest supported"]);
    cluster.tells("misnamed", &["Warning", "Invalid", "spec.handler"]);
    cluster.tells("broken", &["Warning", "SyntaxError"]);
    // What the definition alone can tell is refused before it is stored.
    for (spec, word) in [
        ("scael: { max: 1 }", "scael"),
        ("signature: loud", "spec.signature"),
        ("timeouts: { execute: 5 sek }", "spec.timeouts.execute"),
    ] {
        let manifest = node_with("refused", HELLO, spec);
        let refused = cluster.ground.kubectl(&["apply", "-f", "-"], &manifest);
        assert!(refused.as_ref().is_err_and(|said| said.contains(word)), "{refused:?}");
    }
    // Some old API servers take no empty text where a definition asks for text, and say so; others store it.
    let empty = json!({ "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "empty" },
        "spec": { "runtime": "nodejs", "handler": "index.handler", "source": { "inline": { "index.js": "" } } } });
    match cluster.ground.kubectl(&["apply", "-f", "-"], &empty.to_string()) {
        Ok(_) => drop(cluster.says("empty", "False", &["handler"])),
        Err(said) => assert!(said.contains("spec.source.inline.index.js"), "{said}"),
    }

    for name in ["misnamed", "crossed", "unbuilt", "directory", "broken", "nothing", "unread"] {
        cluster.apply(&node_with(name, HELLO, "scale: { initial: 1 }"));
    }
    for name in ["misnamed", "crossed", "unbuilt", "directory", "broken", "nothing", "unread"] {
        cluster.ready(name);
    }
    assert_eq!(cluster.call("directory").1, "hello from directory");
    cluster.end();
}

/// Takes a label off a node again.
struct Labelled(String, String);

impl Drop for Labelled {
    fn drop(&mut self) {
        let _gone = run("kubectl", &["label", &self.0, &format!("{}-", self.1)], "");
    }
}

#[test]
fn a_secret_a_node_and_an_image_that_are_missing_are_named_and_waited_for() {
    let Some(mut cluster) = Cluster::start() else { return };
    let namespace = cluster.ground.namespace.clone();
    // Nobody listens there.
    let image = format!("127.0.0.1:1/{namespace}:test");
    let (made, interpreter) = pods::runtime("python").expect("an image is made of this machine's Python");
    cluster.options.push(format!("--runtime={interpreter}={image}"));
    cluster.work();
    let label = format!("hearth.test/{namespace}");
    let token = "env: [{ name: TOKEN, valueFrom: { secretKeyRef: { name: keys, key: token } } }]";
    cluster.apply(&node_with(
        "secret",
        "exports.handler = async () => ({ statusCode: 200, body: process.env.TOKEN })",
        token,
    ));
    let selector = format!("kubernetes: {{ nodeSelector: {{ {label}: 'yes' }} }}");
    cluster.apply(&node_with("node", HELLO, &selector));
    cluster.apply(&python(
        "image",
        "def handler(event, context):
    return 'ok'",
    ));

    cluster.says("secret", "False", &["secret \"keys\" not found", "it is tried again at"]);
    cluster.says("image", "False", &[&image, "cannot be pulled", "it is tried again at"]);
    cluster.says("node", "False", &["no node takes its Pod", "0/1 nodes"]);
    cluster.tells("secret", &["Warning", "StartFailed", "secret \"keys\" not found"]);
    cluster.tells("image", &["Warning", "StartFailed", "cannot be pulled"]);
    cluster.tells("node", &["Warning", "StartFailed", "no node takes its Pod"]);
    let (status, body) = cluster.call("secret");
    assert!(status >= 500 && body.contains("start_failed"), "{status} {body}");
    assert!(body.contains("hearth describe function secret") && !body.contains("keys"), "{body}");

    cluster.kubectl(&["create", "secret", "generic", "keys", "--from-literal=token=s3cret"]);
    run("docker", &["tag", &made, &image], "").expect("Docker tags an image of its own");
    let labelled = self::label(&cluster, &label);
    for name in ["secret", "node", "image"] {
        cluster.ready(name);
        cluster.tells(name, &["Normal", "Ready", "serves"]);
    }
    assert_eq!(cluster.call("secret"), (200, "s3cret".to_owned()));
    drop(labelled);
    cluster.end();
    run("docker", &["rmi", &image], "").expect("nothing uses the name any more");
}

/// Labels a node, so that what asks for the label has room.
fn label(cluster: &Cluster, label: &str) -> Labelled {
    let node = cluster.kubectl(&["get", "nodes", "-o", "name"]);
    let node = node.lines().next().expect("a cluster has a node").to_owned();
    let labelled = Labelled(node, label.to_owned());
    cluster.kubectl(&["label", &labelled.0, &format!("{label}=yes")]);
    labelled
}

#[test]
fn a_function_that_is_deleted_and_made_again_has_pods_of_its_own() {
    let Some(cluster) = Cluster::working() else { return };
    let function = node_with("again", HELLO, "scale: { initial: 1 }");
    for _ in 0..2 {
        cluster.apply(&function);
        cluster.ready("again");
        assert_eq!(cluster.call("again").0, 200, "{}", cluster.logs());
        cluster.kubectl(&["delete", "function", "again"]);
    }
    cluster.end();
}

#[test]
fn a_pod_that_no_node_takes_stays_and_serves_when_there_is_one() {
    let Some(cluster) = Cluster::working() else { return };
    let name = format!("hearth.test/{}", cluster.ground.namespace);
    let selector =
        format!("scale: {{ initial: 0, max: 3 }}\nkubernetes: {{ nodeSelector: {{ {name}: 'yes' }} }}");
    cluster.apply(&node_with("roomless", HELLO, &selector));
    cluster.ready("roomless");
    let began = std::time::Instant::now();
    let (status, body) = cluster.call("roomless");
    assert!(status == 503 && body.contains("unschedulable"), "{status} {body}");
    assert!(!body.contains("0/1 nodes"), "that is its owner's affair: {body}");
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "{:?}: it is told before the start's limit",
        began.elapsed()
    );
    cluster.says("roomless", "False", &["no node takes its Pod", "0/1 nodes"]);
    cluster.tells("roomless", &["Warning", "StartFailed", "no node takes its Pod"]);
    let pods = cluster.pods();
    assert_eq!(pods.len(), 1, "{pods:?}");
    // Longer than the pauses of starts that fail.
    pause(Duration::from_secs(45));
    let began = std::time::Instant::now();
    assert_eq!(cluster.call("roomless").0, 503);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}: what is known is told at once", began.elapsed());
    assert_eq!(cluster.pods(), pods, "it is the same\n{}", cluster.logs());
    let labelled = label(&cluster, &name);
    cluster.ready("roomless");
    assert_eq!(cluster.call("roomless").0, 200);
    assert_eq!(cluster.pods(), pods, "it is the same\n{}", cluster.logs());
    drop(labelled);
    cluster.end();
}

#[test]
fn what_failed_at_zero_is_ready_again_when_it_is_mended_though_nobody_calls() {
    let Some(cluster) = Cluster::working() else { return };
    let token = "scale: { initial: 0 }\nenv: [{ name: TOKEN, valueFrom: { secretKeyRef: { name: keys, key: token } } }]";
    cluster.apply(&node_with("idle", HELLO, token));
    cluster.ready("idle");
    let (status, body) = cluster.call("idle");
    assert!(status >= 500 && !body.contains("keys"), "whose name is its owner's affair: {status} {body}");
    cluster.says("idle", "False", &["secret \"keys\" not found"]);
    cluster.kubectl(&["create", "secret", "generic", "keys", "--from-literal=token=s3cret"]);
    cluster.ready("idle");
    cluster.end();
}

#[test]
fn a_quota_that_is_used_up_is_said_and_a_larger_one_is_enough() {
    let Some(cluster) = Cluster::working() else { return };
    cluster.kubectl(&["create", "quota", "few", "--hard=pods=1"]);
    let counted = eventually(|| {
        let quota = cluster.ground.json(&["get", "quota", "few"])?;
        quota["status"]["hard"]["pods"].is_string().then_some(())
    });
    assert!(counted.is_some(), "nobody counts for the quota");
    cluster.apply(&node_with("first", HELLO, "scale: { min: 1 }"));
    cluster.ready("first");
    cluster.apply(&node_with("second", HELLO, "scale: { min: 1 }"));
    cluster.says("second", "False", &["exceeded quota: few", "raise the quota"]);
    cluster.tells("second", &["Warning", "StartFailed", "exceeded quota"]);
    assert_eq!(cluster.call("first").0, 200);
    cluster.kubectl(&["patch", "quota", "few", "--type=merge", "-p", r#"{"spec":{"hard":{"pods":"5"}}}"#]);
    cluster.ready("second");
    cluster.end();
}

/// The rules of the role that the chart gives the controller.
fn rules(kind: &str, ending: &str) -> Vec<Value> {
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/golden/default.yaml");
    let golden = std::fs::read_to_string(golden).expect("the chart's golden file is there");
    let objects: Vec<Value> = serde_saphyr::from_multiple(&golden).expect("it is YAML");
    let role = objects.into_iter().find(|object| {
        object["kind"] == kind
            && object["metadata"]["name"].as_str().is_some_and(|name| name.ends_with(ending))
    });
    role.and_then(|role| role["rules"].as_array().cloned()).expect("the chart makes the role")
}

fn role(name: &str, rules: &[Value]) -> Value {
    json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": { "name": name }, "rules": rules })
}

impl Cluster {
    /// Has controllers work with the rights that the chart gives them, and no other.
    fn restrict(&mut self) {
        self.kubectl(&["create", "serviceaccount", "hearth"]);
        self.grant(&["work", "lease"], true);
        for name in ["work", "lease"] {
            self.bind(name);
        }
        let account = format!("/api/v1/namespaces/{}/serviceaccounts/hearth/token", self.ground.namespace);
        let asked = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"expirationSeconds":3600}}"#;
        let answer = self.ground.kubectl(&["create", "--raw", &account, "-f", "-"], asked);
        let answer: Value = serde_json::from_str(&answer.expect("a token is given")).expect("it is JSON");
        let config = run("kubectl", &["config", "view", "--minify", "--flatten", "-o", "json"], "");
        let mut config: Value = serde_json::from_str(&config.expect("kubectl shows it")).expect("it is JSON");
        config["users"][0]["user"] = json!({ "token": answer["status"]["token"] });
        let path = self.data.path().join("kubeconfig");
        std::fs::write(&path, config.to_string()).expect("a temporary directory is ours");
        self.kubeconfig = Some(path);
    }

    /// Writes the roles, with Pods or without.
    fn grant(&self, names: &[&str], pods: bool) {
        for name in names {
            let mut rules = if *name == "work" {
                rules("ClusterRole", "-controller")
            } else {
                rules("Role", "-controller-lease")
            };
            rules.retain(|rule| pods || rule["resources"] != json!(["pods"]));
            self.apply(&role(name, &rules).to_string());
        }
    }

    fn bind(&self, role: &str) {
        let account = format!("--serviceaccount={}:hearth", self.ground.namespace);
        self.kubectl(&["create", "rolebinding", role, &format!("--role={role}"), &account]);
    }
}

#[test]
fn rights_that_are_taken_away_are_named_and_all_goes_on_when_they_are_back() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.restrict();
    cluster.work();
    cluster.apply(&node_with("steady", HELLO, "scale: { min: 1 }"));
    cluster.ready("steady");
    let calls = cluster.caller("steady");

    // Those over Pods alone: everything else is said in the status.
    cluster.grant(&["work", "lease"], false);
    cluster.apply(&node("podless", HELLO));
    cluster.says("podless", "False", &["forbid", "pods", "rights of Hearth's service account"]);
    cluster.tells("podless", &["Warning", "StartFailed", "forbid"]);
    cluster.grant(&["work", "lease"], true);
    cluster.ready("podless");

    // Those over Revisions.
    let mut less = rules("ClusterRole", "-controller");
    less.retain(|rule| rule["resources"] != json!(["revisions"]));
    cluster.apply(&role("work", &less).to_string());
    cluster.apply(&node("unmade", HELLO));
    cluster.says("unmade", "False", &["revisions", "forbidden", "cannot create"]);
    cluster.tells("unmade", &["Warning", "Refused", "forbidden"]);
    cluster.grant(&["work"], true);
    cluster.ready("unmade");

    // The one over the status alone: an Event says what the status cannot.
    let mut less = rules("ClusterRole", "-controller");
    less.retain(|rule| rule["resources"] != json!(["functions/status"]));
    cluster.apply(&role("work", &less).to_string());
    cluster.apply(&node("mute", HELLO));
    cluster.tells("mute", &["Warning", "Refused", "status cannot be written", "functions/status"]);
    cluster.grant(&["work"], true);
    cluster.ready("mute");

    // All of them, but for the Lease: nothing can be written, and the log says it.
    cluster.kubectl(&["delete", "rolebinding", "work"]);
    cluster.apply(&node("silent", HELLO));
    let said = eventually(|| {
        let log = cluster.controllers[0].text();
        (log.contains("is forbidden") && log.contains("cannot patch resource")).then_some(())
    });
    assert!(said.is_some(), "{}", cluster.logs());
    cluster.bind("work");
    cluster.ready("silent");
    assert_eq!(cluster.call("silent").0, 200);

    let (good, bad) = calls.end();
    assert!(bad.is_empty() && good > 0, "{good} good, {bad:?}\n{}", cluster.logs());
    assert!(cluster.controllers[0].runs(), "it went on all the time\n{}", cluster.logs());
    cluster.end();
}
