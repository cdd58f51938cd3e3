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
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use hearth_function::{Function, FunctionId};

use super::ports::{Activity, Error as PortError, Instance, LogLine, LogQuery};
use super::*;
use crate::backend::Capability;

mod clients;

/// Remembers what it was asked and answers plainly.
#[derive(Debug, Default)]
struct Fake {
    bundles: Mutex<BTreeSet<String>>,
    received: Mutex<Vec<Vec<u8>>>,
    images: Mutex<Vec<String>>,
}

#[async_trait]
impl Parts for Fake {
    async fn instances(&self) -> Vec<Instance> {
        let instance = |name: &str, function: &str| {
            serde_json::from_value(json!({
                "name": name, "function": function, "state": "Ready", "inFlight": 1, "slots": 10, "started": "2026-01-01T00:00:00Z",
            }))
            .unwrap()
        };
        vec![instance("i-2", "other/web"), instance("i-1", "default/hello")]
    }

    async fn ladder(&self) -> super::ports::Ladder {
        super::ports::Ladder::default()
    }

    async fn activity(&self, _: &FunctionId) -> Activity {
        Activity { waiting: 3, ..Activity::default() }
    }

    async fn invoke(
        &self,
        function: &FunctionId,
        request: Request<Body>,
    ) -> Result<http::Response<Body>, PortError> {
        let (parts, body) = request.into_parts();
        let headers: Vec<_> = parts
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        let body = body.collect().await.unwrap().to_bytes();
        let seen = json!({
            "function": function, "method": parts.method.as_str(), "target": parts.uri.to_string(), "headers": headers,
            "body": String::from_utf8_lossy(&body),
        });
        Ok(http::Response::builder().status(418).body(Body::from(seen.to_string())).unwrap())
    }

    async fn logs(&self, query: LogQuery) -> Result<BoxStream<'static, LogLine>, PortError> {
        let line = LogLine {
            time: "2026-01-01T00:00:00.000Z".to_owned(),
            instance: hearth_function::InstanceId::parse("i-1").unwrap(),
            revision: hearth_function::RevisionId::parse("default/hello-00001").unwrap(),
            stream: "stdout".to_owned(),
            request: query.request,
            shared: false,
            text: format!("tail {:?}", query.tail),
            call: None,
        };
        let there = futures_util::stream::iter([line]);
        Ok(if query.follow { there.chain(futures_util::stream::pending()).boxed() } else { there.boxed() })
    }

    async fn has_bundle(&self, digest: &str) -> Result<bool, PortError> {
        Ok(self.bundles.lock().unwrap_or_else(PoisonError::into_inner).contains(digest))
    }

    async fn has_blob(&self, digest: &str) -> Result<bool, PortError> {
        self.has_bundle(digest).await
    }

    async fn put_blob(&self, digest: &str, file: &Path) -> Result<(), PortError> {
        self.put_bundle(digest, file).await
    }

    async fn has_image(&self, _: &str) -> Result<bool, PortError> {
        Ok(false)
    }

    async fn put_image(&self, digest: &str, manifest: Vec<u8>) -> Result<(), PortError> {
        if manifest == b"broken" {
            return Err(PortError::Invalid("the manifest is broken".to_owned()));
        }
        self.images.lock().unwrap().push(digest.to_owned());
        Ok(())
    }

    async fn images(&self) -> Result<Vec<super::ports::Image>, PortError> {
        let image = |digest: &String| super::ports::Image {
            digest: digest.clone(),
            bytes: 1,
            layers: 1,
            command: Vec::new(),
        };
        Ok(self.images.lock().unwrap().iter().map(image).collect())
    }

    async fn put_bundle(&self, digest: &str, file: &Path) -> Result<(), PortError> {
        let content = std::fs::read(file).unwrap();
        if content == b"broken" {
            return Err(PortError::Invalid("the archive is broken".to_owned()));
        }
        self.received.lock().unwrap().push(content);
        self.bundles.lock().unwrap().insert(digest.to_owned());
        Ok(())
    }

    async fn capabilities(&self) -> Vec<Capability> {
        Vec::new()
    }

    fn metrics(&self) -> String {
        "hearth_up 1\n".to_owned()
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

struct Running {
    api: Api,
    parts: Arc<Fake>,
    client: Client,
    store: Store,
    directory: TempDir,
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

#[tokio::test]
async fn a_function_is_created_read_changed_and_deleted() {
    let running = running().await;
    let functions = running.functions();
    let created = functions.create(&PostParams::default(), &hello("hello")).await.unwrap();
    assert_eq!((created.namespace().as_deref(), created.metadata.generation), (Some("default"), Some(1)));
    assert!(created.uid().is_some() && created.creation_timestamp().is_some());

    let again = status(functions.create(&PostParams::default(), &hello("hello")).await.unwrap_err());
    assert_eq!((again.code, again.reason.as_str()), (409, "AlreadyExists"));

    let mut changed = functions.get("hello").await.unwrap();
    changed.labels_mut().insert("tier".to_owned(), "web".to_owned());
    let changed = functions.replace("hello", &PostParams::default(), &changed).await.unwrap();
    let stale = status(functions.replace("hello", &PostParams::default(), &created).await.unwrap_err());
    assert_eq!((stale.code, stale.reason.as_str()), (409, "Conflict"));

    let merged = functions
        .patch(
            "hello",
            &PatchParams::default(),
            &Patch::Merge(json!({ "spec": { "handler": "index.other" } })),
        )
        .await
        .unwrap();
    assert_eq!(merged.metadata.generation, Some(2));
    assert_eq!(merged.labels(), changed.labels());

    let deleted = functions.delete("hello", &DeleteParams::default()).await.unwrap();
    assert!(deleted.right().unwrap().is_success());
    let gone = status(functions.get("hello").await.unwrap_err());
    assert_eq!(
        (gone.code, gone.reason.as_str(), gone.details.unwrap().name.as_str()),
        (404, "NotFound", "hello")
    );
    running.api.stop().await;
}

#[tokio::test]
async fn apply_creates_and_then_changes_and_keeps_what_it_does_not_name() {
    let running = running().await;
    let functions = running.functions();
    let apply = PatchParams::apply("test").force();
    let created = functions.patch("hello", &apply, &Patch::Apply(hello("hello"))).await.unwrap();
    let same = functions.patch("hello", &apply, &Patch::Apply(hello("hello"))).await.unwrap();
    assert_eq!(same.resource_version(), created.resource_version(), "the same again is no change");
    functions
        .patch(
            "hello",
            &PatchParams::default(),
            &Patch::Merge(json!({ "metadata": { "labels": { "mine": "1" } } })),
        )
        .await
        .unwrap();
    let mut other = hello("hello");
    other.spec.handler = Some("index.other".parse().unwrap());
    let changed = functions.patch("hello", &apply, &Patch::Apply(other)).await.unwrap();
    assert_eq!((changed.metadata.generation, changed.labels().len()), (Some(2), 1));
    running.api.stop().await;
}

#[tokio::test]
async fn a_status_is_written_by_itself_and_only_there() {
    let running = running().await;
    let functions = running.functions();
    let mut with_status = hello("hello");
    with_status.status =
        Some(hearth_function::FunctionStatus { url: Some("http://forged".to_owned()), ..Default::default() });
    let created = functions.create(&PostParams::default(), &with_status).await.unwrap();
    assert_eq!(created.status, None, "a client's status is not taken with the spec");
    let patch = json!({ "status": { "url": "http://real" }, "spec": { "handler": "index.ignored" } });
    let patched =
        functions.patch_status("hello", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    assert_eq!(patched.status.unwrap().url.as_deref(), Some("http://real"));
    assert_eq!((patched.spec, patched.metadata.generation), (created.spec, Some(1)));
    running.api.stop().await;
}

#[tokio::test]
async fn lists_are_of_one_namespace_or_all_and_selected() {
    let running = running().await;
    for (namespace, name) in [("default", "a"), ("default", "b"), ("other", "c")] {
        let api: kube::Api<Function> = kube::Api::namespaced(running.client.clone(), namespace);
        api.create(&PostParams::default(), &hello(name)).await.unwrap();
    }
    let names = |list: kube::core::ObjectList<Function>| {
        list.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    };
    let functions = running.functions();
    assert_eq!(names(functions.list(&ListParams::default()).await.unwrap()), ["a", "b"]);
    assert_eq!(names(functions.list(&ListParams::default().fields("metadata.name=b")).await.unwrap()), ["b"]);
    let all: kube::Api<Function> = kube::Api::all(running.client.clone());
    let list = all.list(&ListParams::default()).await.unwrap();
    assert_eq!(
        list.metadata.resource_version.as_deref(),
        Some(running.store.resource_version().to_string().as_str())
    );
    assert_eq!(names(list), ["a", "b", "c"]);
    running.api.stop().await;
}

#[tokio::test]
async fn a_watch_resumes_where_it_was_and_ends_in_time() {
    let running = running().await;
    let functions = running.functions();
    let first = functions.create(&PostParams::default(), &hello("a")).await.unwrap();
    functions.create(&PostParams::default(), &hello("b")).await.unwrap();
    functions.delete("a", &DeleteParams::default()).await.unwrap();
    let params = WatchParams::default().timeout(1);
    let events: Vec<_> = functions
        .watch(&params, &first.resource_version().unwrap())
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let told: Vec<_> = events
        .iter()
        .map(|event| match event {
            WatchEvent::Added(object) => format!("added {}", object.name_any()),
            WatchEvent::Deleted(object) => format!("deleted {}", object.name_any()),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["added b", "deleted a"]);

    let mut from_now = pin!(functions.watch(&WatchParams::default(), "0").await.unwrap());
    let Some(Ok(WatchEvent::Added(object))) = from_now.next().await else {
        panic!("the objects that are there come first")
    };
    assert_eq!(object.name_any(), "b");
    functions.create(&PostParams::default(), &hello("c")).await.unwrap();
    let Some(Ok(WatchEvent::Added(object))) = from_now.next().await else { panic!("and then what changes") };
    assert_eq!(object.name_any(), "c");
    // Watches do not hold the server up.
    running.api.stop().await;
    assert!(from_now.next().await.is_none_or(|event| event.is_err()));
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_told_to_list_again() {
    let running = running_with_history(2).await;
    let functions = running.functions();
    for name in ["a", "b", "c", "d"] {
        functions.create(&PostParams::default(), &hello(name)).await.unwrap();
    }
    for since in ["1", "99999"] {
        let mut watch = pin!(functions.watch(&WatchParams::default(), since).await.unwrap());
        let Some(Ok(WatchEvent::Error(gone))) = watch.next().await else { panic!("an error is told") };
        assert_eq!((gone.code, gone.reason.as_str()), (410, "Expired"), "{since}");
        assert!(watch.next().await.is_none(), "it is the last");
    }
    running.api.stop().await;
}

#[tokio::test]
async fn a_watch_by_label_sees_an_object_leave() {
    let running = running().await;
    let functions = running.functions();
    let since =
        functions.create(&PostParams::default(), &hello("a")).await.unwrap().resource_version().unwrap();
    for label in [json!("web"), Value::Null] {
        let patch = json!({ "metadata": { "labels": { "tier": label } } });
        functions.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }
    let watch = functions.watch(&WatchParams::default().labels("tier=web").timeout(1), &since).await.unwrap();
    let events: Vec<_> = watch.try_collect().await.unwrap();
    assert!(matches!(events.as_slice(), [WatchEvent::Modified(_), WatchEvent::Deleted(_)]), "{events:?}");
    running.api.stop().await;
}

#[tokio::test]
async fn what_the_path_and_the_object_say_must_agree() {
    let running = running().await;
    let functions = "/apis/hearth.dev/v1/namespaces/default/functions";
    for wrong in [
        json!({ "kind": "Pod", "metadata": { "name": "a" } }),
        json!({ "metadata": { "name": "a", "namespace": "other" } }),
        json!([]),
    ] {
        let (code, answer) = running.send(Request::post(functions), wrong.to_string()).await;
        assert_eq!(code, 400, "{answer}");
        assert!(answer.contains(r#""kind":"Status""#), "{answer}");
    }
    let (code, _) = running.send(Request::post(functions), vec![b' '; 4 << 20]).await;
    assert_eq!(code, 413);
    let (code, answer) = running.send(Request::post(format!("{functions}?dryRun=Some")), "{}").await;
    assert_eq!((code, answer.contains("dryRun")), (400, true));
    let (code, answer) = running.send(Request::get("/apis/hearth.dev/v1/nothing"), "").await;
    assert_eq!((code, answer.contains("NotFound")), (404, true));
    let revision = "/apis/hearth.dev/v1/namespaces/default/revisions/a-00001";
    let (code, answer) = running.send(Request::delete(revision), "").await;
    assert_eq!((code, answer.contains("MethodNotAllowed")), (405, true));
    running.api.stop().await;
}

#[tokio::test]
async fn every_problem_of_a_function_is_named_by_its_field() {
    let running = running().await;
    let bad = json!({ "metadata": { "name": "a" }, "spec": { "runtime": "nodejs", "source": { "path": "." }, "hander": "a.b", "scale": { "min": 3, "max": 2 } } });
    let request = Request::post("/apis/hearth.dev/v1/namespaces/default/functions")
        .body(bad.to_string().into_bytes())
        .unwrap();
    let refused = status(running.client.request::<Value>(request).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (422, "Invalid"));
    let details = refused.details.unwrap();
    let fields: Vec<_> = details.causes.iter().map(|cause| cause.field.as_str()).collect();
    assert_eq!((details.kind.as_str(), details.name.as_str()), ("Function", "a"));
    assert!(
        fields.contains(&"spec.hander") && fields.contains(&"spec.source.path") && fields.len() >= 3,
        "{:?}",
        details.causes
    );
    running.api.stop().await;
}

#[tokio::test]
async fn the_kube_crate_discovers_what_is_served() {
    let running = running().await;
    assert_eq!(running.client.apiserver_version().await.unwrap().major, "1");
    let groups = running.client.list_api_groups().await.unwrap();
    assert_eq!(groups.groups[0].name, "hearth.dev");
    let resources = running.client.list_api_group_resources("hearth.dev/v1").await.unwrap();
    let names: Vec<_> = resources.resources.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!(names, ["functions", "functions/status", "functions/scale", "revisions"]);
    running.api.stop().await;
}

#[tokio::test]
async fn an_invocation_carries_only_what_is_meant_for_the_function() {
    let running = running().await;
    running.functions().create(&PostParams::default(), &hello("hello")).await.unwrap();
    let request = Request::put("/apis/hearth.dev/v1/namespaces/default/functions/hello/invoke/a%2Fb?c=d")
        .header(format!("{FORWARDED_HEADER}x-mine"), "1");
    let (code, seen) = running.send(request, "body").await;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(
        (code, &seen["method"], &seen["target"], &seen["body"]),
        (418, &json!("PUT"), &json!("/a%2Fb?c=d"), &json!("body"))
    );
    assert_eq!(seen["headers"], json!(["x-mine: 1"]), "neither the token nor anything else of the client");
    for (path, target) in [("", "/"), ("/", "/"), ("?q", "/?q")] {
        let request =
            Request::get(format!("/apis/hearth.dev/v1/namespaces/default/functions/hello/invoke{path}"));
        let (code, seen) = running.send(request, "").await;
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!((code, &seen["target"]), (418, &json!(target)), "{path}");
    }
    let (code, _) =
        running.send(Request::get("/apis/hearth.dev/v1/namespaces/default/functions/none/invoke"), "").await;
    assert_eq!(code, 404);
    running.api.stop().await;
}

#[tokio::test]
async fn logs_instances_and_activity_are_told() {
    let running = running().await;
    running.functions().create(&PostParams::default(), &hello("hello")).await.unwrap();
    let base = "/apis/hearth.dev/v1/namespaces/default";
    let (_, logs) =
        running.send(Request::get(format!("{base}/functions/hello/logs?tail=5&request=r1")), "").await;
    let line: LogLine = serde_json::from_str(logs.trim_end()).unwrap();
    assert_eq!((line.text.as_str(), line.request.as_deref()), ("tail Some(5)", Some("r1")));
    let (code, _) = running.send(Request::get(format!("{base}/functions/hello/logs?tial=5")), "").await;
    assert_eq!(code, 400, "an unknown parameter is not ignored");
    let (_, one) = running.send(Request::get(format!("{base}/instances")), "").await;
    let (_, all) = running.send(Request::get("/apis/hearth.dev/v1/instances"), "").await;
    let count =
        |answer: &str| serde_json::from_str::<Value>(answer).unwrap()["items"].as_array().unwrap().len();
    assert_eq!((count(&one), count(&all)), (1, 2));
    let (_, activity) = running.send(Request::get(format!("{base}/functions/hello/activity")), "").await;
    assert_eq!(serde_json::from_str::<Activity>(&activity).unwrap().waiting, 3);
    running.api.stop().await;
}

#[tokio::test]
async fn a_bundle_is_received_once_and_leaves_nothing_behind() {
    let running = running().await;
    let path = format!("/bundles/sha256:{}", "ab".repeat(32));
    assert_eq!(running.send(Request::head(&path), "").await.0, 404);
    assert_eq!(running.send(Request::put(&path), "broken").await.0, 400);
    assert_eq!(running.send(Request::put(&path), vec![b'x'; 1001]).await.0, 413);
    assert_eq!(running.send(Request::put(&path), "content").await.0, 201);
    assert_eq!(running.send(Request::put(&path), "content").await.0, 200);
    assert_eq!(running.send(Request::head(&path), "").await.0, 204);
    assert_eq!(*running.parts.received.lock().unwrap(), [b"content"]);
    assert_eq!(running.send(Request::put("/bundles/sha256:..%2F..%2Fetc"), "x").await.0, 400);
    let left = std::fs::read_dir(running.directory.path().join("incoming")).unwrap().count();
    assert_eq!(left, 0);
    running.api.stop().await;
}

#[tokio::test]
async fn plain_http_gets_health_and_metrics_and_else_is_told_how_to_connect() {
    let running = running().await;
    let health = running.plain("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    let metrics = running.plain("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n").await;
    assert!(metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("hearth_up 1\n"), "{metrics}");
    let other = running.plain("GET /apis HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(other.starts_with("HTTP/1.1 400") && other.contains("hearth kubeconfig"), "{other}");
    let rebound = running.plain("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert!(rebound.starts_with("HTTP/1.1 403"), "{rebound}");
    let posted =
        running.plain("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
    running.api.stop().await;
}

#[tokio::test]
async fn strangers_and_pages_of_other_sites_stay_outside() {
    let running = running().await;
    let good = std::fs::read_to_string(running.api.kubeconfig()).unwrap();
    let wrong = running.directory.path().join("wrong");
    std::fs::write(&wrong, good.replace("token: ", "token: 0")).unwrap();
    let stranger: kube::Api<Function> = kube::Api::namespaced(client(&wrong).await, "default");
    let refused = status(stranger.list(&ListParams::default()).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (401, "Unauthorized"));

    let functions = "/apis/hearth.dev/v1/namespaces/default/functions";
    let (code, _) = running.send(Request::get(functions).header("origin", "https://evil.example"), "").await;
    assert_eq!(code, 403);
    let (code, _) = running.send(Request::get(functions).header("host", "evil.example"), "").await;
    assert_eq!(code, 403);
    let (code, _) = running.send(Request::get(functions).header("host", "hearth.test:7070"), "").await;
    assert_eq!(code, 200);
    running.api.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let running = running().await;
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        listen: running.api.address(),
        identity: directory.path().join("tls"),
        ..(*example(directory.path())).clone()
    };
    let error = start(config, running.store.clone(), Arc::new(Fake::default())).await.unwrap_err();
    assert!(error.to_string().contains(&running.api.address().to_string()), "{error}");
    running.api.stop().await;
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
