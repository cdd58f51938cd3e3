//! Instances that refuse calls for want of room.
//!
//! Slots are there so that none does. Two gateways may believe to have the same slot for a while, as after a controller and the connections to it
//! were lost together, and an instance that was told to end from outside takes nothing any more before the gateway hears of it. Whoever refuses
//! one call would refuse the next: such an instance is closed, as if it had no slot free, until one of its calls has ended, its slots are dealt
//! out anew, or a moment is over. Calls go elsewhere meanwhile or wait in the queue, those that it refused before all that came later.

use std::time::{Duration, Instant};

use hearth_function::InstanceId;

use super::{Dispatch, Instance};
use crate::verdicts::{Action, Grant};

/// How long an instance is closed that refuses for the first time since it took a call; each further time it is twice as long.
const SHORTEST: Duration = Duration::from_millis(10);

/// The longest that it is.
const LONGEST: Duration = Duration::from_millis(250);

/// What an instance has refused since it took a call last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusals {
    /// How often it was closed for that.
    times: u32,
    last: Instant,
    /// Until when it is closed, while it is.
    until: Option<Instant>,
}

fn closed_for(times: u32) -> Duration {
    SHORTEST.saturating_mul(1 << times.saturating_sub(1).min(8)).min(LONGEST)
}

impl<E> Instance<E> {
    /// It gets no calls because it has refused one.
    pub(super) fn is_closed(&self) -> bool {
        self.refusals.is_some_and(|refusals| refusals.until.is_some())
    }

    /// Returns when it opens. What it refuses while it is closed was sent before, and is no news.
    fn refuse(&mut self, now: Instant) -> Instant {
        let times = match self.refusals {
            Some(Refusals { until: Some(until), .. }) => return until,
            Some(Refusals { times, .. }) => times.saturating_add(1),
            None => 1,
        };
        let until = now + closed_for(times);
        self.refusals = Some(Refusals { times, last: now, until: Some(until) });
        until
    }

    /// A call that ran on it for so long has ended: it has room. If the call began after it refused one, that is over.
    pub(super) fn has_room(&mut self, now: Instant, served: Duration) {
        self.refusals =
            self.refusals.filter(|refusals| now.saturating_duration_since(refusals.last) <= served);
        if let Some(refusals) = &mut self.refusals {
            refusals.until = None;
        }
    }
}

impl<W, E: Clone> Dispatch<W, E> {
    /// The instance has refused a call before anything ran: it was busier than was known here, or is to end. Its slot is free and of no use
    /// until the time that is returned, when [`Dispatch::on_tick`] is due. The call comes again by [`Dispatch::on_request`], as
    /// [`Origin::Untaken`](crate::Origin::Untaken).
    pub fn on_refused(
        &mut self,
        now: Instant,
        instance: &InstanceId,
        grant: Grant,
        actions: &mut Vec<Action<W, E>>,
    ) -> Option<Instant> {
        let opens = self.granted(instance, grant).map(|entry| entry.refuse(now));
        self.on_slot_free(now, instance, grant, None, actions);
        opens
    }

    /// Opens those whose time is over; whether there are any.
    pub(super) fn open(&mut self, now: Instant) -> bool {
        let mut opened = false;
        for refusals in self.instances.iter_mut().filter_map(|entry| entry.refusals.as_mut()) {
            if refusals.until.is_some_and(|until| until <= now) {
                refusals.until = None;
                opened = true;
            }
        }
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_that_refuses_again_and_again_is_closed_for_ever_longer_up_to_a_limit() {
        let times: Vec<_> = (1..9).map(|times| closed_for(times).as_millis()).collect();
        assert_eq!(times, [10, 20, 40, 80, 160, 250, 250, 250]);
        assert_eq!(closed_for(u32::MAX), LONGEST);
    }
}
