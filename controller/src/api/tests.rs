//! The API over its real port: TLS, token, a real store, the kube crate as client; a fake behind the ports.

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use axum::body::Body;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::Request;
use http_body_util::BodyExt;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use hearth_function::{Function, FunctionId};

use super::ports::{Activity, Error as PortError, Instance, LogLine, LogQuery};
use super::*;
use crate::backend::Capability;

mod access;
mod beside;
mod clients;
mod events;
mod fake;
mod objects;

use fake::Fake;

struct Running {
    api: Api,
    parts: Arc<Fake>,
    client: Client,
    store: Store,
    directory: TempDir,
}

/// What an informer has when the list that is streamed to it has ended: the objects in the order that they came.
async fn streamed<K>(api: kube::Api<K>) -> Vec<K>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watcher(api, watcher::Config::default().streaming_lists()));
    let mut seen = Vec::new();
    while let Some(event) = events.try_next().await.unwrap() {
        match event {
            watcher::Event::InitApply(object) => seen.push(object),
            watcher::Event::InitDone => break,
            watcher::Event::Init => {}
            other => panic!("{other:?}"),
        }
    }
    seen
}

async fn running() -> Running {
    running_with_history(100).await
}

async fn running_with_history(history: usize) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let store = Store::open(crate::store::Config { history, ..crate::store::Config::new(at("hearth.redb")) })
        .await
        .unwrap();
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        names: vec!["hearth.test".to_owned()],
        identity: at("tls"),
        kubeconfig: at("kubeconfig"),
        incoming: at("incoming"),
        max_bundle_bytes: 1000,
        max_blob_bytes: 1000,
    };
    let parts = Arc::new(Fake::default());
    let api = start(config, store.clone(), Arc::clone(&parts) as Arc<dyn Parts>).await.unwrap();
    let client = client(api.kubeconfig()).await;
    Running { api, parts, client, store, directory }
}

async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.proxy_url = None;
    // A refusal is to be seen.
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn hello(name: &str) -> Function {
    serde_json::from_value(json!({
        "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": name },
        "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "exports.handler = async () => 'hi'" } }, "handler": "index.handler" },
    }))
    .unwrap()
}

impl Running {
    fn functions(&self) -> kube::Api<Function> {
        kube::Api::namespaced(self.client.clone(), "default")
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Vec<u8>>) -> (u16, String) {
        let request = request.body(kube::client::Body::from(body.into())).unwrap();
        let response = self.client.send(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    /// What the port answers to these bytes without TLS.
    async fn plain(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.api.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn status(error: kube::Error) -> kube::core::Status {
    match error {
        kube::Error::Api(status) => *status,
        other => panic!("{other}"),
    }
}

fn example(directory: &Path) -> Arc<Config> {
    Arc::new(Config {
        listen: ([127, 0, 0, 1], 0).into(),
        names: Vec::new(),
        identity: directory.join("tls"),
        kubeconfig: directory.join("kubeconfig"),
        incoming: directory.join("incoming"),
        max_bundle_bytes: 1000,
        max_blob_bytes: 1000,
    })
}
