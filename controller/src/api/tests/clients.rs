//! What Kubernetes clients ask beyond the plain verbs: by the kube crate, or as kubectl puts it on the wire.

use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::{Event, Namespace};
use kube::Discovery;

use super::*;

impl Running {
    async fn with_functions(names: &[&str]) -> Self {
        let running = running().await;
        for name in names {
            running.functions().create(&PostParams::default(), &hello(name)).await.unwrap();
        }
        running
    }

    /// With one Function that says no more than it must: its defaults belong to nobody.
    async fn with_a_bare_function() -> Self {
        let running = running().await;
        let bare = json!({
            "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "a" },
            "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
        });
        let (code, answer) = running.send(Request::post(FUNCTIONS), bare.to_string()).await;
        assert_eq!(code, 201, "{answer}");
        running
    }

    async fn json(&self, request: http::request::Builder) -> Value {
        let (code, answer) = self.send(request, "").await;
        assert_eq!(code, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }
}

const FUNCTIONS: &str = "/apis/hearth.dev/v1/namespaces/default/functions";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn max(value: u32) -> Value {
    json!({
        "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "a" }, "spec": { "scale": { "max": value } },
    })
}

#[tokio::test]
async fn discovery_in_one_answer_says_what_the_single_ones_say() {
    let running = running().await;
    let one_by_one = Discovery::new(running.client.clone()).run().await.unwrap();
    let aggregated = Discovery::new(running.client.clone()).run_aggregated().await.unwrap();
    let told = |discovery: &Discovery| {
        let mut told: Vec<String> = discovery
            .groups()
            .flat_map(|group| group.recommended_resources())
            .map(|(resource, can)| {
                let below: Vec<_> = can.subresources.iter().map(|(below, _)| &below.plural).collect();
                format!(
                    "{} {} {:?} {:?} {below:?}",
                    resource.api_version, resource.plural, can.scope, can.operations
                )
            })
            .collect();
        told.sort();
        told
    };
    assert_eq!(told(&one_by_one).len(), 7);
    assert_eq!(told(&one_by_one).len(), told(&aggregated).len());
    let (function, can) = aggregated.get("hearth.dev").unwrap().recommended_kind("Function").unwrap();
    assert_eq!(function.plural, "functions");
    assert!(can.supports_operation("watch") && can.supports_operation("deletecollection"));
    running.api.stop().await;
}

#[tokio::test]
async fn the_schemas_are_there_in_both_versions() {
    let running = running().await;
    let index = running.json(Request::get("/openapi/v3")).await;
    let url = index["paths"]["apis/hearth.dev/v1"]["serverRelativeURL"].as_str().unwrap();
    let document = running.json(Request::get(url)).await;
    let function = &document["components"]["schemas"]["dev.hearth.v1.Function"];
    assert_eq!(function["properties"]["spec"]["properties"]["scale"]["properties"]["max"]["default"], 20);
    let old = running.json(Request::get("/openapi/v2")).await;
    assert_eq!(old["swagger"], "2.0");
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let (code, body) = running.send(Request::get("/openapi/v2").header("accept", accept), "").await;
    assert!(code == 200 && body.contains("dev.hearth.v1.Function") && !body.starts_with('{'));
    running.api.stop().await;
}

#[tokio::test]
async fn lists_come_in_pages_that_a_watch_can_follow() {
    let running = Running::with_functions(&["a", "b", "c", "d", "e"]).await;
    let functions = running.functions();
    let first = functions.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!(first.metadata.remaining_item_count, Some(3));
    // What changes between the pages: one that was told goes, one that was not comes.
    functions.delete("a", &DeleteParams::default()).await.unwrap();
    functions.create(&PostParams::default(), &hello("d2")).await.unwrap();
    let (mut names, mut token) = (Vec::new(), first.metadata.continue_);
    while let Some(next) = token {
        let page = functions.list(&ListParams::default().limit(2).continue_token(&next)).await.unwrap();
        assert_eq!(page.metadata.resource_version, first.metadata.resource_version);
        names.extend(page.items.iter().map(ResourceExt::name_any));
        token = page.metadata.continue_;
    }
    assert_eq!(names, ["c", "d", "d2", "e"]);
    let since = first.metadata.resource_version.unwrap();
    let missed = functions.watch(&WatchParams::default().timeout(1), &since).await.unwrap();
    let missed: Vec<_> = missed.try_collect().await.unwrap();
    assert!(matches!(missed.as_slice(), [WatchEvent::Deleted(_), WatchEvent::Added(_)]), "{missed:?}");
    let wrong = functions.list(&ListParams::default().continue_token("%")).await.unwrap_err();
    assert_eq!(status(wrong).code, 400);
    running.api.stop().await;
}

#[tokio::test]
async fn a_streamed_list_ends_with_a_bookmark() {
    let running = Running::with_functions(&["a", "b"]).await;
    let query = "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let (_, events) = running.send(Request::get(format!("{FUNCTIONS}{query}")), "").await;
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["ADDED", "ADDED", "BOOKMARK"]);
    let bookmark = &events[2]["object"]["metadata"];
    assert_eq!(bookmark["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(bookmark["resourceVersion"], running.store.resource_version().to_string());

    let seen = streamed(running.functions()).await;
    assert_eq!(seen.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["a", "b"]);
    running.api.stop().await;
}

#[tokio::test]
async fn a_watcher_that_was_away_too_long_lists_again() {
    let running = running_with_history(2).await;
    let functions = running.functions();
    let old = functions.create(&PostParams::default(), &hello("a")).await.unwrap();
    for name in ["b", "c", "d"] {
        functions.create(&PostParams::default(), &hello(name)).await.unwrap();
    }
    let since = old.resource_version().unwrap();
    let mut watch = pin!(functions.watch(&WatchParams::default(), &since).await.unwrap());
    let Some(Ok(WatchEvent::Error(gone))) = watch.next().await else { panic!("an error is told") };
    assert_eq!(gone.code, 410);
    let mut events = pin!(watcher(functions, watcher::Config::default()));
    let mut names = Vec::new();
    while let Some(event) = events.try_next().await.unwrap() {
        match event {
            watcher::Event::InitApply(function) => names.push(function.name_any()),
            watcher::Event::InitDone => break,
            _ => {}
        }
    }
    assert_eq!(names, ["a", "b", "c", "d"]);
    running.api.stop().await;
}

#[tokio::test]
async fn a_dry_run_answers_and_stores_nothing() {
    let running = Running::with_functions(&["a"]).await;
    let functions = running.functions();
    let before = running.store.resource_version();
    let post = PostParams { dry_run: true, ..PostParams::default() };
    let created = functions.create(&post, &hello("b")).await.unwrap();
    assert!(created.uid().is_some());
    let mut changed = functions.get("a").await.unwrap();
    changed.spec.scale.max = 3;
    assert_eq!(functions.replace("a", &post, &changed).await.unwrap().spec.scale.max, 3);
    let patch = PatchParams { dry_run: true, ..PatchParams::apply("me").force() };
    assert_eq!(functions.patch("a", &patch, &Patch::Apply(max(4))).await.unwrap().spec.scale.max, 4);
    // Where kubectl puts it, and where others do.
    let (code, _) = running.send(Request::delete(format!("{FUNCTIONS}/a")), r#"{"dryRun":["All"]}"#).await;
    assert_eq!(code, 200);
    let (code, _) = running.send(Request::delete(format!("{FUNCTIONS}/a?dryRun=All")), "").await;
    assert_eq!(code, 200);
    let refused = functions.create(&post, &hello("a")).await.unwrap_err();
    assert_eq!(status(refused).reason, "AlreadyExists");
    assert_eq!(running.store.resource_version(), before);
    running.api.stop().await;
}

#[tokio::test]
async fn an_apply_over_anothers_field_is_a_conflict_with_its_name() {
    let running = Running::with_a_bare_function().await;
    let functions = running.functions();
    let by = |manager: &str| PatchParams::apply(manager);
    functions.patch("a", &by("ops"), &Patch::Apply(max(4))).await.unwrap();
    let refused = status(functions.patch("a", &by("dev"), &Patch::Apply(max(5))).await.unwrap_err());
    let cause = &refused.details.as_ref().unwrap().causes[0];
    assert_eq!((refused.code, refused.reason.as_str()), (409, "Conflict"));
    assert_eq!((cause.reason.as_str(), cause.field.as_str()), ("FieldManagerConflict", ".spec.scale.max"));
    assert_eq!(cause.message, r#"conflict with "ops" using hearth.dev/v1"#);
    let forced = functions.patch("a", &by("dev").force(), &Patch::Apply(max(5))).await.unwrap();
    let managers = forced.metadata.managed_fields.unwrap();
    let names: Vec<_> = managers.iter().map(|entry| entry.manager.as_deref().unwrap()).collect();
    assert!(names.contains(&"dev") && !names.contains(&"ops"), "{names:?}");

    let unknown =
        json!({ "apiVersion": "hearth.dev/v1", "kind": "Function", "spec": { "scale": { "mox": 1 } } });
    let refused = status(functions.patch("a", &by("dev"), &Patch::Apply(unknown)).await.unwrap_err());
    assert!(refused.code == 422 && refused.message.contains("spec.scale.mox"), "{}", refused.message);
    let mut stale = max(6);
    stale["metadata"]["resourceVersion"] = json!("1");
    let refused = status(functions.patch("a", &by("dev"), &Patch::Apply(stale)).await.unwrap_err());
    assert_eq!(refused.code, 409, "the version that is named is no longer the object's");
    running.api.stop().await;
}

#[tokio::test]
async fn owners_can_be_handed_over_as_kubectl_does() {
    let running = Running::with_a_bare_function().await;
    let functions = running.functions();
    functions.patch("a", &PatchParams::apply("old"), &Patch::Apply(max(4))).await.unwrap();
    let mut function = functions.get("a").await.unwrap();
    let managers = function.metadata.managed_fields.as_mut().unwrap();
    managers.iter_mut().for_each(|entry| {
        if entry.manager.as_deref() == Some("old") {
            entry.manager = Some("new".to_owned());
        }
    });
    functions.replace("a", &PostParams::default(), &function).await.unwrap();
    functions.patch("a", &PatchParams::apply("new"), &Patch::Apply(max(5))).await.unwrap();
    let patch = json!({ "metadata": { "managedFields": [{ "manager": "x", "operation": "Delete" }] } });
    let refused = functions.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap_err();
    assert_eq!(status(refused).code, 400);
    running.api.stop().await;
}

#[tokio::test]
async fn a_table_has_the_columns_of_the_definition() {
    let running = Running::with_functions(&["a", "b"]).await;
    let table = running.json(Request::get(FUNCTIONS).header("accept", TABLE)).await;
    let columns: Vec<_> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "Ready", "URL", "Instances", "Revision", "Age"]);
    assert_eq!(table["rows"][1]["cells"][0], "b");
    assert_eq!(table["rows"][1]["object"]["kind"], "PartialObjectMetadata");
    let watched = format!("{FUNCTIONS}?watch=true&timeoutSeconds=1&includeObject=None");
    let (_, events) = running.send(Request::get(watched).header("accept", TABLE), "").await;
    let first: Value = serde_json::from_str(events.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["object"]["kind"], &first["object"]["rows"][0]["object"]),
        (&json!("Table"), &Value::Null)
    );
    let metadata = running.functions().list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 2);
    let (code, _) = running.send(Request::get(FUNCTIONS).header("accept", "text/html"), "").await;
    assert_eq!(code, 406);
    running.api.stop().await;
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector() {
    let running = Running::with_functions(&["a", "b", "c"]).await;
    let functions = running.functions();
    let wanted = ListParams::default().fields("metadata.name!=b");
    functions.delete_collection(&DeleteParams::default(), &wanted).await.unwrap();
    let left = functions.list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["b"]);
    running.api.stop().await;
}

#[tokio::test]
async fn the_scale_is_the_minimum() {
    let running = Running::with_functions(&["a"]).await;
    let functions = running.functions();
    assert_eq!(functions.get_scale("a").await.unwrap().spec.unwrap().replicas, Some(0));
    let patch = |replicas: i32| Patch::Merge(json!({ "spec": { "replicas": replicas } }));
    let scaled = functions.patch_scale("a", &PatchParams::default(), &patch(2)).await.unwrap();
    assert_eq!(scaled.spec.unwrap().replicas, Some(2));
    assert_eq!(functions.get("a").await.unwrap().spec.scale.min, 2);
    for wrong in [-1, 21] {
        let refused = functions.patch_scale("a", &PatchParams::default(), &patch(wrong)).await.unwrap_err();
        assert_eq!(status(refused).code, 422, "{wrong}");
    }
    running.api.stop().await;
}

#[tokio::test]
async fn changes_beside_one_another_are_all_taken() {
    let running = Running::with_functions(&["a"]).await;
    let functions = running.functions();
    let parameters = PatchParams::default();
    let scales = [1, 2, 3].map(|count| Patch::Merge(json!({ "spec": { "replicas": count } })));
    let scaled = scales.each_ref().map(|patch| functions.patch_scale("a", &parameters, patch));
    futures_util::future::try_join_all(scaled).await.unwrap();
    let scales = [4, 5, 6].map(|count| json!({ "metadata": { "name": "a" }, "spec": { "replicas": count } }));
    let replaced = scales.map(|scale| {
        let request = Request::put(format!("{FUNCTIONS}/a/scale"));
        running.send(request, scale.to_string())
    });
    let replaced = futures_util::future::join_all(replaced).await;
    assert!(replaced.iter().all(|(code, _)| *code == 200), "{replaced:?}");
    let urls = ["b", "c", "d"].map(|url| Patch::Merge(json!({ "status": { "url": url } })));
    let told = urls.each_ref().map(|patch| functions.patch_status("a", &parameters, patch));
    futures_util::future::try_join_all(told).await.unwrap();

    let stale = json!({ "metadata": { "resourceVersion": "1" }, "status": { "url": "e" } });
    let refused = functions.patch_status("a", &parameters, &Patch::Merge(stale)).await.unwrap_err();
    assert_eq!(status(refused).code, 409, "one that names a version is for that");
    running.api.stop().await;
}

#[tokio::test]
async fn events_and_namespaces_are_views_of_the_functions() {
    let running = Running::with_functions(&["a"]).await;
    let condition = json!({ "type": "Ready", "status": "False", "reason": "Crashed", "message": "it ended", "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let patch = Patch::Merge(json!({ "status": { "conditions": [condition] } }));
    running.functions().patch_status("a", &PatchParams::default(), &patch).await.unwrap();
    let events: kube::Api<Event> = kube::Api::namespaced(running.client.clone(), "default");
    let about = ListParams::default().fields("involvedObject.name=a,involvedObject.kind=Function");
    let list = events.list(&about).await.unwrap();
    let [event] = list.items.as_slice() else { panic!("{list:?}") };
    assert_eq!((event.type_.as_deref(), event.reason.as_deref()), (Some("Warning"), Some("Crashed")));
    assert_eq!(events.get(&event.name_any()).await.unwrap().message, event.message);
    let other = ListParams::default().fields("involvedObject.name=b");
    assert!(events.list(&other).await.unwrap().items.is_empty());

    let mut watch = pin!(events.watch(&WatchParams::default().timeout(10), "0").await.unwrap());
    let Some(Ok(WatchEvent::Added(first))) = watch.next().await else { panic!("what is there comes first") };
    assert_eq!(first.reason.as_deref(), Some("Crashed"));

    let namespaces: kube::Api<Namespace> = kube::Api::all(running.client.clone());
    let names: Vec<_> = namespaces
        .list(&ListParams::default())
        .await
        .unwrap()
        .items
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(names, ["default"]);
    assert_eq!(status(namespaces.get("none").await.unwrap_err()).code, 404);
    running.api.stop().await;
}

#[tokio::test]
async fn a_name_is_generated_where_a_prefix_is_given() {
    let running = running().await;
    let mut function = hello("x");
    function.metadata.name = None;
    function.metadata.generate_name = Some("job-".to_owned());
    let created = running.functions().create(&PostParams::default(), &function).await.unwrap();
    assert!(
        created.name_any().starts_with("job-") && created.name_any().len() == 9,
        "{}",
        created.name_any()
    );
    running.api.stop().await;
}

#[tokio::test]
async fn bodies_of_any_shape_are_answered() {
    let running = Running::with_a_bare_function().await;
    let a = format!("{FUNCTIONS}/a");
    for shape in [
        "[]",
        "3",
        "null",
        r#""x""#,
        "{}",
        r#"{"metadata":[]}"#,
        r#"{"metadata":{"name":[]},"spec":3}"#,
        r#"{"metadata":{"managedFields":3}}"#,
    ] {
        for (request, media) in [
            (Request::post(FUNCTIONS), "application/json"),
            (Request::put(&a), "application/json"),
            (Request::put(format!("{a}/status")), "application/json"),
            (Request::put(format!("{a}/scale")), "application/json"),
            (Request::patch(format!("{a}?fieldManager=x&dryRun=All")), "application/merge-patch+json"),
            (Request::patch(format!("{a}?fieldManager=x&dryRun=All")), "application/apply-patch+yaml"),
            (Request::patch(format!("{a}/scale?dryRun=All")), "application/merge-patch+json"),
        ] {
            let (code, answer) = running.send(request.header("content-type", media), shape).await;
            assert!((200..500).contains(&code), "{media} {shape}: {code} {answer}");
        }
        let replaced = format!(r#"[{{"op":"replace","path":"","value":{shape}}}]"#);
        let request = Request::patch(&a).header("content-type", "application/json-patch+json");
        let (code, answer) = running.send(request, replaced).await;
        assert!((400..500).contains(&code), "{shape}: {code} {answer}");
    }
    running.api.stop().await;
}
