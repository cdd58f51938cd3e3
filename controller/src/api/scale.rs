//! The scale of a Function as a sub-resource (`autoscaling/v1`): its replicas are `spec.scale.min`, the instances that are kept whatever the
//! traffic, and the replicas that there are are `status.instances.ready`. How many there are between `min` and `max` is Hearth's to decide.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use hearth_function::Function;

use super::Context;
use super::extract::{Place, Sent};
use super::failure::Failure;
use super::objects::to_json;
use super::patch::{self as patching, Form};
use super::writing::{Version, Writing, on_the_newest};

pub(super) async fn read(
    State(context): State<Context>,
    Place { namespace, name }: Place,
) -> Result<Response, Failure> {
    Ok(Json(of(context.store.get::<Function>(&namespace, &name)?.as_ref())).into_response())
}

pub(super) async fn update(writing: Writing, Sent(sent): Sent) -> Result<Response, Failure> {
    let (writing, scale) = (&writing, &patching::yaml(&sent)?);
    let version = match scale["metadata"]["resourceVersion"].as_str() {
        None | Some("") => Version::Any,
        Some(_) => Version::Named,
    };
    let stored = on_the_newest(writing.name(), || async move {
        Ok((version, write(writing, &*writing.live()?, scale.clone()).await))
    });
    Ok(Json(stored.await?).into_response())
}

pub(super) async fn patch(writing: Writing, form: Form, Sent(sent): Sent) -> Result<Response, Failure> {
    let change = form.read(&sent)?;
    let (writing, change) = (&writing, &change);
    let stored = on_the_newest(writing.name(), || async move {
        let live = writing.live()?;
        let before = serde_json::to_value(of(&live)).unwrap_or_default();
        let after = form.apply(&before, change)?;
        let version = Version::of_patched(&before, &after);
        Ok((version, write(writing, &live, after).await))
    });
    Ok(Json(stored.await?).into_response())
}

/// The scale of a Function.
fn of(function: &Function) -> Scale {
    let replicas = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let ready = function.status.as_ref().map_or(0, |status| status.instances.ready);
    Scale {
        metadata: ObjectMeta {
            name: Some(function.name_any()),
            namespace: function.namespace(),
            uid: function.uid(),
            resource_version: function.resource_version(),
            creation_timestamp: function.creation_timestamp(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: Some(replicas(function.spec.scale.min)) }),
        status: Some(ScaleStatus { replicas: replicas(ready), selector: None }),
    }
}

async fn write(writing: &Writing, live: &Function, scale: Value) -> Result<Scale, Failure> {
    let scale: Scale = serde_json::from_value(scale)
        .map_err(|error| Failure::bad_request(&format!("the scale cannot be read: {error}")))?;
    let replicas = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
    if replicas < 0 {
        let cause = ("spec.replicas".to_owned(), "must not be negative".to_owned());
        return Err(Failure::invalid("Scale", &live.name_any(), vec![cause]));
    }
    let mut object = to_json(live)?;
    if let Some(version) = scale.metadata.resource_version.filter(|version| !version.is_empty()) {
        object["metadata"]["resourceVersion"] = json!(version);
    }
    object["spec"]["scale"]["min"] = json!(replicas);
    Ok(of(&writing.replace(live, object).await?))
}
