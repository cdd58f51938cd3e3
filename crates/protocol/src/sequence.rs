//! The rules of a connection: which frame is legal when, how much may be sent (INV-12), when a call is over. No I/O; both sides feed it the
//! outlines of the frames they send and receive.
//!
//! ```text
//!             hello/attach             welcome                        error on stream 0
//!   Opening ───────────────► Greeted ───────────► Open ─────────────────────────────────► Closed
//!                               │  accept (attach)                                           ▲
//!                               └──────────────────► Raw        error on stream 0 ───────────┘
//! ```
//!
//! A caller need not wait for `welcome` before it loads or calls. The life of a call is [`Call`]'s:
//!
//! ```text
//!            invoke          accept (if asked for)        answer                END, trailers
//!   (none) ─────────► Sent ───────────────────────► … ─────────────► Answering ────────────────► over
//!                       └── busy ──► over      error at any time, `end` after `cancel` ────────► over
//! ```
//!
//! What a caller sends for a call that is over already (the two crossed on the way) is [`Step::Stale`] to the instance, and no fault. An
//! instance sends nothing more for a call that it has ended.

use std::collections::HashMap;

use crate::INITIAL_CREDIT;
use crate::bodies::Role;
use crate::kind::{Kind, Outline};

/// Most calls that may be open on one connection: far above any concurrency limit, it bounds what a broken caller can make an instance hold.
pub const MAX_OPEN_CALLS: usize = 4096;

/// Most credit that may be outstanding on one direction of a call: a runaway counter, not a buffer size.
pub const MAX_CREDIT: u32 = 1 << 30;

/// A frame that the rules do not allow. The connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Not legal in this state of the connection, on a connection of this role, or from this side.
    #[error("{0} is not legal here")]
    Unexpected(Kind),
    /// The call is not in a state in which this is legal.
    #[error("{kind} is not legal in this state of call {stream}")]
    UnexpectedInCall {
        /// What came.
        kind: Kind,
        /// In which call.
        stream: u32,
    },
    /// No call of this number was ever opened.
    #[error("{kind} for call {stream}, which does not exist")]
    UnknownCall {
        /// What came.
        kind: Kind,
        /// For which call.
        stream: u32,
    },
    /// Calls are numbered by one from 1.
    #[error("call {got} where {expected} was next")]
    Number {
        /// What came.
        got: u32,
        /// What should have come.
        expected: u32,
    },
    /// More bytes than there was credit for.
    #[error("{bytes} bytes on call {stream} with a credit of {credit}")]
    Credit {
        /// In which call.
        stream: u32,
        /// What came.
        bytes: u32,
        /// What was allowed.
        credit: u32,
    },
    /// More credit than [`MAX_CREDIT`], or none.
    #[error("a credit of {bytes} bytes on call {stream}")]
    CreditGiven {
        /// In which call.
        stream: u32,
        /// What was given.
        bytes: u32,
    },
    /// More than [`MAX_OPEN_CALLS`].
    #[error("more than {MAX_OPEN_CALLS} calls are open")]
    TooManyCalls,
}

/// What a frame did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It belongs to what is going on.
    Continue,
    /// The call is over with it, and its slot free.
    Over,
    /// It is for a call that is over: throw it away.
    Stale,
}

/// One call, seen from either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Body bytes that the caller may still send.
    body_credit: u32,
    /// Answer bytes that the instance may still send.
    answer_credit: u32,
    body_ended: bool,
    /// ACCEPT was asked for and `accept` has not come.
    unaccepted: bool,
    /// The instance has said or shown that it works on the call.
    taken: bool,
    answering: bool,
    cancelled: bool,
}

impl Call {
    /// The call that this `invoke` opens.
    ///
    /// # Errors
    /// When its body is longer than the first credit.
    pub const fn open(invoke: Outline) -> Result<Self, Violation> {
        if invoke.amount > INITIAL_CREDIT {
            let Outline { stream, amount: bytes, .. } = invoke;
            return Err(Violation::Credit { stream, bytes, credit: INITIAL_CREDIT });
        }
        Ok(Self {
            body_credit: INITIAL_CREDIT - invoke.amount,
            answer_credit: INITIAL_CREDIT,
            body_ended: invoke.flags.end(),
            unaccepted: invoke.flags.accept(),
            taken: false,
            answering: false,
            cancelled: false,
        })
    }

    /// Body bytes that the caller may send now: none before `accept` where that was asked for, and none after END or `cancel`.
    #[must_use]
    pub const fn body_window(&self) -> u32 {
        if self.unaccepted || self.body_ended || self.cancelled { 0 } else { self.body_credit }
    }

    /// Answer bytes that the instance may send now.
    #[must_use]
    pub const fn answer_window(&self) -> u32 {
        self.answer_credit
    }

    /// Whether the whole body is there.
    #[must_use]
    pub const fn body_ended(&self) -> bool {
        self.body_ended
    }

    /// Whether the head of the answer is there.
    #[must_use]
    pub const fn answering(&self) -> bool {
        self.answering
    }

    /// Whether the caller has given the call up.
    #[must_use]
    pub const fn cancelled(&self) -> bool {
        self.cancelled
    }

    /// Whether the instance may have begun to run it: then a call that is not idempotent must not go elsewhere.
    #[must_use]
    pub const fn accepted(&self) -> bool {
        !self.unaccepted
    }

    /// A frame of the caller.
    ///
    /// # Errors
    /// When it is not legal now; the call is unchanged.
    pub fn from_caller(&mut self, frame: Outline) -> Result<Step, Violation> {
        let Outline { kind, stream, amount, .. } = frame;
        match kind {
            Kind::Data => {
                if self.unaccepted || self.body_ended || self.cancelled {
                    return Err(Violation::UnexpectedInCall { kind, stream });
                }
                self.body_credit = spend(self.body_credit, amount, stream)?;
                self.body_ended = frame.flags.end();
            }
            Kind::Credit => self.answer_credit = give(self.answer_credit, amount, stream)?,
            Kind::Cancel if !self.cancelled => self.cancelled = true,
            _ => return Err(Violation::UnexpectedInCall { kind, stream }),
        }
        Ok(Step::Continue)
    }

    /// A frame of the instance.
    ///
    /// # Errors
    /// When it is not legal now; the call is unchanged.
    pub fn from_instance(&mut self, frame: Outline) -> Result<Step, Violation> {
        let Outline { kind, stream, amount, .. } = frame;
        let over = match kind {
            Kind::Accept if self.unaccepted => {
                (self.unaccepted, self.taken) = (false, true);
                false
            }
            Kind::Answer if !self.answering => {
                self.answer_credit = spend(self.answer_credit, amount, stream)?;
                // Who answers has taken the call.
                (self.answering, self.unaccepted, self.taken) = (true, false, true);
                frame.flags.end()
            }
            Kind::Data if self.answering => {
                self.answer_credit = spend(self.answer_credit, amount, stream)?;
                frame.flags.end()
            }
            Kind::Trailers if self.answering => true,
            Kind::Credit => {
                self.body_credit = give(self.body_credit, amount, stream)?;
                self.taken = true;
                false
            }
            Kind::Error => true,
            Kind::End if self.cancelled => true,
            Kind::Busy if !self.taken => true,
            _ => return Err(Violation::UnexpectedInCall { kind, stream }),
        };
        Ok(if over { Step::Over } else { Step::Continue })
    }
}

fn spend(credit: u32, bytes: u32, stream: u32) -> Result<u32, Violation> {
    credit.checked_sub(bytes).ok_or(Violation::Credit { stream, bytes, credit })
}

fn give(credit: u32, bytes: u32, stream: u32) -> Result<u32, Violation> {
    match credit.checked_add(bytes) {
        Some(sum) if bytes > 0 && sum <= MAX_CREDIT => Ok(sum),
        _ => Err(Violation::CreditGiven { stream, bytes }),
    }
}

/// Where a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was said.
    Opening,
    /// `hello` or `attach` was sent, the answer is out.
    Greeted,
    /// `welcome` was said.
    Open,
    /// Attached: what follows is HTTP, and no frame.
    Raw,
    /// Refused or broken off.
    Closed,
}

/// One connection, seen from either side: feed it every frame in the order this side sends and receives them.
#[derive(Debug, Clone)]
pub struct Connection {
    role: Role,
    phase: Phase,
    /// Number of the last call opened; 0: none.
    last: u32,
    calls: HashMap<u32, Call>,
    loading: bool,
}

impl Connection {
    /// A connection of this role, before its first frame. An instance learns the role from that frame, so it makes this then.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self { role, phase: Phase::Opening, last: 0, calls: HashMap::new(), loading: false }
    }

    /// Where it is.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The call of this number, while it is open.
    #[must_use]
    pub fn call(&self, stream: u32) -> Option<&Call> {
        self.calls.get(&stream)
    }

    /// How many calls are open.
    #[must_use]
    pub fn open_calls(&self) -> usize {
        self.calls.len()
    }

    /// The number that the next `invoke` must have; `None` when they are used up and the caller needs a new connection.
    #[must_use]
    pub const fn next_stream(&self) -> Option<u32> {
        self.last.checked_add(1)
    }

    /// A frame that the caller sends (at the caller: before it writes it; at the instance: when it reads it).
    ///
    /// # Errors
    /// When it is not legal now.
    pub fn from_caller(&mut self, frame: Outline) -> Result<Step, Violation> {
        let Outline { kind, stream, .. } = frame;
        let unexpected = Violation::Unexpected(kind);
        match (kind, self.role, self.phase) {
            (Kind::Hello, Role::Invoke | Role::Control, Phase::Opening)
            | (Kind::Attach, Role::Attach, Phase::Opening) => self.phase = Phase::Greeted,
            (_, Role::Attach, _) | (_, _, Phase::Opening | Phase::Raw | Phase::Closed) => {
                return Err(unexpected);
            }
            (Kind::Ping | Kind::Drain, ..) => {}
            (Kind::Load, Role::Invoke, _) if !self.loading => self.loading = true,
            (Kind::Invoke, Role::Invoke, _) => {
                let expected = self.next_stream().ok_or(Violation::TooManyCalls)?;
                if stream != expected {
                    return Err(Violation::Number { got: stream, expected });
                }
                if self.calls.len() >= MAX_OPEN_CALLS {
                    return Err(Violation::TooManyCalls);
                }
                self.calls.insert(stream, Call::open(frame)?);
                self.last = stream;
            }
            (Kind::Data | Kind::Credit | Kind::Cancel, Role::Invoke, _) => {
                return match self.calls.get_mut(&stream) {
                    Some(call) => call.from_caller(frame),
                    None if (1..=self.last).contains(&stream) => Ok(Step::Stale),
                    None => Err(Violation::UnknownCall { kind, stream }),
                };
            }
            _ => return Err(unexpected),
        }
        Ok(Step::Continue)
    }

    /// A frame that the instance sends (at the instance: before it writes it; at the caller: when it reads it).
    ///
    /// # Errors
    /// When it is not legal now.
    pub fn from_instance(&mut self, frame: Outline) -> Result<Step, Violation> {
        let Outline { kind, stream, .. } = frame;
        match (kind, self.role, self.phase) {
            (_, _, Phase::Opening | Phase::Raw | Phase::Closed) => return Err(Violation::Unexpected(kind)),
            (Kind::Error, ..) if stream == 0 => self.phase = Phase::Closed,
            (Kind::Accept, Role::Attach, Phase::Greeted) if stream == 0 => self.phase = Phase::Raw,
            (_, Role::Attach, _) => return Err(Violation::Unexpected(kind)),
            (Kind::Welcome, _, Phase::Greeted) => self.phase = Phase::Open,
            // Whatever else it is, it comes after `welcome`.
            (_, _, Phase::Greeted) => return Err(Violation::Unexpected(kind)),
            (Kind::Pong, ..)
            | (Kind::Log | Kind::Exit, Role::Control, _)
            | (Kind::Drain, Role::Invoke, _) => {}
            (Kind::Loaded, Role::Invoke, _) if self.loading => self.loading = false,
            (_, Role::Invoke, _) if stream != 0 => {
                let Some(call) = self.calls.get_mut(&stream) else {
                    return Err(Violation::UnknownCall { kind, stream });
                };
                let step = call.from_instance(frame)?;
                if step == Step::Over {
                    self.calls.remove(&stream);
                }
                return Ok(step);
            }
            _ => return Err(Violation::Unexpected(kind)),
        }
        Ok(Step::Continue)
    }
}

#[cfg(test)]
#[path = "sequence_tests.rs"]
mod tests;
