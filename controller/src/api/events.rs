//! Events (`v1`), for `kubectl describe` and `kubectl get events`: a view of what is known of each Function lately: its conditions, the
//! scaler's last decisions, the last starts. Nothing is stored for them; what is forgotten there is gone here.

mod following;

use std::sync::LazyLock;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::HeaderMap;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Resource, ResourceExt};
use serde_json::json;
use sha2::{Digest, Sha256};

use hearth_function::{ConditionStatus, Function};

use super::Context;
use super::extract::{Params, Place};
use super::failure::Failure;
use super::kinds::Column;
use super::objects::ListQuery;
use super::ports::Activity;
use super::render::{Rendering, View};
use super::selector::Selector;
use following::{Events, Mark};

/// What events can be selected by, as in a cluster.
static FIELDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let fields = [
        "involvedObject.apiVersion",
        "involvedObject.kind",
        "involvedObject.name",
        "involvedObject.namespace",
        "involvedObject.uid",
        "reason",
        "source",
        "type",
    ];
    fields.into_iter().map(str::to_owned).collect()
});

static COLUMNS: LazyLock<Vec<Column>> = LazyLock::new(|| {
    let columns = [
        ("Last Seen", "date", ".lastTimestamp"),
        ("Type", "string", ".type"),
        ("Reason", "string", ".reason"),
        ("Object", "string", ".involvedObject.name"),
        ("Message", "string", ".message"),
    ];
    columns.into_iter().filter_map(|(name, kind, path)| Column::new(name, kind, "", "", path)).collect()
});

/// The routes below `/api/v1`.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/events", get(list_all))
        .route("/namespaces/{namespace}/events", get(list))
        .route("/namespaces/{namespace}/events/{name}", get(read))
}

async fn list_all(
    State(context): State<Context>,
    Params(asked): Params<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    list_or_watch(context, None, &asked, &headers).await
}

async fn list(
    State(context): State<Context>,
    Path(namespace): Path<String>,
    Params(asked): Params<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    list_or_watch(context, Some(namespace), &asked, &headers).await
}

async fn list_or_watch(
    context: Context,
    namespace: Option<String>,
    asked: &ListQuery,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let selector =
        Selector::parse(namespace.as_deref(), &asked.label_selector, &asked.field_selector, &FIELDS)?;
    let view = asked.view(headers)?;
    let look = Look { context, namespace, selector };
    if asked.is_watch() {
        return following::answer(look, view, asked).await;
    }
    let events = look.events().await;
    let now = Timestamp::now();
    let metadata = json!({ "resourceVersion": Mark::of(events.keys()).version(now) });
    let rendering = Rendering { view, columns: &COLUMNS, now };
    let items = events.into_values().collect();
    Ok(Json(rendering.list("v1", "EventList", metadata, items)).into_response())
}

async fn read(
    State(context): State<Context>,
    Place { namespace, name }: Place,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let view = View::of(&headers, "")?;
    let selector = Selector::parse(Some(&namespace), "", &format!("metadata.name={name}"), &[])?;
    let look = Look { context, namespace: Some(namespace), selector };
    let event =
        look.events().await.into_values().next().ok_or_else(|| Failure::no_core_object("events", &name))?;
    let rendering = Rendering { view, columns: &COLUMNS, now: Timestamp::now() };
    Ok(Json(rendering.one(event)).into_response())
}

/// Which events are wanted.
struct Look {
    context: Context,
    namespace: Option<String>,
    selector: Selector,
}

impl Look {
    async fn events(&self) -> Events {
        let mut events = Events::new();
        for function in self.context.store.list::<Function>(self.namespace.as_deref()).items {
            let Ok(id) = function.id() else { continue };
            let activity = self.context.parts.activity(&id).await;
            for event in of(&function, &activity) {
                let key = (event.last_timestamp.as_ref().map(|time| time.0), event.name_any());
                let event = serde_json::to_value(event).unwrap_or_default();
                if self.selector.matches_json(&event) {
                    events.insert(key, event);
                }
            }
        }
        events
    }
}

/// The events of a Function: pure.
fn of(function: &Function, activity: &Activity) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in function.status.iter().flat_map(|status| &status.conditions) {
        let kind = match condition.status {
            ConditionStatus::True => "Normal",
            ConditionStatus::False => "Warning",
            // It will be one or the other.
            ConditionStatus::Unknown => continue,
        };
        let about = condition.condition_type;
        let message = match (condition.status, condition.message.is_empty()) {
            (_, false) => format!("{about}: {}", condition.message),
            (ConditionStatus::True, true) => format!("{about} holds"),
            (_, true) => format!("{about} does not hold"),
        };
        events.push(event(
            function,
            Some(condition.last_transition_time.0),
            kind,
            &condition.reason,
            message,
        ));
    }
    for decision in &activity.decisions {
        let kind = if decision.warning { "Warning" } else { "Normal" };
        let message = decision.message.clone();
        events.push(event(function, time(&decision.time), kind, &decision.reason, message));
    }
    for start in &activity.starts {
        let (instance, revision) = (&start.instance, start.revision.name());
        let took: f64 = start.phases_ms.values().sum();
        events.push(match &start.failure {
            None => {
                let message = format!("instance {instance} of {revision} is up after {took:.0} ms");
                event(function, time(&start.time), "Normal", "Started", message)
            }
            Some(failure) => {
                let message = format!("instance {instance} of {revision} did not come up: {failure}");
                event(function, time(&start.time), "Warning", "StartFailed", message)
            }
        });
    }
    events
}

fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

fn event(function: &Function, time: Option<Timestamp>, kind: &str, reason: &str, message: String) -> Event {
    let name = function.name_any();
    let uid = function.uid().unwrap_or_default();
    // The same occurrence has the same name whenever it is looked at.
    let moment = time.map(|time| time.to_string()).unwrap_or_default();
    let digest = Sha256::digest(format!("{uid}\n{moment}\n{reason}\n{message}"));
    let number = u128::from_be_bytes(std::array::from_fn(|at| digest.get(at).copied().unwrap_or(0)));
    let seen = time.and_then(|time| Timestamp::from_second(time.as_second()).ok()).map(Time);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:016x}", number >> 64)),
            namespace: function.namespace(),
            uid: Some(crate::store::uuid(number)),
            resource_version: function.resource_version(),
            creation_timestamp: seen.clone(),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(Function::api_version(&()).into_owned()),
            kind: Some(Function::kind(&()).into_owned()),
            name: Some(name),
            namespace: function.namespace(),
            uid: Some(uid),
            ..ObjectReference::default()
        },
        type_: Some(kind.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        count: Some(1),
        first_timestamp: seen.clone(),
        last_timestamp: seen,
        source: Some(EventSource { component: Some("hearth".to_owned()), host: None }),
        reporting_component: Some("hearth".to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> Function {
        let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z" });
        serde_json::from_value(json!({
            "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "a", "namespace": "n", "uid": "u" },
            "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
            "status": { "conditions": [condition("Ready", "False"), condition("Built", "True"), condition("RoutesReady", "Unknown")] },
        }))
        .unwrap()
    }

    #[test]
    fn what_happened_is_told_and_named_the_same_each_time() {
        let activity: Activity = serde_json::from_value(json!({
            "decisions": [
                { "time": "2026-01-01T00:00:01.5Z", "message": "from 0 to 1 instance" },
                { "time": "2026-01-01T00:00:01.7Z", "reason": "Killed", "warning": true, "message": "i-0 killed" },
            ],
            "starts": [
                { "time": "2026-01-01T00:00:02Z", "instance": "i-1", "revision": "n/a-00001", "phasesMs": { "boot": 40.0, "load": 2.4 } },
                { "time": "2026-01-01T00:00:03Z", "instance": "i-2", "revision": "n/a-00001", "phasesMs": {}, "failure": "exit code 1" },
            ],
            "waiting": 0, "inFlight": 0,
        }))
        .unwrap();
        let events = of(&function(), &activity);
        let said: Vec<_> = events
            .iter()
            .map(|event| {
                let text = |field: &Option<String>| field.clone().unwrap_or_default();
                format!("{} {} {}", text(&event.type_), text(&event.reason), text(&event.message))
            })
            .collect();
        assert_eq!(
            said,
            [
                "Warning R Ready: m",
                "Normal R Built: m",
                "Normal Scaled from 0 to 1 instance",
                "Warning Killed i-0 killed",
                "Normal Started instance i-1 of a-00001 is up after 42 ms",
                "Warning StartFailed instance i-2 of a-00001 did not come up: exit code 1",
            ]
        );
        assert_eq!(of(&function(), &activity), events);
        let names: std::collections::BTreeSet<_> = events.iter().map(ResourceExt::name_any).collect();
        assert_eq!(names.len(), events.len());
    }
}
