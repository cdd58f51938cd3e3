//! Who leads: pure.

use std::time::Duration;

use tokio::time::Instant;

use super::Identity;

/// A request that the API server takes longer for has failed.
const REQUEST: Duration = Duration::from_secs(3);

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A Lease that nobody renews is free after it.
    pub duration: Duration,
}

impl Timing {
    /// From one renewal to the next: one that fails can be repeated before the deadline.
    #[must_use]
    pub fn renew_every(self) -> Duration {
        self.duration / 4
    }

    /// A request that takes longer has failed: one that hangs leaves time for another before the deadline.
    #[must_use]
    pub fn request(self) -> Duration {
        ((self.deadline() - self.renew_every()) / 2).min(REQUEST)
    }

    /// After so long without a renewal the holder gives up; the rest of the duration is for what it has under way to end.
    #[must_use]
    pub fn deadline(self) -> Duration {
        self.duration * 2 / 3
    }
}

/// A Lease that one Hearth has given back, or let run out, another takes only after so long: a new version or another node takes less.
pub const STRANGERS: Duration = Duration::from_secs(90);

/// The Lease as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Nobody: it was given back.
    pub(super) holder: Option<String>,
    /// When this form of it was first seen.
    pub(super) since: Instant,
    /// How long it is good for, as it says.
    pub(super) duration: Duration,
    /// Whether it is, or was last, of a Hearth with another cluster key.
    pub(super) is_strange: bool,
}

impl Seen {
    /// The same after the Lease was deleted. Whoever held it does not know of that before his next renewal, and works until then.
    pub(super) fn vanished(self) -> Self {
        // Whoever deletes the Lease of another Hearth says that there is none.
        Self { is_strange: false, ..self }
    }

    /// When somebody else than the holder may take it.
    fn free_at(&self) -> Instant {
        let held = if self.holder.is_some() { self.duration } else { Duration::ZERO };
        self.since + held + if self.is_strange { STRANGERS } else { Duration::ZERO }
    }
}

/// What this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It waits.
    Standby,
    /// It leads, and began so long ago to renew for the last time with success.
    Leader { renewed: Instant },
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Write oneself into the Lease.
    Take,
    /// The same again.
    Renew,
    /// Nothing before this time, unless the Lease changes.
    Wait(Instant),
    /// Stop leading at once.
    GiveUp(Lost),
}

/// Why a leader is none any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The API server did not take a renewal in time.
    #[error("the lease could not be renewed for {} s", .0.as_secs())]
    NotRenewed(Duration),
    /// Somebody else holds it.
    #[error("{0} holds the lease now")]
    Taken(String),
}

/// The next step. A Lease that there is none of, and never was, has no holder.
pub(super) fn decide(me: &Identity, timing: Timing, role: Role, seen: &Seen, now: Instant) -> Step {
    let holder = seen.holder.as_deref();
    match role {
        Role::Leader { renewed } => match holder {
            Some(other) if other != me.holder() => Step::GiveUp(Lost::Taken(other.to_owned())),
            _ if now.duration_since(renewed) >= timing.deadline() => {
                Step::GiveUp(Lost::NotRenewed(now.duration_since(renewed)))
            }
            _ if now >= renewed + timing.renew_every() => Step::Renew,
            _ => Step::Wait(renewed + timing.renew_every()),
        },
        Role::Standby => match holder {
            Some(holder) if holder == me.holder() || me.is_predecessor(holder) => Step::Take,
            _ if now >= seen.free_at() => Step::Take,
            _ => Step::Wait(seen.free_at()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing { duration: Duration::from_secs(12) };

    fn me() -> Identity {
        Identity { place: "pod-a".to_owned(), run: "2".to_owned() }
    }

    fn seen(holder: Option<&str>, since: Instant) -> Seen {
        Seen { holder: holder.map(str::to_owned), since, duration: TIMING.duration, is_strange: false }
    }

    #[test]
    fn a_lease_of_another_hearth_is_left_to_it_for_a_while_after_it_is_free() {
        let now = Instant::now();
        let standby = |seen: &Seen, at| decide(&me(), TIMING, Role::Standby, seen, at);
        let held = Seen { is_strange: true, ..seen(Some("pod-b_1"), now) };
        assert_eq!(standby(&held, now + TIMING.duration), Step::Wait(now + TIMING.duration + STRANGERS));
        let given_back = Seen { is_strange: true, ..seen(None, now) };
        assert_eq!(standby(&given_back, now), Step::Wait(now + STRANGERS));
        assert_eq!(standby(&given_back, now + STRANGERS), Step::Take);
    }

    #[test]
    fn a_free_lease_is_taken_at_once_and_a_held_one_when_it_has_run_out() {
        let now = Instant::now();
        let standby = |seen: &Seen, at| decide(&me(), TIMING, Role::Standby, seen, at);
        assert_eq!(standby(&seen(None, now), now), Step::Take);
        let held = seen(Some("pod-b_1"), now);
        assert_eq!(standby(&held, now), Step::Wait(now + TIMING.duration));
        assert_eq!(standby(&held, now + TIMING.duration), Step::Take);
        // An earlier process in the same Pod is no more; and an answer to our own take may have been lost.
        assert_eq!(standby(&seen(Some("pod-a_1"), now), now), Step::Take);
        assert_eq!(standby(&seen(Some("pod-a_2"), now), now), Step::Take);
        assert_eq!(standby(&seen(Some("pod-ab_1"), now), now), Step::Wait(now + TIMING.duration));
    }

    #[test]
    fn a_lease_that_was_deleted_is_free_when_it_would_have_run_out() {
        let now = Instant::now();
        let standby = |seen: Seen, at| decide(&me(), TIMING, Role::Standby, &seen.vanished(), at);
        let held = seen(Some("pod-b_1"), now);
        assert_eq!(standby(held.clone(), now), Step::Wait(now + TIMING.duration));
        assert_eq!(standby(held.clone(), now + TIMING.duration), Step::Take);
        let strange = Seen { is_strange: true, ..held };
        assert_eq!(standby(strange, now + TIMING.duration), Step::Take, "nobody has it any more");
        assert_eq!(standby(seen(None, now), now), Step::Take, "it was given back");
        assert_eq!(standby(seen(Some("pod-a_1"), now), now), Step::Take, "an earlier process of this Pod");
    }

    #[test]
    fn a_leader_renews_in_time_and_gives_up_before_others_may_take_over() {
        let renewed = Instant::now();
        let leader = |holder: &str, at| {
            decide(&me(), TIMING, Role::Leader { renewed }, &seen(Some(holder), renewed), at)
        };
        assert_eq!(leader("pod-a_2", renewed), Step::Wait(renewed + Duration::from_secs(3)));
        assert_eq!(leader("pod-a_2", renewed + Duration::from_secs(3)), Step::Renew);
        let late = Duration::from_secs(8);
        assert_eq!(leader("pod-a_2", renewed + late), Step::GiveUp(Lost::NotRenewed(late)));
        assert!(late < TIMING.duration);
        assert_eq!(leader("pod-b_9", renewed), Step::GiveUp(Lost::Taken("pod-b_9".to_owned())));
    }
}
