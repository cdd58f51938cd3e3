//! Finding the server and talking to it: a kube client, and messages for when there is nobody.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::AsyncBufRead;
use hearth_function::{Function, Revision};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::config::{Config as KubeConfig, KubeConfigOptions, Kubeconfig};
use kube::{Api, ResourceExt as _};
use secrecy::ExposeSecret as _;
use serde::de::DeserializeOwned;

use super::args;
use super::aside::Aside;
use super::error::Error;
use super::patience::Why;
use super::waits;
use crate::serve::config::{self, Layers};

/// A server that commands talk to.
#[derive(Clone)]
pub(super) struct Server {
    client: kube::Client,
    config: KubeConfig,
    /// Its address, for messages.
    address: String,
    namespace: String,
    /// The namespace of a command that names none.
    usual: String,
    /// How what stands beside the objects is reached; found out when it is needed.
    aside: Arc<ArcSwapOption<Aside>>,
}

const START_ONE: &str =
    "start one with `hearth serve` or `hearth up PATH`, or name another with --kubeconfig";

/// What to do where no server is. A cluster that kubectl works with is never taken by itself: what is meant for this machine must not change it.
fn start_one() -> String {
    let usual = std::env::home_dir().map(|home| home.join(".kube/config")).filter(|file| file.is_file());
    match usual {
        Some(_) => format!(
            "{START_ONE}; for the cluster that kubectl works with, `export KUBECONFIG=~/.kube/config`"
        ),
        None => START_ONE.to_owned(),
    }
}

impl Server {
    /// The server that these arguments, `KUBECONFIG` or the data directory name. Does not connect yet.
    pub(super) async fn find(arguments: &args::Client) -> Result<Self, Error> {
        let listed = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
        let kubeconfig = match (&arguments.kubeconfig, &arguments.data_dir, listed) {
            (Some(path), ..) => read(path)?,
            (None, None, Some(list)) => from_list(&list)?,
            (None, data_dir, _) => read(&in_data_dir(data_dir.as_deref())?)?,
        };
        Self::from_kubeconfig(kubeconfig).await
    }

    /// That server, and the namespace that a command is about.
    pub(super) async fn open(place: &args::Place) -> Result<(Self, String), Error> {
        let mut server = Self::find(&place.client).await?;
        if let Some(namespace) = &place.namespace {
            server.namespace.clone_from(namespace);
        }
        let namespace = server.namespace.clone();
        Ok((server, namespace))
    }

    /// The server of this kubeconfig file.
    pub(super) async fn at(kubeconfig: &Path) -> Result<Self, Error> {
        Self::from_kubeconfig(read(kubeconfig)?).await
    }

    async fn from_kubeconfig(kubeconfig: Kubeconfig) -> Result<Self, Error> {
        let bad = |error: &(dyn std::error::Error + 'static)| {
            Error::failed(format!("the kubeconfig cannot be used: {}", crate::telemetry::chain(error)))
        };
        let mut config = KubeConfig::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|error| bad(&error))?;
        if config.cluster_url.host().is_some_and(is_loopback) {
            // A proxy of the environment is for the outside.
            config.proxy_url = None;
        }
        // Followed logs and watches may be silent for long.
        config.read_timeout = None;
        // A function's own 503 is an answer, and one of a server is told at once.
        config.default_retry = false;
        let address = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = config.default_namespace.clone();
        let usual = std::env::var(args::NAMESPACE_VARIABLE).ok().filter(|name| !name.is_empty());
        let usual = usual.unwrap_or_else(|| namespace.clone());
        let client = kube::Client::try_from(config.clone()).map_err(|error| bad(&error))?;
        Ok(Self { client, config, address, namespace, usual, aside: Arc::default() })
    }

    /// The namespace that the command is about; the kubeconfig's if it names none.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What a command about this namespace has to name it by, as in ` -n team`; nothing where it is meant without.
    pub(super) fn place(&self, namespace: &str) -> String {
        if namespace == self.usual { String::new() } else { format!(" -n {namespace}") }
    }

    /// The same for a Function's namespace.
    pub(super) fn place_of(&self, function: &Function) -> String {
        function.namespace().map_or_else(String::new, |namespace| self.place(&namespace))
    }

    /// Functions of a namespace; of all with `None`.
    pub(super) fn functions(&self, namespace: Option<&str>) -> Api<Function> {
        namespace.map_or_else(
            || Api::all(self.client.clone()),
            |namespace| Api::namespaced(self.client.clone(), namespace),
        )
    }

    /// Revisions of a namespace; of all with `None`.
    pub(super) fn revisions(&self, namespace: Option<&str>) -> Api<Revision> {
        namespace.map_or_else(
            || Api::all(self.client.clone()),
            |namespace| Api::namespaced(self.client.clone(), namespace),
        )
    }

    async fn aside(&self) -> Result<Arc<Aside>, Error> {
        if let Some(known) = self.aside.load_full() {
            return Ok(known);
        }
        let found = Arc::new(Aside::find(&self.client).await?);
        self.aside.store(Some(Arc::clone(&found)));
        Ok(found)
    }

    /// The next request beside the objects looks anew how it gets there, and with which token.
    pub(super) fn look_again(&self) {
        self.aside.store(None);
    }

    /// Why an answer of this status from beside the objects is none yet.
    pub(super) fn unsettled(&self, status: StatusCode) -> Option<Why> {
        Why::of(status, self.not_taken().is_some())
    }

    /// Whether it is a cluster's controller that was asked last: another one comes when it ends.
    pub(super) fn is_one_of_several(&self) -> bool {
        matches!(self.aside.load().as_deref(), Some(Aside::Behind(_)))
    }

    /// The error for a token that is not taken; `None` for a server of its own, which is asked with the kubeconfig's.
    fn not_taken(&self) -> Option<Error> {
        match self.aside.load().as_deref()? {
            Aside::Behind(behind) => Some(behind.not_taken()),
            Aside::Here => None,
        }
    }

    /// Where nobody answers: which controller is waited for, as far as that can be known.
    pub(super) async fn waits_for(&self) -> Option<waits::Whom> {
        waits::whom(&self.client).await
    }

    /// Opens a stream beside the objects, to be read by the line.
    pub(super) async fn stream(&self, path: &str) -> Result<impl AsyncBufRead + use<>, Error> {
        let request =
            Request::get(path).body(Vec::new()).map_err(|error| Error::failed(error.to_string()))?;
        let request = self.aside().await?.send(request)?;
        let refused = match self.client.request_stream(request).await {
            Ok(lines) => return Ok(lines),
            Err(error) => error,
        };
        let told = self.explain(&refused);
        Err(match refused {
            kube::Error::Api(status) => self.said_beside(status.code, told).await,
            _ => told,
        })
    }

    /// Sends a request to a path beside the objects; an answer of 400 or more is the server's error object.
    pub(super) async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let response = self.send_raw(request).await?;
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    /// Puts what is too large to be held in memory, which the kube client's requests are.
    pub(super) async fn put_large(
        &self,
        path: &str,
        body: UnsyncBoxBody<Bytes, io::Error>,
    ) -> Result<(), Error> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Error::failed(format!("sending to {}: {}", self.address, crate::telemetry::chain(error)))
        };
        let aside = self.aside().await?;
        let path = aside.path(path);
        let connector = self.config.rustls_https_connector().map_err(|error| failed(&error))?;
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        let mut request = Request::put(format!("{}{path}", self.address));
        if let Some(token) = &self.config.auth_info.token {
            request =
                request.header(http::header::AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        if let Some((name, value)) = aside.header() {
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| failed(&error))?;
        let response: Response<Incoming> = client.request(request).await.map_err(|error| failed(&error))?;
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            return Ok(());
        }
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Err(self.refusal(Response::from_parts(parts, Body::from(body))).await)
    }

    /// Sends a request and gives the answer whatever it is.
    pub(super) async fn send_raw(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        let request = self.aside().await?.send(request)?;
        self.client.send(request).await.map_err(|error| self.explain(&error))
    }

    /// Gets a JSON document.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let request =
            Request::get(path).body(Body::empty()).map_err(|error| Error::failed(error.to_string()))?;
        let body = collect(self.send(request).await?).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Error::failed(format!("{} answered what cannot be read: {error}", self.address)))
    }

    /// The error object that an answer carries.
    pub(super) async fn refusal(&self, response: Response<Body>) -> Error {
        let code = response.status();
        let status = collect(response).await.ok().and_then(|body| serde_json::from_slice(&body).ok());
        let told = match status {
            Some(status) => self.explain(&kube::Error::Api(Box::new(status))),
            None => Error::failed(format!("{} answered {code}", self.address)),
        };
        self.said_beside(code.as_u16(), told).await
    }

    /// The error that an answer of this code is to a request beside the objects; `told` is what the answer itself says.
    async fn said_beside(&self, code: u16, told: Error) -> Error {
        match StatusCode::from_u16(code) {
            Ok(StatusCode::SERVICE_UNAVAILABLE) => self.nobody_works(told).await,
            Ok(StatusCode::UNAUTHORIZED) => self.not_taken().unwrap_or(told),
            _ => told,
        }
    }

    /// The error that an answer of 503 is, and who is waited for.
    async fn nobody_works(&self, error: Error) -> Error {
        match (error, self.waits_for().await) {
            (Error::Failed { what, mut details, fix }, Some(whom)) => {
                details.push(whom.what);
                Error::Failed { what, details, fix: whom.fix.or(fix) }
            }
            (error, _) => error,
        }
    }

    /// What a client error means for the user.
    pub(super) fn explain(&self, error: &kube::Error) -> Error {
        let status = match error {
            kube::Error::Api(status) => status,
            other => return self.unreachable(other),
        };
        match StatusCode::from_u16(status.code) {
            Ok(StatusCode::UNAUTHORIZED) => Error::fixable(
                format!("{} does not know the token of this kubeconfig", self.address),
                "use the kubeconfig that the server wrote at its start: `kubeconfig` in its data directory",
            ),
            Ok(StatusCode::NOT_FOUND)
                if status.details.as_ref().is_none_or(|details| details.name.is_empty()) =>
            {
                Error::fixable(
                    format!("{} has no Hearth ({})", self.address, status.message),
                    "unset KUBECONFIG to talk to the server on this machine, or name its kubeconfig with --kubeconfig",
                )
            }
            Ok(StatusCode::NOT_FOUND) => self.not_there(status),
            _ => {
                let causes =
                    status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
                let what = match &status.details {
                    Some(details) if !causes.is_empty() => {
                        format!("the server refuses {} {:?}", details.kind, details.name)
                    }
                    _ => status.message.clone(),
                };
                let details =
                    causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
                Error::Failed { what, details, fix: None }
            }
        }
    }

    /// An object that there is not.
    fn not_there(&self, status: &kube::core::Status) -> Error {
        let Some(details) = &status.details else { return Error::failed(status.message.clone()) };
        let kind = match details.kind.as_str() {
            "functions" => "function",
            "revisions" => "revision",
            _ => return Error::failed(status.message.clone()),
        };
        Error::fixable(
            format!("there is no {kind} {:?} in namespace {}", details.name, self.namespace),
            format!("`hearth get {kind}s -A` lists what there is; -n names another namespace"),
        )
    }

    fn unreachable(&self, error: &kube::Error) -> Error {
        match Loss::of(error) {
            Loss::NoServer => {
                Error::fixable(format!("no Hearth server answers at {}", self.address), start_one())
            }
            Loss::WentAway => Error::fixable(
                format!("the server at {} went away before it answered", self.address),
                "see whether it runs and what it said last; then try again",
            ),
            Loss::Other => {
                Error::failed(format!("talking to {}: {}", self.address, crate::telemetry::chain(error)))
            }
        }
    }
}

/// How a request got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Nobody listens there.
    NoServer,
    /// Somebody took the request and was gone.
    WentAway,
    /// The error says it best.
    Other,
}

impl Loss {
    fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(inner) = cause {
            match inner.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut) => return Self::NoServer,
                // TLS says so of a connection that ends without a farewell.
                Some(
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted,
                ) => return Self::WentAway,
                _ => {}
            }
            if inner.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
                return Self::WentAway;
            }
            cause = inner.source();
        }
        Self::Other
    }
}

/// An answer of which a part came, or a log that was followed, has broken off.
pub(super) fn broke_off(what: &str) -> Error {
    Error::fixable(
        format!("the {what} broke off: the connection to the server was lost"),
        "`hearth version` says whether it is there; then try again",
    )
}

/// The whole body of an answer.
pub(super) async fn collect(response: Response<Body>) -> Result<Bytes, Error> {
    let collected = response.into_body().collect().await;
    collected.map(http_body_util::Collected::to_bytes).map_err(|_| broke_off("answer"))
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where a server on this machine keeps its kubeconfig, by the same configuration that it reads.
pub(super) fn in_data_dir(data_dir: Option<&str>) -> Result<PathBuf, Error> {
    if let Some(data_dir) = data_dir {
        return Ok(config::kubeconfig_in(Path::new(data_dir)));
    }
    let layers = Layers { file: None, environment: super::environment(), flags: Vec::new() };
    let effective = config::load(&layers).map_err(|problems| super::bad_config(&problems))?;
    Ok(effective.config.kubeconfig())
}

/// The files of `KUBECONFIG`, those before counting for more; as kubectl, without those that are not there.
fn from_list(list: &OsStr) -> Result<Kubeconfig, Error> {
    const FIX: &str = "unset it, or give --kubeconfig FILE";
    let mut files = std::env::split_paths(list)
        .filter(|path| !path.as_os_str().is_empty() && path.try_exists().unwrap_or(true))
        .peekable();
    if files.peek().is_none() {
        return Err(Error::fixable("KUBECONFIG names no file that is there", FIX));
    }
    let merged =
        files.try_fold(Kubeconfig::default(), |merged, path| merged.merge(Kubeconfig::read_from(path)?));
    merged.map_err(|error| {
        Error::fixable(format!("KUBECONFIG cannot be read: {}", crate::telemetry::chain(&error)), FIX)
    })
}

/// Reads a kubeconfig, and says what to do when it is not there or not ours to read.
pub(super) fn read(path: &Path) -> Result<Kubeconfig, Error> {
    // Looked at first: kube's own error does not tell the kinds apart.
    match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::fixable(
                format!("no server has run here: there is no {}", path.display()),
                start_one(),
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(Error::fixable(
                format!(
                    "{} may not be read by this user: whoever has it controls the server",
                    path.display()
                ),
                "run the command as root, or have root copy the file to you and name it with --kubeconfig",
            ));
        }
        Err(error) => return Err(Error::failed(format!("{} cannot be read: {error}", path.display()))),
        Ok(_) => {}
    }
    Kubeconfig::read_from(path).map_err(|error| {
        Error::fixable(
            format!("{} cannot be used: {}", path.display(), crate::telemetry::chain(&error)),
            "restart the server: it writes the file anew",
        )
    })
}

#[cfg(test)]
pub(super) mod tests;
