//! The connection that a gateway thread shares among all calls of one instance.
//!
//! Requests append their frames to one buffer and wake the connection's task; by the time it runs, all requests that were ready have
//! written, and one `write` carries them. One `read` brings many frames likewise. That is what makes frames faster than a connection for each
//! call. A buffer that has grown is written by the request that filled it: the instance begins with the first while the gateway still takes
//! in the last.
//!
//! The task also keeps the time: one timer for all calls, at the earliest moment that something is due. A call that outlives its time is
//! cancelled and the instance is pinged; no pong, and it is reported as unresponsive. A cancelled call that does not end is stuck; an
//! instance with nothing but stuck calls is reported too.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use hearth_dispatch::ToScaler;
use hearth_dispatch::retry::Accepted;
use hearth_protocol::codec::{put_credit, put_data, put_invoke, put_plain};
use hearth_protocol::frame::RequestId;
use hearth_protocol::sequence::Call as Flow;
use hearth_protocol::{Flags, Frame, Hello, Kind, Outline, Role, decode};
use tokio::time::Sleep;

use super::call::{Call, CallHandle};
use super::shared::SharedSocket;
use super::{CallFailure, What};
use crate::gateway::admission::Slot;
use crate::gateway::config::ForwardingLimits;
use crate::gateway::revisions::{Instance, Revision, now};

/// Room made for one read: a busy instance fills it with the answers of many calls.
const READ_BYTES: usize = 64 * 1024;

/// Below so much room a new buffer is made instead of reading a few bytes at a time.
const LEAST_ROOM: usize = 8 * 1024;

/// From here on the instance has something to do: some ten small calls.
const FLUSH_BYTES: usize = 8 * 1024;

/// Reads in a row before the other tasks of the thread get their turn.
const READS_IN_A_ROW: usize = 8;

/// A call as it is sent.
#[derive(Debug)]
pub(in crate::gateway) struct Invoke<'a> {
    pub(in crate::gateway) request_id: &'a RequestId,
    /// Whether `accept` is asked for: the call is not safe to repeat, or its body does not fit into the first frame.
    pub(in crate::gateway) accept: bool,
    /// First part of the body.
    pub(in crate::gateway) body: &'a [u8],
    /// Whether that is all of it.
    pub(in crate::gateway) end: bool,
    pub(in crate::gateway) execute: Duration,
    pub(in crate::gateway) idle: Duration,
}

/// The connection, as requests see it.
#[derive(Debug)]
pub(in crate::gateway) struct Peer {
    instance: Arc<Instance>,
    revision: Arc<Revision>,
    limits: ForwardingLimits,
    /// Once it is connected.
    socket: OnceCell<SharedSocket>,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Frames to be written.
    out: BytesMut,
    calls: HashMap<u32, Rc<RefCell<Call>>>,
    /// Number of the last call.
    last: u32,
    driver: Option<Waker>,
    /// Why no call can be made any more.
    ended: Option<Arc<str>>,
    /// The earliest moment at which something may be due.
    alarm: Option<Instant>,
    /// When the pong is due.
    pong_due: Option<Instant>,
    /// When the instance, which has refused a call, may take some again.
    opens: Option<Instant>,
}

impl State {
    /// The number of the next call; `None` when all are used up: those that run end here, and the next ones need another connection.
    const fn next_stream(&self) -> Option<u32> {
        self.last.checked_add(1)
    }

    fn wake(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn due(&mut self, at: Instant) {
        if self.alarm.is_none_or(|alarm| at < alarm) {
            self.alarm = Some(at);
        }
    }
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// Nothing ran on it: no loss.
    Quiet,
    /// The instance ended, by the scaler's word.
    Gone,
    /// It cannot be reached or broke the protocol.
    Lost(String),
    /// It does not answer, or all its slots are stuck.
    Unresponsive(&'static str),
}

impl Peer {
    /// A connection that is not made yet: calls can be sent at once, [`Peer::drive`] connects.
    pub(in crate::gateway) fn new(
        instance: Arc<Instance>,
        revision: Arc<Revision>,
        limits: ForwardingLimits,
    ) -> Rc<Self> {
        let state = RefCell::new(State::default());
        let hello = Hello::new(Role::Invoke, instance.endpoint.secret.as_str());
        Frame::Hello(hello).encode(&mut state.borrow_mut().out).expect("a hello is a few hundred bytes");
        Rc::new(Self { instance, revision, limits, socket: OnceCell::new(), state })
    }

    /// Whether no more calls can be sent on it.
    pub(in crate::gateway) fn has_ended(&self) -> bool {
        let state = self.state.borrow();
        state.ended.is_some() || state.next_stream().is_none()
    }

    /// Whether no frame has left the gateway yet.
    pub(super) fn never_connected(&self) -> bool {
        self.socket.get().is_none()
    }

    /// Sends a call; `head` writes its JSON.
    ///
    /// # Errors
    /// When the connection has ended, or the head is too long. The slot is given back then.
    pub(in crate::gateway) fn invoke(
        self: &Rc<Self>,
        slot: Slot,
        invoke: &Invoke<'_>,
        head: impl FnOnce(&mut BytesMut),
    ) -> Result<CallHandle, CallFailure> {
        let unsent = |what| CallFailure { what, accepted: Accepted::NotYet };
        let mut state = self.state.borrow_mut();
        if let Some(reason) = &state.ended {
            let failure = unsent(What::Lost(reason.to_string()));
            slot.unused();
            return Err(failure);
        }
        let Some(stream) = state.next_stream() else {
            // Whoever found this connection asked first whether it takes calls.
            slot.unused();
            return Err(unsent(What::Lost("the connection has had as many calls as it can".to_owned())));
        };
        let flags = Flags::new(invoke.end, invoke.accept);
        let execute = invoke.execute;
        let deadline = u32::try_from(execute.as_millis()).unwrap_or(u32::MAX).max(1);
        let written =
            put_invoke(&mut state.out, stream, flags, deadline, invoke.request_id, head, invoke.body);
        let amount = u32::try_from(invoke.body.len()).unwrap_or(u32::MAX);
        let flow = Flow::open(Outline { flags, amount, ..Outline::plain(Kind::Invoke, stream) });
        let (Ok(()), Ok(flow)) = (written, flow) else {
            slot.unused();
            return Err(unsent(What::TooLong));
        };
        state.last = stream;
        let due = slot.taken() + execute;
        let call = Rc::new(RefCell::new(Call::new(flow, slot, due, invoke.idle)));
        state.calls.insert(stream, Rc::clone(&call));
        state.due(due);
        if state.out.len() >= FLUSH_BYTES
            && let Some(socket) = self.socket.get()
        {
            // What goes wrong here goes wrong for the connection's task too, which knows what to do.
            let written = socket.try_write(&state.out).unwrap_or(0);
            state.out.advance(written);
        }
        state.wake();
        Ok(CallHandle::new(Rc::clone(self), stream, call))
    }

    /// Asks the instance whether it still answers; reports it if not.
    pub(in crate::gateway) fn check(&self) {
        let mut state = self.state.borrow_mut();
        self.ping(&mut state, now());
        state.wake();
    }

    fn ping(&self, state: &mut State, now: Instant) {
        if state.pong_due.is_none() {
            Frame::Ping(*b"hearth\0\0").encode(&mut state.out).expect("a ping is eight bytes");
            let due = now + self.limits.ping;
            state.pong_due = Some(due);
            state.due(due);
            // A call that came meanwhile would be stuck there as well.
            self.revision.with(|dispatch, _| dispatch.on_doubt(&self.instance.endpoint.instance));
        }
    }

    fn trust(&self, now: Instant) {
        let id = &self.instance.endpoint.instance;
        self.revision.with(|dispatch, actions| dispatch.on_trust(now, id, actions));
    }

    pub(super) fn send_data(&self, stream: u32, bytes: &[u8], end: bool) {
        let mut state = self.state.borrow_mut();
        put_data(&mut state.out, stream, bytes, end).expect("a window is smaller than the longest frame");
        state.wake();
    }

    pub(super) fn send_credit(&self, stream: u32, bytes: u32) {
        let mut state = self.state.borrow_mut();
        put_credit(&mut state.out, stream, bytes);
        state.wake();
    }

    /// The client's side has gone: the call is cancelled unless it is over.
    pub(super) fn abandon(&self, stream: u32, call: &RefCell<Call>) {
        let mut state = self.state.borrow_mut();
        if state.calls.contains_key(&stream) {
            self.cancel(&mut state, stream, &mut call.borrow_mut(), now());
        }
    }

    fn cancel(&self, state: &mut State, stream: u32, call: &mut Call, now: Instant) {
        if call.flow.from_caller(Outline::plain(Kind::Cancel, stream)).is_ok() {
            put_plain(&mut state.out, Kind::Cancel, stream);
            let due = now + self.limits.stuck;
            call.due = Some(due);
            state.due(due);
            state.wake();
        }
    }

    /// The connection's task: connects, carries frames, keeps the time, and cleans up.
    pub(in crate::gateway) async fn drive(self: Rc<Self>) {
        let end = self.run().await;
        let instance = &self.instance;
        let reason: Arc<str> = match &end {
            End::Quiet => "the connection was closed".into(),
            End::Gone => instance.reason.get().map_or("it ended", String::as_str).into(),
            End::Lost(reason) => reason.as_str().into(),
            End::Unresponsive(reason) => (*reason).into(),
        };
        let calls = {
            let mut state = self.state.borrow_mut();
            state.ended = Some(Arc::clone(&reason));
            std::mem::take(&mut state.calls)
        };
        // Before the slots come back: nobody else is to be sent there.
        match end {
            // If it has something to say against the instance, the next connection finds out.
            End::Quiet => self.trust(now()),
            End::Gone => {}
            End::Lost(_) => {
                let message = |instance| ToScaler::Lost { instance, reason: reason.to_string() };
                self.revision.give_up(instance, message, &reason);
            }
            End::Unresponsive(_) => {
                let message = |instance| ToScaler::Unresponsive { instance };
                self.revision.give_up(instance, message, &reason);
            }
        }
        for call in calls.into_values() {
            let slot = call.borrow_mut().on_lost(&reason);
            drop(slot);
        }
    }

    async fn run(&self) -> End {
        let endpoint = &self.instance.endpoint;
        let socket = match SharedSocket::connect(&endpoint.address, self.limits.connect).await {
            Ok(socket) => self.socket.get_or_init(|| socket),
            Err(error) => return End::Lost(format!("cannot connect to it: {error}")),
        };
        let mut input = BytesMut::new();
        let mut timer = Box::pin(tokio::time::sleep(Duration::from_secs(3600)));
        // Every arm is polled to its end before the others see anything: nothing is lost when one wins.
        tokio::select! {
            biased;
            end = poll_fn(|cx| self.poll(cx, socket, &mut input, &mut timer)) => end,
            () = self.instance.silent() => End::Gone,
            () = self.unneeded() => End::Quiet,
        }
    }

    /// Ends when the instance was revoked, or no more calls can be numbered, and the last call has ended.
    async fn unneeded(&self) {
        // A call's begin and end wake the task, which polls this one too.
        let used_up = || self.state.borrow().next_stream().is_none();
        tokio::select! {
            () = self.instance.revoked.cancelled() => {}
            () = poll_fn(|_| if used_up() { Poll::Ready(()) } else { Poll::Pending }) => {}
        }
        // The call's end is seen by the task's other arm, which polls this one again.
        poll_fn(|_| if self.state.borrow().calls.is_empty() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        socket: &SharedSocket,
        input: &mut BytesMut,
        timer: &mut Pin<Box<Sleep>>,
    ) -> Poll<End> {
        match self.poll_read(cx, socket, input) {
            Ok(()) => {}
            Err(end) => return Poll::Ready(end),
        }
        if let Err(end) = self.poll_time(cx, timer) {
            return Poll::Ready(end);
        }
        let mut state = self.state.borrow_mut();
        while state.out.has_remaining() {
            match socket.poll_write(cx, &state.out) {
                Poll::Ready(Ok(written)) => state.out.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(self.broken(&state, &error.to_string())),
                Poll::Pending => break,
            }
        }
        if state.out.is_empty() {
            socket.is_written();
        }
        match &mut state.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn poll_read(
        &self,
        cx: &mut Context<'_>,
        socket: &SharedSocket,
        input: &mut BytesMut,
    ) -> Result<(), End> {
        let broken = |what: &str| self.broken(&self.state.borrow(), what);
        for _ in 0..READS_IN_A_ROW {
            if input.capacity() - input.len() < LEAST_ROOM {
                input.reserve(READ_BYTES);
            }
            match socket.poll_read(cx, input) {
                Poll::Ready(Ok(0)) => return Err(broken("it closed the connection")),
                Poll::Ready(Ok(_)) => self.take_frames(input).map_err(End::Lost)?,
                Poll::Ready(Err(error)) => return Err(broken(&error.to_string())),
                Poll::Pending => return Ok(()),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// A connection that ends while nothing runs on it says nothing about the instance: the next call makes another.
    fn broken(&self, state: &State, what: &str) -> End {
        if self.instance.gone.is_cancelled() {
            End::Gone
        } else if state.calls.is_empty() {
            End::Quiet
        } else {
            End::Lost(what.to_owned())
        }
    }

    fn take_frames(&self, input: &mut BytesMut) -> Result<(), String> {
        let now = now();
        while let Some(frame) = decode(input).map_err(|error| format!("it broke the protocol: {error}"))? {
            let outline = frame.outline();
            if outline.stream == 0 {
                match frame {
                    // It is to end: the scaler has heard it too, and takes the instance back.
                    Frame::Welcome(_) | Frame::Drain => {}
                    Frame::Pong(_) => {
                        self.state.borrow_mut().pong_due = None;
                        self.trust(now);
                    }
                    Frame::Error { error, .. } => return Err(format!("it refused the connection: {error}")),
                    _ => return Err(format!("it broke the protocol: {} on the connection", outline.kind)),
                }
                continue;
            }
            let mut state = self.state.borrow_mut();
            let Some(call) = state.calls.get(&outline.stream).cloned() else {
                return Err(format!("it broke the protocol: {} for a call that is over", outline.kind));
            };
            let mut entry = call.borrow_mut();
            let slot =
                entry.on_frame(now, frame).map_err(|error| format!("it broke the protocol: {error}"))?;
            if let Some(due) = entry.due {
                state.due(due);
            }
            if slot.is_some() || entry.is_over() {
                state.calls.remove(&outline.stream);
            }
            drop((entry, state));
            // Either wakes whoever waits for it.
            match slot {
                Some(slot) if outline.kind == Kind::Busy => {
                    if let Some(opens) = slot.refused() {
                        let mut state = self.state.borrow_mut();
                        state.opens = Some(opens);
                        state.due(opens);
                    }
                }
                slot => drop(slot),
            }
        }
        Ok(())
    }

    fn poll_time(&self, cx: &mut Context<'_>, timer: &mut Pin<Box<Sleep>>) -> Result<(), End> {
        loop {
            let Some(alarm) = self.state.borrow().alarm else { return Ok(()) };
            let alarm = tokio::time::Instant::from_std(alarm);
            if timer.deadline() != alarm {
                timer.as_mut().reset(alarm);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            self.sweep(now())?;
        }
    }

    /// Does what is due and finds the next alarm.
    fn sweep(&self, now: Instant) -> Result<(), End> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.pong_due.is_some_and(|due| due <= now) {
            let id = &self.instance.endpoint.instance;
            if !self.revision.with(|dispatch, _| dispatch.is_paused(id)) {
                return Err(End::Unresponsive("it does not answer a ping"));
            }
            // It was frozen before it could: it answers when it is thawed.
            state.pong_due = Some(now + self.limits.ping);
        }
        if state.opens.is_some_and(|opens| opens <= now) {
            state.opens = None;
            self.revision.with(|dispatch, actions| dispatch.on_tick(now, actions));
        }
        state.alarm = state.pong_due.into_iter().chain(state.opens).min();
        let overdue: Vec<(u32, Rc<RefCell<Call>>)> = state
            .calls
            .iter()
            .filter(|(_, call)| call.borrow().due.is_some_and(|due| due <= now))
            .map(|(stream, call)| (*stream, Rc::clone(call)))
            .collect();
        for (stream, call) in &overdue {
            let mut call = call.borrow_mut();
            if call.flow.cancelled() {
                if call.on_stuck() {
                    return Err(End::Unresponsive("none of its calls ends, though all were cancelled"));
                }
            } else {
                call.on_overdue();
                self.cancel(state, *stream, &mut call, now);
            }
        }
        if !overdue.is_empty() {
            self.ping(state, now);
        }
        let next = state.calls.values().filter_map(|call| call.borrow().due).min();
        if let Some(due) = next {
            state.due(due);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_calls_are_used_up_and_never_used_again() {
        let state = |last| State { last, ..State::default() };
        assert_eq!(state(0).next_stream(), Some(1));
        assert_eq!(state(u32::MAX - 1).next_stream(), Some(u32::MAX));
        assert_eq!(state(u32::MAX).next_stream(), None);
    }
}
