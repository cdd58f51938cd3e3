//! Help texts, usage, what mistakes look like.

use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::args::Cli;
use super::error::{Error, picture};
use super::*;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_says_what_and_how() {
    let mut texts = vec![Cli::command().render_help().to_string()];
    let mut command = Cli::command();
    for subcommand in command.get_subcommands_mut() {
        let name = subcommand.get_name().to_owned();
        texts.push(format!("── {name}\n{}", subcommand.render_help()));
    }
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn wrong_usage_is_named() {
    for wrong in [
        &["hearth"][..],
        &["hearth", "up"],
        &["hearth", "get", "pods"],
        &["hearth", "gett"],
        &["hearth", "serve", "--set", "x"],
    ] {
        let error = Cli::try_parse_from(wrong).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong:?}");
    }
}

#[test]
fn flags_of_the_server_are_a_layer() {
    let Command::Serve(serve) = Cli::try_parse_from([
        "hearth",
        "serve",
        "--listen",
        "1.2.3.4:5",
        "--set",
        "drain.deadline=1s",
        "--data-dir",
        "/x",
    ])
    .unwrap()
    .command
    else {
        panic!("serve");
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        serve.server.flags(),
        [pair("drain.deadline", "1s"), pair("gateway.listen", "1.2.3.4:5"), pair("data_dir", "/x")]
    );
}

#[test]
fn a_function_is_named_with_its_kind_or_without() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    fn names<'a>(words: &'a [String], command: &str) -> Result<&'a [String], Error> {
        super::names(words, command, &args::Place::default())
    }
    assert_eq!(names(&words(&["function", "a", "b"]), "delete").unwrap(), words(&["a", "b"]));
    assert_eq!(names(&words(&["a"]), "delete").unwrap(), words(&["a"]));
    assert_eq!(names(&words(&["function"]), "delete").unwrap(), words(&["function"]));
    for wrong in [&["revision", "a"][..], &["default/a"]] {
        assert!(matches!(names(&words(wrong), "delete"), Err(Error::Usage { .. })), "{wrong:?}");
    }
    let place = args::Place { namespace: Some("team".to_owned()), ..args::Place::default() };
    let said = super::names(&words(&["revision", "a"]), "delete", &place).unwrap_err().text();
    assert!(said.ends_with("fix: hearth delete function NAME -n team\n"), "{said}");
}

fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn shown(error: Error, directory: &Path) -> String {
    let text = match &error {
        Error::Manifests(bad) => bad.iter().map(|bad| picture(bad, false, 100)).collect(),
        other => other.text(),
    };
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    lines.join("\n").replace(&directory.display().to_string(), "DIR")
}

fn read(paths: &[PathBuf]) -> Result<Vec<manifest::Manifest>, Error> {
    manifest::read_all(paths, manifest::Sources::Needed)
}

#[test]
fn all_that_is_wrong_with_all_files_is_told_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let hello = |name: &str, path: &str, more: &str| {
        format!(
            "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n  runtime: nodejs\n  source: {{ path: {path} }}\n  handler: index.handler\n{more}"
        )
    };
    let one = write(directory.path(), "one.yaml", &hello("one", "nowhere", "  netwrk: none\n"));
    let text = format!("{}---\n{}", hello("two", ".", ""), hello("three", ".", ""));
    let two = write(directory.path(), "two.yaml", &text);
    let again = write(directory.path(), "again.yaml", &hello("three", ".", ""));
    let latin = directory.path().join("latin.yaml");
    std::fs::write(&latin, b"# caf\xe9\n").unwrap();
    let empty = write(directory.path(), "empty.yaml", "# nothing\n---\n");
    let code = write(directory.path(), "main.js", "exports.handler = () => {}");
    let missing = directory.path().join("missing.yaml");
    let paths = [one, two.clone(), again, latin, empty, code, missing];
    let error = read(&paths).unwrap_err();
    insta::assert_snapshot!(shown(error, directory.path()));
    // What is deleted needs no code.
    assert_eq!(manifest::read_all(&[two], manifest::Sources::Unseen).unwrap().len(), 2);
}

#[test]
fn a_manifest_that_cannot_be_read_is_not_passed_over_in_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a.yaml"), b"kind: Function\n# caf\xe9\n").unwrap();
    std::fs::write(directory.path().join("foreign.yaml"), b"kind: caf\xe9\n").unwrap();
    let text = shown(read(&[directory.path().to_owned()]).unwrap_err(), directory.path());
    assert_eq!(text, "error: DIR/a.yaml:2:6: this is not UTF-8\n  fix: save the file as UTF-8");
}

#[test]
fn mistakes_in_a_manifest_are_shown_where_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let text = "apiVersion: hearth.dev/v1\nkind: Function\nmetadata:\n  name: hello\nspec:\n  runtime: nodejs\n  source: { path: . }\n  hander: index.handler\n  resources: { memory: lots }\n";
    let path = write(directory.path(), "function.yaml", text);
    let error = read(&[path]).unwrap_err();
    insta::assert_snapshot!(shown(error, directory.path()));
}

#[test]
fn a_directory_is_its_manifests_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let hello = |name: &str| {
        format!(
            "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec: {{ runtime: nodejs, source: {{ path: src }}, handler: a.b }}\n"
        )
    };
    write(directory.path(), "b.yml", &hello("b"));
    write(directory.path(), "a.yaml", &hello("a"));
    write(directory.path(), "package.json", "{\"name\": \"x\"}");
    std::fs::create_dir(directory.path().join("src")).unwrap();
    write(directory.path(), "src/a.js", "");
    write(directory.path(), "compose.yaml", "services: {}\n");
    write(directory.path(), "broken.yaml", "a: [\n");
    let manifests = read(&[directory.path().to_owned()]).unwrap();
    let found: Vec<_> =
        manifests.iter().map(|manifest| manifest.function.metadata.name.clone().unwrap()).collect();
    assert_eq!(found, ["a", "b"]);
    assert_eq!(manifests[0].source_directory(), Some(directory.path().join("src")));
    write(directory.path(), "c.yaml", &hello("a"));
    let twice = read(&[directory.path().to_owned()]).unwrap_err();
    assert!(shown(twice, directory.path()).contains("declared twice"));
}

#[test]
fn a_directory_of_code_without_a_manifest_is_told_what_to_add() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "index.js", "exports.handler = async () => 'hi'");
    let text = shown(read(&[directory.path().to_owned()]).unwrap_err(), directory.path());
    assert!(text.contains("runtime: nodejs") && text.contains("DIR/function.yaml"), "{text}");
    // What it says to write is a manifest.
    let written: String =
        text.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect();
    assert!(hearth_function::parse_manifests(&written).iter().all(Result::is_ok), "{written}");
}

#[test]
fn a_server_that_never_ran_is_named_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let error = client::read(&directory.path().join("kubeconfig")).unwrap_err();
    // Where kubectl knows a cluster, that is what the rest of the fix is about.
    let expected = "error: no server has run here: there is no DIR/kubeconfig\n  fix: start one with `hearth serve` or `hearth up PATH`, or name another with --kubeconfig";
    let text = shown(error, directory.path());
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn manifests_that_are_in_order_are_there_beside_one_that_is_not() {
    let service = |name: &str, image: &str| {
        format!(
            "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ template: {{ spec: {{ containers: [{{ {image} }}] }} }} }}\n"
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("services.yaml");
    let all = [service("good", "image: a"), service("bad", "name: b"), service("late", "image: c")];
    std::fs::write(&file, all.join("---\n")).unwrap();
    let (read, wrong) = manifest::read_each(std::slice::from_ref(&file), manifest::Sources::Unseen);
    let names: Vec<_> = read.iter().map(|one| one.function.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["good", "late"]);
    assert!(wrong.unwrap().text().contains("there is no image"));
    assert!(
        manifest::read_all(&[file], manifest::Sources::Unseen).is_err(),
        "what is applied is all in order"
    );
    let there = serde_json::to_string(&read[0].in_namespace("team").spec.triggers).unwrap();
    assert!(there.contains("good.team.localhost"), "{there}");
}
