//! The management API: the Kubernetes resource API for Functions and Revisions, and beside it bundles, invocation, logs, instances.
//!
//! It owns the port, the identity of the server and the form of the answers. Objects are the store's, their rules are those of
//! `hearth_function`, and the running parts are behind [`ports::Parts`].
//!
//! ```text
//! connection ─ first byte ─┬─ TLS ── host, origin, token ── router ─┬─ /version /api /apis        discovery
//!                          │                                        ├─ /openapi                   schemas
//!                          │                                        ├─ …/functions …/revisions    objects, watch, patch, apply
//!                          │                                        ├─ /api/v1                    events, namespaces: views of those
//!                          │                                        └─ …/invoke …/logs /bundles…  beside
//!                          └─ plain HTTP: /healthz, /metrics; else how to connect
//! ```

mod beside;
mod body;
mod discovery;
mod events;
mod extract;
mod failure;
mod guard;
mod identity;
mod images;
mod kinds;
mod namespaces;
mod objects;
mod openapi;
mod ownership;
mod patch;
mod plain;
pub mod ports;
mod probes;
mod reading;
mod render;
mod review;
mod scale;
mod selector;
mod server;
mod standby;
mod status;
mod watching;
mod writing;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use beside::{ANSWERED_BY_FUNCTION, FORWARDED_HEADER};
pub use failure::Failure;
pub use guard::Guard;
pub use guard::TOKEN_HEADER;
pub use identity::{Identity, Token};
pub use probes::answer_probes;
pub use standby::standby;

use crate::store::Store;
use ports::Parts;

/// What the API needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where it listens; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Host names beside `localhost` by which clients call, for the certificate and the check of `Host`.
    pub names: Vec<String>,
    /// Directory of its keys and token.
    pub identity: PathBuf,
    /// The kubeconfig it writes at its start.
    pub kubeconfig: PathBuf,
    /// Directory where bundles are received; made when it is not there, emptied at the start.
    pub incoming: PathBuf,
    /// Largest bundle, in bytes, packed.
    pub max_bundle_bytes: u64,
    /// Largest blob of an image that is taken in, in bytes.
    pub max_blob_bytes: u64,
}

/// Why the API could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for the management API")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Keys, token or kubeconfig.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The directory for incoming bundles cannot be used.
    #[error("cannot use {}", path.display())]
    Incoming {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The running API. Dropped, it ends at once; [`Api::stop`] ends it in good order.
#[derive(Debug)]
pub struct Api {
    address: SocketAddr,
    kubeconfig: PathBuf,
    shutdown: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// Requests that run when the API ends have so long; watches and followed logs end at once.
const GRACE: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Clone)]
struct Context {
    store: Store,
    parts: Arc<dyn Parts>,
    guard: Guard,
    config: Arc<Config>,
    shutdown: CancellationToken,
    uploads: Arc<Semaphore>,
}

/// Starts the API: makes or reads its identity, listens, writes the kubeconfig, and serves until [`Api::stop`].
///
/// # Errors
/// When the address is taken, or a file of the identity cannot be used.
pub async fn start(config: Config, store: Store, parts: Arc<dyn Parts>) -> Result<Api, Error> {
    let identity = Identity::open(&config.identity)?;
    serve(config, identity, router, store, parts).await
}

/// Starts the API of a cluster's controller: only what stands beside the objects, which the API server has. Clients come through the API
/// server's proxy, and have the token from a Secret.
///
/// # Errors
/// As [`start`].
pub async fn start_beside(
    config: Config,
    token: Token,
    store: Store,
    parts: Arc<dyn Parts>,
) -> Result<Api, Error> {
    let mut identity = Identity::open(&config.identity)?;
    identity.token = token;
    serve(config, identity, beside_router, store, parts).await
}

async fn serve(
    config: Config,
    identity: Identity,
    router: fn(Context) -> Router,
    store: Store,
    parts: Arc<dyn Parts>,
) -> Result<Api, Error> {
    prepare_incoming(&config.incoming)
        .map_err(|source| Error::Incoming { path: config.incoming.clone(), source })?;
    let listen = |source| Error::Listen { address: config.listen, source };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let tls = identity.server_tls(&certificate_names(&config, address))?;
    identity.write_kubeconfig(&config.kubeconfig, address)?;
    let kubeconfig = config.kubeconfig.clone();
    let shutdown = CancellationToken::new();
    let context = Context {
        store,
        parts: Arc::clone(&parts),
        guard: Guard::new(identity.token.clone(), &config.names),
        config: Arc::new(config),
        shutdown: shutdown.clone(),
        uploads: beside::uploads(),
    };
    let server = server::Server {
        acceptor: TlsAcceptor::from(tls),
        guard: context.guard.clone(),
        router: router(context),
        parts,
        shutdown: shutdown.clone(),
    };
    let task = spawn(server.run(listener, GRACE));
    Ok(Api { address, kubeconfig, shutdown, task: AbortOnDropHandle::new(task) })
}

impl Api {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kubeconfig that clients use.
    #[must_use]
    pub fn kubeconfig(&self) -> &std::path::Path {
        &self.kubeconfig
    }

    /// Ends it: takes no new connections, ends watches and followed logs, lets running requests end for a few seconds, cuts the rest.
    pub async fn stop(self) {
        self.shutdown.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "management API: the server's task panicked");
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one task of the API; its handle is held by `Api`, which aborts it when dropped"
)]
fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

/// What an earlier, killed controller had half received is of no use.
fn prepare_incoming(directory: &std::path::Path) -> io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::fs::create_dir_all(directory)
}

fn certificate_names(config: &Config, address: SocketAddr) -> Vec<String> {
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if !address.ip().is_unspecified() && !address.ip().is_loopback() {
        names.push(address.ip().to_string());
    }
    names.extend(config.names.iter().cloned());
    names
}

fn router(context: Context) -> Router {
    let secured = Router::new()
        .route("/version", get(discovery::version))
        .route("/api", get(discovery::core_versions))
        .route("/api/v1", get(discovery::core_resources))
        .route("/apis", get(discovery::groups))
        .merge(groups())
        .route("/openapi/v2", get(openapi::v2))
        .route("/openapi/v3", get(openapi::v3_index))
        .route(openapi::V3_HEARTH, get(openapi::v3))
        .nest("/api/v1", events::routes().merge(namespaces::routes()))
        .nest("/apis/hearth.dev/v1", objects::routes().merge(beside::routes()))
        .merge(review::routes())
        .merge(beside::root_routes())
        .fallback(|request: Request| async move { Failure::no_such_path(request.uri().path()) })
        .method_not_allowed_fallback(|| async { Failure::method_not_allowed() })
        .layer(middleware::from_fn_with_state(context.clone(), check_token));
    with_plain(context, secured)
}

/// The routes of a cluster's controller.
fn beside_router(context: Context) -> Router {
    let secured = Router::new()
        .route("/version", get(discovery::version))
        .nest("/apis/hearth.dev/v1", beside::routes())
        .merge(beside::root_routes())
        .fallback(|request: Request| async move { Failure::no_such_path(request.uri().path()) })
        .method_not_allowed_fallback(|| async { Failure::method_not_allowed() })
        .layer(middleware::from_fn_with_state(context.clone(), check_token));
    with_plain(context, secured)
}

/// With what is answered in plain HTTP too.
fn with_plain(context: Context, secured: Router<Context>) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(|State(context): State<Context>| async move { plain::health(context.parts.as_ref()) }),
        )
        .route(
            "/metrics",
            get(|State(context): State<Context>| async move { plain::metrics(context.parts.as_ref()) }),
        )
        .fallback_service(secured.with_state(context.clone()))
        .layer(middleware::from_fn_with_state(context.clone(), check_host))
        .with_state(context)
}

/// Discovery of each group with a name.
fn groups() -> Router<Context> {
    ["hearth.dev", "authorization.k8s.io", "authentication.k8s.io"].into_iter().fold(
        Router::new(),
        |router, group| {
            router
                .route(&format!("/apis/{group}"), get(move || discovery::one_group(group)))
                .route(&format!("/apis/{group}/v1"), get(move || discovery::group_resources(group)))
        },
    )
}

async fn check_host(State(context): State<Context>, request: Request, next: Next) -> Response {
    match context.guard.check_host(&request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

async fn check_token(State(context): State<Context>, request: Request, next: Next) -> Response {
    match context.guard.check_token(request.headers()) {
        Ok(()) => {
            if let Some(client) = request.extensions().get::<Arc<server::Client>>() {
                client.is_known_now();
            }
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    }
}

#[cfg(test)]
mod tests;
