//! Hearth in a real Kubernetes, the one that `KUBECONFIG` names: controller and gateway as processes of this machine, instances as Pods. Pods
//! must reach this machine (at the address that leads to the API server, or `HEARTH_TEST_HOST`), this machine the Pods, and the nodes take
//! images from this machine's Docker, as with `.ci/cluster up`. Without all that nothing is tried, and that is said.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod support;

use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde_json::{Value, json};
use support::http::Request;
use support::{condition, eventually, free_port, node, node_with, text};

/// The runtime image of these tests.
const IMAGE: &str = "hearth-cluster-test-nodejs:test";

/// A namespace of its own, with controllers and gateways of it.
struct Cluster {
    namespace: String,
    host: String,
    runtime: &'static str,
    data: tempfile::TempDir,
    controllers: Vec<Process>,
    gateways: Vec<Process>,
    /// Of the gateways, in their order.
    addresses: Vec<SocketAddr>,
    report: u16,
}

/// A process of ours.
struct Process {
    child: Child,
    log: PathBuf,
    management: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Process {
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("a child of ours can be signalled");
    }

    /// Ends it as Kubernetes does.
    fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        let status = eventually(|| self.child.try_wait().expect("a child of ours can be waited for"));
        let log = self.text();
        assert!(status.is_some_and(|status| status.success()), "{status:?}\n{log}");
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn answers(&self, path: &str) -> bool {
        Request::get(path).send(self.management).is_ok_and(|answer| answer.status == 200)
    }
}

impl Cluster {
    #[expect(clippy::print_stdout, reason = "what could not be tried is said")]
    fn start() -> Option<Self> {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(why) => {
                println!("NOT RUN: {why}");
                return None;
            }
        };
        let data = tempfile::Builder::new().prefix("hearth-test-").tempdir().expect("a temporary directory");
        let name = data.path().file_name().expect("it has a name").to_string_lossy().to_lowercase();
        let namespace = format!("operator-{}", name.trim_start_matches("hearth-test-"));
        let host = std::env::var("HEARTH_TEST_HOST").ok().or_else(way_to_api_server);
        let host = host.expect("this machine has an address by which it reaches the API server");
        let cluster = Self {
            namespace,
            host,
            runtime,
            data,
            controllers: Vec::new(),
            gateways: Vec::new(),
            addresses: Vec::new(),
            report: free_port().port(),
        };
        std::fs::write(cluster.key(), "0123456789abcdef0123456789abcdef0123").expect("the key is written");
        let crds = Command::new(env!("CARGO_BIN_EXE_hearth")).arg("crd").output().expect("hearth runs");
        kubectl(&["apply", "-f", "-"], &crds.stdout);
        kubectl(&["create", "namespace", &cluster.namespace], b"");
        Some(cluster)
    }

    fn key(&self) -> PathBuf {
        self.data.path().join("key")
    }

    /// One more controller. All of them report at the same address of this machine: whoever leads listens there.
    fn controller(&mut self) {
        let number = self.controllers.len();
        let (management, hub) = (free_port(), free_port().port());
        let gateway = self.addresses.first().map_or_else(|| "127.0.0.1:1".to_owned(), ToString::to_string);
        let arguments = [
            "controller".to_owned(),
            format!("--management={}", SocketAddr::from(([0, 0, 0, 0], management.port()))),
            format!("--hub-listen=0.0.0.0:{hub}"),
            format!("--report-listen=0.0.0.0:{}", self.report),
            format!("--report-advertise={}:{}", self.host, self.report),
            format!("--data-dir={}", self.data.path().join(format!("data-{number}")).display()),
            format!("--gateway-url=http://{gateway}"),
            format!("--runtime={}", self.runtime),
            "--set=cluster.pull_policy=Never".to_owned(),
        ];
        let process = self.process(&arguments, &format!("controller-{number}"), management);
        self.controllers.push(process);
    }

    fn gateway(&mut self) {
        let number = self.gateways.len();
        let (management, listen) = (free_port(), free_port());
        let arguments = [
            "gateway".to_owned(),
            format!("--listen={listen}"),
            format!("--management={management}"),
            "--linger=0s".to_owned(),
        ];
        let process = self.process(&arguments, &format!("gateway-{number}"), management);
        self.gateways.push(process);
        self.addresses.push(listen);
    }

    fn process(&self, arguments: &[String], name: &str, management: SocketAddr) -> Process {
        let path = self.data.path().join(format!("{name}.log"));
        let log = File::create(&path).expect("the log is made");
        let child = Command::new(env!("CARGO_BIN_EXE_hearth"))
            .args(arguments)
            .args(["--namespace", &self.namespace, "--watch-namespace", &self.namespace])
            .arg(format!("--key-file={}", self.key().display()))
            // Of `.ci/cluster`, and no option.
            .env_remove("HEARTH_KUBE_DIR")
            .env("HEARTH_PREWARM_ENABLED", "false")
            .env("HEARTH_CONTROLLER_LEASE_DURATION", "6s")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor is duplicated"))
            .stderr(log)
            .spawn()
            .expect("the binary under test can be started");
        Process { child, log: path, management }
    }

    /// Waits until a gateway is ready and a controller leads.
    fn wait(&self) {
        let ready = eventually(|| {
            let gateways = self.gateways.iter().all(|gateway| gateway.answers("/readyz"));
            (gateways && self.leads()).then_some(())
        });
        assert!(ready.is_some(), "not ready\n{}", self.logs());
    }

    fn leads(&self) -> bool {
        let lease = kubectl_json(&["-n", &self.namespace, "get", "lease", "hearth-controller"]);
        lease.is_some_and(|lease| {
            lease["spec"]["holderIdentity"].as_str().is_some_and(|holder| !holder.is_empty())
        })
    }

    fn logs(&self) -> String {
        let all = self.controllers.iter().chain(&self.gateways);
        all.map(|one| format!("── {}\n{}\n", one.log.display(), one.text())).collect()
    }

    fn kubectl(&self, arguments: &[&str], input: &str) -> String {
        kubectl(&[&["-n", &self.namespace], arguments].concat(), input.as_bytes())
    }

    fn function(&self, name: &str) -> Option<Value> {
        kubectl_json(&["-n", &self.namespace, "get", "function", name])
    }

    /// Waits until it is Ready.
    fn ready(&self, name: &str) {
        let mut last = None;
        let ready = eventually(|| {
            last = self.function(name);
            last.as_ref().is_some_and(|function| condition(function, "Ready").0 == "True").then_some(())
        });
        assert!(
            ready.is_some(),
            "{name} is not ready: {last:#?}\n{}\n{}",
            self.kubectl(&["get", "pods", "-o", "wide"], ""),
            self.logs()
        );
    }

    fn target(&self, name: &str) -> String {
        format!("/function/{}/{name}", self.namespace)
    }

    /// A call through the first gateway.
    fn call(&self, name: &str) -> (u16, String) {
        let answer = Request::get(&self.target(name)).send(self.addresses[0]);
        let answer = answer.map_err(|error| format!("{error}\n{}", self.logs())).expect("an answer");
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    fn pods(&self) -> Vec<String> {
        let listed = kubectl_json(&["-n", &self.namespace, "get", "pods"]).unwrap_or_default();
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let alive = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        items
            .iter()
            .filter(alive)
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect()
    }

    /// Deletes the Functions, and sees to it that nothing of them is left.
    fn end(mut self) {
        // A kubelet that has much to do takes minutes for the end of a Pod.
        let delete = ["-n", &self.namespace, "delete", "functions", "--all", "--timeout=240s"];
        let deleted = run("kubectl", &delete, b"");
        assert!(deleted.is_ok(), "{deleted:?}\n{}", self.logs());
        let gone = eventually(|| self.pods().is_empty().then_some(()));
        assert!(gone.is_some(), "Pods are left: {:?}\n{}", self.pods(), self.logs());
        self.gateways.drain(..).for_each(Process::stop);
        self.controllers.drain(..).for_each(Process::stop);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.gateways.clear();
        self.controllers.clear();
        // What a failed test leaves must not hold the namespace back.
        let functions = kubectl_json(&["-n", &self.namespace, "get", "functions"]).unwrap_or_default();
        for function in functions["items"].as_array().into_iter().flatten() {
            let name = function["metadata"]["name"].as_str().unwrap_or_default();
            let patch = r#"{"metadata":{"finalizers":null}}"#;
            let _gone = run(
                "kubectl",
                &["-n", &self.namespace, "patch", "function", name, "--type=merge", "-p", patch],
                b"",
            );
        }
        let _gone = run("kubectl", &["delete", "namespace", &self.namespace, "--wait=false"], b"");
    }
}

/// The runtime image, made of this machine's Node; why there is nothing to try, otherwise.
fn runtime() -> Result<&'static str, String> {
    static RUNTIME: OnceLock<Result<String, String>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        if std::env::var_os("KUBECONFIG").is_none_or(|value| value.is_empty()) {
            return Err("KUBECONFIG names no cluster".to_owned());
        }
        run("kubectl", &["version"], b"").map_err(|error| format!("no cluster answers: {error}"))?;
        run("docker", &["version"], b"").map_err(|error| format!("no Docker for images: {error}"))?;
        run(env!("CARGO_BIN_EXE_hearth"), &["runtime", "from-host", "nodejs", "--load", IMAGE], b"")?;
        let node = hearth::backend::interpreters::find("nodejs").map_err(|error| error.to_string())?;
        let version = node.version.map(|part| part.to_string()).join(".");
        Ok(format!("nodejs{version}:{}={IMAGE}", node.path.display()))
    });
    made.as_ref().map(String::as_str).map_err(Clone::clone)
}

/// The address of this machine on the way to the API server.
fn way_to_api_server() -> Option<String> {
    let config =
        run("kubectl", &["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"], b"")
            .ok()?;
    let server: http::Uri = config.trim().parse().ok()?;
    let socket = UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    socket.connect((server.host()?, server.port_u16().unwrap_or(443))).ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

fn run(program: &str, arguments: &[&str], input: &[u8]) -> Result<String, String> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    let _sent = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{program} {}: {}", arguments.join(" "), text(&output)))
    }
}

fn kubectl(arguments: &[&str], input: &[u8]) -> String {
    run("kubectl", arguments, input).expect("kubectl does it")
}

fn kubectl_json(arguments: &[&str]) -> Option<Value> {
    let said = run("kubectl", &[arguments, &["-o", "json"]].concat(), b"").ok()?;
    serde_json::from_str(&said).ok()
}

const HELLO: &str =
    "exports.handler = async () => ({ statusCode: 200, body: 'hello from ' + process.env.HEARTH_FUNCTION })";

#[test]
fn a_function_applied_by_kubectl_answers_through_the_gateway_and_leaves_nothing() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.gateway();
    cluster.controller();
    cluster.wait();
    let began = Instant::now();
    cluster.kubectl(&["apply", "-f", "-"], &node("hello", HELLO));
    cluster.ready("hello");
    let (status, body) = cluster.call("hello");
    assert_eq!(
        (status, body.as_str()),
        (200, "hello from hello"),
        "after {:?}\n{}",
        began.elapsed(),
        cluster.logs()
    );
    let described = cluster.kubectl(&["describe", "function", "hello"], "");
    for reason in ["RevisionCreated", "Ready"] {
        assert!(described.contains(reason), "{described}");
    }
    let listed = cluster.kubectl(&["get", "functions"], "");
    assert!(listed.contains("http://") && listed.contains("True"), "{listed}");
    cluster.end();
}

#[test]
fn a_function_at_zero_comes_up_for_a_request() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.gateway();
    cluster.controller();
    cluster.wait();
    cluster.kubectl(&["apply", "-f", "-"], &node_with("cold", HELLO, "scale: { initial: 0 }"));
    cluster.ready("cold");
    assert!(cluster.pods().is_empty());
    let (status, body) = cluster.call("cold");
    assert_eq!((status, body.as_str()), (200, "hello from cold"), "{}", cluster.logs());
    cluster.end();
}

#[test]
fn calls_go_on_while_the_controller_that_works_is_killed_and_another_follows() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.gateway();
    cluster.controller();
    cluster.wait();
    cluster.controller();
    cluster.kubectl(&["apply", "-f", "-"], &node_with("steady", HELLO, "scale: { min: 1 }"));
    cluster.ready("steady");
    let pods = cluster.pods();
    let over = Arc::new(AtomicBool::new(false));
    let caller = {
        let (over, address, target) = (Arc::clone(&over), cluster.addresses[0], cluster.target("steady"));
        std::thread::spawn(move || {
            let (mut good, mut bad) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                match Request::get(&target).send(address) {
                    Ok(answer) if answer.status == 200 => good += 1,
                    Ok(answer) => {
                        bad.push(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)))
                    }
                    Err(error) => bad.push(error.to_string()),
                }
            }
            (good, bad)
        })
    };
    // Killed, as by a crash.
    drop(cluster.controllers.remove(0));
    // One that is applied while nobody leads is seen to by the next, and waits for it.
    cluster.kubectl(&["apply", "-f", "-"], &node("later", HELLO));
    cluster.ready("later");
    assert_eq!(cluster.call("later").0, 200);
    over.store(true, Ordering::Relaxed);
    let (good, bad) = caller.join().expect("the caller counts");
    assert!(bad.is_empty() && good > 0, "{good} good, {bad:?}\n{}", cluster.logs());
    assert!(
        pods.iter().all(|pod| cluster.pods().contains(pod)),
        "its instance was adopted\n{}",
        cluster.logs()
    );
    cluster.end();
}

#[test]
fn the_command_line_uploads_code_and_reads_logs_through_the_api_server() {
    let Some(mut cluster) = Cluster::start() else { return };
    cluster.gateway();
    cluster.controller();
    cluster.wait();
    // What the chart makes: a Service to the controller, and the Secret.
    let key = cluster.key();
    cluster.kubectl(
        &["create", "secret", "generic", "hearth-key", &format!("--from-file=key={}", key.display())],
        "",
    );
    cluster.relay();
    let directory = cluster.data.path().join("code");
    std::fs::create_dir(&directory).expect("a temporary directory is ours");
    let code = "exports.handler = async () => { console.log('a line'); return 'uploaded' }";
    std::fs::write(directory.join("index.js"), code).expect("a temporary directory is ours");
    let manifest = "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: { name: uploaded }\nspec: { runtime: nodejs, handler: index.handler, source: { path: . } }\n";
    let file = write(&directory.join("function.yaml"), manifest);
    cluster.cli(&["apply", "-f", &file]);
    let said = cluster.cli(&["invoke", "uploaded"]);
    assert!(said.contains("uploaded"), "{said}");
    let logged = eventually(|| cluster.cli(&["logs", "uploaded"]).contains("a line").then_some(()));
    assert!(logged.is_some(), "{}", cluster.logs());
    assert!(cluster.cli(&["describe", "uploaded"]).contains("uploaded-00001"));
    assert!(cluster.cli(&["get", "instances"]).contains("uploaded"));
    cluster.kubectl(&["delete", "pod", "hearth-controller", "--wait=false"], "");
    cluster.end();
}

impl Cluster {
    /// A Pod that leads to the controller on this machine: the API server's proxy goes to Pods only.
    fn relay(&self) {
        let (host, port) = (&self.host, self.controllers[0].management.port());
        let code = format!(
            "require('net').createServer((near) => {{ const far = require('net').connect({port}, '{host}'); near.pipe(far).pipe(near); \
             near.on('error', () => far.destroy()); far.on('error', () => near.destroy()); }}).listen(7070)"
        );
        let node = self.runtime.split([':', '=']).nth(1).expect("an entry names the interpreter's path");
        let labels =
            json!({ "app.kubernetes.io/name": "hearth", "app.kubernetes.io/component": "controller" });
        let named = json!({ "name": "hearth-controller", "labels": labels });
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Service", "metadata": named,
                "spec": { "selector": labels, "ports": [{ "name": "management", "port": 7070 }] } },
            { "apiVersion": "v1", "kind": "Pod", "metadata": named, "spec": { "containers": [{
                "name": "relay", "image": IMAGE, "imagePullPolicy": "Never", "command": [node, "-e", code] }] } },
        ] });
        self.kubectl(&["apply", "-f", "-"], &objects.to_string());
        self.kubectl(&["wait", "--for=condition=Ready", "pod/hearth-controller", "--timeout=60s"], "");
    }

    fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new(env!("CARGO_BIN_EXE_hearth"))
            .args(arguments)
            .args(["-n", &self.namespace])
            .env("HEARTH_CLUSTER_NAMESPACE", &self.namespace)
            .stdin(Stdio::null())
            .output()
            .expect("the binary under test can be run");
        assert!(output.status.success(), "{}\n{}", text(&output), self.logs());
        text(&output)
    }
}

fn write(path: &Path, content: &str) -> String {
    std::fs::write(path, content).expect("a temporary directory is ours");
    path.to_str().expect("temporary paths are text").to_owned()
}
