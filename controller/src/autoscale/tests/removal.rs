//! Removals that are given up half way: the task of a Function is cut off by a newer spec.

use super::*;

/// A Revision whose removal has begun, is not waited for any more, and ends with this instance.
async fn half_removed(scene: &mut Scene) -> InstanceId {
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    tokio::select! {
        _ = scene.handle.remove(id()) => panic!("its instance has a call"),
        message = scene.from_scaler.recv() => assert!(matches!(message, Some(ToGateway::Revoke { .. }))),
    }
    instance
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_begins_meanwhile_hears_that_it_is_removed() {
    let mut scene = Scene::new();
    let instance = half_removed(&mut scene).await;
    let drained = async {
        // The trial is heard of first.
        tokio::time::sleep(Duration::from_millis(1)).await;
        scene.to_scaler.send(ToScaler::Drained { instance }).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(scene.handle.try_out(id()), drained);
    assert_eq!(outcome, Err(TrialError::Removed));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_wanted_again_stays() {
    let mut scene = Scene::new();
    let instance = half_removed(&mut scene).await;
    scene.handle.put(hello(Reach::Untried)).await.unwrap();
    scene.to_scaler.send(ToScaler::Drained { instance }).await.unwrap();
    assert_eq!(scene.handle.try_out(id()).await, Ok(()));
}
