//! Revisions that are taken away, which takes its time.

use super::*;
use crate::backend::Exit;

#[tokio::test]
async fn the_status_follows_while_an_old_revision_goes() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    store.create(function("hello"), Timestamp::UNIX_EPOCH).await.unwrap();
    status_until(&store, "hello", FunctionStatus::is_ready).await;
    let old = rig.backend.running();
    rig.backend.cannot_stop(usize::MAX);
    let mut next = Function::clone(&store.get::<Function>("default", "hello").unwrap());
    next.spec.env = serde_json::from_value(json!([{ "name": "A", "value": "b" }])).unwrap();
    next.metadata.resource_version = None;
    store.update(next).await.unwrap();
    let is_new = |status: &FunctionStatus| status.ready_revision.as_deref() == Some("hello-00002");
    status_until(&store, "hello", |status| is_new(status) && status.instances.ready > 0).await;
    // Nothing comes up in the place of the one that ends.
    rig.backend.always(Act::NotMade);
    let mut new = rig.backend.running();
    new.retain(|instance| !old.contains(instance));
    assert_eq!((old.len(), new.len()), (1, 1));
    rig.backend.end(&new[0], Exit { code: Some(1), signal: None, out_of_memory: false }).await;
    let status = status_until(&store, "hello", |status| status.instances.ready == 0).await;
    assert!(is_new(&status), "{status:?}");
    assert!(rig.backend.running().contains(&old[0]), "it is not gone yet");
    rig.shutdown.cancel();
}
