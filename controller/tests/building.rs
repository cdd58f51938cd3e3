//! From a directory to an image, and from a template to a function that answers, with real containers and a real registry. Needs root and
//! `docker-registry`.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Output;

use support::http::Request;
use support::images::Registry;
use support::{Hearth, text};

/// A function of this runtime in a directory, and a cache for its builds.
struct Project {
    directory: tempfile::TempDir,
}

impl Project {
    fn new(files: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("app")).expect("a temporary directory is ours");
        let this = Self { directory };
        for (name, content) in files {
            this.write(name, content);
        }
        this
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.directory.path().join("app").join(name), content)
            .expect("a temporary directory is ours");
    }

    fn at(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Builds it; the digest, and what was said.
    fn build(&self, hearth: &Hearth, more: &[&str]) -> (String, String) {
        let (app, cache) = (self.at("app"), self.at("cache"));
        let arguments = [&["build", &app, "--cache-dir", &cache], more].concat();
        let output = hearth.cli(&arguments);
        assert!(output.status.success(), "{}", text(&output));
        (last_line(&output), text(&output))
    }
}

fn last_line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

fn load(hearth: &Hearth, path: &str) -> String {
    let output = hearth.cli(&["image", "load", path]);
    assert!(output.status.success(), "{}", text(&output));
    last_line(&output)
}

fn manifest(name: &str, how: &str, source: &str) -> String {
    format!(
        "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n  {how}\n  source: {source}\n"
    )
}

const NODE: &str = "exports.handler = async () => ({ statusCode: 200, body: `VERSION ${require('node:fs').readdirSync('/code')}` })";

#[test]
fn a_change_of_code_makes_and_pushes_one_small_layer() {
    let registry = Registry::start();
    let hearth = Hearth::start(&[]);
    let how = "runtime: nodejs\n  handler: index.handler";
    let project = Project::new(&[
        ("function.yaml", &manifest("app", how, "{ path: . }")),
        ("index.js", &NODE.replace("VERSION", "one")),
        (".env", "PASSWORD=secret"),
    ]);
    let (one, two) = (project.at("one"), project.at("two"));
    let reference = registry.reference("team/app:1");
    let (first, said) = project.build(&hearth, &["--output", &format!("oci:{one}"), "--push", &reference]);
    assert!(said.contains("left out") && said.contains(".env"), "{said}");
    assert!(said.contains("3 of 3 blobs sent"), "{said}");
    // Somebody else's build of the same is the same.
    let other = Project::new(&[
        ("function.yaml", &manifest("app", how, "{ path: . }")),
        ("index.js", &NODE.replace("VERSION", "one")),
    ]);
    let built = hearth.cli(&["build", &other.at("app"), "--cache-dir", &project.at("cache")]);
    assert_eq!(last_line(&built), first, "{}", text(&built));
    project.write("index.js", &NODE.replace("VERSION", "two"));
    let (second, said) = project.build(&hearth, &["--output", &format!("oci:{two}"), "--push", &reference]);
    assert!(second != first && said.contains("2 of 3 blobs sent"), "{said}");
    assert!(said.contains("base          kept"), "{said}");
    // It runs as an image, from the registry and from the disk.
    hearth.deploy(&manifest("pulled", how, &format!("{{ image: \"{reference}\" }}")));
    assert_eq!(hearth.get("/function/default/pulled").text(), "two index.js", "{}", hearth.own_log());
    let loaded = load(&hearth, &one);
    assert_eq!(loaded, first);
    hearth.deploy(&manifest("loaded", how, &format!("{{ image: \"{loaded}\" }}")));
    assert_eq!(hearth.get("/function/default/loaded").text(), "one index.js");
    hearth.stop();
}

#[test]
fn a_server_upon_a_base_and_an_interpreter_of_the_host_run_as_images() {
    let hearth = Hearth::start(&[]);
    let server = include_str!("../templates/http/server.py");
    let project = Project::new(&[
        (
            "function.yaml",
            &manifest("server", "runtime: http\n  command: [python3, server.py]", "{ path: . }"),
        ),
        ("server.py", server),
    ]);
    let cache = project.at("cache");
    let python = project.at("python");
    let made = hearth.cli(&[
        "runtime",
        "from-host",
        "python",
        "--output",
        &format!("oci:{python}"),
        "--cache-dir",
        &cache,
    ]);
    assert!(made.status.success(), "{}", text(&made));
    let out = format!("oci:{}", project.at("out"));
    project.build(&hearth, &["--base", &format!("oci:{python}"), "--output", &out]);
    let image = load(&hearth, &project.at("out"));
    // Entry point and working directory are the image's.
    hearth.deploy(&manifest("server", "runtime: http", &format!("{{ image: \"{image}\" }}")));
    assert_eq!(hearth.get("/function/default/server").text(), "Hello, world!\n", "{}", hearth.own_log());
    let handler = Project::new(&[
        ("function.yaml", &manifest("py", "runtime: python\n  handler: main.handler", "{ path: . }")),
        ("main.py", include_str!("../templates/python/main.py")),
    ]);
    let out = format!("oci:{}", handler.at("out"));
    let built = hearth.cli(&["build", &handler.at("app"), "--cache-dir", &cache, "--output", &out]);
    assert!(built.status.success(), "{}", text(&built));
    let image = load(&hearth, &handler.at("out"));
    let how = "runtime: python\n  handler: main.handler";
    hearth.deploy(&manifest("py", how, &format!("{{ image: \"{image}\" }}")));
    assert_eq!(hearth.get("/function/default/py?name=Ada").text(), "Hello, Ada!\n", "{}", hearth.own_log());
    hearth.stop();
}

#[test]
fn every_template_answers_as_it_is() {
    let hearth = Hearth::start(&[]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (runtime, answer) in [
        ("nodejs", "Hello, world!\n"),
        ("python", "Hello, world!\n"),
        ("http", "Hello, world!\n"),
        ("exec", "Hello, Ada!\n"),
    ] {
        let name = format!("my-{runtime}");
        let init = |name: &str| {
            std::process::Command::new(env!("CARGO_BIN_EXE_hearth"))
                .args(["init", name, "--runtime", runtime])
                .current_dir(directory.path())
                .output()
                .expect("the binary under test can be run")
        };
        let made = init(&name);
        assert!(made.status.success(), "{}", text(&made));
        let again = init(&name);
        assert!(!again.status.success() && text(&again).contains("is there already"), "{}", text(&again));
        let applied = hearth.cli(&["apply", "-f", &directory.path().join(&name).display().to_string()]);
        assert!(applied.status.success(), "{}", text(&applied));
        let request = match runtime {
            "exec" => Request::post(&format!("/{name}"), "Ada"),
            _ => Request::get(&format!("/{name}")),
        };
        assert_eq!(hearth.send(&request).text(), answer, "{runtime}");
    }
    let bad = hearth.cli(&["init", "Not_A_Name"]);
    assert_eq!(bad.status.code(), Some(2), "{}", text(&bad));
    assert!(!Path::new("Not_A_Name").exists());
    let runtimes = hearth.cli(&["runtimes"]);
    let runtimes = text(&runtimes);
    assert!(
        runtimes.contains("nodejs") && runtimes.contains("exec") && runtimes.contains("not built yet"),
        "{runtimes}"
    );
    hearth.stop();
}
