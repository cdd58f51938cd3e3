//! The Docker backend on an engine of its own: one that goes away and comes back, one whose containers are reached by TCP, one that remaps
//! users; and images of its own. Real containers, so as root.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

#[path = "support/engines.rs"]
mod engines;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hearth::backend::docker::{Config, Docker};
use hearth::backend::{
    Address, Backend, Error, InCluster, InstanceSpec, Limits, Network, Process, Root, Started, control,
    interpreters, shim_files,
};
use hearth_function::InstanceId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use engines::Engine;

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// One at a time: two engines that start at once are in each other's way in the firewall.
static ALONE: Mutex<()> = Mutex::const_new(());

/// What a test stands on; `None` where it cannot run.
struct Ground {
    engine: Engine,
    config: Config,
    _directories: [tempfile::TempDir; 2],
    _alone: MutexGuard<'static, ()>,
}

impl Ground {
    async fn new(options: &[&str]) -> Option<Self> {
        let alone = ALONE.lock().await;
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT RUN: the Docker backend needs root");
            return None;
        }
        let engine = match Engine::own_docker(options) {
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
        Some(Self { engine, config, _directories: [data, run], _alone: alone })
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
        namespace: None,
        in_cluster: InCluster::default(),
        root: Root::Host { interpreter: Some(python) },
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
        limits: Limits {
            memory_bytes: 128 << 20,
            cpu_millis: None,
            tmp_bytes: 8 << 20,
            pids: 64,
            patient: false,
        },
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
    let Some(mut ground) = Ground::new(&[]).await else { return };
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
    let Some(ground) = Ground::new(&[]).await else { return };
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

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_goes_away_without_its_containers_ends_none() {
    let Some(mut ground) = Ground::new(&["--live-restore"]).await else { return };
    // By TCP: the ports are the engine's, and nobody answers there while it is away.
    let config = Config { tcp: true, ..ground.config.clone() };
    let backend = Docker::open(config).await.unwrap();
    if backend.gateway_address().is_none() {
        eprintln!("NOT RUN: by TCP, for this machine cannot do networks");
        return;
    }
    let mut ends = backend.exits();
    let spec = job("lasting", Network::Outbound);
    listens(&backend.start(&spec).await.unwrap()).await.unwrap();

    ground.engine.stop();
    let engine = || async { backend.probe().await.into_iter().find(|one| one.name == "engine").unwrap() };
    assert!(!engine().await.works);
    assert!(timeout(Duration::from_secs(3), ends.recv()).await.is_err(), "it runs on");
    ground.engine.start().unwrap();
    let list = backend.list().await.unwrap();
    assert_eq!(list.iter().map(|found| found.ended).collect::<Vec<_>>(), [None]);
    backend.stop(&spec.id, Duration::ZERO).await.unwrap();
    let ended = timeout(PATIENCE, ends.recv()).await.expect("its end is told").unwrap();
    assert_eq!(ended.instance, spec.id);
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_never_answers_is_in_nobody_elses_way() {
    let Some(ground) = Ground::new(&[]).await else { return };
    /// Less than the engine itself is patient for, and more than a start takes.
    const LIMIT: Duration = Duration::from_secs(8);
    // One start at a time: those that wait for a registry do not count.
    let config = Config { pull_timeout: LIMIT, parallel_starts: 1, ..ground.config.clone() };
    let backend = Docker::open(config).await.unwrap();
    // Connections wait in the backlog, for ever.
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let reference = format!("{}/hearth-test/slow:1", registry.local_addr().unwrap());
    let slow = |id| InstanceSpec { root: Root::Image(reference.clone()), ..job(id, Network::None) };
    let begin = Instant::now();
    let (one, two) = (slow("slow-one"), slow("slow-two"));
    let waiting = async { tokio::join!(backend.start(&one), backend.start(&two)) };
    let other = job("other", Network::None);
    let served = async {
        listens(&backend.start(&other).await.unwrap()).await.unwrap();
        begin.elapsed()
    };
    let ((one, two), served) = tokio::join!(waiting, served);
    let all = begin.elapsed();
    assert!(served < LIMIT, "the other start waited: {served:?}");
    for error in [one.unwrap_err(), two.unwrap_err()].map(|error| text(&error)) {
        assert!(error.contains(&reference) && error.contains("within 8s"), "{error}");
    }
    assert!(all < LIMIT * 2, "they waited for one pull, and not one after the other: {all:?}");
    backend.stop(&other.id, Duration::ZERO).await.unwrap();
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_an_image_was_looked_into_by_is_taken_away_by_the_next() {
    let Some(ground) = Ground::new(&[]).await else { return };
    let backend = Docker::open(ground.config.clone()).await.unwrap();
    let spec = job("first", Network::None);
    backend.start(&spec).await.unwrap();
    backend.stop(&spec.id, Duration::ZERO).await.unwrap();
    let network = std::fs::read_dir(&ground.config.run_dir).unwrap().next().unwrap().unwrap();
    let tag = network.file_name().into_string().unwrap().trim_end_matches("-docker").to_owned();
    // As a controller leaves it that is killed between the two.
    let label = format!("dev.hearth.data={tag}");
    let image = ground.engine.client(&["images", "--quiet", "--filter", &format!("label={label}")]);
    ground.engine.client(&["create", "--label", &label, image.trim(), "/hearth/hearth-shim"]);
    assert_eq!(ground.engine.containers(&label).len(), 1);
    backend.close().await.unwrap();
    drop(backend);
    let backend = Docker::open(ground.config.clone()).await.unwrap();
    assert!(ground.engine.containers(&label).is_empty());
    backend.close().await.unwrap();
}

/// A user and a group that have a range of numbers in `/etc/subuid` and `/etc/subgid`, as an engine with remapped users needs.
fn remappable() -> Option<String> {
    let names = |file| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().filter_map(|line| line.split(':').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let groups = names("/etc/group");
    let user = names("/etc/subuid").into_iter().next()?;
    let group = names("/etc/subgid").into_iter().find(|group| groups.contains(group))?;
    Some(format!("{user}:{group}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_remaps_users_runs_instances() {
    let Some(name) = remappable() else {
        eprintln!("NOT RUN: an engine that remaps users: /etc/subuid and /etc/subgid have no range");
        return;
    };
    let Some(ground) = Ground::new(&["--userns-remap", &name]).await else { return };
    let backend = Docker::open(ground.config.clone()).await.unwrap();
    let spec = job("remapped", Network::None);
    let started = backend.start(&spec).await.unwrap();
    assert!(matches!(started.control, Address::Unix(_)), "root reaches the sockets of any user");
    listens(&started).await.unwrap();
    backend.stop(&spec.id, Duration::ZERO).await.unwrap();
    backend.close().await.unwrap();
}

/// An image with a shell and what it needs of libraries, code, and nothing else.
fn shell(engine: &Engine, work: &Path) {
    let listed = Command::new("ldd").arg("/bin/sh").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
    let archive = work.join("shell.tar");
    let mut tar = Command::new("tar");
    tar.args(["--create", "--dereference", "--absolute-names", "--file"]).arg(&archive).arg("/bin/sh");
    std::fs::create_dir(work.join("code")).unwrap();
    std::fs::write(work.join("code/hello.txt"), "hello\n").unwrap();
    tar.args(libraries).arg("--directory").arg(work).arg("code");
    assert!(tar.status().unwrap().success());
    engine.client(&["import", &archive.display().to_string(), "hearth-test/shell"]);
}

/// The address of a registry that answers and has nothing.
async fn registry_without_images(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let (status, body) = if request[..read].starts_with(b"GET /v2/ ") {
                ("200 OK", "{}")
            } else {
                ("404 Not Found", r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#)
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _gone = stream.write_all(answer.as_bytes()).await.is_err();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_somebody_else_that_has_an_instances_name_stays() {
    let Some(ground) = Ground::new(&[]).await else { return };
    let backend = Docker::open(ground.config.clone()).await.unwrap();
    let spec = job("first", Network::None);
    backend.start(&spec).await.unwrap();
    let mut directories = std::fs::read_dir(&ground.config.run_dir).unwrap();
    let directory = directories.next().unwrap().unwrap().path();
    let named = ground.engine.client(&["ps", "--format", "{{.Names}}"]);
    let name = named.trim().replace("first", "taken");
    let image = ground.engine.client(&["ps", "--format", "{{.Image}}"]);
    ground.engine.client(&["create", "--name", &name, "--label", "of=another", image.trim(), "/nothing"]);
    let refused = backend.start(&job("taken", Network::None)).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid { what, .. } if what.contains("taken already")), "{refused}");
    assert_eq!(ground.engine.containers("of=another").len(), 1);
    assert!(!directory.join("taken").exists(), "its own directory is gone");
    assert!(directory.join("first").exists());
    backend.stop(&spec.id, Duration::ZERO).await.unwrap();
    backend.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_engine_has_is_a_root() {
    let Some(ground) = Ground::new(&[]).await else { return };
    let backend = Docker::open(ground.config.clone()).await.unwrap();
    let mut ends = backend.exits();
    let work = tempfile::tempdir().unwrap();
    shell(&ground.engine, work.path());
    let script = "[ -e /usr/bin/env ] && exit 3; read word < /code/hello.txt; [ $word = hello ] && exit 7";
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    let image = Root::Image("hearth-test/shell".to_owned());
    let spec = InstanceSpec { process: Process::Job { command }, root: image, ..job("image", Network::None) };
    backend.start(&spec).await.unwrap();
    let ended = timeout(PATIENCE, ends.recv()).await.expect("it ends").unwrap();
    assert_eq!(ended.exit.code, Some(7), "its own code is there, and nothing of the host's /usr");
    backend.stop(&spec.id, Duration::ZERO).await.unwrap();

    // By the digest that the engine itself has given it, as it is kept of one that was in no registry.
    let known = backend.image("hearth-test/shell").await.unwrap().expect("it was imported");
    let by_digest = InstanceSpec {
        root: Root::Image(format!("docker.io/hearth-test/shell@{}", known.id)),
        id: InstanceId::parse("by-digest").unwrap(),
        ..spec.clone()
    };
    backend.start(&by_digest).await.unwrap();
    let ended = timeout(PATIENCE, ends.recv()).await.expect("it ends").unwrap();
    assert_eq!(ended.exit.code, Some(7));
    backend.stop(&by_digest.id, Duration::ZERO).await.unwrap();
    assert_eq!(backend.image("hearth-test/nothing").await.unwrap(), None);

    let lacking =
        InstanceSpec { process: Process::Nodejs, id: InstanceId::parse("lacking").unwrap(), ..spec.clone() };
    let refused = backend.start(&lacking).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid { what, .. } if what.contains("has no node")), "{refused}");
    let mut tasks = JoinSet::new();
    let missing = format!("{}/hearth-test/nothing:1", registry_without_images(&mut tasks).await);
    let unknown = InstanceSpec { root: Root::Image(missing.clone()), ..lacking };
    let refused = backend.start(&unknown).await.unwrap_err();
    assert!(matches!(&refused, Error::Invalid { what, .. } if what.contains(&missing)), "{refused}");
    // A registry that is away may come back: it is nobody's fault, and tried again.
    let away = "localhost:1/hearth-test/nothing:1";
    let unreached = InstanceSpec { root: Root::Image(away.to_owned()), ..unknown };
    let failed = backend.start(&unreached).await.unwrap_err();
    assert!(matches!(failed, Error::Step { .. }) && text(&failed).contains(away), "{}", text(&failed));
    assert!(backend.list().await.unwrap().is_empty(), "nothing half made is left");
    assert!(ground.engine.containers("dev.hearth.data").is_empty());
    backend.close().await.unwrap();
}
