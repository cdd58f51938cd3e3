//! Places for connections, on ports that strangers reach: so many in all, and so many of each client, so that none of them takes those of all.
//!
//! [`Seldom`] is for what is then said in the log.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What is refused over and over is said again only after so long.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// Places, counted in all and of each. Cloning it gives another handle on the same.
#[derive(Debug)]
pub(crate) struct Places<K: Eq + Hash>(Arc<Counted<K>>);

#[derive(Debug)]
struct Counted<K> {
    most: usize,
    most_of_one: usize,
    taken: Mutex<Taken<K>>,
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    each: HashMap<K, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many are there as there may be.
    ForAll,
    /// As many of this one.
    ForOne,
}

/// A place; dropped, it is another's.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    of: Arc<Counted<K>>,
    who: K,
}

impl<K: Eq + Hash> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash + Clone> Places<K> {
    /// So many for all, and for each so many of them.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        let taken = Mutex::new(Taken { all: 0, each: HashMap::new() });
        Self(Arc::new(Counted { most, most_of_one, taken }))
    }

    /// A place, if there is one.
    ///
    /// # Errors
    /// When there is none: what is the doing of this client is said first.
    pub(crate) fn take(&self, who: K) -> Result<Place<K>, Full> {
        let mut taken = self.0.taken();
        if taken.each.get(&who).is_some_and(|count| *count >= self.0.most_of_one) {
            return Err(Full::ForOne);
        }
        if taken.all >= self.0.most {
            return Err(Full::ForAll);
        }
        taken.all += 1;
        *taken.each.entry(who.clone()).or_default() += 1;
        Ok(Place { of: Arc::clone(&self.0), who })
    }

    /// How many are taken.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        self.0.taken().all
    }
}

impl<K> Counted<K> {
    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.all -= 1;
        let left = taken.each.get_mut(&self.who).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            taken.each.remove(&self.who);
        }
    }
}

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

    #[test]
    fn each_has_only_a_few_places_and_they_come_back() {
        let places = Places::new(5, 2);
        let taken: Vec<_> = ["a", "a", "b", "b"].into_iter().map(|who| places.take(who).unwrap()).collect();
        assert_eq!(places.take("a").unwrap_err(), Full::ForOne);
        let last = places.take("c").unwrap();
        assert_eq!(places.take("d").unwrap_err(), Full::ForAll);
        assert_eq!(places.take("b").unwrap_err(), Full::ForOne, "his own doing first");
        drop(last);
        drop(places.take("d").unwrap());
        drop(taken);
        let taken = places.0.taken();
        assert_eq!((taken.all, taken.each.len()), (0, 0), "nothing is kept of who left");
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_over_and_over_is_said_seldom() {
        let seldom = Seldom::new();
        assert!(seldom.is_news("a") && seldom.is_news("b"));
        assert!(!seldom.is_news("a"));
        tokio::time::advance(SAY_AGAIN).await;
        assert!(seldom.is_news("a") && !seldom.is_news("a"));
    }
}
