//! A whole gateway process against an API server: one in memory, and a real one where `KUBECONFIG` names it.

use hearth_function::{Function, Revision};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::*;
use crate::lease::{HUB_ANNOTATION, NAME};
use crate::store::kubernetes::tests::server::Server;

/// A request of a client that keeps its connection.
const KEPT: &[u8] = b"GET /hello HTTP/1.1\r\nhost: h\r\n\r\n";

/// What somebody else does in the cluster.
struct Others {
    client: Client,
    namespace: String,
}

impl Others {
    async fn function(&self) -> String {
        let function = json!({
            "apiVersion": "hearth.dev/v1", "kind": "Function",
            "metadata": { "name": "hello", "namespace": self.namespace },
            "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "exports.handler = () => 1" } }, "handler": "index.handler",
                "triggers": [{ "http": { "path": "/hello" } }] },
        });
        let made = self.create::<Function>(function).await;
        made.metadata.uid.unwrap()
    }

    async fn revision(&self, owner: &str) {
        let template = json!({ "runtime": "nodejs", "handler": "index.handler",
            "bundle": hearth_function::Digest::of(b"code") });
        let revision = json!({
            "apiVersion": "hearth.dev/v1", "kind": "Revision",
            "metadata": { "name": "hello-00001", "namespace": self.namespace, "ownerReferences": [{
                "apiVersion": "hearth.dev/v1", "kind": "Function", "name": "hello", "uid": owner, "controller": true }] },
            "spec": { "function": "hello", "generation": 1, "templateDigest": hearth_function::Digest::of(b"t"),
                "template": template },
        });
        let api: Api<Revision> = Api::namespaced(self.client.clone(), &self.namespace);
        // A cluster that others use may have a controller of all namespaces, which has made it.
        if api.get_opt("hello-00001").await.unwrap().is_none() {
            api.create(&PostParams::default(), &serde_json::from_value(revision).unwrap()).await.unwrap();
        }
        let status = Patch::Merge(json!({ "status": { "state": "Ready" } }));
        api.patch_status("hello-00001", &PatchParams::default(), &status).await.unwrap();
    }

    /// Another leads from now on.
    async fn lease(&self, hub: SocketAddr) {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": NAME, "namespace": self.namespace, "annotations": { HUB_ANNOTATION: hub.to_string() } },
            "spec": { "holderIdentity": hub.to_string(), "leaseDurationSeconds": 10 },
        });
        match api.get_opt(NAME).await.unwrap() {
            None => drop(self.create::<Lease>(lease).await),
            Some(_) => {
                let change = json!({ "metadata": lease["metadata"], "spec": lease["spec"] });
                api.patch(NAME, &PatchParams::default(), &Patch::Merge(change)).await.unwrap();
            }
        }
    }

    async fn create<O>(&self, object: Value) -> O
    where
        O: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let api: Api<O> = Api::namespaced(self.client.clone(), &self.namespace);
        api.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap()
    }
}

/// Asks until the answer is this.
async fn until(address: SocketAddr, path: &str, status: u16) {
    let asking = async {
        while get(address, path).await != status {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{path} is never {status}"));
}

/// A gateway with addresses of its own, that ends at once.
fn config(client: Client, namespace: &str, watched: &[&str]) -> Config {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        gateway: gateway::Config {
            listen: vec![local],
            threads: NonZeroUsize::MIN,
            ..gateway::Config::default()
        },
        management: local,
        client,
        namespace: namespace.to_owned(),
        watch_namespaces: watched.iter().map(|&name| name.to_owned()).collect(),
        key: KEY,
        name: "gateway-0".to_owned(),
        linger: Duration::ZERO,
        drain: Duration::ZERO,
    }
}

async fn a_gateway_serves_what_the_cluster_says(client: Client, namespace: &str) {
    let mut scene = Scene::new(4, 2);
    scene.namespace = namespace.to_owned();
    let config = Config {
        linger: Duration::from_secs(2),
        drain: Duration::from_secs(10),
        ..config(client.clone(), namespace, &[namespace])
    };
    let edge = Edge::open(config).await.unwrap();
    let (address, management) = (edge.addresses()[0], edge.management().unwrap());
    let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
    tasks.spawn(edge.run(stop.clone(), CancellationToken::new()));
    let others = Others { client, namespace: namespace.to_owned() };

    let reads = async { while !answer(management, "/readyz").await.contains("no controller") {} };
    tokio::time::timeout(PATIENCE, reads).await.expect("the functions are never read");
    assert_eq!(get(address, "/hello").await, 404);
    let uid = others.function().await;
    // It has a route: 503 while it has no Revision; who asks when it has one waits for an instance.
    let asking = async {
        while tokio::time::timeout(Duration::from_millis(200), get(address, "/hello")).await == Ok(404) {}
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the function is never known");

    // A Revision, and nobody who would start it; then a leader.
    others.revision(&uid).await;
    let waiting = async {
        // Between the two the table may still be the one before.
        while get(address, "/hello").await == 503 {}
    };
    let lead = async {
        let waits = async { while !wait(&answer(management, "/metrics").await, 1) {} };
        tokio::time::timeout(PATIENCE, waits).await.expect("the request does not wait");
        let leader = scene.leader().await;
        others.lease(leader.address).await;
        leader
    };
    let (leader, ()) = tokio::join!(lead, waiting);
    assert_eq!(get(address, "/hello").await, 200);
    until(management, "/readyz", 200).await;

    // Another leader.
    scene.kill(leader);
    assert_eq!(get(address, "/hello").await, 200, "there is none for a while");
    assert_eq!(get(management, "/readyz").await, 200, "it serves by what it has");
    let next = scene.leader().await;
    others.lease(next.address).await;
    eventually(|| next.registry.render().contains("hearth_hub_gateways 1")).await;
    assert_eq!(get(address, "/hello").await, 200);

    let api: Api<Function> = Api::namespaced(others.client.clone(), namespace);
    api.delete("hello", &DeleteParams::default()).await.unwrap();
    until(address, "/hello", 404).await;

    let mut kept = TcpStream::connect(address).await.unwrap();
    kept.write_all(KEPT).await.unwrap();
    let _first_answer = kept.read(&mut [0; 4096]).await.unwrap();
    stop.cancel();
    until(management, "/readyz", 503).await;
    // A connection that was idle then is closed with its next answer, and not under its next request.
    kept.write_all(KEPT).await.unwrap();
    let mut last = String::new();
    kept.read_to_string(&mut last).await.unwrap();
    assert!(last.starts_with("HTTP/1.1 404 ") && last.contains("connection: close"), "{last}");
    assert_eq!(get(management, "/healthz").await, 200);
    assert_eq!(get(address, "/hello").await, 404, "it serves on for a while");
    let ended = tokio::time::timeout(PATIENCE, tasks.join_next()).await.unwrap().unwrap().unwrap();
    assert!(ended.is_ok(), "{ended:?}");
    assert_eq!(get(address, "/hello").await, 0, "it is closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_what_an_api_server_in_memory_says() {
    a_gateway_serves_what_the_cluster_says(Server::new().client(), "default").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_what_a_real_api_server_says() {
    if std::env::var_os("KUBECONFIG").is_none() {
        println!("NOT RUN: KUBECONFIG names no cluster");
        return;
    }
    let _installed = rustls::crypto::ring::default_provider().install_default().is_err();
    let client = Client::try_default().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let name = format!(
        "edge-test-{:08x}",
        u32::from_ne_bytes({
            let mut random = [0; 4];
            getrandom::fill(&mut random).unwrap();
            random
        })
    );
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let mut test = JoinSet::new();
    let of = name.clone();
    test.spawn(async move { a_gateway_serves_what_the_cluster_says(client, &of).await });
    // Taken away whatever comes of it.
    let outcome = test.join_next().await.unwrap();
    namespaces.delete(&name, &DeleteParams::default()).await.unwrap();
    outcome.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_may_not_list_a_namespace_is_ready_late_and_does_not_say_that_nothing_is_there() {
    let server = Server::new();
    server.refuse("GET revisions in other", 403);
    let edge = Edge::open(config(server.client(), "hearth", &["default", "other"])).await.unwrap();
    let (address, management) = (edge.addresses()[0], edge.management().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(edge.run(CancellationToken::new(), CancellationToken::new()));

    // The clock goes on by itself while nothing else does.
    let began = tokio::time::Instant::now();
    let eventually = async |address, path, status| {
        while get(address, path).await != status {
            assert!(began.elapsed() < Duration::from_secs(3600), "{path} is never {status}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    eventually(management, "/readyz", 200).await;
    let waited = began.elapsed();
    assert!(
        waited >= super::super::PATIENCE,
        "ready after {waited:?}: a rollout goes on without the namespace"
    );
    assert_eq!(get(address, "/function/other/hello").await, 503);
    assert_eq!(get(address, "/function/default/hello").await, 404);
    // It is let in, and there is no such function.
    server.refuse("GET revisions in other", None);
    eventually(address, "/function/other/hello", 404).await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_whose_controller_never_comes_is_ready_in_the_end() {
    let edge = Edge::open(config(Server::new().client(), "hearth", &["default"])).await.unwrap();
    let management = edge.management().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(edge.run(CancellationToken::new(), CancellationToken::new()));

    let began = tokio::time::Instant::now();
    while get(management, "/readyz").await != 200 {
        assert!(began.elapsed() < super::super::PATIENCE * 2, "it is never ready");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let waited = began.elapsed();
    assert!(waited >= super::super::PATIENCE, "ready after {waited:?}, while an older one may serve");
}
