//! A controller over a real API server, with instances that are none. `KUBECONFIG` names the cluster; without one nothing is tried.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hearth_function::{ConditionStatus, ConditionType, Function, Revision};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::await_condition;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::backend::Backend;
use crate::backend::fake::{Fake, Plan};
use crate::telemetry::metrics::Registry;

const PATIENCE: Duration = Duration::from_secs(60);

/// A namespace of a real cluster, and a controller of it.
struct Rig {
    client: Client,
    namespace: String,
    backend: Arc<Fake>,
    stop: CancellationToken,
    running: JoinSet<Result<(), Error>>,
    data: tempfile::TempDir,
    /// For how long a Lease is good.
    lease: Duration,
}

/// A way to the API server that can be cut: what a restart of it, or of a network, looks like.
#[derive(Debug, Clone)]
struct Way {
    open: watch::Sender<bool>,
    /// Connections that were turned away since the last cut.
    turned_away: watch::Sender<usize>,
}

impl Way {
    /// Opens one, and a client that goes by it.
    async fn open(tasks: &mut JoinSet<()>) -> (Self, Client) {
        let mut config = kube::Config::infer().await.unwrap();
        let host = config.cluster_url.host().unwrap().to_owned();
        let port = config.cluster_url.port_u16().unwrap_or(443);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        config.cluster_url =
            format!("https://127.0.0.1:{}/", listener.local_addr().unwrap().port()).parse().unwrap();
        // The certificate is the API server's.
        config.tls_server_name = Some(host.clone());
        let way = Self { open: watch::Sender::new(true), turned_away: watch::Sender::new(0) };
        let (state, turned_away) = (way.open.subscribe(), way.turned_away.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (host, mut state, turned_away) = (host.clone(), state.clone(), turned_away.clone());
                connections.spawn(async move {
                    if !*state.borrow_and_update() {
                        turned_away.send_modify(|count| *count += 1);
                        return;
                    }
                    let mut far = TcpStream::connect((host.as_str(), port)).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        (way, Client::try_from(config).unwrap())
    }

    fn cut(&self) {
        self.turned_away.send_replace(0);
        self.open.send_replace(false);
    }

    /// Waits until whoever goes by it has found it cut so often.
    async fn found_cut(&self, times: usize) {
        let mut turned_away = self.turned_away.subscribe();
        timeout(PATIENCE, turned_away.wait_for(|count| *count >= times)).await.unwrap().unwrap();
    }

    fn mend(&self) {
        self.open.send_replace(true);
    }
}

impl Rig {
    async fn start() -> Option<Self> {
        if std::env::var_os("KUBECONFIG").is_none_or(|value| value.is_empty()) {
            println!("NOT RUN: KUBECONFIG names no cluster");
            return None;
        }
        let _installed = rustls::crypto::ring::default_provider().install_default().is_ok();
        let client = client().await.unwrap();
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in hearth_function::crds() {
            let _there = crds.create(&PostParams::default(), &crd).await.is_err();
            // Before that its resources are not found.
            let name = crd.metadata.name.unwrap();
            let established = kube::runtime::conditions::is_crd_established();
            let waiting = kube::runtime::wait::await_condition(crds.clone(), &name, established);
            timeout(PATIENCE, waiting).await.unwrap().unwrap();
        }
        let namespace = format!("operator-{}", Identity::new("x").run);
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        let object: Namespace = serde_json::from_value(object).unwrap();
        Api::all(client.clone()).create(&PostParams::default(), &object).await.unwrap();
        let mut rig = Self {
            client,
            namespace,
            backend: Fake::new(),
            stop: CancellationToken::new(),
            running: JoinSet::new(),
            data: tempfile::tempdir().unwrap(),
            lease: Config::default().controller.lease_duration,
        };
        rig.lead().await;
        Some(rig)
    }

    fn ground(&self) -> Ground {
        let key = self.data.path().join("key");
        std::fs::write(&key, "0123456789abcdef0123456789abcdef").unwrap();
        let mut config = Config::default();
        config.main.data_dir = self.data.path().join("data");
        config.cluster.namespace.clone_from(&self.namespace);
        config.cluster.watch_namespaces = vec![self.namespace.clone()];
        config.cluster.key_file = key;
        config.controller.management = "127.0.0.1:0".parse().unwrap();
        config.controller.hub_listen = "127.0.0.1:0".parse().unwrap();
        config.controller.lease_duration = self.lease;
        config.prewarm.enabled = false;
        Ground::new(config, self.client.clone()).unwrap()
    }

    /// Starts a controller, which leads at once.
    async fn lead(&mut self) {
        let client = self.client.clone();
        self.lead_by(client).await;
    }

    /// The same, over another client.
    async fn lead_by(&mut self, client: Client) {
        let ground = Ground { client, ..self.ground() };
        let held = timeout(PATIENCE, ground.candidate().acquire()).await.unwrap();
        let backend: Arc<dyn Backend> = self.backend.clone();
        let registry = Registry::new();
        let gateways = ends::gateways(&ground, &registry).await.unwrap();
        let ends = Ends { backend, gateways, registry };
        self.stop = CancellationToken::new();
        let stop = self.stop.clone();
        self.running.spawn(async move {
            lead_with(&ground, held, async { Ok(ends) }, std::future::pending(), stop).await
        });
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        timeout(PATIENCE, self.running.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    }

    /// Takes everything away, the Functions while somebody still lets go of them.
    async fn end(mut self) {
        let functions = self.api::<Function>();
        functions.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
        for function in functions.list(&ListParams::default()).await.unwrap() {
            self.gone(&function.name_any()).await;
        }
        self.stop().await;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }

    fn api<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn apply(&self, name: &str, spec: serde_json::Value) {
        let object = json!({ "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": name }, "spec": spec });
        let params = PatchParams::apply("a-person").force();
        self.api::<Function>().patch(name, &params, &Patch::Apply(&object)).await.unwrap();
    }

    /// The Function as soon as `fits`.
    async fn function(&self, name: &str, fits: impl Fn(&Function) -> bool) -> Function {
        let fits = |function: Option<&Function>| function.is_some_and(&fits);
        match timeout(PATIENCE, await_condition(self.api::<Function>(), name, fits)).await {
            Ok(function) => function.unwrap().unwrap(),
            Err(_) => panic!("{:?}", self.api::<Function>().get_opt(name).await),
        }
    }

    /// Waits until there is no such Function.
    async fn gone(&self, name: &str) {
        let gone = |function: Option<&Function>| function.is_none();
        timeout(PATIENCE, await_condition(self.api::<Function>(), name, gone)).await.unwrap().unwrap();
    }

    /// Waits until there are events on a Function for all of these reasons.
    async fn events(&self, name: &str, wanted: &[&str]) {
        let on_it = watcher::Config::default().fields(&format!("involvedObject.name={name}"));
        let mut events = std::pin::pin!(watcher(self.api::<Event>(), on_it).applied_objects());
        let mut missing: BTreeSet<_> = wanted.iter().copied().collect();
        let waiting = async {
            while !missing.is_empty() {
                let event = events.next().await.unwrap().unwrap();
                missing.remove(event.reason.as_deref().unwrap_or_default());
            }
        };
        assert!(timeout(PATIENCE, waiting).await.is_ok(), "no events {missing:?}");
    }
}

fn program(scale: serde_json::Value) -> serde_json::Value {
    json!({ "runtime": "exec", "source": { "inline": { "run.sh": "#!/bin/sh\necho hi\n" } }, "command": ["sh", "run.sh"], "scale": scale })
}

fn condition(function: &Function, about: ConditionType) -> Option<(ConditionStatus, String, String)> {
    let condition = function.status.as_ref()?.condition(about)?;
    Some((condition.status, condition.reason.clone(), condition.message.clone()))
}

fn is_ready(function: &Function) -> bool {
    function.status.as_ref().is_some_and(hearth_function::FunctionStatus::is_ready)
}

#[tokio::test]
async fn a_function_comes_up_is_told_of_and_goes_when_its_instances_have() {
    let Some(rig) = Rig::start().await else { return };
    rig.apply("hello", program(json!({ "min": 1 }))).await;
    let ready = rig.function("hello", is_ready).await;
    assert_eq!(ready.metadata.finalizers.as_deref(), Some(&[FINALIZER.to_owned()][..]));
    assert_eq!(ready.metadata.generation, Some(1), "nobody but its author writes the spec");
    let status = ready.status.clone().unwrap();
    assert_eq!(status.ready_revision.as_deref(), Some("hello-00001"));
    assert_eq!(
        status.url.as_deref(),
        Some(&*format!("http://hearth-gateway.hearth-system/function/{}/hello", rig.namespace))
    );
    let revision = rig.api::<Revision>().get("hello-00001").await.unwrap();
    let owner = revision.metadata.owner_references.unwrap().remove(0);
    assert_eq!((owner.uid, owner.controller), (ready.metadata.uid.unwrap(), Some(true)));
    rig.events("hello", &["RevisionCreated", "Ready", "Scaled"]).await;

    rig.apply(
        "wrong",
        json!({ "runtime": "nodejs", "source": { "inline": { "index.js": "exports.a = 1" } } }),
    )
    .await;
    let wrong = rig.function("wrong", |function| {
        condition(function, ConditionType::Ready).is_some_and(|(status, ..)| status == ConditionStatus::False)
    });
    let (_, reason, message) = condition(&wrong.await, ConditionType::Ready).unwrap();
    assert!(reason == "Invalid" && message.contains("handler"), "{reason}: {message}");
    rig.events("wrong", &["Invalid"]).await;

    // Its instance takes its time to end: so long the object stays.
    let functions = rig.api::<Function>();
    functions.delete("hello", &DeleteParams::default()).await.unwrap();
    functions.delete("wrong", &DeleteParams::default()).await.unwrap();
    rig.gone("hello").await;
    assert!(rig.backend.list().await.unwrap().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn the_next_controller_goes_on_with_what_is_there() {
    let Some(mut rig) = Rig::start().await else { return };
    rig.apply("hello", program(json!({ "min": 1 }))).await;
    let before = rig.function("hello", is_ready).await;
    let starts = |rig: &Rig| {
        rig.backend
            .calls()
            .into_iter()
            .filter(|call| matches!(call, crate::backend::fake::Call::Start(_)))
            .count()
    };
    assert_eq!(starts(&rig), 1);
    rig.stop().await;
    let lease = rig.api::<Lease>().get(crate::lease::NAME).await.unwrap();
    assert_eq!(lease.spec.unwrap().holder_identity.as_deref(), Some(""));
    assert_eq!(rig.backend.list().await.unwrap().len(), 1, "instances stay");
    // What is applied while nobody works is seen to later.
    rig.apply("later", program(json!({ "initial": 0 }))).await;
    rig.lead().await;
    rig.function("later", is_ready).await;
    let after = rig.function("hello", is_ready).await;
    assert_eq!(after.metadata.generation, before.metadata.generation);
    assert_eq!(starts(&rig), 1, "the instance was adopted");
    rig.end().await;
}

#[tokio::test]
async fn what_does_not_start_is_said_with_its_reason() {
    let Some(rig) = Rig::start().await else { return };
    rig.backend.plan_all(Plan::Fails("there is no such image".to_owned()));
    rig.apply("hello", program(json!({}))).await;
    let failed = rig.function("hello", |function| {
        condition(function, ConditionType::Ready).is_some_and(|(status, ..)| status == ConditionStatus::False)
    });
    let (_, _, message) = condition(&failed.await, ConditionType::Ready).unwrap();
    assert!(message.contains("there is no such image"), "{message}");
    rig.events("hello", &["StartFailed"]).await;
    // Mended, and somebody asks for it.
    rig.backend.plan_all(Plan::Works);
    let wish = json!({ "metadata": { "annotations": { hearth_function::RETRY_ANNOTATION: "now" } } });
    rig.api::<Function>().patch("hello", &PatchParams::default(), &Patch::Merge(wish)).await.unwrap();
    rig.function("hello", is_ready).await;
    rig.end().await;
}

#[tokio::test]
async fn an_api_server_that_is_away_for_a_while_stops_nothing_and_misses_nothing() {
    let Some(mut rig) = Rig::start().await else { return };
    rig.stop().await;
    // A leader gives up two thirds of it after its last renewal, which may be a quarter old when the way is cut.
    rig.lease = Duration::from_secs(60);
    let mut tasks = JoinSet::new();
    let (way, client) = Way::open(&mut tasks).await;
    rig.lead_by(client).await;
    rig.apply("before", program(json!({ "initial": 0 }))).await;
    rig.function("before", is_ready).await;
    rig.apply("goes", program(json!({ "min": 1 }))).await;
    rig.function("goes", is_ready).await;
    way.cut();
    // What happens meanwhile, it hears of later: what is new, what has changed, what is deleted.
    rig.apply("during", program(json!({ "initial": 0 }))).await;
    rig.apply("before", program(json!({ "initial": 0, "max": 3 }))).await;
    rig.api::<Function>().delete("goes", &DeleteParams::default()).await.unwrap();
    // Its watches have broken, and it has tried in vain to have them back.
    way.found_cut(4).await;
    way.mend();
    rig.function("during", is_ready).await;
    rig.function("before", |function| {
        function
            .status
            .as_ref()
            .is_some_and(|status| status.observed_generation == Some(2) && status.is_ready())
    })
    .await;
    rig.gone("goes").await;
    assert!(rig.backend.list().await.unwrap().is_empty());
    rig.end().await;
}

#[tokio::test]
async fn a_leader_that_cannot_reach_the_api_server_stops_and_says_so() {
    let Some(mut rig) = Rig::start().await else { return };
    rig.stop().await;
    let mut tasks = JoinSet::new();
    let (way, client) = Way::open(&mut tasks).await;
    rig.lead_by(client).await;
    rig.apply("hello", program(json!({ "min": 1 }))).await;
    rig.function("hello", is_ready).await;
    way.cut();
    let ended = timeout(PATIENCE, rig.running.join_next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&ended, Err(Error::Lost(Lost::NotRenewed(_)))), "{ended:?}");
    assert_eq!(rig.backend.list().await.unwrap().len(), 1, "instances stay for the next");
    // Which follows by itself.
    rig.lead().await;
    rig.apply("later", program(json!({ "initial": 0 }))).await;
    rig.function("later", is_ready).await;
    rig.end().await;
}

#[test]
fn a_token_that_could_be_guessed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    for (content, is_taken) in [("", false), ("  short \n", false), ("0123456789abcdef\n", true)] {
        std::fs::write(&path, content).unwrap();
        assert_eq!(read_token(&path).is_ok(), is_taken, "{content:?}");
    }
}

#[test]
fn what_leads_a_pod_to_itself_is_known() {
    for loopback in ["127.0.0.1:7072", "[::1]:7072", "localhost:7072", "127.1.2.3"] {
        assert!(super::is_loopback(loopback), "{loopback}");
    }
    for other in
        ["10.0.0.1:7072", "[fd00::1]:7072", "hearth-report.hearth-system:7072", "localhost.example.com:1"]
    {
        assert!(!super::is_loopback(other), "{other}");
    }
}
