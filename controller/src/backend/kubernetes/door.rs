//! How many connections there may be to the listener for shims, and whose. Code of functions reaches its port too: those who have not said who
//! they are have few places, at one address fewer, and take none of those who have.
//!
//! ```text
//!  accept ── stranger, of an address ── hello, token ──┬── Report: for an instance's life; a new one takes the place of the last
//!             for some seconds at most                 └── Transfer: what an instance fetches or brings
//! ```
//!
//! Of strangers a newcomer takes the place of the one that has been there longest: a shim says at once who it is, and whoever says nothing
//! keeps none out. Who finds no place, or loses it, is closed without a word, and a shim tries again. Each such bound counts on its own in
//! `hearth_reports_refused_total`.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hearth_function::InstanceId;
use tokio::task::AbortHandle;

use crate::door::{self, Full, Known, Passing, Places, Stranger};
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

/// Whose a connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guest {
    /// An instance, for its life.
    Report,
    /// An instance, for one tar.
    Transfer(InstanceId),
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Report => f.write_str("an instance"),
            Self::Transfer(instance) => instance.fmt(f),
        }
    }
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Door {
    strangers: Mutex<Passing<Stranger>>,
    reports: Places<()>,
    transfers: Places<InstanceId>,
    refused: Counters<Bound>,
    said: Seldom<Bound>,
}

/// A place; dropped, it is another's.
#[derive(Debug)]
pub(super) struct Place {
    _taken: Taken,
}

/// The place of a stranger.
#[derive(Debug)]
pub(super) struct Unknown {
    door: Arc<Door>,
    known: Known,
}

/// Held until it is dropped.
#[derive(Debug)]
enum Taken {
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
            strangers: Mutex::new(Passing::new(STRANGERS, STRANGERS_OF_ONE)),
            reports: Places::new(REPORTS, REPORTS),
            transfers: Places::new(TRANSFERS, TRANSFERS_OF_ONE),
            refused,
            said: Seldom::new(),
        })
    }

    /// Takes a stranger from there in, whom the task serves that `serve` begins. One that was there longer may have to leave, and is counted.
    pub(super) fn welcome(self: &Arc<Self>, address: IpAddr, serve: impl FnOnce(Unknown) -> AbortHandle) {
        let known = Known::default();
        let task = serve(Unknown { door: Arc::clone(self), known: known.clone() });
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        let leaves = strangers.welcome(address, Stranger::new(address, task, known));
        drop(strangers);
        if let Some(longest) = leaves {
            let full = longest.leave_to(address);
            self.refuse(if full == Full::ForOne { Bound::Address } else { Bound::Strangers }, &address);
        }
    }

    /// A place, if there is one. Who gets none has been counted.
    fn admit(&self, guest: &Guest) -> Option<Place> {
        match self.take(guest) {
            Ok(taken) => Some(Place { _taken: taken }),
            Err(bound) => {
                self.refuse(bound, guest);
                None
            }
        }
    }

    fn refuse(&self, bound: Bound, of: &dyn fmt::Display) {
        self.refused.get(bound).inc();
        if self.said.is_news(bound) {
            let bound = bound.as_str();
            tracing::warn!(bound, %of, "too many connections of instances: one was closed");
        }
    }

    fn take(&self, guest: &Guest) -> Result<Taken, Bound> {
        let bound = |full| if full == Full::ForOne { Bound::Instance } else { Bound::Transfers };
        match guest {
            Guest::Report => {
                let taken = self.reports.take(()).map_err(|_| Bound::Reports);
                Ok(Taken::Report { _place: taken? })
            }
            Guest::Transfer(instance) => {
                let taken = self.transfers.take(instance.clone());
                Ok(Taken::Transfer { _place: taken.map_err(bound)? })
            }
        }
    }
}

impl Unknown {
    /// Another place for the same connection, now that it is known whose it is.
    pub(super) fn becomes(self, guest: &Guest) -> Option<Place> {
        self.known.note();
        self.door.admit(guest)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::JoinSet;

    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::from(u32::try_from(number).unwrap().to_be_bytes())
    }

    /// So often somebody was refused, or had to leave.
    fn refused(registry: &Registry, bound: &str) -> u32 {
        let shown = registry.render();
        let line = format!("hearth_reports_refused_total{{bound=\"{bound}\"}} ");
        shown.lines().find_map(|one| one.strip_prefix(&line)).unwrap().parse().unwrap()
    }

    /// Strangers, each with a task that serves it.
    struct Scene {
        door: Arc<Door>,
        registry: Registry,
        tasks: JoinSet<()>,
    }

    impl Scene {
        fn new() -> Self {
            let registry = Registry::new();
            Self { door: Door::new(&registry), registry, tasks: JoinSet::new() }
        }

        fn come(&mut self, number: usize) -> Unknown {
            let mut place = None;
            self.door.welcome(address(number), |unknown| {
                place = Some(unknown);
                self.tasks.spawn(pending())
            });
            place.unwrap()
        }
    }

    #[tokio::test]
    async fn whoever_says_nothing_leaves_to_the_next_of_his_address_or_of_all() {
        let mut scene = Scene::new();
        for _ in 0..STRANGERS_OF_ONE {
            let _silent = scene.come(1);
        }
        assert_eq!(refused(&scene.registry, "address"), 0);
        let newcomer = scene.come(1);
        assert_eq!(refused(&scene.registry, "address"), 1);
        assert!(scene.tasks.join_next().await.unwrap().unwrap_err().is_cancelled(), "the longest is closed");
        assert!(newcomer.becomes(&Guest::Report).is_some());
        // Many addresses, each with as many as it may have.
        for number in STRANGERS_OF_ONE..STRANGERS * 2 {
            let _silent = scene.come(number / STRANGERS_OF_ONE);
        }
        assert!(refused(&scene.registry, "strangers") > 0);
        assert!(scene.come(STRANGERS).becomes(&Guest::Report).is_some(), "and none of them is in its way");
    }

    #[tokio::test]
    async fn ten_thousand_instances_have_a_place_and_take_none_of_strangers() {
        let mut scene = Scene::new();
        // All of one address, as behind the address of their node: who is known takes none of its places.
        let mut reports: Vec<_> =
            (0..10_000).map(|_| scene.come(1).becomes(&Guest::Report).expect("a place")).collect();
        assert_eq!(scene.door.reports.taken(), 10_000);
        assert_eq!((refused(&scene.registry, "address"), refused(&scene.registry, "strangers")), (0, 0));
        let report = |_| scene.door.admit(&Guest::Report);
        reports.extend((10_000..REPORTS).map(|number| report(number).unwrap()));
        assert!(scene.door.admit(&Guest::Report).is_none(), "strangers or not, this is the end");
        assert_eq!(refused(&scene.registry, "reports"), 1);
        drop(reports);
        assert_eq!(scene.door.reports.taken(), 0);
    }

    #[tokio::test]
    async fn an_instance_fetches_only_so_much_at_once() {
        let registry = Registry::new();
        let door = Door::new(&registry);
        let of = |name: &str| Guest::Transfer(InstanceId::parse(name).unwrap());
        let _places: Vec<_> = (0..TRANSFERS_OF_ONE).map(|_| door.admit(&of("a")).unwrap()).collect();
        assert!(door.admit(&of("a")).is_none() && door.admit(&of("b")).is_some());
        assert_eq!((refused(&registry, "instance"), refused(&registry, "transfers")), (1, 0));
    }
}
