//! Knative Services as Functions: `serving.knative.dev/v1`, and `v1beta1` and `v1alpha1` before it.
//!
//! A Service becomes a Function with the `http` runtime and the Service's image. Fields are taken out of the Service one by one; whatever is
//! left at the end cannot be honoured, and each of it is named in a warning. So nothing is dropped in silence, whatever Knative adds.
//!
//! Defaults are Knative's where they say something about the workload (a call may take 300 s, an instance runs as many calls at once as
//! come) and Hearth's where they are the platform's (how many instances there are at most).

mod autoscaling;
mod fields;

use serde_json::{Map, Value, json};

use crate::Problem;
use crate::spec::{Function, Scale};
use crate::validate::{DAY, MOST_CONCURRENCY};
use fields::Fields;

/// What an API version of Knative's begins with.
const GROUP: &str = "serving.knative.dev/";

/// The versions whose Services are read.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// Seconds that a call may take when a Service does not say (Knative's `revision-timeout-seconds`).
const TIMEOUT_SECONDS: u64 = 300;

/// Calls at once when a Service sets no limit (Knative's `container-concurrency-target-default`, which it scales by then).
const UNLIMITED: u64 = 100;

/// Labels and annotations that Knative's own controllers, kn and kubectl write: they say nothing about the workload.
const SERVERS_OWN: [&str; 5] = [
    "serving.knative.dev/creator",
    "serving.knative.dev/lastModifier",
    "client.knative.dev/user-image",
    "client.knative.dev/updateTimestamp",
    "kubectl.kubernetes.io/last-applied-configuration",
];

/// Fields of a Pod that are not honoured, with what there is instead.
const PODS: [(&str, &str); 4] = [
    ("affinity", "nodeSelector and tolerations say where an instance runs"),
    ("volumes", "an instance has only /tmp: put files into the image, and values into env"),
    ("initContainers", "an instance has one container: what they prepare must be in the image"),
    ("securityContext", FEW_RIGHTS),
];

/// The same of its container.
const CONTAINERS: [(&str, &str); 6] = [
    // Hearth asks no probe.
    ("readinessProbe", "an instance is Ready when its port takes connections"),
    ("startupProbe", "an instance is Ready when its port takes connections"),
    ("livenessProbe", "an instance that does not answer is replaced when a call has outlived its time"),
    ("envFrom", "name each variable in env, with valueFrom"),
    ("volumeMounts", "the program finds nothing there but what the image has"),
    ("securityContext", FEW_RIGHTS),
];

const FEW_RIGHTS: &str =
    "Hearth sets it: never root, a read-only file system, no capabilities, no new privileges";

/// A Service, converted.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversion {
    /// The Function, as a manifest.
    pub function: Value,
    /// What of the Service is not honoured, each with its path in the Service.
    pub warnings: Vec<Problem>,
}

/// Whether a manifest is one of Knative's.
#[must_use]
pub fn is_knative(manifest: &Value) -> bool {
    manifest.get("apiVersion").and_then(Value::as_str).is_some_and(|version| version.starts_with(GROUP))
}

/// Makes a Function of a Knative Service.
///
/// # Errors
/// All that keeps it from being one: another kind, no image, several containers, values of a wrong type.
pub fn convert(service: &Value) -> Result<Conversion, Vec<Problem>> {
    let mut notes = Notes::default();
    let mut fields = Fields::new("", Some(service.clone()), &mut notes);
    let version = fields.text("apiVersion", &mut notes).unwrap_or_default();
    if !VERSIONS.iter().any(|known| version.strip_prefix(GROUP) == Some(known)) {
        notes.problem("apiVersion", format!("{version} is not known"), "write serving.knative.dev/v1");
    }
    let kind = fields.text("kind", &mut notes).unwrap_or_default();
    if kind != "Service" {
        let message = format!("a {kind} of Knative's is not read");
        notes.problem(
            "kind",
            message,
            "give the Service: a Function is its Configuration and its Route as well",
        );
        return Err(notes.problems);
    }
    fields.drop("status");
    let metadata = metadata(fields.object("metadata", &mut notes), &mut notes);
    let spec = spec(fields.object("spec", &mut notes), &metadata, &mut notes);
    fields.leave(&mut notes);
    if !notes.problems.is_empty() {
        return Err(notes.problems);
    }
    let function =
        json!({ "apiVersion": crate::API_VERSION, "kind": "Function", "metadata": metadata, "spec": spec });
    Ok(Conversion { function, warnings: notes.warnings })
}

/// Gives a Function that was made of a Service the hosts of the namespace that it is in: a Service that names none is in the one that whoever
/// applies it works with.
pub fn name_hosts(function: &mut Function) {
    let metadata = json!({ "name": function.metadata.name, "namespace": function.metadata.namespace });
    if let Ok(triggers) = serde_json::from_value(triggers(&metadata)) {
        function.spec.triggers = triggers;
    }
}

/// What is found on the way.
#[derive(Debug, Default)]
struct Notes {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Notes {
    fn problem(&mut self, path: &str, message: impl Into<String>, fix: &str) {
        self.problems.push(Problem::new(path, message, Some(fix.to_owned())));
    }

    fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(Problem::new(path, message, None));
    }
}

fn metadata(mut fields: Fields, notes: &mut Notes) -> Value {
    let mut metadata = Map::new();
    for name in ["name", "namespace"] {
        if let Some(value) = fields.take(name) {
            metadata.insert(name.to_owned(), value);
        }
    }
    for server in ["uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"] {
        fields.drop(server);
    }
    for kind in ["labels", "annotations"] {
        let mut given = fields.object(kind, notes);
        for own in SERVERS_OWN {
            given.drop(own);
        }
        let theirs: Vec<String> =
            given.names().filter(|name| name.contains("knative.dev/")).map(ToOwned::to_owned).collect();
        for name in theirs {
            if name == "networking.knative.dev/visibility" {
                let path = given.path_of(&name);
                given.drop(&name);
                notes.warn(&path, "not honoured: whoever reaches the gateway reaches the function");
            }
        }
        let (kept, left) = given.split(|name| !name.contains("knative.dev/"));
        if !kept.is_empty() {
            metadata.insert(kind.to_owned(), Value::Object(kept));
        }
        left.leave(notes);
    }
    fields.leave(notes);
    Value::Object(metadata)
}

fn spec(mut fields: Fields, metadata: &Value, notes: &mut Notes) -> Value {
    let mut template = template(&mut fields, notes);
    traffic(&mut fields, notes);
    fields.leave(notes);

    let mut about = template.object("metadata", notes);
    let mut annotations = about.object("annotations", notes);
    for own in SERVERS_OWN {
        annotations.drop(own);
    }
    about.drop("creationTimestamp");
    explain(&mut about, &[("name", "Hearth names revisions itself")], notes);
    let mut pod = template.object("spec", notes);
    template.leave(notes);

    let limit = limit(&mut pod, notes);
    let scaling = autoscaling::read(&mut annotations, limit, notes);
    annotations.leave(notes);
    about.leave(notes);

    let timeouts = timeouts(&mut pod, notes);
    let kubernetes = kubernetes(&mut pod, notes);
    let container = container(&mut pod, notes);
    explain(&mut pod, &PODS, notes);
    // What the defaulting of Knative's webhook writes into every Service.
    pod.drop_if("enableServiceLinks", &json!(false));
    pod.leave(notes);

    let mut spec = container;
    spec.insert("runtime".to_owned(), json!("http"));
    spec.insert("timeouts".to_owned(), timeouts);
    spec.insert("concurrency".to_owned(), scaling.concurrency);
    if scaling.scale != json!({}) {
        spec.insert("scale".to_owned(), scaling.scale);
    }
    if !kubernetes.is_empty() {
        spec.insert("kubernetes".to_owned(), Value::Object(kubernetes));
    }
    spec.insert("triggers".to_owned(), triggers(metadata));
    Value::Object(spec)
}

/// How long a call may take. None and 0 are the same in each of Knative's three: the default, which for an answer that stands still is no bound.
fn timeouts(pod: &mut Fields, notes: &mut Notes) -> Value {
    const WHOLE: &str = "timeoutSeconds";
    let whole = seconds(pod, WHOLE, notes);
    let head = seconds(pod, "responseStartTimeoutSeconds", notes);
    let idle = seconds(pod, "idleTimeoutSeconds", notes).unwrap_or(0);
    // Knative's webhook writes its default into every Service: nobody has asked for that one.
    if whole.is_some_and(|whole| whole != TIMEOUT_SECONDS) {
        let message = "bounds only the time to the answer's head: an answer that has begun may take longer";
        notes.warn(&pod.path_of(WHOLE), message);
    }
    let whole = whole.unwrap_or(TIMEOUT_SECONDS);
    let execute = head.map_or(whole, |head| head.min(whole));
    json!({ "execute": format!("{execute}s"), "idleStream": format!("{idle}s") })
}

/// A time that is given, and not as 0.
fn seconds(pod: &mut Fields, field: &str, notes: &mut Notes) -> Option<u64> {
    let seconds = pod.number(field, notes).filter(|seconds| *seconds > 0)?;
    let longest = DAY.get().as_secs();
    if seconds > longest {
        let message = format!("{seconds} is not to be had: {longest} seconds at most");
        notes.warn(&pod.path_of(field), message);
    }
    Some(seconds.min(longest))
}

/// Takes what is not honoured, and says what there is instead.
fn explain(fields: &mut Fields, known: &[(&str, &str)], notes: &mut Notes) {
    for (name, instead) in known {
        if fields.take(name).is_some() {
            notes.warn(&fields.path_of(name), format!("not honoured: {instead}"));
        }
    }
}

/// Calls at once, 0 for no limit.
fn limit(pod: &mut Fields, notes: &mut Notes) -> u64 {
    const FIELD: &str = "containerConcurrency";
    let limit = pod.number(FIELD, notes).unwrap_or(0);
    let most = u64::from(MOST_CONCURRENCY);
    if limit > most {
        notes.warn(
            &pod.path_of(FIELD),
            format!("{limit} is not to be had: an instance takes {most} calls at once"),
        );
    }
    limit.min(most)
}

/// What the Pods are told, of which Hearth's have the same.
fn kubernetes(pod: &mut Fields, notes: &mut Notes) -> Map<String, Value> {
    let mut told = Map::new();
    // The second is the first's older name.
    let accounts = ["serviceAccountName", "serviceAccount"].map(|name| pod.text(name, notes));
    if let Some(account) = accounts.into_iter().flatten().find(|account| !account.is_empty()) {
        told.insert("serviceAccount".to_owned(), json!(account));
    }
    let (selector, _) = pod.object("nodeSelector", notes).split(|_| true);
    if !selector.is_empty() {
        told.insert("nodeSelector".to_owned(), Value::Object(selector));
    }
    for name in ["tolerations", "imagePullSecrets"] {
        let values = pod.values(name, notes);
        if !values.is_empty() {
            told.insert(name.to_owned(), Value::Array(values));
        }
    }
    told
}

/// The template of the Revisions: where `v1` has it, or one of the places of `v1alpha1`.
fn template(spec: &mut Fields, notes: &mut Notes) -> Fields {
    let mut latest = spec.object("runLatest", notes);
    let mut configuration = latest.object("configuration", notes);
    for mode in ["release", "manual", "pinned"] {
        if spec.take(mode).is_some() {
            let path = spec.path_of(mode);
            notes.problem(
                &path,
                format!("the mode {mode} is not read"),
                "write the Service as serving.knative.dev/v1, with spec.template",
            );
        }
    }
    let old = configuration.object("revisionTemplate", notes);
    let template = if old.is_empty() { configuration.object("template", notes) } else { old };
    configuration.leave(notes);
    latest.leave(notes);
    if template.is_empty() { spec.object("template", notes) } else { template }
}

fn traffic(spec: &mut Fields, notes: &mut Notes) {
    for mut target in spec.list("traffic", notes) {
        explain(&mut target, &[("tag", "a revision has no address of its own")], notes);
        target.drop_if("latestRevision", &json!(true));
        target.drop_if("percent", &json!(100));
        if !target.is_empty() {
            notes.warn(target.path(), "not honoured: all requests go to the newest revision that came up");
        }
    }
}

fn container(pod: &mut Fields, notes: &mut Notes) -> Map<String, Value> {
    let mut containers = pod.list("containers", notes);
    let old = pod.object("container", notes);
    if !old.is_empty() {
        containers.push(old);
    }
    let mut spec = Map::new();
    let path = pod.path_of("containers");
    let count = containers.len();
    let Some(mut container) = containers.drain(..).next().filter(|_| count == 1) else {
        // What is not read may hold it.
        if count > 0 || notes.problems.is_empty() {
            let fix = "give one container: what stands beside it is a Function of its own";
            notes.problem(&path, format!("there are {count} containers"), fix);
        }
        return spec;
    };
    match container.text("image", notes) {
        Some(image) => drop(spec.insert("source".to_owned(), json!({ "image": image }))),
        None => notes.problem(&container.path_of("image"), "there is no image", "name the image to run"),
    }
    command(&mut container, &mut spec, notes);
    let env = container.values("env", notes);
    variables(&env, &container.path_of("env"), notes);
    if !env.is_empty() {
        spec.insert("env".to_owned(), Value::Array(env));
    }
    resources(container.object("resources", notes), &mut spec, notes);
    ports(&mut container, notes);
    // What the defaulting of Knative's webhook writes: it is what Hearth does.
    container.drop_if("readinessProbe", &json!({ "tcpSocket": { "port": 0 }, "successThreshold": 1 }));
    explain(&mut container, &CONTAINERS, notes);
    container.drop("name");
    container.drop_if("imagePullPolicy", &json!("IfNotPresent"));
    container.leave(notes);
    spec
}

/// Refuses values that an instance does not have: without them the program would be another.
fn variables(env: &[Value], path: &str, notes: &mut Notes) {
    for (index, variable) in env.iter().enumerate() {
        let from = variable.get("valueFrom").and_then(Value::as_object);
        for place in from.into_iter().flat_map(Map::keys) {
            if !["secretKeyRef", "configMapKeyRef"].contains(&place.as_str()) {
                let path = format!("{path}[{index}].valueFrom.{place}");
                let message = format!("{place} is not a place where a Function finds a value");
                notes.problem(&path, message, "write the value, or keep it in a Secret or ConfigMap");
            }
        }
    }
}

fn command(container: &mut Fields, spec: &mut Map<String, Value>, notes: &mut Notes) {
    let mut command = container.values("command", notes);
    let arguments = container.values("args", notes);
    if command.is_empty() && !arguments.is_empty() {
        let path = container.path_of("args");
        let fix = "write the image's entrypoint as command, before them";
        notes.problem(&path, "arguments without a command cannot be put behind the image's own", fix);
        return;
    }
    command.extend(arguments);
    if !command.is_empty() {
        spec.insert("command".to_owned(), Value::Array(command));
    }
}

fn resources(mut fields: Fields, spec: &mut Map<String, Value>, notes: &mut Notes) {
    let mut limits = fields.object("limits", notes);
    let mut requests = fields.object("requests", notes);
    let mut resources = Map::new();
    for name in ["memory", "cpu"] {
        // Without a limit, what was asked for is the only word on the size.
        let asked = requests.take(name);
        if let Some(value) = limits.take(name) {
            if asked.is_some_and(|asked| asked != value) {
                notes.warn(&requests.path_of(name), "not honoured: an instance has limits, and may use less");
            }
            resources.insert(name.to_owned(), value);
        } else if let Some(asked) = asked {
            let path = requests.path_of(name);
            if name == "memory" {
                notes.warn(&path, "taken as the limit: there is none");
                resources.insert(name.to_owned(), asked);
            } else {
                notes.warn(&path, "not honoured: an instance without a limit has the cpu that is there");
            }
        }
    }
    limits.leave(notes);
    requests.leave(notes);
    fields.leave(notes);
    if !resources.is_empty() {
        spec.insert("resources".to_owned(), Value::Object(resources));
    }
}

fn ports(container: &mut Fields, notes: &mut Notes) {
    for mut port in container.list("ports", notes) {
        if port.text("name", notes).is_some_and(|name| name == "h2c") {
            notes.warn(
                &port.path_of("name"),
                "not honoured: an instance is spoken to by HTTP/1.1, and gRPC does not reach it",
            );
        }
        if port.number("containerPort", notes).is_some() {
            notes.warn(
                &port.path_of("containerPort"),
                "not honoured: the server must listen on $PORT, which Hearth chooses (as Knative's contract says too)",
            );
        }
        port.drop_if("protocol", &json!("TCP"));
        port.leave(notes);
    }
}

/// The names that Knative gives a Service, with `localhost` for its domain: every such name leads to the machine it is asked on.
fn triggers(metadata: &Value) -> Value {
    let text = |field: &str| metadata.get(field).and_then(Value::as_str);
    let name = text("name").unwrap_or_default();
    let namespace = text("namespace").unwrap_or(crate::DEFAULT_NAMESPACE);
    let hosts = [format!("{name}.{namespace}.localhost"), format!("{name}.{namespace}.svc.cluster.local")];
    let trigger = |host: &String| json!({ "http": { "path": "/", "pathType": "Prefix", "host": host } });
    Value::Array(hosts.iter().map(trigger).collect())
}

#[cfg(test)]
mod tests;
