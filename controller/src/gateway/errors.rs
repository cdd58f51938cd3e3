//! Every error that Hearth itself answers: one table from what happened to status and code.
//!
//! The body is JSON, `{code, message, requestId}`, where it helps with a `reason`, for failed starts with `lastLines`. What is internal stays
//! in the log: so does what a build, or a process for one call, has printed.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use hearth_dispatch::{Refusal, StartCode, StartFailure};
use hearth_function::FunctionId;
use hearth_protocol::CallError;
use http::{HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use std::sync::Arc;

use super::config::{Callers, Unready};
use crate::label_set;

label_set! {
    /// What Hearth answers instead of a function. The words are part of the interface.
    pub(super) enum Code("code") {
        /// No Function claims host and path.
        RouteNotFound = "route_not_found",
        /// The Function is known and nothing of it serves yet: its build goes on, or has failed.
        FunctionNotReady = "function_not_ready",
        /// The path is claimed with other methods, or the method is none that Hearth serves.
        MethodNotAllowed = "method_not_allowed",
        /// The request is not HTTP as it should be.
        BadRequest = "bad_request",
        /// The client was silent for too long in the middle of its body.
        ClientTooSlow = "client_too_slow",
        /// The body is longer than the gateway takes.
        BodyTooLarge = "body_too_large",
        /// As many requests wait as may.
        QueueFull = "queue_full",
        /// All instances were busy for too long.
        QueueTimeout = "queue_timeout",
        /// An instance was tried and did not come up.
        StartFailed = "start_failed",
        /// No instance came up in time.
        StartTimeout = "start_timeout",
        /// The function threw, or its answer was none.
        FunctionError = "function_error",
        /// The instance ended or broke off while it ran the call.
        InstanceLost = "instance_lost",
        /// The head of the answer did not come in time.
        ExecuteTimeout = "execute_timeout",
        /// The answer stood still for too long and was cut. The client has its head already: this is only counted.
        IdleStream = "idle_stream",
        /// The gateway is stopping.
        Stopping = "stopping",
    }
}

impl Code {
    /// The table.
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::RouteNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::QueueFull => StatusCode::TOO_MANY_REQUESTS,
            Self::FunctionNotReady | Self::QueueTimeout | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::StartFailed | Self::FunctionError | Self::InstanceLost => StatusCode::BAD_GATEWAY,
            Self::StartTimeout | Self::ExecuteTimeout | Self::IdleStream => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether the rest of the client's request is not going to be read: its connection cannot be used again.
    const fn closes(self) -> bool {
        matches!(self, Self::BadRequest | Self::ClientTooSlow | Self::BodyTooLarge | Self::Stopping)
    }
}

/// An error answer in the making.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: Cow<'static, str>,
    pub(super) retry_after: Option<Duration>,
    pub(super) allow: Option<String>,
    /// A word that tells more than the code; of a start that failed, that one's counts.
    pub(super) reason: Option<Cow<'static, str>>,
    /// Of a start that failed.
    pub(super) start: Option<Arc<StartFailure>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    code: &'static str,
    message: &'a str,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    last_lines: &'a [String],
}

/// What says more of a Function to whoever may look at it.
fn describe(function: &FunctionId) -> String {
    format!("`hearth describe function {} -n {}`", function.name(), function.namespace())
}

/// Why a start failed, without a word of what the function, its machine or its cluster said.
/// A namespace that could not be read is asked for again in about this time.
const UNREAD: Duration = Duration::from_secs(10);

const fn in_general(code: StartCode) -> &'static str {
    match code {
        StartCode::HandlerFileMissing | StartCode::HandlerMissing | StartCode::HandlerUnsupported => {
            "its code has not the handler that it names"
        }
        StartCode::LoadFailed => "its code could not be loaded",
        StartCode::ProcessEnded => "its process ended while it started",
        StartCode::OutOfMemory => "it needs more memory than it may have",
        StartCode::StartTimeout => "it takes too long",
        StartCode::Unschedulable => "there is no room for it now",
        StartCode::ImageMissing => "an image cannot be had",
        StartCode::Invalid | StartCode::Unsupported | StartCode::StartFailed => "it could not be started",
    }
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after: None, allow: None, reason: None, start: None }
    }

    pub(super) fn not_found(path: &str) -> Self {
        Self::new(Code::RouteNotFound, format!("no function answers at {path}"))
    }

    /// Nothing is known of the Functions of this namespace, so there may be one.
    pub(super) fn unread(namespace: &str) -> Self {
        let message = format!(
            "it is not known yet which functions namespace {namespace} has: Hearth cannot list them. The gateway's log says why"
        );
        let reason = Some("namespace_unread".into());
        Self { retry_after: Some(UNREAD), reason, ..Self::new(Code::FunctionNotReady, message) }
    }

    /// Nothing of the Function serves yet.
    pub(super) fn not_ready(unready: &Unready) -> Self {
        let function = &unready.function;
        let message = match unready.retry_after {
            Some(_) => format!("{function} is not ready yet: it is being built or started"),
            None => format!(
                "{function} is not ready, for something is wrong: {} says what, and whether it is tried again",
                describe(function)
            ),
        };
        let reason = Some(unready.reason.clone().into());
        Self { retry_after: unready.retry_after, reason, ..Self::new(Code::FunctionNotReady, message) }
    }

    /// An instance was not to be had for it. Callers who need not be the Function's owners hear of a failed start in Hearth's words alone.
    pub(super) fn refused(refusal: Refusal, function: &FunctionId, callers: Callers) -> Self {
        let mut failure = Self::from(refusal);
        if callers == Callers::Anybody
            && let Some(start) = &failure.start
        {
            let (what, more) = (in_general(start.code), describe(function));
            failure.message =
                format!("no instance of {function} comes up: {what}; {more} says more to its owner").into();
            failure.reason = Some(start.code.as_str().into());
            failure.start = None;
        }
        failure
    }

    /// The process of a call has failed; how. What it printed is its own and may tell its secrets: it is in the function's log.
    pub(super) fn process_failed(error: &CallError) -> Self {
        /// Characters of `name: exit code 3`.
        const HOW: usize = 200;
        let how: String = error.message.chars().take(HOW).collect();
        let message = format!("the process failed: {how}; the function's log has what it printed");
        let reason = Some(StartCode::ProcessEnded.as_str().into());
        Self { reason, ..Self::new(Code::FunctionError, message) }
    }

    /// The instance stands at this limit: that may be why.
    pub(super) fn strained(mut self, limit: &str) -> Self {
        /// The word for programs.
        const REASON: &str = "process_limit";
        self.message = format!("{}; {limit}, which may be why", self.message).into();
        self.reason.get_or_insert(Cow::Borrowed(REASON));
        self
    }

    /// `CONNECT` asks for a proxy.
    pub(super) fn no_proxy() -> Self {
        let allow = Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS".to_owned());
        Self { allow, ..Self::new(Code::MethodNotAllowed, "CONNECT is not served: this is no proxy") }
    }

    pub(super) fn method_not_allowed(method: &http::Method, allow: &str) -> Self {
        let message = format!("{method} is not allowed here; {allow} is");
        Self { allow: Some(allow.to_owned()), ..Self::new(Code::MethodNotAllowed, message) }
    }

    /// The answer, without its body when the method was HEAD.
    pub(super) fn response(&self, request_id: &str) -> Response<Bytes> {
        let start = self.start.as_deref();
        let body = Body {
            code: self.code.as_str_const(),
            message: &self.message,
            request_id,
            reason: start.map(|failure| failure.code.as_str()).or(self.reason.as_deref()),
            last_lines: start.map_or(&[], |failure| failure.last_lines.as_slice()),
        };
        let body = serde_json::to_vec(&body).expect("texts are always JSON");
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            // Whole seconds, never zero: a client that comes at once comes for nothing.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(allow) = self.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        if self.code.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Code {
    pub(super) fn as_str_const(self) -> &'static str {
        use crate::telemetry::metrics::Label;
        self.as_str()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        /// A queue empties within seconds or not at all.
        const SOON: Duration = Duration::from_secs(1);
        match refusal {
            Refusal::QueueFull { limit } => {
                let message = format!("{limit} requests wait for this function already");
                Self { retry_after: Some(SOON), ..Self::new(Code::QueueFull, message) }
            }
            Refusal::QueueTimeout { waited } => {
                let message =
                    format!("every instance of this function was busy for {:.1} s", waited.as_secs_f64());
                Self { retry_after: Some(SOON), ..Self::new(Code::QueueTimeout, message) }
            }
            Refusal::StartTimeout { waited } => {
                let message =
                    format!("no instance of this function came up within {:.1} s", waited.as_secs_f64());
                Self { retry_after: Some(SOON), ..Self::new(Code::StartTimeout, message) }
            }
            Refusal::StartFailed { failure, retry_after } => {
                let code = match failure.code {
                    StartCode::StartTimeout => Code::StartTimeout,
                    // Nothing is wrong with the function: there is no room for it now.
                    StartCode::Unschedulable => Code::FunctionNotReady,
                    _ => Code::StartFailed,
                };
                let message = failure.message.clone();
                Self { retry_after: Some(retry_after), start: Some(failure), ..Self::new(code, message) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Label;

    #[test]
    fn a_failed_start_says_why_and_when_to_come_again() {
        let failure = StartFailure {
            code: StartCode::HandlerMissing,
            message: "index.js has no export \"handler\"".to_owned(),
            last_lines: vec!["boom".to_owned()],
        };
        let refusal =
            Refusal::StartFailed { failure: Arc::new(failure), retry_after: Duration::from_millis(1200) };
        let response = Failure::from(refusal).response("r1");
        assert_eq!(response.status(), 502);
        assert_eq!(response.headers().get("retry-after").unwrap(), "2");
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        let expected = serde_json::json!({
            "code": "start_failed", "message": "index.js has no export \"handler\"", "requestId": "r1",
            "reason": "handler_missing", "lastLines": ["boom"],
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn anybody_hears_of_a_failed_start_in_general_and_its_owner_all() {
        let told = |code, callers| {
            let failure = StartFailure {
                code,
                message: "pods is forbidden: User \"hearth\" cannot create resource \"pods\"".to_owned(),
                last_lines: vec!["TOKEN=secret".to_owned()],
            };
            let refusal = Refusal::StartFailed { failure: Arc::new(failure), retry_after: Duration::ZERO };
            let function = FunctionId::parse("team/hello").unwrap();
            let response = Failure::refused(refusal, &function, callers).response("r1");
            assert_eq!(response.headers().get("retry-after").unwrap(), "1");
            String::from_utf8(response.into_body().to_vec()).unwrap()
        };
        for code in [StartCode::StartFailed, StartCode::Unschedulable, StartCode::LoadFailed] {
            let (in_general, in_full) = (told(code, Callers::Anybody), told(code, Callers::Owners));
            for word in ["forbidden", "secret"] {
                assert!(!in_general.contains(word) && in_full.contains(word), "{in_general} {in_full}");
            }
            assert!(in_general.contains(&format!("\"reason\":\"{code}\"")), "{in_general}");
            assert!(in_general.contains("`hearth describe function hello -n team`"), "{in_general}");
        }
    }

    #[test]
    fn a_call_that_failed_at_a_limit_says_which_and_keeps_a_reason_that_tells_more() {
        let limit = "the instance stands at its limit of 512 processes and threads";
        let answer = |failure: Failure| -> serde_json::Value {
            serde_json::from_slice(failure.strained(limit).response("r1").body()).unwrap()
        };
        let timeout = answer(Failure::new(Code::ExecuteTimeout, "too slow"));
        let message = format!("too slow; {limit}, which may be why");
        assert_eq!((&timeout["message"], &timeout["reason"]), (&message.into(), &"process_limit".into()));
        let ended = answer(Failure::process_failed(&CallError::new("ProcessEnded", "sh: exit code 2")));
        assert_eq!(ended["reason"], "process_ended");
    }

    #[test]
    fn a_process_that_failed_says_how_and_keeps_what_it_printed() {
        let lines = vec!["+ export TOKEN=secret".to_owned()];
        let error = CallError { lines, ..CallError::new("ProcessEnded", "sh: exit code 3") };
        let response = Failure::process_failed(&error).response("r1");
        assert_eq!(response.status(), 502);
        let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(
            (&body["code"], &body["reason"], &body["message"]),
            (
                &"function_error".into(),
                &"process_ended".into(),
                &"the process failed: sh: exit code 3; the function's log has what it printed".into()
            )
        );
        assert!(body["lastLines"].is_null() && body["requestId"] == "r1", "{body}");
    }

    #[test]
    fn every_code_is_an_error() {
        for code in Code::ALL {
            let status = code.status();
            assert!(status.is_client_error() || status.is_server_error(), "{code:?}");
        }
    }
}
