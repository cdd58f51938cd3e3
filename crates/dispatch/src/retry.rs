//! How a call goes on whose instance failed. A pure rule (INV-5); the gateway keeps the facts.
//!
//! | what the instance had said | the call |
//! |---|---|
//! | it refused it ([`Accepted::Never`]) | goes on: no attempt |
//! | nothing, for nobody could connect to it ([`Accepted::Unreached`]) | goes on: no attempt, unless the instance was started for it |
//! | nothing that shows that it ran ([`Accepted::NotYet`]) | is sent again, up to the limit |
//! | that it took it, or it was not asked ([`Accepted::Perhaps`]) | is sent again, up to the limit, if running twice does no harm |
//!
//! Attempts are for what may go wrong again and again, and a call that goes on has not been one. Where a node dies, or a leader with its
//! instances, a call may meet all of them before it is known of any; each is given up by it, and those that the scaler starts instead are
//! attempts when they cannot be reached either. What is left is bounded by the limits of the queue, counted from the first time
//! ([`Origin::Untaken`](crate::Origin::Untaken)).

/// Whether running a method twice does the same as running it once (RFC 9110, section 9.2.2).
#[must_use]
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

/// What is known of a call at the moment its instance failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// How often it was sent so far, this time too; times that it went on ([`Next::GoOn`]) are not among them.
    pub attempts: u32,
    /// Whether running it twice does no harm.
    pub idempotent: bool,
    /// What the instance had said.
    pub accepted: Accepted,
    /// Whether the call had waited until this instance was started.
    pub awaited: bool,
    /// Whether the gateway still has the whole request: no byte of the body was passed on that it did not keep.
    pub body_held: bool,
    /// Whether a byte of the answer went to the client.
    pub answer_begun: bool,
}

/// What an instance had said about a call before it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It refused the call: nothing ran.
    Never,
    /// There was no connection to it and none could be opened: the call never left the gateway.
    Unreached,
    /// The gateway asked for `accept`, or the first byte of the answer, and has not seen it: nothing ran.
    NotYet,
    /// It took the call, or was not asked to say.
    Perhaps,
}

/// How the call goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is answered with the failure.
    Fail,
    /// It is sent again: the time that failed was an attempt.
    Repeat,
    /// It goes on to another instance, or waits for one: this was no attempt, and its limits count on.
    GoOn,
}

/// How a call goes on. `limit` is how often a call is sent in all.
///
/// A call runs again only while the client has seen nothing of an answer and the gateway still holds all of the request; and only when
/// nothing ran or when running twice does no harm.
#[must_use]
pub fn next(facts: Facts, limit: u32) -> Next {
    if !facts.body_held || facts.answer_begun {
        return Next::Fail;
    }
    let harmless = match facts.accepted {
        Accepted::Never => return Next::GoOn,
        Accepted::Unreached if !facts.awaited => return Next::GoOn,
        Accepted::Unreached | Accepted::NotYet => true,
        Accepted::Perhaps => facts.idempotent,
    };
    if harmless && facts.attempts < limit { Next::Repeat } else { Next::Fail }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GET: Facts = Facts {
        attempts: 1,
        idempotent: true,
        accepted: Accepted::Perhaps,
        awaited: false,
        body_held: true,
        answer_begun: false,
    };

    #[test]
    fn repeats_only_what_nobody_can_notice() {
        let post = Facts { idempotent: false, ..GET };
        let cases = [
            (GET, Next::Repeat),
            (Facts { attempts: 3, ..GET }, Next::Fail),
            (Facts { answer_begun: true, ..GET }, Next::Fail),
            (Facts { body_held: false, ..GET }, Next::Fail),
            (post, Next::Fail),
            (Facts { accepted: Accepted::NotYet, ..post }, Next::Repeat),
            (Facts { accepted: Accepted::NotYet, attempts: 3, ..post }, Next::Fail),
            (Facts { accepted: Accepted::NotYet, body_held: false, ..post }, Next::Fail),
            (Facts { accepted: Accepted::Never, ..post }, Next::GoOn),
            (Facts { accepted: Accepted::Never, body_held: false, ..post }, Next::Fail),
            (Facts { accepted: Accepted::Unreached, body_held: false, ..post }, Next::Fail),
        ];
        for (facts, expected) in cases {
            assert_eq!(next(facts, 3), expected, "{facts:?}");
        }
        assert!(is_idempotent("PUT") && !is_idempotent("POST") && !is_idempotent("PATCH"));
    }

    #[test]
    fn an_instance_that_cannot_be_reached_is_an_attempt_only_where_it_was_started_for_the_call() {
        let unreached = |attempts, awaited| Facts { attempts, awaited, accepted: Accepted::Unreached, ..GET };
        assert_eq!(next(unreached(1, false), 3), Next::GoOn);
        assert_eq!(next(unreached(3, false), 3), Next::GoOn);
        assert_eq!(next(unreached(1, true), 3), Next::Repeat);
        assert_eq!(next(unreached(3, true), 3), Next::Fail);
    }

    fn accepted() -> impl Strategy<Value = Accepted> {
        prop_oneof![
            Just(Accepted::Never),
            Just(Accepted::Unreached),
            Just(Accepted::NotYet),
            Just(Accepted::Perhaps)
        ]
    }

    proptest! {
        /// Whatever a call meets, one instance after the other.
        #[test]
        fn a_call_is_sent_no_more_often_than_its_attempts_and_runs_twice_only_where_that_does_no_harm(
            limit in 1u32..5,
            idempotent: bool,
            met in prop::collection::vec((accepted(), any::<bool>()), 0..40),
        ) {
            // Times that it left the gateway and was not refused; times that it may have run.
            let (mut attempts, mut sent, mut may_have_run) = (1, 0, 0);
            for (accepted, awaited) in met {
                sent += u32::from(matches!(accepted, Accepted::NotYet | Accepted::Perhaps));
                may_have_run += u32::from(accepted == Accepted::Perhaps);
                match next(Facts { attempts, idempotent, accepted, awaited, ..GET }, limit) {
                    Next::Fail => break,
                    Next::Repeat => attempts += 1,
                    Next::GoOn => {}
                }
            }
            prop_assert!(attempts <= limit && sent <= limit);
            prop_assert!(idempotent || may_have_run <= 1);
        }
    }
}
