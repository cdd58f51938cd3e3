//! The way of one request, top to bottom: route, body, admission, forward, answer.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hearth_dispatch::retry::{self, Facts};
use hearth_dispatch::routes::Match;
use hearth_dispatch::{Forwarding, Origin};
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
use super::forward::{CallFailure, What, attach, exchange};
use super::listener::Client;
use super::revisions::{Instance, Target, now};

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
pub(super) struct Call<'a> {
    pub(super) client: &'a Client,
    pub(super) parts: Parts,
    pub(super) request_id: RequestId,
    /// `Host`, or the authority of the target.
    pub(super) authority: String,
    pub(super) body: RequestBody,
    /// The client's half of an upgrade, if it asks for one.
    pub(super) upgrade: Option<OnUpgrade>,
}

/// Answers a request: with the function's answer, or with Hearth's own error.
pub(super) async fn serve(client: &Client, mut request: Request<Incoming>) -> Response<AnswerBody> {
    let upgrade = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
    let (parts, incoming) = request.into_parts();
    let request_id = request_id(client, &parts.headers);
    let id_value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(request_id.as_str().as_bytes()))
        .expect("a request id is visible ASCII");
    let mut story = Box::new(Story {
        lane: Rc::clone(&client.lane),
        target: None,
        began: now(),
        began_at: SystemTime::now(),
        method: parts.method.clone(),
        path: parts.uri.path().to_owned(),
        request_id: id_value,
        instance: None,
        start: None,
        attempts: 0,
        timing: Timing::default(),
        status: StatusCode::OK,
        error: None,
        bytes_in: 0,
        bytes_out: 0,
        complete: false,
    });
    match way(client, &mut story, parts, incoming, request_id, upgrade).await {
        Ok(answer) => finish(answer, story),
        Err(failure) => {
            let mut response = failure.response(story.request_id.to_str().unwrap_or_default());
            response.headers_mut().insert(REQUEST_ID, story.request_id.clone());
            story.status = response.status();
            story.error = Some(failure.code);
            let head_only = story.method == http::Method::HEAD;
            response.map(|body| AnswerBody::whole(if head_only { Bytes::new() } else { body }, story))
        }
    }
}

/// The answer of a function, and how its body comes.
pub(super) enum Answer {
    Frames(exchange::Answered),
    Http(Response<attach::Answering>),
    /// The connection is another protocol's from here on.
    Switched(Response<()>, attach::Tunnel),
}

async fn way(
    client: &Client,
    story: &mut Story,
    mut parts: Parts,
    incoming: Incoming,
    request_id: RequestId,
    upgrade: Option<OnUpgrade>,
) -> Result<Answer, Failure> {
    let shared = &client.lane.shared;
    let limits = &shared.config.limits;
    let authority = authority(&parts)?;

    let prefix = {
        let routes = shared.revisions.routes.load();
        let path = parts.uri.path();
        match routes.find(Some(host_of(&authority)), path, parts.method.as_str()) {
            Match::Found { target, prefix } => {
                story.target = Some(Arc::clone(target));
                prefix
            }
            Match::NotFound => return Err(Failure::not_found(path)),
            Match::MethodNotAllowed { allow } => {
                return Err(Failure::method_not_allowed(&parts.method, allow));
            }
        }
    };
    let body = RequestBody::new(incoming, limits.body_bytes, limits.body_silence)?;
    prepare_headers(client, &mut parts, story, &authority, prefix, upgrade.is_some());
    let mut call = Call { client, parts, request_id, authority, body, upgrade };

    let mut origin = Origin::New;
    loop {
        let target = Arc::clone(story.target.as_ref().expect("found above, and only ever replaced"));
        // A slow client must not hold a slot: the body comes first. How much of it is needed depends on how the instances are called.
        hold_body(&mut call.body, target.revision.forwarding()).await?;
        let asked = now();
        let admitted = match admit(&target.revision, origin).await {
            Ok(admitted) => admitted,
            Err(Denied::Refused(refusal)) => {
                story.timing.queue = now().saturating_duration_since(story.began);
                return Err(refusal.into());
            }
            Err(Denied::Moved) => {
                story.target = Some(present(client, &target)?);
                continue;
            }
        };
        let Admitted { slot, start, init } = admitted;
        let waited = slot.taken().saturating_duration_since(asked);
        story.timing.init = init.min(waited);
        story.timing.queue = waited.saturating_sub(init);
        story.start = Some(start);
        story.instance = Some(slot.instance.endpoint.instance.clone());
        story.attempts += 1;
        shared.stats.wait.get(start.into()).observe(waited.as_secs_f64());

        let instance = Arc::clone(&slot.instance);
        let sent = slot.taken();
        let result = forward(&mut call, &target, slot).await;
        story.timing.execute = now().saturating_duration_since(sent);
        story.bytes_in = call.body.seen();
        let failure = match result {
            Ok(answer) => return Ok(answer),
            Err(Unanswered::Client(failure)) => return Err(failure),
            Err(Unanswered::Instance(failure)) => failure,
        };
        if !may_repeat(&call, story.attempts, &failure, shared.config.forwarding.attempts) {
            return Err(explain(failure.what, &instance).await);
        }
        shared.stats.retries.inc();
        origin = Origin::Retry(asked);
        if let Ok(target) = present(client, &target) {
            story.target = Some(target);
        }
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

async fn forward(call: &mut Call<'_>, target: &Target, slot: Slot) -> Result<Answer, Unanswered> {
    match slot.instance.endpoint.forwarding {
        Forwarding::Attach => attach::send(call, target, slot).await,
        forwarding => {
            // The first request of a Revision learns only here that its body is wanted.
            hold_body(&mut call.body, Some(forwarding)).await.map_err(Unanswered::Client)?;
            exchange::send(call, target, slot, forwarding).await.map(Answer::Frames)
        }
    }
}

async fn hold_body(body: &mut RequestBody, forwarding: Option<Forwarding>) -> Result<(), Failure> {
    match forwarding {
        // The whole body belongs into the event, if it is not too long.
        Some(Forwarding::Event) => body.hold(HELD_BYTES).await,
        // The function may answer before the body is complete: only what is there already goes with the head.
        Some(Forwarding::Frames) => body.hold_ready(HELD_BYTES).await,
        Some(Forwarding::Attach) | None => Ok(()),
    }
}

fn may_repeat(call: &Call<'_>, attempts: u32, failure: &CallFailure, limit: u32) -> bool {
    let facts = Facts {
        attempts,
        idempotent: retry::is_idempotent(call.parts.method.as_str()),
        accepted: failure.accepted,
        body_held: call.body.is_held(),
        answer_begun: false,
    };
    failure.what.concerns_instance() && retry::may_retry(facts, limit)
}

/// The error answer; for a lost instance with the word how it ended, which comes a moment later.
async fn explain(what: What, instance: &Instance) -> Failure {
    if let What::Lost(reason) = what {
        drop(tokio::time::timeout(REASON_WAIT, instance.gone.cancelled()).await);
        return What::Lost(instance.reason.get().cloned().unwrap_or(reason)).into();
    }
    what.into()
}

/// Where the Function's requests go now.
fn present(client: &Client, target: &Target) -> Result<Arc<Target>, Failure> {
    let routes = client.lane.shared.revisions.routes.load();
    let present = routes.function(&target.function).cloned();
    present.ok_or_else(|| Failure::new(Code::RouteNotFound, "the function was deleted"))
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
fn request_id(client: &Client, headers: &HeaderMap) -> RequestId {
    headers
        .get(&REQUEST_ID)
        .and_then(|value| RequestId::new(Bytes::copy_from_slice(value.as_bytes())))
        .or_else(|| RequestId::new(client.lane.request_id()))
        .expect("hex digits are visible ASCII")
}

/// The host that the request names; HTTP/1.1 asks for exactly one (RFC 9112, 3.2).
fn authority(parts: &Parts) -> Result<String, Failure> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    let bad = |text: &'static str| Failure::new(Code::BadRequest, text);
    if hosts.next().is_some() {
        return Err(bad("more than one Host header"));
    }
    if let Some(authority) = parts.uri.authority() {
        return Ok(authority.as_str().to_owned());
    }
    match host {
        Some(host) => host.to_str().map(str::to_owned).map_err(|_| bad("the Host header is not a host")),
        None if parts.version == Version::HTTP_11 => Err(bad("HTTP/1.1 asks for a Host header")),
        None => Ok(String::new()),
    }
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

/// What the function sees of the way that the request came.
fn prepare_headers(
    client: &Client,
    parts: &mut Parts,
    story: &Story,
    authority: &str,
    prefix: usize,
    upgrade: bool,
) {
    let upgrade = if upgrade { parts.headers.get(header::UPGRADE).cloned() } else { None };
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    // hyper has answered it, or will when the body is read.
    headers.remove(header::EXPECT);
    if !headers.contains_key(header::HOST)
        && let Ok(host) = HeaderValue::from_str(authority)
    {
        headers.insert(header::HOST, host);
    }
    match headers.entry(FORWARDED_FOR) {
        header::Entry::Vacant(entry) => {
            entry.insert(client.ip_value.clone());
        }
        header::Entry::Occupied(mut entry) => {
            let mut all: Vec<u8> = Vec::new();
            for value in entry.iter() {
                all.extend_from_slice(value.as_bytes());
                all.extend_from_slice(b", ");
            }
            all.extend_from_slice(client.ip.as_bytes());
            if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(all)) {
                entry.insert(value);
            }
        }
    }
    // Whoever stands before the gateway and ends TLS says so; the gateway itself speaks plain HTTP.
    headers.entry(FORWARDED_PROTO).or_insert(const { HeaderValue::from_static("http") });
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
    // Hearth's own: a client's would be a lie.
    headers.remove(FORWARDED_PREFIX);
    if let Some(prefix) = parts.uri.path().get(..prefix).filter(|prefix| !prefix.is_empty())
        && let Ok(value) = HeaderValue::from_str(prefix)
    {
        headers.insert(FORWARDED_PREFIX, value);
    }
    headers.insert(REQUEST_ID, story.request_id.clone());
}
