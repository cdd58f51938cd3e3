//! A slot on an instance, or a place in the Revision's queue.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_dispatch::{Admission, Grant, Origin, Placement, Refusal, StartKind, Ticket};
use tokio::sync::oneshot;

use super::revisions::{Instance, Revision, Verdict, now};

/// A request may run.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) slot: Slot,
    /// What it met.
    pub(super) start: StartKind,
    /// How long the start took that it waited for.
    pub(super) init: Duration,
}

/// A request may not run (here).
#[derive(Debug)]
pub(super) enum Denied {
    Refused(Refusal),
    /// The Function has another Revision now.
    Moved,
}

/// A slot in use. Dropping it gives it back: when the instance has said that the call ended, and not before (INV-2).
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) revision: Arc<Revision>,
    pub(super) instance: Arc<Instance>,
    grant: Grant,
    taken: Instant,
    used: bool,
    stuck: bool,
    /// It was given back.
    returned: bool,
}

impl Slot {
    fn take(revision: &Arc<Revision>, placement: Placement<Arc<Instance>>) -> Admitted {
        revision.wake(&placement);
        let Placement { endpoint: instance, grant, start, init, .. } = placement;
        let revision = Arc::clone(revision);
        let slot =
            Self { revision, instance, grant, taken: now(), used: true, stuck: false, returned: false };
        Admitted { slot, start, init }
    }

    /// The call never ran: it does not count as served, and a single-use instance is as good as new.
    pub(super) fn unused(mut self) {
        self.used = false;
    }

    /// The instance has refused the call. Returns when it may take some again, as far as it is known.
    pub(super) fn refused(mut self) -> Option<Instant> {
        self.returned = true;
        self.revision.with(|state, actions| {
            let id = &self.instance.endpoint.instance;
            if self.stuck {
                state.on_unstuck(id, self.grant, actions);
            }
            state.on_refused(now(), id, self.grant, actions)
        })
    }

    /// The call was given up long ago and has not ended. Returns `true` when the instance has no slot left that is not held so; of one that
    /// other gateways use too, that is not for this one to say.
    pub(super) fn stuck(&mut self) -> bool {
        let id = &self.instance.endpoint.instance;
        !std::mem::replace(&mut self.stuck, true)
            && self.revision.with(|state, actions| state.on_stuck(id, self.grant, actions))
    }

    /// When the slot was taken.
    pub(super) fn taken(&self) -> Instant {
        self.taken
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.returned {
            return;
        }
        let now = now();
        let served = self.used.then(|| now.saturating_duration_since(self.taken));
        self.revision.with(|state, actions| {
            let id = &self.instance.endpoint.instance;
            if self.stuck {
                state.on_unstuck(id, self.grant, actions);
            }
            state.on_slot_free(now, id, self.grant, served, actions);
        });
    }
}

/// Takes a slot of `revision`, waiting for one if need be.
///
/// # Cancel safety
/// Dropping the future takes the request out of the queue; a slot that was on its way to it goes to the next.
pub(super) async fn admit(revision: &Arc<Revision>, origin: Origin) -> Result<Admitted, Denied> {
    let mut receiver = None;
    let mut waiting = 0;
    let admission = revision.with(|state, _| {
        let admission = state.on_request(now(), origin, |_| {
            let (sender, waiter) = oneshot::channel();
            receiver = Some(waiter);
            sender
        });
        waiting = state.waiting();
        admission
    });
    let (ticket, expires) = match admission {
        Admission::Forward(placement) => return Ok(Slot::take(revision, placement)),
        Admission::Rejected(refusal) => return Err(Denied::Refused(refusal)),
        Admission::Moved => return Err(Denied::Moved),
        Admission::Enqueued { ticket, expires } => (ticket, expires),
    };
    let receiver = receiver.expect("a request that was queued has made its waiter");
    let mut waiting_request = Waiting { revision, ticket, receiver, settled: false };
    revision.want_capacity(waiting);
    // Boxed: most requests do not wait, and theirs is the size that counts.
    Box::pin(waiting_request.verdict(expires)).await
}

/// A place in the queue; dropping it gives it up.
struct Waiting<'a> {
    revision: &'a Arc<Revision>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Verdict>,
    settled: bool,
}

impl Waiting<'_> {
    async fn verdict(&mut self, mut expires: Instant) -> Result<Admitted, Denied> {
        loop {
            let verdict = tokio::time::timeout_at(expires.into(), &mut self.receiver).await;
            match verdict {
                Ok(verdict) => {
                    self.settled = true;
                    return self.settle(verdict.unwrap_or(Verdict::Moved));
                }
                Err(_) => {
                    // Whoever is due first wakes first; the tick refuses all that are due, or moves our end if the limits have changed.
                    let later = self.revision.with(|state, actions| {
                        state.on_tick(now(), actions);
                        state.expires_at(self.ticket)
                    });
                    if let Some(later) = later {
                        expires = later;
                    }
                }
            }
        }
    }

    fn settle(&self, verdict: Verdict) -> Result<Admitted, Denied> {
        match verdict {
            Verdict::Forward(placement) => Ok(Slot::take(self.revision, placement)),
            Verdict::Refused(refusal) => Err(Denied::Refused(refusal)),
            Verdict::Moved => Err(Denied::Moved),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let waited = self.revision.with(|state, _| state.on_client_gone(now(), self.ticket));
        // Not in the queue any more: the verdict was sent under the lock that we have just held.
        if waited.is_none()
            && let Ok(Verdict::Forward(placement)) = self.receiver.try_recv()
        {
            Slot::take(self.revision, placement).slot.unused();
        }
    }
}
