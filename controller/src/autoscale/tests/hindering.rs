//! Starts that no node takes, and starts that failed and are tried again though nobody calls.

use super::*;

/// Hours, in which whatever is tried again and again would be seen.
const LONG: Duration = Duration::from_secs(3 * 3600);

fn view(scene: &Scene) -> RevisionView {
    RevisionView::clone(&scene.handle.snapshot().revisions[&id()])
}

/// Waits until what is shown is so.
async fn shows(scene: &Scene, is_so: impl Fn(&RevisionView) -> bool) {
    let mut shown = scene.handle.watch();
    let seen = shown.wait_for(|snapshot| snapshot.revisions.get(&id()).is_some_and(|view| is_so(view)));
    timeout(Duration::from_secs(600), seen).await.expect("it is never shown").unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_start_that_no_node_takes_goes_on_and_whoever_waits_is_told_at_once() {
    let mut scene = Scene::new();
    scene.backend.always(Act::Hindered);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(5, 0).await;
    let (failure, retry_after) = scene.failed().await;
    assert_eq!((failure.code, failure.message.as_str()), (StartCode::Unschedulable, "no node takes it"));
    assert!(retry_after < Duration::from_secs(10));
    scene.want(0, 0).await;
    tokio::time::sleep(LONG).await;
    // As many as begin at once; of those one is left when nobody waits.
    assert!(scene.backend.starts() <= 2, "{}", scene.backend.starts());
    assert_eq!(view(&scene).counts.starting, 1);
    assert_eq!(view(&scene).failure, Some(failure.clone()));
    // Who comes now does not wait either.
    scene.want(1, 0).await;
    assert_eq!(scene.failed().await.0, failure);
    scene.backend.make_room();
    scene.granted().await;
    shows(&scene, |view| view.failure.is_none() && view.counts.ready == 1).await;
    assert!(scene.backend.starts() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_image_is_pulled_is_not_cut_and_whoever_waits_goes_on_waiting() {
    let mut scene = Scene::new();
    scene.backend.always(Act::Pulled);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    // Longer than any start may take.
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!((scene.backend.starts(), view(&scene).failure), (1, None));
    scene.backend.make_room();
    scene.granted().await;
    assert_eq!((scene.backend.starts(), scene.backend.stops().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_start_that_no_node_takes_holds_up_no_other() {
    let mut scene = Scene::new();
    scene.backend.will([Act::Hindered]);
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(2, 0).await;
    scene.failed().await;
    scene.want(0, 0).await;
    let other = target("other-00001", json!({}), |policy| policy.min = 1, Reach::Routed);
    scene.handle.put(other).await.unwrap();
    assert!(scene.granted().await.as_str().starts_with("other"));
}

fn at_least(name: &str, min: u32) -> Target {
    target(&format!("{name}-00001"), json!({}), |policy| policy.min = min, Reach::Routed)
}

#[tokio::test(start_paused = true)]
async fn a_start_whose_image_is_pulled_holds_up_no_other() {
    let mut scene = Scene::new();
    // A quarter of two places, but one at least, is for starts that nobody waits for.
    scene.backend.will([Act::Pulled]);
    scene.handle.put(at_least("hello", 3)).await.unwrap();
    shows(&scene, |view| view.counts.starting == 1).await;
    scene.handle.put(at_least("other", 1)).await.unwrap();
    assert!(scene.granted().await.as_str().starts_with("other"));
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!((scene.backend.starts(), view(&scene).counts.starting), (2, 1), "it waits for its own alone");
    // Those that somebody waits for may have both places.
    scene.backend.will([Act::Pulled]);
    scene.want(9, 0).await;
    shows(&scene, |view| view.counts.starting == 2).await;
    tokio::time::sleep(Duration::from_secs(500)).await;
    assert_eq!(scene.backend.starts(), 3);
    scene.handle.put(at_least("third", 1)).await.unwrap();
    assert!(scene.granted().await.as_str().starts_with("third"));
    scene.want(0, 0).await;
    scene.backend.make_room();
    shows(&scene, |view| view.counts.ready == 3 && view.counts.starting == 0).await;
}

#[tokio::test(start_paused = true)]
async fn starts_whose_images_are_pulled_have_a_bound_of_their_own() {
    let mut scene = Scene::new();
    scene.backend.always(Act::Pulled);
    for name in 'a'..='z' {
        scene.handle.put(at_least(&name.to_string(), 1)).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(500)).await;
    // Four for each of two places, and one in the place of those that nobody waits for.
    assert_eq!(scene.backend.starts(), 9);
    scene.backend.make_room();
    for _ in 'a'..='z' {
        scene.granted().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_lasts_until_there_is_a_node() {
    let mut scene = Scene::new();
    scene.backend.will([Act::Hindered]);
    scene.handle.put(hello(Reach::Untried)).await.unwrap();
    let handle = scene.handle.clone();
    let mut trial = JoinSet::new();
    trial.spawn(async move { handle.try_out(id()).await });
    shows(&scene, |view| view.failure.as_ref().is_some_and(|one| one.code == StartCode::Unschedulable)).await;
    tokio::time::sleep(LONG).await;
    assert!(trial.try_join_next().is_none());
    scene.backend.make_room();
    scene.granted().await;
    assert_eq!(trial.join_next().await.unwrap().unwrap(), Ok(()));
    assert_eq!((scene.backend.starts(), scene.backend.stops().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_failed_at_zero_is_tried_again_until_it_comes_up_though_nobody_calls() {
    let mut scene = Scene::new();
    // Three failures until whoever waits is told, and two more.
    scene.backend.will(std::iter::repeat_n(Act::NotMade, 5));
    scene.handle.put(Target { mends: true, ..hello(Reach::Routed) }).await.unwrap();
    scene.want(1, 0).await;
    let (failure, _) = scene.failed().await;
    scene.want(0, 0).await;
    shows(&scene, |view| view.failure.as_ref() == Some(&failure)).await;
    let began = Instant::now();
    while !matches!(scene.heard().await, ToGateway::Grant { .. }) {}
    assert!(began.elapsed() < Duration::from_secs(120), "{:?}", began.elapsed());
    shows(&scene, |view| view.failure.is_none()).await;
    // It was tried, and nobody needs it.
    shows(&scene, |view| view.counts.ready == 0).await;
    tokio::time::sleep(LONG).await;
    assert_eq!(scene.backend.starts(), 6);
}

#[tokio::test(start_paused = true)]
async fn what_goes_on_failing_at_zero_is_tried_ever_more_seldom() {
    let mut scene = Scene::new();
    scene.backend.always(Act::NotMade);
    scene.handle.put(Target { mends: true, ..hello(Reach::Routed) }).await.unwrap();
    scene.want(1, 0).await;
    scene.failed().await;
    scene.want(0, 0).await;
    let draining = async { while let Some(_heard) = scene.from_scaler.recv().await {} };
    let _still_failing = timeout(LONG, draining).await.is_err();
    // Every five minutes at last.
    let starts = scene.backend.starts();
    assert!((20..60).contains(&starts), "{starts}");
}
