//! The policies that are compared.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hearth_dispatch::LoadReport;

use super::Machine;
use super::kpa::{Kpa, Settings};
use crate::pool::PoolPolicy;
use crate::window::Window;
use crate::{Counts, Policy, Reach, Tracker};

/// A policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Contender {
    /// Hearth's, with its pool; without one: `None`.
    Hearth(Policy, Option<PoolPolicy>),
    /// Knative's pod autoscaler with its defaults.
    Knative,
    /// An instance stays for so long after its last call; one is started whenever calls find no place. With a pool of a fixed size.
    Fixed {
        /// How long.
        keep: Duration,
        /// Pooled instances.
        pool: u32,
    },
}

impl Contender {
    /// Hearth as it comes.
    #[must_use]
    pub fn hearth() -> Self {
        Self::Hearth(Policy::default(), Some(PoolPolicy::default()))
    }

    /// All that are compared, with the names they have in the tables: Hearth as it comes and without its pool, Knative, `OpenWhisk`'s ten
    /// minutes, Fission's two minutes with a pool of three.
    #[must_use]
    pub fn all() -> [(&'static str, Self); 5] {
        [
            ("hearth", Self::hearth()),
            ("hearth, no pool", Self::Hearth(Policy::default(), None)),
            ("knative", Self::Knative),
            ("fixed 10 min", Self::Fixed { keep: Duration::from_secs(600), pool: 0 }),
            ("fixed 2 min, pool 3", Self::Fixed { keep: Duration::from_secs(120), pool: 3 }),
        ]
    }
}

/// How many instances there are of a function.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    pub(super) ready: u32,
    pub(super) starting: u32,
    pub(super) waiting: u32,
    pub(super) in_flight: u32,
}

/// What a policy wants.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wish {
    pub(super) starts: u32,
    pub(super) stops: u32,
    pub(super) recheck: Option<Instant>,
}

/// What a policy remembers of one function.
#[derive(Debug)]
pub(super) enum Memory {
    Hearth { tracker: Box<Tracker>, policy: Policy },
    Knative(Box<Knative>),
    Fixed { limit: u32, max: u32 },
}

impl Memory {
    pub(super) fn new(contender: &Contender, machine: &Machine, now: Instant) -> Self {
        match *contender {
            Contender::Hearth(policy, _) => {
                let policy = Policy { limit: machine.limit, max: machine.max, ..policy };
                Self::Hearth { tracker: Box::new(Tracker::new(&policy, Reach::Routed, now)), policy }
            }
            Contender::Knative => Self::Knative(Box::new(Knative::new(machine, now))),
            Contender::Fixed { .. } => Self::Fixed { limit: machine.limit.get(), max: machine.max.get() },
        }
    }

    pub(super) fn load(&mut self, report: &LoadReport, now: Instant) {
        match self {
            Self::Hearth { tracker, .. } => {
                tracker.load(&report.into(), now);
            }
            Self::Knative(knative) => {
                knative.window.advance(now);
                knative.window.note(report.average_concurrency, report.arrived, report.over);
                let since = now.checked_sub(report.over).unwrap_or(now);
                if report.average_concurrency > 0.0 {
                    knative.data_since.get_or_insert(since);
                }
            }
            Self::Fixed { .. } => {}
        }
    }

    pub(super) fn wanted(&mut self, waiting: u32, in_flight: u32, now: Instant) {
        if let Self::Hearth { tracker, .. } = self {
            tracker.wanted(waiting, in_flight, now);
        }
    }

    pub(super) fn started(&mut self, took: Duration) {
        if let Self::Hearth { tracker, .. } = self {
            tracker.started(took);
        }
    }

    pub(super) fn decide(&mut self, present: Present, parallel: NonZeroU32, now: Instant) -> Wish {
        let current = present.ready + present.starting;
        match self {
            Self::Hearth { tracker, policy } => {
                let counts =
                    Counts { ready: present.ready, starting: present.starting, parallel_starts: parallel };
                let decision = tracker.decide(policy, counts, now);
                Wish { starts: decision.starts(), stops: decision.stops(), recheck: decision.recheck }
            }
            Self::Knative(knative) => {
                let desired = knative.desired(present, now);
                Wish {
                    starts: desired.saturating_sub(current),
                    stops: current.saturating_sub(desired),
                    recheck: (current > 0 || desired > 0 || present.waiting > 0).then_some(knative.next),
                }
            }
            Self::Fixed { limit, max } => {
                let coming = present.starting.saturating_mul(*limit);
                let short = present.waiting.saturating_sub(coming).div_ceil(*limit);
                Wish { starts: short.min(max.saturating_sub(current)), ..Wish::default() }
            }
        }
    }
}

/// The tick of Knative's autoscaler.
const TICK: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Knative {
    kpa: Kpa,
    window: Window,
    /// Since when there are data: an average is over no more than that.
    data_since: Option<Instant>,
    next: Instant,
    desired: u32,
    max: u32,
}

impl Knative {
    fn new(machine: &Machine, now: Instant) -> Self {
        let settings = Settings::with_limit(machine.limit.get());
        Self {
            kpa: Kpa::new(settings),
            window: Window::new(settings.stable_window, now),
            data_since: None,
            next: now,
            desired: 0,
            max: machine.max.get(),
        }
    }

    fn desired(&mut self, present: Present, now: Instant) -> u32 {
        let calls = present.waiting + present.in_flight;
        // The activator tells of the first request at once, and does not wait for the tick.
        let poked = self.desired == 0 && calls > 0;
        if now < self.next && !poked {
            return self.desired;
        }
        self.window.advance(now);
        let known = self.data_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let over = |window: Duration, buckets: u32| {
            let average = self.window.average(buckets).calls;
            let share = known.as_secs_f64().clamp(1.0, window.as_secs_f64()) / window.as_secs_f64();
            average / share
        };
        let (stable, panic) = (over(Duration::from_secs(60), 60), over(Duration::from_secs(6), 6));
        if stable <= 0.0 {
            self.data_since = None;
        }
        let at_least = u32::from(poked || (calls > 0 && known < Duration::from_secs(1)));
        self.desired = self.kpa.scale(present.ready, stable, panic, now).max(at_least).min(self.max);
        self.next = now + TICK;
        self.desired
    }
}
