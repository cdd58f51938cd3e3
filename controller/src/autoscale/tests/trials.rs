//! Trials of a Revision whose starts failed before: only their own starts count.

use super::*;

/// A Revision of which calls had starts fail one after the other, until none waits any more.
async fn that_failed_calls(acts: impl IntoIterator<Item = Act>) -> Scene {
    let mut scene = Scene::new();
    scene.backend.will(acts);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    scene.failed().await;
    scene
}

#[tokio::test(start_paused = true)]
async fn what_came_of_a_trial_is_shown_before_it_is_told() {
    let scene = that_failed_calls([Act::CannotLoad]).await;
    scene.want(0, 0).await;
    scene.handle.put(hello(Reach::Untried)).await.unwrap();
    scene.handle.try_out(id()).await.unwrap();
    let view = scene.handle.snapshot().revisions[&id()].clone();
    assert_eq!((view.counts.ready, view.came_up, &view.failure), (1, true, &None));
}

#[tokio::test(start_paused = true)]
async fn a_trial_does_not_wait_because_calls_failed_before() {
    let mut scene = that_failed_calls(std::iter::repeat_n(Act::CannotLoad, 5)).await;
    for _ in 0..4 {
        scene.failed().await;
    }
    scene.want(0, 0).await;
    scene.handle.put(hello(Reach::Untried)).await.unwrap();
    let began = Instant::now();
    scene.handle.try_out(id()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_failure_of_a_start_from_before_a_trial_is_not_the_trials() {
    let mut scene = Scene::new();
    scene.backend.takes(Duration::from_secs(1));
    scene.backend.will([Act::CannotLoad]);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let mut shown = scene.handle.watch();
    let starts = |snapshot: &Arc<Snapshot>| {
        snapshot.revisions.get(&id()).is_some_and(|view| view.counts.starting == 1)
    };
    shown.wait_for(starts).await.unwrap();
    scene.handle.put(hello(Reach::Untried)).await.unwrap();
    assert_eq!(scene.handle.try_out(id()).await, Ok(()));
    assert_eq!(scene.backend.starts(), 2);
    scene.granted().await;
    // It is kept among the starts all the same.
    let view = scene.handle.snapshot().revisions[&id()].clone();
    assert_eq!(view.starts.iter().filter(|start| start.failure.is_some()).count(), 1);
    // The next failure is its own.
    let other = target("other-00001", json!({}), |_| {}, Reach::Untried);
    let revision = other.template.revision().clone();
    scene.backend.will([Act::CannotLoad]);
    scene.handle.put(other).await.unwrap();
    assert!(matches!(scene.handle.try_out(revision).await, Err(TrialError::Failed(_))));
}
