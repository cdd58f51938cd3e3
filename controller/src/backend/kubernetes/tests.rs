//! The backend against an API server that has these Pods and no others.

use std::collections::BTreeMap;

use axum::extract::RawQuery;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hearth_function::{FunctionId, RevisionId};
use serde_json::{Value, json};

use super::super::{InCluster, Network, Process, Root};
use super::*;

pub(super) fn spec(name: &str) -> InstanceSpec {
    let owner = Owner {
        function: FunctionId::parse("default/hello").unwrap(),
        revision: RevisionId::parse("default/hello-00001").unwrap(),
        since: None,
        uid: None,
    };
    InstanceSpec {
        id: InstanceId::parse(name).unwrap(),
        owner: Some(owner),
        process: Process::Nodejs,
        code: None,
        build_dir: None,
        root: Root::Runtime { image: "node".to_owned(), interpreter: None },
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
        in_cluster: InCluster::default(),
        user: None,
        working_directory: None,
        concurrency: 1,
        secret: String::new(),
    }
}

pub(super) fn pod(name: &str, metadata: &Value, status: &Value) -> Value {
    let annotations = pod::annotations(&spec(name), "default", &Keys::new(&[7; 32])).unwrap();
    let owner = json!({ "apiVersion": "hearth.dev/v1", "kind": "Revision", "name": "hello-00001", "uid": "uid-1", "controller": true });
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "status": status,
        "metadata": { "name": name, "namespace": "default", "annotations": annotations, "ownerReferences": [owner] },
    });
    pod["metadata"].as_object_mut().unwrap().extend(metadata.as_object().unwrap().clone());
    pod
}

/// Of a backend that listens on a port of the kernel's choice.
pub(super) fn config(client: Client) -> Config {
    Config {
        client,
        namespace: "hearth".to_owned(),
        namespaces: Vec::new(),
        report_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        report_advertise: "127.0.0.1:1".to_owned(),
        key: [7; 32],
        pull_policy: "Never".to_owned(),
        shim_image: None,
        compared: Compared::Later,
        sizes: Sizes { code_bytes: 1 << 20, dependencies_bytes: 2 << 20, build_bytes: 3 << 20 },
        unpack: Arc::new(|packed, into| tar::Archive::new(packed).unpack(into)),
    }
}

async fn over(pods: Vec<Value>) -> Arc<Kubernetes> {
    let list = move |RawQuery(query): RawQuery| async move {
        if query.is_some_and(|query| query.contains("watch=")) {
            std::future::pending::<()>().await;
        }
        let list = json!({ "apiVersion": "v1", "kind": "PodList", "metadata": { "resourceVersion": "1" }, "items": pods });
        Json(list).into_response()
    };
    let router: Router = Router::new().route("/api/v1/pods", get(list));
    Kubernetes::open(config(Client::new(router, "hearth")), &Registry::new()).await.unwrap()
}

#[tokio::test]
async fn a_pod_that_is_being_deleted_has_not_ended_before_its_container_has() {
    let deleting = json!({ "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30 });
    let running = json!({ "phase": "Running", "podIP": "10.0.0.7" });
    let state = json!({ "terminated": { "exitCode": 0 } });
    let container = json!({ "name": "function", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state });
    let over_with = json!({ "phase": "Running", "podIP": "10.0.0.9", "containerStatuses": [container] });
    let backend = over(vec![
        pod("hello-stays", &json!({}), &running),
        pod("hello-leaves", &deleting, &running),
        pod("hello-ended", &deleting, &over_with),
        pod("hello-comes", &json!({}), &json!({ "phase": "Pending" })),
    ])
    .await;
    let found = backend.list().await.unwrap();
    let seen = |name: &str| {
        let one = found.iter().find(|found| found.spec.id.as_str() == name).unwrap();
        (one.ended, one.taken_away.map(|left| left.as_secs()), one.stays())
    };
    assert_eq!(seen("hello-stays"), (None, None, true));
    assert_eq!(seen("hello-leaves"), (None, Some(30), false));
    assert_eq!(seen("hello-ended"), (Some(Exit { code: Some(0), ..Exit::default() }), None, false));
    // Whoever started it is gone.
    assert_eq!(seen("hello-comes"), (None, Some(30), false));
}

#[tokio::test]
async fn a_pod_that_only_says_that_it_is_an_instance_gets_no_calls() {
    let running = json!({ "phase": "Running", "podIP": "10.0.0.7" });
    let elsewhere = json!({ "namespace": "evil" });
    let mut changed = pod("hello-changed", &json!({}), &running);
    changed["metadata"]["annotations"][pod::SEAL] = json!("00");
    let backend = over(vec![
        // It comes first, and takes no other's place by that.
        pod("hello-ours", &elsewhere, &running),
        pod("hello-ours", &json!({}), &running),
        pod("hello-evil", &elsewhere, &running),
        pod("hello-alone", &json!({ "ownerReferences": null }), &running),
        changed,
    ])
    .await;
    let mut found = backend.list().await.unwrap();
    found.sort_by(|one, other| one.spec.id.cmp(&other.spec.id));
    let seen: Vec<_> = found.iter().map(|found| (found.spec.id.as_str(), found.stays())).collect();
    assert_eq!(seen, [("hello-changed", false), ("hello-ours", true)]);
    let ours = backend.shared.named("hello-ours").unwrap();
    assert_eq!(ours.namespace, "default");
    assert!(backend.shared.named("hello-evil").is_none(), "nothing is ever deleted that is not in the books");
}

#[tokio::test]
async fn each_container_has_limits_for_a_quota_that_asks_for_them() {
    let config =
        Config { shim_image: Some("shim".to_owned()), ..config(Client::new(Router::new(), "hearth")) };
    let mut spec = spec("hello-a");
    spec.root = Root::Image("somebodys".to_owned());
    spec.limits.cpu_millis = Some(500);
    let pod = pod::of(&spec, &config, &Keys::new(&[7; 32]), None).unwrap().spec.unwrap();
    let containers: Vec<_> = pod.init_containers.into_iter().flatten().chain(pod.containers).collect();
    assert_eq!(containers.len(), 2);
    for container in containers {
        let resources = container.resources.unwrap();
        for given in [resources.limits.unwrap(), resources.requests.unwrap()] {
            let named: Vec<&String> = given.keys().collect();
            assert_eq!(named, ["cpu", "memory"], "{}", container.name);
        }
    }
}

#[tokio::test]
async fn each_volume_of_a_pod_has_a_size() {
    let config = config(Client::new(Router::new(), "hearth"));
    let sizes = |change: fn(&mut InstanceSpec)| {
        let mut spec = spec("hello-a");
        change(&mut spec);
        let pod = pod::of(&spec, &config, &Keys::new(&[7; 32]), None).unwrap();
        let volumes = pod.spec.unwrap().volumes.unwrap();
        let size = |volume: k8s_openapi::api::core::v1::Volume| {
            (volume.name, volume.empty_dir.unwrap().size_limit.unwrap().0.parse::<u64>().unwrap() >> 20)
        };
        volumes.into_iter().map(size).collect::<BTreeMap<_, _>>()
    };
    let named = |all: &[(&str, u64)]| all.iter().map(|(name, size)| ((*name).to_owned(), *size)).collect();
    assert_eq!(sizes(|_| ()), named(&[("code", 1), ("deps", 2), ("run", 1), ("tmp", 8)]));
    let job = sizes(|spec| spec.build_dir = Some("/data/build".into()));
    assert_eq!(job, named(&[("build", 3), ("run", 1), ("tmp", 8)]));
}

#[tokio::test]
async fn a_namespace_whose_pods_cannot_be_listed_hides_no_other_and_nothing_is_said_of_its_instances() {
    let refused = |code: u16| {
        move || async move {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "code": code, "reason": "Forbidden", "message": "no" });
            (http::StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
        }
    };
    let running = json!({ "phase": "Running", "podIP": "10.0.0.7" });
    let stays = pod("hello-stays", &json!({}), &running);
    let there = move || {
        let pods = json!({ "apiVersion": "v1", "kind": "PodList", "metadata": { "resourceVersion": "1" }, "items": [stays] });
        async move { Json(pods).into_response() }
    };
    let pods = |namespace: &str| format!("/api/v1/namespaces/{namespace}/pods");
    let of = |namespaces: &[&str]| namespaces.iter().map(|name| (*name).to_owned()).collect();
    let router = Router::new().route(&pods("default"), get(there)).route(&pods("other"), get(refused(403)));
    let all = router.clone().route(&pods("hearth"), get(refused(403)));
    let client = Client::new(all, "hearth");
    let config = Config { namespaces: of(&["default", "other"]), ..config(client.clone()) };
    let backend = Kubernetes::open(config, &Registry::new()).await.unwrap();
    assert_eq!(backend.list().await.unwrap().len(), 1);
    assert!(!backend.shared.has_looked(), "an instance that is not known may be one of the other");

    let config = Config { namespaces: of(&["other"]), ..self::config(client) };
    let backend = Kubernetes::open(config, &Registry::new()).await.unwrap();
    assert!(backend.list().await.is_err(), "nothing at all is known");

    let away = router.route(&pods("hearth"), get(refused(500)));
    let config = Config { namespaces: of(&["default"]), ..self::config(Client::new(away, "hearth")) };
    let backend = Kubernetes::open(config, &Registry::new()).await.unwrap();
    assert!(backend.list().await.is_err(), "an API server that fails is asked again by whoever began");
}
