//! Requests to the API server, each with a limit: a connection that leads nowhere any more is as silent as a slow one.

use std::future::Future;
use std::time::Duration;

use tokio::time::timeout;

/// How long an answer may take, as a rule.
const REQUEST: Duration = Duration::from_secs(15);

/// How long it may take for an object to be made: each webhook that admits it may take half a minute.
pub(super) const CREATE: Duration = Duration::from_secs(45);

/// How long a list of everything may take.
pub(super) const LIST: Duration = Duration::from_secs(60);

/// A request whose answer may take as long as is usual.
pub(crate) async fn asked<T>(request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    within(REQUEST, request).await
}

/// A request whose answer may take so long.
pub(super) async fn within<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> kube::Result<T> {
    timeout(limit, request).await.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(kube::Error::Service(format!("the API server does not answer within {limit}").into()))
    })
}

/// A request that does no harm twice: where no answer comes it is made once more, as a rule by another connection.
pub(crate) async fn repeated<T, F: Future<Output = kube::Result<T>>>(
    mut request: impl FnMut() -> F,
) -> kube::Result<T> {
    match timeout(REQUEST, request()).await {
        Ok(answered) => answered,
        Err(_) => asked(request()).await,
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_never_answered_is_an_error_and_asked_again_where_that_does_no_harm() {
        let begin = Instant::now();
        let silent = asked(pending::<kube::Result<()>>()).await.unwrap_err();
        assert!(crate::telemetry::chain(&silent).contains("does not answer within 15s"), "{silent}");
        assert_eq!(begin.elapsed(), REQUEST);

        let mut asked = 0;
        let answered = repeated(|| {
            asked += 1;
            let answers = asked == 2;
            async move { if answers { Ok(7) } else { pending().await } }
        });
        assert_eq!(answered.await.unwrap(), 7);
        let mut asked = 0;
        let refused = repeated(|| {
            asked += 1;
            ready(Err::<(), _>(kube::Error::LinesCodecMaxLineLengthExceeded))
        });
        assert!(refused.await.is_err());
        assert_eq!(asked, 1, "an answer is an answer");
    }
}
