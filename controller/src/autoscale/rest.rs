//! Which idle instances are frozen: pure. Freezing frees the cpu time that an idle runtime uses (timers, garbage collection, the user's own
//! loops), not its memory; the request that thaws it loses a fraction of a millisecond.
//!
//! ```text
//!           due            Quiet               frozen
//!  Awake ────────► Asked ────────► Freezing ────────────► Paused
//!    ▲               │ InUse          │ not frozen          │
//!    └───────────────┴────────────────┴──────────── Waking ◄┘  (Resumed, from any)
//!                                                 reserved
//! ```

use std::time::Duration;

use hearth_function::InstanceId;
use tokio::time::Instant;

/// Whether an instance rests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// It runs.
    #[default]
    Awake,
    /// The gateway was asked whether it is idle.
    Asked {
        /// Of which announcement: see [`crate::pool::Freezer::want`].
        round: u64,
    },
    /// It is being frozen.
    Freezing {
        /// As above: what is heard of an earlier one counts no more.
        round: u64,
    },
    /// It stands still.
    Paused,
    /// The gateway was told to have it run again.
    Waking,
}

/// An instance that serves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sleeper<'a> {
    pub(super) id: &'a InstanceId,
    pub(super) rest: Rest,
    /// Since when no call was seen on it; `None` while one is.
    pub(super) idle_since: Option<Instant>,
    pub(super) began: Instant,
}

/// Which of a Revision's instances are to be frozen now: those that have been idle for `after`, but so many stay awake as are reserved, the
/// oldest first.
pub(super) fn due(sleepers: &[Sleeper<'_>], after: Duration, reserved: u32, now: Instant) -> Vec<InstanceId> {
    let mut awake: Vec<&Sleeper<'_>> =
        sleepers.iter().filter(|sleeper| sleeper.rest == Rest::Awake).collect();
    awake.sort_by_key(|sleeper| (sleeper.began, sleeper.id));
    let idle = |sleeper: &Sleeper<'_>| {
        sleeper.idle_since.is_some_and(|since| now.saturating_duration_since(since) >= after)
    };
    let kept = usize::try_from(reserved).unwrap_or(usize::MAX);
    awake.into_iter().skip(kept).filter(|sleeper| idle(sleeper)).map(|sleeper| sleeper.id.clone()).collect()
}

/// Which of a Revision's instances are to run again: when fewer are awake than are reserved, the oldest of those that stand still.
pub(super) fn to_wake(sleepers: &[Sleeper<'_>], reserved: u32) -> Vec<InstanceId> {
    let awake = sleepers.iter().filter(|sleeper| matches!(sleeper.rest, Rest::Awake | Rest::Waking)).count();
    let lacking = usize::try_from(reserved).unwrap_or(usize::MAX).saturating_sub(awake);
    let mut paused: Vec<&Sleeper<'_>> =
        sleepers.iter().filter(|sleeper| sleeper.rest == Rest::Paused).collect();
    paused.sort_by_key(|sleeper| (sleeper.began, sleeper.id));
    paused.into_iter().take(lacking).map(|sleeper| sleeper.id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_are_frozen_but_for_the_reserved() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let names: Vec<InstanceId> = (0..5).map(|n| InstanceId::parse(&format!("i{n}")).unwrap()).collect();
        let sleeper = |n: usize, rest, idle_since, began| Sleeper { id: &names[n], rest, idle_since, began };
        let sleepers = [
            sleeper(0, Rest::Awake, Some(at(0)), at(0)),
            sleeper(1, Rest::Awake, Some(at(5)), at(1)),
            sleeper(2, Rest::Awake, None, at(2)),
            sleeper(3, Rest::Paused, Some(at(0)), at(3)),
            sleeper(4, Rest::Freezing { round: 1 }, Some(at(0)), at(4)),
        ];
        let due = |reserved, second| due(&sleepers, Duration::from_secs(10), reserved, at(second));
        assert_eq!(due(0, 9), []);
        assert_eq!(due(0, 10), names[..1]);
        assert_eq!(due(0, 15), names[..2]);
        assert_eq!(due(1, 15), names[1..2]);
        assert_eq!(due(2, 99), []);
    }

    #[test]
    fn the_oldest_of_those_that_stand_still_run_again_when_they_are_reserved() {
        let start = Instant::now();
        let names: Vec<InstanceId> = (0..4).map(|n| InstanceId::parse(&format!("i{n}")).unwrap()).collect();
        let began = |n: u64| start + Duration::from_secs(n);
        let sleeper = |n: usize, rest, began| Sleeper { id: &names[n], rest, idle_since: None, began };
        let sleepers = [
            sleeper(0, Rest::Awake, began(0)),
            sleeper(1, Rest::Paused, began(3)),
            sleeper(2, Rest::Paused, began(2)),
            sleeper(3, Rest::Freezing { round: 1 }, began(1)),
        ];
        assert_eq!(to_wake(&sleepers, 1), []);
        assert_eq!(to_wake(&sleepers, 2), [names[2].clone()]);
        assert_eq!(to_wake(&sleepers, 9), [names[2].clone(), names[1].clone()]);
        // Who was told so already is not told again.
        let mut sleepers = sleepers;
        sleepers[2].rest = Rest::Waking;
        assert_eq!(to_wake(&sleepers, 2), []);
        assert_eq!(to_wake(&sleepers, 9), [names[1].clone()]);
    }
}
