//! Gateway, machine and clock of the simulation.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::{Duration, Instant};

use hearth_dispatch::{Action, Admission, Dispatch, Grant, Granted, Origin, Placement, StartKind, ToScaler};
use hearth_function::{InstanceId, RevisionId};

use super::Machine;
use super::contender::{Contender, Memory, Present, Wish};
use super::outcome::{Outcome, SAMPLES, Sample};
use super::pooling::Pool;
use super::random::Random;
use super::trace::Trace;
use crate::{Candidate, Occupation, choose};

/// How often the gateway reports, as in production.
const REPORT: Duration = Duration::from_millis(200);

/// Steps from one word about how far it is to the next: some milliseconds.
const WATCH: u64 = 4096;

/// How often the pool is looked at when nothing is taken out of it.
const POOL_CHECK: Duration = Duration::from_secs(10);

pub(super) struct World<'a> {
    trace: &'a Trace,
    machine: &'a Machine,
    /// With a fixed keep-alive: how long.
    keep: Option<Duration>,
    epoch: Instant,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    /// Events so far: among those of one moment the first to be made is the first to happen.
    made: u64,
    functions: Vec<Function>,
    /// Functions that want starts.
    wanting: BTreeSet<usize>,
    starting: u32,
    instances_made: u64,
    pool: Pool,
    random: Random,
    in_flight: u32,
    most_waiting: u32,
    outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ended { function: usize, instance: InstanceId, grant: Grant, service: Duration },
    Started { function: usize, instance: InstanceId, kind: u8, took: Duration },
    Filled,
    Report { function: usize },
    Recheck { function: usize },
    Idle { function: usize, instance: InstanceId },
    PoolCheck,
    Sample,
}

struct Function {
    dispatch: Dispatch<Waiter, ()>,
    memory: Memory,
    instances: BTreeMap<InstanceId, Instance>,
    wanted: u32,
    reporting: bool,
    recheck: Option<Instant>,
}

/// A call that waits: its place in the trace, and since when.
type Waiter = (usize, Instant);

#[derive(Debug, Clone, Copy)]
struct Instance {
    began: Instant,
    ready: bool,
    leaving: bool,
    calls: u32,
    /// Since when it has no call, once it is ready.
    idle_since: Instant,
}

impl Function {
    fn present(&self) -> Present {
        let count = |ready| {
            let of = self.instances.values().filter(|instance| !instance.leaving && instance.ready == ready);
            u32::try_from(of.count()).unwrap_or(u32::MAX)
        };
        Present {
            ready: count(true),
            starting: count(false),
            waiting: u32::try_from(self.dispatch.waiting()).unwrap_or(u32::MAX),
            in_flight: self.dispatch.in_flight(),
        }
    }
}

impl<'a> World<'a> {
    pub(super) fn new(trace: &'a Trace, contender: &Contender, machine: &'a Machine, epoch: Instant) -> Self {
        let functions = (0..trace.functions.len()).map(|number| {
            let revision = RevisionId::parse(&format!("simulated/f{number}"))
                .expect("a letter and a number are a label");
            Function {
                dispatch: Dispatch::new(revision, machine.queue, epoch),
                memory: Memory::new(contender, machine, epoch),
                instances: BTreeMap::new(),
                wanted: 0,
                reporting: false,
                recheck: None,
            }
        });
        Self {
            trace,
            machine,
            keep: match contender {
                Contender::Fixed { keep, .. } => Some(*keep),
                Contender::Hearth(..) | Contender::Knative => None,
            },
            epoch,
            now: epoch,
            events: BinaryHeap::new(),
            made: 0,
            functions: functions.collect(),
            wanting: BTreeSet::new(),
            starting: 0,
            instances_made: 0,
            pool: Pool::new(contender, machine, epoch),
            random: Random::new(machine.seed),
            in_flight: 0,
            most_waiting: 0,
            outcome: Outcome::default(),
        }
    }

    pub(super) fn run(mut self, watch: &mut dyn FnMut(u64)) -> Outcome {
        let end = self.epoch + self.trace.length;
        self.push(self.epoch, Event::PoolCheck);
        self.push(self.epoch, Event::Sample);
        let mut next_call = 0;
        let mut steps: u64 = 0;
        loop {
            if steps.is_multiple_of(WATCH) {
                watch(self.thousandths(next_call));
            }
            steps += 1;
            let event_at = self.events.peek().map(|Reverse((at, ..))| *at);
            let call_at = self.trace.calls.get(next_call).map(|call| self.epoch + call.at);
            let at = match (call_at, event_at) {
                (Some(call), Some(event)) => call.min(event),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => break,
            };
            if at > end {
                break;
            }
            self.now = at;
            if call_at == Some(at) && event_at.is_none_or(|event| event > at) {
                self.arrive(next_call);
                next_call += 1;
            } else if let Some(Reverse((_, _, event))) = self.events.pop() {
                self.happen(event);
            }
            self.take_turns();
        }
        self.finish(end)
    }

    /// How far it is: half by the calls that have come, half by the time that has passed. Neither alone says it, as traces have bursts and
    /// quiet days.
    fn thousandths(&self, calls: usize) -> u64 {
        let half = |done: u128, all: u128| done * 500 / all.max(1);
        let passed = self.now.duration_since(self.epoch).as_nanos();
        // A count in memory fits.
        let (calls, all) = (calls as u128, self.trace.calls.len() as u128);
        let both = half(calls, all) + half(passed, self.trace.length.as_nanos());
        u64::try_from(both).unwrap_or(1000).min(1000)
    }

    fn push(&mut self, at: Instant, event: Event) {
        self.made += 1;
        self.events.push(Reverse((at, self.made, event)));
    }

    fn arrive(&mut self, call: usize) {
        let Some(number) = self.trace.calls.get(call).map(|call| call.function) else { return };
        let now = self.now;
        let Some(function) = self.functions.get_mut(number) else { return };
        match function.dispatch.on_request(now, Origin::New, |_| (call, now)) {
            Admission::Forward(placement) => self.begin(number, (call, now), &placement),
            Admission::Enqueued { .. } => {}
            Admission::Rejected(_) | Admission::Moved => self.outcome.refused += 1,
        }
        let Some(function) = self.functions.get_mut(number) else { return };
        let report = !std::mem::replace(&mut function.reporting, true);
        let wanted = function.dispatch.take_wanted();
        if report {
            self.push(now + REPORT, Event::Report { function: number });
        }
        self.most_waiting = self.most_waiting.max(self.functions[number].present().waiting);
        if let Some(ToScaler::CapacityWanted { waiting, in_flight, .. }) = wanted {
            self.functions[number].memory.wanted(waiting, in_flight, now);
            self.decide(number);
        }
    }

    /// A call runs from now on.
    fn begin(&mut self, number: usize, (call, since): Waiter, placement: &Placement<()>) {
        let now = self.now;
        match placement.start {
            StartKind::Cold => self.outcome.cold += 1,
            StartKind::Prewarmed => self.outcome.prewarmed += 1,
            StartKind::Paused | StartKind::Reserved | StartKind::Warm => {}
        }
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds to seven digits")]
        let wait = now.duration_since(since).as_secs_f64() as f32 * 1e3;
        self.outcome.waits.push(wait);
        self.outcome.served += 1;
        self.in_flight += 1;
        if let Some(instance) = self.functions[number].instances.get_mut(&placement.instance) {
            if instance.calls == 0 {
                self.outcome.wasted_seconds += now.duration_since(instance.idle_since).as_secs_f64();
            }
            instance.calls += 1;
        }
        let service = self.trace.calls[call].service;
        let (instance, grant) = (placement.instance.clone(), placement.grant);
        self.push(now + service, Event::Ended { function: number, instance, grant, service });
    }

    fn happen(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Ended { function, instance, grant, service } => {
                self.ended(function, (&instance, grant), service);
            }
            Event::Started { function, instance, kind, took } => self.started(function, instance, kind, took),
            Event::Filled => {
                self.starting -= 1;
                self.pool.filled();
            }
            Event::Report { function: number } => {
                let mut actions = Vec::new();
                let function = &mut self.functions[number];
                function.dispatch.on_tick(now, &mut actions);
                let report = function.dispatch.report(now);
                function.reporting = report.is_some();
                if let Some(report) = report {
                    function.memory.load(&report, now);
                    self.push(now + REPORT, Event::Report { function: number });
                    self.decide(number);
                }
                self.act(number, actions);
            }
            Event::Recheck { function } => {
                if self.functions[function].recheck == Some(now) {
                    self.functions[function].recheck = None;
                    self.decide(function);
                }
            }
            Event::Idle { function, instance } => {
                let Some(keep) = self.keep else { return };
                let known = self.functions[function].instances.get(&instance);
                if known.is_some_and(|known| {
                    known.ready && known.calls == 0 && now.duration_since(known.idle_since) >= keep
                }) {
                    self.put_out(function, &instance);
                }
            }
            Event::PoolCheck => self.push(now + POOL_CHECK, Event::PoolCheck),
            Event::Sample => {
                let instances: usize = self.functions.iter().map(|function| function.instances.len()).sum();
                self.outcome.samples.push(Sample {
                    at: now.duration_since(self.epoch),
                    instances: u32::try_from(instances).unwrap_or(u32::MAX),
                    pooled: self.pool.count(),
                    in_flight: self.in_flight,
                    waiting: std::mem::take(&mut self.most_waiting),
                });
                self.push(now + self.trace.length / SAMPLES, Event::Sample);
            }
        }
    }

    fn ended(&mut self, number: usize, (id, grant): (&InstanceId, Grant), service: Duration) {
        let now = self.now;
        self.in_flight -= 1;
        let function = &mut self.functions[number];
        if let Some(instance) = function.instances.get_mut(id) {
            instance.calls -= 1;
            instance.idle_since = now;
        }
        let mut actions = Vec::new();
        function.dispatch.on_slot_free(now, id, grant, Some(service), &mut actions);
        self.act(number, actions);
        self.idle_from_now(number, id);
    }

    /// With a fixed keep-alive, an instance that has no call is looked at when that is over.
    fn idle_from_now(&mut self, number: usize, id: &InstanceId) {
        let idle = self.functions[number].instances.get(id).is_some_and(|instance| instance.calls == 0);
        if let Some(keep) = self.keep.filter(|_| idle) {
            self.push(self.now + keep, Event::Idle { function: number, instance: id.clone() });
        }
    }

    fn started(&mut self, number: usize, id: InstanceId, kind: u8, took: Duration) {
        self.starting -= 1;
        let now = self.now;
        let function = &mut self.functions[number];
        function.memory.started(took);
        let Some(instance) = function.instances.get_mut(&id) else { return };
        instance.ready = true;
        instance.idle_since = now;
        let granted = Granted {
            instance: id.clone(),
            endpoint: (),
            slots: self.machine.limit.get(),
            single_use: false,
            start: if kind == 0 { StartKind::Cold } else { StartKind::Prewarmed },
            start_time: took,
            reserved: false,
        };
        let mut actions = Vec::new();
        function.dispatch.on_grant(now, granted, &mut actions);
        self.act(number, actions);
        self.idle_from_now(number, &id);
        self.decide(number);
    }

    fn act(&mut self, number: usize, actions: Vec<Action<Waiter, ()>>) {
        for action in actions {
            match action {
                Action::Forward { waiter, placement } => self.begin(number, waiter, &placement),
                Action::Reject { .. } | Action::Move { .. } => self.outcome.refused += 1,
                Action::Tell(ToScaler::Drained { instance }) => self.gone(number, &instance),
                Action::Tell(_) => {}
            }
        }
    }

    fn decide(&mut self, number: usize) {
        let (now, parallel) = (self.now, self.machine.parallel);
        let function = &mut self.functions[number];
        let present = function.present();
        let Wish { starts, stops, recheck } = function.memory.decide(present, parallel, now);
        function.wanted = starts;
        if starts > 0 {
            self.wanting.insert(number);
        } else {
            self.wanting.remove(&number);
        }
        if let Some(at) = recheck.filter(|at| Some(*at) != function.recheck) {
            let at = at.max(now + Duration::from_millis(1));
            function.recheck = Some(at);
            self.push(at, Event::Recheck { function: number });
        }
        if stops > 0 {
            let candidates: Vec<Candidate<InstanceId>> = self.functions[number]
                .instances
                .iter()
                .filter(|(_, instance)| !instance.leaving)
                .map(|(id, instance)| Candidate {
                    id: id.clone(),
                    occupation: match (instance.ready, instance.calls) {
                        (false, _) => Occupation::Starting,
                        (true, 0) => Occupation::Idle,
                        (true, calls) => Occupation::Busy { calls },
                    },
                    started: instance.began,
                })
                .collect();
            for id in choose(&candidates, usize::try_from(stops).unwrap_or(usize::MAX)) {
                self.put_out(number, &id);
            }
        }
    }

    fn put_out(&mut self, number: usize, id: &InstanceId) {
        let now = self.now;
        let function = &mut self.functions[number];
        let Some(instance) = function.instances.get_mut(id) else { return };
        if instance.ready {
            instance.leaving = true;
            let mut actions = Vec::new();
            function.dispatch.on_revoke(now, id, &mut actions);
            self.act(number, actions);
        } else {
            self.gone(number, id);
        }
    }

    fn gone(&mut self, number: usize, id: &InstanceId) {
        let function = &mut self.functions[number];
        if let Some(instance) = function.instances.remove(id) {
            self.count(&instance, self.now);
            let function = &mut self.functions[number];
            function.dispatch.on_gone(self.now, id);
        }
    }

    fn count(&mut self, instance: &Instance, end: Instant) {
        self.outcome.instance_seconds += end.duration_since(instance.began).as_secs_f64();
        if instance.ready && instance.calls == 0 {
            self.outcome.wasted_seconds += end.duration_since(instance.idle_since).as_secs_f64();
        }
    }

    /// Starts what is wanted, as far as turns go: first for those that calls wait for, as in production; then fills the pool.
    fn take_turns(&mut self) {
        while self.starting < self.machine.parallel.get() {
            let next = self.wanting.iter().copied().min_by_key(|number| {
                let present = self.functions[*number].present();
                (present.waiting == 0, present.starting)
            });
            let Some(number) = next else { break };
            self.start(number);
        }
        while self.starting < self.machine.parallel.get() && self.pool.adjust(self.now) {
            self.starting += 1;
            self.pool.fill(self.now);
            let took = self.machine.cold.draw(&mut self.random);
            self.push(self.now + took, Event::Filled);
        }
    }

    fn start(&mut self, number: usize) {
        let now = self.now;
        // What nobody waits for yet, one ahead of a call, leaves the pool to those that do.
        let pooled = self.functions[number].dispatch.waiting() > 0 && self.pool.take(now);
        let took = if pooled { &self.machine.pooled } else { &self.machine.cold }.draw(&mut self.random);
        self.starting += 1;
        self.instances_made += 1;
        let id = InstanceId::parse(&format!("i{}", self.instances_made))
            .expect("a letter and a number are a label");
        if pooled {
            self.outcome.pooled_starts += 1;
        } else {
            self.outcome.cold_starts += 1;
        }
        let instance = Instance { began: now, ready: false, leaving: false, calls: 0, idle_since: now };
        self.functions[number].instances.insert(id.clone(), instance);
        self.push(
            now + took,
            Event::Started { function: number, instance: id, kind: u8::from(pooled), took },
        );
        self.decide(number);
    }

    fn finish(mut self, end: Instant) -> Outcome {
        let left: Vec<Instance> =
            self.functions.iter().flat_map(|function| function.instances.values().copied()).collect();
        for instance in &left {
            self.count(instance, end);
        }
        self.pool.end(end);
        let mut outcome = self.outcome;
        outcome.pool_seconds = self.pool.seconds;
        outcome.memory_seconds = outcome.instance_seconds * self.machine.memory
            + outcome.pool_seconds * self.machine.pooled_memory;
        outcome.waits.sort_by(f32::total_cmp);
        outcome
    }
}
