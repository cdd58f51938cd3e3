//! The service as a whole, over a staged backend and a gateway that only listens.

mod others;
mod removal;

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_dispatch::routes::Conflict;
use hearth_function::{
    Code, ConditionStatus, ConditionType, Digest, FunctionStatus, Revision, RevisionSpec, RevisionState,
    RevisionStatus, Template,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::backend::{Backend, Root};
use crate::build::{Bundles, Dependencies};
use crate::gateway::{Served, Unready};
use crate::pool::Pool;
use crate::pool::staged::{Act, Staged};
use crate::store::kubernetes::{self, tests::server::Server};
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

/// Where nothing is, nobody answers who asks for the code of the function "hangs", and what nobody needs is never removed: nothing of deploying waits for that.
#[derive(Debug, Default)]
struct Away {
    has_been_cleaned: AtomicBool,
}

#[async_trait::async_trait]
impl Depot for Away {
    async fn fetch(&self, digest: &Digest) -> Result<Option<Vec<u8>>, String> {
        if *digest == Digest::of(b"hangs") {
            std::future::pending::<()>().await;
        }
        Ok(None)
    }

    async fn retain(&self, _: &HashSet<Digest>, _: Duration) {
        self.has_been_cleaned.store(true, Ordering::Relaxed);
        std::future::pending().await
    }
}

fn function(name: &str) -> Function {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "runtime": "exec", "source": { "inline": { "run.sh": "" } }, "command": ["/bin/true"] },
    }))
    .unwrap()
}

/// A service and what it works with, over this store.
struct Rig {
    listener: Arc<Listener>,
    backend: Arc<Staged>,
    depot: Arc<Away>,
    logs: Logs,
    autoscaler: autoscale::Handle,
    metrics: Registry,
    remarked: mpsc::Receiver<Remark>,
    shutdown: CancellationToken,
    _tasks: JoinSet<()>,
    _channels: (mpsc::Sender<hearth_dispatch::ToScaler>, mpsc::Receiver<hearth_dispatch::ToGateway>),
}

impl Rig {
    /// Begins, and waits until what served before is routed again.
    async fn begin(directory: &std::path::Path, store: &Store, left: HashMap<RevisionId, Root>) -> Self {
        Self::begin_with(directory, store, left, None).await
    }

    /// The same, where objects are held by this finalizer.
    async fn begin_with(
        directory: &std::path::Path,
        store: &Store,
        left: HashMap<RevisionId, Root>,
        finalizer: Option<&'static str>,
    ) -> Self {
        let staged = Staged::new(directory);
        let backend: Arc<dyn Backend> = staged.clone();
        let (logs, writer) = Logs::open(directory.join("logs"), Default::default()).unwrap();
        std::thread::spawn(move || writer.run());
        let metrics = Registry::new();
        let (to_scaler, from_gateway) = mpsc::channel(64);
        let (to_gateway, from_scaler) = mpsc::channel(64);
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
        let depot = Arc::new(Away::default());
        let sources = Sources {
            bundles: Bundles::open(directory, Default::default()).unwrap(),
            dependencies: Arc::new(Dependencies::open(directory, backend, Default::default()).unwrap()),
            fetcher: crate::build::Fetcher::open(
                directory,
                Bundles::open(directory, Default::default()).unwrap(),
                Default::default(),
            )
            .unwrap(),
            images: crate::build::Images::open(directory, Default::default()).unwrap(),
            engine: None,
            fixity: crate::backend::Fixity::Free,
            program_image: None,
            interpreters: Default::default(),
            depot: Some(depot.clone()),
            keyring: None,
        };
        let (remarks, remarked) = mpsc::channel(64);
        let parts = Parts {
            store: store.clone(),
            sources,
            autoscaler: autoscaler.clone(),
            routes,
            logs: logs.clone(),
            left,
            remarks: Some(remarks),
        };
        let service = Service::new(
            Config {
                url: String::new(),
                url_inside: None,
                keeping: Keeping { age: Duration::from_secs(60), unused_bytes: 1 << 30 },
                finalizer,
                isolation: Isolation::Everywhere,
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
        Self {
            listener,
            backend: staged,
            depot,
            logs,
            autoscaler,
            metrics,
            remarked,
            shutdown,
            _tasks: tasks,
            _channels: (to_scaler, from_scaler),
        }
    }
}

async fn open(directory: &tempfile::TempDir) -> Store {
    Store::open(store::Config::new(directory.path().join("hearth.redb"))).await.unwrap()
}

/// Waits until the status of a Function is as it should be; the status.
async fn status_until(store: &Store, name: &str, is: impl Fn(&FunctionStatus) -> bool) -> FunctionStatus {
    let mut changes = store.changes();
    let until = async {
        loop {
            let function = store.get::<Function>("default", name).unwrap();
            if let Some(status) = function.status.clone().filter(|status| is(status)) {
                return status;
            }
            changes.changed().await.unwrap();
        }
    };
    timeout(Duration::from_secs(60), until).await.expect("it says so")
}

fn ready(status: &FunctionStatus) -> Option<(ConditionStatus, &str)> {
    let ready = status.condition(ConditionType::Ready)?;
    Some((ready.status, ready.reason.as_str()))
}

// Store and bundles work on threads of their own, which a paused clock does not wait for.
#[tokio::test]
async fn a_panic_in_the_task_of_one_function_stops_no_other_and_is_got_over() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    // One is there when the service begins, which waits for it, and one comes later.
    store.create(function("bad"), Timestamp::UNIX_EPOCH).await.unwrap();
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    store.create(function("good"), Timestamp::UNIX_EPOCH).await.unwrap();
    let mut served = rig.listener.served.subscribe();
    let both = |names: &Vec<String>| *names == ["bad", "good"];
    timeout(Duration::from_secs(60), served.wait_for(both)).await.expect("both serve").unwrap();
    let shown = rig.metrics.render();
    assert!(shown.contains("hearth_deploy_panics_total 1"), "{shown}");
    rig.shutdown.cancel();
}

/// A Function whose Revision was Ready at another controller, with code and dependencies that are not on this disk.
async fn served_elsewhere(store: &Store, name: &str, run_by: serde_json::Value) -> RevisionId {
    let bundle = Digest::of(name.as_bytes());
    let mut function = json!({ "metadata": { "name": name, "namespace": "default" }, "spec": run_by });
    function["spec"]["source"] = json!({ "bundle": bundle });
    let function: Function = serde_json::from_value(function).unwrap();
    let function = store.create(function, Timestamp::UNIX_EPOCH).await.unwrap();
    let template = Template::of(&function.spec, Code::Bundle(bundle));
    let spec = RevisionSpec {
        function: name.to_owned(),
        generation: 1,
        template_digest: template.digest(),
        template,
    };
    let mut revision = Revision::new(&format!("{name}-00001"), spec);
    revision.metadata.namespace = Some("default".to_owned());
    revision.metadata.owner_references = Some(vec![OwnerReference {
        api_version: hearth_function::API_VERSION.to_owned(),
        kind: "Function".to_owned(),
        name: name.to_owned(),
        uid: function.metadata.uid.clone().unwrap(),
        ..OwnerReference::default()
    }]);
    let dependencies = Some("0".repeat(64));
    revision.status =
        Some(RevisionStatus { state: RevisionState::Ready, dependencies, ..RevisionStatus::default() });
    store.create(revision, Timestamp::UNIX_EPOCH).await.unwrap().id().unwrap()
}

#[tokio::test]
async fn a_revision_whose_instances_run_serves_while_its_parts_are_not_here() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let handler = || json!({ "runtime": "nodejs", "handler": "index.handler" });
    let program = json!({ "runtime": "http", "command": ["./server"] });
    let runs = served_elsewhere(&store, "runs", handler()).await;
    // What it is run by nobody can tell without its code.
    let server = served_elsewhere(&store, "server", program).await;
    served_elsewhere(&store, "rests", handler()).await;
    let root = Root::Runtime { image: "programs:1".to_owned(), interpreter: None };
    let left = HashMap::from([(runs, root.clone()), (server, root)]);
    let rig = Rig::begin(directory.path(), &store, left).await;
    // Before instances that nobody has named are taken away.
    assert_eq!(*rig.listener.served.borrow(), ["runs", "server"]);
    let function = || store.get::<Function>("default", "runs").unwrap();
    assert!(
        function().status.as_ref().is_none_or(|status| status.ready_revision.is_some()),
        "{:?}",
        function()
    );
    rig.shutdown.cancel();
}

#[tokio::test]
async fn code_that_nobody_gives_keeps_nobody_from_beginning() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let handler = || json!({ "runtime": "nodejs", "handler": "index.handler" });
    served_elsewhere(&store, "hangs", handler()).await;
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    store.create(function("good"), Timestamp::UNIX_EPOCH).await.unwrap();
    let mut served = rig.listener.served.subscribe();
    let good = |names: &Vec<String>| *names == ["good"];
    timeout(Duration::from_secs(60), served.wait_for(good)).await.expect("others serve").unwrap();
    rig.shutdown.cancel();
}

#[tokio::test]
async fn a_trial_that_waits_for_a_node_is_no_failed_one_and_says_why_it_waits() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    rig.backend.always(Act::Hindered);
    store.create(function("late"), Timestamp::UNIX_EPOCH).await.unwrap();
    let mut changes = store.changes();
    let mut reason = async |wanted: &str| {
        let mut reason = String::new();
        while reason != wanted {
            changes.changed().await.unwrap();
            let function = store.get::<Function>("default", "late").unwrap();
            let ready = function.status.as_ref().and_then(|status| status.condition(ConditionType::Ready));
            reason = ready.map(|ready| ready.reason.clone()).unwrap_or_default();
        }
    };
    let status = || store.get::<Function>("default", "late").unwrap().status.clone().unwrap();
    timeout(Duration::from_secs(60), reason("Unschedulable")).await.expect("it says so");
    let waits = status();
    assert_eq!((waits.ready_revision, waits.latest_revision.as_deref()), (None, Some("late-00001")));
    assert_eq!(*rig.listener.served.borrow(), ["late"], "who asks for it waits for it");
    rig.backend.make_room();
    timeout(Duration::from_secs(60), reason("Ready")).await.expect("it comes up");
    assert_eq!(status().ready_revision.as_deref(), Some("late-00001"));
    assert_eq!(rig.backend.starts(), 1, "it is the same instance");
    rig.shutdown.cancel();
}

/// The store of a Hearth in a cluster, over this API server.
async fn open_cluster(server: &Server, tasks: &mut JoinSet<()>) -> Store {
    let config = kubernetes::Config { installation: Some("hearth".to_owned()), ..Default::default() };
    let opened = kubernetes::open(server.client(), &config);
    tasks.spawn(opened.follower.run());
    opened.listed.await.unwrap();
    opened.store
}

#[tokio::test]
async fn a_function_that_cannot_be_held_keeps_nobody_from_beginning_and_what_runs_of_it_goes_on() {
    let (directory, server, mut tasks) = (tempfile::tempdir().unwrap(), Server::new(), JoinSet::new());
    let store = open_cluster(&server, &mut tasks).await;
    let handler = || json!({ "runtime": "nodejs", "handler": "index.handler" });
    let runs = served_elsewhere(&store, "runs", handler()).await;
    served_elsewhere(&store, "rests", handler()).await;
    for name in ["runs", "rests"] {
        server.refuse(&format!("PATCH namespaces/default/functions/{name}"), 422);
    }
    let mut going = serde_json::to_value(function("going")).unwrap();
    going["metadata"]["finalizers"] = json!(["hold"]);
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    server.put("functions", going);
    server.refuse("PATCH namespaces/default/functions/going", 403);
    store.create(function("good"), Timestamp::UNIX_EPOCH).await.unwrap();
    let left = HashMap::from([(runs, Root::Runtime { image: "programs:1".to_owned(), interpreter: None })]);
    let rig = Rig::begin_with(directory.path(), &store, left, Some("hold")).await;
    // Before instances that nobody has named are taken away.
    assert!(rig.listener.served.borrow().contains(&"runs".to_owned()));
    let mut served = rig.listener.served.subscribe();
    let both = |names: &Vec<String>| *names == ["good", "runs"];
    timeout(Duration::from_secs(60), served.wait_for(both)).await.expect("both serve").unwrap();
    let mut changes = store.changes();
    let mut says_why = async || loop {
        let rests = store.get::<Function>("default", "rests").unwrap();
        let ready = rests.status.as_ref().and_then(|status| status.condition(ConditionType::Ready));
        if ready.is_some_and(|ready| ready.reason == "Refused") {
            break;
        }
        changes.changed().await.unwrap();
    };
    timeout(Duration::from_secs(60), says_why()).await.expect("it says so");
    rig.shutdown.cancel();
}

#[tokio::test]
async fn of_a_namespace_that_cannot_be_listed_nothing_is_taken_away() {
    let (directory, server, mut tasks) = (tempfile::tempdir().unwrap(), Server::new(), JoinSet::new());
    let (unknown, gone) = ("other/hello", "default/hello");
    let (logs, writer) = Logs::open(directory.path().join("logs"), Default::default()).unwrap();
    let writing = std::thread::spawn(move || writer.run());
    for function in [unknown, gone] {
        logs.remark(&FunctionId::parse(function).unwrap(), None, "it was here".to_owned());
    }
    logs.close().await;
    drop(logs);
    writing.join().unwrap();

    server.refuse("GET revisions in other", 403);
    let namespaces = vec!["default".to_owned(), "other".to_owned()];
    let opened = kubernetes::open(server.client(), &kubernetes::Config { namespaces, ..Default::default() });
    tasks.spawn(opened.follower.run());
    tokio::time::pause();
    opened.listed.await.unwrap();
    tokio::time::resume();
    let store = opened.store;
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    store.create(function("good"), Timestamp::UNIX_EPOCH).await.unwrap();
    let mut served = rig.listener.served.subscribe();
    let good = |names: &Vec<String>| *names == ["good"];
    timeout(Duration::from_secs(60), served.wait_for(good)).await.expect("others serve").unwrap();
    let functions: Vec<String> =
        rig.logs.functions().await.unwrap().iter().map(ToString::to_string).collect();
    assert!(
        functions.contains(&unknown.to_owned()) && !functions.contains(&gone.to_owned()),
        "{functions:?}"
    );
    assert!(!rig.depot.has_been_cleaned.load(Ordering::Relaxed), "it may be of use to those");
    rig.shutdown.cancel();
}

#[tokio::test]
async fn what_failed_and_is_mended_is_ready_without_another_word_of_what_was_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    rig.backend.always(Act::CannotLoad);
    store.create(function("mended"), Timestamp::UNIX_EPOCH).await.unwrap();
    let mut watch = store.watch::<Function>(store.list::<Function>(None).resource_version).unwrap();
    let mut next = async || {
        let function = watch.next().await.unwrap();
        let ready = function.object().status.as_ref()?.condition(ConditionType::Ready).cloned();
        ready.map(|ready| (ready.status, ready.message))
    };
    let failed = async { while next().await.is_none_or(|(status, _)| status != ConditionStatus::False) {} };
    timeout(Duration::from_secs(60), failed).await.expect("it fails");
    let id = RevisionId::parse("default/mended-00001").unwrap();
    let mut shown = rig.autoscaler.watch();
    let fails = |snapshot: &Arc<Snapshot>| snapshot.revisions[&id].failure.is_some();
    timeout(Duration::from_secs(60), shown.wait_for(fails)).await.expect("it is shown").unwrap();
    rig.backend.always(Act::ComeUp);
    let mut again = Function::clone(&store.get::<Function>("default", "mended").unwrap());
    let wish = (hearth_function::RETRY_ANNOTATION.to_owned(), "now".to_owned());
    again.metadata.annotations.get_or_insert_default().extend([wish]);
    again.metadata.resource_version = None;
    store.update(again).await.unwrap();
    let mut said = Vec::new();
    let mended = async {
        while said.last().is_none_or(|(status, _)| *status != ConditionStatus::True) {
            said.extend(next().await);
        }
    };
    timeout(Duration::from_secs(60), mended).await.expect("it is ready");
    // As long as it has failed, it says so; no failure is told of a revision that came up.
    let outdated = |message: &str| !message.starts_with("mended-00001 did not come up");
    let wrong: Vec<_> = said
        .iter()
        .filter(|(status, message)| *status == ConditionStatus::False && outdated(message))
        .collect();
    assert!(wrong.is_empty(), "{said:?}");
    rig.shutdown.cancel();
}
