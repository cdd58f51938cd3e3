//! A namespace of its own in the cluster that `KUBECONFIG` names, and an image that its Pods run.

use std::io::Write as _;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use hearth::backend::interpreters;

/// The image of these tests, out of this machine's Python.
const IMAGE: &str = "hearth-conformance-python:test";

/// Where Pods are made.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) namespace: String,
    /// The address of this machine, as Pods reach it.
    pub(crate) host: String,
    pub(crate) image: &'static str,
    /// Python in the image.
    pub(crate) python: String,
}

impl Ground {
    /// Makes it; or says why there is nothing to try.
    pub(crate) fn make(namespace: &str) -> Result<Self, String> {
        if std::env::var_os("KUBECONFIG").is_none_or(|value| value.is_empty()) {
            return Err("KUBECONFIG names no cluster".to_owned());
        }
        run("kubectl", &["version"], "").map_err(|error| format!("no cluster answers: {error}"))?;
        run("docker", &["version"], "").map_err(|error| format!("no Docker for images: {error}"))?;
        let hearth = env!("CARGO_BIN_EXE_hearth");
        image()?;
        let python = interpreters::find("python").map_err(|error| error.to_string())?.path;
        let host = std::env::var("HEARTH_TEST_HOST").ok().or_else(way_to_api_server);
        let host = host.ok_or("this machine has no address on the way to the API server")?;
        let definitions = run(hearth, &["crd"], "")?;
        run("kubectl", &["apply", "-f", "-"], &definitions)?;
        run("kubectl", &["create", "namespace", namespace], "")?;
        let namespace = namespace.to_owned();
        Ok(Self { namespace, host, image: IMAGE, python: python.display().to_string() })
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
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _gone = run("kubectl", &["delete", "namespace", &self.namespace, "--wait=false"], "");
    }
}

/// Makes the image, once: whoever makes one has its directory for itself.
fn image() -> Result<(), String> {
    static MADE: OnceLock<Result<(), String>> = OnceLock::new();
    let make = || {
        let arguments = ["runtime", "from-host", "python", "--load", IMAGE];
        run(env!("CARGO_BIN_EXE_hearth"), &arguments, "").map(drop)
    };
    MADE.get_or_init(make).clone()
}

fn way_to_api_server() -> Option<String> {
    let path = "jsonpath={.clusters[0].cluster.server}";
    let server = run("kubectl", &["config", "view", "--minify", "-o", path], "").ok()?;
    let server: http::Uri = server.trim().parse().ok()?;
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect((server.host()?, server.port_u16().unwrap_or(443))).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
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
