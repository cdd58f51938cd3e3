//! Which instance takes the next call, and which may be frozen meanwhile.

use std::time::{Duration, Instant};

use hearth_function::InstanceId;

use super::{Dispatch, Instance};
use crate::messages::{StartKind, ToScaler};
use crate::verdicts::{Action, Granted, Placement, Ticket};

/// Up to so many slots an instance is filled before the next is used; beyond, the one with the fewest calls is taken. With few slots per
/// instance the difference in load is small, and full instances let the others become idle and be stopped. The bound is Knative's.
const FIRST_AVAILABLE_MAX_SLOTS: u32 = 3;

impl<W, E: Clone> Dispatch<W, E> {
    /// The scaler would have `instance` frozen if no call has run on it for `idle`. The answer is an action; after
    /// [`ToScaler::Quiet`] the first placement on it is [`StartKind::Paused`]. One that is not known is not in use.
    pub fn on_pause(
        &mut self,
        now: Instant,
        instance: &InstanceId,
        idle: Duration,
        actions: &mut Vec<Action<W, E>>,
    ) {
        let Some(entry) = self.instances.iter_mut().find(|entry| entry.granted.instance == *instance) else {
            return;
        };
        let been = if entry.in_flight > 0 {
            Duration::ZERO
        } else {
            now.saturating_duration_since(entry.idle_since)
        };
        // One that is to go is not worth it; one that was let go before may be frozen by now.
        entry.paused |= entry.in_flight == 0 && been >= idle && !entry.draining;
        let instance = instance.clone();
        actions.push(Action::Tell(if entry.paused {
            ToScaler::Quiet { instance }
        } else {
            ToScaler::InUse { instance, idle: been }
        }));
    }

    /// An instance is to run though nobody calls it. Returns `true` when it may be frozen: the caller thaws it.
    pub fn on_wake(&mut self, instance: &InstanceId) -> bool {
        let entry = self.instances.iter_mut().find(|entry| entry.granted.instance == *instance);
        entry.is_some_and(|entry| std::mem::take(&mut entry.paused))
    }

    /// Whether an instance may be frozen now: it answers nobody.
    #[must_use]
    pub fn is_paused(&self, instance: &InstanceId) -> bool {
        self.position(instance).and_then(|index| self.instances.get(index)).is_some_and(|entry| entry.paused)
    }

    /// The instance that takes the next call. Ties go to the oldest, so that the youngest become idle first. A frozen one is thawed when
    /// the others are half full: before, they serve a call as quickly as it would.
    pub(super) fn pick(&self) -> Option<usize> {
        let awake = self.best(|entry| !entry.paused);
        let room = |(_, entry): (usize, &Instance<E>)| entry.in_flight < entry.granted.slots.div_ceil(2);
        if awake.is_some_and(room) {
            return awake.map(|(index, _)| index);
        }
        self.best(|entry| entry.paused).or(awake).map(|(index, _)| index)
    }

    fn best(&self, of: impl Fn(&Instance<E>) -> bool) -> Option<(usize, &Instance<E>)> {
        let mut free =
            self.instances.iter().enumerate().filter(|(_, entry)| entry.has_free_slot() && of(entry));
        let first = free.next()?;
        if first.1.granted.slots <= FIRST_AVAILABLE_MAX_SLOTS {
            return Some(first);
        }
        Some(free.fold(first, |least, next| if next.1.in_flight < least.1.in_flight { next } else { least }))
    }

    /// Takes a slot; `waited` names the request's ticket if it waited. `index` is from [`Self::pick`].
    pub(super) fn place(&mut self, index: usize, waited: Option<Ticket>) -> Placement<E> {
        let entry = self.instances.get_mut(index).expect("pick returned the index just now");
        let waited_for_it = waited.is_some_and(|ticket| ticket < entry.arrived_at);
        let granted = &entry.granted;
        let (start, init) = if std::mem::take(&mut entry.paused) {
            (StartKind::Paused, Duration::ZERO)
        } else if waited_for_it {
            (granted.start, granted.start_time)
        } else if granted.reserved && !entry.used {
            (StartKind::Reserved, Duration::ZERO)
        } else {
            (StartKind::Warm, Duration::ZERO)
        };
        entry.in_flight += 1;
        entry.used = true;
        self.in_flight += 1;
        let Granted { instance, endpoint, .. } = granted;
        Placement { instance: instance.clone(), grant: entry.grant, endpoint: endpoint.clone(), start, init }
    }
}
