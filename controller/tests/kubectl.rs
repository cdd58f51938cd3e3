//! The real `kubectl` against a Hearth without a cluster. Any version from 1.20 on will do (`KUBECTL` names another program than the one in
//! `PATH`); without one these tests say so and check nothing. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::{Hearth, node_with, text};

/// A server, and a kubectl that speaks to it alone.
struct Kubectl {
    hearth: Hearth,
    program: PathBuf,
    minor: u32,
    /// Where it keeps what it discovered.
    home: tempfile::TempDir,
}

impl Kubectl {
    /// `None`, and the reason printed, when there is no kubectl.
    #[expect(clippy::print_stdout, reason = "what could not be tried is said")]
    fn start() -> Option<Self> {
        let program = std::env::var_os("KUBECTL").map_or_else(|| PathBuf::from("kubectl"), PathBuf::from);
        let Some(minor) = minor(&program) else {
            println!(
                "NOT RUN: there is no {} on this machine (Debian: apt-get install kubernetes-client)",
                program.display()
            );
            return None;
        };
        let home = tempfile::tempdir().expect("a temporary directory");
        Some(Self { hearth: Hearth::start(&[]), program, minor, home })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("KUBECONFIG", self.hearth.data_dir().join("kubeconfig"))
            .env("HOME", self.home.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str], input: &str) -> (bool, String) {
        let mut child = self.command(arguments).spawn().expect("kubectl runs");
        let mut stdin = child.stdin.take().expect("its input is a pipe");
        // One that ends before it has read everything has something to say about it.
        let _sent = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = child.wait_with_output().expect("kubectl ends");
        (output.status.success(), text(&output))
    }

    /// What it prints when all is well.
    fn ok(&self, arguments: &[&str]) -> String {
        self.ok_with(arguments, "")
    }

    fn ok_with(&self, arguments: &[&str], input: &str) -> String {
        let (ok, said) = self.run(arguments, input);
        assert!(ok, "kubectl {}: {said}\n{}", arguments.join(" "), self.hearth.own_log());
        said
    }

    /// What it prints when it is refused.
    fn refused(&self, arguments: &[&str], input: &str) -> String {
        let (ok, said) = self.run(arguments, input);
        assert!(!ok, "kubectl {}: {said}", arguments.join(" "));
        said
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let said = self.ok(&[arguments, &["-o", "json"]].concat());
        serde_json::from_str(&said).expect("-o json prints JSON")
    }

    fn spec(&self, name: &str) -> Value {
        self.json(&["get", "fn", name])["spec"].clone()
    }

    fn stop(self) {
        self.hearth.stop();
    }
}

/// The number behind `v1.` of its version.
fn minor(program: &PathBuf) -> Option<u32> {
    let output = Command::new(program).args(["version", "--client", "-o", "json"]).output().ok()?;
    let version: Value = serde_json::from_slice(&output.stdout).ok()?;
    let minor: String =
        version["clientVersion"]["minor"].as_str()?.chars().take_while(char::is_ascii_digit).collect();
    minor.parse().ok()
}

#[test]
fn kubectl_and_hearth_apply_in_turns_and_the_last_source_is_the_only_one() {
    let Some(kubectl) = Kubectl::start() else { return };
    let code = kubectl.home.path().join("code");
    std::fs::create_dir(&code).expect("a temporary directory is ours");
    std::fs::write(code.join("index.js"), "exports.handler = async () => 'uploaded'").expect("it is written");
    let file = code.join("function.yaml");
    let manifest = "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: { name: hello }\nspec: { runtime: nodejs, handler: index.handler, source: { path: . }, scale: { initial: 0 } }\n";
    std::fs::write(&file, manifest).expect("it is written");
    let by_hearth = || {
        let applied = kubectl.hearth.cli(&["apply", "-f", file.to_str().expect("temporary paths are text")]);
        assert!(applied.status.success(), "{}", text(&applied));
        kubectl.spec("hello")["source"].clone()
    };
    let by_kubectl = || {
        kubectl.ok_with(&["apply", "-f", "-"], &hello("hello"));
        kubectl.ok(&["wait", "--for=condition=Ready", "fn/hello", "--timeout=60s"]);
        kubectl.spec("hello")["source"].clone()
    };
    let only = |source: &Value, kind: &str| {
        assert!(
            source[kind] != Value::Null && source.as_object().is_some_and(|all| all.len() == 1),
            "{source}"
        );
    };
    only(&by_hearth(), "bundle");
    only(&by_kubectl(), "inline");
    only(&by_hearth(), "bundle");
    only(&by_kubectl(), "inline");
    // What kubectl prints is a manifest.
    for what in [&["get", "fn", "-o", "yaml"][..], &["get", "fn", "hello", "-o", "json"]] {
        std::fs::write(&file, kubectl.ok(what)).expect("it is written");
        let applied = kubectl.hearth.cli(&["apply", "-f", file.to_str().expect("temporary paths are text")]);
        assert!(applied.status.success(), "{what:?}: {}", text(&applied));
    }
    kubectl.stop();
}

/// A Function that starts no instance by itself.
fn hello(name: &str) -> String {
    node_with(name, "exports.handler = async () => 'hi'", "scale: { initial: 0 }")
}

#[test]
fn it_finds_out_what_there_is() {
    let Some(kubectl) = Kubectl::start() else { return };
    let resources = kubectl.ok(&["api-resources", "--api-group=hearth.dev"]);
    assert!(
        resources.contains("functions") && resources.contains("fn") && resources.contains("Revision"),
        "{resources}"
    );
    assert!(kubectl.ok(&["api-versions"]).lines().any(|line| line == "hearth.dev/v1"));
    let explained = kubectl.ok(&["explain", "function.spec"]);
    assert!(explained.contains("scale") && explained.contains("How many instances there are"), "{explained}");
    let deeper = kubectl.ok(&["explain", "fn.spec.scale.max"]);
    assert!(deeper.contains("The most instances, 1 to 1000."), "{deeper}");
    assert!(kubectl.ok(&["explain", "revisions.status"]).contains("What is observed of a Revision"));
    assert!(kubectl.ok(&["auth", "can-i", "create", "functions"]).contains("yes"));
    assert!(kubectl.refused(&["auth", "can-i", "delete", "revisions"], "").contains("no"));
    assert!(kubectl.ok(&["get", "namespaces"]).contains("default"));
    let refused = kubectl.refused(&["create", "namespace", "mine"], "");
    assert!(refused.contains("only a part of a Function's name"), "{refused}");
    kubectl.stop();
}

#[test]
fn an_apply_creates_changes_and_takes_away() {
    let Some(kubectl) = Kubectl::start() else { return };
    let apply = ["apply", "-f", "-"];
    let with_max = hello("hello").replace("initial: 0", "initial: 0, max: 3");
    assert!(kubectl.ok_with(&apply, &with_max).contains("function.hearth.dev/hello created"));
    assert!(kubectl.ok_with(&apply, &with_max).contains("unchanged"));
    kubectl.ok(&["label", "fn", "hello", "mine=1"]);
    assert!(kubectl.ok_with(&apply, &hello("hello")).contains("configured"));
    let function = kubectl.json(&["get", "fn", "hello"]);
    assert_eq!(function["spec"]["scale"]["max"], 20, "the field that is left out has its default again");
    assert_eq!(function["metadata"]["labels"]["mine"], "1", "and what others set stays");

    let (same, said) = kubectl.run(&["diff", "-f", "-"], &hello("hello"));
    assert!(same, "{said}");
    let difference = kubectl.refused(&["diff", "-f", "-"], &with_max);
    assert!(difference.contains("+    max: 3"), "{difference}");
    kubectl.ok_with(&["apply", "--dry-run=server", "-f", "-"], &with_max);
    assert_eq!(kubectl.spec("hello")["scale"]["max"], 20, "a dry run stores nothing");
    kubectl.ok_with(&["apply", "--dry-run=server", "-f", "-"], &hello("other"));
    assert!(kubectl.refused(&["get", "fn", "other"], "").contains("NotFound"));

    let misspelt = hello("hello").replace("handler:", "hander:");
    let refused = kubectl.refused(&apply, &misspelt);
    assert!(refused.contains("hander"), "{refused}");
    let refused = kubectl.refused(&["apply", "--validate=false", "-f", "-"], &misspelt);
    assert!(refused.contains("did you mean `handler`?"), "{refused}");
    kubectl.stop();
}

#[test]
fn a_server_side_apply_keeps_owners_apart() {
    let Some(kubectl) = Kubectl::start() else { return };
    let limits = |max: u32| {
        format!(
            "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: hello }}\nspec: {{ scale: {{ max: {max} }} }}\n"
        )
    };
    // Without the client's own validation: that of 1.20 takes a part of an object for an object that lacks something.
    let by = |manager: &'static str| {
        ["apply", "--server-side", "--validate=false", "-f", "-", "--field-manager", manager]
    };
    kubectl.ok_with(&by("team"), &hello("hello"));
    kubectl.ok_with(&by("ops"), &limits(5));
    assert_eq!(kubectl.spec("hello")["scale"]["max"], 5);
    // Applied again, the manifest that does not name it leaves it alone.
    kubectl.ok_with(&by("team"), &hello("hello"));
    assert_eq!(kubectl.spec("hello")["scale"]["max"], 5);
    let conflict = kubectl.refused(&by("dev"), &limits(6));
    assert!(
        conflict.contains(r#"conflict with "ops""#) && conflict.contains(".spec.scale.max"),
        "{conflict}"
    );
    let whole = hello("hello").replace("initial: 0", "initial: 0, max: 6");
    kubectl.ok_with(&[&by("team")[..], &["--force-conflicts"]].concat(), &whole);
    assert_eq!(kubectl.spec("hello")["scale"]["max"], 6);
    // Now it is the team's, who takes it away by not naming it.
    kubectl.ok_with(&by("team"), &hello("hello"));
    assert_eq!(kubectl.spec("hello")["scale"]["max"], 20);
    // The other way of applying meets the same object.
    kubectl.ok_with(&["apply", "-f", "-"], &hello("mixed"));
    kubectl.ok_with(&["apply", "--server-side", "--force-conflicts", "-f", "-"], &hello("mixed"));
    kubectl.stop();
}

#[test]
fn what_is_there_can_be_seen_in_every_form() {
    let Some(kubectl) = Kubectl::start() else { return };
    for name in ["a", "b", "c"] {
        kubectl.ok_with(&["apply", "-f", "-"], &hello(name));
    }
    kubectl.ok(&["wait", "--for=condition=Ready", "fn", "--all", "--timeout=60s"]);
    let table = kubectl.ok(&["get", "fn"]);
    let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    assert_eq!(header, ["NAME", "READY", "URL", "INSTANCES", "AGE"]);
    assert!(table.contains("/function/default/a"), "{table}");
    assert!(kubectl.ok(&["get", "functions", "-A", "-o", "wide"]).contains("a-00001"));
    assert_eq!(kubectl.ok(&["get", "fn", "--chunk-size=1", "-o", "name"]).lines().count(), 3);
    kubectl.ok(&["label", "fn", "a", "tier=web"]);
    for (selector, count) in [("tier=web", 1), ("tier!=web", 2), ("tier in (web,db)", 1), ("!tier", 2)] {
        let found = kubectl.ok(&["get", "fn", "-o", "name", "-l", selector]);
        assert_eq!(found.lines().count(), count, "{selector}: {found}");
    }
    let revisions = kubectl.ok(&["get", "rev", "--field-selector", "spec.function=b", "-o", "name"]);
    assert_eq!(revisions.trim(), "revision.hearth.dev/b-00001");
    assert!(kubectl.refused(&["get", "fn", "--field-selector", "spec.x=y"], "").contains("not supported"));
    let url = kubectl.ok(&["get", "fn", "a", "-o", "jsonpath={.status.url}"]);
    assert!(url.ends_with("/function/default/a"), "{url}");
    assert_eq!(
        kubectl.ok(&["get", "fn", "b", "-o", "custom-columns=N:.metadata.name", "--no-headers"]).trim(),
        "b"
    );

    assert_eq!(kubectl.hearth.get("/function/default/a").status, 200);
    let said = support::eventually(|| {
        let said = kubectl.ok(&["describe", "fn", "a"]);
        said.contains("Started").then_some(said)
    });
    assert!(said.is_some_and(|said| said.contains("Events:") && said.contains("hearth")));
    let events = kubectl.ok(&["get", "events", "--field-selector", "involvedObject.name=b"]);
    assert!(events.contains("Ready") && !events.contains("Started"), "{events}");
    kubectl.stop();
}

#[test]
fn a_watch_tells_what_changes() {
    let Some(kubectl) = Kubectl::start() else { return };
    kubectl.ok_with(&["apply", "-f", "-"], &hello("a"));
    kubectl.ok(&["wait", "--for=condition=Ready", "fn/a", "--timeout=60s"]);
    // Ended by the server when nothing more comes.
    let mut watch = kubectl
        .command(&["get", "fn", "-w", "--show-labels", "--request-timeout=30s"])
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("its output is a pipe")).lines();
    let mut next = |wanted: &str| lines.by_ref().map_while(Result::ok).any(|line| line.contains(wanted));
    assert!(next("NAME") && next("a "), "first what is there");
    kubectl.ok(&["label", "fn", "a", "color=blue"]);
    assert!(next("color=blue"), "then what changes");
    kubectl.ok_with(&["apply", "-f", "-"], &hello("other"));
    assert!(next("other"));
    end(&mut watch);

    // Of those in the selection, and of no other.
    let mut watch = kubectl
        .command(&["get", "fn", "-w", "-l", "color=blue", "--output-watch-events", "--request-timeout=30s"])
        .spawn()
        .expect("kubectl runs");
    let lines = BufReader::new(watch.stdout.take().expect("its output is a pipe")).lines();
    let mut told = lines
        .map_while(Result::ok)
        .map(|line| line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>().join(" "));
    assert_eq!((told.next().as_deref(), told.next().as_deref()), (Some("EVENT NAME"), Some("ADDED a")));
    kubectl.ok(&["label", "fn", "other", "color=red"]);
    kubectl.ok(&["label", "fn", "other", "color=blue", "--overwrite"]);
    kubectl.ok(&["label", "fn", "a", "color-"]);
    kubectl.ok(&["annotate", "fn", "a", "note=x"]);
    kubectl.ok(&["delete", "fn", "other"]);
    let mut told: Vec<_> = told.take_while(|line| line != "DELETED other").collect();
    // Its status may have changed meanwhile.
    told.retain(|line| !line.starts_with("MODIFIED"));
    assert_eq!(told, ["ADDED other", "DELETED a"]);
    end(&mut watch);
    kubectl.stop();
}

fn end(child: &mut Child) {
    child.kill().expect("a child of ours can be killed");
    child.wait().expect("a child of ours can be waited for");
}

#[test]
fn every_way_of_writing_works() {
    let Some(kubectl) = Kubectl::start() else { return };
    kubectl.ok_with(&["create", "-f", "-"], &hello("hello"));
    assert!(kubectl.refused(&["create", "-f", "-"], &hello("hello")).contains("AlreadyExists"));
    kubectl.ok(&["patch", "fn", "hello", "--type", "merge", "-p", r#"{"spec":{"scale":{"max":4}}}"#]);
    let json = r#"[{"op":"replace","path":"/spec/scale/max","value":5}]"#;
    kubectl.ok(&["patch", "fn", "hello", "--type", "json", "-p", json]);
    assert_eq!(kubectl.spec("hello")["scale"]["max"], 5);
    kubectl.ok(&["annotate", "fn", "hello", "note=x"]);
    kubectl.ok(&["scale", "fn/hello", "--replicas=2"]);
    assert_eq!(kubectl.spec("hello")["scale"]["min"], 2, "replicas are those that are always there");
    let refused = kubectl.refused(&["scale", "fn/hello", "--replicas=9"], "");
    assert!(refused.contains("spec.scale.min"), "{refused}");
    kubectl.ok(&["scale", "fn/hello", "--replicas=0", "--current-replicas=2"]);

    let editor = kubectl.home.path().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/max: 5/max: 6/' \"$1\"\n").expect("the script is written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&editor, mode).expect("the script can be run");
    let edited = kubectl.command(&["edit", "fn", "hello"]).env("KUBE_EDITOR", &editor).output();
    let edited = edited.expect("kubectl runs");
    assert!(edited.status.success(), "{}", text(&edited));
    assert_eq!(kubectl.spec("hello")["scale"]["max"], 6);

    kubectl.ok_with(&["replace", "-f", "-"], &hello("hello"));
    let replaced = kubectl.json(&["get", "fn", "hello"]);
    assert_eq!(
        (&replaced["spec"]["scale"]["max"], &replaced["metadata"]["annotations"]),
        (&20.into(), &Value::Null)
    );
    if kubectl.minor >= 24 {
        let scale = kubectl.json(&["get", "fn", "hello", "--subresource=scale"]);
        assert_eq!((scale["kind"].as_str(), scale["spec"]["replicas"].as_i64()), (Some("Scale"), Some(0)));
    }
    kubectl.stop();
}

#[test]
fn a_deletion_waits_for_finalizers_and_takes_revisions_along() {
    let Some(kubectl) = Kubectl::start() else { return };
    for name in ["a", "b", "c", "d"] {
        kubectl.ok_with(&["apply", "-f", "-"], &hello(name));
    }
    kubectl.ok(&["wait", "--for=condition=Ready", "fn", "--all", "--timeout=60s"]);
    kubectl.ok(&["delete", "fn", "a", "--dry-run=server"]);
    kubectl.ok(&["get", "fn", "a"]);
    let refused = kubectl.refused(&["delete", "fn", "a", "--cascade=orphan"], "");
    // Before 1.20 the word was a flag.
    assert!(refused.contains("takes its Revisions along"), "{refused}");
    kubectl.ok(&["delete", "fn", "a"]);
    let revisions = kubectl.ok(&["get", "rev", "-o", "name"]);
    assert!(!revisions.contains("/a-00001") && revisions.contains("/b-00001"), "{revisions}");

    kubectl.ok(&[
        "patch",
        "fn",
        "b",
        "--type",
        "merge",
        "-p",
        r#"{"metadata":{"finalizers":["example.com/x"]}}"#,
    ]);
    kubectl.ok(&["delete", "fn", "b", "--wait=false"]);
    assert!(kubectl.json(&["get", "fn", "b"])["metadata"]["deletionTimestamp"].is_string());
    let waiting =
        kubectl.command(&["wait", "--for=delete", "fn/b", "--timeout=60s"]).spawn().expect("kubectl runs");
    let json = r#"[{"op":"remove","path":"/metadata/finalizers"}]"#;
    kubectl.ok(&["patch", "fn", "b", "--type", "json", "-p", json]);
    let waited = waiting.wait_with_output().expect("kubectl ends");
    // It may be gone before the client looks for it first.
    let gone = ["NotFound", "no matching resources"].iter().any(|word| text(&waited).contains(word));
    assert!(waited.status.success() || gone, "{}", text(&waited));

    kubectl.ok(&["label", "fn", "c", "tier=web"]);
    kubectl.ok(&["delete", "fn", "-l", "tier=web"]);
    assert_eq!(kubectl.ok(&["get", "fn", "-o", "name"]).trim(), "function.hearth.dev/d");
    assert!(kubectl.refused(&["delete", "rev", "d-00001"], "").contains("made and taken away by Hearth"));
    kubectl.ok(&["delete", "fn", "--all"]);
    kubectl.stop();
}
