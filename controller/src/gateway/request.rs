//! The way of one request, top to bottom: route, body, admission, forward, answer.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hearth_dispatch::retry::{self, Facts};
use hearth_dispatch::routes::{FUNCTION_PREFIX, Match};
use hearth_dispatch::{Forwarding, Origin, StartKind};
use hearth_protocol::frame::RequestId;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::admission::{Admitted, Denied, Slot, admit};
use super::answer::{AnswerBody, Story, Timing, may_have_body, stamp, strip_hop_by_hop};
use super::body::RequestBody;
use super::errors::{Code, Failure};
use super::forward::event::Added;
use super::forward::{CallFailure, What, attach, exchange};
use super::listener::Client;
use super::revisions::{Instance, Leads, Target, now};
use crate::pool::Strain;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-hearth-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

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
    // How often it was refused for want of room.
    let mut refusals = 0;
    // Since when it waits for a slot.
    let mut asked = story.began;
    loop {
        let target = Arc::clone(story.target.as_ref().expect("found above, and only ever replaced"));
        // A slow client must not hold a slot: the body comes first. How much of it is needed depends on how the instances are called.
        hold_body(&mut call.body, target.revision.forwarding()).await?;
        match origin {
            // It asks still: what refused it ran nothing.
            Origin::Refused { .. } => {}
            // A body that was there already took no time.
            _ if story.attempts == 0 && call.body.seen() == 0 => {}
            _ => asked = now(),
        }
        let admitted = match admit(&target.revision, origin).await {
            Ok(admitted) => admitted,
            Err(Denied::Refused(refusal)) => {
                let waited = now().saturating_duration_since(asked);
                story.timing.queue = waited.saturating_sub(story.timing.init);
                return Err(refusal.into());
            }
            Err(Denied::Moved) => {
                story.target = Some(present(&client, &target)?);
                continue;
            }
        };
        let Admitted { slot, start, init } = admitted;
        let waited = slot.taken().saturating_duration_since(asked);
        let waits_on = matches!(origin, Origin::Refused { .. });
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
            Origin::Retry(arrived) | Origin::Refused { arrived, .. } => arrived,
        };
        if matches!(failure.what, What::Busy) && call.body.is_held() {
            refusals += 1;
            story.sent = None;
            story.timing.execute = Duration::ZERO;
            let since = if let Origin::Refused { since, .. } = origin { since } else { now() };
            origin = Origin::Refused { arrived, since };
        } else if may_repeat(
            call,
            story.attempts.saturating_sub(refusals),
            &failure,
            shared.config.forwarding.attempts,
        ) {
            // What that instance ran and needed is nothing of the next one's.
            (story.sent, story.timing) = (None, Timing::default());
            origin = Origin::Retry(arrived);
        } else {
            return Err(Box::pin(explain(failure.what, &instance, shared.strain.as_ref())).await);
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
    let routes = client.lane.shared.revisions.routes.load();
    let path = parts.uri.path();
    match routes.find(Some(host_of(authority(parts))), path, parts.method.as_str()) {
        Match::Found { target: Leads::To(target), prefix } => {
            story.target = Some(Arc::clone(target));
            Ok(prefix)
        }
        Match::Found { target: Leads::Nowhere(unready), .. } => Err(Failure::not_ready(unready)),
        Match::NotFound => Err(Failure::not_found(path)),
        Match::MethodNotAllowed { allow } => Err(Failure::method_not_allowed(&parts.method, allow)),
    }
}

/// What the function sees of a path that only names it: the part after its name, so that a call by name is a call as any other.
fn below(parts: &mut Parts, prefix: usize) {
    let whole = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let rest = whole.get(prefix..).unwrap_or_default();
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let mut uri = parts.uri.clone().into_parts();
    // It was a part of a valid path.
    uri.path_and_query = rest.parse().ok();
    if let Ok(uri) = http::Uri::from_parts(uri) {
        parts.uri = uri;
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

fn may_repeat(call: &Call, attempts: u32, failure: &CallFailure, limit: u32) -> bool {
    let facts = Facts {
        attempts,
        idempotent: retry::is_idempotent(call.parts.method.as_str()),
        accepted: failure.accepted,
        body_held: call.body.is_held(),
        answer_begun: false,
    };
    failure.what.concerns_instance() && retry::may_retry(facts, limit)
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

/// A valid id of the client's is kept, so that calls can be followed across systems.
fn request_id(client: &Client, headers: &HeaderMap) -> (RequestId, HeaderValue) {
    let given = headers.get(&REQUEST_ID).map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let text = given.filter(|text| RequestId::new(text.clone()).is_some());
    let text = text.unwrap_or_else(|| client.lane.request_id());
    let value = HeaderValue::from_maybe_shared(text.clone()).expect("a request id is visible ASCII");
    (RequestId::new(text).expect("hex digits are visible ASCII"), value)
}

/// HTTP/1.1 asks for exactly one host (RFC 9112, 3.2).
fn check_host(parts: &Parts) -> Result<(), Failure> {
    let bad = |text: &'static str| Err(Failure::new(Code::BadRequest, text));
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => bad("more than one Host header"),
        (Some(host), None) if host.to_str().is_err() => bad("the Host header is not a host"),
        (None, None) if parts.version == Version::HTTP_11 && parts.uri.authority().is_none() => {
            bad("HTTP/1.1 asks for a Host header")
        }
        _ => Ok(()),
    }
}

/// The host that the request names, with its port: of the target, or of the `Host` header, which was checked.
pub(super) fn authority(parts: &Parts) -> &str {
    let host = || parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    parts.uri.authority().map(http::uri::Authority::as_str).or_else(host).unwrap_or_default()
}

/// Without the port.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.headers().contains_key(header::UPGRADE)
        && request.headers().get_all(header::CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|&byte| byte == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

/// What the function sees of the way that the request came. Takes away what is not for it; returns what is to be added.
fn prepare_headers(client: &Client, parts: &mut Parts, story: &Story, prefix: usize, upgrade: bool) -> Added {
    let upgrade = if upgrade { parts.headers.get(header::UPGRADE).cloned() } else { None };
    let target_host = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    // One look at the names instead of a search for each: most requests have none of these.
    let mut host = target_host.and_then(Result::ok);
    let (mut has_host, mut has_proto, mut has_forwarded_host, mut ours) = (false, false, false, false);
    for (name, value) in &*headers {
        if name == header::HOST {
            has_host = true;
            host.get_or_insert_with(|| value.clone());
        } else if name == FORWARDED_PROTO {
            has_proto = true;
        } else if name == FORWARDED_HOST {
            has_forwarded_host = true;
        } else {
            ours |= name == FORWARDED_FOR
                || name == FORWARDED_PREFIX
                || name == REQUEST_ID
                || name == header::EXPECT;
        }
    }
    let mut forwarded_for = client.ip_value.clone();
    if ours {
        if let Some(value) = forwarded_chain(headers, &client.ip) {
            forwarded_for = value;
        }
        // Hearth's own: a client's prefix would be a lie. And hyper answers what is expected, when the body is read.
        for name in [FORWARDED_FOR, FORWARDED_PREFIX, REQUEST_ID, header::EXPECT] {
            headers.remove(name);
        }
    }
    let prefix = parts.uri.path().get(..prefix).filter(|prefix| !prefix.is_empty());
    let prefix = prefix.and_then(|prefix| HeaderValue::from_str(prefix).ok());
    [
        Some((FORWARDED_FOR, forwarded_for)),
        // Whoever stands before the gateway and ends TLS says so; the gateway itself speaks plain HTTP.
        (!has_proto).then_some((FORWARDED_PROTO, const { HeaderValue::from_static("http") })),
        host.clone().filter(|_| !has_host).map(|host| (header::HOST, host)),
        host.filter(|_| !has_forwarded_host).map(|host| (FORWARDED_HOST, host)),
        prefix.map(|prefix| (FORWARDED_PREFIX, prefix)),
        Some((REQUEST_ID, story.request_id.clone())),
    ]
}

/// The addresses that are named already, and the client's.
fn forwarded_chain(headers: &HeaderMap, ip: &str) -> Option<HeaderValue> {
    let mut chain: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    chain.push(ip.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(chain.join(&b", "[..]))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_is_called_by_its_name_sees_what_comes_after_it() {
        for (uri, expected) in [
            ("/function/default/hello/a/b?c=d", "/a/b?c=d"),
            ("/function/default/hello", "/"),
            ("/function/default/hello?c=d", "/?c=d"),
            ("/function/default/hello/", "/"),
            ("http://host/function/default/hello/a", "http://host/a"),
        ] {
            let (mut parts, ()) = Request::builder().uri(uri).body(()).unwrap().into_parts();
            below(&mut parts, "/function/default/hello".len());
            assert_eq!(parts.uri.to_string(), expected);
        }
    }

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
