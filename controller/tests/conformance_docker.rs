//! The conformance suite of backends, against the Docker backend: on Docker's engine and on Podman's, which is started for it. Real
//! containers, so as root.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

#[path = "support/containers.rs"]
mod containers;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/ground.rs"]
mod ground;

use std::fs;
use std::sync::Arc;

use hearth::backend::conformance::{Fixture, PATIENCE, Suite};
use hearth::backend::docker::{Config, Docker};
use hearth::backend::{Backend, Root, interpreters, shim_files};
use hearth_function::InstanceId;
use tokio::sync::Mutex;

use engines::Engine;
use ground::{Neighbours, network_traces, traces};

/// One at a time: they measure what is used, and neighbours have one name in a process.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn conforms(engine: Result<Engine, String>) {
    let _alone = ALONE.lock().await;
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: the conformance suite of the Docker backend needs root");
        return;
    }
    let engine = match engine {
        Ok(engine) => Arc::new(engine),
        Err(reason) => {
            eprintln!("NOT RUN: the conformance suite of the Docker backend: {reason}");
            return;
        }
    };
    let data = tempfile::tempdir().unwrap();
    let run = tempfile::Builder::new().prefix("hr").tempdir_in("/tmp").unwrap();
    let shim = shim_files::install(data.path()).unwrap();
    let python = interpreters::find("python").unwrap().path;
    let work = data.path().join("work");
    fs::create_dir(&work).unwrap();

    let gateway_port = ground::free_port().await;
    let others = containers::Containers::start();
    let interfaces = others.iter().map(|others| others.links[0].clone()).collect();
    let config = Config {
        host: Some(engine.socket.display().to_string()),
        run_dir: run.path().to_owned(),
        gateway_port,
        interfaces,
        ..Config::new(data.path().to_owned(), shim)
    };
    let backend = Docker::open(config.clone()).await.unwrap();
    let networks = backend.gateway_address().is_some();
    for lacking in backend.probe().await.into_iter().filter(|capability| !capability.works) {
        eprintln!("lacking: {}: {}", lacking.name, lacking.detail);
    }
    let neighbours = Neighbours::of(backend.gateway_address(), gateway_port, &others).await;
    let run_dir = run.path().to_owned();
    let tag = fs::read_dir(&run_dir).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let tag = tag.trim_end_matches("-docker").to_owned();
    let suite = Suite::new(Fixture {
        backend,
        root: Root::Host { interpreter: Some(python.clone()) },
        python: python.to_str().unwrap().to_owned(),
        directory: work,
        reachable: neighbours.reachable.clone(),
        unreachable: neighbours.unreachable.clone(),
        owner: ground::late("default"),
        patience: PATIENCE,
        networks,
        reopen: Box::new(move || {
            let config = config.clone();
            Box::pin(async move { Docker::open(config).await.unwrap() as Arc<dyn Backend> })
        }),
        left: Box::new({
            let (run_dir, engine) = (run_dir.clone(), Arc::clone(&engine));
            move |id: &InstanceId| {
                let mut left = traces(&run_dir, id.as_str());
                left.extend(engine.containers(&format!("dev.hearth.instance={id}")));
                left
            }
        }),
    });
    let mut failures = ground::run(suite, &others, networks).await;
    drop((neighbours, others));
    failures.extend(
        traces(&run_dir, &tag)
            .into_iter()
            .chain(network_traces(&tag))
            .chain(engine.containers(&format!("dev.hearth.data={tag}")))
            .chain(engine.networks(&format!("hearth-{tag}")).then(|| "the engine's network".to_owned()))
            .map(|trace| format!("left behind: {trace}")),
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_backend_conforms_on_docker() {
    conforms(Engine::docker()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_backend_conforms_on_podman() {
    conforms(Engine::podman()).await;
}
