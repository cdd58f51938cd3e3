//! Instances that something outside takes away.

use super::*;

const EXIT: Exit = Exit { code: Some(0), signal: None, out_of_memory: false };

impl Scene {
    /// What is said of the Revision among its decisions.
    fn told(&self, words: &str) -> bool {
        let snapshot = self.handle.snapshot();
        snapshot.revisions[&id()]
            .decisions
            .iter()
            .any(|decided| decided.about == About::TakenAway && decided.text.contains(words))
    }

    async fn revoked(&mut self, instance: &InstanceId) {
        assert_eq!(self.heard().await, ToGateway::Revoke { instance: instance.clone() });
    }

    /// It gets no more calls, and another one is there at once, which is returned; the call that it has runs on.
    async fn replaced(&mut self, old: &InstanceId, began: Instant) -> InstanceId {
        self.revoked(old).await;
        let new = self.granted().await;
        assert_ne!(new, *old);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(self.backend.running().len(), 2, "its call runs on");
        assert!(self.backend.stops().is_empty());
        new
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_taken_away_is_replaced_at_once_and_ends_its_calls() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let old = scene.granted().await;
    scene.load(1).await;
    let began = Instant::now();
    scene.backend.take_away(&old, Duration::from_secs(20)).await;
    let new = scene.replaced(&old, began).await;
    // As Kubernetes tells its process to.
    scene.backend.end(&old, EXIT).await;
    let reason = "its node is drained: exit code 0".to_owned();
    assert_eq!(scene.heard().await, ToGateway::Gone { instance: old.clone(), reason });
    while scene.backend.running() != [new.clone()] {
        scene.backend.stopped.notified().await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(scene.told(&format!("{old} leaves: its node is drained")));
    assert_eq!(scene.notes().await, ["the instance leaves: its node is drained"], "its end is no mishap");
}

#[tokio::test(start_paused = true)]
async fn the_minimum_is_kept_while_one_is_taken_away_and_an_idle_one_beyond_it_is_not_replaced() {
    let mut scene = Scene::new();
    let kept = target("hello-00001", json!({}), |policy| policy.min = 1, Reach::Routed);
    scene.handle.put(kept).await.unwrap();
    let first = scene.granted().await;
    scene.backend.take_away(&first, Duration::from_secs(20)).await;
    scene.revoked(&first).await;
    let second = scene.granted().await;
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.backend.take_away(&second, Duration::from_secs(20)).await;
    scene.revoked(&second).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(scene.backend.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn calls_that_do_not_end_are_cut_when_it_is_gone_and_not_before() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    scene.load(1).await;
    let began = Instant::now();
    // Twice, the second time with less.
    scene.backend.take_away(&instance, Duration::from_secs(20)).await;
    scene.revoked(&instance).await;
    scene.backend.take_away(&instance, Duration::from_secs(9)).await;
    while scene.backend.stops().is_empty() {
        scene.backend.stopped.notified().await;
    }
    let took = began.elapsed();
    assert!((9..11).contains(&took.as_secs()), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_ends_otherwise_than_it_was_told_says_both() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    scene.backend.take_away(&instance, Duration::ZERO).await;
    scene.backend.end(&instance, Exit { code: None, signal: Some(9), out_of_memory: false }).await;
    scene.revoked(&instance).await;
    assert!(matches!(scene.heard().await, ToGateway::Gone { .. }));
    let notes = scene.notes().await;
    assert!(notes.iter().any(|note| note.ends_with("its node is drained: killed by signal 9")), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_taken_away_while_it_starts_is_no_failure_and_another_is_started() {
    let mut scene = Scene::new();
    scene.backend.will([Act::Hangs]);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    while scene.backend.running().is_empty() {
        tokio::task::yield_now().await;
    }
    let starting = scene.backend.running().remove(0);
    scene.backend.take_away(&starting, Duration::from_secs(20)).await;
    let began = Instant::now();
    assert_ne!(scene.granted().await, starting);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(scene.handle.snapshot().revisions[&id()].failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_later_controller_gives_one_that_is_taken_away_no_calls_and_the_time_to_end_those_it_has() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let old = scene.granted().await;
    let left = Duration::from_secs(20);
    scene.backend.take_away(&old, left).await;
    scene.revoked(&old).await;
    let mut scene = scene.restart().await;
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.handle.settled().await.unwrap();
    scene.want(1, 0).await;
    assert_ne!(scene.granted().await, old);
    while scene.backend.stops().is_empty() {
        scene.backend.stopped.notified().await;
    }
    assert_eq!(scene.backend.stops(), [(old, left)]);
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_keeps_its_time_though_a_gateway_cannot_reach_it() {
    // Accused before it is known to leave, and after.
    for accused_first in [true, false] {
        let mut scene = Scene::new();
        scene.handle.put(hello(Reach::Routed)).await.unwrap();
        scene.want(1, 0).await;
        let old = scene.granted().await;
        scene.load(1).await;
        let lost = ToScaler::Lost { instance: old.clone(), reason: "cannot connect to it".to_owned() };
        if accused_first {
            scene.to_scaler.send(lost.clone()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        scene.backend.take_away(&old, Duration::from_secs(20)).await;
        scene.revoked(&old).await;
        if !accused_first {
            scene.to_scaler.send(lost).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(scene.backend.stops(), [], "accused first: {accused_first}");
        scene.backend.stopped.notified().await;
        assert_eq!(scene.backend.stops().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_was_told_to_end_from_outside_leaves_and_is_replaced_at_once() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let old = scene.granted().await;
    scene.load(1).await;
    let began = Instant::now();
    scene.backend.tell_to_end(&old);
    scene.replaced(&old, began).await;
    scene.backend.end(&old, EXIT).await;
    let reason = "it was told to end from outside: exit code 0".to_owned();
    assert_eq!(scene.heard().await, ToGateway::Gone { instance: old.clone(), reason });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(scene.told(&format!("{old} leaves: it was told to end from outside")));
    let notes = scene.notes().await;
    assert_eq!(notes, ["the instance leaves: it was told to end from outside"], "its end is no mishap");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_told_to_end_while_nobody_ran_is_found_out_by_the_next_controller() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let old = scene.granted().await;
    let mut scene = scene.restart().await;
    scene.backend.tell_to_end(&old);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.handle.settled().await.unwrap();
    scene.want(1, 0).await;
    assert_eq!(scene.granted().await, old, "it answers");
    scene.revoked(&old).await;
    assert_ne!(scene.granted().await, old);
}

#[tokio::test(start_paused = true)]
async fn what_an_instance_says_of_its_end_is_no_news_where_it_was_told_by_us_or_leaves_already() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let taken = scene.granted().await;
    scene.load(1).await;
    scene.backend.take_away(&taken, Duration::from_secs(20)).await;
    scene.revoked(&taken).await;
    let drained = scene.granted().await;
    scene.backend.tell_to_end(&taken);
    scene.handle.put(hello(Reach::Retired)).await.unwrap();
    scene.load(0).await;
    scene.revoked(&drained).await;
    scene.backend.tell_to_end(&drained);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(scene.notes().await, ["the instance leaves: its node is drained"]);
}

#[tokio::test(start_paused = true)]
async fn those_that_leave_as_soon_as_they_are_ready_do_not_come_and_go_without_a_pause() {
    let mut scene = Scene::new();
    let kept = target("hello-00001", json!({}), |policy| policy.min = 1, Reach::Routed);
    scene.handle.put(kept).await.unwrap();
    let began = Instant::now();
    for _ in 0..5 {
        let instance = scene.granted().await;
        scene.backend.tell_to_end(&instance);
        scene.revoked(&instance).await;
        scene.backend.end(&instance, EXIT).await;
        assert!(matches!(scene.heard().await, ToGateway::Gone { .. }));
    }
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
}
