//! A backend in memory, with faults on demand, for the tests of what stands on backends.
//!
//! Its instances are scripts ([`Peer`]) that speak the invocation protocol over real Unix sockets in a temporary directory, in this
//! process: pool and gateway run end to end without a container. Nothing in here waits by the wall clock; the delays of a [`Plan`] are
//! tokio's, so a test can pause time.

mod peer;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use hearth_function::InstanceId;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::peer::{Peer, Response};
use super::code_place::CodePlace;
use super::ends::Ends;
use super::{
    Address, Backend, Capability, CodeMount, Ended, Error, Exit, Found, InstanceSpec, Limits, Owner, Started,
    Stats,
};

/// Ends that nobody has taken yet; more are lost, which no test should need.
const ENDS: usize = 1024;

/// How a start goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Plan {
    /// At once, and the instance lives until it is stopped.
    #[default]
    Works,
    /// After this time.
    Slow(Duration),
    /// Not: with this text as the reason.
    Fails(String),
    /// Never returns; dropping the call leaves nothing.
    Hangs,
    /// It starts, and ends by itself so much later.
    DiesAfter(Duration, Exit),
    /// It starts, but nothing ever listens at its addresses.
    Silent,
}

/// What was asked of the backend, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `start`, when it was called.
    Start(InstanceId),
    /// `inject`.
    Inject(InstanceId, CodeMount),
    /// `record`.
    Record(InstanceId, Owner),
    /// `limit`.
    Limit(InstanceId, Limits),
    /// `pause`.
    Pause(InstanceId),
    /// `resume`.
    Resume(InstanceId),
    /// `stop`, when it was called.
    Stop(InstanceId),
    /// `close`.
    Close,
}

/// The backend. Cheap to make; the directory of its sockets goes with it.
#[derive(Debug)]
pub struct Fake {
    own: Weak<Self>,
    directory: PathBuf,
    state: Mutex<State>,
    end: mpsc::Sender<Ended>,
    ends: Ends,
    tasks: TaskTracker,
    peer: Peer,
}

#[derive(Debug, Default)]
struct State {
    plans: VecDeque<Plan>,
    otherwise: Plan,
    instances: BTreeMap<InstanceId, Instance>,
    strangers: Vec<Found>,
    calls: Vec<Call>,
    stops: Stops,
    failing_lists: usize,
}

/// How stops go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stops {
    /// At once.
    #[default]
    Work,
    /// They never return.
    Hang,
    /// They fail, and the instance stays.
    Fail,
}

#[derive(Debug)]
struct Instance {
    spec: InstanceSpec,
    started: Started,
    life: CancellationToken,
    ended: watch::Sender<Option<Exit>>,
    paused: watch::Sender<bool>,
    code_place: CodePlace,
    limits: Limits,
}

impl Fake {
    /// A backend whose instances answer every call with 200 and say what they were called with ([`Peer::echo`]).
    ///
    /// # Panics
    /// When there is no temporary directory.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with_peer(Peer::echo())
    }

    /// A backend whose instances do what `peer` says.
    ///
    /// # Panics
    /// When there is no temporary directory.
    #[must_use]
    pub fn with_peer(peer: Peer) -> Arc<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the kernel has random bytes");
        let name = format!("hearth-fake-{:016x}", u64::from_ne_bytes(random));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).expect("there is a temporary directory");
        let (end, ends) = Ends::with_room(ENDS);
        let (state, tasks) = (Mutex::default(), TaskTracker::new());
        Arc::new_cyclic(|own| Self { own: own.clone(), directory, state, end, ends, tasks, peer })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How the next start goes; those planned before come before.
    pub fn plan(&self, plan: Plan) {
        self.state().plans.push_back(plan);
    }

    /// How every start goes that has no plan of its own.
    pub fn plan_all(&self, plan: Plan) {
        self.state().otherwise = plan;
    }

    /// How stops go from now on.
    pub fn stops(&self, stops: Stops) {
        self.state().stops = stops;
    }

    /// So many of the next questions for what there is fail.
    pub fn fail_lists(&self, times: usize) {
        self.state().failing_lists = times;
    }

    /// Ends an instance, as if its process had. One that is not here stays so.
    pub fn kill(&self, instance: &InstanceId, exit: &Exit) {
        let mut state = self.state();
        let Some(found) = state.instances.get_mut(instance) else { return };
        if found.ended.borrow().is_some() {
            return;
        }
        found.life.cancel();
        found.ended.send_replace(Some(*exit));
        self.end.try_send(Ended { instance: instance.clone(), exit: *exit }).ok();
    }

    /// Puts an instance into what `list` finds that was never started here: one of a controller before.
    pub fn stranger(&self, found: Found) {
        self.state().strangers.push(found);
    }

    /// Names of the instances that run.
    #[must_use]
    pub fn running(&self) -> Vec<InstanceId> {
        let state = self.state();
        let alive = state.instances.iter().filter(|(_, one)| one.ended.borrow().is_none());
        alive.map(|(id, _)| id.clone()).collect()
    }

    /// Whether the instance is here and frozen.
    #[must_use]
    pub fn is_paused(&self, instance: &InstanceId) -> bool {
        self.state().instances.get(instance).is_some_and(|one| *one.paused.borrow())
    }

    /// Everything that was asked so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// Notes a call about an instance that must run.
    fn with<T>(
        &self,
        call: Call,
        instance: &InstanceId,
        act: impl FnOnce(&mut Instance) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut state = self.state();
        state.calls.push(call);
        let found = state.instances.get_mut(instance).filter(|one| one.ended.borrow().is_none());
        act(found.ok_or_else(|| Error::NotFound(instance.clone()))?)
    }

    fn enter(&self, spec: &InstanceSpec, plan: &Plan) -> Result<Started, Error> {
        let failed =
            |source| Error::Step { step: "make the instance's directory", instance: spec.id.clone(), source };
        let directory = self.directory.join(spec.id.as_str());
        std::fs::create_dir_all(&directory).map_err(failed)?;
        let (invoke, control) = (directory.join("invoke.sock"), directory.join("control.sock"));
        let (life, ended, paused) =
            (CancellationToken::new(), watch::Sender::new(None), watch::Sender::new(false));
        if *plan != Plan::Silent {
            for (path, role) in [(&invoke, peer::Socket::Invoke), (&control, peer::Socket::Control)] {
                let listener = tokio::net::UnixListener::bind(path).map_err(failed)?;
                let serving = self.peer.clone().serve(listener, role, spec.clone(), paused.subscribe());
                let life = life.clone();
                self.tasks.spawn(async move {
                    life.run_until_cancelled(serving).await;
                });
            }
        }
        let started = Started {
            invoke: Address::Unix(invoke),
            control: Address::Unix(control),
            create: if let Plan::Slow(time) = plan { *time } else { Duration::ZERO },
        };
        let instance = Instance {
            spec: spec.clone(),
            started: started.clone(),
            life,
            ended,
            paused,
            code_place: CodePlace::new(spec.code.is_some()),
            limits: spec.limits,
        };
        self.state().instances.insert(spec.id.clone(), instance);
        Ok(started)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        for instance in self.state().instances.values() {
            instance.life.cancel();
        }
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

#[async_trait]
impl Backend for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<Started, Error> {
        let plan = {
            let mut state = self.state();
            state.calls.push(Call::Start(spec.id.clone()));
            if state.instances.contains_key(&spec.id) {
                return Err(Error::name_is_taken(&spec.id));
            }
            if let Some(code) = &spec.code
                && !code.path.exists()
            {
                let source = io::Error::from(io::ErrorKind::NotFound);
                return Err(Error::Step { step: "make the container", instance: spec.id.clone(), source });
            }
            state.plans.pop_front().unwrap_or_else(|| state.otherwise.clone())
        };
        match &plan {
            Plan::Hangs => std::future::pending().await,
            Plan::Slow(time) => tokio::time::sleep(*time).await,
            Plan::Fails(reason) => {
                let source = io::Error::other(reason.clone());
                return Err(Error::Step { step: "make the container", instance: spec.id.clone(), source });
            }
            Plan::Works | Plan::DiesAfter(..) | Plan::Silent => {}
        }
        let started = self.enter(spec, &plan)?;
        if let Plan::DiesAfter(time, exit) = plan {
            let (fake, id) = (self.own.clone(), spec.id.clone());
            self.tasks.spawn(async move {
                tokio::time::sleep(time).await;
                if let Some(fake) = fake.upgrade() {
                    fake.kill(&id, &exit);
                }
            });
        }
        Ok(started)
    }

    async fn inject(&self, instance: &InstanceId, code: &CodeMount) -> Result<(), Error> {
        self.with(Call::Inject(instance.clone(), code.clone()), instance, |found| {
            found.code_place.take(instance)
        })
    }

    async fn record(&self, instance: &InstanceId, owner: &Owner, code: &CodeMount) -> Result<(), Error> {
        self.with(Call::Record(instance.clone(), owner.clone()), instance, |found| {
            (found.spec.owner, found.spec.code) = (Some(owner.clone()), Some(code.clone()));
            Ok(())
        })
    }

    async fn limit(&self, instance: &InstanceId, limits: &Limits) -> Result<(), Error> {
        self.with(Call::Limit(instance.clone(), *limits), instance, |found| {
            found.limits = *limits;
            Ok(())
        })
    }

    async fn pause(&self, instance: &InstanceId) -> Result<(), Error> {
        self.with(Call::Pause(instance.clone()), instance, |found| {
            found.paused.send_replace(true);
            Ok(())
        })
    }

    async fn resume(&self, instance: &InstanceId) -> Result<(), Error> {
        self.with(Call::Resume(instance.clone()), instance, |found| {
            found.paused.send_replace(false);
            Ok(())
        })
    }

    async fn stop(&self, instance: &InstanceId, _grace: Duration) -> Result<(), Error> {
        let stops = {
            let mut state = self.state();
            state.calls.push(Call::Stop(instance.clone()));
            state.stops
        };
        match stops {
            Stops::Work => {}
            Stops::Hang => std::future::pending().await,
            Stops::Fail => {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(Error::Step { step: "see the process end", instance: instance.clone(), source });
            }
        }
        // What the shim answers SIGTERM with.
        self.kill(instance, &Exit { code: Some(143), signal: None, out_of_memory: false });
        let mut state = self.state();
        state.instances.remove(instance);
        state.strangers.retain(|found| found.spec.id != *instance);
        std::fs::remove_dir_all(self.directory.join(instance.as_str())).ok();
        Ok(())
    }

    async fn stats(&self, instance: &InstanceId) -> Result<Stats, Error> {
        let state = self.state();
        let found = state.instances.get(instance).filter(|one| one.ended.borrow().is_none());
        let found = found.ok_or_else(|| Error::NotFound(instance.clone()))?;
        // A tenth of what it may have: something that a sum can be checked with.
        let memory_bytes = found.limits.memory_bytes / 10;
        Ok(Stats {
            cpu: Duration::from_millis(1),
            memory_bytes,
            memory_peak_bytes: memory_bytes,
            pids: 2,
            pids_refused: 0,
        })
    }

    async fn list(&self) -> Result<Vec<Found>, Error> {
        let mut state = self.state();
        if let Some(left) = state.failing_lists.checked_sub(1) {
            state.failing_lists = left;
            let (instance, source) =
                (InstanceId::parse("none").expect("a label"), io::Error::other("it is away"));
            return Err(Error::Step { step: "list the instances", instance, source });
        }
        let own = state.instances.values().map(|one| Found {
            spec: one.spec.clone(),
            started: one.started.clone(),
            ended: *one.ended.borrow(),
            taken_away: None,
        });
        Ok(own.chain(state.strangers.iter().cloned()).collect())
    }

    fn exits(&self) -> mpsc::Receiver<Ended> {
        self.ends.take()
    }

    async fn probe(&self) -> Vec<Capability> {
        vec![Capability {
            name: "memory".to_owned(),
            works: true,
            detail: "nothing leaves this process".to_owned(),
            remedy: None,
        }]
    }

    async fn close(&self) -> Result<(), Error> {
        self.state().calls.push(Call::Close);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
