//! A call over frames, from the request to the head of its answer.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use hearth_dispatch::Forwarding;
use hearth_dispatch::retry;
use http::{HeaderValue, Method, Response, StatusCode, header};

use super::call::CallHandle;
use super::event::{Context, EventBody, write_event, write_request_head};
use super::frames::Invoke;
use crate::gateway::admission::Slot;
use crate::gateway::answer::{AnswerBody, Story, may_have_body, take_headers};
use crate::gateway::body::{RequestBody, Upload};
use crate::gateway::request::{Call, HELD_BYTES, Unanswered, authority};
use crate::gateway::revisions::Target;

/// An answer whose head is there.
#[derive(Debug)]
pub(in crate::gateway) struct Answered {
    pub(in crate::gateway) head: Response<()>,
    /// The length of the body, as the function says.
    length: Option<u64>,
    /// First part of the body.
    body: Bytes,
    /// Whether that is all of it.
    end: bool,
    call: CallHandle,
    upload: Option<Box<Upload>>,
}

/// Sends the call and waits for the head of its answer, sending the rest of the body meanwhile.
pub(in crate::gateway) async fn send(
    call: &mut Call,
    target: &Target,
    slot: Slot,
    forwarding: Forwarding,
) -> Result<Answered, Unanswered> {
    let handle = invoke(call, target, slot, forwarding)?;
    let mut upload = (!fits(&call.body)).then(|| {
        let body = std::mem::replace(&mut call.body, RequestBody::moved());
        let pending = body.first.slice(body.first.len().min(HELD_BYTES)..);
        Box::new(Upload::new(body, pending))
    });
    let result = poll_fn(|cx| {
        if let Some(upload) = &mut upload
            && let Poll::Ready(Err(failure)) = upload.poll(cx, &handle)
        {
            return Poll::Ready(Err(Unanswered::Client(failure)));
        }
        handle.poll_answer(cx).map_err(Unanswered::Instance)
    })
    .await;
    match result {
        Ok(answer) => {
            let mut head = Response::new(());
            *head.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
            let length = take_headers(&answer.headers, head.headers_mut());
            Ok(Answered { head, length, body: answer.body, end: answer.end, call: handle, upload })
        }
        Err(unanswered) => {
            if let Some(upload) = upload {
                call.body = upload.into_body();
            }
            Err(unanswered)
        }
    }
}

/// Whether the whole body goes along with the head.
fn fits(body: &RequestBody) -> bool {
    body.is_complete() && body.first.len() <= HELD_BYTES
}

fn invoke(
    call: &Call,
    target: &Target,
    slot: Slot,
    forwarding: Forwarding,
) -> Result<CallHandle, super::CallFailure> {
    let Call { client, parts, added, request_id, body, came, .. } = call;
    let context = Context {
        parts,
        added,
        function: &target.function,
        request_id: request_id.as_str(),
        source_ip: &client.ip,
        peer: &client.peer,
        authority: authority(parts),
        time: *came,
    };
    let fits = fits(body);
    let first = body.first.get(..body.first.len().min(HELD_BYTES)).unwrap_or_default();
    let invoke = Invoke {
        request_id,
        // A body that does not go along is sent only when somebody takes the call: until then it is held and can go elsewhere.
        accept: !fits || !retry::is_idempotent(parts.method.as_str()),
        body: if fits && forwarding == Forwarding::Event { &[] } else { first },
        end: fits,
        execute: target.timeouts.execute,
        idle: target.timeouts.idle_stream,
    };
    let peer = client.lane.peer(&slot.instance, &slot.revision);
    peer.invoke(slot, &invoke, |out| {
        if forwarding == Forwarding::Frames {
            write_request_head(out, &context);
        } else {
            let body = match (fits, body.first.is_empty()) {
                (true, true) => EventBody::None,
                (true, false) => EventBody::Whole(&body.first),
                (false, _) => EventBody::Follows,
            };
            write_event(out, &context, body);
        }
    })
}

impl Answered {
    /// The answer with its body on the way.
    pub(in crate::gateway) fn into_response(
        self,
        method: &Method,
        mut story: Box<Story>,
    ) -> Response<AnswerBody> {
        let Self { mut head, length, body, end, call, upload } = self;
        if let Some(upload) = &upload {
            story.bytes_in = upload.body().seen();
        }
        if !may_have_body(method, head.status()) {
            let length = length.or_else(|| (end && *method == Method::HEAD).then_some(body.len() as u64));
            if let Some(length) = length.filter(|_| head.status() != StatusCode::NO_CONTENT) {
                head.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
            }
            return head.map(|()| AnswerBody::whole(Bytes::new(), story));
        }
        head.map(|()| {
            if end {
                AnswerBody::whole(body, story)
            } else {
                AnswerBody::frames(call, body, upload, length, story)
            }
        })
    }
}
