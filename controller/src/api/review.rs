//! `kubectl auth can-i` and `kubectl auth whoami`: whoever has the token may do everything that is served.

mod proto;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview,
    SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use serde_json::{Value, json};

use super::discovery::{self, FUNCTION_VERBS, REVISION_VERBS};
use super::failure::Failure;
use super::{Context, body, patch};

/// Who has the token.
const USER: &str = "hearth:token";

/// What can be asked about, as group, resource, verbs.
const SERVED: [(&str, &str, &[&str]); 6] = [
    (discovery::HEARTH, "functions", FUNCTION_VERBS),
    (discovery::HEARTH, "functions/status", discovery::SUB_VERBS),
    (discovery::HEARTH, "functions/scale", discovery::SUB_VERBS),
    (discovery::HEARTH, "revisions", REVISION_VERBS),
    ("", "events", discovery::EVENT_VERBS),
    ("", "namespaces", discovery::NAMESPACE_VERBS),
];

/// The routes from the root.
pub(super) fn routes() -> Router<Context> {
    Router::new()
        .route("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", post(access))
        .route("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", post(rules))
        .route("/apis/authentication.k8s.io/v1/selfsubjectreviews", post(who))
}

fn unreadable(error: &dyn std::fmt::Display) -> Failure {
    Failure::bad_request(&format!("the review cannot be read: {error}"))
}

async fn access(request_body: Body) -> Result<Response, Failure> {
    let content = body::object(request_body).await?;
    let mut review: SelfSubjectAccessReview = match proto::access_review(&content) {
        Some(review) => review.map_err(|error| unreadable(&error))?,
        None => serde_json::from_value(patch::yaml(&content)?).map_err(|error| unreadable(&error))?,
    };
    let reason = match &review.spec.resource_attributes {
        Some(wanted) => allowed(wanted).err(),
        None => None,
    };
    review.status = Some(SubjectAccessReviewStatus {
        allowed: reason.is_none(),
        reason,
        ..SubjectAccessReviewStatus::default()
    });
    Ok((StatusCode::CREATED, Json(review)).into_response())
}

/// Whether it is served at all; `*` asks for everything there is, and that is allowed.
///
/// # Errors
/// Why not.
fn allowed(wanted: &ResourceAttributes) -> Result<(), String> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (group, verb) = (text(&wanted.group), text(&wanted.verb));
    let resource = match wanted.subresource.as_deref().filter(|name| !name.is_empty()) {
        Some(sub) => format!("{}/{sub}", text(&wanted.resource)),
        None => text(&wanted.resource),
    };
    let is = |asked: &str, served: &str| asked == "*" || asked == served;
    let mut known =
        SERVED.iter().filter(|(in_group, of, _)| is(&group, in_group) && is(&resource, of)).peekable();
    if known.peek().is_none() {
        return Err(format!("hearth serves no {resource:?} of the group {group:?}"));
    }
    if known.any(|(.., verbs)| verbs.iter().any(|served| is(&verb, served))) {
        Ok(())
    } else {
        Err(format!("hearth does not serve {verb:?} on {resource}"))
    }
}

async fn rules(request_body: Body) -> Result<Response, Failure> {
    let content = body::object(request_body).await?;
    // The answer is the same in every namespace, which is all that is asked about.
    let mut review = if proto::is_protobuf(&content) {
        SelfSubjectRulesReview::default()
    } else {
        serde_json::from_value(patch::yaml(&content)?).map_err(|error| unreadable(&error))?
    };
    let rule = |(group, resource, verbs): &(&str, &str, &[&str])| ResourceRule {
        api_groups: Some(vec![(*group).to_owned()]),
        resources: Some(vec![(*resource).to_owned()]),
        resource_names: None,
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
    };
    review.status = Some(SubjectRulesReviewStatus {
        incomplete: false,
        resource_rules: SERVED.iter().map(rule).collect(),
        ..SubjectRulesReviewStatus::default()
    });
    Ok((StatusCode::CREATED, Json(review)).into_response())
}

async fn who() -> Response {
    let review: Value = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {},
        "status": { "userInfo": { "username": USER, "groups": ["system:authenticated"] } },
    });
    (StatusCode::CREATED, Json(review)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_allowed_and_nothing_else() {
        let ask = |group: &str, resource: &str, sub: &str, verb: &str| {
            let field = |text: &str| Some(text.to_owned());
            allowed(&ResourceAttributes {
                group: field(group),
                resource: field(resource),
                subresource: field(sub),
                verb: field(verb),
                ..ResourceAttributes::default()
            })
            .is_ok()
        };
        assert!(ask("hearth.dev", "functions", "", "create"));
        assert!(ask("hearth.dev", "functions", "scale", "patch"));
        assert!(ask("*", "*", "", "*"));
        assert!(!ask("hearth.dev", "revisions", "", "delete"));
        assert!(!ask("", "pods", "", "get"));
        assert!(!ask("hearth.dev", "functions", "", "impersonate"));
    }
}
