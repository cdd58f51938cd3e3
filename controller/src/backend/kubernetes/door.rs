//! How many connections there may be to the listener for shims, and whose. Code of functions reaches its port too: those who have not said who
//! they are have few places, at one address fewer, and take none of those who have.
//!
//! ```text
//!  accept ── Stranger, of an address ── hello, token ──┬── Report: for an instance's life; a new one takes the place of the last
//!             for 10 s at most                         └── Transfer: what an instance fetches or brings
//! ```
//!
//! Who finds no place is closed without a word, and a shim tries again. Each such bound counts on its own in `hearth_reports_refused_total`.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_function::InstanceId;
use tokio::time::Instant;

use crate::label_set;
use crate::telemetry::metrics::{Counters, Label as _, Registry};

/// Connections that have not said yet who they are. A shim says so at once.
pub(super) const STRANGERS: usize = 1024;

/// Those of one address. Where all Pods of a node are seen with one address, as many of them may begin in the same moment; the others try again.
pub(super) const STRANGERS_OF_ONE: usize = 16;

/// Connections for an instance's life: the hub is made for ten thousand instances, and some come again before their last one is seen to be broken.
const REPORTS: usize = 16_384;

/// Connections by which something is fetched or brought.
const TRANSFERS: usize = 4096;

/// Those of one instance: what it starts with it fetches one after the other, and of what comes later at most four at once.
const TRANSFERS_OF_ONE: usize = 8;

/// What is refused over and over is said again only after so long.
const SAY_AGAIN: Duration = Duration::from_secs(30);

label_set! {
    /// What there were too many of.
    pub(super) enum Bound("bound") {
        /// Those that have not said who they are.
        Strangers = "strangers",
        /// Those of one address.
        Address = "address",
        /// Instances.
        Reports = "reports",
        /// What is fetched and brought.
        Transfers = "transfers",
        /// What one instance fetches and brings.
        Instance = "instance",
    }
}

/// Who a connection is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guest {
    /// Nobody knows yet.
    Stranger(IpAddr),
    /// An instance, for its life.
    Report,
    /// An instance, for one tar.
    Transfer(InstanceId),
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stranger(address) => address.fmt(f),
            Self::Report => f.write_str("an instance"),
            Self::Transfer(instance) => instance.fmt(f),
        }
    }
}

/// Connections of many, counted in all and of each.
#[derive(Debug)]
struct Counted<K> {
    all: usize,
    each: HashMap<K, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    ForAll,
    ForOne,
}

impl<K: Eq + Hash + Clone> Counted<K> {
    fn take(&mut self, who: &K, most: usize, most_of_one: usize) -> Result<(), Full> {
        // His own first: he is told what is his doing.
        if self.each.get(who).is_some_and(|count| *count >= most_of_one) {
            return Err(Full::ForOne);
        }
        if self.all >= most {
            return Err(Full::ForAll);
        }
        self.all += 1;
        *self.each.entry(who.clone()).or_default() += 1;
        Ok(())
    }

    fn give_back(&mut self, who: &K) {
        self.all -= 1;
        let left = self.each.get_mut(who).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            self.each.remove(who);
        }
    }
}

impl<K> Default for Counted<K> {
    fn default() -> Self {
        Self { all: 0, each: HashMap::new() }
    }
}

/// The places that are taken.
#[derive(Debug, Default)]
struct Taken {
    strangers: Counted<IpAddr>,
    reports: usize,
    transfers: Counted<InstanceId>,
}

impl Taken {
    fn take(&mut self, guest: &Guest) -> Result<(), Bound> {
        match guest {
            Guest::Stranger(address) => {
                let taken = self.strangers.take(address, STRANGERS, STRANGERS_OF_ONE);
                taken.map_err(|full| if full == Full::ForOne { Bound::Address } else { Bound::Strangers })
            }
            Guest::Report if self.reports >= REPORTS => Err(Bound::Reports),
            Guest::Report => {
                self.reports += 1;
                Ok(())
            }
            Guest::Transfer(instance) => {
                let taken = self.transfers.take(instance, TRANSFERS, TRANSFERS_OF_ONE);
                taken.map_err(|full| if full == Full::ForOne { Bound::Instance } else { Bound::Transfers })
            }
        }
    }

    fn give_back(&mut self, guest: &Guest) {
        match guest {
            Guest::Stranger(address) => self.strangers.give_back(address),
            Guest::Report => self.reports -= 1,
            Guest::Transfer(instance) => self.transfers.give_back(instance),
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Door {
    taken: Mutex<Taken>,
    refused: Counters<Bound>,
    said: Mutex<HashMap<Bound, Instant>>,
}

/// A place; dropped, it is another's.
#[derive(Debug)]
pub(super) struct Place {
    door: Arc<Door>,
    guest: Guest,
}

impl Door {
    pub(super) fn new(metrics: &Registry) -> Arc<Self> {
        let refused = metrics.counters::<Bound>(
            "hearth_reports_refused_total",
            "Connections of instances, or of others to their port, that were closed because there were too many.",
        );
        Arc::new(Self { taken: Mutex::default(), refused, said: Mutex::default() })
    }

    /// A place, if there is one. Who gets none has been counted.
    pub(super) fn admit(self: &Arc<Self>, guest: Guest) -> Option<Place> {
        let taken = self.taken().take(&guest);
        match taken {
            Ok(()) => Some(Place { door: Arc::clone(self), guest }),
            Err(bound) => {
                self.refused.get(bound).inc();
                if self.is_news(bound) {
                    let bound = bound.as_str();
                    tracing::warn!(bound, of = %guest, "too many connections of instances: one was closed");
                }
                None
            }
        }
    }

    fn is_news(&self, bound: Bound) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let news = said.get(&bound).is_none_or(|said| said.elapsed() >= SAY_AGAIN);
        if news {
            said.insert(bound, Instant::now());
        }
        news
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Another place for the same connection, now that it is known whose it is.
    pub(super) fn becomes(self, guest: Guest) -> Option<Self> {
        self.door.admit(guest)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.door.taken().give_back(&self.guest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stranger(number: usize) -> Guest {
        Guest::Stranger(IpAddr::from(u32::try_from(number).unwrap().to_be_bytes()))
    }

    fn refused(registry: &Registry, bound: &str) -> bool {
        let shown = registry.render();
        let line = format!("hearth_reports_refused_total{{bound=\"{bound}\"}} ");
        !shown.lines().any(|one| one.strip_prefix(&line) == Some("0"))
    }

    #[tokio::test]
    async fn one_address_has_only_a_few_places_and_they_come_back() {
        let registry = Registry::new();
        let door = Door::new(&registry);
        let mut places: Vec<_> = (0..STRANGERS_OF_ONE).map(|_| door.admit(stranger(1)).unwrap()).collect();
        assert!(!refused(&registry, "address"));
        assert!(door.admit(stranger(1)).is_none());
        assert!(refused(&registry, "address"));
        assert!(door.admit(stranger(2)).is_some(), "another has his own");
        places.pop();
        places.extend(door.admit(stranger(1)));
        assert_eq!(places.len(), STRANGERS_OF_ONE);
        drop(places);
        let taken = door.taken();
        assert_eq!((taken.strangers.all, taken.strangers.each.len()), (0, 0), "nothing is kept of who left");
    }

    #[tokio::test]
    async fn ten_thousand_instances_have_a_place_and_take_none_of_strangers() {
        let registry = Registry::new();
        let door = Door::new(&registry);
        // All of one address, as behind the address of their node: who is known takes none of its places.
        let come = |_| door.admit(stranger(1)).unwrap().becomes(Guest::Report);
        let mut reports: Vec<_> = (0..10_000).map(|number| come(number).expect("a place")).collect();
        let taken = || {
            let taken = door.taken();
            (taken.reports, taken.strangers.all)
        };
        assert_eq!(taken(), (10_000, 0));
        let strangers: Vec<_> = (0..STRANGERS).map(|number| door.admit(stranger(number)).unwrap()).collect();
        assert!(door.admit(stranger(STRANGERS)).is_none());
        assert!(refused(&registry, "strangers") && !refused(&registry, "reports"));
        reports.extend((10_000..REPORTS).map(|_| door.admit(Guest::Report).unwrap()));
        assert!(door.admit(Guest::Report).is_none(), "strangers or not, this is the end");
        assert!(refused(&registry, "reports"));
        drop((reports, strangers));
        assert_eq!(taken(), (0, 0));
    }

    #[tokio::test]
    async fn an_instance_fetches_only_so_much_at_once() {
        let registry = Registry::new();
        let door = Door::new(&registry);
        let of = |name: &str| Guest::Transfer(InstanceId::parse(name).unwrap());
        let _places: Vec<_> = (0..TRANSFERS_OF_ONE).map(|_| door.admit(of("a")).unwrap()).collect();
        assert!(door.admit(of("a")).is_none() && door.admit(of("b")).is_some());
        assert!(refused(&registry, "instance") && !refused(&registry, "transfers"));
    }
}
