//! What a later controller makes of the instances that an earlier one left.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_later_controller_adopts_what_is_wanted_and_takes_away_the_rest() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let kept = scene.granted().await;
    let before = scene.started(&kept).await;
    let other = target("other-00001", json!({}), |policy| policy.min = 1, Reach::Routed);
    scene.handle.put(other).await.unwrap();
    let orphan = scene.granted().await;
    // Its lines are on disk before the controller is killed.
    let function = hearth_function::FunctionId::parse("default/hello").unwrap();
    while scene.logs.read(&function, Query::default()).await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }

    let mut scene = scene.restart().await;
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.handle.settled().await.unwrap();
    assert_eq!(scene.granted().await, kept);
    assert_eq!(scene.started(&kept).await, before, "an adopted instance keeps its age");
    let snapshot = scene.handle.snapshot();
    assert!(snapshot.revisions[&id()].starts.is_empty(), "an adoption is no start");
    while scene.backend.running() != [kept.clone()] {
        scene.backend.stopped.notified().await;
    }
    assert_eq!(scene.backend.stops().last().unwrap().0, orphan);
    assert_eq!(scene.backend.starts(), 2, "nothing was started again");
    let lines = scene.logs.read(&function, Query::default()).await.unwrap();
    assert_eq!(lines.len(), 2, "no line twice: {lines:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_adopted_is_replaced_and_nobody_is_told_of_a_failure() {
    let mut scene = Scene::new();
    scene.backend.will([Act::HangsLater]);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let old = scene.granted().await;
    let mut scene = scene.restart().await;
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.handle.settled().await.unwrap();
    scene.want(1, 0).await;
    let new = scene.granted().await;
    assert_ne!(new, old);
    while scene.backend.running() != [new.clone()] {
        scene.backend.stopped.notified().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_instance_of_an_earlier_run_is_not_used_again() {
    let mut scene = Scene::new();
    let model = |policy: &mut Policy| policy.process_model = hearth_function::spec::ProcessModel::Ephemeral;
    let ephemeral = || target("hello-00001", json!({ "processModel": "ephemeral" }), model, Reach::Routed);
    scene.handle.put(ephemeral()).await.unwrap();
    scene.want(1, 0).await;
    let old = scene.granted().await;
    let mut scene = scene.restart().await;
    scene.handle.put(ephemeral()).await.unwrap();
    scene.handle.settled().await.unwrap();
    scene.want(1, 0).await;
    assert_ne!(scene.granted().await, old);
}
