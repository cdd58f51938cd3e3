//! Pools: who gets a pooled instance, and what becomes of them.

use hearth_dispatch::StartKind;

use super::*;
use crate::backend::Fixity;

const SETTINGS: Prewarming =
    Prewarming { enabled: true, size: 2, max: 4, ttl: Duration::from_secs(60), memory_bytes: 1 << 30 };

fn scene(prewarm: Prewarming) -> Scene {
    let directory = TempDir::new().unwrap();
    let backend = Staged::new(directory.path());
    Scene::with(backend, directory, Vec::new(), prewarm)
}

impl Scene {
    /// Waits until so many are pooled; their names.
    async fn pooled(&self, count: usize) -> Vec<InstanceId> {
        self.pooled_without(count, None).await
    }

    /// The same, once one is not among them any more.
    async fn pooled_without(&self, count: usize, gone: Option<&InstanceId>) -> Vec<InstanceId> {
        let mut watch = self.handle.watch();
        let pooled = |snapshot: &Snapshot| -> Vec<InstanceId> {
            let views = snapshot.instances.iter();
            views.filter(|view| view.state.to_string() == "Pooled").map(|view| view.id.clone()).collect()
        };
        let settled =
            |pool: &[InstanceId]| pool.len() == count && !gone.is_some_and(|gone| pool.contains(gone));
        let seen = watch.wait_for(|snapshot| settled(&pooled(snapshot)));
        let snapshot = timeout(Duration::from_secs(600), seen).await.expect("no such pool").unwrap();
        pooled(&snapshot)
    }

    async fn granted_as(&mut self) -> (InstanceId, StartKind) {
        match self.heard().await {
            ToGateway::Grant { endpoint, .. } => (endpoint.instance, endpoint.start),
            other => panic!("{other:?}"),
        }
    }

    async fn owner(&self, instance: &InstanceId) -> Option<String> {
        let found = self.backend.list().await.unwrap();
        let one = found.into_iter().find(|found| found.spec.id == *instance).unwrap();
        one.spec.owner.map(|owner| owner.revision.to_string())
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_gets_a_pooled_instance_and_the_pool_is_filled_again() {
    let mut scene = scene(SETTINGS);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    let pool = scene.pooled(2).await;
    assert_eq!(scene.owner(&pool[0]).await, None);
    scene.want(1, 0).await;
    let (instance, start) = scene.granted_as().await;
    assert!(pool.contains(&instance) && start == StartKind::Prewarmed, "{instance} {start:?}");
    assert_eq!(scene.owner(&instance).await.as_deref(), Some("default/hello-00001"));
    scene.pooled_without(2, Some(&instance)).await;
    assert_eq!((scene.backend.starts(), scene.backend.running().len()), (3, 3));
}

#[tokio::test(start_paused = true)]
async fn a_burst_takes_the_pool_and_begins_the_rest_from_nothing() {
    let mut scene = scene(SETTINGS);
    let target = target(
        "hello-00001",
        json!({ "concurrency": { "limit": 1 } }),
        |policy| policy.limit = NonZeroU32::MIN,
        Reach::Routed,
    );
    scene.handle.put(target).await.unwrap();
    scene.pooled(2).await;
    scene.backend.takes(Duration::from_millis(50));
    scene.want(3, 0).await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(scene.granted_as().await.1);
    }
    assert_eq!(kinds, [StartKind::Prewarmed, StartKind::Prewarmed, StartKind::Cold]);
    // The burst is remembered.
    scene.pooled(3).await;
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_leaves_the_pool_alone() {
    let mut scene = scene(SETTINGS);
    let target = |min| target("hello-00001", json!({}), move |policy| policy.min = min, Reach::Routed);
    scene.handle.put(target(0)).await.unwrap();
    let pool = scene.pooled(2).await;
    scene.handle.put(target(1)).await.unwrap();
    let (instance, start) = scene.granted_as().await;
    assert!(!pool.contains(&instance) && start == StartKind::Cold, "{start:?}");
    assert_eq!(scene.pooled(2).await, pool);
}

#[tokio::test(start_paused = true)]
async fn only_classes_that_functions_have_are_pooled() {
    let scene = scene(SETTINGS);
    let exec = json!({ "runtime": "exec", "command": ["./program"] });
    scene.handle.put(target("program-00001", exec, |_| {}, Reach::Routed)).await.unwrap();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.pooled(2).await;
    assert_eq!(scene.handle.snapshot().pools.len(), 1);
    scene.handle.remove(id()).await.unwrap();
    scene.pooled(0).await;
    assert!(scene.backend.running().is_empty());
}

#[tokio::test(start_paused = true)]
async fn pools_are_filled_beside_starts_whose_images_are_pulled() {
    let scene = scene(SETTINGS);
    // One of the function's, which wants more, and one of its pool's.
    scene.backend.will([Act::Pulled, Act::Pulled]);
    let hello = target("hello-00001", json!({}), |policy| policy.min = 3, Reach::Routed);
    scene.handle.put(hello).await.unwrap();
    scene.pooled(1).await;
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(scene.backend.starts(), 3, "and a pool has no more on its way than it lacks");
    scene.backend.make_room();
    scene.pooled(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_pooled_instance_that_ends_is_replaced_and_one_that_cannot_start_rests() {
    let scene = scene(SETTINGS);
    scene.backend.will([Act::NotMade, Act::NotMade]);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    let pool = scene.pooled(2).await;
    assert_eq!(scene.backend.starts(), 4);
    scene.backend.end(&pool[0], Exit { code: Some(1), signal: None, out_of_memory: false }).await;
    scene.backend.stopped.notified().await;
    let again = scene.pooled_without(2, Some(&pool[0])).await;
    assert!(again.contains(&pool[1]), "{again:?}");
}

/// A Function whose instances are Pods.
fn in_a_cluster(name: &str, memory: &str) -> Target {
    let revision = revision(name, json!({ "resources": { "memory": memory } }));
    let places = Places { code: Some("/code".into()), fixity: Fixity::Fixed, ..Places::default() };
    Target { template: Arc::new(Template::new(&revision, places).unwrap()), ..hello(Reach::Routed) }
}

#[tokio::test(start_paused = true)]
async fn what_this_machine_has_left_limits_no_pool_on_others() {
    let mut scene = scene(Prewarming { memory_bytes: u64::MAX, ..SETTINGS });
    // More than any machine has that runs this.
    scene.handle.put(in_a_cluster("hello-00001", "64Ti")).await.unwrap();
    scene.pooled(2).await;
    // Until it was measured.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(scene.backend.stats_asked() > 2);
    scene.want(1, 0).await;
    let (instance, start) = scene.granted_as().await;
    assert_eq!(start, StartKind::Prewarmed);
    scene.pooled_without(2, Some(&instance)).await;
}

#[tokio::test(start_paused = true)]
async fn pools_of_pods_share_the_memory_by_their_limits_and_none_is_left_out() {
    let scene = scene(Prewarming { memory_bytes: 820 << 20, ..SETTINGS });
    let sizes = |snapshot: &Snapshot| -> Vec<u32> {
        let mut pools: Vec<_> = snapshot.pools.iter().map(|pool| (&pool.class, pool.ready)).collect();
        pools.sort();
        pools.into_iter().map(|(_, ready)| ready).collect()
    };
    let mut watch = scene.handle.watch();
    for (number, expected) in
        [vec![2], vec![2, 2], vec![2, 1, 1], vec![1, 1, 1, 1], vec![1, 1, 1, 1, 0]].into_iter().enumerate()
    {
        let name = format!("hello-0000{}", number + 1);
        scene.handle.put(in_a_cluster(&name, &format!("20{number}Mi"))).await.unwrap();
        let settled = watch.wait_for(|snapshot| sizes(snapshot) == expected);
        let seen = timeout(Duration::from_secs(600), settled).await;
        assert!(seen.is_ok(), "{expected:?}, and not {:?}", sizes(&scene.handle.snapshot()));
    }
    let snapshot = scene.handle.snapshot();
    let last = snapshot.pools.iter().find(|pool| pool.ready == 0).unwrap();
    assert_eq!(last.why, "2 instances wanted, and there is memory for none");
}

#[tokio::test(start_paused = true)]
async fn the_next_controller_takes_away_what_was_pooled_and_adopts_what_was_given_away() {
    let mut scene = scene(SETTINGS);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.pooled(2).await;
    scene.want(1, 0).await;
    let (instance, _) = scene.granted_as().await;
    scene.pooled_without(2, Some(&instance)).await;
    let before = scene.started(&instance).await;
    let mut scene = scene.restart().await;
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    assert_eq!(scene.granted().await, instance);
    assert_eq!(scene.started(&instance).await, before, "its age is that of the function's instance");
    scene.handle.settled().await.unwrap();
    for _ in 0..2 {
        scene.backend.stopped.notified().await;
        if scene.backend.running().len() == 1 {
            break;
        }
    }
    assert_eq!(scene.backend.running(), [instance]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_takes_the_pools_with_it() {
    let scene = scene(SETTINGS);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.pooled(2).await;
    let left = scene.handle.shutdown(Instant::now() + Duration::from_secs(30)).await;
    assert_eq!((left, scene.backend.running().len()), (Left::default(), 0));
}

#[tokio::test(start_paused = true)]
async fn what_has_served_is_stopped_even_when_a_shutdown_finds_it_put_off() {
    let mut scene = scene(SETTINGS);
    let model = |policy: &mut Policy| policy.process_model = hearth_function::spec::ProcessModel::Ephemeral;
    let ephemeral = target("hello-00001", json!({ "processModel": "ephemeral" }), model, Reach::Routed);
    scene.handle.put(ephemeral).await.unwrap();
    scene.pooled(2).await;
    scene.want(1, 0).await;
    let (instance, start) = scene.granted_as().await;
    assert_eq!(start, StartKind::Prewarmed);
    scene.to_scaler.send(ToScaler::Spent { instance }).await.unwrap();
    let left = scene.handle.shutdown(Instant::now() + Duration::from_secs(10)).await;
    assert_eq!(left, Left::default(), "nothing had to be cut off");
    assert!(scene.backend.running().is_empty());
}
