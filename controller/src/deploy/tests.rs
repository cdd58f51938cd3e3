//! The service as a whole, over a staged backend and a gateway that only listens.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_dispatch::routes::Conflict;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::backend::Backend;
use crate::build::{Bundles, Dependencies};
use crate::gateway::{Served, Unready};
use crate::pool::Pool;
use crate::pool::staged::Staged;
use crate::telemetry::metrics::Registry;

/// Knows which Functions are served, and panics the first time that `bad` is among them.
#[derive(Debug, Default)]
struct Listener {
    has_panicked: AtomicBool,
    served: watch::Sender<Vec<String>>,
}

impl Gateway for Listener {
    fn serve(&self, functions: Vec<Served>, _: Vec<Unready>) -> Vec<Conflict> {
        let names: Vec<String> = functions.iter().map(|one| one.function.name().to_owned()).collect();
        let bad = names.iter().any(|name| name == "bad");
        assert!(!bad || self.has_panicked.swap(true, Ordering::Relaxed), "on purpose");
        self.served.send_replace(names);
        Vec::new()
    }
}

fn function(name: &str) -> Function {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "runtime": "exec", "source": { "inline": { "run.sh": "" } }, "command": ["/bin/true"] },
    }))
    .unwrap()
}

// Store and bundles work on threads of their own, which a paused clock does not wait for.
#[tokio::test]
async fn a_panic_in_the_task_of_one_function_stops_no_other_and_is_got_over() {
    let directory = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> = Staged::new(directory.path());
    let store = Store::open(store::Config::new(directory.path().join("hearth.redb"))).await.unwrap();
    let (logs, writer) = Logs::open(directory.path().join("logs"), Default::default()).unwrap();
    std::thread::spawn(move || writer.run());
    let metrics = Registry::new();
    let (_to_scaler, from_gateway) = mpsc::channel(64);
    let (to_gateway, _from_scaler) = mpsc::channel(64);
    let (scaler, autoscaler) = autoscale::Service::new(
        autoscale::Config {
            parallelism: NonZeroU32::MIN,
            drain: Duration::from_secs(1),
            prewarm: autoscale::Prewarming::off(),
            keep_free_bytes: Some(0),
        },
        Pool::new(Arc::clone(&backend), logs.clone()),
        logs.clone(),
        autoscale::Channels { from_gateway, to_gateway },
        Vec::new(),
        &metrics,
    );
    let listener = Arc::new(Listener::default());
    let routes = Routes::default();
    routes.open(Arc::clone(&listener) as Arc<dyn Gateway>);
    let sources = Sources {
        bundles: Bundles::open(directory.path(), Default::default()).unwrap(),
        dependencies: Arc::new(Dependencies::open(directory.path(), backend, Default::default()).unwrap()),
        fetcher: crate::build::Fetcher::open(
            directory.path(),
            Bundles::open(directory.path(), Default::default()).unwrap(),
            Default::default(),
        )
        .unwrap(),
        images: crate::build::Images::open(directory.path(), Default::default()).unwrap(),
        engine: None,
        fixity: crate::backend::Fixity::Free,
        program_image: None,
        interpreters: Default::default(),
        depot: None,
    };
    let parts = Parts { store: store.clone(), sources, autoscaler, routes, logs, remarks: None };
    // One is there when the service begins, which waits for it, and one comes later.
    store.create(function("bad"), jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    let service = Service::new(
        Config {
            url: String::new(),
            url_inside: None,
            keeping: Keeping { age: Duration::from_secs(60), unused_bytes: 1 << 30 },
            finalizer: None,
        },
        parts,
        &metrics,
    );
    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(scaler.run());
    let (restored, is_restored) = tokio::sync::oneshot::channel();
    let stop = shutdown.clone();
    tasks.spawn(async move { service.run(stop, || restored.send(()).unwrap()).await.unwrap() });
    timeout(Duration::from_secs(60), is_restored).await.expect("it begins all the same").unwrap();
    store.create(function("good"), jiff::Timestamp::UNIX_EPOCH).await.unwrap();
    let mut served = listener.served.subscribe();
    let both = |names: &Vec<String>| *names == ["bad", "good"];
    timeout(Duration::from_secs(60), served.wait_for(both)).await.expect("both serve").unwrap();
    let shown = metrics.render();
    assert!(shown.contains("hearth_deploy_panics_total 1"), "{shown}");
    shutdown.cancel();
}
