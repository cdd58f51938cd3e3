//! The client of the API server: as kube makes it, but for its connections. Of those, the watches wait for minutes without a word, and where the
//! other end has lost its power, or something on the way has forgotten them, nothing else would ever show that they lead nowhere.

use std::time::Duration;

use hyper_timeout::TimeoutConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::retry::RetryPolicy;
use kube::client::{Body, ClientBuilder, ConfigExt as _};
use kube::{Client, Config};
use tower::retry::RetryLayer;
use tower::{BoxError, ServiceBuilder};

use super::Error;

/// How long a connection is silent before the kernel asks whether the other end is still there.
const IDLE: Duration = Duration::from_secs(10);

/// Between two such questions, and how many may stay without an answer.
const ASK_EVERY: Duration = Duration::from_secs(5);
const ASK_TIMES: u32 = 3;

/// How long what is sent, those questions too, may stay without a sign that it came.
const UNHEARD: Duration = Duration::from_secs(20);

/// Watches are asked for 290 s, and the API server sends a bookmark every minute or so: this is for a way on which somebody else answers the
/// kernel's questions.
const SILENCE: Duration = Duration::from_secs(295);

/// A client of the cluster that this process is in, or that the kubeconfig names.
///
/// # Errors
/// When there is none.
pub async fn client() -> Result<Client, Error> {
    let mut config = Config::infer().await.map_err(|error| Error::Infer(Box::new(error)))?;
    // A watch ends by itself before; what is silent for longer than that leads nowhere any more.
    config.read_timeout = Some(SILENCE);
    of(config).map_err(|error| Error::Client(Box::new(error)))
}

/// The parts are those of kube's own builder, in its order, without its spans.
fn of(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // There are none in this build, as kube says best.
        return Client::try_from(config);
    }
    let mut connector = TimeoutConnector::new(config.rustls_https_connector_with_connector(connector())?);
    connector.set_connect_timeout(config.connect_timeout);
    connector.set_read_timeout(config.read_timeout);
    connector.set_write_timeout(config.write_timeout);
    connector.set_reset_reader_on_write(config.reset_reader_on_write);
    let client =
        hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connector);
    let again = config.default_retry.then(|| RetryLayer::new(RetryPolicy::server_retry()));
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(again)
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(client);
    Ok(ClientBuilder::new(service, config.default_namespace).build())
}

/// What makes its connections.
fn connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    // What is above it may speak TLS.
    connector.enforce_http(false);
    connector.set_keepalive(Some(IDLE));
    connector.set_keepalive_interval(Some(ASK_EVERY));
    connector.set_keepalive_retries(Some(ASK_TIMES));
    connector.set_tcp_user_timeout(Some(UNHEARD));
    connector
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::http::{HeaderMap, StatusCode};
    use axum::response::IntoResponse as _;
    use axum::routing::get;
    use axum::{Json, Router};
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use hyper_util::service::TowerToHyperService;
    use kube::config::AuthInfo;
    use serde_json::json;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn the_kernel_sees_to_it_that_a_connection_still_leads_somewhere() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let stream = connector().oneshot(address.parse().unwrap()).await.unwrap().into_inner();
        let socket = socket2::SockRef::from(&stream);
        assert!(socket.keepalive().unwrap());
        let asks = (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap());
        assert_eq!(asks, (IDLE, ASK_EVERY));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), ASK_TIMES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNHEARD));
    }

    #[tokio::test]
    async fn a_request_says_who_asks_and_is_repeated_where_the_server_is_busy() {
        let busy = Arc::new(AtomicBool::new(true));
        let version = move |headers: HeaderMap| {
            let busy = busy.swap(false, Ordering::AcqRel);
            async move {
                if busy {
                    return StatusCode::TOO_MANY_REQUESTS.into_response();
                }
                let said = headers.get("authorization").map(|value| value.to_str().unwrap());
                let fields = [
                    "major",
                    "minor",
                    "gitCommit",
                    "gitTreeState",
                    "buildDate",
                    "goVersion",
                    "compiler",
                    "platform",
                ];
                let mut version: serde_json::Map<_, _> =
                    fields.into_iter().map(|field| (field.to_owned(), json!(""))).collect();
                version.insert("gitVersion".to_owned(), json!(said));
                Json(version).into_response()
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        config.auth_info = AuthInfo { token: Some("secret".to_owned().into()), ..AuthInfo::default() };
        let service = TowerToHyperService::new(Router::new().route("/version", get(version)));
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut each = JoinSet::new();
            loop {
                let stream = TokioIo::new(listener.accept().await.unwrap().0);
                each.spawn(http1::Builder::new().serve_connection(stream, service.clone()));
            }
        });
        let version = of(config).unwrap().apiserver_version().await.unwrap();
        assert_eq!(version.git_version, "Bearer secret");
    }
}
