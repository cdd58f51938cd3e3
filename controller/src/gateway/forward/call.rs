//! One call on a shared connection: what the connection's task leaves for the client's task, and the other way round. Both run on one
//! thread, so a cell is all that is between them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_dispatch::retry::Accepted;
use hearth_protocol::sequence::{Call as Flow, Step, Violation};
use hearth_protocol::{Answer, Frame, HeaderLines, INITIAL_CREDIT, Kind, Outline};

use super::frames::Peer;
use super::{CallFailure, What};
use crate::gateway::admission::Slot;

/// Credit is given back in portions: a frame for each chunk would double the frames, waiting for all of it would stop the flow.
const CREDIT_PORTION: u32 = INITIAL_CREDIT / 2;

/// Where a call is, as the connection knows it.
#[derive(Debug)]
pub(super) struct Call {
    /// The protocol's rules and windows.
    pub(super) flow: Flow,
    /// Given back when the instance has said that the call is over.
    slot: Option<Slot>,
    answer: Option<Answer>,
    chunks: VecDeque<Bytes>,
    trailers: Option<HeaderLines>,
    failure: Option<What>,
    over: bool,
    /// Answer bytes that the client has taken and the instance has no credit for yet.
    taken: u32,
    client: Option<Waker>,
    /// When something has to happen: the head is due, the stream is idle, or a cancelled call should have ended.
    pub(super) due: Option<Instant>,
    idle: Duration,
}

impl Call {
    pub(super) fn new(flow: Flow, slot: Slot, due: Instant, idle: Duration) -> Self {
        Self {
            flow,
            slot: Some(slot),
            answer: None,
            chunks: VecDeque::new(),
            trailers: None,
            failure: None,
            over: false,
            taken: 0,
            client: None,
            due: Some(due),
            idle,
        }
    }

    /// A frame of the instance. Returns the slot when the call is over with it.
    pub(super) fn on_frame(&mut self, now: Instant, frame: Frame) -> Result<Option<Slot>, Violation> {
        let over = self.flow.from_instance(frame.outline())? == Step::Over;
        // What a client does not wait for any more is thrown away.
        let wanted = !self.flow.cancelled();
        match frame {
            Frame::Answer { answer, .. } if wanted => {
                self.answer = Some(answer);
                self.touch(now);
            }
            Frame::Data { bytes, .. } if wanted => {
                if !bytes.is_empty() {
                    self.chunks.push_back(bytes);
                }
                self.touch(now);
            }
            Frame::Trailers { lines, .. } if wanted => self.trailers = Some(lines),
            Frame::Error { error, .. } if wanted => self.failure = Some(What::Threw(error)),
            Frame::Busy { .. } => {
                self.failure.get_or_insert(What::Busy);
            }
            _ => {}
        }
        self.wake();
        if !over {
            return Ok(None);
        }
        self.over = true;
        self.due = None;
        Ok(self.slot.take())
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The connection has ended. Returns the slot.
    pub(super) fn on_lost(&mut self, reason: &str) -> Option<Slot> {
        self.failure.get_or_insert_with(|| What::Lost(reason.to_owned()));
        self.over = true;
        self.wake();
        self.slot.take()
    }

    /// The call has outlived its time.
    pub(super) fn on_overdue(&mut self) {
        let what = if self.flow.answering() { What::IdleStream } else { What::ExecuteTimeout };
        self.failure.get_or_insert(what);
        self.chunks.clear();
        self.wake();
    }

    /// It was cancelled long ago and has not ended. Returns `true` when all of the instance's slots are held so.
    pub(super) fn on_stuck(&mut self) -> bool {
        self.due = None;
        self.slot.as_mut().is_some_and(Slot::stuck)
    }

    /// Bytes move: the stream is not idle.
    fn touch(&mut self, now: Instant) {
        if self.flow.answering() && !self.over {
            self.due = (!self.idle.is_zero()).then(|| now + self.idle);
        }
    }

    fn wake(&mut self) {
        if let Some(client) = self.client.take() {
            client.wake();
        }
    }

    fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.client {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn failure(&self, never_sent: bool) -> Option<CallFailure> {
        let accepted = if never_sent {
            Accepted::Unreached
        } else if matches!(self.failure, Some(What::Busy)) {
            Accepted::Never
        } else if self.flow.accepted() {
            Accepted::Perhaps
        } else {
            Accepted::NotYet
        };
        self.failure.clone().map(|what| CallFailure { what, accepted })
    }
}

/// A part of an answer.
#[derive(Debug)]
pub(in crate::gateway) enum Chunk {
    Bytes(Bytes),
    Trailers(HeaderLines),
}

/// The client's side of a call. Dropping it before the call is over cancels the call; its slot is free when the instance says so.
#[derive(Debug)]
pub(in crate::gateway) struct CallHandle {
    peer: Rc<Peer>,
    stream: u32,
    call: Rc<RefCell<Call>>,
}

impl CallHandle {
    pub(super) fn new(peer: Rc<Peer>, stream: u32, call: Rc<RefCell<Call>>) -> Self {
        Self { peer, stream, call }
    }

    /// The head of the answer.
    pub(in crate::gateway) fn poll_answer(&self, cx: &Context<'_>) -> Poll<Result<Answer, CallFailure>> {
        let mut call = self.call.borrow_mut();
        if let Some(answer) = call.answer.take() {
            drop(call);
            self.took(answer.body.len());
            return Poll::Ready(Ok(answer));
        }
        if let Some(failure) = call.failure(self.peer.never_connected()) {
            return Poll::Ready(Err(failure));
        }
        call.wait(cx);
        Poll::Pending
    }

    /// The next part of the answer's body, after its head.
    pub(in crate::gateway) fn poll_chunk(
        &self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Chunk, CallFailure>>> {
        let mut call = self.call.borrow_mut();
        if let Some(bytes) = call.chunks.pop_front() {
            drop(call);
            self.took(bytes.len());
            return Poll::Ready(Some(Ok(Chunk::Bytes(bytes))));
        }
        if let Some(lines) = call.trailers.take() {
            return Poll::Ready(Some(Ok(Chunk::Trailers(lines))));
        }
        if let Some(failure) = call.failure(false) {
            return Poll::Ready(Some(Err(failure)));
        }
        if call.over {
            return Poll::Ready(None);
        }
        call.wait(cx);
        Poll::Pending
    }

    /// Whether the instance has ended the call.
    pub(in crate::gateway) fn is_over(&self) -> bool {
        self.call.borrow().over
    }

    /// Whether all of the answer was handed out.
    pub(in crate::gateway) fn is_drained(&self) -> bool {
        let call = self.call.borrow();
        call.over && call.chunks.is_empty() && call.trailers.is_none() && call.failure.is_none()
    }

    /// Body bytes that may be sent now; `cx` is woken when there are more.
    pub(in crate::gateway) fn poll_window(&self, cx: &Context<'_>) -> Poll<usize> {
        let mut call = self.call.borrow_mut();
        let window = call.flow.body_window();
        if window == 0 && !call.over {
            call.wait(cx);
            return Poll::Pending;
        }
        Poll::Ready(window as usize)
    }

    /// Sends body bytes, at most the window's; with `end` the last.
    pub(in crate::gateway) fn send(&self, bytes: &[u8], end: bool) {
        let mut call = self.call.borrow_mut();
        if call.over || call.flow.cancelled() || call.flow.body_ended() {
            return;
        }
        let amount = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let flags = hearth_protocol::Flags::new(end, false);
        let outline = Outline { flags, amount, ..Outline::plain(Kind::Data, self.stream) };
        if call.flow.from_caller(outline).is_ok() {
            let now = crate::gateway::revisions::now();
            call.touch(now);
            drop(call);
            self.peer.send_data(self.stream, bytes, end);
        }
    }

    /// The client has taken so many bytes: the instance may send more.
    fn took(&self, bytes: usize) {
        let mut call = self.call.borrow_mut();
        if call.over {
            return;
        }
        call.taken = call.taken.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        call.touch(crate::gateway::revisions::now());
        if call.taken >= CREDIT_PORTION {
            let amount = std::mem::take(&mut call.taken);
            let outline = Outline { amount, ..Outline::plain(Kind::Credit, self.stream) };
            if call.flow.from_caller(outline).is_ok() {
                drop(call);
                self.peer.send_credit(self.stream, amount);
            }
        }
    }
}

impl Drop for CallHandle {
    fn drop(&mut self) {
        self.peer.abandon(self.stream, &self.call);
    }
}
