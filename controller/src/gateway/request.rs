//! The way of one request, top to bottom: route, body, admission, forward, answer. What it says of itself is [`head`]'s.

mod head;

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hearth_dispatch::retry::{self, Facts, Next};
use hearth_dispatch::routes::{FUNCTION_PREFIX, Match};
use hearth_dispatch::{Forwarding, Origin, StartKind};
use hearth_protocol::frame::RequestId;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::admission::{Admitted, Denied, Slot, admit};
use super::answer::{AnswerBody, Story, Timing, may_have_body, stamp};
use super::body::RequestBody;
use super::errors::{Code, Failure};
use super::forward::event::Added;
use super::forward::{CallFailure, What, attach, exchange};
use super::listener::Client;
use super::revisions::{Instance, Leads, Target, now};
use crate::pool::Strain;
pub(super) use head::authority;
use head::{below, check_host, host_of, prepare_headers, request_id, wants_upgrade};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-hearth-request-id");

/// First part of a body that is held in memory, so that the call can be repeated: what an instance takes without credit.
pub(super) const HELD_BYTES: usize = hearth_protocol::INITIAL_CREDIT as usize;

/// How long an error answer waits for the word how the instance ended, which comes a moment after its connection broke.
const REASON_WAIT: Duration = Duration::from_millis(200);

/// A request on its way. The function sees `parts` as they are here.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) client: Rc<Client>,
    pub(super) parts: Parts,
    /// Headers that the gateway adds.
    pub(super) added: Added,
    pub(super) request_id: RequestId,
    /// When it came.
    pub(super) came: SystemTime,
    pub(super) body: RequestBody,
    /// The client's half of an upgrade, if it asks for one.
    pub(super) upgrade: Option<OnUpgrade>,
}

/// Answers a request: with the function's answer, or with Hearth's own error. What is there at once is put into its place here and not
/// in the future, which hyper moves.
pub(super) fn serve(
    client: Rc<Client>,
    mut request: Request<Incoming>,
) -> impl Future<Output = Result<Response<AnswerBody>, Infallible>> {
    let upgrade = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
    let (parts, incoming) = request.into_parts();
    let (request_id, id_value) = request_id(&client, &parts.headers);
    let mut story = Box::new(Story {
        lane: Rc::clone(&client.lane),
        target: None,
        began: now(),
        began_at: SystemTime::now(),
        method: parts.method.clone(),
        uri: parts.uri.clone(),
        request_id: id_value,
        instance: None,
        start: None,
        attempts: 0,
        timing: Timing::default(),
        sent: None,
        status: StatusCode::OK,
        error: None,
        bytes_in: 0,
        bytes_out: 0,
        complete: false,
    });
    let limits = &client.lane.shared.config.limits;
    let body = RequestBody::new(incoming, limits);
    let (added, came) = ([const { None }; 6], story.began_at);
    let mut call = Call { client, parts, added, request_id, came, body, upgrade };
    async move {
        let mut response = match way(&mut story, &mut call).await {
            Ok(answer) => finish(answer, story),
            Err(failure) => refuse(&failure, story),
        };
        if call.client.lane.shared.leaving.is_cancelled() {
            take_leave(call.parts.version, &mut response);
        }
        Ok(response)
    }
}

/// The last answer of a connection says so. HTTP/2 has a frame for that, and what switched protocols is another's connection.
fn take_leave(version: Version, response: &mut Response<AnswerBody>) {
    if version < Version::HTTP_2 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, const { HeaderValue::from_static("close") });
    }
}

/// Hearth's own answer.
fn refuse(failure: &Failure, mut story: Box<Story>) -> Response<AnswerBody> {
    let mut response = failure.response(story.request_id.to_str().unwrap_or_default());
    response.headers_mut().insert(REQUEST_ID, story.request_id.clone());
    story.status = response.status();
    story.error = Some(failure.code);
    let head_only = story.method == http::Method::HEAD;
    response.map(|body| AnswerBody::whole(if head_only { Bytes::new() } else { body }, story))
}

/// The answer of a function, and how its body comes.
pub(super) enum Answer {
    Frames(exchange::Answered),
    Http(Response<attach::Answering>),
    /// The connection is another protocol's from here on.
    Switched(Response<()>, attach::Tunnel),
}

async fn way(story: &mut Story, call: &mut Call) -> Result<Answer, Failure> {
    let client = Rc::clone(&call.client);
    let shared = &client.lane.shared;
    if call.parts.method == http::Method::CONNECT {
        return Err(Failure::no_proxy());
    }
    check_host(&call.parts)?;
    let prefix = route(call, story)?;
    call.body.check_length()?;
    call.added = prepare_headers(&client, &mut call.parts, story, prefix, call.upgrade.is_some());
    if call.parts.uri.path().starts_with(FUNCTION_PREFIX) {
        below(&mut call.parts, prefix);
    }

    let mut origin = Origin::New;
    // How often it was sent in vain without that being an attempt.
    let mut untaken = 0;
    // Since when it waits for a slot.
    let mut asked = story.began;
    loop {
        let target = Arc::clone(story.target.as_ref().expect("found above, and only ever replaced"));
        // A slow client must not hold a slot: the body comes first. How much of it is needed depends on how the instances are called.
        hold_body(&mut call.body, target.revision.forwarding()).await?;
        match origin {
            // It asks still: no instance has it.
            Origin::Untaken { .. } => {}
            // A body that was there already took no time.
            _ if story.attempts == 0 && call.body.seen() == 0 => {}
            _ => asked = now(),
        }
        let admitted = match admit(&target.revision, origin).await {
            Ok(admitted) => admitted,
            Err(Denied::Refused(refusal)) => {
                let waited = now().saturating_duration_since(asked);
                story.timing.queue = waited.saturating_sub(story.timing.init);
                return Err(Failure::refused(refusal, &target.function, shared.config.callers));
            }
            Err(Denied::Moved) => {
                story.target = Some(present(&client, &target)?);
                continue;
            }
        };
        let Admitted { slot, start, init } = admitted;
        let waited = slot.taken().saturating_duration_since(asked);
        let waits_on = matches!(origin, Origin::Untaken { .. });
        let before = if waits_on { story.timing.init } else { Duration::ZERO };
        story.timing.init = (before + init).min(waited);
        story.timing.queue = waited.saturating_sub(story.timing.init);
        // Who has waited for a start has, though another instance takes the call in the end.
        if !waits_on || start != StartKind::Warm {
            story.start = Some(start);
        }
        story.instance = Some(slot.instance.endpoint.instance.clone());
        story.attempts += 1;

        let instance = Arc::clone(&slot.instance);
        let sent = slot.taken();
        story.sent = Some(sent);
        let result = forward(call, &target, slot).await;
        story.timing.execute = now().saturating_duration_since(sent);
        story.bytes_in = call.body.seen();
        let failure = match result {
            Ok(answer) => return Ok(answer),
            Err(Unanswered::Client(failure)) => return Err(failure),
            Err(Unanswered::Instance(failure)) => failure,
        };
        // Its place is among those that came when it did, whatever became of it since.
        let arrived = match origin {
            Origin::New => asked,
            Origin::Retry(arrived) | Origin::Untaken { arrived, .. } => arrived,
        };
        let facts = Facts {
            attempts: story.attempts.saturating_sub(untaken),
            idempotent: retry::is_idempotent(call.parts.method.as_str()),
            accepted: failure.accepted,
            awaited: matches!(start, StartKind::Cold | StartKind::Prewarmed),
            body_held: call.body.is_held(),
            answer_begun: false,
        };
        let next = if failure.what.concerns_instance() {
            retry::next(facts, shared.config.forwarding.attempts)
        } else {
            Next::Fail
        };
        match next {
            Next::GoOn => {
                untaken += 1;
                (story.sent, story.timing.execute) = (None, Duration::ZERO);
                let since = if let Origin::Untaken { since, .. } = origin { since } else { now() };
                origin = Origin::Untaken { arrived, since };
            }
            Next::Repeat => {
                // What that instance ran and needed is nothing of the next one's.
                (story.sent, story.timing) = (None, Timing::default());
                origin = Origin::Retry(arrived);
            }
            Next::Fail => {
                return Err(Box::pin(explain(failure.what, &instance, shared.strain.as_ref())).await);
            }
        }
        shared.stats.retries.inc();
        if let Ok(target) = present(&client, &target) {
            story.target = Some(target);
        }
    }
}

/// Finds the Function; returns how long the part of the path is that its route matched.
fn route(call: &Call, story: &mut Story) -> Result<usize, Failure> {
    let Call { client, parts, .. } = call;
    let revisions = &client.lane.shared.revisions;
    let routes = revisions.routes.load();
    let path = parts.uri.path();
    match routes.find(Some(host_of(authority(parts))), path, parts.method.as_str()) {
        Match::Found { target: Leads::To(target), prefix } => {
            story.target = Some(Arc::clone(target));
            Ok(prefix)
        }
        Match::Found { target: Leads::Nowhere(unready), .. } => Err(Failure::not_ready(unready)),
        Match::NotFound => {
            let namespace = path.strip_prefix(FUNCTION_PREFIX).and_then(|rest| rest.split('/').next());
            let unread = namespace.filter(|namespace| revisions.unread.load().contains(*namespace));
            Err(unread.map_or_else(|| Failure::not_found(path), Failure::unread))
        }
        Match::MethodNotAllowed { allow } => Err(Failure::method_not_allowed(&parts.method, allow)),
    }
}

/// Why there is no answer.
pub(super) enum Unanswered {
    /// The client's fault, in the middle of its body.
    Client(Failure),
    /// The instance's or the function's.
    Instance(CallFailure),
}

impl From<CallFailure> for Unanswered {
    fn from(failure: CallFailure) -> Self {
        Self::Instance(failure)
    }
}

async fn forward(call: &mut Call, target: &Target, slot: Slot) -> Result<Answer, Unanswered> {
    match slot.instance.endpoint.forwarding {
        // Boxed, as the other seldom ways are: hyper moves the whole future of a request into its place, so it has to be small.
        Forwarding::Attach => Box::pin(attach::send(call, target, slot)).await,
        forwarding => {
            // The first request of a Revision learns only here that its body is wanted.
            hold_body(&mut call.body, Some(forwarding)).await.map_err(Unanswered::Client)?;
            exchange::send(call, target, slot, forwarding).await.map(Answer::Frames)
        }
    }
}

async fn hold_body(body: &mut RequestBody, forwarding: Option<Forwarding>) -> Result<(), Failure> {
    if body.is_complete() {
        return Ok(());
    }
    match forwarding {
        // The whole body belongs into the event, if it is not too long.
        Some(Forwarding::Event) => Box::pin(body.hold(HELD_BYTES)).await,
        // The function may answer before the body is complete: only what is there already goes with the head.
        Some(Forwarding::Frames) => Box::pin(body.hold_ready(HELD_BYTES)).await,
        Some(Forwarding::Attach) | None => Ok(()),
    }
}

/// The error answer; for a lost instance with the word how it ended, which comes a moment later, and for a failed call with the limit that
/// the instance stands at.
async fn explain(what: What, instance: &Instance, strain: Option<&Strain>) -> Failure {
    if let What::Lost(reason) = what {
        drop(tokio::time::timeout(REASON_WAIT, instance.gone.cancelled()).await);
        return What::Lost(instance.reason.get().cloned().unwrap_or(reason)).into();
    }
    let strained = match (&what, strain) {
        (What::Threw(_) | What::ExecuteTimeout, Some(strain)) => strain.of(&instance.endpoint.instance).await,
        _ => None,
    };
    match strained {
        Some(limit) => Failure::from(what).strained(&limit),
        None => what.into(),
    }
}

/// Where the Function's requests go now.
fn present(client: &Client, target: &Target) -> Result<Arc<Target>, Failure> {
    let routes = client.lane.shared.revisions.routes.load();
    match routes.function(&target.function) {
        Some(Leads::To(target)) => Ok(Arc::clone(target)),
        Some(Leads::Nowhere(unready)) => Err(Failure::not_ready(unready)),
        None => Err(Failure::new(Code::RouteNotFound, "the function was deleted")),
    }
}

/// Puts the answer together: status and headers are there, the body follows.
fn finish(answer: Answer, mut story: Box<Story>) -> Response<AnswerBody> {
    let start = story.start.expect("whoever is answered was admitted");
    let (id, timing, method) = (story.request_id.clone(), story.timing, story.method.clone());
    let mut response = match answer {
        Answer::Frames(answered) => {
            story.status = answered.head.status();
            answered.into_response(&method, story)
        }
        Answer::Http(response) => {
            story.status = response.status();
            let with_body = may_have_body(&method, response.status());
            response.map(|answering| {
                if with_body {
                    AnswerBody::http(answering, story)
                } else {
                    AnswerBody::whole(Bytes::new(), story)
                }
            })
        }
        Answer::Switched(response, tunnel) => {
            story.status = response.status();
            tunnel.open(story);
            response.map(|()| AnswerBody::switched())
        }
    };
    stamp(&mut response, &id, start, &timing);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_future_of_a_request_is_small() {
        fn size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(serve);
        // hyper copies it once for each request.
        assert!(size <= 2048, "{size} bytes");
    }
}
