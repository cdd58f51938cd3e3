//! The embedded backend: OCI containers by libcontainer on this machine, with no daemon and no image.
//!
//! libcontainer forks in the process that calls it, which a process with threads must not do. So a launcher runs beside the controller:
//! the same binary, re-executed with one thread ([`launcher`]), which forks one short-lived worker for each start.

mod instance;
mod launch;
pub mod launcher;
mod machine;
mod network;
mod oci;
mod probe;
mod process;
mod start;
mod sys;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hearth_function::InstanceId;
use rustix::process::Signal;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;

use self::instance::{Instance, Kin};
use self::machine::{Machine, Record};
pub use self::probe::probe;
use self::process::Fate;

use super::code_place::CodePlace;
use super::ends::Ends;
use super::local::directory::Directory;
use super::local::{blocking, mounts, records};
use super::{
    Backend, Capability, CodeMount, Ended, Error, Found, InstanceSpec, Limits, OpenError, Owner, Started,
    Stats,
};

/// How the embedded backend is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The `hearth` binary, to be run as launcher: `std::env::current_exe()`, and `env!("CARGO_BIN_EXE_hearth")` in tests.
    pub program: PathBuf,
    /// Hearth's data directory; must exist. Roots are built under `roots/` in it, and its canonical path gives the tag that keeps several
    /// controllers on one machine apart.
    pub data_dir: PathBuf,
    /// Where instances have their directories, `<run_dir>/<tag>/<instance>/`. Default `/run/hearth`.
    pub run_dir: PathBuf,
    /// The shim's files, mounted read-only at `/hearth` of every instance: `hearth-shim`, `node/`, `python/`.
    pub shim_dir: PathBuf,
    /// Starts that run at once; more wait. Default: the number of cores.
    pub parallel_starts: usize,
    /// The port that instances reach on the bridge's address: the gateway's.
    pub gateway_port: u16,
    /// Ports of this host that instances may reach as `host.hearth.internal:<port>`. Default: none.
    pub host_ports: Vec<u16>,
    /// Interfaces by which instances reach the outside, beside those of the host's default routes. Default: none.
    pub interfaces: Vec<String>,
    /// Network namespaces held ready for the next starts. Default 4.
    pub spare_networks: usize,
}

impl Config {
    /// The defaults, for a binary, a data directory and the shim's files.
    #[must_use]
    pub fn new(program: PathBuf, data_dir: PathBuf, shim_dir: PathBuf) -> Self {
        let parallel_starts = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            program,
            data_dir,
            run_dir: PathBuf::from("/run/hearth"),
            shim_dir,
            parallel_starts,
            gateway_port: 8080,
            host_ports: Vec::new(),
            interfaces: Vec::new(),
            spare_networks: 4,
        }
    }
}

/// After a kill, how long a process may take to be gone; beyond it something hangs in the kernel.
const DEAD_WITHIN: Duration = Duration::from_secs(10);

/// Where an instance is in its life here.
#[derive(Debug)]
enum Life {
    /// Its start runs; the channel closes when it is over.
    Starting(watch::Receiver<()>),
    /// It was started; it may have ended.
    Started(Arc<Instance>),
}

/// The embedded backend.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    ends: Ends,
    starts: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    machine: Machine,
    instances: Mutex<HashMap<InstanceId, Life>>,
    end: mpsc::Sender<Ended>,
    tasks: TaskTracker,
}

impl Embedded {
    /// Makes the machine ready for instances: takes away what a killed controller of this data directory left of itself (not its
    /// instances: [`Backend::list`] finds them), starts the launcher, makes the bridge and the firewall's rules.
    ///
    /// # Errors
    /// When not root, without cgroups, or when a step fails. A machine without networks opens: instances with `outbound` are refused then.
    pub async fn open(config: Config) -> Result<Arc<Self>, OpenError> {
        let parallel = config.parallel_starts.max(1);
        let machine = blocking(move || Machine::open(&config)).await?;
        let (end, ends) = Ends::channel();
        let shared = Shared { machine, instances: Mutex::default(), end, tasks: TaskTracker::new() };
        Ok(Arc::new(Self { shared: Arc::new(shared), ends, starts: Arc::new(Semaphore::new(parallel)) }))
    }

    /// The address of the bridge, where instances reach the gateway: `HEARTH_GATEWAY` and the gateway's second listener.
    /// `None` when this machine cannot do networks.
    #[must_use]
    pub fn gateway_address(&self) -> Option<Ipv4Addr> {
        self.shared.machine.networks.gateway()
    }
}

impl Shared {
    fn find(&self, id: &InstanceId) -> Option<Arc<Instance>> {
        match self.instances.lock().unwrap_or_else(PoisonError::into_inner).get(id)? {
            Life::Started(instance) => Some(Arc::clone(instance)),
            Life::Starting(_) => None,
        }
    }

    fn running(&self, id: &InstanceId) -> Result<Arc<Instance>, Error> {
        self.find(id)
            .filter(|instance| instance.end.borrow().is_none())
            .ok_or_else(|| Error::NotFound(id.clone()))
    }

    /// Takes an instance into the books and watches it.
    fn enter(self: &Arc<Self>, instance: Instance) -> Arc<Instance> {
        let instance = Arc::new(instance);
        let life = Life::Started(Arc::clone(&instance));
        self.instances.lock().unwrap_or_else(PoisonError::into_inner).insert(instance.id.clone(), life);
        let (shared, watched) = (Arc::downgrade(self), Arc::clone(&instance));
        self.tasks.spawn(async move {
            let exit = watched.watch().await;
            if let Some(shared) = shared.upgrade() {
                let end = shared.end.clone();
                drop(shared);
                // Without a subscriber nobody wants to know.
                end.send(Ended { instance: watched.id.clone(), exit }).await.ok();
            }
        });
        instance
    }

    /// Starts an instance that has been entered as starting.
    async fn start(self: Arc<Self>, spec: InstanceSpec) -> Result<Started, Error> {
        let id = spec.id.clone();
        let has_code = spec.code.is_some();
        let shared = Arc::clone(&self);
        let launched = blocking(move || start::start(&shared.machine, &spec)).await;
        match launched {
            Ok(launched) => {
                let started = launched.started.clone();
                self.enter(Instance {
                    id,
                    directory: launched.directory,
                    group: launched.group,
                    pidfd: launched.pidfd,
                    kin: Kin::Child,
                    started: launched.started,
                    code_place: CodePlace::new(has_code),
                    end: watch::Sender::new(None),
                });
                Ok(started)
            }
            Err(error) => {
                self.instances.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                Err(error)
            }
        }
    }

    /// Waits for a start that runs to be over.
    async fn settled(&self, id: &InstanceId) {
        loop {
            let starting = match self.instances.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
                Some(Life::Starting(over)) => over.clone(),
                _ => return,
            };
            let mut over = starting;
            // Closed by the end of the start, however it ends.
            while over.changed().await.is_ok() {}
            tokio::task::yield_now().await;
        }
    }

    /// Takes away what is left of an instance: processes, groups, files, address.
    async fn clear(self: &Arc<Self>, id: &InstanceId) -> Result<(), Error> {
        let (shared, name) = (Arc::clone(self), id.clone());
        let cleared = blocking(move || {
            let machine = &shared.machine;
            let directory = Directory::of(&machine.directory, &name);
            let address = directory.read_record::<Record>().and_then(|record| record.address);
            machine.parent.group(name.as_str()).destroy()?;
            directory.remove()?;
            Ok(address)
        });
        let address = cleared.await.map_err(|source| Error::Step {
            step: "take away what is left",
            instance: id.clone(),
            source,
        })?;
        // One who stops the same instance at the same time finds the record gone, or releases what nobody can have taken yet: addresses are
        // given out in turn.
        if let Some(address) = address {
            self.machine.networks.release(address);
        }
        Ok(())
    }

    /// Takes up an instance that this controller did not start.
    fn adopt(self: &Arc<Self>, id: InstanceId, directory: Directory) -> Option<Found> {
        let (spec, record) = (directory.read_spec()?, directory.read_record::<Record>()?);
        let group = self.machine.parent.group(id.as_str());
        let started = record.started.clone();
        let Some(pidfd) = record.process.open() else {
            let exit = instance::conclusion(&directory, &group, Fate::Unknown);
            return Some(Found { spec, started, ended: Some(exit), leaving: false });
        };
        self.enter(Instance {
            id,
            directory,
            group,
            pidfd,
            kin: Kin::Adopted,
            started: record.started,
            code_place: CodePlace::new(spec.code.is_some()),
            end: watch::Sender::new(None),
        });
        Some(Found { spec, started, ended: None, leaving: false })
    }
}

#[async_trait]
impl Backend for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<Started, Error> {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.starts).acquire_owned().await.ok();
        let (over, starting) = watch::channel(());
        {
            let mut instances = self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner);
            if instances.contains_key(&spec.id) {
                return Err(Error::name_is_taken(&spec.id));
            }
            instances.insert(spec.id.clone(), Life::Starting(starting));
        }
        let (shared, spec) = (Arc::clone(&self.shared), spec.clone());
        let id = spec.id.clone();
        // In a task of its own: a caller that goes away does not leave a start half done.
        let task = self.shared.tasks.spawn(async move {
            let result = shared.start(spec).await;
            drop((over, permit));
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => {
                self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                Err(Error::Step { step: "start", instance: id, source: io::Error::other(error) })
            }
        }
    }

    async fn inject(&self, instance: &InstanceId, code: &CodeMount) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        running.code_place.take(instance)?;
        let mut pairs = vec![(code.path.clone(), "/code")];
        pairs.extend(code.dependencies.clone().map(|path| (path, "/deps")));
        mounts::mount(&running.pidfd, pairs).await.map_err(|source| {
            running.code_place.give_back();
            Error::Step { step: "bring the code in", instance: instance.clone(), source }
        })
    }

    async fn record(&self, instance: &InstanceId, owner: &Owner, code: &CodeMount) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        running.directory.record_owner(instance, owner, code).await
    }

    async fn limit(&self, instance: &InstanceId, limits: &Limits) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        let step = |source| Error::Step { step: "set the limits", instance: instance.clone(), source };
        running.group.limit(limits).map_err(step)?;
        let (limits, target) = (*limits, Arc::clone(&running));
        let before = blocking(move || {
            let before = target.directory.read_spec().map(|spec| spec.limits);
            if before != Some(limits) {
                target.directory.rewrite_spec(|spec| spec.limits = limits)?;
            }
            Ok(before)
        });
        let before = before.await.map_err(step)?;
        if before.is_some_and(|before| before.tmp_bytes != limits.tmp_bytes) {
            mounts::resize_tmp(&running.pidfd, limits.tmp_bytes).await.map_err(step)?;
        }
        Ok(())
    }

    async fn pause(&self, instance: &InstanceId) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        let frozen = blocking(move || running.group.freeze()).await;
        frozen.map_err(|source| Error::Step { step: "freeze", instance: instance.clone(), source })
    }

    async fn resume(&self, instance: &InstanceId) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        // One write that does not block: on the way of a request, a thread more would cost more than it.
        running.group.thaw().map_err(|source| Error::Step {
            step: "thaw",
            instance: instance.clone(),
            source,
        })
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), Error> {
        self.shared.settled(instance).await;
        if let Some(running) = self.shared.find(instance) {
            if running.end.borrow().is_none() {
                let step = |source| Error::Step { step: "send SIGTERM", instance: instance.clone(), source };
                // Best effort: a machine without a freezer has nothing to thaw.
                running.group.thaw().ok();
                process::signal(&running.pidfd, Signal::TERM).map_err(step)?;
                if tokio::time::timeout(grace, running.ended()).await.is_err() {
                    process::signal(&running.pidfd, Signal::KILL).map_err(step)?;
                }
            }
            self.shared.clear(instance).await?;
            if tokio::time::timeout(DEAD_WITHIN, running.ended()).await.is_err() {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(Error::Step { step: "see the process end", instance: instance.clone(), source });
            }
            self.shared.instances.lock().unwrap_or_else(PoisonError::into_inner).remove(instance);
            return Ok(());
        }
        self.shared.clear(instance).await
    }

    async fn stats(&self, instance: &InstanceId) -> Result<Stats, Error> {
        Ok(self.shared.running(instance)?.group.stats())
    }

    async fn list(&self) -> Result<Vec<Found>, Error> {
        let shared = Arc::clone(&self.shared);
        let runtime = tokio::runtime::Handle::current();
        Ok(blocking(move || {
            let _inside = runtime.enter();
            let mut list = Vec::new();
            for (id, directory) in records(&shared.machine.directory) {
                let found = match shared.find(&id) {
                    Some(instance) => directory.read_spec().map(|spec| Found {
                        spec,
                        started: instance.started.clone(),
                        ended: *instance.end.borrow(),
                        leaving: false,
                    }),
                    None => shared.adopt(id, directory),
                };
                list.extend(found);
            }
            list
        })
        .await)
    }

    fn exits(&self) -> mpsc::Receiver<Ended> {
        self.ends.take()
    }

    async fn probe(&self) -> Vec<Capability> {
        probe().await
    }

    async fn close(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            shared.machine.launcher.stop();
            shared.machine.networks.close();
            shared.machine.parent.remove();
            // Not empty while an instance is there; then it stays for whoever comes next.
            fs::remove_dir(&shared.machine.directory).ok();
            shared.machine.directory.parent().and_then(|run_dir| fs::remove_dir(run_dir).ok());
        })
        .await;
        Ok(())
    }
}
