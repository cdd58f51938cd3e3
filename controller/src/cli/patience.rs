//! How long a command asks again where a cluster's controllers change: between two of them nobody answers, and while a release is upgraded one from
//! before may still work, with the token that it read when it started.

use std::time::Duration;

use http::{Response, StatusCode};
use tokio::time::{Instant, sleep};

use super::error::Error;

/// How long it is waited for a controller: one that takes over from another needs a second, after a crash the rest of a Lease, and in an upgrade as
/// long as the new Pods take to be ready.
const WITHIN: Duration = Duration::from_secs(20);
/// Between two questions.
const AGAIN: Duration = Duration::from_millis(500);

/// Why an answer is none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// No controller works at the moment.
    NobodyWorks,
    /// The one that works has another token than the Secret says.
    OtherToken,
}

impl Why {
    /// What an answer of this status says; `behind`: it is from a cluster's controller, which is asked with the token of a Secret.
    pub(super) fn of(status: StatusCode, behind: bool) -> Option<Self> {
        match status {
            StatusCode::SERVICE_UNAVAILABLE => Some(Self::NobodyWorks),
            StatusCode::UNAUTHORIZED if behind => Some(Self::OtherToken),
            _ => None,
        }
    }
}

/// The first answer that is one, or the last that came in [`WITHIN`]. `ask` is told why the answer before was none, and says it of its own; `waits`
/// is called when it takes time, once for each reason.
///
/// # Errors
/// Those of `ask`.
pub(super) async fn settled<B, F, W>(
    mut ask: impl FnMut(Option<Why>) -> F,
    mut waits: impl FnMut(Why) -> W,
) -> Result<Response<B>, Error>
where
    F: Future<Output = Result<(Response<B>, Option<Why>), Error>>,
    W: Future<Output = ()>,
{
    let until = Instant::now() + WITHIN;
    let mut before = None;
    loop {
        let (answer, why) = ask(before).await?;
        let Some(why) = why.filter(|_| Instant::now() < until) else { return Ok(answer) };
        if before != Some(why) {
            waits(why).await;
        }
        before = Some(why);
        sleep(AGAIN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks a controller that gives these answers, the last of them for ever: what came, how often it was asked, and what was waited for.
    async fn asked(answers: &[u16]) -> (u16, usize, Vec<Why>) {
        let (mut asked, mut waited, mut before) = (0, Vec::new(), None);
        let ask = |told: Option<Why>| {
            assert_eq!(told, before, "it is told what it said");
            let status = StatusCode::from_u16(answers[asked.min(answers.len() - 1)]).unwrap();
            asked += 1;
            before = Why::of(status, true);
            let answer = Response::builder().status(status).body(()).unwrap();
            std::future::ready(Ok((answer, before)))
        };
        let waits = |why| {
            waited.push(why);
            std::future::ready(())
        };
        let answer = settled(ask, waits).await.unwrap();
        (answer.status().as_u16(), asked, waited)
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_takes_over_is_waited_for_and_not_for_ever() {
        use Why::{NobodyWorks, OtherToken};
        assert_eq!(asked(&[404]).await, (404, 1, vec![]));
        assert_eq!(asked(&[503, 503, 503, 404]).await, (404, 4, vec![NobodyWorks]));
        assert_eq!(asked(&[503]).await, (503, 41, vec![NobodyWorks]));
        // An upgrade: the one of before, nobody, the new one.
        assert_eq!(asked(&[401, 401, 503, 200]).await, (200, 4, vec![OtherToken, NobodyWorks]));
        assert_eq!(asked(&[401]).await, (401, 41, vec![OtherToken]));
    }

    #[test]
    fn a_server_of_its_own_that_does_not_know_the_token_will_not_learn_it() {
        assert_eq!(Why::of(StatusCode::UNAUTHORIZED, false), None);
        assert_eq!(Why::of(StatusCode::UNAUTHORIZED, true), Some(Why::OtherToken));
        assert_eq!(Why::of(StatusCode::FORBIDDEN, true), None);
    }
}
