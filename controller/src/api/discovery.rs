//! What the server says about itself: version, groups, resources. Enough for the kube crate; aggregated discovery and OpenAPI are not
//! served yet.

use axum::Json;
use serde_json::{Value, json};

/// The Kubernetes release whose API conventions the server follows: clients derive what they may ask for from it.
const KUBERNETES_MINOR: u32 = 34;

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "major": "1",
        "minor": KUBERNETES_MINOR.to_string(),
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+hearth.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "hearth": env!("CARGO_PKG_VERSION"),
    }))
}

pub(super) async fn core_versions() -> Json<Value> {
    Json(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
}

pub(super) async fn core_resources() -> Json<Value> {
    Json(json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": [] }))
}

pub(super) async fn groups() -> Json<Value> {
    Json(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [group()] }))
}

pub(super) async fn hearth_group() -> Json<Value> {
    let mut answer = group();
    answer["kind"] = json!("APIGroup");
    answer["apiVersion"] = json!("v1");
    Json(answer)
}

fn group() -> Value {
    let version = json!({ "groupVersion": "hearth.dev/v1", "version": "v1" });
    json!({ "name": "hearth.dev", "versions": [version], "preferredVersion": version })
}

pub(super) async fn hearth_resources() -> Json<Value> {
    Json(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "hearth.dev/v1",
        "resources": [
            {
                "name": "functions", "singularName": "function", "namespaced": true, "kind": "Function", "shortNames": ["fn"],
                "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
            },
            { "name": "functions/status", "singularName": "", "namespaced": true, "kind": "Function", "verbs": ["get", "patch", "update"] },
            {
                "name": "revisions", "singularName": "revision", "namespaced": true, "kind": "Revision",
                "verbs": ["get", "list", "watch"],
            },
        ],
    }))
}
