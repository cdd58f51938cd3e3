//! What others do to objects of a Hearth, and what becomes of that.

use super::*;

/// A Revision of `name`, which is as it was made: of its number, with what `owner` is.
fn revision(name: &str, number: u32, owner: Option<&str>) -> serde_json::Value {
    let template = Template::of(&function(name).spec, Digest::of(b"code"));
    let owner = owner.map(|uid| json!([{ "apiVersion": hearth_function::API_VERSION, "kind": "Function", "name": name, "uid": uid }]));
    json!({
        "apiVersion": hearth_function::API_VERSION, "kind": "Revision",
        "metadata": { "name": format!("{name}-{number:05}"), "namespace": "default", "ownerReferences": owner },
        "spec": { "function": name, "generation": 1, "templateDigest": template.digest(), "template": template },
    })
}

#[tokio::test]
async fn a_function_begins_beside_the_revisions_of_one_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    // As `kubectl delete --cascade=orphan` leaves it.
    let orphan: Revision = serde_json::from_value(revision("hello", 3, None)).unwrap();
    store.create(orphan, Timestamp::UNIX_EPOCH).await.unwrap();
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    store.create(function("hello"), Timestamp::UNIX_EPOCH).await.unwrap();
    let status = status_until(&store, "hello", FunctionStatus::is_ready).await;
    assert_eq!(status.ready_revision.as_deref(), Some("hello-00004"));
    rig.shutdown.cancel();
}

#[tokio::test]
async fn a_name_that_stays_taken_is_said() {
    let (directory, server, mut tasks) = (tempfile::tempdir().unwrap(), Server::new(), JoinSet::new());
    // One that nobody is told of, as it cannot be read.
    let mut unreadable = revision("hello", 1, None);
    unreadable["spec"]["template"]["runtime"] = json!("cobol");
    server.put("revisions", unreadable);
    let store = open_cluster(&server, &mut tasks).await;
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    store.create(function("hello"), Timestamp::UNIX_EPOCH).await.unwrap();
    let refused = |status: &FunctionStatus| ready(status) == Some((ConditionStatus::False, "Refused"));
    let status = status_until(&store, "hello", refused).await;
    let said = &status.condition(ConditionType::Ready).unwrap().message;
    assert!(said.contains("hello-00001") && said.contains("already exists"), "{said}");
    rig.shutdown.cancel();
}

#[tokio::test]
async fn a_name_that_hearth_does_not_take_is_said_once_and_holds_nobody_up() {
    let (directory, server, mut tasks) = (tempfile::tempdir().unwrap(), Server::new(), JoinSet::new());
    let store = open_cluster(&server, &mut tasks).await;
    store.create(function("hello.v2"), Timestamp::UNIX_EPOCH).await.unwrap();
    let rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    let status = status_until(&store, "hello.v2", |status| ready(status).is_some()).await;
    assert_eq!(ready(&status), Some((ConditionStatus::False, "Invalid")));
    let said = &status.condition(ConditionType::Ready).unwrap().message;
    assert!(said.contains("\"hello.v2\" is not a name") && said.contains("as in hello-v2"), "{said}");
    assert_eq!((status.observed_generation, status.url), (Some(1), None));
    let long = "x".repeat(64);
    store.create(function(&long), Timestamp::UNIX_EPOCH).await.unwrap();
    let status = status_until(&store, &long, |status| ready(status).is_some()).await;
    let said = &status.condition(ConditionType::Ready).unwrap().message;
    assert!(said.contains("use at most 56"), "{said}");
    // Whoever writes to it hears nothing new of what has not changed.
    let mut noted = server.object("functions", "hello.v2").unwrap();
    noted["metadata"]["labels"] = json!({ "noted": "yes" });
    server.put("functions", noted);
    store.create(function("good"), Timestamp::UNIX_EPOCH).await.unwrap();
    status_until(&store, "good", FunctionStatus::is_ready).await;
    let written = |request: &&String| request.contains("functions/hello.v2/status");
    assert_eq!(server.requests().iter().filter(written).count(), 1);
    rig.shutdown.cancel();
}

#[tokio::test]
async fn a_revision_that_somebody_changes_gives_way_to_another() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory).await;
    let mut rig = Rig::begin(directory.path(), &store, HashMap::new()).await;
    store.create(function("hello"), Timestamp::UNIX_EPOCH).await.unwrap();
    status_until(&store, "hello", FunctionStatus::is_ready).await;
    let mut changed = Revision::clone(&store.get::<Revision>("default", "hello-00001").unwrap());
    changed.spec.template.env = serde_json::from_value(json!([{ "name": "A", "value": "b" }])).unwrap();
    changed.metadata.resource_version = None;
    store.update(changed).await.unwrap();
    // Whatever has its Function looked at.
    let mut looked_at = Function::clone(&store.get::<Function>("default", "hello").unwrap());
    let wish = (hearth_function::RETRY_ANNOTATION.to_owned(), "now".to_owned());
    looked_at.metadata.annotations.get_or_insert_default().extend([wish]);
    looked_at.metadata.resource_version = None;
    store.update(looked_at).await.unwrap();
    let is_new = |status: &FunctionStatus| status.ready_revision.as_deref() == Some("hello-00002");
    status_until(&store, "hello", is_new).await;
    let new = store.get::<Revision>("default", "hello-00002").unwrap();
    assert!(new.is_intact() && new.spec.template.env.is_empty(), "{new:?}");
    let remark = rig.remarked.recv().await.unwrap();
    assert!(remark.reason == "RevisionChanged" && remark.message.contains("hello-00001"), "{remark:?}");
    rig.shutdown.cancel();
}
