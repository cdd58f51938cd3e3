//! Instances that stand at their limit of processes.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_instance_at_its_process_limit_says_so_once_in_the_log_among_the_decisions_and_as_a_metric() {
    let mut scene = Scene::new();
    scene.handle.put(hello(Reach::Routed)).await.unwrap();
    scene.want(1, 0).await;
    let instance = scene.granted().await;
    scene.backend.refuse_processes(3);
    let told = |decided: &crate::autoscale::snapshot::Decided| {
        decided.about == About::ProcessLimit
            && decided
                .text
                .starts_with(&format!("{instance} met its limit of 512 processes and threads: 3 times"))
    };
    let mut shown = scene.handle.watch();
    let has = |snapshot: &Arc<Snapshot>| {
        snapshot.revisions.get(&id()).is_some_and(|view| view.decisions.iter().any(told))
    };
    timeout(Duration::from_secs(60), shown.wait_for(has)).await.unwrap().unwrap();

    scene.backend.refuse_processes(10);
    let counted = "hearth_instance_refused_total{namespace=\"default\",function=\"hello\",revision=\"hello-00001\",limit=\"pids\"} 10";
    timeout(Duration::from_secs(60), async {
        while !scene.metrics.render().contains(counted) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("it is counted");
    let notes = scene.notes().await;
    assert_eq!(
        notes,
        ["the instance met its limit of 512 processes and threads: 3 times it could not make another"]
    );
}
