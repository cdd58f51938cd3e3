use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::patch;
use http::{HeaderMap, StatusCode, header};
use serde_json::json;

use super::*;

/// An API server with one Function in it, which merges sources field by field.
#[derive(Debug)]
struct World {
    function: Value,
    /// So many of the next applies are followed by somebody else's change.
    meddling: u32,
    applies: u32,
}

type Shared = Arc<Mutex<World>>;

fn merge(into: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else { return *into = patch.clone() };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            into.as_object_mut().unwrap().remove(name);
        } else {
            merge(&mut into[name], value);
        }
    }
}

async fn patched(
    State(world): State<Shared>,
    Path(_): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut world = world.lock().unwrap();
    let patch: Value = serde_json::from_slice(&body).unwrap();
    let version = world.function["metadata"]["resourceVersion"].clone();
    let asked = &patch["metadata"]["resourceVersion"];
    if !asked.is_null() && *asked != version {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409, "message": "modified" });
        return (StatusCode::CONFLICT, axum::Json(status)).into_response();
    }
    merge(&mut world.function, &patch);
    let next = |version: &Value| json!((version.as_str().unwrap().parse::<u64>().unwrap() + 1).to_string());
    world.function["metadata"]["resourceVersion"] = next(&version);
    let answer = world.function.clone();
    if headers[header::CONTENT_TYPE] == "application/apply-patch+yaml" {
        world.applies += 1;
        if world.meddling > 0 {
            world.meddling -= 1;
            world.function["metadata"]["resourceVersion"] = next(&answer["metadata"]["resourceVersion"]);
            world.function["spec"]["source"]["inline"]["theirs.js"] = json!("");
        }
    }
    axum::Json(answer).into_response()
}

/// The Function `x` with this source, and the server that has it.
fn server(source: &Value, meddling: u32) -> (Api<Function>, Shared) {
    let mut there = serde_json::to_value(function(source)).unwrap();
    there["metadata"]["resourceVersion"] = json!("7");
    let world = Arc::new(Mutex::new(World { function: there, meddling, applies: 0 }));
    let path = "/apis/hearth.dev/v1/namespaces/default/functions/{name}";
    let router: Router = Router::new().route(path, patch(patched)).with_state(Arc::clone(&world));
    (Api::namespaced(kube::Client::new(router, "default"), "default"), world)
}

fn bundle() -> Value {
    json!({ "bundle": format!("sha256:{}", "0".repeat(64)) })
}

#[tokio::test]
async fn of_two_sources_that_an_older_version_left_there_is_one_after_an_apply() {
    let both = json!({ "bundle": bundle()["bundle"], "inline": { "index.js": "" } });
    let (functions, world) = server(&both, 0);
    let applied = apply(&functions, &function(&bundle())).await.unwrap();
    assert_eq!(applied.spec.source, function(&bundle()).spec.source);
    assert_eq!(world.lock().unwrap().function["spec"]["source"], bundle());
}

#[tokio::test]
async fn a_change_of_somebody_else_in_between_is_seen_and_not_mixed_with_what_was_applied() {
    let (functions, world) = server(&json!({ "inline": { "index.js": "" } }), 2);
    let applied = apply(&functions, &function(&bundle())).await.unwrap();
    assert_eq!(applied.spec.source, function(&bundle()).spec.source);
    let world = world.lock().unwrap();
    assert_eq!((&world.function["spec"]["source"], world.applies), (&bundle(), 3));
}

#[tokio::test]
async fn one_who_changes_it_all_the_time_is_not_fought_for_ever() {
    let (functions, world) = server(&json!({ "inline": { "index.js": "" } }), u32::MAX);
    let refused = apply(&functions, &function(&bundle())).await;
    assert!(matches!(&refused, Err(kube::Error::Api(status)) if status.code == 409), "{refused:?}");
    assert_eq!(world.lock().unwrap().applies, ATTEMPTS);
}

fn function(source: &Value) -> Function {
    serde_json::from_value(json!({
        "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "x" },
        "spec": { "runtime": "nodejs", "handler": "index.handler", "source": source },
    }))
    .unwrap()
}

#[test]
fn what_others_have_put_into_the_source_is_taken_out() {
    let bundle = format!("sha256:{}", "0".repeat(64));
    let applied = function(&json!({ "bundle": bundle }));
    assert_eq!(rest_of_source(&applied, &applied), None);
    let mut merged = function(&json!({ "bundle": bundle, "inline": { "index.js": "" } }));
    merged.metadata.resource_version = Some("9".to_owned());
    let version = json!({ "resourceVersion": "9" });
    let rest = json!({ "metadata": version, "spec": { "source": { "inline": null } } });
    assert_eq!(rest_of_source(&merged, &applied), Some(rest));
    // Files of an earlier source, too.
    let applied = function(&json!({ "inline": { "index.js": "new" } }));
    let merged = function(&json!({ "inline": { "index.js": "new", "lib.js": "old" } }));
    let rest = rest_of_source(&merged, &applied).unwrap();
    assert_eq!(rest["spec"], json!({ "source": { "inline": { "lib.js": null } } }));
}

#[test]
fn kubectl_is_told_what_was_applied_and_of_long_files_their_names() {
    let told = |text: &str| {
        let mut function = function(&json!({ "inline": { "index.js": text } }));
        // As it is when a manifest was printed by kubectl.
        function.metadata.annotations = Some([(LAST_APPLIED.to_owned(), "old".to_owned())].into());
        note_applied(&mut function);
        let text = function.metadata.annotations.unwrap().remove(LAST_APPLIED).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let short = told("short");
    assert_eq!(short["spec"]["source"]["inline"]["index.js"], "short");
    assert!(short["metadata"]["annotations"].get(LAST_APPLIED).is_none(), "{short}");
    assert_eq!(told(&"x".repeat(100_000))["spec"]["source"]["inline"]["index.js"], "");
}
