//! What a Function's state means, what a change is, and what is told of permissions.

use hearth_function::{Side, from_value};
use serde_json::json;

use super::*;
use crate::cli::client::tests::{cluster_of, server_of};

fn function(change: impl FnOnce(&mut serde_json::Value)) -> Function {
    let mut value = json!({
        "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "hello" },
        "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
    });
    change(&mut value);
    from_value(&value, Side::Server).unwrap()
}

/// What an API server says to whoever lacks a permission.
fn forbidden(message: &'static str) -> axum::routing::MethodRouter {
    axum::routing::any(async move || {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 403, "reason": "Forbidden", "message": message });
        (StatusCode::FORBIDDEN, axum::Json(status))
    })
}

#[tokio::test]
async fn the_permission_that_is_lacking_is_named() {
    let server = server_of(cluster_of("/bundles/{digest}", forbidden("cannot get services/proxy"))).await;
    let packed = Packed { digest: Digest::of(b""), bytes: Vec::new(), files: 0, unpacked_bytes: 0 };
    let error = upload(&server, "hello", &packed).await.unwrap_err().text();
    assert!(error.contains("cannot get services/proxy"), "{error}");

    let routes = axum::Router::new().fallback_service(forbidden("cannot list functions"));
    let server = server_of(kube::Client::new(routes, "team")).await;
    let error = ready(&server, &function(|_| {}), Outcome::Created).await.unwrap_err().text();
    assert!(error.contains("may not be waited for: cannot list functions"), "{error}");
    assert!(error.contains("--no-wait"), "{error}");
}

#[test]
fn routes_and_scale_are_no_new_revision() {
    let before = function(|_| {}).spec;
    let routes = function(|value| value["spec"]["triggers"] = json!([{ "http": { "path": "/x" } }])).spec;
    let scale = function(|value| value["spec"]["scale"] = json!({ "max": 3 })).spec;
    assert!(same_template(&before, &routes) && same_template(&before, &scale));
    let env = function(|value| value["spec"]["env"] = json!([{ "name": "A", "value": "b" }])).spec;
    let code = function(|value| value["spec"]["source"]["inline"]["index.js"] = json!("1")).spec;
    assert!(!same_template(&before, &env) && !same_template(&before, &code));
}

#[test]
fn what_editors_and_tools_leave_is_no_change() {
    for path in [
        "a/.git/index",
        "a/.index.js.swp",
        "a/4913",
        "a/index.js~",
        "a/.#index.js",
        "a/#index.js#",
        "a/__pycache__/main.cpython-311.pyc",
        "a/.DS_Store",
        "a/node_modules/x/index.js",
    ] {
        assert!(is_ignored(Path::new(path)), "{path}");
    }
    for path in ["a/index.js", "a/.env", "a/49130", "a/#1.txt", "a/.well-known/x"] {
        assert!(!is_ignored(Path::new(path)), "{path}");
    }
}
