//! Sources that cannot run: each says why, to who applied it and to who calls it, and a Revision that served goes on serving.

use crate::support::{Hearth, condition, node, node_with};
use crate::{Scene, assert_refused, assert_says};

/// Applies a manifest of `bad` that must not become Ready, beside a neighbour: the condition and the caller's answer say `text`.
fn assert_does_not_start(manifest: &str, text: &str) {
    let scene = Scene::without_function(&[]);
    let mut round = 0;
    scene.neighbour.is_undisturbed_while(|| {
        // Another manifest each time, so that it is tried anew.
        round += 1;
        scene
            .hearth
            .apply(&manifest.replace("ROUND", &round.to_string()))
            .expect("the manifest is well-formed");
        let settled = scene.hearth.settled("bad");
        let (status, message) = condition(&settled, "Ready");
        assert_eq!(status, "False", "{settled:#}");
        assert!(message.contains(text), "not {text:?}: {message}");
        let answer = scene.get("");
        assert_refused(&answer, 502, "start_failed");
        assert_says(&answer, text);
    });
    scene.end();
}

#[test]
fn a_source_that_is_missing_is_refused_with_its_place() {
    let hearth = Hearth::start(&[]);
    let manifest = "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: { name: bad }\nspec:\n  runtime: nodejs\n  handler: index.handler\n  source: { path: ./nowhere }\n";
    let refused = hearth.apply(manifest).expect_err("there is nothing to upload");
    assert!(refused.contains("nowhere"), "{refused}");
    assert!(hearth.function("bad").is_none(), "nothing was stored");
    hearth.stop();
}

#[test]
fn a_bundle_that_is_not_here_is_refused_or_said_in_a_condition() {
    let hearth = Hearth::start(&[]);
    let digest = "0".repeat(64);
    let manifest = format!(
        "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: bad }}\nspec:\n  runtime: nodejs\n  handler: index.handler\n  source: {{ bundle: \"sha256:{digest}\" }}\n"
    );
    hearth.apply(&manifest).expect("the manifest is well-formed");
    let (status, message) = condition(&hearth.settled("bad"), "Ready");
    assert_eq!(status, "False");
    assert!(message.contains("sha256:0000"), "{message}");
    hearth.stop();
}

#[test]
fn a_syntax_error_is_told_with_what_the_interpreter_said() {
    assert_does_not_start(&node("bad", "exports.handler = async () => { // ROUND"), "SyntaxError");
}

#[test]
fn a_handler_that_is_missing_is_told_by_its_name() {
    let code = "exports.other = async () => 'ROUND';";
    assert_does_not_start(&node("bad", code), "handler");
}

#[test]
fn a_module_that_ends_the_process_while_it_loads_is_told_with_its_last_words() {
    let code = "console.log('last words ROUND'); process.exit(7);";
    assert_does_not_start(&node("bad", code), "last words");
}

#[test]
fn a_module_that_never_finishes_loading_is_cut_off() {
    let scene = Scene::without_function(&[]);
    scene.neighbour.is_undisturbed_while(|| {
        let code = "console.log('so far'); while (true);";
        let manifest = node_with("bad", code, "timeouts: { start: 1s }\nscale: { initial: 0 }");
        scene.hearth.apply(&manifest).expect("the manifest is well-formed");
        scene.hearth.settled("bad");
        let answer = scene.get("");
        assert_refused(&answer, 504, "start_timeout");
        let told = answer.json();
        assert_eq!(
            (&told["reason"], &told["lastLines"][0]),
            (&"start_timeout".into(), &"so far".into()),
            "{told}"
        );
    });
    scene.end();
}

#[test]
fn a_dependency_that_does_not_install_is_told_with_what_the_installer_said() {
    let scene = Scene::without_function(&[]);
    let manifest = node("bad", "exports.handler = async () => 'never';");
    let manifest = format!(
        "{manifest}      package.json: |\n        {{ \"dependencies\": {{ \"left-pad\": \"999.0.0\" }} }}\n"
    );
    scene.neighbour.is_undisturbed_while(|| {
        scene.hearth.apply(&manifest).expect("the manifest is well-formed");
        let settled = scene.hearth.settled("bad");
        let (status, message) = condition(&settled, "Built");
        assert_eq!(status, "False", "{settled:#}");
        assert!(message.contains("left-pad"), "{message}");
        assert_eq!(condition(&settled, "Ready").0, "False", "{settled:#}");
    });
    let answer = scene.get("");
    assert!(answer.status >= 400 && !answer.code().is_empty(), "{answer:?}");
    scene.end();
}

#[test]
fn a_broken_revision_leaves_the_old_one_serving() {
    let scene = Scene::with(&node("bad", "exports.handler = async () => process.env.HEARTH_INSTANCE;"));
    scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        scene
            .hearth
            .apply(&node("bad", "exports.handler = async () => {"))
            .expect("the manifest is well-formed");
        scene.instance();
    });
    let settled = scene.hearth.settled("bad");
    assert!(settled.to_string().contains("SyntaxError"), "a condition says why: {settled:#}");
    scene.instance();
    scene.end();
}
