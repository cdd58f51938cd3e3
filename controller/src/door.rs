//! Places for connections, on ports that strangers reach: so many in all, and so many of each client, so that none of them takes those of all.
//!
//! [`Places`] are for those who stay: a newcomer for whom there is none goes without. [`Passing`] are those who stay for a moment, as probes
//! do: a newcomer takes the place of the one that has been there longest, so that whoever is quick always finds one.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

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

/// One that stays for a moment.
pub(crate) trait Passer {
    /// Whether it has gone, or has a place of another kind by now.
    fn has_left(&self) -> bool;
}

impl Passer for AbortHandle {
    fn has_left(&self) -> bool {
        self.is_finished()
    }
}

/// Whether it is known whose a connection is. Cloning it gives another handle on the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(Arc<AtomicBool>);

impl Known {
    /// It is, from now on.
    pub(crate) fn note(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A connection of which nobody knows yet whose it is.
#[derive(Debug)]
pub(crate) struct Stranger {
    address: IpAddr,
    task: AbortHandle,
    known: Known,
}

impl Stranger {
    /// One from there, which `task` serves.
    pub(crate) fn new(address: IpAddr, task: AbortHandle, known: Known) -> Self {
        Self { address, task, known }
    }

    /// Closes the connection, as a newcomer from `of` takes its place; for whom there were too many.
    pub(crate) fn leave_to(self, of: IpAddr) -> Full {
        self.task.abort();
        if self.address == of { Full::ForOne } else { Full::ForAll }
    }
}

impl Passer for Stranger {
    fn has_left(&self) -> bool {
        self.known.is() || self.task.is_finished()
    }
}

/// Those who stay for a moment, the longest first.
#[derive(Debug)]
pub(crate) struct Passing<P> {
    most: usize,
    most_of_one: usize,
    here: VecDeque<(IpAddr, P)>,
}

impl<P: Passer> Passing<P> {
    /// So many at once, and of one address so many of them.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        Self { most, most_of_one, here: VecDeque::new() }
    }

    /// Takes a newcomer in, and says who has to leave for that: the longest of the same address, where that one has as many as it may, or else
    /// of all.
    pub(crate) fn welcome(&mut self, address: IpAddr, newcomer: P) -> Option<P> {
        self.here.retain(|(_, passer)| !passer.has_left());
        let of_this = |(of, _): &(IpAddr, P)| *of == address;
        let leaves = if self.here.iter().filter(|one| of_this(one)).count() >= self.most_of_one {
            self.here.iter().position(of_this)
        } else {
            (self.here.len() >= self.most).then_some(0)
        };
        let leaves = leaves.and_then(|longest| self.here.remove(longest));
        self.here.push_back((address, newcomer));
        leaves.map(|(_, passer)| passer)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

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

    struct Guest(u8, Rc<Cell<bool>>);

    impl Passer for Guest {
        fn has_left(&self) -> bool {
            self.1.get()
        }
    }

    #[tokio::test]
    async fn a_stranger_that_is_known_by_now_is_in_nobodys_way() {
        let mut tasks = tokio::task::JoinSet::new();
        let mut passing = Passing::new(2, 2);
        let mut come = |address: u8| {
            let (address, known) = (IpAddr::from([127, 0, 0, address]), Known::default());
            let task = tasks.spawn(std::future::pending::<()>());
            let leaves = passing.welcome(address, Stranger::new(address, task, known.clone()));
            (known, leaves.map(|stranger| stranger.leave_to(address)))
        };
        let (known, _) = come(1);
        known.note();
        assert_eq!([come(1).1, come(1).1, come(1).1], [None, None, Some(Full::ForOne)]);
        assert_eq!(come(2).1, Some(Full::ForAll));
        for _ in 0..2 {
            assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
        }
        assert_eq!(tasks.len(), 3);
    }

    #[test]
    fn a_newcomer_takes_the_place_of_who_stays_longest() {
        let mut passing = Passing::new(4, 2);
        let has_left = Rc::new(Cell::new(false));
        let mut come = |address: u8, name: u8| {
            let leaves =
                passing.welcome(IpAddr::from([127, 0, 0, address]), Guest(name, Rc::clone(&has_left)));
            leaves.map(|Guest(name, _)| name)
        };
        assert_eq!([come(1, 0), come(2, 1), come(2, 2)], [None; 3]);
        assert_eq!(come(2, 3), Some(1), "of the same address, though there is room");
        assert_eq!(come(3, 4), None);
        assert_eq!(come(4, 5), Some(0), "of all");
        has_left.set(true);
        assert_eq!(come(2, 6), None, "who has left is in nobody's way");
    }
}
