//! A shim in a directory of its own, and a caller that follows the protocol's rules on every frame.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hearth_protocol::config::{Confinement, USER};
use hearth_protocol::sequence::{Connection, Step};
use hearth_protocol::{
    Answer, CallError, Exit, Frame, Hello, Invoke, Load, Loaded, LogRecord, RequestHead, RequestId, Role,
    ShimConfig, ShimProcess, Signature, Welcome, decode,
};

use crate::controller::Controller;

/// Nothing here takes longer on a machine that is only busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A running shim; killed with everything below it at the end.
pub(crate) struct Shim {
    pub(crate) directory: tempfile::TempDir,
    child: Child,
    /// Of one that reports: where invoke and control listen.
    ports: OnceLock<(u16, u16)>,
}

/// What a test says differently.
pub(crate) struct Setup {
    pub(crate) config: ShimConfig,
    files: Vec<(String, String)>,
}

impl Setup {
    pub(crate) fn new(process: ShimProcess) -> Self {
        let mut config = ShimConfig::new("test", SECRET, process, 10, 256 << 20);
        config.confinement = Confinement::None;
        let bootstraps = Path::new(env!("CARGO_MANIFEST_DIR")).join("bootstrap");
        config.programs = bootstraps.to_string_lossy().into_owned();
        config.env = BTreeMap::from([("PATH".to_owned(), std::env::var("PATH").unwrap())]);
        Self { config, files: Vec::new() }
    }

    pub(crate) fn node() -> Self {
        Self::new(ShimProcess::Nodejs { interpreter: interpreter("node") })
    }

    pub(crate) fn python() -> Self {
        Self::new(ShimProcess::Python { interpreter: interpreter("python3.11") })
    }

    pub(crate) fn file(mut self, name: &str, text: &str) -> Self {
        self.files.push((name.to_owned(), text.to_owned()));
        self
    }

    pub(crate) fn with(mut self, change: impl FnOnce(&mut ShimConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// With the working directory that the configuration says.
    pub(crate) fn start_in_root(self) -> Shim {
        let directory = self.config.working_directory.clone();
        self.start_at(Some(directory))
    }

    pub(crate) fn start(self) -> Shim {
        self.start_at(None)
    }

    fn start_at(mut self, working_directory: Option<String>) -> Shim {
        let directory = tempfile::Builder::new().prefix("hs").tempdir().unwrap();
        let code = directory.path().join("code");
        for (name, text) in &self.files {
            let path = code.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
        }
        fs::create_dir_all(&code).unwrap();
        self.config.working_directory =
            working_directory.unwrap_or_else(|| code.to_string_lossy().into_owned());
        let run = directory.path().join("s");
        fs::create_dir(&run).unwrap();
        fs::write(run.join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
        let child =
            Command::new(env!("CARGO_BIN_EXE_hearth-shim")).arg(&run).stdin(Stdio::null()).spawn().unwrap();
        Shim { directory, child, ports: OnceLock::new() }
    }

    /// One that asks this controller what to run; and what that is.
    pub(crate) fn start_reporting(mut self, controller: &Controller) -> (Shim, ShimConfig) {
        let directory = tempfile::Builder::new().prefix("hs").tempdir().unwrap();
        for name in ["code", "build", "s"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        self.config.working_directory = directory.path().join("code").to_string_lossy().into_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth-shim"));
        if self.config.confinement == Confinement::Full && rustix::process::geteuid().is_root() {
            // As in a Pod: nothing of root's. Where the binary was built is nobody else's to see.
            let copy = directory.path().join("shim");
            fs::copy(env!("CARGO_BIN_EXE_hearth-shim"), &copy).unwrap();
            for path in ["", "code", "build", "s", "shim"].map(|name| directory.path().join(name)) {
                std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
            }
            command = Command::new(copy);
            command.uid(USER).gid(USER);
        }
        let child = command
            .arg(directory.path().join("s"))
            .envs(controller.environment())
            .env("RESOLVED", "by the kubelet")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        (Shim { directory, child, ports: OnceLock::new() }, self.config)
    }
}

/// The interpreter itself, behind whatever version manager.
fn interpreter(name: &'static str) -> String {
    static FOUND: Mutex<BTreeMap<&str, String>> = Mutex::new(BTreeMap::new());
    FOUND.lock().unwrap().entry(name).or_insert_with(|| ask(name)).clone()
}

fn ask(name: &str) -> String {
    let script = match name {
        "node" => "console.log(process.execPath)",
        _ => "import sys; print(sys.executable)",
    };
    let flag = if name == "node" { "-e" } else { "-c" };
    let output = Command::new(name).args([flag, script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Drop for Shim {
    fn drop(&mut self) {
        // It is no PID 1 here, so that its children survive it: it is asked first.
        self.signal(rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            pause();
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Between two looks at something outside that cannot be waited for.
#[expect(clippy::disallowed_methods, reason = "no runtime here, and nothing that tells")]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(1));
}

impl Shim {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("s").join(name)
    }

    pub(crate) fn code(&self) -> PathBuf {
        self.directory.path().join("code")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).ok();
    }

    /// Waits until the shim has ended; its exit code.
    pub(crate) fn code_at_the_end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the shim does not end");
            pause();
        }
    }

    /// Tells where one that reports listens.
    pub(crate) fn listens(&self, invoke: u16, control: u16) {
        assert_eq!(self.ports.get_or_init(|| (invoke, control)), &(invoke, control));
    }

    /// Waits until the shim has ended; what it wrote of the runtime's end.
    pub(crate) fn ended(&mut self) -> Exit {
        self.code_at_the_end();
        serde_json::from_slice(&fs::read(self.path("exit.json")).unwrap()).unwrap()
    }

    pub(crate) fn connect(&self, socket: &str) -> UnixStream {
        if let Some((invoke, control)) = self.ports.get().copied() {
            let port = if socket == "invoke.sock" { invoke } else { control };
            let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // It is only read and written, and these calls are the same for both.
            return OwnedFd::from(stream).into();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(self.path(socket)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                    assert!(Instant::now() < deadline, "the shim does not listen");
                    pause();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn invoke(&self) -> Caller {
        Caller::greet(self.connect("invoke.sock"), Hello::new(Role::Invoke, SECRET))
    }

    pub(crate) fn control(&self, logs_after: u64) -> Caller {
        let hello = Hello { logs_after, ..Hello::new(Role::Control, SECRET) };
        Caller::greet(self.connect("control.sock"), hello)
    }

    pub(crate) fn load_request(&self, handler: &str) -> Load {
        Load {
            code: self.code().to_string_lossy().into_owned(),
            handler: Some(handler.to_owned()),
            signature: Signature::Auto,
            env: BTreeMap::new(),
            function: "hello".to_owned(),
            namespace: "default".to_owned(),
            revision: "hello-00001".to_owned(),
            concurrency: 10,
            memory_bytes: 256 << 20,
            execute_timeout_ms: 30_000,
        }
    }

    /// A caller on an instance that has loaded this handler.
    pub(crate) fn loaded(&self, handler: &str) -> Caller {
        let mut caller = self.invoke();
        match caller.load(self.load_request(handler)) {
            Loaded::Ok { .. } => caller,
            Loaded::Error(error) => panic!("{error:?}"),
        }
    }
}

/// A connection, from the caller's side.
pub(crate) struct Caller {
    pub(crate) stream: UnixStream,
    buffer: BytesMut,
    pub(crate) rules: Connection,
    pub(crate) welcome: Welcome,
    /// It has said that it is to end.
    pub(crate) ending: bool,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answered {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Caller {
    pub(crate) fn greet(stream: UnixStream, hello: Hello) -> Self {
        let welcome = Welcome { version: 0, instance: String::new(), served: 0, signature: None };
        let rules = Connection::new(hello.role);
        let mut caller = Self { stream, buffer: BytesMut::new(), rules, welcome, ending: false };
        caller.send(&Frame::Hello(hello));
        match caller.next() {
            Frame::Welcome(welcome) => caller.welcome = welcome,
            other => panic!("{other:?}"),
        }
        caller
    }

    pub(crate) fn send(&mut self, frame: &Frame) {
        self.rules.from_caller(frame.outline()).unwrap();
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next frame; `None` when the other side has closed. That the instance is to end is kept, and is none.
    pub(crate) fn try_next(&mut self) -> Option<(Frame, Step)> {
        loop {
            if let Some(frame) = decode(&mut self.buffer).unwrap() {
                let step =
                    self.rules.from_instance(frame.outline()).unwrap_or_else(|v| panic!("{v}: {frame:?}"));
                if frame == Frame::Drain {
                    assert!(!std::mem::replace(&mut self.ending, true), "it says so once");
                    continue;
                }
                return Some((frame, step));
            }
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return None,
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) fn next(&mut self) -> Frame {
        self.try_next().expect("the other side closed the connection").0
    }

    pub(crate) fn load(&mut self, load: Load) -> Loaded {
        self.send(&Frame::Load(load));
        match self.next() {
            Frame::Loaded(loaded) => loaded,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ping(&mut self) {
        self.send(&Frame::Ping(*b"12345678"));
        assert_eq!(self.next(), Frame::Pong(*b"12345678"));
    }

    /// Opens a call; its number.
    pub(crate) fn open(&mut self, id: &str, head: &impl serde::Serialize, body: &[u8], end: bool) -> u32 {
        self.open_with(id, head, body, end, false)
    }

    pub(crate) fn open_with(
        &mut self,
        id: &str,
        head: &impl serde::Serialize,
        body: &[u8],
        end: bool,
        accept: bool,
    ) -> u32 {
        let stream = self.rules.next_stream().unwrap();
        let invoke = Invoke {
            deadline_ms: 10_000,
            request_id: RequestId::copied(id).unwrap(),
            accept,
            head: serde_json::to_vec(head).unwrap().into(),
            body: Bytes::copy_from_slice(body),
            end,
        };
        self.send(&Frame::Invoke { stream, invoke });
        stream
    }

    /// Reads until the call is over, giving credit for what is read. Frames of other calls are a fault here.
    pub(crate) fn answer(&mut self, stream: u32) -> Result<Answered, CallError> {
        let mut answered = Answered { status: 0, headers: Vec::new(), body: Vec::new() };
        loop {
            let (frame, step) = self.try_next().expect("the other side closed the connection");
            let bytes = match frame {
                Frame::Answer { stream: of, answer: Answer { status, headers, body, .. } } => {
                    assert_eq!(of, stream);
                    answered.status = status;
                    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                    answered.headers =
                        headers.iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
                    body
                }
                Frame::Data { stream: of, bytes, .. } => {
                    assert_eq!(of, stream);
                    bytes
                }
                Frame::Error { error, .. } => return Err(error),
                Frame::Accept { .. } | Frame::Credit { .. } => continue,
                other => panic!("{other:?}"),
            };
            answered.body.extend_from_slice(&bytes);
            if step == Step::Over {
                return Ok(answered);
            }
            if !bytes.is_empty() {
                self.send(&Frame::Credit { stream, bytes: u32::try_from(bytes.len()).unwrap() });
            }
        }
    }

    pub(crate) fn call(
        &mut self,
        id: &str,
        head: &impl serde::Serialize,
        body: &[u8],
    ) -> Result<Answered, CallError> {
        let stream = self.open(id, head, body, true);
        self.answer(stream)
    }

    /// Sends a body as credit allows, on a call that was opened without its end. Answer frames that come meanwhile are kept for nobody:
    /// there must be none.
    pub(crate) fn send_body(&mut self, stream: u32, mut body: &[u8]) {
        while !body.is_empty() {
            let window = self.rules.call(stream).expect("the call is over early").body_window() as usize;
            if window == 0 {
                match self.next() {
                    Frame::Credit { .. } | Frame::Accept { .. } => {}
                    other => panic!("{other:?}"),
                }
                continue;
            }
            let (piece, rest) = body.split_at(window.min(body.len()).min(100_000));
            let end = rest.is_empty();
            self.send(&Frame::Data { stream, bytes: Bytes::copy_from_slice(piece), end });
            body = rest;
        }
    }

    /// Log records until one satisfies `last`; that one included.
    pub(crate) fn logs_until(&mut self, last: impl Fn(&LogRecord) -> bool) -> Vec<LogRecord> {
        let mut records = Vec::new();
        loop {
            match self.next() {
                Frame::Log(record) => {
                    let found = last(&record);
                    records.push(record);
                    if found {
                        return records;
                    }
                }
                other => panic!("{other:?} after {records:?}"),
            }
        }
    }
}

/// A request's head.
pub(crate) fn get(target: &str) -> RequestHead {
    RequestHead {
        method: "GET".to_owned(),
        target: target.to_owned(),
        authority: "hearth.test".to_owned(),
        scheme: "http".to_owned(),
        headers: vec![("x-test".to_owned(), "yes".to_owned())],
        peer: "192.0.2.1:4711".to_owned(),
    }
}

pub(crate) fn post(target: &str) -> RequestHead {
    RequestHead { method: "POST".to_owned(), ..get(target) }
}
