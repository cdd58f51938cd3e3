//! What is said in Hearth's own log seldom, however often it happens.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What happens over and over is said again only after so long.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// What is said again only after a while, however often it happens. There are few different things to say.
#[derive(Debug)]
pub(crate) struct Seldom<W>(Mutex<HashMap<W, Instant>>);

impl<W: Eq + Hash> Seldom<W> {
    /// Nothing has been said.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(HashMap::new()))
    }

    /// Whether it is to be said now; it counts as said then.
    pub(crate) fn is_news(&self, what: W) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let news = said.get(&what).is_none_or(|said| said.elapsed() >= SAY_AGAIN);
        if news {
            said.insert(what, Instant::now());
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_happens_over_and_over_is_said_seldom() {
        let seldom = Seldom::new();
        assert!(seldom.is_news("a") && seldom.is_news("b"));
        assert!(!seldom.is_news("a"));
        tokio::time::advance(SAY_AGAIN).await;
        assert!(seldom.is_news("a") && !seldom.is_news("a"));
    }
}
