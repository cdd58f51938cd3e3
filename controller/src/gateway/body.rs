//! The body of a request, under its limits: length, and silence of the client.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

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
    silence: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether bytes were passed on that are not held.
    passed_on: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: Incoming, limit: u64, silence: Duration) -> Self {
        Self {
            incoming: (!incoming.is_end_stream()).then_some(incoming),
            first: Bytes::new(),
            seen: 0,
            limit,
            silence,
            timer: None,
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
            silence: Duration::ZERO,
            timer: None,
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
                    self.timer = None;
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
                    let silence = self.silence;
                    let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(silence)));
                    ready!(timer.as_mut().poll(cx));
                    let message = format!("no byte of the request's body came for {} s", silence.as_secs());
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
