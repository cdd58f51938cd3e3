//! The Docker backend: the same instances as containers of an engine on this machine, Docker's or Podman's, by the Docker API.
//!
//! ```text
//!   Backend ──► Docker ── create, start, kill, remove … ──► engine ──► container: shim and bundle mounted
//!                 │  ▲                                        │             │
//!                 │  └────────── events: die, oom ────────────┘             │
//!                 └── /run/hearth/<tag>-docker/<instance>/ ── sockets, records ┘
//! ```
//!
//! Everything that is made carries the label `dev.hearth.data=<tag>`. What a controller must know to adopt an instance is in the instance's
//! directory, as on the embedded backend; the engine's list says which of them run.
//!
//! The engine may go away and come back. Meanwhile starts and stops fail with its name and the reason, and whoever asked asks again;
//! instances that ended with it are noticed by their sockets, and told.

mod cells;
mod container;
mod engine;
mod events;
mod image;
mod instance;
mod network;
mod open;
mod probe;
mod start;
mod stop;
mod way;

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::{InspectContainerOptions, StatsOptions};
use futures_util::StreamExt as _;
use hearth_function::InstanceId;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::engine::{Engine, plain, status};
use self::instance::{Held, Instance};
pub use self::probe::probe;

use super::ends::Ends;
use super::local::network::Bridge;
use super::local::root::Roots;
use super::local::{blocking, mounts};
use super::{
    Backend, Capability, CodeMount, Ended, EngineImage, Error, Exit, Found, ImageForm, InstanceSpec, Limits,
    Owner, Started, Stats,
};

/// How the Docker backend is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// The engine's socket, `unix:///path` or a bare path. Default: the first of `/var/run/docker.sock` and `/run/podman/podman.sock`
    /// that answers.
    pub host: Option<String>,
    /// Hearth's data directory; must exist. Its canonical path gives the tag that keeps several controllers on one engine apart.
    pub data_dir: PathBuf,
    /// Where instances have their directories, `<run_dir>/<tag>-docker/<instance>/`. Default `/run/hearth`.
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
    /// Whether instances are reached by TCP even where their Unix sockets would do. Default: no, only where a connect to the first one's
    /// fails, as with an engine in a virtual machine.
    pub tcp: bool,
    /// Time that the engine's pull of an image may take. Default: 15 minutes, as for images that Hearth fetches itself.
    pub pull_timeout: Duration,
}

impl Config {
    /// The defaults, for a data directory and the shim's files.
    #[must_use]
    pub fn new(data_dir: PathBuf, shim_dir: PathBuf) -> Self {
        let parallel_starts = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            host: None,
            data_dir,
            run_dir: PathBuf::from("/run/hearth"),
            shim_dir,
            parallel_starts,
            gateway_port: 8080,
            host_ports: Vec::new(),
            interfaces: Vec::new(),
            tcp: false,
            pull_timeout: Duration::from_secs(900),
        }
    }
}

/// Where an instance is in its life here.
#[derive(Debug)]
enum Life {
    /// Its start runs; the channel closes when it is over.
    Starting(watch::Receiver<()>, Arc<Instance>),
    /// It was started; it may have ended.
    Started(Arc<Instance>),
}

/// The Docker backend.
#[derive(Debug)]
pub struct Docker {
    shared: Arc<Shared>,
    ends: Ends,
    starts: Arc<Semaphore>,
    /// Ends the listening with the backend.
    _listening: DropGuard,
}

/// Where this controller's things are.
#[derive(Debug)]
struct Here {
    tag: String,
    /// `<run-dir>/<tag>-docker`.
    directory: PathBuf,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    place: Here,
    roots: Roots,
    images: image::Images,
    /// Found out with the first start that shows it.
    way: way::Ways,
    /// Hearth's bridge, or why there is none.
    bridge: Result<Bridge, String>,
    instances: Mutex<HashMap<InstanceId, Life>>,
    end: mpsc::Sender<Ended>,
    tasks: TaskTracker,
    /// Has the list compared with the books now.
    look: Arc<Notify>,
    closing: CancellationToken,
}

impl Docker {
    /// The address of the bridge, where instances reach the gateway: `HEARTH_GATEWAY` and the gateway's second listener.
    /// `None` when this machine cannot do networks.
    #[must_use]
    pub fn gateway_address(&self) -> Option<Ipv4Addr> {
        self.shared.bridge.as_ref().ok().map(|bridge| bridge.gateway)
    }
}

impl Shared {
    fn books(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Life>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &InstanceId) -> Option<Arc<Instance>> {
        match self.books().get(id)? {
            Life::Started(instance) => Some(Arc::clone(instance)),
            Life::Starting(..) => None,
        }
    }

    /// The instance of that name, started or starting.
    fn any(&self, name: &str) -> Option<Arc<Instance>> {
        let id = InstanceId::parse(name).ok()?;
        match self.books().get(&id)? {
            Life::Started(instance) | Life::Starting(_, instance) => Some(Arc::clone(instance)),
        }
    }

    fn running(&self, id: &InstanceId) -> Result<Arc<Instance>, Error> {
        self.find(id).filter(|instance| !instance.has_ended()).ok_or_else(|| Error::NotFound(id.clone()))
    }

    fn running_instances(&self) -> Vec<Arc<Instance>> {
        let books = self.books();
        let started = books.values().filter_map(|life| match life {
            Life::Started(instance) => Some(instance),
            Life::Starting(..) => None,
        });
        started.filter(|instance| !instance.has_ended()).cloned().collect()
    }

    /// The name of an instance's container.
    fn container(&self, id: &InstanceId) -> String {
        container::name(&self.place.tag, id.as_str())
    }

    fn step(&self, step: &'static str, id: &InstanceId, error: &bollard::errors::Error) -> Error {
        self.engine.step(step, id, error)
    }

    /// An instance has ended: written down once, and told if its start is over. (One that ends before is told when it is.)
    async fn end(&self, instance: &Arc<Instance>, exit: Exit) {
        let first = instance.end.send_if_modified(|end| end.is_none() && end.insert(exit) == &exit);
        if first && self.find(&instance.id).is_some_and(|started| Arc::ptr_eq(&started, instance)) {
            self.tell(instance).await;
        }
    }

    async fn tell(&self, instance: &Instance) {
        let exit = *instance.end.borrow();
        if let Some(exit) = exit {
            // Without a subscriber nobody wants to know.
            self.end.send(Ended { instance: instance.id.clone(), exit }).await.ok();
        }
    }

    /// Takes a started instance into the books. It is told of if it has ended by now.
    fn enter(self: &Arc<Self>, instance: Arc<Instance>) {
        let told = {
            let mut books = self.books();
            books.insert(instance.id.clone(), Life::Started(Arc::clone(&instance)));
            // Looked at under the lock: whoever ends it from now on finds it started.
            instance.has_ended()
        };
        if told {
            let shared = Arc::clone(self);
            self.tasks.spawn(async move { shared.tell(&instance).await });
        }
    }

    /// The first process of an instance, held.
    async fn hold<'instance>(&self, instance: &'instance Instance) -> Result<&'instance Held, Error> {
        const STEP: &str = "find the container's process";
        if let Some(held) = instance.process.get() {
            return Ok(held);
        }
        let found = self
            .engine
            .api
            .inspect_container(&self.container(&instance.id), None::<InspectContainerOptions>)
            .await
            .map_err(|error| self.step(STEP, &instance.id, &error))?;
        let pid = found.state.and_then(|state| state.pid).unwrap_or_default();
        let held = instance::hold(pid, found.id.as_deref().unwrap_or("?")).map_err(|source| Error::Step {
            step: STEP,
            instance: instance.id.clone(),
            source,
        })?;
        // Somebody else may have been faster, with the same process.
        Ok(instance.process.get_or_init(|| held))
    }

    /// A descriptor of its own for the first process, for work on another thread.
    async fn process(&self, instance: &Instance) -> Result<OwnedFd, Error> {
        let copy = self.hold(instance).await?.process.try_clone();
        copy.map_err(|source| Error::Step {
            step: "hold the container's process",
            instance: instance.id.clone(),
            source,
        })
    }

    async fn set_limits(&self, instance: &Instance, limits: &Limits) -> Result<(), Error> {
        const STEP: &str = "set the limits";
        if self.engine.about.is_podman() {
            // Its Docker API cannot change a container (Podman 4.3).
            let group = self.hold(instance).await?.group.clone();
            let limits = *limits;
            let set = blocking(move || group.limit(&limits)).await;
            return set.map_err(|source| Error::Step { step: STEP, instance: instance.id.clone(), source });
        }
        let update = container::update(limits);
        let updated = self.engine.api.update_container(&self.container(&instance.id), update).await;
        updated.map_err(|error| self.step(STEP, &instance.id, &error))
    }
}

#[async_trait]
impl Backend for Docker {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn image_form(&self) -> ImageForm {
        ImageForm::Reference
    }

    async fn image(&self, reference: &str) -> Result<Option<EngineImage>, Error> {
        self.shared.images.in_engine(reference).await.map_err(|error| Error::Unsupported {
            what: format!(
                "ask the engine at unix://{} for its images ({error})",
                self.shared.engine.socket.display()
            ),
            remedy: "start the engine".to_owned(),
        })
    }

    async fn fetch(&self, reference: &str) -> Result<(), Error> {
        let had = self.shared.images.named(reference).await;
        had.map(drop).map_err(|error| match error.as_ref() {
            image::Error::Missing(what) => start::missing(what),
            other => Error::Unsupported {
                what: format!("fetch the image {reference} ({other})"),
                remedy: "see that the engine and the image's registry answer".to_owned(),
            },
        })
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<Started, Error> {
        self.shared.fetch(spec).await?;
        // The semaphore is never closed.
        let permit = Arc::clone(&self.starts).acquire_owned().await.ok();
        let (over, starting) = watch::channel(());
        let instance = Arc::new(self.shared.new_instance(spec));
        {
            let mut books = self.shared.books();
            if books.contains_key(&spec.id) {
                return Err(Error::name_is_taken(&spec.id));
            }
            books.insert(spec.id.clone(), Life::Starting(starting, Arc::clone(&instance)));
        }
        let (shared, spec, id) = (Arc::clone(&self.shared), spec.clone(), spec.id.clone());
        // In a task of its own: a caller that goes away does not leave a start half done.
        let task = self.shared.tasks.spawn(async move {
            let result = shared.start(spec, instance).await;
            drop((over, permit));
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => {
                self.shared.books().remove(&id);
                Err(Error::Step { step: "start", instance: id, source: io::Error::other(error) })
            }
        }
    }

    async fn inject(&self, instance: &InstanceId, code: &CodeMount) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        running.code_place.take(instance)?;
        let process = match self.shared.process(&running).await {
            Ok(process) => process,
            Err(error) => {
                running.code_place.give_back();
                return Err(error);
            }
        };
        let mut pairs = vec![(code.path.clone(), "/code")];
        pairs.extend(code.dependencies.clone().map(|path| (path, "/deps")));
        mounts::mount(&process, pairs).await.map_err(|source| {
            running.code_place.give_back();
            Error::Step { step: "bring the code in", instance: instance.clone(), source }
        })
    }

    async fn record(&self, instance: &InstanceId, owner: &Owner, code: &CodeMount) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        running.directory.record_owner(instance, owner, code).await
    }

    async fn limit(&self, instance: &InstanceId, limits: &Limits) -> Result<(), Error> {
        const STEP: &str = "set the limits";
        let running = self.shared.running(instance)?;
        let before = *running.limits.lock().unwrap_or_else(PoisonError::into_inner);
        if before == Some(*limits) {
            return Ok(());
        }
        self.shared.set_limits(&running, limits).await?;
        let step = |source| Error::Step { step: STEP, instance: instance.clone(), source };
        if before.is_none_or(|before| before.tmp_bytes != limits.tmp_bytes) {
            let process = self.shared.process(&running).await?;
            let bytes = limits.tmp_bytes;
            mounts::resize_tmp(&process, bytes).await.map_err(step)?;
        }
        let (limits, target) = (*limits, Arc::clone(&running));
        blocking(move || target.directory.rewrite_spec(|spec| spec.limits = limits)).await.map_err(step)?;
        *running.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
        Ok(())
    }

    async fn pause(&self, instance: &InstanceId) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        if running.paused.load(Ordering::Acquire) {
            return Ok(());
        }
        let paused = self.shared.engine.api.pause_container(&self.shared.container(instance)).await;
        paused.map_err(|error| self.shared.step("freeze", instance, &error))?;
        running.paused.store(true, Ordering::Release);
        Ok(())
    }

    async fn resume(&self, instance: &InstanceId) -> Result<(), Error> {
        let running = self.shared.running(instance)?;
        self.shared.thaw(&running).await.map_err(|error| self.shared.step("thaw", instance, &error))
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), Error> {
        self.shared.settled(instance).await;
        self.shared.stop(instance, grace).await
    }

    async fn stats(&self, instance: &InstanceId) -> Result<Stats, Error> {
        const STEP: &str = "ask what the instance uses";
        let running = self.shared.running(instance)?;
        // The kernel says it cheaper than an engine does; which may be in another machine.
        if let Ok(held) = self.shared.hold(&running).await {
            let stats = held.group.stats();
            if stats.pids > 0 {
                let peak = running.peak.fetch_max(stats.memory_bytes, Ordering::Relaxed);
                let memory_peak_bytes = stats.memory_peak_bytes.max(peak).max(stats.memory_bytes);
                return Ok(Stats { memory_peak_bytes, ..stats });
            }
        }
        let options = StatsOptions { stream: false, one_shot: true };
        let mut answers =
            Box::pin(self.shared.engine.api.stats(&self.shared.container(instance), Some(options)));
        match answers.next().await {
            Some(Ok(counted)) => {
                let stats = container::stats(&counted, running.peak.load(Ordering::Relaxed));
                running.peak.fetch_max(stats.memory_peak_bytes, Ordering::Relaxed);
                Ok(stats)
            }
            Some(Err(error)) => Err(self.shared.step(STEP, instance, &error)),
            None => Err(Error::NotFound(instance.clone())),
        }
    }

    async fn list(&self) -> Result<Vec<Found>, Error> {
        self.shared.list().await
    }

    fn exits(&self) -> mpsc::Receiver<Ended> {
        self.ends.take()
    }

    async fn probe(&self) -> Vec<Capability> {
        probe::of(&self.shared.engine, self.shared.bridge.as_ref().err().map(String::as_str)).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.shared.closing.cancel();
        if let Err(error) = network::remove(&self.shared.engine.api, &self.shared.place.tag).await {
            let error = plain(&error);
            tracing::warn!(error, "the engine's network stays, for whoever comes next");
        }
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.close()).await;
        Ok(())
    }
}

/// Whether an answer says that there was nothing to do.
fn is_done_already(error: &bollard::errors::Error) -> bool {
    matches!(status(error), Some(304 | 404 | 409))
}
