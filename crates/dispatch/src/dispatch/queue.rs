//! Who waits, how long, and how it ends other than by a slot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Dispatch, Instance, Waiting};
use crate::messages::StartFailure;
use crate::verdicts::{Action, Origin, Refusal, Ticket};

impl<W, E: Clone> Dispatch<W, E> {
    /// A start failed and none is under way. Whoever waits fails now, unless an instance is there whose slots it can wait for; and so does
    /// what comes in the next `retry_after`.
    pub fn on_start_failed(
        &mut self,
        now: Instant,
        failure: StartFailure,
        retry_after: Duration,
        actions: &mut Vec<Action<W, E>>,
    ) {
        let failure = Arc::new(failure);
        self.failed = Some((now + retry_after, Arc::clone(&failure)));
        if self.can_wait_for_slots() {
            return;
        }
        self.meter.refused += self.waiting.len() as u64;
        for Waiting { waiter, .. } in self.waiting.drain(..) {
            let refusal = Refusal::StartFailed { failure: Arc::clone(&failure), retry_after };
            actions.push(Action::Reject { waiter, refusal });
        }
        self.queue_shrank(now);
    }

    /// Time has passed: instances that had refused a call take some again, and those that have waited too long are refused. To be called when
    /// the earliest `expires` is reached, and what [`Dispatch::on_refused`] returned.
    pub fn on_tick(&mut self, now: Instant, actions: &mut Vec<Action<W, E>>) {
        if self.open(now) {
            self.feed(now, actions);
            self.spare(actions);
        }
        // A retried request stands before others whose limits began earlier: all have to be looked at.
        let mut at = 0;
        while let Some(waiting) = self.waiting.get(at) {
            if self.expires(waiting.since) > now {
                at += 1;
                continue;
            }
            let Some(Waiting { waiter, since, .. }) = self.waiting.remove(at) else { break };
            let refusal = self.too_late(now, since);
            self.meter.refused += 1;
            actions.push(Action::Reject { waiter, refusal });
        }
        self.queue_shrank(now);
    }

    /// The client of a waiting request has gone. Returns its waiter, or `None` when it does not wait any more: then its verdict is on the
    /// way, and if that is a placement its slot must be given back.
    pub fn on_client_gone(&mut self, now: Instant, ticket: Ticket) -> Option<W> {
        let at = self.waiting.iter().position(|waiting| waiting.ticket == ticket)?;
        let waiting = self.waiting.remove(at)?;
        self.queue_shrank(now);
        Some(waiting.waiter)
    }

    /// When the wait of a request would end, as things stand; `None` when it does not wait any more.
    #[must_use]
    pub fn expires_at(&self, ticket: Ticket) -> Option<Instant> {
        self.waiting
            .iter()
            .find(|waiting| waiting.ticket == ticket)
            .map(|waiting| self.expires(waiting.since))
    }

    /// The Function has another Revision now: whoever waits goes there, and so does who comes and finds no slot free.
    pub fn retire(&mut self, now: Instant, actions: &mut Vec<Action<W, E>>) {
        self.retired = true;
        actions.extend(self.waiting.drain(..).map(|waiting| Action::Move { waiter: waiting.waiter }));
        self.queue_shrank(now);
    }

    /// The Revision serves (again).
    pub fn revive(&mut self) {
        self.retired = false;
    }

    /// Whether there is an instance whose slots come free again, so that waiting is a matter of the queue and not of a start.
    pub(super) fn can_wait_for_slots(&self) -> bool {
        self.instances.iter().any(Instance::stays)
    }

    /// The limit on waiting starts anew when the first instance has come or the last has gone.
    pub(super) fn limit_changed(&mut self, now: Instant, had: bool) {
        if had != self.can_wait_for_slots() {
            self.limit_since = now;
        }
    }

    /// When a wait that began at `since` ends. Whatever happens in between, nobody waits longer than both limits together.
    pub(super) fn expires(&self, since: Instant) -> Instant {
        let limit = if self.can_wait_for_slots() { self.policy.queue } else { self.policy.start };
        let in_all = since + self.policy.queue + self.policy.start;
        (since.max(self.limit_since) + limit).min(in_all)
    }

    /// Why a wait that began at `since` is over.
    pub(super) fn too_late(&self, now: Instant, since: Instant) -> Refusal {
        let waited = now.saturating_duration_since(since);
        if self.can_wait_for_slots() {
            Refusal::QueueTimeout { waited }
        } else {
            Refusal::StartTimeout { waited }
        }
    }

    pub(super) fn refuse(&self, now: Instant, origin: Origin) -> Option<Refusal> {
        if let Some((until, failure)) = &self.failed
            && now < *until
            && !self.can_wait_for_slots()
        {
            let retry_after = until.saturating_duration_since(now);
            return Some(Refusal::StartFailed { failure: Arc::clone(failure), retry_after });
        }
        let limit = self.policy.queue_length;
        (origin == Origin::New && self.waiting.len() >= limit).then_some(Refusal::QueueFull { limit })
    }

    pub(super) fn queue_shrank(&mut self, now: Instant) {
        // From here on the scaler hears again when the queue grows beyond what is left.
        self.told = self.told.min(self.waiting.len());
        self.meter.set(now, self.level());
    }
}
