use std::time::Duration;

use hearth_dispatch::{LoadReport, StartCode, StartFailure, ToGateway, ToScaler};
use hearth_function::{FunctionId, InstanceId};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::backend::{Backend, Exit};
use crate::pool::staged::{Act, Staged};
use crate::pool::template::tests::revision;
use crate::pool::{Places, Pool};
use crate::telemetry::logs::{Entry, Logs, Query};
use crate::telemetry::metrics::Registry;

mod hindering;
mod leaving;
mod pools;
mod removal;
mod restart;
mod resting;
mod straining;
mod trials;

/// How long a call in an instance of an earlier controller may run: longer than a drain takes.
const EXECUTE: Duration = Duration::from_secs(45);

/// An autoscaler over a staged backend, and its gateway's ends of the channels.
struct Scene {
    backend: Arc<Staged>,
    handle: Handle,
    to_scaler: mpsc::Sender<ToScaler>,
    from_scaler: mpsc::Receiver<ToGateway>,
    logs: Logs,
    tasks: JoinSet<()>,
    metrics: Registry,
    directory: TempDir,
}

fn target(name: &str, template: serde_json::Value, scale: impl FnOnce(&mut Policy), reach: Reach) -> Target {
    let revision = revision(name, template);
    let mut policy = Policy::default();
    scale(&mut policy);
    let template = Arc::new(
        Template::new(&revision, Places { code: Some("/code".into()), ..Places::default() }).unwrap(),
    );
    Target { template, policy, reach, pause: None, reserved: Windows::default(), mends: false }
}

fn hello(reach: Reach) -> Target {
    target("hello-00001", json!({}), |_| {}, reach)
}

fn id() -> RevisionId {
    RevisionId::parse("default/hello-00001").unwrap()
}

impl Handle {
    /// A trial, and its outcome.
    async fn try_out(&self, revision: RevisionId) -> Result<(), TrialError> {
        self.begin_trial(revision).await?.await.map_err(|_| Ended)?
    }

    /// A removal, and its end.
    async fn remove(&self, revision: RevisionId) -> Result<(), Ended> {
        self.begin_removal(revision).await?.await.map_err(|_| Ended)
    }
}

impl Scene {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let backend = Staged::new(directory.path());
        Self::over(backend, directory, Vec::new())
    }

    fn over(backend: Arc<Staged>, directory: TempDir, adoptable: Vec<Adoptable>) -> Self {
        Self::with(backend, directory, adoptable, Prewarming::off())
    }

    fn with(
        backend: Arc<Staged>,
        directory: TempDir,
        adoptable: Vec<Adoptable>,
        prewarm: Prewarming,
    ) -> Self {
        let (logs, writer) = Logs::open(directory.path().join("logs"), Default::default()).unwrap();
        std::thread::spawn(move || writer.run());
        let (to_scaler, from_gateway) = mpsc::channel(64);
        let (to_gateway, from_scaler) = mpsc::channel(64);
        let config = Config {
            parallelism: NonZeroU32::new(2).unwrap(),
            drain: Duration::from_secs(30),
            prewarm,
            // Tests share a machine that may be short of memory.
            keep_free_bytes: Some(0),
        };
        let pool = Pool::new(Arc::clone(&backend) as Arc<dyn Backend>, logs.clone());
        let channels = Channels { from_gateway, to_gateway };
        let metrics = Registry::new();
        let (service, handle) = Service::new(config, pool, logs.clone(), channels, adoptable, &metrics);
        let mut tasks = JoinSet::new();
        tasks.spawn(service.run());
        Self { backend, handle, to_scaler, from_scaler, logs, tasks, metrics, directory }
    }

    async fn want(&self, waiting: u32, in_flight: u32) {
        let message = ToScaler::CapacityWanted { revision: id(), waiting, in_flight };
        self.to_scaler.send(message).await.unwrap();
    }

    async fn load(&self, in_flight: u32) {
        let report = LoadReport {
            revision: id(),
            in_flight,
            waiting: 0,
            over: Duration::from_secs(1),
            average_concurrency: f64::from(in_flight),
            busy: Vec::new(),
            completed: 1,
            arrived: 1,
            service_time: Duration::from_millis(100),
            refused: 0,
        };
        self.to_scaler.send(ToScaler::Load(report)).await.unwrap();
    }

    async fn heard(&mut self) -> ToGateway {
        timeout(Duration::from_secs(600), self.from_scaler.recv()).await.expect("silence").unwrap()
    }

    async fn granted(&mut self) -> InstanceId {
        match self.heard().await {
            ToGateway::Grant { endpoint, .. } => endpoint.instance,
            other => panic!("{other:?}"),
        }
    }

    async fn failed(&mut self) -> (StartFailure, Duration) {
        match self.heard().await {
            ToGateway::StartFailed { failure, retry_after, .. } => (failure, retry_after),
            other => panic!("{other:?}"),
        }
    }

    /// When an instance was started, as it is shown.
    async fn started(&self, instance: &InstanceId) -> jiff::Timestamp {
        let is_up = |view: &&crate::pool::View| view.id == *instance && view.state.to_string() == "Ready";
        let find = |snapshot: &Snapshot| snapshot.instances.iter().find(is_up).map(|view| view.started);
        let mut watch = self.handle.watch();
        find(&watch.wait_for(|snapshot| find(snapshot).is_some()).await.unwrap()).unwrap()
    }

    /// What Hearth itself has written into the function's log.
    async fn notes(&self) -> Vec<String> {
        let function = FunctionId::parse("default/hello").unwrap();
        let entries = self.logs.read(&function, Query::default()).await.unwrap();
        let text = |entry| if let Entry::Note(note) = entry { Some(note.text) } else { None };
        entries.into_iter().filter_map(text).collect()
    }

    /// Kills the controller and starts the next one over the same instances.
    async fn restart(mut self) -> Self {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        let backend = self.backend.restart();
        let mut adoptable = Vec::new();
        for found in backend.list().await.unwrap() {
            let logs_after = match &found.spec.owner {
                Some(owner) => self.logs.last_sequence(&owner.function, &found.spec.id).await.unwrap(),
                None => 0,
            };
            adoptable.push(Adoptable { found, logs_after, execute: EXECUTE });
        }
        self.logs.close().await;
        Self::over(backend, self.directory, adoptable)
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_request_starts_an_instance_and_idleness_ends_it() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    assert_eq!(scene.backend.running(), std::slice::from_ref(&instance));
    // No traffic for the idle timeout: no new calls, and when the last has ended it goes.
    scene.load(0).await;
    assert_eq!(scene.heard().await, ToGateway::Revoke { instance: instance.clone() });
    assert_eq!(scene.backend.running().len(), 1, "a call may still run");
    scene.to_scaler.send(ToScaler::Drained { instance: instance.clone() }).await.unwrap();
    assert!(matches!(scene.heard().await, ToGateway::Gone { instance: gone, .. } if gone == instance));
    assert!(scene.backend.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_burst_starts_as_many_as_it_needs_two_at_a_time() {
    let mut scene = Scene::new();
    scene.backend.takes(Duration::from_millis(50));
    scene
        .handle
        .put(target(
            "hello-00001",
            json!({}),
            |policy| policy.max = NonZeroU32::new(3).unwrap(),
            Reach::Routed,
        ))
        .await
        .unwrap();
    scene.want(30, 0).await;
    for _ in 0..3 {
        scene.granted().await;
        scene.want(30, 0).await;
    }
    assert_eq!((scene.backend.starts(), scene.backend.running().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn code_that_does_not_load_fails_those_who_wait_with_what_it_printed_and_is_tried_again_later() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.backend.will([Act::CannotLoad]);
    scene.want(1, 0).await;
    let (failure, retry_after) = scene.failed().await;
    let expected = (StartCode::LoadFailed, "SyntaxError: no (index.js:3)");
    assert_eq!((failure.code, failure.message.as_str()), expected);
    assert_eq!(failure.last_lines, ["line 1", "line 2"]);
    assert!(retry_after >= Duration::from_millis(800), "{retry_after:?}");
    let notes = scene.notes().await;
    let told =
        ["the instance did not start: SyntaxError: no (index.js:3)", "/code/index.js:3\nno\nSyntaxError: no"];
    assert_eq!(notes, told, "the log has the whole stack, as one entry");
    // Whoever comes after the back-off gets the next try, and that succeeds.
    scene.want(1, 0).await;
    scene.granted().await;
    assert_eq!(scene.backend.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_killed_because_it_is_stuck_says_so_in_the_log_and_among_the_decisions() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    scene.to_scaler.send(ToScaler::Unresponsive { instance: instance.clone() }).await.unwrap();
    assert!(matches!(scene.heard().await, ToGateway::Gone { instance: gone, .. } if gone == instance));
    let notes = scene.notes().await;
    assert!(
        notes.iter().any(|note| note.starts_with("the instance was killed: it did not answer")),
        "{notes:?}"
    );
    let told = |decided: &crate::autoscale::snapshot::Decided| {
        decided.about == About::Killed
            && decided.text.starts_with(&format!("{instance} killed: it did not answer"))
    };
    let mut shown = scene.handle.watch();
    let has = |snapshot: &Arc<Snapshot>| {
        snapshot.revisions.get(&id()).is_some_and(|view| view.decisions.iter().any(told))
    };
    timeout(Duration::from_secs(60), shown.wait_for(has)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_platforms_failure_is_tried_again_at_once_before_anyone_is_told() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.backend.will([Act::NotMade, Act::NotMade]);
    scene.want(1, 0).await;
    scene.granted().await;
    assert_eq!(scene.backend.starts(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_ends_in_its_boot_says_how_it_ended() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.backend.always(Act::EndsInBoot);
    scene.want(1, 0).await;
    let (failure, _) = scene.failed().await;
    assert_eq!(failure.code, StartCode::ProcessEnded);
    assert!(failure.message.ends_with("exit code 3"), "{}", failure.message);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_ended_when_its_time_is_up() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.backend.will([Act::Hangs]);
    scene.want(1, 0).await;
    let (failure, _) = scene.failed().await;
    assert_eq!(failure.code, StartCode::StartTimeout);
    scene.backend.stopped.notified().await;
    assert!(scene.backend.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_dies_is_gone_with_its_reason_and_replaced_when_wanted() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    scene.load(1).await;
    scene.backend.end(&instance, Exit { code: None, signal: Some(9), out_of_memory: true }).await;
    let reason = "killed: out of memory".to_owned();
    assert_eq!(scene.heard().await, ToGateway::Gone { instance: instance.clone(), reason });
    scene.want(1, 0).await;
    assert_ne!(scene.granted().await, instance);
    let function = hearth_function::FunctionId::parse("default/hello").unwrap();
    let entries = scene.logs.read(&function, Query::default()).await.unwrap();
    let noted = |entry: &Entry| matches!(entry, Entry::Note(note) if note.text.ends_with("out of memory"));
    assert!(entries.iter().any(noted), "{entries:?}");
}

#[tokio::test(start_paused = true)]
async fn the_early_end_of_an_idle_instance_holds_off_what_is_kept_and_nobody_who_waits() {
    let killed = || Exit { code: None, signal: Some(9), out_of_memory: false };
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let first = scene.granted().await;
    scene.load(0).await;
    scene.backend.end(&first, killed()).await;
    assert!(matches!(scene.heard().await, ToGateway::Gone { .. }));
    let began = Instant::now();
    scene.want(1, 0).await;
    let second = scene.granted().await;
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
    // One that is kept and ends again and again is not started at once each time.
    let kept = target("hello-00001", json!({}), |policy| policy.min = 1, Reach::Routed);
    scene.handle.put(kept).await.unwrap();
    scene.load(0).await;
    scene.backend.end(&second, killed()).await;
    assert!(matches!(scene.heard().await, ToGateway::Gone { .. }));
    let began = Instant::now();
    scene.granted().await;
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_a_gateway_loses_is_killed_unless_it_has_ended_by_itself() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    let lost = ToScaler::Lost { instance: instance.clone(), reason: "it broke the protocol".to_owned() };
    scene.to_scaler.send(lost).await.unwrap();
    let reason = "it broke the protocol".to_owned();
    assert_eq!(scene.heard().await, ToGateway::Gone { instance: instance.clone(), reason });
    scene.backend.stopped.notified().await;
    assert_eq!(scene.backend.stops(), [(instance, Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_instance_is_destroyed_after_its_call() {
    let mut scene = Scene::new();
    let model = |policy: &mut Policy| policy.process_model = hearth_function::spec::ProcessModel::Ephemeral;
    let ephemeral = target("hello-00001", json!({ "processModel": "ephemeral" }), model, Reach::Routed);
    scene.handle.put(ephemeral).await.unwrap();
    scene.want(1, 0).await;
    let ToGateway::Grant { endpoint, slots, .. } = scene.heard().await else { panic!("no grant") };
    assert!(endpoint.single_use && slots == 1);
    let instance = endpoint.instance;
    scene.to_scaler.send(ToScaler::Spent { instance: instance.clone() }).await.unwrap();
    assert!(matches!(scene.heard().await, ToGateway::Gone { instance: gone, .. } if gone == instance));
    assert!(scene.backend.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_instance_whose_gateway_has_gone_has_time_for_its_call_and_another_is_started() {
    let mut scene = Scene::new();
    let model = |policy: &mut Policy| policy.process_model = hearth_function::spec::ProcessModel::Ephemeral;
    let spec = json!({ "processModel": "ephemeral", "timeouts": { "execute": "10m" } });
    scene.handle.put(target("hello-00001", spec, model, Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    scene.to_scaler.send(ToScaler::Orphaned { instance: instance.clone() }).await.unwrap();
    scene.want(1, 0).await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        match scene.heard().await {
            ToGateway::Grant { endpoint, .. } => heard.push(endpoint.instance),
            ToGateway::Gone { instance, .. } => heard.push(instance),
            other => panic!("{other:?}"),
        }
    }
    assert!(heard.iter().any(|other| *other != instance), "{heard:?}");
    assert_eq!(scene.backend.stops(), [(instance, Duration::from_secs(600))]);
}

#[tokio::test(start_paused = true)]
async fn a_trial_says_whether_the_revision_came_up() {
    let scene = Scene::new();
    scene.handle.put(hello(Reach::Untried)).await.unwrap();
    assert_eq!(scene.handle.try_out(id()).await, Ok(()));
    let other = target("other-00001", json!({}), |_| {}, Reach::Untried);
    let revision = other.template.revision().clone();
    scene.backend.will([Act::CannotLoad]);
    scene.handle.put(other).await.unwrap();
    let failed = scene.handle.try_out(revision.clone()).await.unwrap_err();
    assert!(matches!(failed, TrialError::Failed(failure) if failure.code == StartCode::LoadFailed));
    scene.handle.remove(revision.clone()).await.unwrap();
    assert_eq!(scene.handle.try_out(revision).await, Err(TrialError::Removed));
}

#[tokio::test(start_paused = true)]
async fn a_revision_that_is_removed_ends_its_calls_first() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    let handle = scene.handle.clone();
    scene.tasks.spawn(async move { handle.remove(id()).await.unwrap() });
    assert_eq!(scene.heard().await, ToGateway::Revoke { instance: instance.clone() });
    assert_eq!(scene.backend.running().len(), 1);
    scene.to_scaler.send(ToScaler::Drained { instance: instance.clone() }).await.unwrap();
    scene.tasks.join_next().await.unwrap().unwrap();
    assert!(scene.backend.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn calls_that_do_not_end_are_cut_at_the_deadline_of_a_shutdown() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    scene.granted().await;
    let begin = Instant::now();
    let left = scene.handle.shutdown(begin + Duration::from_secs(10)).await;
    assert_eq!(left, Left { busy: 1, instances: 0 });
    assert!(begin.elapsed() < Duration::from_secs(11), "{:?}", begin.elapsed());
    assert!(scene.backend.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_cannot_be_taken_away_is_asked_for_again_until_it_can() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    scene.backend.cannot_stop(12);
    let removed = scene.handle.remove(id());
    let mut removed = std::pin::pin!(removed);
    tokio::select! {
        _ = &mut removed => panic!("it is forgotten"),
        message = scene.from_scaler.recv() => assert!(matches!(message, Some(ToGateway::Revoke { .. }))),
    }
    scene.to_scaler.send(ToScaler::Drained { instance: instance.clone() }).await.unwrap();
    removed.await.unwrap();
    assert_eq!(scene.backend.stops().len(), 13);
    assert!(scene.backend.running().is_empty());
    assert!(scene.metrics.render().contains("hearth_instance_mishaps_total{mishap=\"not_removed\"} 12"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_hurries_waits_for_no_instance() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    scene.from_scaler.close();
    scene.handle.shutdown(Instant::now()).await;
    assert_eq!(scene.backend.stops(), [(instance, Duration::ZERO)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_end_of_a_shutdown_is_counted() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    scene.granted().await;
    scene.backend.cannot_stop(usize::MAX);
    let left = scene.handle.shutdown(Instant::now() + Duration::from_secs(1)).await;
    assert_eq!(left, Left { busy: 1, instances: 1 });
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_task_of_one_instance_is_its_failure_alone() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.backend.will([Act::Panics]);
    scene.want(1, 0).await;
    // It is the platform's fault, and so tried again at once.
    scene.granted().await;
    assert_eq!((scene.backend.starts(), scene.backend.running().len()), (2, 1));
    // What is shown follows the next decision.
    let counted = "hearth_instance_mishaps_total{mishap=\"panic\"} 1";
    let mut shown = scene.handle.watch();
    while !scene.metrics.render().contains(counted) {
        timeout(Duration::from_secs(60), shown.changed()).await.expect("it is counted").unwrap();
    }
}
