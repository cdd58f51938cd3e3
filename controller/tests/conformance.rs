//! The conformance suite of backends, against the embedded one: real containers, so as root.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

#[path = "support/containers.rs"]
mod containers;
#[path = "support/ground.rs"]
mod ground;

use std::fs;
use std::sync::Arc;

use hearth::backend::conformance::{Fixture, PATIENCE, Suite};
use hearth::backend::embedded::{Config, Embedded};
use hearth::backend::{Backend, Root, interpreters, shim_files};
use hearth_function::InstanceId;

use ground::{Neighbours, network_traces, traces};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_backend_conforms() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: the conformance suite of the embedded backend needs root");
        return;
    }
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
        run_dir: run.path().to_owned(),
        gateway_port,
        interfaces,
        ..Config::new(env!("CARGO_BIN_EXE_hearth").into(), data.path().to_owned(), shim)
    };
    let backend = Embedded::open(config.clone()).await.unwrap();
    let networks = backend.gateway_address().is_some();
    let neighbours = Neighbours::of(backend.gateway_address(), gateway_port, &others).await;
    let run_dir = run.path().to_owned();
    let tag = fs::read_dir(&run_dir).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
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
            Box::pin(async move { Embedded::open(config).await.unwrap() as Arc<dyn Backend> })
        }),
        left: Box::new({
            let run_dir = run_dir.clone();
            move |id: &InstanceId| traces(&run_dir, id.as_str())
        }),
    });
    let mut failures = ground::run(suite, &others, networks).await;
    drop((neighbours, others));
    failures.extend(
        traces(&run_dir, &tag)
            .into_iter()
            .chain(network_traces(&tag))
            .map(|trace| format!("left behind: {trace}")),
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
