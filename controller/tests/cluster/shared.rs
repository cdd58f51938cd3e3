//! What befalls a whole cluster: definitions of another version, an API server that is away. These tests have the cluster alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::HELLO;
use crate::cluster::{Cluster, pause};
use crate::pods::{self, Use, run};
use crate::support::{eventually, node, node_with};

/// Brings the definitions of this Hearth back.
struct Definitions;

impl Drop for Definitions {
    fn drop(&mut self) {
        let _back = pods::define();
    }
}

/// The definitions as they were, after `change` of one kind's version.
fn define_older(kind: &str, change: impl Fn(&mut Value)) {
    let printed = run(env!("CARGO_BIN_EXE_hearth"), &["crd"], "").expect("hearth prints them");
    let mut all: Vec<Value> = serde_saphyr::from_multiple(&printed).expect("it is YAML");
    for definition in &mut all {
        if definition["spec"]["names"]["kind"] == kind {
            change(&mut definition["spec"]["versions"][0]);
        }
        run("kubectl", &["apply", "-f", "-"], &definition.to_string())
            .expect("an older definition is one too");
    }
}

fn remove(version: &mut Value, path: &[&str], name: &str) {
    let mut at = &mut version["schema"]["openAPIV3Schema"];
    for part in path {
        at = &mut at["properties"][part];
    }
    let removed = at["properties"].as_object_mut().and_then(|fields| fields.remove(name));
    assert!(removed.is_some(), "the definition has {path:?} {name}");
}

const REMEDY: &str = "hearth crd | kubectl apply -f -";

#[test]
fn definitions_of_an_older_version_are_named_and_what_runs_goes_on_until_they_are_renewed() {
    let Some(mut cluster) = Cluster::used(Use::Alone) else { return };
    cluster.work();
    cluster.apply(&node_with("steady", HELLO, "scale: { min: 1 }"));
    cluster.ready("steady");
    let calls = cluster.caller("steady");
    let definitions = Definitions;

    // A property of the status that is newer: it is said in what is left of it.
    define_older("Function", |version| remove(version, &["status"], "url"));
    cluster.apply(&node("short", HELLO));
    cluster.says("short", "True", &["serves", "functions.hearth.dev", "status.url", REMEDY]);
    cluster.tells("short", &["Warning", "DefinitionOutdated", REMEDY]);
    pods::define().expect("the definitions are applied");
    let mended = eventually(|| {
        let function = cluster.function("short")?;
        let url = function["status"]["url"].is_string();
        (url && !function.to_string().contains("by another version")).then_some(())
    });
    assert!(mended.is_some(), "{:#?}\n{}", cluster.function("short"), cluster.logs());

    // A property of Revisions that is newer: nothing is run that is not what was asked for.
    define_older("Revision", |version| remove(version, &["spec", "template"], "timeouts"));
    cluster.apply(&node_with("partial", HELLO, "timeouts: { execute: 7s }"));
    cluster.says("partial", "False", &["revisions.hearth.dev", "spec.template.timeouts.execute", REMEDY]);
    cluster.tells("partial", &["Warning", "Refused", REMEDY]);
    pods::define().expect("the definitions are applied");
    cluster.ready("partial");

    // No status of its own: nothing can be said there.
    define_older("Function", |version| {
        version["subresources"].as_object_mut().expect("there are some").remove("status");
    });
    cluster.apply(&node("mute", HELLO));
    cluster.tells("mute", &["Warning", "DefinitionOutdated", REMEDY]);
    drop(definitions);
    cluster.ready("mute");

    let (good, bad) = calls.end();
    assert!(bad.is_empty() && good > 0, "{good} good, {bad:?}\n{}", cluster.logs());
    cluster.end();
}

/// The API server of `.ci/cluster`; `None` where the cluster is another one.
struct ApiServer(PathBuf);

impl ApiServer {
    fn find() -> Option<Self> {
        let config = PathBuf::from(std::env::var_os("KUBECONFIG")?);
        let directory = config.parent()?.parent()?.to_owned();
        directory.join("run/apiserver.pid").is_file().then_some(Self(directory))
    }

    fn pid(&self) -> Pid {
        let text = std::fs::read_to_string(self.0.join("run/apiserver.pid")).expect("it runs");
        text.trim().parse().ok().and_then(Pid::from_raw).expect("it has a number")
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    fn start(&self) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/cluster");
        let mut command = Command::new(script);
        command.arg("api").env("HEARTH_KUBE_DIR", &self.0).stdin(Stdio::null());
        let status = command.stdout(Stdio::null()).status().expect("the script can be run");
        assert!(status.success(), "the API server comes up again: {status}");
    }
}

/// Should the test fail meanwhile.
impl Drop for ApiServer {
    fn drop(&mut self) {
        let _goes_on = kill_process(self.pid(), Signal::CONT);
        self.start();
    }
}

#[test]
fn calls_go_on_without_an_api_server_and_changes_are_seen_when_it_is_back() {
    let Some(server) = ApiServer::find() else {
        println!("NOT RUN: the API server is not one of .ci/cluster, which can be stopped");
        return;
    };
    let Some(mut cluster) = Cluster::used(Use::Alone) else { return };
    // A leader that cannot renew its Lease stops: here it is to go on.
    cluster.options.push("--set=controller.lease_duration=60s".to_owned());
    cluster.work();
    cluster.apply(&node_with("steady", HELLO, "scale: { min: 1 }"));
    cluster.ready("steady");
    let pods = cluster.pods();
    let calls = cluster.caller("steady");

    // It hangs.
    server.signal(Signal::STOP);
    pause(Duration::from_secs(5));
    server.signal(Signal::CONT);
    cluster.apply(&node("hung", HELLO));
    cluster.ready("hung");

    // It is killed, and begins anew: all watches are lost.
    server.signal(Signal::KILL);
    pause(Duration::from_secs(5));
    server.start();
    cluster.apply(&node("killed", HELLO));
    let changed = HELLO.replace("hello", "changed");
    cluster.apply(&node_with("steady", &changed, "scale: { min: 1 }"));
    cluster.ready("killed");
    // The gateway has a watch of its own, which begins again when it does.
    let seen = eventually(|| {
        let changed = cluster.call("steady").1 == "changed from steady";
        (changed && cluster.call("killed").0 == 200).then_some(())
    });
    assert!(seen.is_some(), "the gateway sees the change\n{}", cluster.logs());

    let (good, bad) = calls.end();
    assert!(bad.is_empty() && good > 0, "{good} good, {bad:?}\n{}", cluster.logs());
    assert!(cluster.controllers[0].runs(), "it went on all the time\n{}", cluster.logs());
    assert!(!cluster.pods().iter().any(|pod| pods.contains(pod)), "the old instance is gone");
    cluster.end();
}
