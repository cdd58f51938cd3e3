//! Gateways, hub and autoscaler together, over real sockets: the gateways' threads, the link, the hub and the autoscaler are those of the product;
//! instances are staged.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use hearth_dispatch::routes::{Claim, PathKind};
use hearth_function::spec::ProcessModel;
use hearth_function::{FunctionId, RevisionId};
use hearth_scaler::{Policy, Reach};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::autoscale::{self, Adoptable, Prewarming, Target, Windows};
use crate::backend::Backend;
use crate::gateway::{ForwardingLimits, Served, Timeouts};
use crate::hub::{self, Hub};
use crate::pool::staged::{Act, Staged};
use crate::pool::template::tests::revision;
use crate::pool::{Places, Pool, Template};
use crate::telemetry::logs::Logs;

mod cluster;

const KEY: [u8; 32] = [7; 32];

/// Nothing in these tests takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// A leader: hub and autoscaler. Dropped, it is killed.
struct Leader {
    address: SocketAddr,
    registry: Registry,
    /// Without one the autoscaler ends.
    _autoscaler: autoscale::Handle,
    calls: mpsc::Receiver<crate::telemetry::logs::Calls>,
    _tasks: JoinSet<()>,
}

/// A gateway process. Dropped, it is killed.
struct Replica {
    handle: gateway::Handle,
    registry: Registry,
    _tasks: JoinSet<()>,
}

struct Scene {
    directory: TempDir,
    backend: Arc<Staged>,
    leads: watch::Sender<Option<SocketAddr>>,
    namespace: String,
    slots: u32,
    most: u32,
    model: ProcessModel,
    /// When a call counts as stuck: so long after it should have ended.
    stuck: Duration,
    timeouts: Timeouts,
}

impl Scene {
    /// Instances with so many slots, at most so many of them.
    fn new(slots: u32, most: u32) -> Self {
        let directory = TempDir::new().unwrap();
        let backend = Staged::new(directory.path());
        let namespace = "default".to_owned();
        let (leads, stuck) = (watch::Sender::new(None), PATIENCE);
        let (model, timeouts) = (ProcessModel::Resident, Timeouts::default());
        Self { directory, backend, leads, namespace, slots, most, model, stuck, timeouts }
    }

    /// Starts a leader, which finds what is there. Nobody is told of it.
    async fn leader(&self) -> Leader {
        let registry = Registry::new();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = hub::Config { listen, key: KEY, settle: Duration::from_millis(300) };
        let (hub, ends) = Hub::open(config, &registry).await.unwrap();
        let address = hub.address();
        let (logs, writer) =
            Logs::open(self.directory.path().join(format!("logs-{}", address.port())), Default::default())
                .unwrap();
        std::thread::spawn(move || writer.run());
        let found = self.backend.list().await.unwrap();
        let execute = Duration::from_secs(30);
        let adoptable = |found| Adoptable { found, logs_after: 0, execute };
        let adoptable = found.into_iter().map(adoptable).collect();
        let config = autoscale::Config {
            parallelism: NonZeroU32::new(4).unwrap(),
            drain: Duration::from_secs(30),
            prewarm: Prewarming::off(),
            // Tests share a machine that may be short of memory.
            keep_free_bytes: Some(0),
        };
        let pool = Pool::new(Arc::clone(&self.backend) as Arc<dyn Backend>, logs.clone());
        let (service, autoscaler) =
            autoscale::Service::new(config, pool, logs, ends.autoscaler, adoptable, &registry);
        let mut tasks = JoinSet::new();
        tasks.spawn(service.run());
        tasks.spawn(hub.run(CancellationToken::new()));
        let places = Places { code: Some("/code".into()), ..Places::default() };
        let spec = match self.model {
            ProcessModel::Resident => serde_json::json!({ "concurrency": { "limit": self.slots } }),
            ProcessModel::Ephemeral => serde_json::json!({ "processModel": "ephemeral" }),
        };
        let mut template = revision("hello-00001", spec);
        template.metadata.namespace = Some(self.namespace.clone());
        let template = Arc::new(Template::new(&template, places).unwrap());
        let max = NonZeroU32::new(self.most).unwrap();
        let policy = Policy { max, process_model: self.model, ..Policy::default() };
        let reserved = Windows::default();
        let target = Target { template, policy, reach: Reach::Routed, pause: None, reserved, mends: false };
        autoscaler.put(target).await.unwrap();
        autoscaler.settled().await.unwrap();
        Leader { address, registry, _autoscaler: autoscaler, calls: ends.calls, _tasks: tasks }
    }

    /// A leader that gateways hear of.
    async fn lead(&self) -> Leader {
        let leader = self.leader().await;
        self.leads.send_replace(Some(leader.address));
        leader
    }

    /// The leader is killed; its instances are left.
    fn kill(&mut self, leader: Leader) {
        drop(leader);
        self.backend = self.backend.restart();
    }

    fn replica(&self, name: &str) -> Replica {
        self.replica_with(name, KEY)
    }

    fn replica_with(&self, name: &str, key: [u8; 32]) -> Replica {
        let registry = Registry::new();
        let config = gateway::Config {
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            threads: NonZeroUsize::MIN,
            forwarding: ForwardingLimits { stuck: self.stuck, ..ForwardingLimits::default() },
            ..gateway::Config::default()
        };
        let (to_scaler, from_gateway) = mpsc::channel(MESSAGES);
        let (to_gateway, from_scaler) = mpsc::channel(MESSAGES);
        let (calls, ended_calls) = mpsc::channel(CALLS);
        let channels = gateway::Channels { to_scaler, from_scaler, calls, freezer: None, strain: None };
        let handle = Gateway::start(config, channels, &registry).unwrap();
        let claim =
            Claim { host: String::new(), path: "/".to_owned(), kind: PathKind::Prefix, methods: Vec::new() };
        let function = FunctionId::parse("default/hello").unwrap();
        let revision = RevisionId::parse("default/hello-00001").unwrap();
        let timeouts = self.timeouts;
        let served = Served { function, created: 1, revision, timeouts, claims: vec![claim] };
        assert_eq!(handle.serve(vec![served]), []);
        let ends = Ends { from_gateway, to_gateway, calls: ended_calls };
        let link = Link::new(key, name.to_owned(), self.leads.subscribe(), ends, &registry);
        let mut tasks = JoinSet::new();
        tasks.spawn(link.run());
        Replica { handle, registry, _tasks: tasks }
    }

    /// Waits until so many calls have begun.
    async fn begun(&self, calls: usize) {
        eventually(|| self.backend.calls_begun() >= calls).await;
    }
}

/// Waits for what other threads do.
async fn eventually(done: impl Fn() -> bool) {
    let waiting = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it takes too long");
}

/// Whether so many requests wait, by a gateway's metrics.
fn wait(metrics: &str, count: usize) -> bool {
    let of = |line: &&str| line.starts_with("hearth_gateway_requests{") && line.contains("state=\"waiting\"");
    metrics.lines().find(of).is_some_and(|line| line.ends_with(&format!(" {count}")))
}

impl Replica {
    /// Sends so many requests at once; each answers its status.
    fn requests(&self, count: usize) -> JoinSet<u16> {
        let address = self.handle.addresses()[0];
        (0..count).map(|_| get(address, "/x")).collect()
    }
}

/// The status of an answer; 0 without one.
async fn get(address: SocketAddr, path: &str) -> u16 {
    let answer = answer(address, path).await;
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// A whole answer; of a gateway that is killed, which closes without a word, nothing.
async fn answer(address: SocketAddr, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(address).await else { return String::new() };
    let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    match stream.read_to_string(&mut text).await {
        Ok(_) => text,
        Err(_) => String::new(),
    }
}

/// All of them are answered well.
async fn all_well(requests: JoinSet<u16>) {
    let count = requests.len();
    let answers =
        tokio::time::timeout(PATIENCE, requests.join_all()).await.expect("somebody is not answered");
    assert_eq!(answers, vec![200; count]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_share_what_there_is() {
    let scene = Scene::new(3, 2);
    scene.backend.call_takes(Duration::from_millis(20));
    let mut leader = scene.lead().await;
    let (one, other) = (scene.replica("one"), scene.replica("other"));
    let (first, second) = (one.requests(30), other.requests(30));
    all_well(first).await;
    all_well(second).await;
    // All of it by one, with the slots of the other.
    all_well(one.requests(30)).await;
    assert!(scene.backend.most_at_once() <= 3, "{} at once", scene.backend.most_at_once());
    assert_eq!(scene.backend.starts(), 2);
    let calls = tokio::time::timeout(PATIENCE, leader.calls.recv()).await.unwrap().unwrap();
    assert!(calls.count() > 0, "records of calls arrive");
    let shown = leader.registry.render();
    assert!(shown.contains("hearth_hub_gateways 2"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_an_instance_refuses_get_another_one_started() {
    let scene = Scene::new(2, 2);
    // As one that was told to end from outside; whoever waits because of it is seen to wait.
    scene.backend.will([Act::Refuses]);
    let _leader = scene.lead().await;
    let (one, other) = (scene.replica("one"), scene.replica("other"));
    let (first, second) = (one.requests(10), other.requests(10));
    all_well(first).await;
    all_well(second).await;
    assert_eq!((scene.backend.starts(), scene.backend.calls_begun()), (2, 20));
    all_well(one.requests(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_had_is_given_to_the_other() {
    let scene = Scene::new(4, 1);
    scene.backend.call_takes(Duration::from_millis(300));
    let _leader = scene.lead().await;
    let (one, other) = (scene.replica("one"), scene.replica("other"));
    let lost = one.requests(8);
    scene.begun(2).await;
    let kept = other.requests(12);
    drop(one);
    all_well(kept).await;
    drop(lost);
    // The hub may see that it has gone before the instance does: for that moment its calls, at most four, run beside those of the other.
    assert!(scene.backend.most_at_once() <= 8, "{} at once", scene.backend.most_at_once());
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_for_a_single_call_of_a_gateway_that_is_cut_off_are_replaced_and_end_their_calls() {
    let mut scene = Scene::new(1, 4);
    scene.model = ProcessModel::Ephemeral;
    scene.backend.call_takes(Duration::from_millis(300));
    let _leader = scene.lead().await;
    let (one, other) = (scene.replica("one"), scene.replica("other"));
    let cut_off = one.requests(2);
    scene.begun(2).await;
    let Replica { handle: _goes_on, _tasks: link, .. } = one;
    drop(link);
    all_well(other.requests(6)).await;
    all_well(cut_off).await;
    assert_eq!((scene.backend.calls_begun(), scene.backend.most_of_one()), (8, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_full_of_stuck_calls_of_two_gateways_is_killed() {
    let mut scene = Scene::new(2, 1);
    scene.stuck = Duration::from_millis(50);
    scene.timeouts.execute = Duration::from_millis(50);
    // It answers pings, and goes on with a call that is cancelled.
    scene.backend.call_takes(Duration::from_secs(3600));
    let _leader = scene.lead().await;
    let (one, other) = (scene.replica("one"), scene.replica("other"));
    let mut first = one.requests(1);
    scene.begun(1).await;
    let full = scene.backend.running();
    assert_eq!(first.join_next().await.unwrap().unwrap(), 504);
    assert_eq!(scene.backend.running(), full, "the other slot is nobody's yet");
    let mut second = other.requests(1);
    assert_eq!(second.join_next().await.unwrap().unwrap(), 504);
    eventually(|| scene.backend.stops().iter().any(|(instance, _)| full.contains(instance))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_a_first_leader() {
    let scene = Scene::new(5, 2);
    let replica = scene.replica("one");
    let waiting = replica.requests(10);
    eventually(|| wait(&replica.registry.render(), 10)).await;
    assert_eq!(scene.backend.starts(), 0);
    let _leader = scene.lead().await;
    all_well(waiting).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_loses_none_of_those_that_wait() {
    let mut scene = Scene::new(2, 1);
    scene.backend.call_takes(Duration::from_millis(40));
    let leader = scene.lead().await;
    let (one, other) = (scene.replica("one"), scene.replica("other"));
    let (first, second) = (one.requests(25), other.requests(25));
    scene.begun(8).await;
    scene.kill(leader);
    // Without a leader they go on with what they hold.
    let before = scene.backend.calls_begun();
    scene.begun(before + 4).await;
    let _next = scene.lead().await;
    all_well(first).await;
    all_well(second).await;
    assert!(scene.backend.most_at_once() <= 2, "{} at once", scene.backend.most_at_once());
    assert_eq!(scene.backend.starts(), 1, "the instance was adopted");
    eventually(|| one.registry.render().contains("hearth_link_connected 1")).await;
    let shown = one.registry.render();
    assert!(shown.contains("hearth_link_connections_total 2"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_while_an_instance_starts_is_followed_by_one_that_starts_another() {
    let mut scene = Scene::new(10, 5);
    scene.backend.takes(Duration::from_secs(5));
    let leader = scene.lead().await;
    let (one, other) = (scene.replica("one"), scene.replica("other"));
    let (first, second) = (one.requests(25), other.requests(25));
    eventually(|| scene.backend.starts() > 0).await;
    scene.kill(leader);
    scene.backend.takes(Duration::ZERO);
    let _next = scene.lead().await;
    all_well(first).await;
    all_well(second).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_know_the_key_is_not_let_in() {
    let scene = Scene::new(1, 1);
    let leader = scene.lead().await;
    let stranger = scene.replica_with("stranger", [8; 32]);
    eventually(|| !leader.registry.render().contains("hearth_hub_refused_total{reason=\"key\"} 0")).await;
    let shown = stranger.registry.render();
    assert!(shown.contains("hearth_link_connections_total 0"), "{shown}");
    // Nor are those that say nothing that is said here, or too much.
    let mut noise = TcpStream::connect(leader.address).await.unwrap();
    noise.write_all(&[0xff; 64]).await.unwrap();
    let mut told = Vec::new();
    let _reset = noise.read_to_end(&mut told).await.is_err();
    let friend = scene.replica("friend");
    all_well(friend.requests(3)).await;
}
