//! Error answers: Kubernetes' `Status` object, with the reasons that its clients branch on.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use kube::core::response::{Status, StatusCause, StatusDetails};
use serde::Serialize;

use super::ports;

/// An error as the client gets it. What must not leave the server is logged where the failure is made.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure(Box<Status>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    kind: &'static str,
    api_version: &'static str,
    #[serde(flatten)]
    status: &'a Status,
}

impl Failure {
    fn new(code: StatusCode, reason: &str, message: &str) -> Self {
        Self(Box::new(Status::failure(message, reason).with_code(code.as_u16())))
    }

    /// 400: the request cannot be understood.
    #[must_use]
    pub fn bad_request(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401: who are you?
    #[must_use]
    pub fn unauthorized(message: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", message)
    }

    /// 403: not for you.
    #[must_use]
    pub fn forbidden(message: String) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", &message)
    }

    /// 404: no such path.
    #[must_use]
    pub fn no_such_path(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NotFound",
            &format!("the server could not find the requested resource: {path}"),
        )
    }

    /// 404: no object of that name. `resource` is the plural, as in `functions`.
    #[must_use]
    pub fn not_found(resource: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", &format!("{resource}.hearth.dev {name:?} not found"))
            .about(resource, name)
    }

    /// 404: no object of that name, of a resource of Kubernetes' own group.
    #[must_use]
    pub fn no_core_object(resource: &str, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", &format!("{resource} {name:?} not found"))
    }

    /// 405: not with this method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 405, with the reason.
    #[must_use]
    pub fn not_allowed(message: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    /// 406: not in a form that the client takes.
    #[must_use]
    pub fn not_acceptable(served: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", served.join(", "));
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", &message)
    }

    /// 409: an apply would change fields that others own. Each is a manager and a field.
    #[must_use]
    pub fn apply_conflict(name: &str, conflicts: Vec<(String, String)>) -> Self {
        let version = hearth_function::API_VERSION;
        let with = |manager: &str| format!("conflict with {manager:?} using {version}");
        let listed: Vec<String> =
            conflicts.iter().map(|(manager, field)| format!("{}: {field}", with(manager))).collect();
        let plural = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
        let message = format!("Apply failed with {} {plural}: {}", conflicts.len(), listed.join("; "));
        let mut failure = Self::new(StatusCode::CONFLICT, "Conflict", &message).about("functions", name);
        if let Some(details) = &mut failure.0.details {
            details.causes = conflicts
                .into_iter()
                .map(|(manager, field)| StatusCause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: with(&manager),
                    field,
                })
                .collect();
        }
        failure
    }

    /// 409: there is one of that name.
    #[must_use]
    pub fn already_exists(resource: &str, name: &str) -> Self {
        Self::new(
            StatusCode::CONFLICT,
            "AlreadyExists",
            &format!("{resource}.hearth.dev {name:?} already exists"),
        )
        .about(resource, name)
    }

    /// 409: the object is no longer as the client saw it.
    #[must_use]
    pub fn conflict(resource: &str, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {resource}.hearth.dev {name:?}: the object has been modified; please apply your changes to the latest version and try again"
        );
        Self::new(StatusCode::CONFLICT, "Conflict", &message).about(resource, name)
    }

    /// 410: changes since that version are no longer known; list again.
    #[must_use]
    pub fn expired(version: &impl std::fmt::Display, oldest: &impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::GONE,
            "Expired",
            &format!("too old resource version: {version} ({oldest}); list again"),
        )
    }

    /// 413: more than is taken.
    #[must_use]
    pub fn too_large(limit_bytes: u64) -> Self {
        let message = format!("the request body is larger than the limit of {limit_bytes} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", &message)
    }

    /// 415: not in this form.
    #[must_use]
    pub fn unsupported_media_type(message: &str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    /// 408: the client was too slow with its body.
    #[must_use]
    pub fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "Timeout", "the request body did not come in time")
    }

    /// 422: the request is understood, and cannot be done with the object as it is.
    #[must_use]
    pub fn unprocessable(message: &str) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    /// 422: the object of this kind is understood and not valid. Each cause is a field's path and what is wrong with it.
    #[must_use]
    pub fn invalid(kind: &str, name: &str, causes: Vec<(String, String)>) -> Self {
        let listed: Vec<String> = causes
            .iter()
            .map(
                |(field, message)| {
                    if field.is_empty() { message.clone() } else { format!("{field}: {message}") }
                },
            )
            .collect();
        let text = match listed.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut failure = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            &format!("{kind}.hearth.dev {name:?} is invalid: {text}"),
        )
        .about(kind, name);
        if let Some(details) = &mut failure.0.details {
            details.causes = causes
                .into_iter()
                .map(|(field, message)| StatusCause {
                    reason: "FieldValueInvalid".to_owned(),
                    message,
                    field,
                })
                .collect();
        }
        failure
    }

    /// 422: this field must not be changed so.
    #[must_use]
    pub fn forbidden_field(kind: &str, name: &str, field: &str, message: &str) -> Self {
        let mut failure =
            Self::invalid(kind, name, vec![(field.to_owned(), format!("Forbidden: {message}"))]);
        for cause in failure.0.details.iter_mut().flat_map(|details| &mut details.causes) {
            cause.reason = "FieldValueForbidden".to_owned();
        }
        failure
    }

    /// 500, with what may be told; the rest is in the log.
    #[must_use]
    pub fn internal(what: &str) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            &format!("{what}; the server's log says why"),
        )
    }

    /// What an error inside means for the client: 507 when the disk is full, which whoever runs the server must know, else
    /// [`Failure::internal`]. The rest is in the log.
    #[must_use]
    pub fn inside(what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        if !is_disk_full(error) {
            return Self::internal(what);
        }
        let message =
            format!("{what}: no space is left on the disk of the server's data directory; make room there");
        Self::new(StatusCode::INSUFFICIENT_STORAGE, "InsufficientStorage", &message)
    }

    /// 503: try again.
    #[must_use]
    pub fn unavailable(message: &str) -> Self {
        let mut failure = Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message);
        let details = failure.0.details.get_or_insert_with(no_details);
        details.retry_after_seconds = 1;
        failure
    }

    fn about(mut self, resource: &str, name: &str) -> Self {
        self.0.details = Some(StatusDetails {
            name: name.to_owned(),
            group: "hearth.dev".to_owned(),
            kind: resource.to_owned(),
            ..no_details()
        });
        self
    }

    /// Its HTTP status.
    #[must_use]
    pub fn code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether the object is no longer as the client saw it (and no field of another manager is in the way).
    pub(super) fn is_conflict(&self) -> bool {
        self.0.reason == "Conflict" && self.0.details.as_ref().is_none_or(|details| details.causes.is_empty())
    }

    /// Whether there is an object of that name.
    pub(super) fn is_already_exists(&self) -> bool {
        self.0.reason == "AlreadyExists"
    }

    /// What it says.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The whole object as it goes over the wire.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(Answer { kind: "Status", api_version: "v1", status: &self.0 })
            .unwrap_or_default()
    }
}

fn no_details() -> StatusDetails {
    StatusDetails {
        name: String::new(),
        group: String::new(),
        kind: String::new(),
        uid: String::new(),
        causes: Vec::new(),
        retry_after_seconds: 0,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.code(), axum::Json(self.to_json())).into_response();
        if self.code() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) =
            self.0.details.as_ref().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
        {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<ports::Error> for Failure {
    fn from(error: ports::Error) -> Self {
        match error {
            ports::Error::NotFound(message) => Self::new(StatusCode::NOT_FOUND, "NotFound", &message),
            ports::Error::Invalid(message) => Self::bad_request(&message),
            ports::Error::Unavailable(message) => Self::unavailable(&message),
            ports::Error::Internal { what, source } => {
                tracing::error!(error = %source, "{what}");
                Self::inside(&what, source.as_ref())
            }
        }
    }
}

fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        let error = error.downcast_ref::<std::io::Error>();
        error.is_some_and(|error| matches!(error.kind(), StorageFull | QuotaExceeded))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_and_other_errors_inside_are_not() {
        #[derive(Debug, thiserror::Error)]
        #[error("write /var/lib/hearth/bundles/x")]
        struct Wrapped(#[source] std::io::Error);
        let full = Failure::inside("unpack the bundle", &Wrapped(std::io::ErrorKind::StorageFull.into()));
        assert_eq!(full.code(), StatusCode::INSUFFICIENT_STORAGE);
        assert!(full.0.message.contains("no space is left"), "{}", full.0.message);
        let other = Failure::inside("unpack the bundle", &Wrapped(std::io::ErrorKind::NotFound.into()));
        assert_eq!(other.code(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!other.0.message.contains("/var/lib"), "paths are for the log");
    }

    #[test]
    fn a_status_is_what_kube_clients_expect() {
        let failure =
            Failure::invalid("Function", "hello", vec![("spec.runtime".to_owned(), "is needed".to_owned())]);
        insta::assert_json_snapshot!(failure.to_json(), @r#"
        {
          "apiVersion": "v1",
          "code": 422,
          "details": {
            "causes": [
              {
                "field": "spec.runtime",
                "message": "is needed",
                "reason": "FieldValueInvalid"
              }
            ],
            "group": "hearth.dev",
            "kind": "Function",
            "name": "hello"
          },
          "kind": "Status",
          "message": "Function.hearth.dev \"hello\" is invalid: spec.runtime: is needed",
          "reason": "Invalid",
          "status": "Failure"
        }
        "#);
        assert_eq!(failure.code(), StatusCode::UNPROCESSABLE_ENTITY);
    }
}
