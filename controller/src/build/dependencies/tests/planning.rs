//! When two bundles share their dependencies, and when not.

use std::path::PathBuf;

use crate::backend::Root;
use crate::backend::interpreters::{Interpreter, Language};
use crate::build::dependencies::{Plan, PlanError, Tool, Toolchain, plan};

pub(super) fn toolchain(language: Language) -> Toolchain {
    let (path, version) = match language {
        Language::Nodejs => ("/usr/bin/node", [20, 11, 1]),
        Language::Python => ("/usr/bin/python3.11", [3, 11, 7]),
    };
    Toolchain::of(Interpreter { language, path: path.into(), version, prefix: "/usr".into(), image: None })
}

/// The plan for a bundle with these files, in a directory of this name.
fn plan_of(name: &str, toolchain: &Toolchain, files: &[(&str, &str)]) -> Option<Plan> {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join(name);
    std::fs::create_dir(&bundle).unwrap();
    for (name, text) in files {
        std::fs::write(bundle.join(name), text).unwrap();
    }
    plan(&bundle, toolchain).unwrap()
}

fn npm(files: &[(&str, &str)]) -> Option<Plan> {
    plan_of("bundle", &toolchain(Language::Nodejs), files)
}

fn pip(requirements: &str) -> Option<Plan> {
    plan_of("bundle", &toolchain(Language::Python), &[("requirements.txt", requirements)])
}

const MANIFEST: &str = r#"{ "name": "a", "version": "1.0.0", "dependencies": { "express": "^5" } }"#;
const LOCK: (&str, &str) = ("package-lock.json", r#"{ "lockfileVersion": 3 }"#);

#[test]
fn nothing_asked_for_is_nothing_installed() {
    assert_eq!(npm(&[("index.js", "")]), None);
    assert_eq!(npm(&[("package.json", r#"{ "type": "module", "devDependencies": { "jest": "1" } }"#)]), None);
    assert_eq!(npm(&[("package.json", r#"{ "dependencies": {} }"#), LOCK]), None);
    assert_eq!(npm(&[("requirements.txt", "flask")]), None);
    assert_eq!(pip("# nothing\n\n  # at all\n--index-url https://mirror/simple\n"), None);
}

#[test]
fn code_scripts_and_versions_of_the_bundle_do_not_change_the_key() {
    let first = npm(&[("package.json", MANIFEST), LOCK]).unwrap();
    let manifest = r#"{ "version": "2.0.0", "scripts": { "test": "jest" }, "dependencies": { "express": "^5" }, "name": "b" }"#;
    let second = npm(&[("package.json", manifest), LOCK, ("index.js", "code")]).unwrap();
    assert_eq!(first.key, second.key);
    assert_eq!(first.tool, Tool::NpmCi);
    assert!(first.notes.is_empty() && second.notes.is_empty());
    let spaced = pip("flask==3.0.0   # the server\r\n\n").unwrap();
    assert_eq!(spaced.key, pip("flask==3.0.0").unwrap().key);
}

#[test]
fn whatever_changes_what_is_installed_changes_the_key() {
    let node = toolchain(Language::Nodejs);
    let mut newer = node.clone();
    newer.interpreter.version[0] = 22;
    let image = Toolchain { root: Root::Directory("/var/lib/hearth/roots/a".into()), ..node.clone() };
    let with =
        |toolchain: &Toolchain, files: &[(&str, &str)]| plan_of("bundle", toolchain, files).unwrap().key;
    let manifest = ("package.json", MANIFEST);
    let keys = [
        with(&node, &[manifest, LOCK]),
        with(&newer, &[manifest, LOCK]),
        with(&image, &[manifest, LOCK]),
        with(&node, &[manifest]),
        with(&node, &[manifest, ("package-lock.json", "{}")]),
        with(&node, &[manifest, ("npm-shrinkwrap.json", LOCK.1)]),
        with(&node, &[manifest, LOCK, (".npmrc", "registry=https://mirror")]),
        with(&node, &[("package.json", r#"{ "dependencies": { "express": "^4" } }"#), LOCK]),
        pip("flask==3.0.0").unwrap().key,
        pip("flask==3.0.1").unwrap().key,
    ];
    let different: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(different.len(), keys.len());
    assert_eq!(keys[0].as_str().len(), 64);
}

#[test]
fn a_key_stays_what_it_is() {
    // Fails when what goes into the key changes: everybody's dependencies are installed anew then, which has to be meant.
    let mut node = toolchain(Language::Nodejs);
    node.interpreter.version = [20, 0, 0];
    let key = plan_of("bundle", &node, &[("package.json", MANIFEST), LOCK]).unwrap().key;
    if cfg!(target_arch = "x86_64") {
        assert_eq!(key.as_str(), "cc1d6e31eaa59ae419aae877c07afd509cd5aeae25e589bbf5d1e684a19eaa9b");
    }
}

#[test]
fn packages_of_the_bundle_itself_tie_the_key_to_all_of_it() {
    let node = toolchain(Language::Nodejs);
    let local = [("package.json", r#"{ "dependencies": { "lib": "file:./lib" } }"#)];
    let (one, two) = (plan_of("one", &node, &local).unwrap(), plan_of("two", &node, &local).unwrap());
    assert_ne!(one.key, two.key);
    assert_eq!(one.keep(), None);
    let python = toolchain(Language::Python);
    for line in
        ["-r more.txt", "-c limits.txt", "-e .", "./lib", "lib @ file:lib", "lib-1.0-py3-none-any.whl"]
    {
        let files = [("requirements.txt", line)];
        let keys = ["one", "two"].map(|name| plan_of(name, &python, &files).unwrap().key);
        assert_ne!(keys[0], keys[1], "{line}");
    }
    let away = [("requirements.txt", "lib @ https://mirror/lib-1.0-py3-none-any.whl")];
    let keys = ["one", "two"].map(|name| plan_of(name, &python, &away).unwrap().key);
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn what_is_done_otherwise_than_expected_is_said() {
    let notes = |files: &[(&str, &str)]| npm(files).unwrap().notes.join("\n");
    assert!(notes(&[("package.json", MANIFEST)]).contains("no package-lock.json"));
    assert!(notes(&[("package.json", MANIFEST), ("yarn.lock", "")]).contains("yarn.lock is not read"));
    let manifest = r#"{ "scripts": { "postinstall": "tsc", "test": "x" }, "dependencies": { "a": "1" } }"#;
    let plan = npm(&[("package.json", manifest), LOCK]).unwrap();
    assert!(plan.notes[0].contains("the postinstall script of package.json is not run"), "{:?}", plan.notes);
    assert!(!plan.manifest.unwrap().contains("tsc"));
    assert!(pip("flask>=3").unwrap().notes[0].contains("leaves versions open"));
    assert!(pip("flask==3.0.0").unwrap().notes.is_empty());
}

#[test]
fn a_manifest_that_cannot_be_read_is_named_with_the_place() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("package.json"), "{\n  \"dependencies\": {\n}").unwrap();
    let error = plan(dir.path(), &toolchain(Language::Nodejs)).unwrap_err();
    assert!(matches!(&error, PlanError::Invalid { file: "package.json", .. }));
    assert!(error.to_string().contains("line 3"), "{error}");
    std::fs::write(dir.path().join("package.json"), "[]").unwrap();
    assert_eq!(
        plan(dir.path(), &toolchain(Language::Nodejs)).unwrap_err().to_string(),
        "package.json: is not an object"
    );
    let bundle = PathBuf::from("/there/is/none");
    assert_eq!(plan(&bundle, &toolchain(Language::Nodejs)).unwrap(), None);
}
