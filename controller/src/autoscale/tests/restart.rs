//! What a later controller makes of the instances that an earlier one left.

use super::*;

/// A Revision that always has an instance.
fn other() -> Target {
    target("other-00001", json!({}), |policy| policy.min = 1, Reach::Routed)
}

/// A controller with an instance of `hello` and one of `other`: which.
async fn scene_of_two() -> (Scene, InstanceId, InstanceId) {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let of_hello = scene.granted().await;
    scene.handle.put(other()).await.unwrap();
    let of_other = scene.granted().await;
    (scene, of_hello, of_other)
}

#[tokio::test(start_paused = true)]
async fn a_later_controller_adopts_what_is_wanted_and_takes_away_the_rest() {
    let (scene, kept, orphan) = scene_of_two().await;
    let before = scene.started(&kept).await;
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
    let stops = scene.backend.stops();
    assert_eq!(stops.last(), Some(&(orphan, EXECUTE)), "calls that others have in it come to their end");
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
    assert_eq!(scene.backend.stops().last(), Some(&(old, EXECUTE)), "its call comes to its end");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_leaves_is_not_used_again_and_its_calls_come_to_their_end() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let old = scene.granted().await;
    let left = Duration::from_secs(30);
    scene.backend.tell_to_leave(&old, left);
    let mut scene = scene.restart().await;
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.handle.settled().await.unwrap();
    scene.want(1, 0).await;
    assert_ne!(scene.granted().await, old);
    assert_eq!(scene.backend.stops(), [(old, left)], "as long as whoever takes it away leaves it");
    let notes = scene.notes().await;
    assert!(!notes.iter().any(|note| note.contains("ended while the controller was away")), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_does_not_hold_up_a_stop_once_nobody_calls() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    scene.granted().await;
    let Scene { handle, backend, from_scaler, .. } = &mut scene.restart().await;
    backend.heeds_no_signal();
    handle.settled().await.unwrap();
    while backend.stops().is_empty() {
        tokio::task::yield_now().await;
    }
    let began = tokio::time::Instant::now();
    // The gateway ends.
    from_scaler.close();
    let left = handle.shutdown(began + Duration::from_secs(40)).await;
    assert_eq!(left, Left::default());
    assert!(began.elapsed() <= crate::pool::STOP_GRACE + TICK, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_run_left_of_a_function_that_is_gone_is_waited_for() {
    let function = FunctionId::parse("default/hello").unwrap();
    for settled in [false, true] {
        let (scene, gone, kept) = scene_of_two().await;
        let scene = scene.restart().await;
        scene.backend.heeds_no_signal();
        if settled {
            scene.handle.put(other()).await.unwrap();
            scene.handle.settled().await.unwrap();
        }
        let mut clearing = std::pin::pin!(scene.handle.clear(&function));
        assert!(timeout(EXECUTE / 2, &mut clearing).await.is_err(), "a call in it may run");
        assert_eq!(scene.backend.stops(), [(gone, EXECUTE)]);
        clearing.await.unwrap();
        assert_eq!(scene.backend.running(), [kept]);
        scene.handle.clear(&function).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_what_is_left_is_told_of_an_end_of_the_service() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    scene.granted().await;
    let Scene { handle, backend, mut tasks, .. } = scene.restart().await;
    backend.heeds_no_signal();
    let function = FunctionId::parse("default/hello").unwrap();
    let mut clearing = std::pin::pin!(handle.clear(&function));
    assert!(timeout(EXECUTE / 2, &mut clearing).await.is_err());
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    assert_eq!(clearing.await, Err(Ended));
}

#[tokio::test(start_paused = true)]
async fn what_runs_for_functions_that_are_not_known_stays_until_it_is_known_that_nobody_wants_it() {
    let (scene, kept, orphan) = scene_of_two().await;
    let mut scene = scene.restart().await;
    scene.handle.settled_but(["default".to_owned()].into()).await.unwrap();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    assert_eq!(scene.granted().await, kept);
    assert_eq!(scene.backend.stops(), []);
    scene.handle.settled_but(["elsewhere".to_owned()].into()).await.unwrap();
    while scene.backend.running() != [kept.clone()] {
        scene.backend.stopped.notified().await;
    }
    assert_eq!(scene.backend.stops().last().map(|(stopped, _)| stopped), Some(&orphan));
}
