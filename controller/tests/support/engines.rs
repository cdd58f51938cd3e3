//! Container engines for tests: the one that runs on this machine, or one of the test's own that goes when the test does.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// How long an engine may take to answer after its start.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// An engine that answers.
#[derive(Debug)]
pub(crate) struct Engine {
    /// Its socket.
    pub(crate) socket: PathBuf,
    own: Option<Own>,
}

#[derive(Debug)]
struct Own {
    command: Command,
    process: Option<Child>,
    directory: tempfile::TempDir,
    bridge: Option<Bridge>,
}

// Each test uses a part of it.
#[allow(dead_code)]
impl Engine {
    /// The Docker Engine of this machine, or one of our own.
    pub(crate) fn docker() -> Result<Self, String> {
        let running = Path::new("/var/run/docker.sock");
        if answers(running) {
            return Ok(Self { socket: running.to_owned(), own: None });
        }
        Self::own_docker(&[])
    }

    /// A Docker Engine of our own: its containers, images and networks are nobody else's.
    pub(crate) fn own_docker(options: &[&str]) -> Result<Self, String> {
        let directory = tempfile::Builder::new().prefix("hd").tempdir_in("/tmp").unwrap();
        let at = |name: &str| directory.path().join(name).display().to_string();
        let mut command = Command::new("dockerd");
        command.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid")]);
        // A bridge of its own: with none an engine removes `docker0`, which is the machine's own engine's.
        let bridge = Bridge::make()?;
        command.args(["--host", &format!("unix://{}", at("sock")), "--bridge", &bridge.0]).args(options);
        let mut engine = Self::own(command, directory)?;
        engine.own.as_mut().expect("one of our own").bridge = Some(bridge);
        Ok(engine)
    }

    /// Podman's service, which speaks Docker's API.
    pub(crate) fn podman() -> Result<Self, String> {
        let directory = tempfile::Builder::new().prefix("hp").tempdir_in("/tmp").unwrap();
        let socket = format!("unix://{}", directory.path().join("sock").display());
        let mut command = Command::new("podman");
        // crun refuses a machine that has both kinds of control groups and controllers in either; runc does not.
        let hybrid = std::fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
        if !hybrid.trim().is_empty() {
            command.args(["--runtime", "runc"]);
        }
        command.args(["system", "service", "--time=0", &socket]);
        Self::own(command, directory)
    }

    fn own(mut command: Command, directory: tempfile::TempDir) -> Result<Self, String> {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        // Some write beside themselves (conmon: a file `oom`).
        command.current_dir(directory.path()).env("PATH", path).stdin(Stdio::null());
        let socket = directory.path().join("sock");
        let mut this = Self { socket, own: Some(Own { command, process: None, directory, bridge: None }) };
        this.start().map(|()| this)
    }

    /// Starts it, for the first time or again, and waits until it answers.
    pub(crate) fn start(&mut self) -> Result<(), String> {
        let own = self.own.as_mut().expect("one of our own");
        let log = own.directory.path().join("log");
        let output = std::fs::File::create(&log).unwrap();
        own.command.stdout(output.try_clone().unwrap()).stderr(output);
        let program = own.command.get_program().to_string_lossy().into_owned();
        let process = own.process.insert(own.command.spawn().map_err(|error| format!("{program}: {error}"))?);
        let begin = Instant::now();
        while !answers(&self.socket) {
            if begin.elapsed() > READY_WITHIN || process.try_wait().unwrap().is_some() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<_> = said.lines().rev().take(5).collect();
                return Err(format!("{program} does not answer: {}", last.join(" | ")));
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Stops one of our own in good order: it ends its containers and its own helpers.
    pub(crate) fn stop(&mut self) {
        let Some(mut process) = self.own.as_mut().and_then(|own| own.process.take()) else { return };
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&process),
            rustix::process::Signal::TERM,
        )
        .ok();
        process.wait().ok();
    }

    /// What Docker's client says to these arguments.
    pub(crate) fn client(&self, arguments: &[&str]) -> String {
        let host = format!("unix://{}", self.socket.display());
        let output = Command::new("docker").args(["--host", &host]).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Names of containers of that label, dead ones too.
    pub(crate) fn containers(&self, label: &str) -> Vec<String> {
        let filters = format!("%7B%22label%22%3A%5B%22{}%22%5D%7D", label.replace('=', "%3D"));
        let answer = get(&self.socket, &format!("/containers/json?all=1&filters={filters}")).unwrap();
        answer.split("\"Names\":").skip(1).map(|rest| rest.chars().take(60).collect()).collect()
    }

    /// Names of networks of that name.
    pub(crate) fn networks(&self, name: &str) -> bool {
        get(&self.socket, "/networks").unwrap().contains(&format!("\"{name}\""))
    }
}

/// A bridge of this machine, until it is dropped.
#[derive(Debug)]
struct Bridge(String);

impl Bridge {
    fn make() -> Result<Self, String> {
        static NUMBER: AtomicU8 = AtomicU8::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let bridge = Self(format!("hb{}-{number}", std::process::id() % 1_000_000));
        // A network for measurements between devices (RFC 2544): nobody's on a machine.
        let address = format!("198.18.{}.1/24", (std::process::id() % 64) * 4 + u32::from(number) % 4);
        ip(&["link", "add", &bridge.0, "type", "bridge"])?;
        ip(&["address", "add", &address, "dev", &bridge.0])?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.0]).ok();
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let done = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    done.status.success().then_some(()).ok_or_else(|| format!("ip {}: {said}", arguments.join(" ")))
}

impl Drop for Engine {
    fn drop(&mut self) {
        let Some(own) = &self.own else { return };
        let data = own.directory.path().join("data");
        if own.process.is_some() && data.exists() {
            self.remove_containers();
        }
        self.stop();
        // Left mounted on itself by an engine that keeps its containers while it is away; nothing is there with others.
        Command::new("umount").arg(&data).stderr(Stdio::null()).status().ok();
    }
}

impl Engine {
    /// What a test that failed has left running, and an engine that keeps its containers would leave for good.
    fn remove_containers(&self) {
        let docker = |arguments: &[&str]| {
            let host = format!("unix://{}", self.socket.display());
            let output = Command::new("docker").args(["--host", &host]).args(arguments).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        for (list, remove) in [
            (&["ps", "--all", "--quiet"][..], &["rm", "--force"][..]),
            (&["network", "ls", "--quiet", "--filter", "label=dev.hearth.data"], &["network", "rm"]),
        ] {
            let found = docker(list);
            let found: Vec<&str> = found.split_whitespace().collect();
            if !found.is_empty() {
                docker(&[remove, &found].concat());
            }
        }
    }
}

fn answers(socket: &Path) -> bool {
    get(socket, "/_ping")
        .is_ok_and(|answer| answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200"))
}

fn get(socket: &Path, path: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET /v1.40{path} HTTP/1.0\r\nHost: engine\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
