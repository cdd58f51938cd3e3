//! Which instances a scale-in puts out.
//!
//! Those whose end costs least: starts that are not over before instances that serve, idle ones before busy ones. Among equals the youngest
//! goes: an old instance has warm caches and compiled code. A busy one is not cut off: it drains.

use std::cmp::Reverse;
use std::time::Instant;

/// An instance that may be put out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<Id> {
    /// Which.
    pub id: Id,
    /// What it does.
    pub occupation: Occupation,
    /// When its start began.
    pub started: Instant,
}

/// What an instance does. The order is that in which instances are put out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Occupation {
    /// It is not up yet.
    Starting,
    /// It runs no call.
    Idle,
    /// It runs calls: the fewer, the sooner it is drained.
    Busy {
        /// How many.
        calls: u32,
    },
}

/// Chooses `count` of `candidates`, or all of them when they are fewer.
#[must_use]
pub fn choose<Id: Clone + Ord>(candidates: &[Candidate<Id>], count: usize) -> Vec<Id> {
    let mut order: Vec<&Candidate<Id>> = candidates.iter().collect();
    order.sort_by(|a, b| {
        let key = |candidate: &Candidate<Id>| (candidate.occupation, Reverse(candidate.started));
        // The name decides at last, so that the choice is the same whatever the order of the candidates.
        key(a).cmp(&key(b)).then_with(|| a.id.cmp(&b.id))
    });
    order.into_iter().take(count).map(|candidate| candidate.id.clone()).collect()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_costs_least_goes_first() {
        let then = Instant::now();
        let candidate = |id, occupation, second| Candidate {
            id,
            occupation,
            started: then + Duration::from_secs(second),
        };
        let candidates = [
            candidate("busy-old", Occupation::Busy { calls: 1 }, 0),
            candidate("busy-young", Occupation::Busy { calls: 1 }, 9),
            candidate("busier", Occupation::Busy { calls: 2 }, 9),
            candidate("idle-old", Occupation::Idle, 1),
            candidate("idle-young", Occupation::Idle, 5),
            candidate("starting-old", Occupation::Starting, 10),
            candidate("starting-young", Occupation::Starting, 11),
        ];
        let order =
            ["starting-young", "starting-old", "idle-young", "idle-old", "busy-young", "busy-old", "busier"];
        assert_eq!(choose(&candidates, 7), order);
        assert_eq!(choose(&candidates, 3), order[..3]);
        assert_eq!(choose(&candidates, 99).len(), 7);
        let mut reversed = candidates;
        reversed.reverse();
        assert_eq!(choose(&reversed, 7), order);
    }
}
