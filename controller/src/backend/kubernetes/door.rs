//! How many connections there may be to the listener for shims, and whose. Code of functions reaches its port too: those who have not said who
//! they are have few places, at one address fewer, and take none of those who have.
//!
//! ```text
//!  accept ── Stranger, of an address ── hello, token ──┬── Report: for an instance's life; a new one takes the place of the last
//!             for 10 s at most                         └── Transfer: what an instance fetches or brings
//! ```
//!
//! Who finds no place is closed without a word, and a shim tries again. Each such bound counts on its own in `hearth_reports_refused_total`.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use hearth_function::InstanceId;

use crate::door::{self, Full, Places};
use crate::label_set;
use crate::telemetry::Seldom;
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

/// See the module's page.
#[derive(Debug)]
pub(super) struct Door {
    strangers: Places<IpAddr>,
    reports: Places<()>,
    transfers: Places<InstanceId>,
    refused: Counters<Bound>,
    said: Seldom<Bound>,
}

/// A place; dropped, it is another's.
#[derive(Debug)]
pub(super) struct Place {
    door: Arc<Door>,
    _taken: Taken,
}

/// Held until it is dropped.
#[derive(Debug)]
enum Taken {
    Stranger { _place: door::Place<IpAddr> },
    Report { _place: door::Place<()> },
    Transfer { _place: door::Place<InstanceId> },
}

impl Door {
    pub(super) fn new(metrics: &Registry) -> Arc<Self> {
        let refused = metrics.counters::<Bound>(
            "hearth_reports_refused_total",
            "Connections of instances, or of others to their port, that were closed because there were too many.",
        );
        Arc::new(Self {
            strangers: Places::new(STRANGERS, STRANGERS_OF_ONE),
            reports: Places::new(REPORTS, REPORTS),
            transfers: Places::new(TRANSFERS, TRANSFERS_OF_ONE),
            refused,
            said: Seldom::new(),
        })
    }

    /// A place, if there is one. Who gets none has been counted.
    pub(super) fn admit(self: &Arc<Self>, guest: Guest) -> Option<Place> {
        match self.take(&guest) {
            Ok(taken) => Some(Place { door: Arc::clone(self), _taken: taken }),
            Err(bound) => {
                self.refused.get(bound).inc();
                if self.said.is_news(bound) {
                    let bound = bound.as_str();
                    tracing::warn!(bound, of = %guest, "too many connections of instances: one was closed");
                }
                None
            }
        }
    }

    fn take(&self, guest: &Guest) -> Result<Taken, Bound> {
        let bound = |for_one, for_all| move |full| if full == Full::ForOne { for_one } else { for_all };
        match guest {
            Guest::Stranger(address) => {
                let taken = self.strangers.take(*address).map_err(bound(Bound::Address, Bound::Strangers));
                Ok(Taken::Stranger { _place: taken? })
            }
            Guest::Report => {
                let taken = self.reports.take(()).map_err(|_| Bound::Reports);
                Ok(Taken::Report { _place: taken? })
            }
            Guest::Transfer(instance) => {
                let taken = self.transfers.take(instance.clone());
                Ok(Taken::Transfer { _place: taken.map_err(bound(Bound::Instance, Bound::Transfers))? })
            }
        }
    }
}

impl Place {
    /// Another place for the same connection, now that it is known whose it is.
    pub(super) fn becomes(self, guest: Guest) -> Option<Self> {
        self.door.admit(guest)
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
        assert_eq!(door.strangers.taken(), 0);
    }

    #[tokio::test]
    async fn ten_thousand_instances_have_a_place_and_take_none_of_strangers() {
        let registry = Registry::new();
        let door = Door::new(&registry);
        // All of one address, as behind the address of their node: who is known takes none of its places.
        let come = |_| door.admit(stranger(1)).unwrap().becomes(Guest::Report);
        let mut reports: Vec<_> = (0..10_000).map(|number| come(number).expect("a place")).collect();
        let taken = || (door.reports.taken(), door.strangers.taken());
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
