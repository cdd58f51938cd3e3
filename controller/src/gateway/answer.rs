//! The answer on its way to the client: headers, body, and the book-keeping when the last byte has gone.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use hearth_dispatch::StartKind;
use hearth_function::InstanceId;
use hearth_protocol::HeaderLines;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use jiff::Timestamp;

use super::body::Upload;
use super::errors::Code;
use super::forward::attach::Answering;
use super::forward::call::{CallHandle, Chunk};
use super::lane::Lane;
use super::revisions::{Target, now};
use super::text::Text;
use crate::telemetry::logs::CallRecord;

/// Whether a header concerns two hops and nobody else (RFC 9110, 7.6.1). Names in lower case.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection" | "keep-alive" | "proxy-connection" | "te" | "trailer" | "transfer-encoding" | "upgrade"
    )
}

/// Takes away what concerns one hop only, and what `Connection` names. Most messages have nothing of that: one look at the names finds out.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if !headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        return;
    }
    let mut names: Vec<HeaderName> =
        headers.keys().filter(|name| is_hop_by_hop(name.as_str())).cloned().collect();
    for value in headers.get_all(header::CONNECTION) {
        let named = value.as_bytes().split(|&byte| byte == b',');
        names.extend(named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()));
    }
    for name in names {
        headers.remove(name);
    }
}

/// Takes over the header lines of an answer; they were checked by the protocol. Returns the length that they declare, which is not among them
/// afterwards: it is Hearth's to say, because a wrong one would break the client's connection.
pub(super) fn take_headers(lines: &HeaderLines, headers: &mut HeaderMap) -> Option<u64> {
    let mut length = None;
    let mut hops = false;
    for (name, value) in lines.shared() {
        let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        if name == header::CONTENT_LENGTH {
            length = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
            continue;
        }
        hops |= is_hop_by_hop(name.as_str());
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            headers.append(name, value);
        }
    }
    if hops {
        strip_hop_by_hop(headers);
    }
    length
}

/// How long the parts of a request took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    pub(super) queue: Duration,
    pub(super) init: Duration,
    pub(super) execute: Duration,
}

impl Timing {
    /// `queue;dur=0.031, init;dur=0, exec;dur=1.204`, in milliseconds.
    pub(super) fn header(&self) -> HeaderValue {
        let mut text = Text::<96>::new();
        for (name, time) in
            [("queue;dur=", self.queue), (", init;dur=", self.init), (", exec;dur=", self.execute)]
        {
            text.put(name.as_bytes());
            let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            text.put_number(micros / 1000, 1);
            text.put(b".");
            text.put_number(micros % 1000, 3);
        }
        HeaderValue::from_bytes(text.as_bytes()).expect("digits and letters are a header value")
    }
}

/// The word of a start kind, as in `x-hearth-start`.
pub(super) const fn start_word(start: StartKind) -> &'static str {
    match start {
        StartKind::Cold => "cold",
        StartKind::Prewarmed => "prewarmed",
        StartKind::Paused => "paused",
        StartKind::Reserved => "reserved",
        StartKind::Warm => "warm",
    }
}

/// What is known of a request; written down when its answer has ended, however it does.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) lane: Rc<Lane>,
    /// `None` while no Function is found: such requests are counted, but no Function's log has them.
    pub(super) target: Option<std::sync::Arc<Target>>,
    pub(super) began: Instant,
    pub(super) began_at: SystemTime,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) request_id: HeaderValue,
    pub(super) instance: Option<InstanceId>,
    pub(super) start: Option<StartKind>,
    pub(super) attempts: u32,
    pub(super) timing: Timing,
    /// When it was handed over to an instance, the last time.
    pub(super) sent: Option<Instant>,
    pub(super) status: StatusCode,
    pub(super) error: Option<Code>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// The last byte of the answer was handed over.
    pub(super) complete: bool,
}

impl Drop for Story {
    fn drop(&mut self) {
        if !self.complete && self.error.is_none() && self.lane.shared.cut.is_cancelled() {
            self.error = Some(Code::Stopping);
        }
        let client_gone = !self.complete && self.error.is_none();
        let stats = &self.lane.shared.stats;
        if let Some(code) = self.error {
            stats.errors.get(code).inc();
        }
        if client_gone {
            stats.clients_gone.inc();
        }
        let Some(target) = &self.target else { return };
        let now = now();
        let total = now.saturating_duration_since(self.began);
        let run = self.sent.map(|sent| now.saturating_duration_since(sent));
        stats.phases(&self.timing, self.start, run);
        target.stats.ended(self.status, self.start, total, (self.bytes_in, self.bytes_out));
        let record = CallRecord {
            time: Timestamp::try_from(self.began_at).unwrap_or_default(),
            request: self.request_id.to_str().unwrap_or_default(),
            revision: target.revision.id.clone(),
            instance: self.instance.take(),
            method: self.method.as_str(),
            path: self.uri.path(),
            status: self.status.as_u16(),
            code: self.error.map(Code::as_str_const),
            start: self.start,
            attempts: self.attempts,
            queue: self.timing.queue,
            init: self.timing.init,
            exec: run.unwrap_or_default(),
            received: self.bytes_in,
            sent: self.bytes_out,
            client_gone,
        };
        self.lane.record(&target.function, &record);
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct AnswerBody {
    source: Source,
    /// `None` when somebody else tells it: the tunnel of an upgraded connection.
    story: Option<Box<Story>>,
}

#[derive(Debug)]
enum Source {
    Ended,
    Whole(Bytes),
    Frames {
        call: CallHandle,
        first: Bytes,
        /// The rest of the request's body, while it is still sent.
        upload: Option<Box<Upload>>,
        /// Bytes still to come, if the function said how many.
        left: Option<u64>,
    },
    Http(Box<Answering>),
}

/// The answer breaks off: the client's connection is closed (or its stream reset), so that it cannot take the part for the whole.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
pub(super) struct BrokenOff;

impl AnswerBody {
    pub(super) fn whole(bytes: Bytes, story: Box<Story>) -> Self {
        Self {
            source: if bytes.is_empty() { Source::Ended } else { Source::Whole(bytes) },
            story: Some(story),
        }
    }

    pub(super) const fn frames(
        call: CallHandle,
        first: Bytes,
        upload: Option<Box<Upload>>,
        length: Option<u64>,
        story: Box<Story>,
    ) -> Self {
        Self { source: Source::Frames { call, first, upload, left: length }, story: Some(story) }
    }

    pub(super) fn http(answering: Answering, story: Box<Story>) -> Self {
        Self { source: Source::Http(Box::new(answering)), story: Some(story) }
    }

    /// The answer to an upgrade: the connection goes its own way after it.
    pub(super) const fn switched() -> Self {
        Self { source: Source::Ended, story: None }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Code>>> {
        match &mut self.source {
            Source::Ended => Poll::Ready(None),
            Source::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                self.source = Source::Ended;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Source::Frames { call, first, upload, left } => {
                if let Some(sending) = upload {
                    match sending.poll(cx, call) {
                        Poll::Ready(Ok(())) => {
                            if let Some(story) = &mut self.story {
                                story.bytes_in = sending.body().seen();
                            }
                            *upload = None;
                        }
                        Poll::Ready(Err(failure)) => return Poll::Ready(Some(Err(failure.code))),
                        Poll::Pending => {}
                    }
                }
                let chunk = if first.is_empty() {
                    match ready!(call.poll_chunk(cx)) {
                        Some(Ok(Chunk::Bytes(bytes))) => bytes,
                        Some(Ok(Chunk::Trailers(lines))) => {
                            let mut trailers = HeaderMap::new();
                            // A length among trailers means nothing.
                            let _ = take_headers(&lines, &mut trailers);
                            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                        }
                        Some(Err(failure)) => {
                            let code = super::errors::Failure::from(failure.what).code;
                            return Poll::Ready(Some(Err(code)));
                        }
                        None if left.is_some_and(|left| left > 0) => {
                            return Poll::Ready(Some(Err(Code::FunctionError)));
                        }
                        None => return Poll::Ready(None),
                    }
                } else {
                    std::mem::take(first)
                };
                if let Some(left) = left {
                    match left.checked_sub(chunk.len() as u64) {
                        Some(rest) => *left = rest,
                        None => return Poll::Ready(Some(Err(Code::FunctionError))),
                    }
                }
                Poll::Ready(Some(Ok(Frame::data(chunk))))
            }
            Source::Http(answering) => answering.poll_frame(cx),
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let part = ready!(self.poll_source(cx));
        let ended = !matches!(part, Some(Ok(_)));
        if ended {
            self.source = Source::Ended;
        }
        if let Some(story) = &mut self.story {
            match &part {
                Some(Ok(frame)) => story.bytes_out += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(code)) => story.error = Some(*code),
                None => story.complete = true,
            }
        }
        Poll::Ready(part.map(|part| part.map_err(|_| BrokenOff)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Ended => true,
            Source::Frames { call, first, left, .. } => {
                first.is_empty() && call.is_drained() && left.is_none_or(|left| left == 0)
            }
            Source::Http(answering) => answering.is_ended(),
            Source::Whole(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Ended => SizeHint::with_exact(0),
            Source::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Frames { left: Some(left), .. } => SizeHint::with_exact(*left),
            Source::Frames { .. } => SizeHint::default(),
            Source::Http(answering) => answering.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        // hyper does not ask for the end of a body that says it has ended.
        if self.is_end_stream()
            && let Some(story) = &mut self.story
        {
            story.complete = true;
        }
    }
}

/// Whether an answer of this status to this method has a body at all.
pub(super) fn may_have_body(method: &Method, status: StatusCode) -> bool {
    *method != Method::HEAD && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// Hearth's own headers on every answer of a function.
pub(super) fn stamp<B>(
    response: &mut Response<B>,
    request_id: &HeaderValue,
    start: StartKind,
    timing: &Timing,
) {
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-hearth-request-id");
    const START: HeaderName = HeaderName::from_static("x-hearth-start");
    const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, request_id.clone());
    headers.insert(START, HeaderValue::from_static(start_word(start)));
    // A function may time its own parts: both are kept.
    headers.append(SERVER_TIMING, timing.header());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_is_in_milliseconds() {
        let timing = Timing {
            queue: Duration::from_micros(31),
            init: Duration::ZERO,
            execute: Duration::from_micros(1_204_050),
        };
        assert_eq!(timing.header(), "queue;dur=0.031, init;dur=0.000, exec;dur=1204.050");
    }

    #[test]
    fn what_concerns_one_hop_stays_there() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "close, X-Private"), ("x-private", "1"), ("keep-alive", "5"), ("x-public", "2")]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-public"]);
    }
}
