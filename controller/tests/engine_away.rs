//! The Docker backend on an engine of its own: one that goes away and comes back, and one whose containers are reached by TCP. Real
//! containers, so as root.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

#[path = "support/engines.rs"]
mod engines;

use std::collections::BTreeMap;
use std::time::Duration;

use hearth::backend::docker::{Config, Docker};
use hearth::backend::{
    Address, Backend, InstanceSpec, Limits, Network, Process, Root, Started, control, interpreters,
    shim_files,
};
use hearth_function::InstanceId;
use tokio::time::{Instant, timeout};

use engines::Engine;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// What a test stands on; `None` where it cannot run.
struct Ground {
    engine: Engine,
    config: Config,
    _directories: [tempfile::TempDir; 2],
}

impl Ground {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT RUN: the Docker backend needs root");
            return None;
        }
        let engine = match Engine::own_docker(&[]) {
            Ok(engine) => engine,
            Err(reason) => {
                eprintln!("NOT RUN: the Docker backend on an engine of its own: {reason}");
                return None;
            }
        };
        let data = tempfile::tempdir().unwrap();
        let run = tempfile::Builder::new().prefix("hr").tempdir_in("/tmp").unwrap();
        let shim = shim_files::install(data.path()).unwrap();
        let config = Config {
            host: Some(engine.socket.display().to_string()),
            run_dir: run.path().to_owned(),
            ..Config::new(data.path().to_owned(), shim)
        };
        Some(Self { engine, config, _directories: [data, run] })
    }
}

/// A job that lasts.
fn job(id: &str, network: Network) -> InstanceSpec {
    let python = interpreters::find("python").unwrap().path;
    let command =
        vec![python.display().to_string(), "-c".to_owned(), "import time; time.sleep(1000)".to_owned()];
    InstanceSpec {
        id: InstanceId::parse(id).unwrap(),
        owner: None,
        process: Process::Job { command },
        code: None,
        build_dir: None,
        root: Root::Host { interpreter: Some(python) },
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        limits: Limits { memory_bytes: 128 << 20, cpu_millis: None, tmp_bytes: 8 << 20, pids: 64, patient: false },
        user: None,
        working_directory: None,
        network,
        concurrency: 1,
        secret: SECRET.to_owned(),
    }
}

async fn listens(started: &Started) -> Result<(), control::Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    control::connect_control(&started.control, SECRET, 0, deadline).await.map(drop)
}

fn text(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {}", text(source)));
    format!("{error}{}", source.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_goes_away_and_comes_back_is_survived() {
    let Some(mut ground) = Ground::new() else { return };
    let backend = Docker::open(ground.config.clone()).await.unwrap();
    let mut ends = backend.exits();
    let first = job("before", Network::None);
    listens(&backend.start(&first).await.unwrap()).await.unwrap();

    ground.engine.stop();
    // The engine ended it, and the engine's word of it may be lost.
    let ended = timeout(PATIENCE, ends.recv()).await.expect("its end is told").unwrap();
    assert_eq!(ended.instance, first.id);
    let refused = text(&backend.start(&job("meanwhile", Network::None)).await.unwrap_err());
    let socket = ground.engine.socket.display().to_string();
    assert!(refused.contains(&socket) && refused.contains("does not answer"), "{refused}");
    assert!(backend.stop(&first.id, Duration::ZERO).await.is_err(), "it is not known to be gone");
    let engine = backend.probe().await.into_iter().find(|one| one.name == "engine").unwrap();
    assert!(!engine.works && engine.remedy.is_some(), "{engine:?}");

    ground.engine.start().unwrap();
    let again = job("after", Network::Outbound);
    listens(&backend.start(&again).await.unwrap()).await.unwrap();
    backend.stop(&first.id, Duration::ZERO).await.unwrap();
    let list = backend.list().await.unwrap();
    assert_eq!(list.iter().map(|found| &found.spec.id).collect::<Vec<_>>(), [&again.id]);
    backend.stop(&again.id, Duration::ZERO).await.unwrap();
    let ended = timeout(PATIENCE, ends.recv()).await.expect("the new connection tells of ends").unwrap();
    assert_eq!(ended.instance, again.id);
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_reached_by_tcp_where_sockets_cannot_be_shared() {
    let Some(ground) = Ground::new() else { return };
    let config = Config { tcp: true, ..ground.config.clone() };
    let backend = Docker::open(config).await.unwrap();
    if backend.gateway_address().is_none() {
        eprintln!("NOT RUN: by TCP, for this machine cannot do networks");
        return;
    }
    let spec = job("by-tcp", Network::Outbound);
    let started = backend.start(&spec).await.unwrap();
    let Address::Tcp(address) = started.control else { panic!("it is at {started:?}") };
    assert!(address.ip().is_loopback());
    listens(&started).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let wrong = "f".repeat(64);
    let refused = control::connect_control(&started.control, &wrong, 0, deadline).await;
    assert!(matches!(refused, Err(control::Error::Refused(_))), "{refused:?}");
    backend.stop(&spec.id, Duration::ZERO).await.unwrap();
    let lonely = text(&backend.start(&job("lonely", Network::None)).await.unwrap_err());
    assert!(lonely.contains("network: outbound"), "{lonely}");
    backend.close().await.unwrap();
}
