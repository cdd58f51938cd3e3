//! As much of an API server as a store asks of one, in memory, as the service that a kube client sends its requests to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Plural, namespace, name.
type Key = (String, String, String);

#[derive(Debug, Default)]
struct World {
    objects: BTreeMap<Key, Value>,
    events: Vec<(u64, String, Value)>,
    version: u64,
    /// Answers of requests to come, in place of what they ask for.
    faults: VecDeque<u16>,
    /// Requests that are answered with a code whenever they come, by method and path.
    refused: BTreeMap<String, u16>,
    /// Watches that began before are over.
    cut: u64,
    requests: Vec<String>,
}

/// The server. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    world: Arc<Mutex<World>>,
    version: watch::Sender<u64>,
}

impl Server {
    pub(crate) fn new() -> Self {
        Self { world: Arc::default(), version: watch::Sender::new(0) }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let of_namespace = "/apis/hearth.dev/v1/namespaces/{namespace}/{plural}";
        let of_leases = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/{plural}";
        let router: Router = Router::new()
            .route("/apis/hearth.dev/v1/{plural}", get(all))
            .route(of_namespace, get(some).post(create))
            .route(&format!("{of_namespace}/{{name}}"), get(one).put(write).patch(write).delete(delete))
            .route(&format!("{of_namespace}/{{name}}/status"), patch(write))
            .route(of_leases, get(some).post(create))
            .route(&format!("{of_leases}/{{name}}"), get(one).put(write).patch(write).delete(delete))
            .with_state(self.clone());
        kube::Client::new(router, "default")
    }

    /// The next requests that are no watch are answered with these codes.
    pub(crate) fn fail(&self, codes: &[u16]) {
        self.world.lock().unwrap().faults.extend(codes);
    }

    /// This request, as [`Self::requests`] has it, is answered with this code from now on; `None`: with what it asks for.
    pub(crate) fn refuse(&self, request: &str, code: impl Into<Option<u16>>) {
        let refused = &mut self.world.lock().unwrap().refused;
        match code.into() {
            Some(code) => refused.insert(request.to_owned(), code),
            None => refused.remove(request),
        };
    }

    /// Somebody else changes an object.
    pub(crate) fn put(&self, plural: &str, object: Value) -> Value {
        let key = key_of(plural, &object);
        self.change(|world| store(world, key, object))
    }

    /// The garbage collector, or somebody with kubectl, removes an object.
    pub(crate) fn remove(&self, plural: &str, name: &str) {
        let key = (plural.to_owned(), "default".to_owned(), name.to_owned());
        self.change(|world| drop(take(world, &key)));
    }

    /// Ends every watch; what happens until `heal` is told by nobody, and the history is lost, so that only a list tells.
    pub(crate) fn cut_watches(&self) {
        self.change(|world| {
            world.version += 1;
            world.cut = world.version;
            world.events.clear();
        });
    }

    pub(crate) fn object(&self, plural: &str, name: &str) -> Option<Value> {
        let key = (plural.to_owned(), "default".to_owned(), name.to_owned());
        self.world.lock().unwrap().objects.get(&key).cloned()
    }

    /// Method and path of every request so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.world.lock().unwrap().requests.clone()
    }

    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.world.lock().unwrap();
        let result = change(&mut world);
        let version = world.version;
        drop(world);
        self.version.send_replace(version);
        result
    }

    fn fault(&self, method: &Method, path: &str) -> Option<Response> {
        let mut world = self.world.lock().unwrap();
        let request = format!("{method} {path}");
        let refused = world.refused.get(&request).copied();
        world.requests.push(request);
        let code = refused.or_else(|| world.faults.pop_front())?;
        Some(refusal(code, "Unavailable", "not now"))
    }
}

fn key_of(plural: &str, object: &Value) -> Key {
    let field = |name: &str| object["metadata"][name].as_str().unwrap_or("default").to_owned();
    (plural.to_owned(), field("namespace"), field("name"))
}

fn store(world: &mut World, key: Key, mut object: Value) -> Value {
    world.version += 1;
    let version = world.version;
    let before = world.objects.get(&key);
    let metadata = object["metadata"].as_object_mut().unwrap();
    let uid =
        before.map_or_else(|| json!(format!("uid-{version}")), |before| before["metadata"]["uid"].clone());
    metadata.insert("uid".to_owned(), uid);
    metadata.insert("namespace".to_owned(), json!(key.1));
    metadata.insert("resourceVersion".to_owned(), json!(version.to_string()));
    metadata.insert("creationTimestamp".to_owned(), json!("2026-01-01T00:00:00Z"));
    metadata.insert("managedFields".to_owned(), json!([{ "manager": "x" }]));
    let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
    let over = object["metadata"]["deletionTimestamp"].is_string()
        && object["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty);
    if over {
        world.objects.insert(key.clone(), object.clone());
        take(world, &key);
        return object;
    }
    world.events.push((version, key.0.clone(), json!({ "type": kind, "object": object })));
    world.objects.insert(key, object.clone());
    object
}

fn take(world: &mut World, key: &Key) -> Option<Value> {
    let mut object = world.objects.remove(key)?;
    world.version += 1;
    object["metadata"]["resourceVersion"] = json!(world.version.to_string());
    world.events.push((world.version, key.0.clone(), json!({ "type": "DELETED", "object": object })));
    Some(object)
}

fn refusal(code: u16, reason: &str, message: &str) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message });
    (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
}

async fn all(
    State(server): State<Server>,
    Path(plural): Path<String>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Response {
    list(server, plural, None, &asked)
}

async fn some(
    State(server): State<Server>,
    Path((namespace, plural)): Path<(String, String)>,
    Query(asked): Query<BTreeMap<String, String>>,
) -> Response {
    list(server, plural, Some(namespace), &asked)
}

fn list(
    server: Server,
    plural: String,
    namespace: Option<String>,
    asked: &BTreeMap<String, String>,
) -> Response {
    if asked.get("watch").is_some() {
        let since = asked.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        return watching(server, plural, namespace, since);
    }
    let place = namespace.as_ref().map(|namespace| format!("{plural} in {namespace}"));
    if let Some(fault) = server.fault(&Method::GET, place.as_ref().unwrap_or(&plural)) {
        return fault;
    }
    let world = server.world.lock().unwrap();
    let within =
        |key: &Key| key.0 == plural && namespace.as_ref().is_none_or(|namespace| *namespace == key.1);
    let items: Vec<Value> =
        world.objects.iter().filter(|(key, _)| within(key)).map(|(_, object)| object.clone()).collect();
    let metadata = json!({ "resourceVersion": world.version.to_string() });
    axum::Json(json!({ "kind": "List", "apiVersion": "hearth.dev/v1", "metadata": metadata, "items": items }))
        .into_response()
}

fn watching(server: Server, plural: String, namespace: Option<String>, since: u64) -> Response {
    let world = server.world.lock().unwrap();
    if since < world.cut {
        let gone = json!({ "type": "ERROR", "object": { "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "code": 410, "reason": "Expired", "message": "too old" } });
        return Body::from(format!("{gone}\n")).into_response();
    }
    let began = world.cut;
    drop(world);
    let heard = server.version.subscribe();
    let state = (server, heard, since);
    let lines = futures_util::stream::unfold(state, move |(server, mut heard, since)| {
        let (plural, namespace) = (plural.clone(), namespace.clone());
        async move {
            loop {
                heard.borrow_and_update();
                let found = {
                    let world = server.world.lock().unwrap();
                    if world.cut > began {
                        return None;
                    }
                    let fits = |(version, of, event): &&(u64, String, Value)| {
                        let place = event["object"]["metadata"]["namespace"].as_str();
                        *version > since
                            && *of == plural
                            && namespace.as_deref().is_none_or(|one| Some(one) == place)
                    };
                    world.events.iter().find(fits).cloned()
                };
                if let Some((version, _, event)) = found {
                    let line = Ok::<_, std::io::Error>(Bytes::from(format!("{event}\n")));
                    return Some((line, (server, heard, version)));
                }
                heard.changed().await.ok()?;
            }
        }
    });
    Body::from_stream(lines).into_response()
}

async fn create(
    State(server): State<Server>,
    Path((namespace, plural)): Path<(String, String)>,
    axum::Json(mut object): axum::Json<Value>,
) -> Response {
    if let Some(fault) = server.fault(&Method::POST, &plural) {
        return fault;
    }
    object["metadata"]["namespace"] = json!(namespace);
    object["metadata"]["generation"] = json!(1);
    // As with every resource that has a status of its own.
    object.as_object_mut().unwrap().remove("status");
    let key = key_of(&plural, &object);
    if server.world.lock().unwrap().objects.contains_key(&key) {
        return refusal(409, "AlreadyExists", "already exists");
    }
    axum::Json(server.change(|world| store(world, key, object))).into_response()
}

async fn one(
    State(server): State<Server>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
) -> Response {
    if let Some(fault) = server.fault(&Method::GET, &format!("{plural}/{name}")) {
        return fault;
    }
    match server.world.lock().unwrap().objects.get(&(plural, namespace, name)) {
        Some(object) => axum::Json(object.clone()).into_response(),
        None => refusal(404, "NotFound", "not found"),
    }
}

/// PUT and PATCH; of the status, only the status is changed.
async fn write(
    State(server): State<Server>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let of_status = request.uri().path().ends_with("/status");
    let method = request.method().clone();
    if let Some(fault) = server.fault(&method, request.uri().path().rsplit("v1/").next().unwrap()) {
        return fault;
    }
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let key = (plural, namespace, name);
    server.change(|world| {
        let Some(before) = world.objects.get(&key).cloned() else {
            return refusal(404, "NotFound", "not found");
        };
        let mut after = before.clone();
        if method == Method::PATCH {
            json_patch::merge(&mut after, &asked)
        } else {
            after = asked
        }
        for field in ["uid", "resourceVersion"] {
            if after["metadata"][field] != before["metadata"][field] {
                return refusal(409, "Conflict", "the object has been modified");
            }
        }
        if of_status {
            after = json_with(&before, "status", after["status"].clone());
        } else {
            after = json_with(&after, "status", before["status"].clone());
        }
        axum::Json(store(world, key, after)).into_response()
    })
}

fn json_with(object: &Value, field: &str, value: Value) -> Value {
    let mut object = object.clone();
    object[field] = value;
    object
}

async fn delete(
    State(server): State<Server>,
    Path((namespace, plural, name)): Path<(String, String, String)>,
    body: Bytes,
) -> Response {
    if let Some(fault) = server.fault(&Method::DELETE, &format!("{plural}/{name}")) {
        return fault;
    }
    let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
    let key = (plural, namespace, name);
    server.change(|world| {
        let Some(mut object) = world.objects.get(&key).cloned() else {
            return refusal(404, "NotFound", "not found");
        };
        let uid = &asked["preconditions"]["uid"];
        if uid.is_string() && *uid != object["metadata"]["uid"] {
            return refusal(409, "Conflict", "the uid is another");
        }
        if object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty()) {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            return axum::Json(store(world, key, object)).into_response();
        }
        take(world, &key);
        axum::Json(json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" }))
            .into_response()
    })
}
