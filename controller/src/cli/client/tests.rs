//! What the client of a server says, over clusters made of a few routes.

use super::*;

fn kubeconfig() -> Kubeconfig {
    serde_json::from_value(serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": "http://127.0.0.1:1" } }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u", "namespace": "team" } }],
        "users": [{ "name": "u", "user": {} }],
    }))
    .unwrap()
}

/// A cluster whose Secret has the token `new`, and whose controller takes the one of `takes`.
fn cluster(takes: Arc<std::sync::Mutex<&'static str>>) -> kube::Client {
    use axum::response::IntoResponse as _;
    use axum::routing::get;
    use base64::Engine as _;
    use serde_json::json;
    let service = json!({ "metadata": { "name": "a-controller", "namespace": "n" } });
    let services = json!({ "apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": [service] });
    let token = base64::engine::general_purpose::STANDARD.encode("new");
    let secret = json!({ "metadata": { "name": "a-token" }, "data": { "token": token } });
    let asked = move |headers: http::HeaderMap| async move {
        if headers[crate::api::TOKEN_HEADER] == *takes.lock().unwrap() {
            return axum::Json(json!({ "items": [] })).into_response();
        }
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": 401, "reason": "Unauthorized", "message": "no" });
        (StatusCode::UNAUTHORIZED, axum::Json(status)).into_response()
    };
    let router = axum::Router::new()
        .route("/version", get(async || axum::Json(json!({ "gitVersion": "v1.30.0" }))))
        .route("/api/v1/services", get(async || axum::Json(services)))
        .route("/api/v1/namespaces/n/secrets/a-token", get(async || axum::Json(secret)))
        .route("/api/v1/namespaces/n/services/https:a-controller:management/proxy/images", get(asked));
    kube::Client::new(router, "team")
}

#[tokio::test]
async fn a_controller_of_before_an_upgrade_is_told_with_what_to_wait_for() {
    let mut server = Server::from_kubeconfig(kubeconfig()).await.unwrap();
    let takes = Arc::new(std::sync::Mutex::new("old"));
    server.client = cluster(Arc::clone(&takes));
    let ask = || server.get::<serde_json::Value>("/images");
    let error = ask().await.unwrap_err().text();
    assert!(error.contains("does not take the token in the Secret n/a-token"), "{error}");
    assert!(error.contains("kubectl -n n rollout status deployment/a-controller"), "{error}");
    assert_eq!(server.unsettled(StatusCode::UNAUTHORIZED), Some(Why::OtherToken));
    *takes.lock().unwrap() = "new";
    server.look_again();
    ask().await.unwrap();
}

#[tokio::test]
async fn what_is_to_be_typed_next_names_the_namespace_unless_it_is_meant_without() {
    let mut server = Server::from_kubeconfig(kubeconfig()).await.unwrap();
    // As `-n other` does.
    "other".clone_into(&mut server.namespace);
    assert_eq!((server.place("team").as_str(), server.place("other").as_str()), ("", " -n other"));
    assert_eq!(server.place("default"), " -n default");
}

#[test]
fn a_lost_connection_is_told_from_no_server() {
    #[derive(Debug, thiserror::Error)]
    #[error("client error (SendRequest)")]
    struct Outer(#[source] io::Error);
    let of = |kind: io::ErrorKind| Loss::of(&Outer(io::Error::new(kind, "https://docs.rs/rustls/manual")));
    assert_eq!(of(io::ErrorKind::ConnectionRefused), Loss::NoServer);
    assert_eq!(of(io::ErrorKind::UnexpectedEof), Loss::WentAway);
    assert_eq!(of(io::ErrorKind::InvalidData), Loss::Other);
}
