//! What has to be remembered of a Revision between two decisions.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use hearth_dispatch::LoadReport;
use hearth_function::spec::KeepAlive;

use crate::decide::{Decision, Observation, Reach, decide};
use crate::keepalive::IdleTimes;
use crate::peak::Peak;
use crate::policy::Policy;
use crate::window::{BUCKETS, Window};

/// Starts whose time is remembered; their median counts, so that one slow start does not.
const STARTS: usize = 8;

/// Shorter times between calls are not learned: no instance goes so soon, and there are many of them.
const CHATTER: Duration = Duration::from_secs(10);

/// Over what time [`Policy::scale_down_rate`] holds: Knative's tick.
const RATE_STEP: Duration = Duration::from_secs(2);

/// One Revision's memory: reports in, [`Observation`]s out.
#[derive(Debug, Clone)]
pub struct Tracker {
    window: Window,
    needs: Peak,
    serving: Peak,
    idle_times: IdleTimes,
    waiting: u32,
    in_flight: u32,
    last_active: Instant,
    /// Whether there has been a call since routes led here: only then the time since [`Tracker::last_active`] is one between calls.
    called: bool,
    reach: Reach,
    /// Mean service time of the last window that saw a call end: what a start from zero goes by.
    service_time: Option<Duration>,
    starts: [Duration; STARTS],
    started: usize,
    burst: Option<Burst>,
    panic_until: Option<Instant>,
}

/// A backlog that is believed to be a burst: fewer instances are started than could run all of it at once.
#[derive(Debug, Clone, Copy)]
struct Burst {
    /// Calls that waited when it was believed.
    waiting: u32,
    /// If calls still wait then, it was a load and no burst.
    until: Instant,
}

/// What a gateway reports of a Revision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Calls that wait at the time of the report.
    pub waiting: u32,
    /// Calls that run at the time of the report.
    pub in_flight: u32,
    /// Average of running and waiting calls over the time the report covers.
    pub average: f64,
    /// The time the report covers, up to now.
    pub over: Duration,
    /// Requests that came in that time.
    pub arrived: u64,
    /// Calls that ended in that time.
    pub ended: u64,
    /// Sum of the service times of those.
    pub service_time: Duration,
}

impl From<&LoadReport> for Load {
    fn from(report: &LoadReport) -> Self {
        Self {
            waiting: report.waiting,
            in_flight: report.in_flight,
            average: report.average_concurrency,
            over: report.over,
            arrived: report.arrived,
            ended: report.completed,
            service_time: report.service_time,
        }
    }
}

/// What the pool counts of a Revision's instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Instances that serve; draining ones are not among them.
    pub ready: u32,
    /// Instances whose start is under way. A start that waits for its turn is not under way and not counted.
    pub starting: u32,
    /// Starts the machine runs at the same time.
    pub parallel_starts: NonZeroU32,
}

impl Tracker {
    /// A memory with nothing in it.
    #[must_use]
    pub fn new(policy: &Policy, reach: Reach, now: Instant) -> Self {
        Self {
            window: Window::new(policy.window, now),
            needs: Peak::new(policy.hold(), now),
            serving: Peak::new(RATE_STEP, now),
            idle_times: IdleTimes::default(),
            waiting: 0,
            in_flight: 0,
            last_active: now,
            called: false,
            reach,
            service_time: None,
            starts: [Duration::ZERO; STARTS],
            started: 0,
            burst: None,
            panic_until: None,
        }
    }

    /// Takes a gateway's regular report. With several gateways, `waiting` and `in_flight` are the sums over all of them.
    pub fn load(&mut self, load: &Load, now: Instant) {
        self.window.advance(now);
        self.window.note(load.average, load.arrived, load.over);
        self.window.note_ended(load.ended, load.service_time);
        self.service_time = self.window.mean_service().or(self.service_time);
        let traffic = load.arrived > 0 || load.ended > 0;
        // A report covers the time since the Revision stopped being idle: that is when the call came.
        let since = now.checked_sub(load.over).unwrap_or(now);
        self.calls(load.waiting, load.in_flight, traffic, since, now);
    }

    /// Takes a gateway's cry for capacity, which does not wait for the regular report.
    pub fn wanted(&mut self, waiting: u32, in_flight: u32, now: Instant) {
        self.calls(waiting, in_flight, true, now, now);
    }

    /// The policy has changed: what was measured over the old windows does not fit into the new ones. What is known of starts, calls and idle
    /// times stays.
    pub fn renew(&mut self, policy: &Policy, now: Instant) {
        self.window = Window::new(policy.window, now);
        self.needs = Peak::new(policy.hold(), now);
        self.burst = None;
    }

    /// The times between calls so far.
    #[must_use]
    pub fn idle_times(&self) -> &IdleTimes {
        &self.idle_times
    }

    /// Takes over what was learned of an earlier Revision of the same Function: its callers are the same.
    pub fn inherit(&mut self, idle_times: IdleTimes) {
        self.idle_times = idle_times;
    }

    /// Notes how long a start took, from the decision to Ready.
    pub fn started(&mut self, took: Duration) {
        self.starts[self.started % STARTS] = took;
        self.started += 1;
    }

    /// Routes lead here now, or no longer do. A Revision that routes come to has the whole idle timeout before it.
    pub fn reach(&mut self, reach: Reach, now: Instant) {
        if reach == Reach::Routed && self.reach != Reach::Routed {
            self.last_active = self.last_active.max(now);
        }
        self.reach = reach;
    }

    /// What is known now.
    #[must_use]
    pub fn observe(&self, policy: &Policy, counts: Counts, now: Instant) -> Observation {
        let panic_buckets = (BUCKETS * u32::from(policy.panic_window.hundredths())).div_ceil(100);
        let idle = self.waiting == 0 && self.in_flight == 0;
        // Nobody asks for it while there are calls.
        let learned = idle && policy.keep_alive == KeepAlive::Learned;
        Observation {
            waiting: self.waiting,
            in_flight: self.in_flight,
            ready: counts.ready,
            starting: counts.starting,
            parallel_starts: counts.parallel_starts,
            average: self.window.average(BUCKETS),
            panic_average: self.window.average(panic_buckets),
            panicking: self.panic_until.is_some_and(|until| now < until),
            service_time: self.service_time,
            start_time: self.start_time(),
            recent_need: self.needs.highest(now),
            recent_ready: self.serving.highest(now).max(counts.ready),
            last_active: self.last_active,
            outlook: learned.then(|| self.idle_times.outlook(&policy.learning)).flatten(),
            overdue: self.burst.is_some_and(|burst| now >= burst.until),
            reach: self.reach,
        }
    }

    /// Decides, and remembers what the decision asked for.
    pub fn decide(&mut self, policy: &Policy, counts: Counts, now: Instant) -> Decision {
        self.window.advance(now);
        self.serving.note(counts.ready, now);
        let seen = self.observe(policy, counts, now);
        let decision = decide(policy, &seen, now);
        self.needs.note(decision.need, now);
        if decision.panic {
            self.panic_until = Some(now + policy.window);
        }
        if let Some(drained_in) = decision.drained_in
            && self.burst.is_none_or(|burst| seen.waiting > burst.waiting)
        {
            // Twice what was expected: the times it was reckoned from are means.
            self.burst = Some(Burst { waiting: seen.waiting, until: now + drained_in.saturating_mul(2) });
        }
        decision
    }

    /// `since`: when traffic began, if there was none before.
    fn calls(&mut self, waiting: u32, in_flight: u32, traffic: bool, since: Instant, now: Instant) {
        let traffic = traffic || waiting > 0 || in_flight > 0;
        let was_idle = self.waiting == 0 && self.in_flight == 0;
        let idle = since.saturating_duration_since(self.last_active);
        if was_idle && traffic && self.called && idle >= CHATTER {
            self.idle_times.note(idle);
        }
        self.called |= traffic;
        self.waiting = waiting;
        self.in_flight = in_flight;
        if waiting == 0 {
            self.burst = None;
        }
        if traffic {
            self.last_active = self.last_active.max(now);
        }
    }

    fn start_time(&self) -> Option<Duration> {
        let mut known = self.starts;
        let known = &mut known[..self.started.min(STARTS)];
        known.sort_unstable();
        known.get(known.len() / 2).copied()
    }
}
