//! Whether a call whose instance failed may run again on another. A pure rule (INV-5); the gateway keeps the facts.

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
}
