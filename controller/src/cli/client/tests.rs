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

/// A server that is reached by this client.
pub(in crate::cli) async fn server_of(client: kube::Client) -> Server {
    let mut server = Server::from_kubeconfig(kubeconfig()).await.unwrap();
    server.client = client;
    server
}

/// A cluster whose Secret has the token `new`, and whose controller answers so at this path.
pub(in crate::cli) fn cluster_of(path: &str, answer: axum::routing::MethodRouter) -> kube::Client {
    use axum::routing::get;
    use base64::Engine as _;
    use serde_json::json;
    let service = json!({ "metadata": { "name": "a-controller", "namespace": "n" } });
    let services = json!({ "apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": [service] });
    let token = base64::engine::general_purpose::STANDARD.encode("new");
    let secret = json!({ "metadata": { "name": "a-token" }, "data": { "token": token } });
    let router = axum::Router::new()
        .route("/version", get(async || axum::Json(json!({ "gitVersion": "v1.30.0" }))))
        .route("/api/v1/services", get(async || axum::Json(services)))
        .route("/api/v1/namespaces/n/secrets/a-token", get(async || axum::Json(secret)))
        .route(&format!("/api/v1/namespaces/n/services/https:a-controller:management/proxy{path}"), answer);
    kube::Client::new(router, "team")
}

/// A cluster whose Secret has the token `new`, and whose controller takes the one of `takes`.
fn cluster(takes: Arc<std::sync::Mutex<&'static str>>) -> kube::Client {
    use axum::response::IntoResponse as _;
    use serde_json::json;
    let asked = move |headers: http::HeaderMap| async move {
        if headers[crate::api::TOKEN_HEADER] == *takes.lock().unwrap() {
            return axum::Json(json!({ "items": [] })).into_response();
        }
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": 401, "reason": "Unauthorized", "message": "no" });
        (StatusCode::UNAUTHORIZED, axum::Json(status)).into_response()
    };
    cluster_of("/images", axum::routing::get(asked))
}

#[tokio::test]
async fn a_controller_of_before_an_upgrade_is_told_with_what_to_wait_for() {
    let takes = Arc::new(std::sync::Mutex::new("old"));
    let server = server_of(cluster(Arc::clone(&takes))).await;
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

#[test]
fn of_a_list_of_kubeconfigs_those_that_are_there_count_and_the_first_most() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (name, server) in [("a", "http://127.0.0.1:1"), ("b", "http://127.0.0.1:2")] {
        let mut config = kubeconfig();
        config.clusters[0].cluster.as_mut().unwrap().server = Some(server.to_owned());
        std::fs::write(at(name), serde_json::to_string(&config).unwrap()).unwrap();
    }
    let of = |names: &[&str]| from_list(&std::env::join_paths(names.iter().map(|name| at(name))).unwrap());
    let server = |config: Kubeconfig| config.clusters[0].cluster.as_ref().unwrap().server.clone().unwrap();
    assert_eq!(server(of(&["none", "b", "a"]).unwrap()), "http://127.0.0.1:2");
    assert!(of(&["none", "nor-this"]).unwrap_err().text().contains("names no file that is there"));
    std::fs::write(at("bad"), "{").unwrap();
    assert!(of(&["bad", "a"]).unwrap_err().text().contains("cannot be read"));
}
