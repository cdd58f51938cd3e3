//! The conformance suite of backends, against the Docker backend: on Docker's engine and on Podman's, which is started for it. Real
//! containers, so as root.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/containers.rs"]
mod containers;
#[path = "support/engines.rs"]
mod engines;
#[path = "support/ground.rs"]
mod ground;
#[path = "support/ports.rs"]
mod ports;

use std::sync::Arc;

use hearth::backend::Backend;
use hearth::backend::docker::{Config, Docker};
use tokio::sync::Mutex;

use engines::Engine;
use ground::{Ground, Opened};

/// One at a time: they measure what is used, and neighbours have one name in a process.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn conforms(engine: fn() -> Result<Engine, String>) {
    let _alone = ALONE.lock().await;
    let Some(ground) = Ground::new("Docker").await else { return };
    let engine = match engine() {
        Ok(engine) => Arc::new(engine),
        Err(reason) => {
            eprintln!("NOT RUN: the conformance suite of the Docker backend: {reason}");
            return;
        }
    };
    let config = Config {
        host: Some(engine.socket.display().to_string()),
        run_dir: ground.run.path().to_owned(),
        gateway_port: ground.gateway_port,
        interfaces: ground.interfaces.clone(),
        ..Config::new(ground.data.path().to_owned(), ground.shim.clone())
    };
    let backend = Docker::open(config.clone()).await.unwrap();
    for lacking in backend.probe().await.into_iter().filter(|capability| !capability.works) {
        eprintln!("lacking: {}: {}", lacking.name, lacking.detail);
    }
    let opened = Opened {
        gateway: backend.gateway_address(),
        backend,
        reopen: Box::new(move || {
            let config = config.clone();
            Box::pin(async move { Docker::open(config).await.unwrap() as Arc<dyn Backend> })
        }),
    };
    let left = move |tag: &str, instance: Option<&str>| match instance {
        Some(id) => engine.containers(&format!("dev.hearth.instance={id}")),
        None => {
            let mut left = engine.containers(&format!("dev.hearth.data={tag}"));
            left.extend(engine.networks(&format!("hearth-{tag}")).then(|| "the engine's network".to_owned()));
            left
        }
    };
    ground.conforms(opened, left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_backend_conforms_on_docker() {
    conforms(Engine::docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_docker_backend_conforms_on_podman() {
    conforms(Engine::podman).await;
}
