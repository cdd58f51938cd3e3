//! The way to what stands beside the objects (bundles, logs, calls, instances): a server of this machine has it at the same address; in a
//! cluster it is the controller's, behind the API server's proxy, with a token from a Secret.

mod service;

use http::{HeaderName, HeaderValue, Request, Uri};
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::error::Error;
use crate::api::TOKEN_HEADER;
use crate::serve::cluster::Key;

/// The annotation of that Service with the name of the Secret that holds the token or the cluster key.
const SECRET: &str = "hearth.dev/secret";

/// What requests beside the objects need.
#[derive(Clone)]
pub(super) enum Aside {
    /// Nothing: it is the same server.
    Here,
    /// A cluster's controller.
    Behind(Behind),
}

/// The way to a controller.
#[derive(Clone)]
pub(super) struct Behind {
    /// Hearth's namespace.
    namespace: String,
    /// The Service in it, which has the name of the controller's Deployment.
    service: String,
    /// The Secret in it that the token is from.
    secret: String,
    /// What the controller asks for.
    token: HeaderValue,
}

impl Behind {
    /// The controller does not take the token.
    pub(super) fn not_taken(&self) -> Error {
        let Self { namespace, service, secret, .. } = self;
        Error::fixable(
            format!(
                "the controller in namespace {namespace} does not take the token in the Secret {namespace}/{secret}"
            ),
            format!(
                "a controller reads its token when it starts, so one from before an upgrade or a change of the Secret may still work: \
                 see `kubectl -n {namespace} rollout status deployment/{service}` and try again; \
                 where only the Secret was changed, `kubectl -n {namespace} rollout restart deployment/{service}`"
            ),
        )
    }
}

impl Aside {
    /// Finds out which it is.
    pub(super) async fn find(client: &Client) -> Result<Self, Error> {
        let Some(service) = elsewhere(client).await? else { return Ok(Self::Here) };
        let (secret, token) = token(client, &service).await?;
        let namespace = service.namespace().unwrap_or_default();
        Ok(Self::Behind(Behind { namespace, service: service.name_any(), secret, token }))
    }

    /// The path as it is asked for.
    pub(super) fn path(&self, path: &str) -> String {
        match self {
            Self::Here => path.to_owned(),
            Self::Behind(Behind { namespace, service, .. }) => {
                format!("/api/v1/namespaces/{namespace}/services/https:{service}:management/proxy{path}")
            }
        }
    }

    /// The header that goes with it.
    pub(super) fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Here => None,
            Self::Behind(Behind { token, .. }) => {
                Some((HeaderName::from_static(TOKEN_HEADER), token.clone()))
            }
        }
    }

    /// The request as it is sent.
    pub(super) fn send<B>(&self, mut request: Request<B>) -> Result<Request<B>, Error> {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        let target: Uri = self
            .path(target)
            .parse()
            .map_err(|error| Error::failed(format!("{target} is no path: {error}")))?;
        *request.uri_mut() = target;
        request.headers_mut().extend(self.header());
        Ok(request)
    }
}

/// The controller's Service in a cluster; `None` when the server is a Hearth of its own.
pub(super) async fn elsewhere(client: &Client) -> Result<Option<Service>, Error> {
    let request = Request::get("/version").body(Vec::new());
    let request = request.map_err(|error| Error::failed(error.to_string()))?;
    // A server that does not even tell its version says what is the matter with the request itself.
    let Ok(version) = client.request::<Value>(request).await else { return Ok(None) };
    if version.get("hearth").is_some() {
        return Ok(None);
    }
    service::find(client).await.map(Some)
}

/// The cluster key that this Service's controllers have, if it may be read and has the name that the chart gives it.
pub(super) async fn key(client: &Client, service: &Service) -> Option<Key> {
    let secret = read(client, service, &usual(service, "key")).await.ok()?;
    secret.data?.get("key").map(|key| Key::of(&key.0))
}

/// What an API server says, for people; kube's own form has the whole answer in it.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => crate::telemetry::chain(other),
    }
}

/// The Secret beside this Service that the chart gives such a name.
fn usual(service: &Service, what: &str) -> String {
    let name = service.name_any();
    format!("{}-{what}", name.strip_suffix("-controller").unwrap_or(&name))
}

async fn read(client: &Client, service: &Service, name: &str) -> Result<Secret, kube::Error> {
    let namespace = service.namespace().unwrap_or_default();
    Api::<Secret>::namespaced(client.clone(), &namespace).get(name).await
}

/// What the controller asks for, and the Secret that it is from: the `token` in that, or what is derived from the `key` in it.
async fn token(client: &Client, service: &Service) -> Result<(String, HeaderValue), Error> {
    let namespace = service.namespace().unwrap_or_default();
    let named = service.annotations().get(SECRET).cloned();
    let mut name = named.clone().unwrap_or_else(|| usual(service, "token"));
    let mut secret = read(client, service, &name).await;
    // Made by hand without a token, it has the key alone.
    if named.is_none() && matches!(&secret, Err(kube::Error::Api(status)) if status.is_not_found()) {
        name = usual(service, "key");
        secret = read(client, service, &name).await;
    }
    let secret = secret.map_err(|error| {
        Error::fixable(
            format!("cannot read the Secret {namespace}/{name}: {}", said(&error)),
            "uploading code, logs and calls need it; what only reads or writes functions does not",
        )
    })?;
    let data = secret.data.unwrap_or_default();
    let text = match (data.get("token"), data.get("key")) {
        (Some(token), _) => String::from_utf8_lossy(token.0.trim_ascii()).into_owned(),
        (None, Some(key)) => Key::of(&key.0).management_token(),
        (None, None) => {
            return Err(Error::failed(format!("the Secret {namespace}/{name} has neither token nor key")));
        }
    };
    let value = HeaderValue::from_str(&text)
        .map_err(|_| Error::failed(format!("the token in the Secret {namespace}/{name} is none")))?;
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_proxy_a_request_goes_to_the_controller_with_its_token() {
        let request = || Request::get("/bundles/sha256:0?x=1").body(()).unwrap();
        let here = Aside::Here.send(request()).unwrap();
        assert_eq!((here.uri().to_string().as_str(), here.headers().len()), ("/bundles/sha256:0?x=1", 0));
        let behind = Aside::Behind(Behind {
            namespace: "n".to_owned(),
            service: "a-controller".to_owned(),
            secret: "a-token".to_owned(),
            token: HeaderValue::from_static("secret"),
        });
        let sent = behind.send(request()).unwrap();
        assert_eq!(
            sent.uri(),
            "/api/v1/namespaces/n/services/https:a-controller:management/proxy/bundles/sha256:0?x=1"
        );
        assert_eq!(sent.headers()[TOKEN_HEADER], "secret");
    }

    /// A cluster whose namespace `n` has a Secret of this name, with this in it.
    fn cluster(name: &'static str, field: &'static str) -> Client {
        use axum::extract::Path;
        use axum::response::IntoResponse as _;
        use base64::Engine as _;
        let get = move |Path(asked): Path<String>| async move {
            let value =
                base64::engine::general_purpose::STANDARD.encode("0123456789abcdef0123456789abcdef\n");
            let status = serde_json::json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no" });
            if asked == name {
                axum::Json(serde_json::json!({ "metadata": { "name": name }, "data": { field: value } }))
                    .into_response()
            } else {
                (http::StatusCode::NOT_FOUND, axum::Json(status)).into_response()
            }
        };
        let router =
            axum::Router::new().route("/api/v1/namespaces/n/secrets/{name}", axum::routing::get(get));
        Client::new(router, "n")
    }

    fn service(annotations: Value) -> Service {
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": "a-controller", "namespace": "n", "annotations": annotations },
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn the_token_is_in_the_secret_that_is_named_or_in_the_usual_one_or_follows_from_the_key() {
        let given = HeaderValue::from_static("0123456789abcdef0123456789abcdef");
        let derived = Key::of(given.as_bytes()).management_token();
        let derived = HeaderValue::from_str(&derived).unwrap();
        let from = |secret: &str, value: &HeaderValue| (secret.to_owned(), value.clone());
        let named = service(serde_json::json!({ SECRET: "mine" }));
        assert_eq!(token(&cluster("mine", "token"), &named).await.unwrap(), from("mine", &given));
        assert!(token(&cluster("a-token", "token"), &named).await.is_err(), "that one and no other");
        let unnamed = service(serde_json::json!({}));
        assert_eq!(token(&cluster("a-token", "token"), &unnamed).await.unwrap(), from("a-token", &given));
        assert_eq!(token(&cluster("a-key", "key"), &unnamed).await.unwrap(), from("a-key", &derived));
        assert_eq!(token(&cluster("mine", "key"), &named).await.unwrap(), from("mine", &derived));
    }
}
