//! The conformance suite of backends, against Pods in the cluster that `KUBECONFIG` names; and what only Pods have. Pods must reach this
//! machine (at the address that leads to the API server, or `HEARTH_TEST_HOST`), this machine the Pods, and the nodes take images from this
//! machine's Docker, as with `.ci/cluster up`.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

#[path = "support/cases.rs"]
mod cases;
#[path = "support/pods.rs"]
mod pods;
#[path = "support/ports.rs"]
mod ports;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth::backend::conformance::{Fixture, Suite};
use hearth::backend::kubernetes::{Compared, Config, Kubernetes, Sizes};
use hearth::backend::{Backend, InCluster, InstanceSpec, Limits, Network, Process, Root};
use hearth::telemetry::metrics::Registry;
use hearth_function::{Digest, InstanceId, Revision, RevisionSpec, Template};
use serde_json::{Value, json};

use pods::{Ground, Use};

/// A Pod takes seconds, several at once on a small machine many.
const PATIENCE: Duration = Duration::from_secs(240);

/// A namespace for `part`; `None` and a word why when there is nothing to try.
fn ground(part: &str) -> Option<Ground> {
    let namespace = format!("pods-{part}-{}", std::process::id());
    match Ground::make(&namespace, "python", Use::Shared) {
        Ok(ground) => Some(ground),
        Err(why) => {
            eprintln!("NOT RUN: the conformance suite of the Kubernetes backend: {why}");
            None
        }
    }
}

/// A backend that shims report to at a port of its own.
async fn open(namespace: &str, host: &str, image: &str) -> Arc<Kubernetes> {
    let _installed = rustls::crypto::ring::default_provider().install_default().is_ok();
    let port = ports::free_port();
    let config = Config {
        client: kube::Client::try_default().await.unwrap(),
        namespace: namespace.to_owned(),
        namespaces: vec![namespace.to_owned()],
        report_listen: SocketAddr::from(([0, 0, 0, 0], port)),
        report_advertise: format!("{host}:{port}"),
        key: [7; 32],
        pull_policy: "Never".to_owned(),
        shim_image: Some(image.to_owned()),
        compared: Compared::Later,
        sizes: Sizes { code_bytes: 1 << 30, dependencies_bytes: 4 << 30, build_bytes: 4 << 30 },
        unpack: Arc::new(|packed, into| hearth::build::unpack_result(packed, into, 2 << 30)),
    };
    Kubernetes::open(config, &Registry::new()).await.unwrap()
}

fn root(ground: &Ground) -> Root {
    Root::Runtime { image: ground.image.clone(), interpreter: Some(ground.interpreter().into()) }
}

/// The Revision of the Function whose code comes later: Pods are owned by it.
fn make_revision(ground: &Ground) {
    let owner = cases::late(&ground.namespace);
    let template = json!({ "runtime": "python", "bundle": Digest::of(b"code"), "handler": "app.handler" });
    let template: Template = serde_json::from_value(template).unwrap();
    let spec = RevisionSpec {
        function: owner.function.name().to_owned(),
        generation: 1,
        template_digest: template.digest(),
        template,
    };
    let revision = serde_json::to_string(&Revision::new(owner.revision.name(), spec)).unwrap();
    ground.kubectl(&["create", "-f", "-"], &revision).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubernetes_backend_conforms() {
    let Some(ground) = ground("conform").map(Arc::new) else { return };
    make_revision(&ground);
    let work = tempfile::tempdir().unwrap();
    let backend = open(&ground.namespace, &ground.host, &ground.image).await;
    let suite = Suite::new(Fixture {
        backend,
        root: root(&ground),
        python: ground.interpreter(),
        directory: fs::canonicalize(work.path()).unwrap(),
        reachable: Vec::new(),
        unreachable: Vec::new(),
        owner: cases::late(&ground.namespace),
        patience: PATIENCE,
        networks: false,
        reopen: Box::new({
            let ground = Arc::clone(&ground);
            move || {
                let ground = Arc::clone(&ground);
                Box::pin(async move {
                    open(&ground.namespace, &ground.host, &ground.image).await as Arc<dyn Backend>
                })
            }
        }),
        left: Box::new({
            let ground = Arc::clone(&ground);
            move |id: &InstanceId| ground.pods(&format!("hearth.dev/instance={id}"))
        }),
    });
    let mut failures = cases::run(suite).await;
    failures.extend(ground.pods("").into_iter().map(|pod| format!("left behind: {pod}")));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A job that runs `script`, with what only a cluster gives.
fn job(ground: &Ground, name: &str, in_cluster: &Value, script: &str) -> InstanceSpec {
    let command = ["-I", "-S", "-c", script].map(str::to_owned);
    InstanceSpec {
        id: InstanceId::parse(name).unwrap(),
        owner: None,
        process: Process::Job { command: std::iter::once(ground.interpreter()).chain(command).collect() },
        code: None,
        build_dir: None,
        root: root(ground),
        env: BTreeMap::new(),
        limits: Limits {
            memory_bytes: 64 << 20,
            cpu_millis: None,
            tmp_bytes: 8 << 20,
            pids: 64,
            patient: false,
        },
        network: Network::None,
        namespace: None,
        in_cluster: serde_json::from_value::<InCluster>(in_cluster.clone()).unwrap(),
        user: None,
        working_directory: None,
        concurrency: 1,
        secret: "0123456789abcdef".repeat(4),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_have_what_their_function_asks_of_the_cluster_and_say_what_they_lack() {
    let Some(ground) = ground("asked") else { return };
    ground.kubectl(&["create", "secret", "generic", "keys", "--from-literal=token=s3cret"], "").unwrap();
    ground.kubectl(&["create", "configmap", "settings", "--from-literal=level=loud"], "").unwrap();
    ground.kubectl(&["create", "serviceaccount", "robot"], "").unwrap();
    let backend = open(&ground.namespace, &ground.host, &ground.image).await;
    let mut exits = backend.exits();

    let kept = json!({
        "env": {
            "TOKEN": { "secretKeyRef": { "name": "keys", "key": "token" } },
            "LEVEL": { "configMapKeyRef": { "name": "settings", "key": "level" } },
            "SPARE": { "secretKeyRef": { "name": "nowhere", "key": "x", "optional": true } },
        },
        "pod": { "serviceAccount": "robot", "tolerations": [{ "operator": "Exists" }] },
    });
    let script = "
import os, sys
# The script stands in the Pod, the value must not.
wanted = {'TOKEN': 'terc3s', 'LEVEL': 'duol'}
found = {name: os.environ[name][::-1] for name in ('TOKEN', 'LEVEL', 'SPARE') if name in os.environ}
token = '/var/run/secrets/kubernetes.io/serviceaccount'
sys.exit(2 if found != wanted else 3 if os.path.exists(token) else 0)
";
    let spec = job(&ground, "kept", &kept, script);
    backend.start(&spec).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, exits.recv()).await.unwrap().unwrap();
    assert_eq!((&ended.instance, ended.exit.code), (&spec.id, Some(0)), "{ended:?}");
    let pod = ground.kubectl(&["get", "pod", "kept", "-o", "json"], "").unwrap();
    assert!(!pod.contains("s3cret"), "the value stands in the Pod: {pod}");
    let pod: Value = serde_json::from_str(&pod).unwrap();
    assert_eq!(pod["spec"]["serviceAccountName"], "robot");
    backend.stop(&spec.id, Duration::ZERO).await.unwrap();

    for (name, asked, word) in [
        (
            "nosecret",
            json!({ "env": { "A": { "secretKeyRef": { "name": "nowhere", "key": "x" } } } }),
            "nowhere",
        ),
        (
            "nokey",
            json!({ "env": { "A": { "secretKeyRef": { "name": "keys", "key": "x" } } } }),
            "find key x",
        ),
        ("noaccount", json!({ "pod": { "serviceAccount": "nobody" } }), "spec.kubernetes.serviceAccount"),
        ("nonode", json!({ "pod": { "nodeSelector": { "zone": "nowhere" } } }), "node"),
    ] {
        let spec = job(&ground, name, &asked, "pass");
        let started = tokio::time::timeout(PATIENCE, backend.start(&spec)).await.unwrap();
        let error = started.unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let said = format!("{error}: {source}");
        eprintln!("{name}: {said}");
        assert!(said.contains(word), "{name}: {said}");
        assert!(ground.pods(&format!("hearth.dev/instance={name}")).is_empty(), "{name} is left");
    }
}

/// What a kubelet takes for the end of a Pod at the least, whatever runs in it.
const KUBELET: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_told_to_end_is_gone_before_a_kubelet_would_have_noticed() {
    let Some(ground) = ground("ending") else { return };
    let backend = open(&ground.namespace, &ground.host, &ground.image).await;
    let spec = job(&ground, "ending", &json!({}), "import time\nwhile True: time.sleep(60)");
    backend.start(&spec).await.unwrap();
    let began = std::time::Instant::now();
    backend.stop(&spec.id, Duration::from_secs(5)).await.unwrap();
    let took = began.elapsed();
    eprintln!("it took {took:?}");
    assert!(took < KUBELET, "{took:?}");
    assert!(ground.pods("").is_empty());
}
