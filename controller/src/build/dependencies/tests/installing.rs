//! Installations: one for each key at a time, whole or not there, and gone with all they started.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use hearth_function::InstanceId;
use hearth_protocol::{Exit, Frame, Hello, LogRecord, LogStream, Welcome, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::planning::toolchain;
use crate::backend::interpreters::Language;
use crate::backend::{
    self, Address, Backend, Capability, CodeMount, Ended, Found, InstanceSpec, Limits, Owner, Process,
    Started, Stats,
};
use crate::build::dependencies::{Config, Dependencies, Error, Plan, Progress, plan};

/// What the next instances do.
#[derive(Debug, Clone)]
enum Act {
    /// Leaves `python/package.py` and ends well, when it is told to.
    Installs(Arc<Notify>),
    /// Prints these lines and ends so.
    Ends(Vec<&'static str>, Exit),
    /// Leaves a file of so many bytes and goes on for ever.
    Fills(usize),
    /// Says hello and nothing more.
    Hangs,
    /// Closes the connection without a word of its end.
    Vanishes,
    /// Does not even start.
    Fails,
}

/// A backend that runs no process: its instances are tasks that speak for a shim.
#[derive(Debug)]
struct Stage {
    sockets: tempfile::TempDir,
    act: Mutex<Act>,
    started: Mutex<Vec<InstanceSpec>>,
    stopped: Mutex<Vec<InstanceId>>,
    tasks: Mutex<JoinSet<()>>,
}

impl Stage {
    fn new(act: Act) -> Arc<Self> {
        Arc::new(Self {
            sockets: tempfile::tempdir().unwrap(),
            act: Mutex::new(act),
            started: Mutex::default(),
            stopped: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    /// Every instance that was started was stopped, too.
    fn is_cleared(&self) -> bool {
        let stopped = self.stopped.lock().unwrap();
        self.started.lock().unwrap().iter().all(|spec| stopped.contains(&spec.id))
    }
}

async fn send(stream: &mut UnixStream, frame: &Frame) {
    let mut bytes = BytesMut::new();
    frame.encode(&mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
}

async fn greet(listener: UnixListener, secret: &str) -> UnixStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = BytesMut::new();
    let hello = loop {
        if let Some(frame) = decode(&mut bytes).unwrap() {
            break frame;
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0);
    };
    assert!(matches!(hello, Frame::Hello(Hello { secret: said, .. }) if said == secret));
    let instance = "job".to_owned();
    send(&mut stream, &Frame::Welcome(Welcome { version: 1, instance, served: 0, signature: None })).await;
    stream
}

async fn play(listener: UnixListener, spec: InstanceSpec, act: Act) {
    let mut stream = greet(listener, &spec.secret).await;
    let (lines, exit) = match act {
        Act::Installs(go) => {
            go.notified().await;
            let python = spec.build_dir.unwrap().join("python");
            std::fs::create_dir(&python).unwrap();
            std::fs::write(python.join("package.py"), "installed").unwrap();
            (vec!["Collecting package"], Exit { code: Some(0), ..Exit::default() })
        }
        Act::Ends(lines, exit) => (lines, exit),
        Act::Fills(bytes) => {
            std::fs::write(spec.build_dir.unwrap().join("filler"), vec![1; bytes]).unwrap();
            std::future::pending().await
        }
        Act::Hangs => std::future::pending().await,
        Act::Vanishes | Act::Fails => return,
    };
    for (number, line) in (1..).zip(lines) {
        let record = LogRecord {
            sequence: number,
            unix_micros: 0,
            stream: LogStream::Stdout,
            shared: false,
            truncated: false,
            dropped: 0,
            request_id: None,
            line: Bytes::from_static(line.as_bytes()),
        };
        send(&mut stream, &Frame::Log(record)).await;
    }
    send(&mut stream, &Frame::Exit(exit)).await;
}

#[async_trait]
impl Backend for Stage {
    fn name(&self) -> &'static str {
        "stage"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<Started, backend::Error> {
        self.started.lock().unwrap().push(spec.clone());
        let act = self.act.lock().unwrap().clone();
        if matches!(act, Act::Fails) {
            return Err(backend::Error::NotFound(spec.id.clone()));
        }
        let path = self.sockets.path().join(spec.id.as_str());
        let listener = UnixListener::bind(&path).unwrap();
        self.tasks.lock().unwrap().spawn(play(listener, spec.clone(), act));
        let address = Address::Unix(path);
        Ok(Started { invoke: address.clone(), control: address, create: Duration::ZERO })
    }

    async fn stop(&self, instance: &InstanceId, _: Duration) -> Result<(), backend::Error> {
        self.stopped.lock().unwrap().push(instance.clone());
        Ok(())
    }

    async fn inject(&self, instance: &InstanceId, _: &CodeMount) -> Result<(), backend::Error> {
        Err(backend::Error::NotFound(instance.clone()))
    }

    async fn record(&self, instance: &InstanceId, _: &Owner, _: &CodeMount) -> Result<(), backend::Error> {
        Err(backend::Error::NotFound(instance.clone()))
    }

    async fn limit(&self, instance: &InstanceId, _: &Limits) -> Result<(), backend::Error> {
        Err(backend::Error::NotFound(instance.clone()))
    }

    async fn pause(&self, instance: &InstanceId) -> Result<(), backend::Error> {
        Err(backend::Error::NotFound(instance.clone()))
    }

    async fn resume(&self, instance: &InstanceId) -> Result<(), backend::Error> {
        Err(backend::Error::NotFound(instance.clone()))
    }

    async fn stats(&self, instance: &InstanceId) -> Result<Stats, backend::Error> {
        Err(backend::Error::NotFound(instance.clone()))
    }

    async fn list(&self) -> Result<Vec<Found>, backend::Error> {
        Ok(Vec::new())
    }

    fn exits(&self) -> mpsc::Receiver<Ended> {
        mpsc::channel(1).1
    }

    async fn probe(&self) -> Vec<Capability> {
        Vec::new()
    }

    async fn close(&self) -> Result<(), backend::Error> {
        Ok(())
    }
}

struct World {
    data: tempfile::TempDir,
    stage: Arc<Stage>,
    dependencies: Dependencies,
    plan: Plan,
}

fn world(act: Act, config: Config) -> World {
    let data = tempfile::tempdir().unwrap();
    let bundle = data.path().join("bundle");
    std::fs::create_dir(&bundle).unwrap();
    std::fs::write(bundle.join("requirements.txt"), "package==1").unwrap();
    std::fs::write(bundle.join("main.py"), "").unwrap();
    let plan = plan(&bundle, &toolchain(Language::Python)).unwrap().unwrap();
    let stage = Stage::new(act);
    let dependencies = Dependencies::open(data.path(), stage.clone(), config).unwrap();
    World { data, stage, dependencies, plan }
}

fn left(data: &Path) -> usize {
    std::fs::read_dir(data.join("deps")).unwrap().count()
}

#[tokio::test]
async fn all_who_ask_at_once_get_one_installation() {
    let go = Arc::new(Notify::new());
    let world = world(Act::Installs(Arc::clone(&go)), Config::default());
    let mut updates = world.dependencies.updates();
    let ensure = || world.dependencies.ensure(&world.plan);
    let release = async {
        // The first update comes when the installation is under way.
        let first = updates.recv().await.unwrap();
        assert_eq!(first.key, world.plan.key);
        go.notify_one();
    };
    let (one, two, three, ()) = tokio::join!(ensure(), ensure(), ensure(), release);
    let path = one.unwrap();
    assert_eq!(path, two.unwrap());
    assert_eq!(path, three.unwrap());
    assert_eq!(std::fs::read_to_string(path.join("python/package.py")).unwrap(), "installed");
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1, "nothing else of the build directory stays");
    assert_eq!(world.stage.started.lock().unwrap().len(), 1);
    assert!(world.stage.is_cleared());

    // And never again, not even after a restart.
    let reopened = Dependencies::open(world.data.path(), world.stage.clone(), Config::default()).unwrap();
    assert_eq!(reopened.ensure(&world.plan).await.unwrap(), path);
    assert_eq!(world.stage.started.lock().unwrap().len(), 1);
    assert_eq!(
        reopened.list().unwrap().into_iter().collect::<Vec<_>>(),
        std::slice::from_ref(&world.plan.key)
    );

    let mut heard = Vec::new();
    while let Ok(update) = updates.try_recv() {
        heard.push(update.progress);
    }
    assert!(heard.contains(&Progress::Line("Collecting package".to_owned())), "{heard:?}");
    assert!(matches!(heard.last(), Some(Progress::Finished { bytes: 9, .. })), "{heard:?}");
}

#[tokio::test]
async fn the_instance_sees_its_inputs_and_what_the_operator_says_and_nothing_else() {
    let go = Arc::new(Notify::new());
    go.notify_one();
    let install_env = [("PIP_INDEX_URL".to_owned(), "https://user:word@mirror/simple".to_owned())].into();
    let world = world(Act::Installs(go), Config { install_env, ..Config::default() });
    world.dependencies.ensure(&world.plan).await.unwrap();
    let spec = world.stage.started.lock().unwrap()[0].clone();
    let Process::Job { command } = &spec.process else { panic!("{:?}", spec.process) };
    assert_eq!(command[..4], ["/usr/bin/python3.11", "-m", "pip", "install"]);
    assert_eq!((&spec.owner, &spec.code), (&None, &None));
    let names: Vec<&str> = spec.env.keys().map(String::as_str).collect();
    assert_eq!(names, ["CI", "HOME", "LANG", "PATH", "PIP_INDEX_URL", "TMPDIR", "npm_config_cache"]);
}

#[tokio::test]
async fn a_failure_goes_to_all_who_wait_with_what_was_printed_last_and_is_not_remembered() {
    let failed = Exit { code: Some(1), ..Exit::default() };
    let world =
        world(Act::Ends(vec!["Collecting package", "ERROR: no such package"], failed), Config::default());
    let ensure = || world.dependencies.ensure(&world.plan);
    let (one, two) = tokio::join!(ensure(), ensure());
    let error = one.unwrap_err();
    assert_eq!(
        error.to_string(),
        "pip install failed: exit code 1\n  Collecting package\n  ERROR: no such package"
    );
    assert!(Arc::ptr_eq(&error, &two.unwrap_err()));
    assert_eq!(left(world.data.path()), 0);
    assert!(world.stage.is_cleared());

    let go = Arc::new(Notify::new());
    go.notify_one();
    *world.stage.act.lock().unwrap() = Act::Installs(go);
    world.dependencies.ensure(&world.plan).await.unwrap();
    assert_eq!(world.stage.started.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn every_other_end_is_told_apart() {
    let ended = |act, config| async {
        let world = world(act, config);
        let error = world.dependencies.ensure(&world.plan).await.unwrap_err();
        assert_eq!(left(world.data.path()), 0);
        assert!(world.stage.is_cleared());
        error
    };
    let no_pip = vec!["/usr/bin/python3.11: No module named pip"];
    let failed = Exit { code: Some(1), ..Exit::default() };
    let error = ended(Act::Ends(no_pip, failed), Config::default()).await;
    assert!(matches!(&*error, Error::NoTool { tool: "pip", .. }), "{error}");
    let killed = Exit { signal: Some(9), out_of_memory: true, ..Exit::default() };
    let error = ended(Act::Ends(vec![], killed), Config::default()).await;
    assert!(error.to_string().contains("raise build.memory"), "{error}");
    let error = ended(Act::Vanishes, Config::default()).await;
    assert!(error.to_string().contains("its instance ended"), "{error}");
    let error = ended(Act::Fails, Config::default()).await;
    assert!(matches!(&*error, Error::Backend(_)), "{error}");
    let short = Config { timeout: Duration::from_millis(50), ..Config::default() };
    let error = ended(Act::Hangs, short).await;
    assert_eq!(error.to_string(), "pip install was not done after 50ms");
    let go = Arc::new(Notify::new());
    go.notify_one();
    let error = ended(Act::Installs(go), Config { installed_bytes: 8, ..Config::default() }).await;
    assert_eq!(
        error.to_string(),
        "pip install installed more than 8, which is what build.max_installed allows"
    );
}

#[tokio::test]
async fn an_installation_that_fills_the_disk_is_stopped_while_it_runs() {
    for (bytes, config, told) in [
        (64 << 10, Config { installed_bytes: 16 << 10, ..Config::default() }, "more than 16Ki"),
        (1, Config { free_bytes: u64::MAX, ..Config::default() }, "build.min_free"),
    ] {
        let world = world(Act::Fills(bytes), config);
        let error = world.dependencies.ensure(&world.plan).await.unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
        assert_eq!(left(world.data.path()), 0);
        assert!(world.stage.is_cleared());
    }
}

#[tokio::test]
async fn closing_cuts_off_what_is_under_way() {
    let world = world(Act::Hangs, Config::default());
    let mut updates = world.dependencies.updates();
    let close = async {
        while !matches!(updates.recv().await.unwrap().progress, Progress::Started { .. }) {}
        world.dependencies.close().await;
        assert!(world.stage.is_cleared());
    };
    let (cut, ()) = tokio::join!(world.dependencies.ensure(&world.plan), close);
    assert!(matches!(&*cut.unwrap_err(), Error::CutOff));
    assert!(matches!(&*world.dependencies.ensure(&world.plan).await.unwrap_err(), Error::CutOff));
    assert_eq!(left(world.data.path()), 0);
}

#[tokio::test]
async fn who_stops_waiting_does_not_stop_the_installation() {
    let go = Arc::new(Notify::new());
    let world = world(Act::Installs(Arc::clone(&go)), Config::default());
    let mut updates = world.dependencies.updates();
    tokio::select! {
        _ = world.dependencies.ensure(&world.plan) => panic!("nobody said go"),
        update = updates.recv() => drop(update),
    }
    go.notify_one();
    let path: PathBuf = world.dependencies.ensure(&world.plan).await.unwrap();
    assert!(path.join("python/package.py").is_file());
    assert_eq!(world.stage.started.lock().unwrap().len(), 1);
}
