//! A real Hearth for a test: the binary itself, serving from a data directory of its own on ports of its own, and everything it made
//! looked for when it has stopped. Needs root, because it starts containers.
//!
//! ```text
//! let hearth = Hearth::start(&[]);
//! hearth.deploy(&node("hello", "exports.handler = async () => 'hi'"));
//! assert_eq!(hearth.get("/function/default/hello").status, 200);
//! hearth.stop();                      // and asserts that nothing stayed behind
//! ```

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod http;
pub(crate) mod http2;
pub(crate) mod images;
pub(crate) mod leftovers;
pub(crate) mod neighbour;
pub(crate) mod ports;
pub(crate) mod tls;

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use http::{Request, Response};

/// How long anything that should happen soon may take on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `hearth serve`.
#[derive(Debug)]
pub(crate) struct Hearth {
    child: Child,
    /// Kept for a second start over the same data.
    data: tempfile::TempDir,
    gateway: SocketAddr,
    management: SocketAddr,
    environment: Vec<(String, String)>,
    _turn: Turn,
}

impl Hearth {
    /// Starts one with these options, each an environment variable of the configuration and its value, and waits until it is healthy.
    pub(crate) fn start(options: &[(&str, &str)]) -> Self {
        Self::started(options, Turn::shared())
    }

    /// The same, while no other test of this machine has a Hearth running: for what measures time.
    pub(crate) fn alone(options: &[(&str, &str)]) -> Self {
        Self::started(options, Turn::alone())
    }

    fn started(options: &[(&str, &str)], turn: Turn) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test starts real containers: run it as root (sudo -E cargo test --workspace)"
        );
        let data = tempfile::Builder::new().prefix("hearth-test-").tempdir().expect("a temporary directory");
        let (gateway, management) = (free_address(), free_address());
        let mut environment: Vec<(String, String)> = vec![
            ("HEARTH_DATA_DIR".into(), path_text(data.path())),
            ("HEARTH_GATEWAY_LISTEN".into(), gateway.to_string()),
            ("HEARTH_MANAGEMENT_LISTEN".into(), management.to_string()),
            // What a test finds running is its own; those of the pools turn them on.
            ("HEARTH_PREWARM_ENABLED".into(), "false".into()),
        ];
        environment.extend(options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let child = spawn(&environment, data.path());
        let mut hearth = Self { child, data, gateway, management, environment, _turn: turn };
        hearth.wait_until_healthy();
        hearth
    }

    /// Kills the controller, as a crash would, and starts it again over the same data.
    pub(crate) fn crash_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Kills the controller and leaves everything as it is.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("a child of ours can be killed");
        self.child.wait().expect("a child of ours can be waited for");
    }

    /// Starts the controller again over the same data.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.environment, self.data.path());
        self.wait_until_healthy();
    }

    fn wait_until_healthy(&mut self) {
        let address = self.management;
        let healthy = eventually(|| {
            let over = self.child.try_wait().expect("a child of ours can be asked");
            assert!(over.is_none(), "hearth serve ended: {over:?}\n{}", self.own_log());
            Request::get("/healthz").send(address).is_ok_and(|answer| answer.status == 200).then_some(())
        });
        assert!(healthy.is_some(), "hearth serve is not healthy\n{}", self.own_log());
    }

    /// The controller's own log so far.
    pub(crate) fn own_log(&self) -> String {
        std::fs::read_to_string(log_file(self.data.path())).unwrap_or_default()
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &Path {
        self.data.path()
    }

    /// The controller's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The gateway's address.
    pub(crate) fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// The management address, for what it answers in plain HTTP.
    pub(crate) fn management(&self) -> SocketAddr {
        self.management
    }

    /// Runs a command of the client against this server.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_hearth"))
            .args(arguments)
            .env_remove("KUBECONFIG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .expect("the binary under test can be run")
    }

    /// Applies a manifest and waits for nothing; the command's output when it was refused.
    pub(crate) fn apply(&self, manifest: &str) -> Result<(), String> {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a temporary file");
        file.write_all(manifest.as_bytes()).expect("the manifest is written");
        let output = self.cli(&["apply", "--no-wait", "-f", &path_text(file.path())]);
        if output.status.success() { Ok(()) } else { Err(text(&output)) }
    }

    /// Applies a manifest and waits until its Function is Ready.
    pub(crate) fn deploy(&self, manifest: &str) {
        self.apply(manifest).expect("the manifest is accepted");
        let name = name_of(manifest);
        let ready = self.settled(&name);
        assert_eq!(condition(&ready, "Ready").0, "True", "{name}: {ready:#}\n{}", self.own_log());
    }

    /// The Function of this name once its controller has come to an end with what was applied last, well or badly.
    pub(crate) fn settled(&self, name: &str) -> Value {
        let mut last = Value::Null;
        let settled = eventually(|| {
            last = self.function(name)?;
            let seen = &last["status"]["observedGeneration"];
            (*seen == last["metadata"]["generation"] && condition(&last, "Ready").0 != "Unknown")
                .then_some(())
        });
        assert!(settled.is_some(), "{name} does not settle: {last:#}\n{}", self.own_log());
        last
    }

    /// The Function of this name, if it is there.
    pub(crate) fn function(&self, name: &str) -> Option<Value> {
        let output = self.cli(&["get", "functions", name, "-o", "json"]);
        output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).expect("get -o json prints JSON"))
    }

    /// Takes the Function away.
    pub(crate) fn delete(&self, name: &str) {
        let output = self.cli(&["delete", "function", name]);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// A GET through the gateway.
    pub(crate) fn get(&self, target: &str) -> Response {
        self.send(&Request::get(target))
    }

    /// A request through the gateway.
    pub(crate) fn send(&self, request: &Request) -> Response {
        request
            .send(self.gateway)
            .unwrap_or_else(|error| unanswered(&request.target, &error, &self.own_log()))
    }

    /// Processes of this server's instances, by the cgroups that carry its tag.
    pub(crate) fn instance_processes(&self) -> usize {
        leftovers::processes(self.data.path())
    }

    /// How many processes its instances may have, and have had.
    pub(crate) fn process_limits(&self) -> Vec<leftovers::Processes> {
        leftovers::process_limits(self.data.path())
    }

    /// Tells its instances to end, as somebody does who stops their containers and not them.
    pub(crate) fn end_instances(&self) {
        for shim in leftovers::shims(self.data.path()) {
            let pid = rustix::process::Pid::from_raw(shim).expect("a process has a number");
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)
                .expect("an instance's shim can be signalled");
        }
    }

    /// Does what Ctrl-C does.
    pub(crate) fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)
            .expect("a child of ours can be signalled");
    }

    /// Stops it as Ctrl-C does, and looks for what it left behind.
    pub(crate) fn stop(mut self) {
        self.interrupt();
        let status = eventually(|| self.child.try_wait().expect("a child of ours can be waited for"));
        let Some(status) = status else { return not_stopping(&self.own_log()) };
        assert!(status.success(), "hearth serve ended with {status}\n{}", self.own_log());
        let left = leftovers::of(self.data.path());
        assert!(left.is_empty(), "left behind:\n{}\n{}", left.join("\n"), self.own_log());
    }
}

impl Drop for Hearth {
    /// A test that failed: stop it all the same, so that the next one finds the machine clean.
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let pid = rustix::process::Pid::from_child(&self.child);
        if rustix::process::kill_process(pid, rustix::process::Signal::INT).is_ok() {
            let _stopped = eventually(|| self.child.try_wait().ok().flatten());
        }
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[expect(clippy::panic, reason = "the test fails here, with the server's log")]
fn unanswered(target: &str, error: &std::io::Error, log: &str) -> ! {
    panic!("no answer from {target}: {error}\n{log}")
}

#[expect(clippy::panic, reason = "the test fails here, with the server's log")]
fn not_stopping(log: &str) {
    panic!("hearth serve does not stop\n{log}")
}

fn spawn(environment: &[(String, String)], data: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log_file(data)).expect("the log file opens");
    Command::new(env!("CARGO_BIN_EXE_hearth"))
        .arg("serve")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor is duplicated"))
        .stderr(log)
        .spawn()
        .expect("the binary under test can be started")
}

fn log_file(data: &Path) -> PathBuf {
    data.join("controller.log")
}

fn path_text(path: &Path) -> String {
    path.to_str().expect("temporary paths are text").to_owned()
}

/// Both streams of a command, for messages.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Status and message of a condition; `Unknown` when it is not there.
pub(crate) fn condition(function: &Value, kind: &str) -> (String, String) {
    let conditions = function["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    conditions.iter().find(|condition| condition["type"] == kind).map_or_else(
        || ("Unknown".to_owned(), String::new()),
        |condition| {
            let part = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
            (part("status"), part("message"))
        },
    )
}

/// Asks until there is an answer, for at most [`PATIENCE`].
#[expect(
    clippy::disallowed_methods,
    reason = "another process is asked, which sends no event; a test has no runtime to block"
)]
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            // Shown when the test fails of it; `.ci/again` reads it.
            eprintln!("waited in vain for {PATIENCE:?}");
            return None;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
}

/// An address on loopback that is this test's own.
pub(crate) fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], ports::free_port()))
}

/// Tests that measure have the machine for themselves; the others may run beside each other. A file lock, because test runners use
/// threads or processes as they like.
#[derive(Debug)]
struct Turn(#[expect(dead_code, reason = "its lock goes when it is closed")] File);

impl Turn {
    fn file() -> File {
        let path = std::env::temp_dir().join("hearth-tests.lock");
        File::options().create(true).truncate(false).write(true).open(path).expect("the lock file opens")
    }

    fn shared() -> Self {
        let file = Self::file();
        file.lock_shared().expect("a lock is waited for");
        Self(file)
    }

    fn alone() -> Self {
        let file = Self::file();
        file.lock().expect("a lock is waited for");
        Self(file)
    }
}

/// The name in a manifest of one of the makers below.
fn name_of(manifest: &str) -> String {
    let (_, after) = manifest.split_once("metadata: { name: ").expect("a manifest of this module");
    after.split([' ', ',']).next().expect("split gives at least one part").to_owned()
}

/// A Node function of one file `index.js`.
pub(crate) fn node(name: &str, code: &str) -> String {
    node_with(name, code, "")
}

/// The same with more lines of `spec`, each indented by two.
pub(crate) fn node_with(name: &str, code: &str, spec: &str) -> String {
    inline(name, "runtime: nodejs\n  handler: index.handler", "index.js", code, spec)
}

/// A Python function of one file `main.py`.
pub(crate) fn python(name: &str, code: &str) -> String {
    python_with(name, code, "")
}

/// The same with more lines of `spec`, each indented by two.
pub(crate) fn python_with(name: &str, code: &str, spec: &str) -> String {
    inline(name, "runtime: python\n  handler: main.handler", "main.py", code, spec)
}

/// A function of one file, whatever runs it.
pub(crate) fn inline(name: &str, how: &str, file: &str, code: &str, spec: &str) -> String {
    let code = code.lines().map(|line| format!("        {line}\n")).collect::<String>();
    let spec = spec.lines().map(|line| format!("  {}\n", line.trim_end())).collect::<String>();
    format!(
        "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n  {how}\n{spec}  source:\n    inline:\n      {file}: |\n{code}"
    )
}
