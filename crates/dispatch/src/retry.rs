//! Whether a call whose instance failed may run again on another. A pure rule (INV-5); the gateway keeps the facts.

use std::time::Duration;

/// Whether running a method twice does the same as running it once (RFC 9110, section 9.2.2).
#[must_use]
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// What is known of a call at the moment its instance failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// How often it was sent so far.
    pub attempts: u32,
    /// Whether running it twice does no harm.
    pub idempotent: bool,
    /// What the instance had said.
    pub accepted: Accepted,
    /// Whether the gateway still has the whole request: no byte of the body was passed on that it did not keep.
    pub body_held: bool,
    /// Whether a byte of the answer went to the client.
    pub answer_begun: bool,
}

/// What an instance had said about a call before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It refused the call, or the call never left the gateway: nothing ran.
    Never,
    /// The gateway asked for `accept`, or the first byte of the answer, and has not seen it: nothing ran.
    NotYet,
    /// It took the call, or was not asked to say.
    Perhaps,
}

/// Whether the call may be sent again. `limit` is how often a call is sent in all.
///
/// A call runs again only while the client has seen nothing of an answer and the gateway still holds all of the request; and only when
/// nothing ran (never accepted) or when running twice does no harm.
#[must_use]
pub fn may_retry(facts: Facts, limit: u32) -> bool {
    let nothing_ran = matches!(facts.accepted, Accepted::Never | Accepted::NotYet);
    facts.attempts < limit && facts.body_held && !facts.answer_begun && (nothing_ran || facts.idempotent)
}

/// Pause before a call is sent for the third time that instances have refused for want of room; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// The longest of these pauses.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How long a call that was refused `refusals` times (at least once) for want of room waits before it is sent again; `None` when that would be
/// longer than it may wait, of which `waited` is over.
///
/// Nothing ran, so that any call may be sent again. It is no failed attempt either: the slots of an instance that two gateways believe to have, as
/// after a controller and the connections to it were lost together, are one gateway's in the end.
#[must_use]
pub fn pause_when_busy(refusals: u32, waited: Duration, limit: Duration) -> Option<Duration> {
    let pause = match refusals {
        // Another instance may have room at once.
        0 | 1 => Duration::ZERO,
        more => FIRST_PAUSE.saturating_mul(1 << (more - 2).min(8)).min(LONGEST_PAUSE),
    };
    (waited.saturating_add(pause) < limit).then_some(pause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_only_what_nobody_can_notice() {
        let get = Facts {
            attempts: 1,
            idempotent: true,
            accepted: Accepted::Perhaps,
            body_held: true,
            answer_begun: false,
        };
        let post = Facts { idempotent: false, ..get };
        let cases = [
            (get, true),
            (Facts { attempts: 3, ..get }, false),
            (Facts { answer_begun: true, ..get }, false),
            (Facts { body_held: false, ..get }, false),
            (post, false),
            (Facts { accepted: Accepted::Never, ..post }, true),
            (Facts { accepted: Accepted::NotYet, ..post }, true),
            (Facts { accepted: Accepted::NotYet, body_held: false, ..post }, false),
        ];
        for (facts, expected) in cases {
            assert_eq!(may_retry(facts, 3), expected, "{facts:?}");
        }
        assert!(is_idempotent("PUT") && !is_idempotent("POST") && !is_idempotent("PATCH"));
    }

    #[test]
    fn a_call_that_finds_no_room_is_sent_again_ever_more_seldom_until_its_time_is_over() {
        let limit = Duration::from_secs(1);
        let pauses: Vec<_> = (1..9)
            .map(|refusals| pause_when_busy(refusals, Duration::ZERO, limit).unwrap().as_millis())
            .collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 250, 250]);
        assert_eq!(pause_when_busy(u32::MAX, Duration::ZERO, limit), Some(LONGEST_PAUSE));
        assert_eq!(pause_when_busy(7, Duration::from_millis(800), limit), None);
        assert_eq!(pause_when_busy(1, limit, limit), None);
    }
}
