//! What a person is told when something is not as he meant it, with real containers and the command line. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod support;

use std::process::Output;

use serde_json::Value;
use support::http::Request;
use support::{Hearth, condition, eventually, inline, node, node_with, python, text};

/// Applies a manifest as a person does, and waits as the command does.
fn apply(hearth: &Hearth, manifest: &str) -> Output {
    let file = hearth.data_dir().join("applied.yaml");
    std::fs::write(&file, manifest).expect("the manifest is written");
    hearth.cli(&["apply", "-f", file.to_str().expect("temporary paths are text")])
}

fn ready(function: &Value) -> &Value {
    let conditions = function["status"]["conditions"].as_array().expect("there are conditions");
    conditions.iter().find(|condition| condition["type"] == "Ready").expect("one is Ready")
}

#[test]
fn code_that_does_not_load_says_in_which_file_and_line_and_its_log_has_the_stack() {
    let hearth = Hearth::start(&[]);
    let broken = "console.log('loading');\nconst boot = () => { throw new Error('no config'); };\nboot();\n";
    let syntax = "import os\nprint('loading')\ndef handler(event, context)\n    return 1\n";
    let missing = "exports.other = () => 1;\n";
    for (name, manifest, place, log) in [
        ("thrower", node("thrower", broken), "Error: no config (index.js:2)", "at boot (/code/index.js:2:"),
        ("syntax", python("syntax", syntax), "main.py", "File \"/code/main.py\", line 3"),
        ("missing", node("missing", missing), "index.js has no export", "index.js has no export"),
    ] {
        let applied = apply(&hearth, &manifest);
        assert!(!applied.status.success() && text(&applied).contains(place), "{}", text(&applied));
        let (status, message) = condition(&hearth.settled(name), "Ready");
        assert!(status == "False" && message.contains(place), "{message}");
        let logs = eventually(|| {
            let logs = text(&hearth.cli(&["logs", name]));
            logs.contains(log).then_some(logs)
        });
        let logs = logs.unwrap_or_else(|| text(&hearth.cli(&["logs", name])));
        assert!(logs.contains(log) && logs.contains("the instance did not start"), "{logs}");
        let described = text(&hearth.cli(&["describe", "function", name]));
        let start = described.lines().find(|line| line.contains(" ms ")).unwrap_or_default();
        assert!(start.contains("load") && !start.contains("= 0.0 ms"), "{described}");
    }
    hearth.stop();
}

#[test]
fn what_a_manifest_names_and_is_not_there_is_told_with_its_other_mistakes_and_a_colon_is_a_dot() {
    let hearth = Hearth::start(&[]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write =
        |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("it is written");
    write("main.py", "def create(event, context):\n    return 'by a colon'\n");
    let manifest = |name: &str, handler: &str, more: &str| {
        format!(
            "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n  runtime: python\n  source: {{ path: . }}\n  handler: {handler}\n{more}"
        )
    };
    let apply = |text: &str| {
        write("function.yaml", text);
        hearth.cli(&["apply", "-f", directory.path().to_str().expect("temporary paths are text")])
    };
    let both = format!(
        "{}---\n{}",
        manifest("one", "index.handler", "  netwrk: none\n"),
        manifest("two", "main.create", "")
    );
    let applied = apply(&both);
    let said = text(&applied);
    assert!(!applied.status.success(), "{said}");
    for told in [
        "there is no index.py",
        "there are main.py",
        "did you mean `network`?",
        "function.yaml:7:12",
        "function.yaml:8:3",
    ] {
        assert!(said.contains(told), "{told} is not in {said}");
    }
    assert!(hearth.function("two").is_none(), "nothing was stored");
    let applied = apply(&manifest("colon", "main:create", ""));
    assert!(applied.status.success(), "{}", text(&applied));
    assert_eq!(text(&hearth.cli(&["invoke", "colon"])).trim(), "\"by a colon\"");
    hearth.stop();
}

#[test]
fn a_route_that_is_taken_is_told_and_the_url_reaches_the_function() {
    let hearth = Hearth::start(&[]);
    let route = "triggers:\n  - http: { path: /shared }";
    hearth.deploy(&node_with("older", "exports.handler = async () => 'older'", route));
    let younger = node_with("younger", "exports.handler = async (event) => event.rawPath", route)
        .replace("{ name: younger }", "{ name: younger, namespace: team }");
    let said = text(&apply(&hearth, &younger));
    let taken = "/shared belongs to default/older";
    assert!(said.contains(taken) && said.contains("/function/team/younger"), "{said}");
    let listed = text(&hearth.cli(&["get", "functions", "-A"]));
    assert!(listed.contains(taken), "{listed}");
    assert_eq!(hearth.get("/shared").text(), "\"older\"");
    // By its name it sees what comes after that.
    assert_eq!(hearth.get("/function/team/younger/a/b").text(), "\"/a/b\"");
    let invoked = text(&hearth.cli(&["invoke", "younger", "-n", "team", "--path", "/a/b"]));
    assert_eq!(invoked.trim(), "\"/a/b\"");
    hearth.stop();
}

#[test]
fn what_failed_is_tried_again_by_the_same_apply_and_its_reason_outlives_a_restart() {
    let mut hearth = Hearth::start(&[]);
    // Loads only when another function is there.
    let needy = "const up = await fetch(process.env.HEARTH_GATEWAY + '/function/default/database');\nif (up.status !== 200) throw new Error('no database');\nexport const handler = async () => 'up';\n";
    let manifest = inline("needy", "runtime: nodejs\n  handler: index.handler", "index.mjs", needy, "");
    assert!(!apply(&hearth, &manifest).status.success());
    let failed = hearth.settled("needy");
    let before = ready(&failed).clone();
    assert_eq!(before["reason"], "LoadFailed");
    let message = before["message"].as_str().unwrap_or_default();
    assert!(message.contains("no database (index.mjs:2); it is tried again at 2"), "{message}");

    hearth.crash_and_restart();
    let after = ready(&hearth.settled("needy")).clone();
    assert_eq!(
        (&after["reason"], &after["lastTransitionTime"]),
        (&before["reason"], &before["lastTransitionTime"])
    );
    assert!(after["message"].as_str().unwrap_or_default().contains("no database (index.mjs:2)"), "{after}");

    hearth.deploy(&node("database", "exports.handler = async () => 'rows'"));
    let again = apply(&hearth, &manifest);
    assert!(again.status.success() && text(&again).contains("unchanged, tried again"), "{}", text(&again));
    assert_eq!(hearth.get("/function/default/needy").text(), "\"up\"");
    assert_eq!(hearth.settled("needy")["status"]["latestRevision"], "needy-00001", "the same revision");
    hearth.stop();
}

#[test]
fn what_is_applied_by_hand_belongs_to_up_no_more() {
    let hearth = Hearth::start(&[]);
    let manifest = node("mine", "exports.handler = async () => 1");
    // As `up` applies it.
    hearth.deploy(&manifest.replace("{ name: mine }", "{ name: mine, labels: { hearth.dev/up: \"true\" } }"));
    let label =
        || hearth.function("mine").map(|function| function["metadata"]["labels"]["hearth.dev/up"].clone());
    assert_eq!(label(), Some("true".into()));
    assert!(apply(&hearth, &manifest).status.success());
    assert_eq!(label(), Some(Value::Null));
    hearth.stop();
}

#[test]
fn a_process_that_fails_a_build_that_does_not_come_and_a_request_that_nobody_knows_are_explained() {
    let hearth = Hearth::start(&[]);
    let script = "#!/bin/sh\necho 'no such table' >&2\nexit 3\n";
    hearth.deploy(&inline("query", "runtime: exec\n  command: [ ./run.sh ]", "run.sh", script, ""));
    let answer = hearth.get("/function/default/query");
    let body = answer.json();
    assert_eq!((answer.status, &body["code"]), (502, &"function_error".into()));
    let how = "the process failed: ./run.sh: exit code 3; the function's log has what it printed";
    assert_eq!(body["message"], how);
    assert!(!body.to_string().contains("no such table"), "what it printed is for its owner: {body}");

    // No network is needed to find that out.
    let unbuilt = python("unbuilt", "def handler(event, context):\n    return 1\n")
        + "      requirements.txt: 'no requirement at all'\n";
    assert!(!apply(&hearth, &unbuilt).status.success());
    let answer = hearth.get("/function/default/unbuilt");
    assert_eq!((answer.status, answer.code().as_str()), (503, "function_not_ready"));
    assert_eq!(answer.json()["reason"], "build_failed");
    assert!(!answer.text().contains("no requirement at all"), "{}", answer.text());
    let logs = text(&hearth.cli(&["logs", "unbuilt"]));
    assert!(logs.contains("[hearth] pip install runs") && logs.contains("no requirement at all"), "{logs}");

    let nothing = hearth.cli(&["logs", "query", "--request", "r-unknown"]);
    assert!(!nothing.status.success(), "{}", text(&nothing));
    assert!(text(&nothing).contains("default/query knows no request \"r-unknown\""), "{}", text(&nothing));
    hearth.send(&Request::get("/function/default/query").header("x-hearth-request-id", "r-known"));
    let known = eventually(|| {
        let output = hearth.cli(&["logs", "query", "--request", "r-known"]);
        (output.status.success() && text(&output).contains("no such table")).then_some(())
    });
    assert!(known.is_some());
    let absent = text(&hearth.cli(&["describe", "function", "absent", "-n", "team"]));
    assert!(
        absent.contains("there is no function \"absent\" in namespace team") && absent.contains("fix:"),
        "{absent}"
    );
    let bad = apply(
        &hearth,
        "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: { name: a }\nspec:\n  runtime: nodejs\n  source: { path: ./absent }\n  handler: index.handler\n",
    );
    let bad = text(&bad);
    assert!(bad.contains("spec.source.path") && bad.contains("applied.yaml:6:"), "{bad}");
    hearth.stop();
}
