//! The store of a cluster against an API server in memory. `controller/tests/cluster` has the same promises against a real one.

use std::time::Duration;

use hearth_function::{Function, FunctionStatus, Revision, RevisionStatus};
use jiff::Timestamp;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::{Error, Event, Preconditions, Watch, unreadable};
use super::*;

pub(crate) mod server;

use server::Server;

fn function(name: &str) -> serde_json::Value {
    json!({
        "apiVersion": "hearth.dev/v1", "kind": "Function",
        "metadata": { "name": name, "namespace": "default", "generation": 1 },
        "spec": { "runtime": "exec", "source": { "inline": { "run.sh": "" } }, "command": ["/bin/true"] },
    })
}

fn revision(name: &str) -> Revision {
    let digest = format!("sha256:{}", "0".repeat(64));
    serde_json::from_value(json!({
        "metadata": { "name": name, "namespace": "default" },
        "spec": { "function": "hello", "generation": 1, "templateDigest": digest,
            "template": { "runtime": "nodejs", "bundle": digest } },
    }))
    .unwrap()
}

async fn open(server: &Server, tasks: &mut JoinSet<()>) -> Store {
    let Opened { store, follower, listed, .. } = super::open(server.client(), &Config::default());
    tasks.spawn(follower.run());
    listed.await.unwrap();
    store
}

/// The store of the Hearth in a namespace, with what others have claimed.
async fn open_as(installation: &str, server: &Server, tasks: &mut JoinSet<()>) -> (Store, Elsewhere) {
    let config = Config { installation: Some(installation.to_owned()), ..Config::default() };
    let Opened { store, follower, listed, elsewhere } = super::open(server.client(), &config);
    tasks.spawn(follower.run());
    listed.await.unwrap();
    (store, elsewhere)
}

async fn next(watch: &mut Watch<Function>) -> Event<Function> {
    timeout(Duration::from_secs(60), watch.next()).await.expect("there is an event").unwrap()
}

#[tokio::test]
async fn what_is_there_is_listed_and_what_comes_is_told() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    server.put("functions", function("a"));
    let store = open(&server, &mut tasks).await;
    let listed = store.list::<Function>(None);
    assert_eq!(listed.items.len(), 1);
    assert_eq!(listed.items[0].metadata.managed_fields, None);
    let mut watch = store.watch::<Function>(listed.resource_version).unwrap();
    server.put("functions", function("b"));
    assert!(matches!(next(&mut watch).await, Event::Added(one) if one.metadata.name.as_deref() == Some("b")));
    server.remove("functions", "a");
    assert!(
        matches!(next(&mut watch).await, Event::Deleted(one) if one.metadata.name.as_deref() == Some("a"))
    );
    store.close().await;
    assert!(matches!(timeout(Duration::from_secs(60), watch.next()).await.unwrap(), Err(Error::Closed)));
}

#[tokio::test]
async fn a_write_is_in_memory_when_it_returns() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    let store = open(&server, &mut tasks).await;
    let mut new = revision("hello-00001");
    new.status = Some(RevisionStatus { dependencies: Some("key".to_owned()), ..Default::default() });
    let made = store.create(new, Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(made.status.as_ref().unwrap().dependencies.as_deref(), Some("key"));
    assert_eq!(store.get::<Revision>("default", "hello-00001").unwrap(), made);
    assert!(matches!(
        store.create(revision("hello-00001"), Timestamp::UNIX_EPOCH).await,
        Err(Error::AlreadyExists { .. })
    ));
    let plain = store.create(revision("hello-00002"), Timestamp::UNIX_EPOCH).await.unwrap();
    assert_eq!(plain.status, None, "one request will do where the status says nothing");
    store
        .delete::<Revision>("default", "hello-00001", Preconditions::default(), Timestamp::UNIX_EPOCH)
        .await
        .unwrap();
    assert!(matches!(store.get::<Revision>("default", "hello-00001"), Err(Error::NotFound { .. })));
    assert_eq!(server.object("revisions", "hello-00001"), None);
}

#[tokio::test]
async fn a_status_replaces_the_one_before_and_nothing_else() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    server.put("functions", function("a"));
    let store = open(&server, &mut tasks).await;
    let mut known = Function::clone(&store.get::<Function>("default", "a").unwrap());
    known.metadata.resource_version = None;
    known.status = Some(FunctionStatus { url: Some("http://x".to_owned()), ..Default::default() });
    store.update_status(known.clone()).await.unwrap();
    known.status = Some(FunctionStatus { ready_revision: Some("a-00001".to_owned()), ..Default::default() });
    let written = store.update_status(known.clone()).await.unwrap();
    assert_eq!(written.status, known.status);
    let raw = server.object("functions", "a").unwrap();
    assert_eq!(raw["status"].get("url"), None, "{raw}");
    // The spec is as its author wrote it.
    assert_eq!(raw["spec"], function("a")["spec"]);
    known.metadata.uid = Some("another".to_owned());
    assert!(matches!(store.update_status(known).await, Err(Error::Conflict { .. })));
}

#[tokio::test]
async fn of_two_hearths_the_first_to_hold_a_function_has_it_and_the_other_does_not_know_it() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    server.put("functions", function("a"));
    let (first, of_second) = open_as("first", &server, &mut tasks).await;
    let (second, mut of_first) = open_as("second", &server, &mut tasks).await;
    let seen_by_second = second.get::<Function>("default", "a").unwrap();
    let held = first.finalize(&*first.get::<Function>("default", "a").unwrap(), "hold", true).await.unwrap();
    let claimed = |function: &Function| function.metadata.annotations.as_ref()?.values().next().cloned();
    assert_eq!(claimed(&held).as_deref(), Some("first"));
    // It has not heard of that, and does not get it all the same.
    let refused = second.finalize(&*seen_by_second, "hold", true).await;
    assert!(
        matches!(&refused, Err(Error::Refused { detail, .. }) if detail.contains("first")),
        "{refused:?}"
    );
    if of_first.list().is_empty() {
        timeout(Duration::from_secs(60), of_first.changed()).await.expect("it hears of it");
    }
    let [taken] = &of_first.list()[..] else { panic!("{:?}", of_first.list()) };
    assert_eq!((taken.claimant.as_str(), taken.function.to_string().as_str()), ("first", "default/a"));
    assert!(second.get::<Function>("default", "a").is_err());
    assert_eq!(of_second.list(), []);
    assert_eq!(claimed(&first.get::<Function>("default", "a").unwrap()).as_deref(), Some("first"));
}

#[tokio::test]
async fn a_finalizer_comes_and_goes_and_others_stay() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    let mut object = function("a");
    object["metadata"]["finalizers"] = json!(["theirs"]);
    server.put("functions", object.clone());
    let store = open(&server, &mut tasks).await;
    let known = store.get::<Function>("default", "a").unwrap();
    // Somebody else writes meanwhile.
    object["metadata"]["labels"] = json!({ "x": "y" });
    server.put("functions", object);
    let held = store.finalize(&*known, "ours", true).await.unwrap();
    assert_eq!(held.metadata.finalizers.as_deref(), Some(&["theirs".to_owned(), "ours".to_owned()][..]));
    assert!(held.metadata.labels.is_some());
    let writes = |server: &Server| server.requests().iter().filter(|one| one.starts_with("PATCH")).count();
    let before = writes(&server);
    store.finalize(&*known, "ours", true).await.unwrap();
    assert_eq!(writes(&server), before, "it is there already");
    let marked = store
        .delete::<Function>("default", "a", Preconditions::default(), Timestamp::UNIX_EPOCH)
        .await
        .unwrap();
    assert!(marked.metadata.deletion_timestamp.is_some());
    store.finalize(&*known, "theirs", false).await.unwrap();
    store.finalize(&*known, "ours", false).await.unwrap();
    assert!(matches!(store.get::<Function>("default", "a"), Err(Error::NotFound { .. })));
    assert_eq!(server.object("functions", "a"), None);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_for_a_moment_is_asked_again() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    let store = open(&server, &mut tasks).await;
    server.fail(&[503, 500, 429]);
    store.create(revision("hello-00001"), Timestamp::UNIX_EPOCH).await.unwrap();
    server.fail(&[503; 64]);
    let away = store.create(revision("hello-00002"), Timestamp::UNIX_EPOCH).await;
    assert!(matches!(away, Err(Error::Io { .. })), "{away:?}");
    server.fail(&[]);
}

#[tokio::test]
async fn what_will_never_be_taken_is_said_at_once() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    let store = open(&server, &mut tasks).await;
    server.fail(&[403]);
    let refused = store.create(revision("hello-00001"), Timestamp::UNIX_EPOCH).await.unwrap_err();
    assert!(
        refused.to_string().contains("default/hello-00001") && refused.to_string().contains("not now"),
        "{refused}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lost_watch_begins_again_and_nothing_is_missed() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    server.put("functions", function("a"));
    server.put("functions", function("b"));
    let store = open(&server, &mut tasks).await;
    let listed = store.list::<Function>(None);
    let mut watch = store.watch::<Function>(listed.resource_version).unwrap();
    server.remove("functions", "a");
    server.put("functions", function("c"));
    server.cut_watches();
    server.fail(&[503, 503]);
    let mut told = vec![next(&mut watch).await, next(&mut watch).await];
    told.sort_by_key(|event| event.object().metadata.name.clone());
    assert!(matches!(&told[..], [Event::Deleted(_), Event::Added(_)]), "{told:?}");
    let names: Vec<_> =
        store.list::<Function>(None).items.iter().map(|one| one.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["b", "c"]);
}

#[tokio::test]
async fn an_object_of_another_definition_hides_no_other_and_says_why() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    let mut later = function("later");
    later["spec"]["runtime"] = json!("cobol");
    later["spec"]["timeouts"] = json!({ "execute": "5 sek" });
    server.put("functions", later);
    server.put("functions", function("a"));
    let store = open(&server, &mut tasks).await;
    assert!(unreadable(&store.get::<Function>("default", "a").unwrap().metadata).is_none());
    let later = store.get::<Function>("default", "later").unwrap();
    let why = unreadable(&later.metadata).unwrap();
    let named =
        ["spec.runtime: \"cobol\" is not a runtime", "spec.timeouts.execute: \"5 sek\" is not a time"];
    assert!(named.iter().all(|named| why.contains(named)), "{why}");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_keeps_its_status_and_its_finalizer() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    let mut later = function("later");
    later["spec"]["runtime"] = json!("cobol");
    server.put("functions", later);
    let store = open(&server, &mut tasks).await;
    let known = store.get::<Function>("default", "later").unwrap();
    store.finalize(known.as_ref(), "hearth.dev/instances", true).await.unwrap();
    let mut known = Function::clone(&known);
    known.metadata.resource_version = None;
    known.status = Some(FunctionStatus { url: Some("http://x".to_owned()), ..Default::default() });
    let written = store.update_status(known.clone()).await.unwrap();
    assert_eq!(written.status, known.status, "it is not written again at every look");
    assert!(unreadable(&written.metadata).is_some_and(|why| why.starts_with("spec.runtime: ")));
    let raw = server.object("functions", "later").unwrap();
    assert_eq!((&raw["status"]["url"], &raw["spec"]["runtime"]), (&json!("http://x"), &json!("cobol")));
    assert_eq!(raw["metadata"]["finalizers"], json!(["hearth.dev/instances"]));
}

#[tokio::test]
async fn a_definition_without_what_is_written_is_named() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    server.put("functions", function("a"));
    let store = open(&server, &mut tasks).await;
    let mut known = Function::clone(&store.get::<Function>("default", "a").unwrap());
    known.metadata.resource_version = None;
    known.status = Some(FunctionStatus { url: Some("http://x".to_owned()), ..Default::default() });
    // As where there is no such path: the object itself is there.
    server.fail(&[404]);
    let error = store.update_status(known.clone()).await.unwrap_err().to_string();
    assert!(
        error.contains("no status of its own") && error.contains("hearth crd | kubectl apply"),
        "{error}"
    );
    // As where the definition is newer than this program.
    server.fail(&[422]);
    assert!(matches!(store.update_status(known.clone()).await, Err(Error::Outdated { .. })));
    known.metadata.name = Some("gone".to_owned());
    assert!(matches!(store.update_status(known).await, Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_cannot_be_listed_holds_others_up_for_a_while_and_is_known_later() {
    let (server, mut tasks) = (Server::new(), JoinSet::new());
    let mut other = function("b");
    other["metadata"]["namespace"] = json!("other");
    server.put("functions", function("a"));
    server.put("functions", other);
    server.refuse("GET revisions in other", 403);
    let namespaces = vec!["default".to_owned(), "other".to_owned()];
    let Opened { store, follower, mut listed, .. } =
        super::open(server.client(), &Config { namespaces, installation: None });
    tasks.spawn(follower.run());
    assert!(timeout(Duration::from_secs(29), &mut listed).await.is_err(), "it may be let in yet");
    timeout(Duration::from_secs(3), listed).await.expect("others are not held up").unwrap();
    assert_eq!(store.unlisted(), ["other".to_owned()].into());
    assert_eq!(store.list::<Function>(None).items.len(), 1, "none of which the revisions are not known");
    let mut changes = store.changes();
    server.refuse("GET revisions in other", None);
    let heard = async {
        while store.list::<Function>(None).items.len() < 2 {
            changes.changed().await.unwrap();
        }
        while !store.unlisted().is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(120), heard).await.expect("it is known");
}
