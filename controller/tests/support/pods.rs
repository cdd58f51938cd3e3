//! A namespace of its own in the cluster that `KUBECONFIG` names, and an image that its Pods run.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use hearth::backend::interpreters;
use serde_json::Value;

/// Where Pods are made.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) namespace: String,
    /// The address of this machine, as Pods reach it.
    pub(crate) host: String,
    /// Made of this machine's interpreter.
    pub(crate) image: String,
    /// The interpreter in the image, as in `python3.11.2:/usr/bin/python3`.
    pub(crate) runtime: String,
    /// Whoever changes what all namespaces share has the cluster alone; a file lock, because test runners use threads or processes as they like.
    _turn: File,
}

/// How a test uses the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Beside others, in its namespace.
    Shared,
    /// It changes what others use.
    Alone,
}

impl Ground {
    /// Makes it, with an image of this language's interpreter; or says why there is nothing to try.
    pub(crate) fn make(namespace: &str, language: &str, usage: Use) -> Result<Self, String> {
        if std::env::var_os("KUBECONFIG").is_none_or(|value| value.is_empty()) {
            return Err("KUBECONFIG names no cluster".to_owned());
        }
        let turn = turn(usage)?;
        run("kubectl", &["version"], "").map_err(|error| format!("no cluster answers: {error}"))?;
        run("docker", &["version"], "").map_err(|error| format!("no Docker for images: {error}"))?;
        let (image, runtime) = runtime(language)?;
        let host = std::env::var("HEARTH_TEST_HOST").ok().or_else(way_to_api_server);
        let host = host.ok_or("this machine has no address on the way to the API server")?;
        define()?;
        run("kubectl", &["create", "namespace", namespace], "")?;
        Ok(Self { namespace: namespace.to_owned(), host, image, runtime, _turn: turn })
    }

    /// `kubectl` in the namespace.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        run("kubectl", &[&["-n", &self.namespace], arguments].concat(), input)
    }

    /// The names of Pods with this label.
    pub(crate) fn pods(&self, selector: &str) -> Vec<String> {
        let listed = self.kubectl(&["get", "pods", "-o", "name", "-l", selector], "");
        match listed {
            Ok(listed) => listed.lines().map(str::to_owned).collect(),
            Err(error) => vec![error],
        }
    }

    /// The interpreter's path in the image.
    pub(crate) fn interpreter(&self) -> String {
        self.runtime.split_once(':').map(|(_, path)| path.to_owned()).unwrap_or_default()
    }

    /// Has npm in the image, as official ones have it: this machine's.
    pub(crate) fn add_npm(&mut self) -> Result<(), String> {
        let own = run("sh", &["-c", "realpath \"$(command -v npm)\""], "")?;
        let from = Path::new(own.trim()).parent().and_then(Path::parent).ok_or("npm lies nowhere")?;
        let interpreter = self.interpreter();
        let prefix = Path::new(&interpreter).parent().and_then(Path::parent).ok_or("Node lies nowhere")?;
        let context = tempfile::tempdir().map_err(|error| error.to_string())?;
        let at = |name: &str| context.path().join(name).display().to_string();
        run("cp", &["-rL", &from.display().to_string(), &at("npm")], "")?;
        let into = prefix.join("lib/node_modules/npm");
        let file = format!("FROM {}\nCOPY npm {}\n", self.image, into.display());
        std::fs::write(at("Dockerfile"), file).map_err(|error| error.to_string())?;
        let image = "hearth-test-nodejs-npm:test";
        run("docker", &["build", "--quiet", "--tag", image, &at("")], "")?;
        self.image = image.to_owned();
        Ok(())
    }

    /// An object, or a list of them.
    pub(crate) fn json(&self, arguments: &[&str]) -> Option<Value> {
        let said = self.kubectl(&[arguments, &["-o", "json"]].concat(), "").ok()?;
        serde_json::from_str(&said).ok()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // What a failed test leaves must not hold the namespace back.
        let functions = self.json(&["get", "functions"]).unwrap_or_default();
        for function in functions["items"].as_array().into_iter().flatten() {
            let name = function["metadata"]["name"].as_str().unwrap_or_default();
            let free = r#"{"metadata":{"finalizers":null}}"#;
            let _gone = self.kubectl(&["patch", "function", name, "--type=merge", "-p", free], "");
        }
        let _gone = run("kubectl", &["delete", "namespace", &self.namespace, "--wait=false"], "");
    }
}

/// An image of this machine's interpreter of a language, and which it is: `python3.11.2:/usr/bin/python3`.
pub(crate) fn runtime(language: &str) -> Result<(String, String), String> {
    let found = interpreters::find(language).map_err(|error| error.to_string())?;
    let version = found.version.map(|part| part.to_string()).join(".");
    Ok((image(language)?, format!("{language}{version}:{}", found.path.display())))
}

/// Makes the image of a language, once: whoever makes one has its directory for itself.
fn image(language: &str) -> Result<String, String> {
    static MADE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let name = format!("hearth-test-{language}:test");
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if !made.contains(&name) {
        run(env!("CARGO_BIN_EXE_hearth"), &["runtime", "from-host", language, "--load", &name], "")?;
        made.push(name.clone());
    }
    Ok(name)
}

/// Applies the definitions of this Hearth.
pub(crate) fn define() -> Result<(), String> {
    let definitions = run(env!("CARGO_BIN_EXE_hearth"), &["crd"], "")?;
    run("kubectl", &["apply", "-f", "-"], &definitions).map(drop)
}

/// Waits for its turn, which is over when the file is closed.
fn turn(usage: Use) -> Result<File, String> {
    let path = std::env::temp_dir().join("hearth-tests-cluster.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(|error| error.to_string())?;
    let locked = match usage {
        Use::Shared => file.lock_shared(),
        Use::Alone => file.lock(),
    };
    locked.map_err(|error| error.to_string())?;
    Ok(file)
}

fn way_to_api_server() -> Option<String> {
    let path = "jsonpath={.clusters[0].cluster.server}";
    let server = run("kubectl", &["config", "view", "--minify", "-o", path], "").ok()?;
    let server: http::Uri = server.trim().parse().ok()?;
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect((server.host()?, server.port_u16().unwrap_or(443))).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

/// Runs a program to its end: what it printed, or what it complained of.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
    let failed = |what: String| format!("{program} {}: {what}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        // Of `.ci/cluster`, and no option.
        .env_remove("HEARTH_KUBE_DIR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing closes it.
        stdin.write_all(input.as_bytes()).ok();
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()))
    }
}
