//! The conformance suite of backends, against the embedded one: real containers, so as root.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/containers.rs"]
mod containers;
#[path = "support/ground.rs"]
mod ground;
#[path = "support/ports.rs"]
mod ports;

use std::sync::Arc;

use hearth::backend::Backend;
use hearth::backend::embedded::{Config, Embedded};

use ground::{Ground, Opened};

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_backend_conforms() {
    let Some(ground) = Ground::new("embedded").await else { return };
    let config = Config {
        run_dir: ground.run.path().to_owned(),
        gateway_port: ground.gateway_port,
        interfaces: ground.interfaces.clone(),
        ..Config::new(env!("CARGO_BIN_EXE_hearth").into(), ground.data.path().to_owned(), ground.shim.clone())
    };
    let backend = Embedded::open(config.clone()).await.unwrap();
    let opened = Opened {
        gateway: backend.gateway_address(),
        backend,
        reopen: Box::new(move || {
            let config = config.clone();
            Box::pin(async move { Embedded::open(config).await.unwrap() as Arc<dyn Backend> })
        }),
    };
    ground.conforms(opened, |_, _| Vec::new()).await;
}
