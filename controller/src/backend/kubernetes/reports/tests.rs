//! Over real sockets; of the API server nothing is asked.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::door::STRANGERS_OF_ONE;
use super::*;
use crate::backend::kubernetes::tests::{config, spec};
use crate::backend::kubernetes::watch;
use crate::backend::kubernetes::whereabouts::Whereabouts;
use crate::telemetry::metrics::Registry;

/// Nothing in these tests takes so long unless it is broken.
const WAIT: Duration = Duration::from_secs(5);

struct Scene {
    shared: Arc<Shared>,
    address: SocketAddr,
    registry: Registry,
    _serving: JoinSet<()>,
}

impl Scene {
    async fn new() -> Self {
        let config = config(kube::Client::new(axum::Router::new(), "default"));
        let listener = TcpListener::bind(config.report_listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ends, hindrances) = (mpsc::channel(1).0, mpsc::channel(1).0);
        let shared = Arc::new(Shared::new(config, ends, hindrances, mpsc::channel(1).0));
        let registry = Registry::new();
        let mut serving = JoinSet::new();
        serving.spawn(serve(Arc::downgrade(&shared), listener, Door::new(&registry)));
        Self { shared, address, registry, _serving: serving }
    }

    /// An instance that is in the books.
    fn instance(&self, name: &str) -> Arc<Instance> {
        let instance = Arc::new(Instance::new(spec(name), "default"));
        instance.whereabouts.send_replace(Whereabouts::of(&pod(name, Some("node1"), None)));
        self.shared.books().insert(instance.id.clone(), Arc::clone(&instance));
        instance
    }

    /// A connection from this address of this machine.
    async fn connect(&self, from: [u8; 4]) -> Line {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(IpAddr::from(from), 0)).unwrap();
        let stream = socket.connect(self.address).await.unwrap();
        Line { stream, buffer: BytesMut::new() }
    }

    /// The report of an instance that runs, by a connection from there.
    async fn report(&self, from: [u8; 4], instance: &Instance) -> Line {
        self.hello(from, instance, Purpose::Report { running: true, invoke: 1, control: 2 }).await
    }

    async fn hello(&self, from: [u8; 4], instance: &Instance, purpose: Purpose) -> Line {
        let mut line = self.connect(from).await;
        let hello = FromShim::Hello(Hello {
            version: VERSION,
            instance: instance.id.to_string(),
            token: self.shared.keys.token(&instance.id),
            purpose,
        });
        let mut bytes = BytesMut::new();
        report::encode(&hello, &mut bytes).unwrap();
        line.stream.write_all(&bytes).await.unwrap();
        line
    }
}

/// The Pod of that instance, as its node tells of it.
fn pod(name: &str, node: Option<&str>, address: Option<[u8; 4]>) -> Pod {
    let address = address.map(|address| IpAddr::from(address).to_string());
    let pod = json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "containers": [], "nodeName": node },
        "status": { "phase": "Pending", "podIP": address },
    });
    serde_json::from_value(pod).unwrap()
}

/// What the controller says next; `None` when it closes.
async fn hear(line: &mut Line) -> Option<ToShim> {
    let heard = async {
        loop {
            if let Some(message) = report::decode(&mut line.buffer).unwrap() {
                return Some(message);
            }
            // Closed with something unread, it is a reset.
            if line.stream.read_buf(&mut line.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    };
    timeout(WAIT, heard).await.expect("it neither answers nor closes")
}

const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [127, 0, 0, 2];

#[tokio::test]
async fn who_says_nothing_keeps_no_instance_from_reporting() {
    let scene = Scene::new().await;
    let instance = scene.instance("hello-00001-a");
    let mut silent = Vec::new();
    for _ in 0..STRANGERS_OF_ONE {
        silent.push(scene.connect(HERE).await);
    }
    // Of the same address, as where all Pods of a node are seen with one.
    let mut line = scene.report(HERE, &instance).await;
    assert_eq!(hear(&mut line).await, Some(ToShim::GoOn));
    let shown = scene.registry.render();
    assert!(shown.contains("hearth_reports_refused_total{bound=\"address\"} 1"), "{shown}");
    assert_eq!(hear(&mut silent[0]).await, None, "the longest has left");
}

#[tokio::test]
async fn an_instance_that_reported_from_elsewhere_than_its_pod_is_ended_when_that_is_known() {
    let scene = Scene::new().await;
    let [ours, stolen] = ["hello-00001-a", "hello-00001-b"].map(|name| scene.instance(name));
    let mut lines = Vec::new();
    for (from, instance) in [(HERE, &ours), (THERE, &stolen)] {
        let mut line = scene.report(from, instance).await;
        assert_eq!(hear(&mut line).await, Some(ToShim::GoOn), "its address is not waited for");
        lines.push(line);
    }
    for instance in [&ours, &stolen] {
        watch::seen(&scene.shared, &pod(instance.id.as_str(), Some("node1"), Some(HERE))).await;
    }
    assert!(!ours.has_ended() && stolen.has_ended());
}

#[tokio::test]
async fn a_pod_that_no_node_has_does_not_report() {
    let scene = Scene::new().await;
    let instance = scene.instance("hello-00001-a");
    instance.whereabouts.send_replace(Whereabouts::default());
    let mut line = scene.report(HERE, &instance).await;
    let answer = async { line.stream.peek(&mut [0]).await };
    assert!(timeout(Duration::from_millis(100), answer).await.is_err(), "it waits");
    watch::seen(&scene.shared, &pod("hello-00001-a", Some("node1"), None)).await;
    assert_eq!(hear(&mut line).await, Some(ToShim::GoOn));
}

#[tokio::test]
async fn what_is_fetched_goes_to_the_pod_alone() {
    let scene = Scene::new().await;
    let instance = scene.instance("hello-00001-a");
    let fetch = || Purpose::Fetch { digest: "sha256:00".to_owned() };
    let refused = |answer| match answer {
        Some(ToShim::Refused { reason }) => reason,
        other => panic!("{other:?}"),
    };
    let mut line = scene.report(HERE, &instance).await;
    assert_eq!(hear(&mut line).await, Some(ToShim::GoOn));
    let mut elsewhere = scene.hello(THERE, &instance, fetch()).await;
    assert_eq!(refused(hear(&mut elsewhere).await), "this instance is elsewhere");
    let mut its = scene.hello(HERE, &instance, fetch()).await;
    assert_eq!(refused(hear(&mut its).await), "this instance has nothing of that digest");
}

#[tokio::test]
async fn instances_that_are_known_take_no_place_of_those_who_come_from_the_same_address() {
    let scene = Scene::new().await;
    let mut lines = Vec::new();
    for number in 0..STRANGERS_OF_ONE * 3 {
        let instance = scene.instance(&format!("hello-00001-{number}"));
        let mut line = scene.report(HERE, &instance).await;
        assert_eq!(hear(&mut line).await, Some(ToShim::GoOn), "instance {number}");
        lines.push(line);
    }
}

#[tokio::test]
async fn an_instance_has_one_report_connection_and_none_once_it_is_gone() {
    let scene = Scene::new().await;
    let instance = scene.instance("hello-00001-a");
    let mut first = scene.report(HERE, &instance).await;
    assert_eq!(hear(&mut first).await, Some(ToShim::GoOn));
    let mut second = scene.report(HERE, &instance).await;
    assert_eq!(hear(&mut second).await, Some(ToShim::GoOn));
    assert_eq!(hear(&mut first).await, None, "the second took its place");
    instance.orders().unwrap().send(Order::End).await.unwrap();
    assert_eq!(hear(&mut second).await, Some(ToShim::End), "orders go by the second");
    instance.gone.send_replace(true);
    assert_eq!(hear(&mut second).await, None);
}

#[tokio::test]
async fn nobody_sends_much_before_he_is_known() {
    let scene = Scene::new().await;
    let mut line = scene.connect(HERE).await;
    let mut bytes = vec![0; HELLO_BYTES];
    // The length of a message that would be taken of an instance.
    bytes[..report::HEADER_BYTES].copy_from_slice(&u32::try_from(report::MAX_MESSAGE).unwrap().to_be_bytes());
    line.stream.write_all(&bytes).await.unwrap();
    assert_eq!(hear(&mut line).await, None);
}

#[tokio::test]
async fn an_instance_brings_one_result_at_a_time_and_none_once_it_is_stopped() {
    let scene = Scene::new().await;
    let directory = tempfile::tempdir().unwrap();
    let build = directory.path().join("build");
    std::fs::create_dir(&build).unwrap();
    let instance = scene.instance("job-a");
    instance.spec.lock().unwrap().build_dir = Some(build.clone());
    instance.whereabouts.send_replace(Whereabouts::of(&pod("job-a", Some("node1"), Some(HERE))));
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    tar.append_data(&mut header, "made", &b"1"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let digest = hearth_function::Digest::of(&tar).to_string();
    let purpose = |bytes: u64| Purpose::Result { digest: digest.clone(), bytes };
    let bytes = tar.len() as u64;

    let mut large = scene.hello(HERE, &instance, purpose((3 << 20) + 1)).await;
    assert!(
        matches!(hear(&mut large).await, Some(ToShim::Refused { reason }) if reason.contains("at most 3145728"))
    );

    let mut first = scene.hello(HERE, &instance, purpose(bytes)).await;
    first.stream.write_all(&tar[..512]).await.unwrap();
    // It has begun when there is no turn any more.
    timeout(WAIT, async {
        while instance.intake.is_free() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let mut second = scene.hello(HERE, &instance, purpose(bytes)).await;
    assert_eq!(hear(&mut second).await, None, "it comes again");
    first.stream.write_all(&tar[512..]).await.unwrap();
    assert_eq!(hear(&mut first).await, Some(ToShim::Taken));
    assert_eq!(std::fs::read_to_string(build.join("made")).unwrap(), "1");
    let beside = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(beside, 1, "what was received has no name");

    instance.intake.close().await;
    let mut late = scene.hello(HERE, &instance, purpose(bytes)).await;
    late.stream.write_all(&tar).await.unwrap();
    assert!(matches!(hear(&mut late).await, Some(ToShim::Refused { reason }) if reason.contains("stopped")));
}
