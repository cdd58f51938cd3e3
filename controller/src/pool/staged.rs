//! A backend for the tests of pool and autoscaler: its instances are tasks of the test itself that speak the protocol over sockets in a
//! directory of the test, and behave as they are told.

mod instances;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hearth_function::InstanceId;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::backend::{
    Address, Backend, Capability, CodeMount, Ended, Error, Exit, Found, Hindered, Hindrance, InstanceSpec,
    Limits, Owner, Started, Stats, TakenAway,
};
use instances::{Calls, Serving, serve, serve_control};

/// What the next instance does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Act {
    /// It comes up.
    ComeUp,
    /// The backend cannot make it.
    NotMade,
    /// It prints a line and cannot load its code.
    CannotLoad,
    /// It prints a line and ends while it boots.
    EndsInBoot,
    /// It never answers.
    Hangs,
    /// It comes up, and answers no second greeting.
    HangsLater,
    /// It comes up, and refuses every call.
    Refuses,
    /// The backend panics.
    Panics,
    /// No node takes it until [`Staged::make_room`]; then it comes up.
    Hindered,
    /// Its image is pulled until then.
    Pulled,
}

#[derive(Debug)]
pub(crate) struct Staged {
    directory: PathBuf,
    stage: Mutex<Stage>,
    ends: mpsc::Sender<Ended>,
    exits: Mutex<Option<mpsc::Receiver<Ended>>>,
    hinder: mpsc::Sender<Hindered>,
    hindrances: Mutex<Option<mpsc::Receiver<Hindered>>>,
    take_away: mpsc::Sender<TakenAway>,
    taken_away: Mutex<Option<mpsc::Receiver<TakenAway>>>,
    room: watch::Sender<bool>,
    /// Told whenever an instance is taken away.
    pub(crate) stopped: Notify,
    /// The same, for stops of it that run still.
    killed: Notify,
    /// Told whenever a freeze begins.
    pub(crate) freezing: Notify,
    /// Held while freezes are not to come to their end.
    freezes: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct Stage {
    acts: VecDeque<Act>,
    otherwise: Option<Act>,
    running: BTreeMap<InstanceId, Running>,
    starts: usize,
    stops: Vec<(InstanceId, Duration)>,
    frozen: std::collections::BTreeSet<InstanceId>,
    thaws: usize,
    failing_thaws: usize,
    start_time: Duration,
    failing_stops: usize,
    /// A stop takes all its grace.
    stubborn: bool,
    /// Only one without a grace does anything.
    lost: bool,
    pids_refused: u64,
    stats_asked: usize,
    stats_hang: bool,
    /// How long a call takes.
    call_time: Duration,
    /// Calls of all instances so far.
    calls: BTreeMap<InstanceId, Arc<Calls>>,
}

#[derive(Debug)]
struct Running {
    spec: InstanceSpec,
    started: Started,
    ended: Option<Exit>,
    taken_away: Option<Duration>,
    _servers: JoinSet<()>,
}

impl Staged {
    pub(crate) fn new(directory: &Path) -> Arc<Self> {
        let (ends, exits) = mpsc::channel(16);
        let (hinder, hindrances) = mpsc::channel(16);
        let (take_away, taken_away) = mpsc::channel(16);
        Arc::new(Self {
            directory: directory.to_owned(),
            stage: Mutex::default(),
            ends,
            exits: Mutex::new(Some(exits)),
            hinder,
            hindrances: Mutex::new(Some(hindrances)),
            take_away,
            taken_away: Mutex::new(Some(taken_away)),
            room: watch::Sender::new(false),
            stopped: Notify::new(),
            killed: Notify::new(),
            freezing: Notify::new(),
            freezes: Arc::default(),
        })
    }

    /// The next instances behave so, one each; those after them come up.
    pub(crate) fn will(&self, acts: impl IntoIterator<Item = Act>) {
        self.stage.lock().unwrap().acts.extend(acts);
    }

    /// All instances that nothing was said of behave so.
    pub(crate) fn always(&self, act: Act) {
        self.stage.lock().unwrap().otherwise = Some(act);
    }

    /// There is a node for those that found none.
    pub(crate) fn make_room(&self) {
        self.room.send_replace(true);
    }

    async fn wait_for_room(&self, instance: &InstanceId, by: Hindrance) {
        let hindered = |by: Hindrance| Hindered { instance: instance.clone(), by };
        self.hinder.send(hindered(by)).await.unwrap();
        self.room.subscribe().wait_for(|room| *room).await.unwrap();
        self.hinder.send(hindered(Hindrance::Over)).await.unwrap();
    }

    /// How long making a container takes.
    pub(crate) fn takes(&self, time: Duration) {
        self.stage.lock().unwrap().start_time = time;
    }

    /// How long a call takes from now on.
    pub(crate) fn call_takes(&self, time: Duration) {
        self.stage.lock().unwrap().call_time = time;
    }

    /// The most calls that have begun in one instance.
    pub(crate) fn most_of_one(&self) -> usize {
        let stage = self.stage.lock().unwrap();
        stage.calls.values().map(|calls| calls.begun.load(Ordering::Acquire)).max().unwrap_or(0)
    }

    /// Calls that have begun, of all instances.
    pub(crate) fn calls_begun(&self) -> usize {
        let stage = self.stage.lock().unwrap();
        stage.calls.values().map(|calls| calls.begun.load(Ordering::Acquire)).sum()
    }

    /// The most calls that ran at once in any instance.
    pub(crate) fn most_at_once(&self) -> usize {
        let stage = self.stage.lock().unwrap();
        stage.calls.values().map(|calls| calls.most.load(Ordering::Acquire)).max().unwrap_or(0)
    }

    /// Every instance was refused so many processes since its start.
    pub(crate) fn refuse_processes(&self, times: u64) {
        self.stage.lock().unwrap().pids_refused = times;
    }

    /// Whether questions for what an instance uses get no answer from now on.
    pub(crate) fn hang_stats(&self, hang: bool) {
        self.stage.lock().unwrap().stats_hang = hang;
    }

    /// How often it was asked what an instance uses.
    pub(crate) fn stats_asked(&self) -> usize {
        self.stage.lock().unwrap().stats_asked
    }

    /// So many times from now on, the backend cannot take an instance away.
    pub(crate) fn cannot_stop(&self, times: usize) {
        self.stage.lock().unwrap().failing_stops = times;
    }

    /// From now on no instance heeds SIGTERM: each stop takes the whole of its grace, or as long as another one of the same time.
    pub(crate) fn heeds_no_signal(&self) {
        self.stage.lock().unwrap().stubborn = true;
    }

    /// From now on nobody says of an instance that it has ended: a stop fails after its grace, unless it has none.
    pub(crate) fn is_lost(&self) {
        self.stage.lock().unwrap().lost = true;
    }

    pub(crate) fn running(&self) -> Vec<InstanceId> {
        self.stage.lock().unwrap().running.keys().cloned().collect()
    }

    pub(crate) fn starts(&self) -> usize {
        self.stage.lock().unwrap().starts
    }

    pub(crate) fn stops(&self) -> Vec<(InstanceId, Duration)> {
        self.stage.lock().unwrap().stops.clone()
    }

    pub(crate) fn frozen(&self) -> Vec<InstanceId> {
        self.stage.lock().unwrap().frozen.iter().cloned().collect()
    }

    /// How often one was thawed, or was to be.
    pub(crate) fn thaws(&self) -> usize {
        self.stage.lock().unwrap().thaws
    }

    /// So many of the next thaws fail.
    pub(crate) fn fail_thaws(&self, count: usize) {
        self.stage.lock().unwrap().failing_thaws = count;
    }

    /// No freeze comes to its end until this is dropped.
    pub(crate) fn hold_freezes(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.freezes).try_lock_owned().unwrap()
    }

    fn call_time(&self) -> Duration {
        self.stage.lock().unwrap().call_time
    }

    /// The process of an instance ends by itself.
    pub(crate) async fn end(&self, instance: &InstanceId, exit: Exit) {
        if let Some(running) = self.stage.lock().unwrap().running.get_mut(instance) {
            running.ended = Some(exit);
        }
        self.ends.send(Ended { instance: instance.clone(), exit }).await.unwrap();
    }

    /// Somebody outside takes an instance away, which has so long to end its calls.
    pub(crate) async fn take_away(&self, instance: &InstanceId, left: Duration) {
        if let Some(running) = self.stage.lock().unwrap().running.get_mut(instance) {
            running.taken_away = Some(left);
        }
        let taken = TakenAway { instance: instance.clone(), why: "its node is drained".to_owned(), left };
        self.take_away.send(taken).await.unwrap();
    }

    /// Somebody outside tells an instance to end: it says so itself, to those that are connected.
    pub(crate) fn tell_to_end(&self, instance: &InstanceId) {
        self.stage.lock().unwrap().calls[instance].ending.send_replace(true);
    }

    /// As [`Self::take_away`], and nobody is told.
    pub(crate) fn tell_to_leave(&self, instance: &InstanceId, left: Duration) {
        self.stage.lock().unwrap().running.get_mut(instance).unwrap().taken_away = Some(left);
    }

    /// A controller that was killed: the next one subscribes anew, and the instances go on.
    pub(crate) fn restart(&self) -> Arc<Self> {
        let next = Self::new(&self.directory);
        std::mem::swap(&mut *next.stage.lock().unwrap(), &mut *self.stage.lock().unwrap());
        next
    }
}

#[async_trait]
impl Backend for Staged {
    fn name(&self) -> &'static str {
        "staged"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<Started, Error> {
        let (act, time) = {
            let mut stage = self.stage.lock().unwrap();
            stage.starts += 1;
            let otherwise = stage.otherwise.clone().unwrap_or(Act::ComeUp);
            (stage.acts.pop_front().unwrap_or(otherwise), stage.start_time)
        };
        tokio::time::sleep(time).await;
        assert_ne!(act, Act::Panics, "on purpose");
        match act {
            Act::Hindered => {
                self.wait_for_room(&spec.id, Hindrance::Outside("no node takes it".to_owned())).await;
            }
            Act::Pulled => self.wait_for_room(&spec.id, Hindrance::Time).await,
            _ => {}
        }
        if act == Act::NotMade {
            let source = std::io::Error::other("no space left");
            return Err(Error::Step { step: "create the cgroup", instance: spec.id.clone(), source });
        }
        let path = |name: &str| self.directory.join(format!("{}.{name}", spec.id));
        let (invoke, control) = (path("i"), path("c"));
        let mut servers = JoinSet::new();
        let printed = Arc::new(Notify::new());
        let calls = Arc::<Calls>::default();
        self.stage.lock().unwrap().calls.insert(spec.id.clone(), Arc::clone(&calls));
        let serving =
            Serving { act: act.clone(), printed: Arc::clone(&printed), calls, time: self.call_time() };
        servers.spawn(serve(UnixListener::bind(&invoke).unwrap(), Arc::new(serving)));
        servers.spawn(serve_control(UnixListener::bind(&control).unwrap(), act.clone(), printed));
        let started =
            Started { invoke: Address::Unix(invoke), control: Address::Unix(control), create: time };
        let running = Running {
            spec: spec.clone(),
            started: started.clone(),
            ended: None,
            taken_away: None,
            _servers: servers,
        };
        self.stage.lock().unwrap().running.insert(spec.id.clone(), running);
        if act == Act::EndsInBoot {
            let exit = Exit { code: Some(3), signal: None, out_of_memory: false };
            self.end(&spec.id, exit).await;
        }
        Ok(started)
    }

    async fn inject(&self, instance: &InstanceId, _: &CodeMount) -> Result<(), Error> {
        let stage = self.stage.lock().unwrap();
        stage.running.get(instance).map(drop).ok_or_else(|| Error::NotFound(instance.clone()))
    }

    async fn record(&self, instance: &InstanceId, owner: &Owner, code: &CodeMount) -> Result<(), Error> {
        let mut stage = self.stage.lock().unwrap();
        let running = stage.running.get_mut(instance).ok_or_else(|| Error::NotFound(instance.clone()))?;
        assert!(running.spec.owner.is_none(), "{instance} has an owner already");
        (running.spec.owner, running.spec.code) = (Some(owner.clone()), Some(code.clone()));
        Ok(())
    }

    async fn limit(&self, _: &InstanceId, _: &Limits) -> Result<(), Error> {
        Ok(())
    }

    async fn pause(&self, instance: &InstanceId) -> Result<(), Error> {
        self.freezing.notify_one();
        drop(self.freezes.lock().await);
        self.stage.lock().unwrap().frozen.insert(instance.clone());
        Ok(())
    }

    async fn resume(&self, instance: &InstanceId) -> Result<(), Error> {
        let mut stage = self.stage.lock().unwrap();
        if let Some(left) = stage.failing_thaws.checked_sub(1) {
            stage.failing_thaws = left;
            let source = std::io::Error::other("the engine is away");
            return Err(Error::Step { step: "thaw", instance: instance.clone(), source });
        }
        stage.frozen.remove(instance);
        stage.thaws += 1;
        Ok(())
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), Error> {
        let lost = {
            let mut stage = self.stage.lock().unwrap();
            stage.stops.push((instance.clone(), grace));
            stage.lost
        };
        if lost && !grace.is_zero() {
            tokio::time::sleep(grace).await;
            let source = std::io::Error::other("deadline has elapsed");
            return Err(Error::Step { step: "delete the Pod", instance: instance.clone(), source });
        }
        let (removed, killed) = {
            let mut stage = self.stage.lock().unwrap();
            if stage.failing_stops > 0 {
                stage.failing_stops -= 1;
                let source = std::io::Error::other("device or resource busy");
                return Err(Error::Step { step: "remove the cgroup", instance: instance.clone(), source });
            }
            // One that waits is in the list of those that are told before anybody can tell them.
            let killed = (stage.stubborn && !grace.is_zero()).then(|| self.killed.notified());
            (if killed.is_none() { stage.running.remove(instance) } else { None }, killed)
        };
        drop(removed);
        if let Some(killed) = killed {
            let _by_another = tokio::time::timeout(grace, killed).await.is_ok();
            drop(self.stage.lock().unwrap().running.remove(instance));
        }
        self.killed.notify_waiters();
        for name in ["i", "c"] {
            let _not_made = std::fs::remove_file(self.directory.join(format!("{instance}.{name}"))).is_err();
        }
        self.stopped.notify_one();
        Ok(())
    }

    async fn stats(&self, _: &InstanceId) -> Result<Stats, Error> {
        let (pids_refused, hangs) = {
            let mut stage = self.stage.lock().unwrap();
            stage.stats_asked += 1;
            (stage.pids_refused, stage.stats_hang)
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        Ok(Stats { pids: super::template::PIDS, pids_refused, ..Stats::default() })
    }

    async fn list(&self) -> Result<Vec<Found>, Error> {
        let stage = self.stage.lock().unwrap();
        let found = |running: &Running| Found {
            spec: running.spec.clone(),
            started: running.started.clone(),
            ended: running.ended,
            taken_away: running.taken_away,
        };
        Ok(stage.running.values().map(found).collect())
    }

    fn exits(&self) -> mpsc::Receiver<Ended> {
        self.exits.lock().unwrap().take().unwrap()
    }

    fn hindrances(&self) -> mpsc::Receiver<Hindered> {
        self.hindrances.lock().unwrap().take().unwrap()
    }

    fn taken_away(&self) -> mpsc::Receiver<TakenAway> {
        self.taken_away.lock().unwrap().take().unwrap()
    }

    async fn probe(&self) -> Vec<Capability> {
        Vec::new()
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
