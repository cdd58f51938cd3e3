//! One gateway's view of one Revision: which instance takes a request, and who waits.
//!
//! A slot is one call that an instance may run for this gateway. The scaler grants slots; a request takes one, and gives it back when
//! the instance has said that the call ended. With none free the request waits, in order of arrival, up to a limit and a deadline.
//!
//! ```text
//! on_request ──free slot──▶ Forward ──▶ (the call runs) ──▶ on_slot_free ──▶ Forward the oldest that waits
//!     │                                                        ▲
//!     ├──none free──▶ Enqueued ──on_grant, on_slot_free────────┘
//!     │                  └─────on_tick, on_start_failed──▶ Reject
//!     └──queue full, start failed lately──▶ Rejected
//! ```
//!
//! Invariants, which the property test checks after every event:
//! - no request waits while a slot is free on an instance that is not in doubt and has not refused a call just now;
//! - an instance is never given more calls than its slots, and every slot taken is given back exactly once (INV-1);
//! - requests leave the queue in the order of their arrival, each with one verdict (INV-3);
//! - the queue holds at most `queue_length` new requests (retried and refused ones come on top: they were admitted before, so slots bound them;
//!   INV-4).
//!
//! - an instance that may be frozen runs no call, and whoever gets a slot on it is told to thaw it;
//! - where a share became smaller, no more calls run than was said last ([`ToScaler::Holds`]).
//!
//! `W` is whatever the caller needs to wake a waiting request, `E` whatever it needs to reach an instance; both are only carried.

mod choice;
mod queue;
mod refusals;
mod told;
mod trouble;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_function::{InstanceId, RevisionId};

use crate::load::Meter;
use crate::messages::{Share, StartFailure, ToScaler};
use crate::verdicts::{Action, Admission, Grant, Granted, Origin, Policy, Ticket};

#[derive(Debug)]
struct Instance<E> {
    granted: Granted<E>,
    /// Changes only when the instance is forgotten and granted again.
    grant: Grant,
    in_flight: u32,
    draining: bool,
    /// Whether a call has run on it.
    used: bool,
    /// Since when none does, if none does.
    idle_since: Instant,
    /// It may be frozen: see [`Dispatch::on_pause`].
    paused: bool,
    /// Requests with a smaller ticket were waiting when it came.
    arrived_at: Ticket,
    /// Calls that were given up but have not ended: see [`Dispatch::on_stuck`].
    stuck: u32,
    /// It was asked whether it still answers, and has not answered yet: see [`Dispatch::on_doubt`].
    doubted: bool,
    /// See [`Dispatch::on_refused`].
    refusals: Option<refusals::Refusals>,
    /// Where several gateways share it: the last share.
    share: Option<Share>,
}

impl<E> Instance<E> {
    fn has_free_slot(&self) -> bool {
        let spent = self.granted.single_use && self.used;
        !(self.draining || self.doubted || spent || self.is_closed()) && self.in_flight < self.granted.slots
    }

    /// What the scaler is to know of a share: no more slots than these are used until there are more.
    fn holds(&self) -> Option<ToScaler> {
        let Share { instance, serial, .. } = self.share.as_ref()?;
        Some(ToScaler::Holds {
            instance: instance.clone(),
            slots: self.in_flight.max(self.granted.slots),
            stuck: self.stuck,
            serial: *serial,
        })
    }

    /// Whether it can be expected to take further calls.
    fn stays(&self) -> bool {
        !self.draining && !self.granted.single_use
    }
}

#[derive(Debug)]
struct Waiting<W> {
    ticket: Ticket,
    /// When it first came: the order of the queue.
    arrived: Instant,
    /// Since when it waits: its limits count from here.
    since: Instant,
    waiter: W,
}

/// The state of one Revision on one gateway. See the module's page.
#[derive(Debug)]
pub struct Dispatch<W, E> {
    revision: RevisionId,
    policy: Policy,
    instances: Vec<Instance<E>>,
    waiting: VecDeque<Waiting<W>>,
    next_ticket: u64,
    next_grant: u64,
    in_flight: u32,
    /// The queue length that the scaler knows of; zero while nobody waits.
    told: usize,
    /// Since when the present limit (start without instances, queue with them) counts.
    limit_since: Instant,
    failed: Option<(Instant, Arc<StartFailure>)>,
    retired: bool,
    /// Others wait for what lies idle here: see [`Dispatch::on_scarce`].
    scarce: bool,
    meter: Meter,
}

impl<W, E: Clone> Dispatch<W, E> {
    /// A Revision without instances.
    #[must_use]
    pub fn new(revision: RevisionId, policy: Policy, now: Instant) -> Self {
        Self {
            revision,
            policy,
            instances: Vec::new(),
            waiting: VecDeque::new(),
            next_ticket: 0,
            next_grant: 0,
            in_flight: 0,
            told: 0,
            limit_since: now,
            failed: None,
            retired: false,
            scarce: false,
            meter: Meter::new(now),
        }
    }

    /// Changes the limits, for those that wait too.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// Calls that run.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing is here: no instance, nobody waiting.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.instances.is_empty() && self.waiting.is_empty()
    }

    /// The instances, in the order of their grants: name, how to reach it, calls that run, slots.
    pub fn instances(&self) -> impl Iterator<Item = (&InstanceId, &E, u32, u32)> {
        self.instances.iter().map(|instance| {
            let granted = &instance.granted;
            (&granted.instance, &granted.endpoint, instance.in_flight, granted.slots)
        })
    }

    /// A request has come. `waiter` is made only if it has to wait.
    pub fn on_request(
        &mut self,
        now: Instant,
        origin: Origin,
        waiter: impl FnOnce(Ticket) -> W,
    ) -> Admission<E> {
        if origin == Origin::New {
            self.meter.arrived += 1;
        }
        if let Origin::Untaken { since, .. } = origin
            && self.expires(since) <= now
        {
            // Else instances that refuse in turn, or are there and cannot be reached, could send it round for ever.
            self.meter.refused += 1;
            return Admission::Rejected(self.too_late(now, since));
        }
        if let Some(index) = self.pick() {
            let placement = self.place(index, None);
            self.meter.set(now, self.level());
            return Admission::Forward(placement);
        }
        if self.retired {
            return Admission::Moved;
        }
        if let Some(refusal) = self.refuse(now, origin) {
            self.meter.refused += 1;
            return Admission::Rejected(refusal);
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        // The limits of a retried request start again: its first wait was for another instance.
        let (arrived, since) = match origin {
            Origin::New => (now, now),
            Origin::Retry(arrived) => (arrived, now),
            Origin::Untaken { arrived, since } => (arrived, since),
        };
        // Threads take their `now` before they take the lock: the newest goes last, however its clock stood.
        let at = match origin {
            Origin::New => self.waiting.len(),
            _ => self.waiting.partition_point(|other| other.arrived <= arrived),
        };
        self.waiting.insert(at, Waiting { ticket, arrived, since, waiter: waiter(ticket) });
        self.meter.set(now, self.level());
        Admission::Enqueued { ticket, expires: self.expires(since) }
    }

    /// A call on `instance` has ended, or was never sent, and its slot is free. `served`: how long it ran; `None` when it never ran.
    /// An instance that is no longer known, or was granted anew since, is no error: the slots of that grant went with it.
    pub fn on_slot_free(
        &mut self,
        now: Instant,
        instance: &InstanceId,
        grant: Grant,
        served: Option<Duration>,
        actions: &mut Vec<Action<W, E>>,
    ) {
        if let Some(served) = served {
            self.meter.completed += 1;
            self.meter.service_time += served;
        }
        let Some(index) = self.position(instance) else { return };
        let Some(entry) = self.instances.get_mut(index).filter(|entry| entry.grant == grant) else { return };
        let beyond = entry.in_flight > entry.granted.slots || entry.draining;
        let spent = entry.granted.single_use && served.is_some();
        entry.in_flight = entry.in_flight.saturating_sub(1);
        // Of one that is spent nobody is to believe, not even for a moment, that a slot is free.
        if beyond && !spent {
            actions.extend(entry.holds().map(Action::Tell));
        }
        entry.idle_since = now;
        if let Some(served) = served {
            entry.has_room(now, served);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        if spent {
            self.remove(now, index);
            actions.push(Action::Tell(ToScaler::Spent { instance: instance.clone() }));
        } else if entry.granted.single_use {
            entry.used = false;
        }
        self.drained(now, instance, actions);
        self.feed(now, actions);
        self.spare(actions);
    }

    /// The scaler grants slots on an instance, or changes how many.
    pub fn on_grant(&mut self, now: Instant, granted: Granted<E>, actions: &mut Vec<Action<W, E>>) {
        self.failed = None;
        if let Some(entry) =
            self.instances.iter_mut().find(|entry| entry.granted.instance == granted.instance)
        {
            // One that was to go and comes back may be reached in a new way.
            (entry.granted.slots, entry.granted.endpoint) = (granted.slots, granted.endpoint);
            (entry.draining, entry.refusals) = (false, None);
        } else {
            let had = self.can_wait_for_slots();
            let arrived_at = Ticket(self.next_ticket);
            let grant = Grant(self.next_grant);
            self.next_grant += 1;
            self.instances.push(Instance {
                granted,
                grant,
                in_flight: 0,
                draining: false,
                used: false,
                idle_since: now,
                paused: false,
                arrived_at,
                stuck: 0,
                doubted: false,
                refusals: None,
                share: None,
            });
            self.limit_changed(now, had);
        }
        self.feed(now, actions);
    }

    /// Of an instance that several gateways share, this one may use more or fewer slots from now on. Calls that run beyond them end as
    /// they would; each end is told.
    pub fn on_share(&mut self, now: Instant, share: Share, actions: &mut Vec<Action<W, E>>) {
        let entry = self.instances.iter_mut().find(|entry| entry.granted.instance == share.instance);
        let Some(entry) = entry else {
            let Share { instance, serial, .. } = share;
            return actions.push(Action::Tell(ToScaler::Holds { instance, slots: 0, stuck: 0, serial }));
        };
        entry.granted.slots = share.slots;
        entry.refusals = None;
        entry.share = Some(share);
        actions.extend(entry.holds().map(Action::Tell));
        self.feed(now, actions);
        self.spare(actions);
    }

    /// No new calls to `instance`. Answers `Drained` at once when none runs there, and for an instance that is not known.
    pub fn on_revoke(&mut self, now: Instant, instance: &InstanceId, actions: &mut Vec<Action<W, E>>) {
        let had = self.can_wait_for_slots();
        match self.instances.iter_mut().find(|entry| entry.granted.instance == *instance) {
            Some(entry) => {
                entry.draining = true;
                if entry.in_flight > 0 {
                    actions.extend(entry.holds().map(Action::Tell));
                }
            }
            None => actions.push(Action::Tell(ToScaler::Drained { instance: instance.clone() })),
        }
        self.limit_changed(now, had);
        self.drained(now, instance, actions);
    }

    fn level(&self) -> u32 {
        self.in_flight.saturating_add(count(self.waiting.len()))
    }

    fn position(&self, instance: &InstanceId) -> Option<usize> {
        self.instances.iter().position(|entry| entry.granted.instance == *instance)
    }

    fn granted(&mut self, instance: &InstanceId, grant: Grant) -> Option<&mut Instance<E>> {
        self.instances.iter_mut().find(|entry| entry.grant == grant && entry.granted.instance == *instance)
    }

    /// Gives free slots to those that wait.
    fn feed(&mut self, now: Instant, actions: &mut Vec<Action<W, E>>) {
        while !self.waiting.is_empty() {
            let Some(index) = self.pick() else { break };
            let Some(Waiting { waiter, ticket, .. }) = self.waiting.pop_front() else { break };
            let placement = self.place(index, Some(ticket));
            actions.push(Action::Forward { waiter, placement });
        }
        self.queue_shrank(now);
    }

    fn drained(&mut self, now: Instant, instance: &InstanceId, actions: &mut Vec<Action<W, E>>) {
        let Some(index) = self.position(instance) else { return };
        if self.instances.get(index).is_some_and(|entry| entry.draining && entry.in_flight == 0) {
            self.remove(now, index);
            actions.push(Action::Tell(ToScaler::Drained { instance: instance.clone() }));
        }
    }

    fn remove(&mut self, now: Instant, index: usize) -> Instance<E> {
        let had = self.can_wait_for_slots();
        let entry = self.instances.remove(index);
        self.limit_changed(now, had);
        entry
    }
}

/// A queue length as the messages carry it.
fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod model;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests;
