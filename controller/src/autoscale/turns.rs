//! Who may use the cores now: starts out of a pool take turns, and what nobody waits for comes after them. Books only, no effects.
//!
//! A start out of a pool is a few milliseconds of work. Six at once on two cores would all be as late as the last; in turns, the first are
//! not. A turn is over when the first call is, or [`FIRST_CALL`] after the instance is Ready; and after [`TURN`] in any case: code that
//! waits for something else while it loads (a database) is not to hold up the next.
//!
//! Filling pools and taking away what has served can wait for a moment: until no turn was taken for [`REST`], but no longer than
//! [`LONGEST`]. Under a load without any pause they go on beside it.

use std::collections::VecDeque;
use std::time::Duration;

use hearth_function::InstanceId;
use tokio::time::Instant;

/// How long a start out of a pool may have a turn: some three times what a small function takes.
const TURN: Duration = Duration::from_millis(10);

/// What the first call of an instance takes, as a rule, from Ready to its answer.
const FIRST_CALL: Duration = Duration::from_millis(2);

/// After the last turn: the next request of a burst may be on its way.
const REST: Duration = Duration::from_millis(2);

/// What nobody waits for is put off for so long at most.
const LONGEST: Duration = Duration::from_millis(100);

/// See the module's page.
#[derive(Debug)]
pub(super) struct Turns {
    /// Turns at a time.
    most: usize,
    /// Instances that have a turn, and when each is over at the latest.
    taken: VecDeque<(InstanceId, Instant)>,
    /// Until when nothing else begins.
    rest: Option<Instant>,
    /// Since when something is put off.
    put_off: Option<Instant>,
}

impl Turns {
    /// One more turn at a time than there are cores: each also waits now and then, for another process to be woken.
    pub(super) fn new(cores: usize) -> Self {
        Self { most: cores.saturating_add(1), taken: VecDeque::new(), rest: None, put_off: None }
    }

    /// Whether one more start may have a turn.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.taken.iter().filter(|(_, over)| *over > now).count() < self.most
    }

    /// A start begins.
    pub(super) fn take(&mut self, instance: InstanceId, now: Instant) {
        self.taken.retain(|(_, over)| *over > now);
        self.taken.push_back((instance, now + TURN));
        self.rest = Some(now + TURN + REST);
    }

    /// An instance is Ready. One that had no turn changes nothing, here and below.
    pub(super) fn ready(&mut self, instance: &InstanceId, now: Instant) {
        if let Some((_, over)) = self.taken.iter_mut().find(|(other, _)| other == instance) {
            *over = (*over).min(now + FIRST_CALL);
            self.set_rest(now);
        }
    }

    /// An instance has had its call, or is no more.
    pub(super) fn done(&mut self, instance: &InstanceId, now: Instant) {
        let before = self.taken.len();
        self.taken.retain(|(other, _)| other != instance);
        if self.taken.len() < before {
            self.set_rest(now);
        }
    }

    fn set_rest(&mut self, now: Instant) {
        let last = self.taken.iter().map(|(_, over)| *over).max();
        self.rest = Some(last.unwrap_or(now).max(now) + REST);
    }

    /// Whether what nobody waits for may go on. While it may not, [`Turns::wake`] says when to ask again.
    pub(super) fn leave_time(&mut self, now: Instant) -> bool {
        if self.rest.is_none_or(|rest| rest <= now) {
            self.put_off = None;
            return true;
        }
        now.saturating_duration_since(*self.put_off.get_or_insert(now)) >= LONGEST
    }

    /// When the answers above may be others, though nothing happens.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let turns = self.taken.iter().map(|(_, over)| *over);
        let ends = turns.chain(self.rest).chain(self.put_off.map(|since| since + LONGEST));
        ends.filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> InstanceId {
        InstanceId::parse(&format!("i{number}")).unwrap()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn one_more_starts_at_once_than_there_are_cores() {
        let start = Instant::now();
        let mut turns = Turns::new(2);
        for number in 0..3 {
            assert!(turns.is_free(start));
            turns.take(id(number), start);
        }
        assert!(!turns.is_free(start));
        turns.done(&id(7), start);
        assert!(!turns.is_free(start), "another's end frees nothing");
        turns.done(&id(0), start + MS);
        assert!(turns.is_free(start + MS));
    }

    #[test]
    fn a_turn_lasts_until_the_first_call_should_be_over() {
        let start = Instant::now();
        let mut turns = Turns::new(0);
        turns.take(id(0), start);
        turns.ready(&id(0), start + MS);
        let over = start + MS + FIRST_CALL;
        assert_eq!(turns.wake(start + MS), Some(over));
        assert!(!turns.is_free(over - MS) && turns.is_free(over));
    }

    #[test]
    fn a_load_that_takes_long_does_not_hold_up_the_next() {
        let start = Instant::now();
        let mut turns = Turns::new(0);
        turns.take(id(0), start);
        assert!(!turns.is_free(start + TURN - MS) && turns.is_free(start + TURN));
        turns.ready(&id(0), start + TURN - MS);
        assert!(turns.is_free(start + TURN), "and Ready does not make it longer");
    }

    #[test]
    fn what_nobody_waits_for_comes_after_the_last_turn() {
        let start = Instant::now();
        let mut turns = Turns::new(1);
        assert!(turns.leave_time(start));
        turns.take(id(0), start);
        turns.take(id(1), start);
        turns.done(&id(0), start + MS);
        assert!(!turns.leave_time(start + 4 * MS), "one has a turn");
        turns.done(&id(1), start + 4 * MS);
        assert_eq!(turns.wake(start + 4 * MS), Some(start + 4 * MS + REST));
        assert!(!turns.leave_time(start + 5 * MS) && turns.leave_time(start + 4 * MS + REST));
    }

    #[test]
    fn and_is_not_put_off_for_ever() {
        let start = Instant::now();
        let mut turns = Turns::new(1);
        let (mut now, mut number) = (start, 0);
        while now < start + LONGEST {
            turns.take(id(number), now);
            assert!(!turns.leave_time(now), "at {:?}", now - start);
            now += 5 * MS;
            turns.done(&id(number), now);
            number += 1;
        }
        assert!(turns.leave_time(now));
    }
}
