//! The books of pooled instances: which there are of each runtime class, and how many there should be. No effects: the service starts and
//! stops what is said here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hearth_function::InstanceId;
use hearth_scaler::pool::{Demand, PoolDecision, PoolObservation, PoolPolicy, targets};
use tokio::time::Instant;

use super::pressure::Rate;
use crate::pool::Class;

/// What a pooled instance is taken to hold until one was measured, where nothing says what is kept for it: a Node process after its
/// exercise.
const ASSUMED_BYTES: u64 = 24 << 20;

/// What making a pooled instance is taken to last until one was made.
const ASSUMED_REFILL: Duration = Duration::from_millis(200);

/// After a pooled instance did not come up, its class rests: at first so long, then twice as long each time.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(60);

/// How pools are sized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whether there are any.
    pub enabled: bool,
    /// Instances of each runtime class that functions have, when nothing is known of their demand.
    pub size: u32,
    /// Instances of a class at most.
    pub max: u32,
    /// How long a demand above `size` is remembered.
    pub ttl: Duration,
    /// What all pools together may hold, in bytes.
    pub memory_bytes: u64,
}

impl Settings {
    fn policy(&self) -> PoolPolicy {
        PoolPolicy { least: self.size, most: self.max, ttl: self.ttl, memory: self.memory_bytes }
    }

    /// No pools.
    #[must_use]
    pub const fn off() -> Self {
        Self { enabled: false, size: 0, max: 0, ttl: Duration::ZERO, memory_bytes: 0 }
    }
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Prewarm {
    settings: Settings,
    /// What the machine has left for pools beside those that there are, in bytes.
    left: u64,
    shelves: BTreeMap<Class, Shelf>,
}

/// The pool of one class.
#[derive(Debug)]
struct Shelf {
    class: Arc<Class>,
    /// Whether functions have this class.
    wanted: bool,
    /// Pooled, the oldest first.
    ready: VecDeque<InstanceId>,
    /// On their way.
    starting: BTreeMap<InstanceId, Begun>,
    demand: Demand,
    rate: Rate,
    /// What one holds.
    bytes: u64,
    failures: u32,
    rests_until: Option<Instant>,
}

/// An instance on its way to a pool.
#[derive(Debug, Clone, Copy)]
struct Begun {
    at: Instant,
    /// It waits for something that takes its time, as an image.
    slow: bool,
}

impl Shelf {
    fn count(&self) -> u32 {
        u32::try_from(self.ready.len() + self.starting.len()).unwrap_or(u32::MAX)
    }
}

/// A pool as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolView {
    /// `nodejs, 128Mi, outbound`.
    pub class: String,
    /// Pooled instances.
    pub ready: u32,
    /// On their way.
    pub starting: u32,
    /// How many there should be.
    pub target: u32,
    /// Why so many.
    pub why: String,
    /// What one holds, in bytes.
    pub bytes_each: u64,
}

impl Prewarm {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, left: u64::MAX, shelves: BTreeMap::new() }
    }

    /// Says which classes functions have.
    pub(super) fn functions_have<'a>(&mut self, classes: impl Iterator<Item = &'a Class>, now: Instant) {
        if !self.settings.enabled {
            return;
        }
        self.shelves.values_mut().for_each(|shelf| shelf.wanted = false);
        for class in classes {
            if let Some(shelf) = self.shelves.get_mut(class) {
                shelf.wanted = true;
                continue;
            }
            let shelf = Shelf {
                class: Arc::new(class.clone()),
                wanted: true,
                ready: VecDeque::new(),
                starting: BTreeMap::new(),
                demand: Demand::new(&self.settings.policy(), ASSUMED_REFILL, now.into_std()),
                rate: Rate::new(now),
                bytes: class.kept_bytes().unwrap_or(ASSUMED_BYTES),
                failures: 0,
                rests_until: None,
            };
            self.shelves.insert(class.clone(), shelf);
        }
        self.shelves.retain(|_, shelf| shelf.wanted || shelf.count() > 0);
    }

    /// Whether a start of this class need not begin from nothing.
    pub(super) fn has(&self, class: &Class) -> bool {
        self.shelves.get(class).is_some_and(|shelf| !shelf.ready.is_empty())
    }

    /// A function needs an instance of this class: the one that has been pooled longest, if there is one.
    pub(super) fn take(&mut self, class: &Class, now: Instant) -> Option<InstanceId> {
        let shelf = self.shelves.get_mut(class)?;
        shelf.demand.wanted(now.into_std());
        shelf.rate.note(1, now);
        shelf.ready.pop_front()
    }

    pub(super) fn began(&mut self, class: &Class, instance: InstanceId, now: Instant) {
        if let Some(shelf) = self.shelves.get_mut(class) {
            shelf.starting.insert(instance, Begun { at: now, slow: false });
        }
    }

    fn shelf_that_starts(&mut self, instance: &InstanceId) -> Option<&mut Shelf> {
        self.shelves.values_mut().find(|shelf| shelf.starting.contains_key(instance))
    }

    /// A start waits for what takes its time, or does so no more.
    pub(super) fn note_slow(&mut self, instance: &InstanceId, slow: bool) {
        let begun = self.shelf_that_starts(instance).and_then(|shelf| shelf.starting.get_mut(instance));
        if let Some(begun) = begun {
            begun.slow = slow;
        }
    }

    /// An instance that was begun is pooled.
    pub(super) fn pooled(&mut self, instance: &InstanceId, bytes: u64, now: Instant) {
        if let Some(shelf) = self.shelf_that_starts(instance) {
            if let Some(began) = shelf.starting.remove(instance) {
                shelf.demand.refill(now.saturating_duration_since(began.at));
            }
            shelf.ready.push_back(instance.clone());
            shelf.failures = 0;
            shelf.rests_until = None;
            if bytes > 0 {
                shelf.bytes = bytes;
            }
        }
    }

    /// An instance did not come up.
    pub(super) fn failed(&mut self, instance: &InstanceId, now: Instant) {
        if let Some(shelf) = self.shelf_that_starts(instance) {
            shelf.starting.remove(instance);
            let rest = FIRST_REST.saturating_mul(1 << shelf.failures.min(16)).min(LONGEST_REST);
            shelf.failures += 1;
            shelf.rests_until = Some(now + rest);
        }
    }

    /// An instance is no more, or is to go.
    pub(super) fn lost(&mut self, instance: &InstanceId) {
        for shelf in self.shelves.values_mut() {
            shelf.starting.remove(instance);
            shelf.ready.retain(|other| other != instance);
        }
    }

    /// The machine has so much left for pools, in bytes.
    pub(super) fn memory_left(&mut self, bytes: u64) {
        self.left = bytes;
    }

    /// Whether an instance is pooled.
    pub(super) fn knows(&self, instance: &InstanceId) -> bool {
        self.shelves.values().any(|shelf| shelf.ready.contains(instance))
    }

    /// Every pooled instance, and how often in a minute one like it is asked for.
    pub(super) fn ready(&mut self, now: Instant) -> Vec<(InstanceId, f64)> {
        let mut all = Vec::new();
        for shelf in self.shelves.values_mut() {
            let count = f64::from(u32::try_from(shelf.ready.len()).unwrap_or(u32::MAX).max(1));
            let each = shelf.rate.per_minute(now) / count;
            all.extend(shelf.ready.iter().map(|instance| (instance.clone(), each)));
        }
        all
    }

    /// On their way to a pool, without those that wait for what takes its time.
    pub(super) fn starting(&self) -> u32 {
        let all = self.shelves.values().flat_map(|shelf| shelf.starting.values());
        u32::try_from(all.filter(|begun| !begun.slow).count()).unwrap_or(u32::MAX)
    }

    /// How many there should be of each class, and why; within the budget of all of them.
    fn targets(&self, now: Instant) -> BTreeMap<&Class, PoolDecision> {
        let held = self.shelves.values().map(|shelf| u64::from(shelf.count()).saturating_mul(shelf.bytes));
        let held = held.fold(0, u64::saturating_add);
        let memory = self.settings.memory_bytes.min(self.left.saturating_add(held));
        let pool = |shelf: &Shelf| {
            let policy = self.settings.policy();
            let policy = if shelf.wanted { policy } else { PoolPolicy { least: 0, most: 0, ..policy } };
            let seen = PoolObservation {
                peak: shelf.demand.peak(now.into_std()),
                last_wanted: shelf.demand.last_wanted(),
                size: shelf.bytes,
                present: shelf.count(),
            };
            (policy, seen)
        };
        let pools: Vec<_> = self.shelves.values().map(pool).collect();
        self.shelves.keys().zip(targets(memory, &pools, now.into_std())).collect()
    }

    /// Instances that are too many: the youngest go.
    pub(super) fn surplus(&self, now: Instant) -> Vec<InstanceId> {
        let targets = self.targets(now);
        let mut surplus = Vec::new();
        for (class, shelf) in &self.shelves {
            let target = targets.get(class).map_or(0, |decision| decision.desired);
            let ready = u32::try_from(shelf.ready.len()).unwrap_or(u32::MAX);
            let over = usize::try_from(ready.saturating_sub(target)).unwrap_or(0);
            surplus.extend(shelf.ready.iter().rev().take(over).cloned());
        }
        surplus
    }

    /// The class that lacks most, if one does and may be started.
    pub(super) fn next(&self, now: Instant) -> Option<Arc<Class>> {
        let targets = self.targets(now);
        let lacks = |shelf: &Shelf| {
            let target = targets.get(&*shelf.class).map_or(0, |decision| decision.desired);
            target.saturating_sub(shelf.count())
        };
        let rested = |shelf: &&Shelf| shelf.rests_until.is_none_or(|until| until <= now);
        self.shelves
            .values()
            .filter(rested)
            .map(|shelf| (lacks(shelf), shelf))
            .filter(|(lacks, _)| *lacks > 0)
            // An empty pool first, then the greatest lack.
            .max_by_key(|(lacks, shelf)| (shelf.ready.is_empty(), *lacks))
            .map(|(_, shelf)| Arc::clone(&shelf.class))
    }

    pub(super) fn views(&self, now: Instant) -> Vec<PoolView> {
        let targets = self.targets(now);
        self.shelves
            .iter()
            .map(|(class, shelf)| PoolView {
                class: class.to_string(),
                ready: u32::try_from(shelf.ready.len()).unwrap_or(u32::MAX),
                starting: u32::try_from(shelf.starting.len()).unwrap_or(u32::MAX),
                target: targets.get(class).map_or(0, |decision| decision.desired),
                why: targets.get(class).map(|decision| decision.reason.to_string()).unwrap_or_default(),
                bytes_each: shelf.bytes,
            })
            .collect()
    }
}
