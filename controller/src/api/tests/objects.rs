//! Functions as objects: written, read, listed, watched.

use super::*;

#[tokio::test]
async fn a_function_is_created_read_changed_and_deleted() {
    let running = running().await;
    let functions = running.functions();
    let created = functions.create(&PostParams::default(), &hello("hello")).await.unwrap();
    assert_eq!((created.namespace().as_deref(), created.metadata.generation), (Some("default"), Some(1)));
    assert!(created.uid().is_some() && created.creation_timestamp().is_some());

    let again = status(functions.create(&PostParams::default(), &hello("hello")).await.unwrap_err());
    assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));

    let mut changed = functions.get("hello").await.unwrap();
    changed.labels_mut().insert("tier".to_owned(), "web".to_owned());
    let changed = functions.replace("hello", &PostParams::default(), &changed).await.unwrap();
    let stale = status(functions.replace("hello", &PostParams::default(), &created).await.unwrap_err());
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));

    let merged = functions
        .patch(
            "hello",
            &PatchParams::default(),
            &Patch::Merge(json!({ "spec": { "handler": "index.other" } })),
        )
        .await
        .unwrap();
    assert_eq!(merged.metadata.generation, Some(2));
    assert_eq!(merged.labels(), changed.labels());

    let deleted = functions.delete("hello", &DeleteParams::default()).await.unwrap();
    assert!(deleted.right().unwrap().is_success());
    let gone = status(functions.get("hello").await.unwrap_err());
    assert_eq!(
        (gone.code, gone.reason.as_str(), gone.details.unwrap().name.as_str()),
        (404, "NotFound", "hello")
    );
    running.api.stop().await;
}

#[tokio::test]
async fn an_object_that_is_being_deleted_gets_no_new_finalizers() {
    let running = running().await;
    let functions = running.functions();
    let mut held = hello("hello");
    held.metadata.finalizers = Some(vec!["example.com/a".to_owned()]);
    functions.create(&PostParams::default(), &held).await.unwrap();
    functions.delete("hello", &DeleteParams::default()).await.unwrap().left().unwrap();
    let finalizers = async |names: Value| {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": names } }));
        functions.patch("hello", &PatchParams::default(), &patch).await
    };
    let refused = status(finalizers(json!(["example.com/a", "example.com/b"])).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    let details = refused.details.unwrap();
    assert_eq!((details.kind.as_str(), details.name.as_str()), ("Function", "hello"));
    let cause = &details.causes[0];
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldValueForbidden", "metadata.finalizers"));
    assert_eq!(
        cause.message,
        r#"Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"example.com/b"}"#
    );
    finalizers(json!([])).await.unwrap();
    assert_eq!(status(functions.get("hello").await.unwrap_err()).code, 404, "without the last it goes");
    running.api.stop().await;
}

#[tokio::test]
async fn apply_creates_and_then_changes_and_keeps_what_it_does_not_name() {
    let running = running().await;
    let functions = running.functions();
    let apply = PatchParams::apply("test").force();
    let created = functions.patch("hello", &apply, &Patch::Apply(hello("hello"))).await.unwrap();
    let same = functions.patch("hello", &apply, &Patch::Apply(hello("hello"))).await.unwrap();
    assert_eq!(same.resource_version(), created.resource_version(), "the same again is no change");
    functions
        .patch(
            "hello",
            &PatchParams::default(),
            &Patch::Merge(json!({ "metadata": { "labels": { "mine": "1" } } })),
        )
        .await
        .unwrap();
    let mut other = hello("hello");
    other.spec.handler = Some("index.other".parse().unwrap());
    let changed = functions.patch("hello", &apply, &Patch::Apply(&other)).await.unwrap();
    assert_eq!((changed.metadata.generation, changed.labels().len()), (Some(2), 1));
    let labels = json!({
        "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "labels": { "theirs": "1" } },
    });
    let others = PatchParams::apply("other");
    let shared = functions.patch("hello", &others, &Patch::Apply(labels.clone())).await.unwrap();
    let mine = functions.patch("hello", &apply, &Patch::Apply(other)).await.unwrap();
    let theirs = functions.patch("hello", &others, &Patch::Apply(labels)).await.unwrap();
    let versions = [mine, theirs].map(|function| function.resource_version());
    assert_eq!(versions, [shared.resource_version(), shared.resource_version()], "nor is it by turns");
    running.api.stop().await;
}

#[tokio::test]
async fn a_status_is_written_by_itself_and_only_there() {
    let running = running().await;
    let functions = running.functions();
    let mut with_status = hello("hello");
    with_status.status =
        Some(hearth_function::FunctionStatus { url: Some("http://forged".to_owned()), ..Default::default() });
    let created = functions.create(&PostParams::default(), &with_status).await.unwrap();
    assert_eq!(created.status, None, "a client's status is not taken with the spec");
    let patch = json!({ "status": { "url": "http://real" }, "spec": { "handler": "index.ignored" } });
    let patched =
        functions.patch_status("hello", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(patched.status.unwrap().url.as_deref(), Some("http://real"));
    assert_eq!((patched.spec, patched.metadata.generation), (created.spec, Some(1)));
    running.api.stop().await;
}

#[tokio::test]
async fn lists_are_of_one_namespace_or_all_and_selected() {
    let running = running().await;
    for (namespace, name) in [("default", "a"), ("default", "b"), ("other", "c")] {
        let api: kube::Api<Function> = kube::Api::namespaced(running.client.clone(), namespace);
        api.create(&PostParams::default(), &hello(name)).await.unwrap();
    }
    let names = |list: kube::core::ObjectList<Function>| {
        list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    let functions = running.functions();
    assert_eq!(names(functions.list(&ListParams::default()).await.unwrap()), ["a", "b"]);
    assert_eq!(names(functions.list(&ListParams::default().fields("metadata.name=b")).await.unwrap()), ["b"]);
    let all: kube::Api<Function> = kube::Api::all(running.client.clone());
    let list = all.list(&ListParams::default()).await.unwrap();
    assert_eq!(
        list.metadata.resource_version.as_deref(),
        Some(running.store.resource_version().to_string().as_str())
    );
    assert_eq!(names(list), ["a", "b", "c"]);
    running.api.stop().await;
}

#[tokio::test]
async fn a_watch_resumes_where_it_was_and_ends_in_time() {
    let running = running().await;
    let functions = running.functions();
    let first = functions.create(&PostParams::default(), &hello("a")).await.unwrap();
    functions.create(&PostParams::default(), &hello("b")).await.unwrap();
    functions.delete("a", &DeleteParams::default()).await.unwrap();
    let params = WatchParams::default().timeout(1);
    let events: Vec<_> = functions
        .watch(&params, &first.resource_version().unwrap())
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Added(object) => format!("added {}", object.name_any()),
            WatchEvent::Deleted(object) => format!("deleted {}", object.name_any()),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["added b", "deleted a"]);

    let mut from_now = pin!(functions.watch(&WatchParams::default(), "0").await.unwrap());
    let Some(Ok(WatchEvent::Added(object))) = from_now.next().await else {
        panic!("the objects that are there come first")
    };
    assert_eq!(object.name_any(), "b");
    functions.create(&PostParams::default(), &hello("c")).await.unwrap();
    let Some(Ok(WatchEvent::Added(object))) = from_now.next().await else { panic!("and then what changes") };
    assert_eq!(object.name_any(), "c");
    // Watches do not hold the server up.
    running.api.stop().await;
    assert!(from_now.next().await.is_none_or(|event| event.is_err()));
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_told_to_list_again() {
    let running = running_with_history(2).await;
    let functions = running.functions();
    for name in ["a", "b", "c", "d"] {
        functions.create(&PostParams::default(), &hello(name)).await.unwrap();
    }
    for since in ["1", "99999"] {
        let mut watch = pin!(functions.watch(&WatchParams::default(), since).await.unwrap());
        let Some(Ok(WatchEvent::Error(gone))) = watch.next().await else { panic!("an error is told") };
        assert_eq!((gone.code, gone.reason.as_str()), (410, "Expired"), "{since}");
        assert!(watch.next().await.is_none(), "it is the last");
    }
    running.api.stop().await;
}

#[tokio::test]
async fn a_watch_by_selector_tells_who_enters_and_who_leaves_and_of_nobody_else() {
    let running = running().await;
    let functions = running.functions();
    let label = async |name: &str, tier: Value| {
        let patch = json!({ "metadata": { "labels": { "tier": tier } } });
        functions.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap()
    };
    let told = |events: Vec<WatchEvent<Function>>| -> Vec<String> {
        let named = |what, object: &Function| {
            format!("{what} {} at {}", object.name_any(), object.resource_version().unwrap())
        };
        let told = events.iter().map(|event| match event {
            WatchEvent::Added(object) => named("added", object),
            WatchEvent::Modified(object) => named("modified", object),
            WatchEvent::Deleted(object) => named("deleted", object),
            other => format!("{other:?}"),
        });
        told.collect()
    };
    let since = functions.create(&PostParams::default(), &hello("a")).await.unwrap();
    let since = since.resource_version().unwrap();
    // Never in it: of another label, changed, deleted.
    functions.create(&PostParams::default(), &hello("b")).await.unwrap();
    label("b", json!("db")).await;
    functions.delete("b", &DeleteParams::default()).await.unwrap();
    let entered = label("a", json!("web")).await.resource_version().unwrap();
    let patch = json!({ "metadata": { "labels": { "other": "1" } } });
    let within = functions.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    let within = within.resource_version().unwrap();
    let left = label("a", json!("db")).await.resource_version().unwrap();
    let params = WatchParams::default().labels("tier=web").timeout(1);
    let watched =
        async |since: &str| told(functions.watch(&params, since).await.unwrap().try_collect().await.unwrap());
    let [entered_told, within_told, left_told] =
        [("added", &entered), ("modified", &within), ("deleted", &left)]
            .map(|(what, version)| format!("{what} a at {version}"));
    assert_eq!(watched(&since).await, [&*entered_told, &*within_told, &*left_told]);
    // What was before the watch counts as well.
    assert_eq!(watched(&entered).await, [&*within_told, &*left_told]);
    assert_eq!(watched(&within).await, [&*left_told]);

    label("a", json!("cache")).await;
    assert_eq!(watched(&left).await, Vec::<String>::new());
    let again = label("a", json!("web")).await.resource_version().unwrap();
    functions.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(matches!(watched(&again).await.as_slice(), [one] if one.starts_with("deleted a")));

    let node = WatchParams::default().fields("spec.runtime=python").timeout(1);
    let none: Vec<_> = functions.watch(&node, &since).await.unwrap().try_collect().await.unwrap();
    assert!(none.is_empty(), "{none:?}");
    running.api.stop().await;
}

#[tokio::test]
async fn what_the_path_and_the_object_say_must_agree() {
    let running = running().await;
    let functions = "/apis/hearth.dev/v1/namespaces/default/functions";
    for wrong in [
        json!({ "kind": "Pod", "metadata": { "name": "a" } }),
        json!({ "metadata": { "name": "a", "namespace": "other" } }),
        json!([]),
    ] {
        let (code, answer) = running.send(Request::post(functions), wrong.to_string()).await;
        assert_eq!(code, 400, "{answer}");
        assert!(answer.contains(r#""kind":"Status""#), "{answer}");
    }
    let (code, _) = running.send(Request::post(functions), vec![b' '; 4 << 20]).await;
    assert_eq!(code, 413);
    let (code, answer) = running.send(Request::post(format!("{functions}?dryRun=Some")), "{}").await;
    assert_eq!((code, answer.contains("dryRun")), (400, true));
    let (code, answer) = running.send(Request::get("/apis/hearth.dev/v1/nothing"), "").await;
    assert_eq!((code, answer.contains("NotFound")), (404, true));
    let revision = "/apis/hearth.dev/v1/namespaces/default/revisions/a-00001";
    let (code, answer) = running.send(Request::delete(revision), "").await;
    assert_eq!((code, answer.contains("MethodNotAllowed")), (405, true));
    running.api.stop().await;
}

#[tokio::test]
async fn every_problem_of_a_function_is_named_by_its_field() {
    let running = running().await;
    let bad = json!({ "metadata": { "name": "a" }, "spec": { "runtime": "nodejs", "source": { "path": "." }, "hander": "a.b", "scale": { "min": 3, "max": 2 } } });
    let request = Request::post("/apis/hearth.dev/v1/namespaces/default/functions")
        .body(bad.to_string().into_bytes())
        .unwrap();
    let refused = status(running.client.request::<Value>(request).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    let details = refused.details.unwrap();
    let fields: Vec<_> = details.causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!((details.kind.as_str(), details.name.as_str()), ("Function", "a"));
    assert!(
        fields.contains(&"spec.hander") && fields.contains(&"spec.source.path") && fields.len() >= 3,
        "{:?}",
        details.causes
    );
    running.api.stop().await;
}

#[tokio::test]
async fn the_kube_crate_discovers_what_is_served() {
    let running = running().await;
    assert_eq!(running.client.apiserver_version().await.unwrap().major, "1");
    let groups = running.client.list_api_groups().await.unwrap();
    assert_eq!(groups.groups[0].name, "hearth.dev");
    let resources = running.client.list_api_group_resources("hearth.dev/v1").await.unwrap();
    let names: Vec<_> = resources.resources.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!(names, ["functions", "functions/status", "functions/scale", "revisions"]);
    running.api.stop().await;
}
