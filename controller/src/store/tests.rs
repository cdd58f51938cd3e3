//! The store against the promises of its documentation.

use std::path::Path;

use hearth_function::{ConditionStatus, ConditionType, Function, FunctionStatus, Revision};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use super::*;

mod crash;
pub(super) mod disk;
mod model;

fn function(name: &str) -> Function {
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
    }))
    .unwrap()
}

fn revision(name: &str, owner: &Function) -> Revision {
    let digest = format!("sha256:{}", "0".repeat(64));
    let mut revision: Revision = serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "function": owner.metadata.name, "generation": 1, "templateDigest": digest,
            "template": { "runtime": "nodejs", "bundle": digest },
        },
    }))
    .unwrap();
    revision.metadata.owner_references = Some(vec![OwnerReference {
        uid: owner.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    revision
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

async fn open(directory: &Path) -> Store {
    Store::open(Config::new(directory.join("hearth.redb"))).await.unwrap()
}

fn version<O: Object>(object: &O) -> u64 {
    object.meta().resource_version.as_deref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_new_object_gets_its_identity() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let made = store.create(function("hello"), now()).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.metadata.creation_timestamp.as_ref().map(|time| time.0), Some(now()));
    let uid = made.metadata.uid.clone().unwrap();
    assert_eq!((uid.len(), uid.as_bytes()[14]), (36, b'8'), "{uid}");
    assert_eq!(store.get::<Function>("default", "hello").unwrap(), made);

    let again = store.create(function("hello"), now()).await;
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    // In the same second, and with a name that comes first.
    let later = store.create(function("earlier-by-name"), now()).await.unwrap();
    assert!(creation_order(&made.metadata) < creation_order(&later.metadata));
    let replaced = store.update(Function::clone(&made)).await.unwrap();
    assert_eq!(creation_order(&replaced.metadata), creation_order(&made.metadata));

    let mut nameless = function("x");
    nameless.metadata.name = None;
    assert!(matches!(store.create(nameless, now()).await, Err(Error::Invalid { .. })));
    assert!(matches!(store.get::<Function>("other", "hello"), Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn generation_counts_changes_of_the_spec_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let first = store.create(function("hello"), now()).await.unwrap();

    let same = store.update(Function::clone(&first)).await.unwrap();
    assert_eq!(same, first, "an update that changes nothing writes nothing");

    let mut labelled = Function::clone(&same);
    labelled.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
    let labelled = store.update(labelled).await.unwrap();
    assert_eq!(labelled.metadata.generation, Some(1));
    assert!(version(&*labelled) > version(&*first));

    let mut scaled = Function::clone(&labelled);
    scaled.spec.scale.max = 3;
    scaled.metadata.generation = Some(77);
    let scaled = store.update(scaled).await.unwrap();
    assert_eq!(scaled.metadata.generation, Some(2));

    let mut with_status = Function::clone(&scaled);
    with_status.status =
        Some(FunctionStatus { url: Some("http://x".to_owned()), ..FunctionStatus::default() });
    with_status.spec.scale.max = 9;
    let with_status = store.update_status(with_status).await.unwrap();
    assert_eq!((with_status.metadata.generation, with_status.spec.scale.max), (Some(2), 3));
    assert!(with_status.status.is_some());

    let mut without = Function::clone(&with_status);
    without.status = None;
    without.spec.scale.max = 4;
    let updated = store.update(without).await.unwrap();
    assert_eq!(updated.status, with_status.status, "an update leaves the status alone");
}

#[tokio::test]
async fn a_stale_write_is_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let first = store.create(function("hello"), now()).await.unwrap();
    let mut mine = Function::clone(&first);
    mine.spec.scale.max = 1;
    let mut yours = mine.clone();
    yours.spec.scale.max = 2;
    store.update(mine).await.unwrap();
    let refused = store.update(yours.clone()).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
    let refused = store.update_status(yours.clone()).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");

    yours.metadata.resource_version = None;
    let forced = store.update(yours.clone()).await.unwrap();
    assert_eq!(forced.spec.scale.max, 2);
    yours.metadata.uid = Some("another".to_owned());
    assert!(matches!(store.update(yours).await, Err(Error::Conflict { .. })));

    let stale =
        Preconditions { resource_version: first.metadata.resource_version.clone(), ..Default::default() };
    let refused = store.delete::<Function>("default", "hello", stale, now()).await;
    assert!(matches!(refused, Err(Error::Conflict { .. })), "{refused:?}");
}

#[tokio::test]
async fn deletion_takes_what_the_object_alone_owns() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let hello = store.create(function("hello"), now()).await.unwrap();
    let other = store.create(function("other"), now()).await.unwrap();
    store.create(revision("hello-00001", &hello), now()).await.unwrap();
    store.create(revision("hello-00002", &hello), now()).await.unwrap();
    store.create(revision("other-00001", &other), now()).await.unwrap();
    let mut shared = revision("shared-00001", &hello);
    shared
        .metadata
        .owner_references
        .as_mut()
        .unwrap()
        .extend(revision("x", &other).metadata.owner_references.unwrap());
    store.create(shared, now()).await.unwrap();
    let before = store.resource_version();
    let mut watch = store.watch::<Revision>(before).unwrap();

    let last = store.delete::<Function>("default", "hello", Preconditions::default(), now()).await.unwrap();
    assert!(version(&*last) > before.get());
    let left: Vec<_> = store
        .list::<Revision>(None)
        .items
        .iter()
        .map(|revision| revision.metadata.name.clone().unwrap())
        .collect();
    assert_eq!(left, ["other-00001", "shared-00001"]);
    for expected in ["hello-00001", "hello-00002"] {
        let Event::Deleted(gone) = watch.next().await.unwrap() else { panic!("not a deletion") };
        assert_eq!(gone.metadata.name.as_deref(), Some(expected));
    }
    let missing = store.delete::<Function>("default", "hello", Preconditions::default(), now()).await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn an_object_with_finalizers_waits_for_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let mut held = function("hello");
    held.metadata.finalizers = Some(vec!["hearth.dev/drain".to_owned()]);
    store.create(held, now()).await.unwrap();
    let marked = store.delete::<Function>("default", "hello", Preconditions::default(), now()).await.unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    let again = store.delete::<Function>("default", "hello", Preconditions::default(), now()).await.unwrap();
    assert_eq!(again, marked);
    let mut more = Function::clone(&marked);
    more.metadata.finalizers.get_or_insert_default().push("example.com/late".to_owned());
    let refused = store.update(more).await;
    assert!(
        matches!(&refused, Err(Error::Deleting { finalizers, .. }) if *finalizers == ["example.com/late"]),
        "{refused:?}"
    );
    let mut released = Function::clone(&marked);
    released.metadata.finalizers = None;
    released.metadata.deletion_timestamp = None;
    store.update(released).await.unwrap();
    assert!(matches!(store.get::<Function>("default", "hello"), Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn a_watch_continues_where_a_list_ended() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let hello = store.create(function("hello"), now()).await.unwrap();
    let listed = store.list::<Function>(Some("default"));
    assert_eq!(listed.items, vec![Arc::clone(&hello)]);
    let mut watch = store.watch::<Function>(listed.resource_version).unwrap();
    let mut next = tokio_test_pending(&mut watch).await;
    assert!(next.is_none(), "{next:?}");

    store.create(revision("hello-00001", &hello), now()).await.unwrap();
    let mut changed = Function::clone(&hello);
    changed.spec.scale.max = 2;
    let changed = store.update(changed).await.unwrap();
    store.delete::<Function>("default", "hello", Preconditions::default(), now()).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Event::Modified(changed));
    let gone = watch.next().await.unwrap();
    assert_eq!((gone.name(), version(&**gone.object())), ("DELETED", watch.resource_version().get()));
    next = tokio_test_pending(&mut watch).await;
    assert!(next.is_none(), "{next:?}");
    assert_eq!(watch.resource_version(), store.resource_version(), "changes of other kinds move a watch on");
}

/// One look at a watch, without waiting.
async fn tokio_test_pending(watch: &mut Watch<Function>) -> Option<Event<Function>> {
    let next = std::pin::pin!(watch.next());
    match futures_util::poll!(next) {
        std::task::Poll::Ready(event) => Some(event.unwrap()),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn a_change_wakes_a_waiting_watch() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let mut watch = store.watch::<Function>(store.resource_version()).unwrap();
    let (event, made) = tokio::join!(watch.next(), store.create(function("hello"), now()));
    assert_eq!(event.unwrap(), Event::Added(made.unwrap()));
}

#[tokio::test]
async fn a_watch_that_falls_behind_expires() {
    let directory = tempfile::tempdir().unwrap();
    let config = Config { history: 3, ..Config::new(directory.path().join("hearth.redb")) };
    let store = Store::open(config).await.unwrap();
    let start = store.resource_version();
    let mut slow = store.watch::<Function>(start).unwrap();
    for name in ["a", "b", "c"] {
        store.create(function(name), now()).await.unwrap();
    }
    assert!(store.watch::<Function>(start).is_ok(), "the history still reaches to the start");
    store.create(function("d"), now()).await.unwrap();
    assert!(matches!(slow.next().await, Err(Error::Expired { .. })));
    assert!(matches!(store.watch::<Function>(start), Err(Error::Expired { .. })));
    let future = ResourceVersion::parse("99").unwrap();
    assert!(matches!(store.watch::<Function>(future), Err(Error::Expired { .. })));
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let hello = store.create(function("hello"), now()).await.unwrap();
    let mut changed = Function::clone(&hello);
    changed.status = Some(FunctionStatus::default());
    hearth_function::set_condition(
        &mut changed.status.as_mut().unwrap().conditions,
        hearth_function::Condition {
            condition_type: ConditionType::Ready,
            status: ConditionStatus::True,
            reason: "Ready".to_owned(),
            message: String::new(),
            last_transition_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()),
            observed_generation: Some(1),
        },
    );
    let changed = store.update_status(changed).await.unwrap();
    store.create(function("gone"), now()).await.unwrap();
    store.delete::<Function>("default", "gone", Preconditions::default(), now()).await.unwrap();
    store.put_record("keys", "a", b"1".to_vec()).await.unwrap();
    store.add_to_counters("usage", vec![("x".to_owned(), 2)]).await.unwrap();
    let version = store.resource_version();
    let mut watch = store.watch::<Function>(version).unwrap();
    let other = store.clone();
    store.close().await;
    assert!(matches!(watch.next().await, Err(Error::Closed)));
    assert!(matches!(other.create(function("late"), now()).await, Err(Error::Closed)));

    let store = open(directory.path()).await;
    assert_eq!(store.list::<Function>(None).items, vec![changed]);
    assert_eq!(store.resource_version(), version);
    let older = ResourceVersion::new(version.get() - 1);
    assert!(matches!(store.watch::<Function>(older), Err(Error::Expired { .. })));
    assert_eq!(store.record("keys", "a").await.unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(store.counters("usage").await.unwrap(), [("x".to_owned(), 2)]);
}

#[tokio::test]
async fn records_and_counters_keep_to_their_collection() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    for (collection, key, value) in [("a", "x", "1"), ("b", "x", "2"), ("b", "y", "3"), ("c", "", "4")] {
        store.put_record(collection, key, value.into()).await.unwrap();
    }
    store.put_record("b", "x", "5".into()).await.unwrap();
    assert_eq!(
        store.records("b").await.unwrap(),
        [("x".to_owned(), b"5".to_vec()), ("y".to_owned(), b"3".to_vec())]
    );
    store.delete_record("b", "x").await.unwrap();
    store.delete_record("b", "x").await.unwrap();
    assert_eq!(store.record("b", "x").await.unwrap(), None);
    store.add_to_counters("b", vec![("n".to_owned(), 1), ("m".to_owned(), u64::MAX)]).await.unwrap();
    store.add_to_counters("b", vec![("n".to_owned(), 4), ("m".to_owned(), 1)]).await.unwrap();
    assert_eq!(store.counters("b").await.unwrap(), [("m".to_owned(), u64::MAX), ("n".to_owned(), 5)]);
    assert_eq!(store.counters("a").await.unwrap(), []);
}

#[tokio::test]
async fn a_second_opening_says_who_is_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path()).await;
    let second = Store::open(Config::new(directory.path().join("hearth.redb"))).await;
    let Err(error @ Error::InUse { .. }) = second else { panic!("{second:?}") };
    assert!(error.to_string().contains("in use by another process"), "{error}");
    store.close().await;
    open(directory.path()).await;
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.redb");
    std::fs::write(&path, "this is no database, however long it may go on about it").unwrap();
    let opened = Store::open(Config::new(&path)).await;
    assert!(matches!(opened, Err(Error::Corrupt { .. } | Error::Io { .. })), "{opened:?}");
    let nowhere = Store::open(Config::new(directory.path().join("missing/hearth.redb"))).await;
    assert!(matches!(nowhere, Err(Error::Io { .. })), "{nowhere:?}");
}

#[tokio::test]
async fn a_file_of_a_later_program_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).await.close().await;
    let path = directory.path().join("hearth.redb");
    let database = redb::Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    transaction.open_table(meta).unwrap().insert("schema", 99).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let opened = Store::open(Config::new(&path)).await;
    assert!(matches!(opened, Err(Error::TooNew { found: 99, .. })), "{opened:?}");
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path()).await;
    let mode = std::fs::metadata(directory.path().join("hearth.redb")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}
