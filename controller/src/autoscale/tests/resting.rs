//! Idle instances: frozen when the gateway lets them go, thawed for whoever needs them.

use super::*;

const PAUSE: Duration = Duration::from_secs(10);

fn resting(min: u32) -> Target {
    let mut target = target("hello-00001", json!({}), |policy| policy.min = min, Reach::Routed);
    target.policy.idle_timeout = Duration::from_secs(3600);
    Target { pause: Some(PAUSE), ..target }
}

impl Scene {
    /// Hears that the gateway is to let an instance go.
    async fn asked(&mut self) -> InstanceId {
        match self.heard().await {
            ToGateway::Pause { instance, idle } => {
                assert_eq!(idle, PAUSE);
                instance
            }
            other => panic!("{other:?}"),
        }
    }

    async fn tell(&self, message: ToScaler) {
        self.to_scaler.send(message).await.unwrap();
    }

    /// Waits until so many are paused.
    async fn paused(&self, count: u32) {
        let paused = |snapshot: &Arc<Snapshot>| {
            snapshot.revisions.get(&id()).is_some_and(|view| view.counts.paused == count)
        };
        let mut watch = self.handle.watch();
        timeout(Duration::from_secs(60), watch.wait_for(paused)).await.expect("not so many paused").unwrap();
    }

    /// An instance that was asked for once and is idle.
    async fn idle(target: Target) -> (Self, InstanceId) {
        let mut scene = Self::new();
        scene.handle.put(target).await.unwrap();
        scene.want(1, 0).await;
        let instance = scene.granted().await;
        scene.load(0).await;
        (scene, instance)
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_instance_is_frozen_when_the_gateway_lets_it_go_and_counts_as_ready_again_when_it_is_thawed()
{
    let (mut scene, instance) = Scene::idle(resting(0)).await;
    let since = Instant::now();
    assert_eq!(scene.asked().await, instance);
    assert!(since.elapsed() >= PAUSE && scene.backend.frozen().is_empty());
    scene.tell(ToScaler::Quiet { instance: instance.clone() }).await;
    scene.paused(1).await;
    assert_eq!(scene.backend.frozen(), std::slice::from_ref(&instance));
    let state = |scene: &Scene| scene.handle.snapshot().instances[0].state.to_string();
    assert_eq!(state(&scene), "Paused");
    assert_eq!(scene.handle.snapshot().revisions[&id()].counts.ready, 1, "it can take calls");
    // The gateway's thread has thawed it itself.
    scene.tell(ToScaler::Resumed { instance: instance.clone(), took: Duration::from_micros(150) }).await;
    scene.paused(0).await;
    assert_eq!(state(&scene), "Ready");
    assert_eq!(scene.asked().await, instance, "it rests again after a while");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_in_use_is_asked_for_again_when_it_may_be_idle() {
    let (mut scene, instance) = Scene::idle(resting(0)).await;
    scene.asked().await;
    let since = Instant::now();
    scene.tell(ToScaler::InUse { instance, idle: Duration::from_secs(4) }).await;
    scene.asked().await;
    let waited = since.elapsed();
    assert!(waited >= Duration::from_secs(5) && waited <= Duration::from_secs(7), "{waited:?}");
    assert!(scene.backend.frozen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_reserved_stays_awake() {
    let (mut scene, instance) = Scene::idle(resting(1)).await;
    // A second one, which is younger, is not reserved.
    tokio::time::advance(Duration::from_secs(1)).await;
    scene.want(1, 10).await;
    let second = scene.granted().await;
    scene.load(0).await;
    assert_eq!(scene.asked().await, second);
    assert_ne!(second, instance);
}

#[tokio::test(start_paused = true)]
async fn a_frozen_instance_is_thawed_before_it_is_stopped() {
    let (mut scene, instance) = Scene::idle(resting(0)).await;
    scene.asked().await;
    scene.tell(ToScaler::Quiet { instance: instance.clone() }).await;
    scene.paused(1).await;
    let handle = scene.handle.clone();
    let removing = handle.remove(id());
    let stopping = async {
        assert_eq!(scene.heard().await, ToGateway::Revoke { instance: instance.clone() });
        assert!(scene.backend.frozen().is_empty());
        scene.tell(ToScaler::Drained { instance }).await;
    };
    let (removed, ()) = tokio::join!(removing, stopping);
    removed.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_next_controller_thaws_what_it_adopts() {
    let (mut scene, instance) = Scene::idle(resting(0)).await;
    scene.asked().await;
    scene.tell(ToScaler::Quiet { instance: instance.clone() }).await;
    scene.paused(1).await;
    let mut scene = scene.restart().await;
    assert_eq!(scene.backend.frozen(), std::slice::from_ref(&instance));
    scene.handle.put(resting(0)).await.unwrap();
    assert_eq!(scene.granted().await, instance);
    assert!(scene.backend.frozen().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_stands_still_runs_again_when_it_is_reserved() {
    let (mut scene, instance) = Scene::idle(resting(0)).await;
    scene.asked().await;
    scene.tell(ToScaler::Quiet { instance: instance.clone() }).await;
    scene.paused(1).await;
    // As when a window begins: every minute of every day is in this one.
    let reserved = serde_json::from_value(json!({ "schedule": "* * * * *", "duration": "2m", "count": 1 }));
    let target = Target { reserved: Windows::new(&[reserved.unwrap()]).unwrap(), ..resting(0) };
    scene.handle.put(target).await.unwrap();
    assert_eq!(scene.heard().await, ToGateway::Wake { instance: instance.clone() });
    scene.tell(ToScaler::Resumed { instance, took: Duration::from_micros(150) }).await;
    scene.paused(0).await;
    assert_eq!(scene.backend.starts(), 1, "and no other is started");
}

#[tokio::test(start_paused = true)]
async fn a_start_for_a_reserved_window_says_so() {
    let scene = Scene::new();
    let reserved = serde_json::from_value(json!({ "schedule": "* * * * *", "duration": "2m", "count": 2 }));
    let target = Target { reserved: Windows::new(&[reserved.unwrap()]).unwrap(), ..resting(1) };
    scene.handle.put(target).await.unwrap();
    let decided = |snapshot: &Arc<Snapshot>| {
        let view = snapshot.revisions.get(&id());
        view.is_some_and(|view| {
            view.decisions.iter().any(|decided| decided.text.contains("scale.reserved keeps 2 now"))
        })
    };
    let mut watch = scene.handle.watch();
    timeout(Duration::from_secs(60), watch.wait_for(decided)).await.expect("not said").unwrap();
}
