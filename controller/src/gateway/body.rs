//! The body of a request, under its limits: length, and silence and pace of the client.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::config::Limits;
use super::errors::{Code, Failure};
use super::forward::call::CallHandle;

/// A request's body: the first part of it, held so that the call can be repeated, and the rest, still to come.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: Option<Incoming>,
    /// What was read and is held.
    pub(super) first: Bytes,
    seen: u64,
    limit: u64,
    pace: Pace,
    /// Whether bytes were passed on that are not held.
    passed_on: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, limits: &Limits) -> Self {
        Self {
            incoming: (!incoming.is_end_stream()).then_some(incoming),
            first: Bytes::new(),
            seen: 0,
            limit: limits.body_bytes,
            pace: Pace::new(limits.body_silence, limits.body_rate),
            passed_on: false,
        }
    }

    /// # Errors
    /// When its length is said and too much.
    pub(super) fn check_length(&self) -> Result<(), Failure> {
        match &self.incoming {
            Some(incoming) if incoming.size_hint().lower() > self.limit => Err(too_large(self.limit)),
            _ => Ok(()),
        }
    }

    /// In the place of a body that is elsewhere for now.
    pub(super) const fn moved() -> Self {
        Self {
            incoming: None,
            first: Bytes::new(),
            seen: 0,
            limit: 0,
            pace: Pace::new(Duration::ZERO, 0),
            passed_on: true,
        }
    }

    /// Whether nothing more will come.
    pub(super) const fn is_complete(&self) -> bool {
        self.incoming.is_none()
    }

    /// Whether all of it that was read is still here.
    pub(super) const fn is_held(&self) -> bool {
        !self.passed_on
    }

    /// Bytes read so far.
    pub(super) const fn seen(&self) -> u64 {
        self.seen
    }

    /// From here on, parts are passed on and not held.
    pub(super) const fn pass_on(&mut self) {
        self.passed_on = true;
    }

    /// The next part; `None` at the end. Trailers of requests are dropped.
    pub(super) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Failure>> {
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(Ok(None)) };
        loop {
            match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.pace.came();
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.seen += bytes.len() as u64;
                    if self.seen > self.limit {
                        return Poll::Ready(Err(too_large(self.limit)));
                    }
                    if incoming.is_end_stream() {
                        self.incoming = None;
                    }
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(Failure::new(
                        Code::BadRequest,
                        format!("the request's body broke off: {error}"),
                    )));
                }
                Poll::Ready(None) => {
                    self.incoming = None;
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending => {
                    let message = ready!(self.pace.poll_late(cx, self.seen));
                    return Poll::Ready(Err(Failure::new(Code::ClientTooSlow, message)));
                }
            }
        }
    }

    /// Reads until the end, or until `most` bytes are held.
    pub(super) async fn hold(&mut self, most: usize) -> Result<(), Failure> {
        while !self.is_complete() && self.first.len() < most {
            if let Some(bytes) = poll_fn(|cx| self.poll_part(cx)).await? {
                self.keep(bytes);
            }
        }
        Ok(())
    }

    /// Holds what is there already, without waiting.
    pub(super) async fn hold_ready(&mut self, most: usize) -> Result<(), Failure> {
        poll_fn(|cx| {
            while !self.is_complete() && self.first.len() < most {
                match self.poll_part(cx) {
                    Poll::Ready(Ok(Some(bytes))) => self.keep(bytes),
                    Poll::Ready(Ok(None)) | Poll::Pending => break,
                    Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn keep(&mut self, bytes: Bytes) {
        if self.first.is_empty() {
            self.first = bytes;
        } else {
            let mut all = BytesMut::with_capacity(self.first.len() + bytes.len());
            all.extend_from_slice(&self.first);
            all.extend_from_slice(&bytes);
            self.first = all.freeze();
        }
    }
}

/// How fast a client has to be. Only the time that it is waited for counts: while the function takes nothing, the client need not send.
#[derive(Debug)]
struct Pace {
    silence: Duration,
    /// Bytes per second, over all the time that it was waited for, once that is longer than `silence`; 0 for none.
    rate: u32,
    /// Time that it was waited for, before now.
    waited: Duration,
    /// Since when it is waited for, and when that is too long.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    const fn new(silence: Duration, rate: u32) -> Self {
        Self { silence, rate, waited: Duration::ZERO, waiting: None }
    }

    /// Something has come.
    fn came(&mut self) {
        if let Some((since, _)) = self.waiting.take() {
            self.waited += since.elapsed();
        }
    }

    /// Ready, with what to tell it, when the client is too late. `seen`: bytes that have come.
    fn poll_late(&mut self, cx: &mut Context<'_>, seen: u64) -> Poll<String> {
        let (silence, rate) = (self.silence, self.rate);
        let waiting = self.waiting.get_or_insert_with(|| {
            let longest = silence.min(may_wait(silence, rate, seen).saturating_sub(self.waited));
            (Instant::now(), Box::pin(tokio::time::sleep(longest)))
        });
        ready!(waiting.1.as_mut().poll(cx));
        Poll::Ready(if waiting.0.elapsed() >= silence {
            format!("no byte of the request's body came for {} s", silence.as_secs())
        } else {
            format!("the request's body came with less than {rate} bytes per second")
        })
    }
}

/// For so many bytes, so long in all: at 240 bytes per second after 30 s, 34 s for 1000 bytes.
fn may_wait(grace: Duration, rate: u32, seen: u64) -> Duration {
    let millis = seen.saturating_mul(1000).checked_div(u64::from(rate)).unwrap_or(u64::MAX);
    grace.saturating_add(Duration::from_millis(millis))
}

fn too_large(limit: u64) -> Failure {
    Failure::new(Code::BodyTooLarge, format!("the request's body is longer than {limit} bytes"))
}

/// Sends the rest of a body under credit.
#[derive(Debug)]
pub(super) struct Upload {
    body: RequestBody,
    /// Read and not sent yet.
    pending: Bytes,
}

impl Upload {
    /// `pending` is what of the held part did not go with the call's head.
    pub(super) const fn new(body: RequestBody, pending: Bytes) -> Self {
        Self { body, pending }
    }

    pub(super) const fn body(&self) -> &RequestBody {
        &self.body
    }

    pub(super) fn into_body(self) -> RequestBody {
        self.body
    }

    /// Sends what can be sent; ready when all of it was, or the call is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, call: &CallHandle) -> Poll<Result<(), Failure>> {
        loop {
            if call.is_over() {
                return Poll::Ready(Ok(()));
            }
            if self.pending.is_empty() {
                if self.body.is_complete() {
                    call.send(&[], true);
                    return Poll::Ready(Ok(()));
                }
                // A byte that is read beyond the window is neither held nor sent: look at the window first.
                ready!(call.poll_window(cx));
                match ready!(self.body.poll_part(cx))? {
                    Some(bytes) => {
                        self.body.pass_on();
                        self.pending = bytes;
                    }
                    None => continue,
                }
            }
            let window = ready!(call.poll_window(cx));
            if window == 0 {
                return Poll::Ready(Ok(()));
            }
            self.body.pass_on();
            let part = self.pending.split_to(window.min(self.pending.len()));
            let end = self.pending.is_empty() && self.body.is_complete();
            call.send(&part, end);
            if end {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// The body for a dedicated connection: the held part, then the rest. It is shared with the request, which asks it afterwards whether
/// the call can be repeated.
#[derive(Debug)]
pub(super) struct Passing {
    body: std::rc::Rc<std::cell::RefCell<RequestBody>>,
    first: Option<Bytes>,
}

impl Passing {
    pub(super) fn new(body: std::rc::Rc<std::cell::RefCell<RequestBody>>) -> Self {
        let first = body.borrow().first.clone();
        Self { body, first: (!first.is_empty()).then_some(first) }
    }
}

impl Body for Passing {
    type Data = Bytes;
    type Error = Refused;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Refused>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let mut body = self.body.borrow_mut();
        match ready!(body.poll_part(cx)) {
            Ok(Some(bytes)) => {
                body.pass_on();
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Ok(None) => Poll::Ready(None),
            Err(failure) => Poll::Ready(Some(Err(Refused(failure)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.body.borrow().is_complete()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.first.as_ref().map_or(0, Bytes::len) as u64;
        match &self.body.borrow().incoming {
            None => SizeHint::with_exact(held),
            Some(incoming) => incoming
                .size_hint()
                .exact()
                .map_or_else(SizeHint::default, |rest| SizeHint::with_exact(held + rest)),
        }
    }
}

/// A body that breaks off because of a limit.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.message)]
pub(super) struct Refused(pub(super) Failure);

#[cfg(test)]
mod tests {
    use super::*;

    /// When a client that sends `bytes` after each `pause` is told that it is too slow.
    async fn told(mut pace: Pace, bytes: u64, pause: Duration) -> (Duration, String) {
        let began = Instant::now();
        let mut seen = 0;
        loop {
            let late = tokio::time::timeout(pause, poll_fn(|cx| pace.poll_late(cx, seen)));
            match late.await {
                Ok(message) => return (began.elapsed(), message),
                Err(_) => pace.came(),
            }
            seen += bytes;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_keep_a_connection() {
        let seconds = Duration::from_secs;
        let silent = told(Pace::new(seconds(30), 240), 0, seconds(1000)).await;
        assert!(silent.0.abs_diff(seconds(30)) < seconds(1) && silent.1.contains("30 s"), "{silent:?}");
        // 30 s and what 290 bytes take.
        let drop_by_drop = told(Pace::new(seconds(30), 240), 10, seconds(1)).await;
        assert!(drop_by_drop.0.abs_diff(seconds(31)) < seconds(1), "{drop_by_drop:?}");
        assert!(drop_by_drop.1.contains("240 bytes per second"), "{drop_by_drop:?}");
        // One that is just fast enough has time without end: here, for an hour.
        let steady = told(Pace::new(seconds(30), 240), 240, seconds(1));
        assert!(tokio::time::timeout(seconds(3600), steady).await.is_err());
        let any_pace = told(Pace::new(seconds(30), 0), 1, seconds(20));
        assert!(tokio::time::timeout(seconds(3600), any_pace).await.is_err());
    }
}
