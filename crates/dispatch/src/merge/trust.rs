//! Which gateway is believed that an instance is lost.
//!
//! A gateway is known by its name here, and not by its connection: one that loses the connection to the controller again and again may be the
//! one whose network is bad, and is one accuser for all that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hearth_function::InstanceId;

use crate::messages::ToScaler;

/// Instances that a gateway may accuse in a row: a crash of a node full of small ones is told soon enough by the backend too.
const ACCUSATIONS: u32 = 3;

/// After this it may accuse one more.
pub(super) const FORGIVEN: Duration = Duration::from_secs(3);

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Trust {
    gateways: BTreeMap<String, Credit>,
    accused: BTreeMap<InstanceId, Accused>,
}

/// What a gateway may still accuse.
#[derive(Debug)]
struct Credit {
    left: u32,
    since: Instant,
    /// Connections of it that are there.
    connections: u32,
}

#[derive(Debug)]
struct Accused {
    by: BTreeSet<String>,
    message: ToScaler,
}

impl Credit {
    fn new(now: Instant) -> Self {
        Self { left: ACCUSATIONS, since: now, connections: 0 }
    }

    fn earn(&mut self, now: Instant) {
        while self.left < ACCUSATIONS && now.saturating_duration_since(self.since) >= FORGIVEN {
            self.left += 1;
            self.since += FORGIVEN;
        }
        if self.left == ACCUSATIONS {
            self.since = now;
        }
    }

    /// One that is not there is not believed alone.
    fn take(&mut self, now: Instant) -> bool {
        self.earn(now);
        let may = self.left > 0 && self.connections > 0;
        self.left -= u32::from(may);
        may
    }
}

impl Trust {
    /// A gateway has come. Returns what it had given up before.
    pub(super) fn join(&mut self, now: Instant, name: &str) -> Vec<InstanceId> {
        let credit = self.gateways.entry(name.to_owned()).or_insert_with(|| Credit::new(now));
        credit.connections += 1;
        let its = self.accused.iter().filter(|(_, accused)| accused.by.contains(name));
        its.map(|(instance, _)| instance.clone()).collect()
    }

    /// A connection of it is over.
    pub(super) fn leave(&mut self, name: &str) {
        if let Some(credit) = self.gateways.get_mut(name) {
            credit.connections = credit.connections.saturating_sub(1);
        }
    }

    /// A gateway has given an instance up; the first `message` about it is the one that counts.
    pub(super) fn accuse(&mut self, instance: &InstanceId, by: String, message: ToScaler) {
        let accused = self.accused.entry(instance.clone());
        accused.or_insert_with(|| Accused { by: BTreeSet::new(), message }).by.insert(by);
    }

    /// What the scaler is to be told, if somebody is believed. `alone`: nobody else loses anything by it.
    pub(super) fn judge(&mut self, now: Instant, instance: &InstanceId, alone: bool) -> Option<ToScaler> {
        let Self { gateways, accused } = self;
        let by = &accused.get(instance)?.by;
        let mut believed = |name: &String| gateways.get_mut(name).is_some_and(|credit| credit.take(now));
        if alone || by.len() > 1 || by.iter().any(&mut believed) {
            return accused.remove(instance).map(|accused| accused.message);
        }
        None
    }

    /// It is no more, or granted anew.
    pub(super) fn forget(&mut self, instance: &InstanceId) {
        self.accused.remove(instance);
    }

    /// Those that are not judged yet.
    pub(super) fn accused(&self) -> Vec<InstanceId> {
        self.accused.keys().cloned().collect()
    }

    /// Forgets gateways that have gone, when they might accuse as before.
    pub(super) fn on_tick(&mut self, now: Instant) {
        let Self { gateways, accused } = self;
        gateways.retain(|_, credit| {
            credit.earn(now);
            credit.connections > 0 || credit.left < ACCUSATIONS
        });
        accused.retain(|_, accused| {
            accused.by.retain(|name| gateways.contains_key(name));
            !accused.by.is_empty()
        });
    }
}
