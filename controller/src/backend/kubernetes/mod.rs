//! The Kubernetes backend: instances are Pods that Hearth itself creates, specialises and deletes.
//!
//! ```text
//!   Backend ──► Kubernetes ── create, patch, delete ──► API server ──► kubelet ──► Pod: shim and runtime of a runtime image
//!                 │  ▲  ▲                                   │                        │
//!                 │  │  └─────── watch: ends, obstacles ────┘                        │
//!                 │  └───── reports.rs: what to run, code, the end ◄─────────────────┘  TCP, the shim connects
//!                 └── addresses of the invocation protocol ──► pool, gateways
//! ```
//!
//! A Pod reports itself instead of being looked for: its shim connects as soon as it runs, learns what to run, fetches code and dependencies
//! as tars, verifies their digests and unpacks them. What a controller must know to go on with an instance is in its Pod's annotations, sealed
//! with the cluster key (`standing.rs`); its secret follows from that key.
//!
//! **What a Pod cannot.** It cannot be paused; it keeps the limits that it was started with, and its namespace ([`Fixity::Fixed`]); how many
//! processes it may have is its node's to say. Code lies in a volume of the Pod, whose files the function's own user could make writable
//! again: it changes nothing but this one instance.

mod adopt;
mod asked;
mod blobs;
mod door;
mod instance;
mod keys;
mod origin;
mod pod;
mod reports;
pub(crate) mod request;
mod results;
mod standing;
mod start;
mod stop;
mod strays;
mod transfers;
mod waited;
mod watch;
mod whereabouts;
mod why;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use hearth_function::InstanceId;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use self::instance::Instance;
use self::keys::Keys;
use self::request::asked;
use self::transfers::Transfers;
pub use self::whereabouts::Compared;
use super::ends::Ends;
use super::{
    Ability, Address, Backend, Capability, CodeMount, Ended, Error, Exit, Fixity, Found, Hindered, ImageForm,
    InstanceSpec, Limits, OpenError, Owner, Started, Stats, TakenAway,
};
use crate::telemetry::Seldom;
use crate::telemetry::metrics::Registry;

/// Hindrances that nobody has taken yet. Starts that tell of them wait when it is full.
const HINDRANCES: usize = 64;

/// Instances that are being taken away, of which nobody has heard yet. The watch waits when it is full: a node may take hundreds along.
const TAKEN_AWAY: usize = 1024;

/// When a Pod is deleted, its kubelet sends SIGTERM, and this watch sees it: as a rule first, and by far within this.
const WATCHED_WITHIN: Duration = Duration::from_millis(500);

/// How the Kubernetes backend is set up.
#[derive(Clone)]
pub struct Config {
    /// Speaks to the API server.
    pub client: Client,
    /// The namespace that Hearth itself is in: installations of dependencies run there, and its name is on every Pod of this Hearth.
    pub namespace: String,
    /// Namespaces with Functions; empty: all.
    pub namespaces: Vec<String>,
    /// Where it listens for shims.
    pub report_listen: SocketAddr,
    /// Where Pods reach that, `host:port`.
    pub report_advertise: String,
    /// The cluster key.
    pub key: [u8; 32],
    /// When images are pulled: `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// An image that has the shim in it, for Pods of other images.
    pub shim_image: Option<String>,
    /// When the address that an instance reports from is compared with its Pod's.
    pub compared: Compared,
    /// How much of their nodes' disks Pods may take.
    pub sizes: Sizes,
    /// Unpacks what an installation leaves.
    pub unpack: Arc<Unpack>,
}

/// Unpacks a tar that nobody vouches for into a directory that is empty. Blocks. Its errors are for people.
pub type Unpack = dyn Fn(File, &Path) -> io::Result<()> + Send + Sync;

/// Bytes that the volumes of a Pod may hold, by what is in them: the kubelet ends a Pod that has more in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// A bundle, unpacked.
    pub code_bytes: u64,
    /// Installed dependencies.
    pub dependencies_bytes: u64,
    /// An installation while it runs; its result too.
    pub build_bytes: u64,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("namespace", &self.namespace)
            .field("report_listen", &self.report_listen)
            .field("report_advertise", &self.report_advertise)
            .finish_non_exhaustive()
    }
}

/// The Kubernetes backend.
#[derive(Debug)]
pub struct Kubernetes {
    shared: Arc<Shared>,
    ends: Ends,
    hindrances: Mutex<Option<mpsc::Receiver<Hindered>>>,
    taken_away: Mutex<Option<mpsc::Receiver<TakenAway>>>,
    /// Ends listening and watching with the backend.
    _work: DropGuard,
}

struct Shared {
    config: Config,
    keys: Keys,
    transfers: Transfers,
    instances: Mutex<HashMap<InstanceId, Arc<Instance>>>,
    blobs: Arc<blobs::Blobs>,
    /// The Pods that there were at the start are in the books.
    looked: AtomicBool,
    end: mpsc::Sender<Ended>,
    hinder: mpsc::Sender<Hindered>,
    take_away: mpsc::Sender<TakenAway>,
    tasks: TaskTracker,
    strays: strays::Strays,
    /// Turns to look where the Pod of one that reports is.
    looks: Semaphore,
    /// Of reports.
    said: Seldom<origin::Said>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// Listens for shims and watches Pods.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn open(config: Config, metrics: &Registry) -> Result<Arc<Self>, OpenError> {
        let listen = config.report_listen;
        let listener = TcpListener::bind(listen).await.map_err(|source| OpenError::Step {
            step: format!("cannot listen for instances on {listen}"),
            source,
        })?;
        let (end, ends) = Ends::channel();
        let (hinder, hindrances) = mpsc::channel(HINDRANCES);
        let (take_away, taken_away) = mpsc::channel(TAKEN_AWAY);
        let shared = Arc::new(Shared::new(config, end, hinder, take_away));
        let closing = CancellationToken::new();
        let door = door::Door::new(metrics);
        let weak = Arc::downgrade(&shared);
        let ended = closing.clone();
        shared.tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = reports::serve(weak, listener, door) => {}
            }
        });
        for api in shared.apis() {
            let (weak, ended, selector) = (Arc::downgrade(&shared), closing.clone(), shared.selector());
            shared.tasks.spawn(async move {
                tokio::select! {
                    () = ended.cancelled() => {}
                    () = watch::follow(weak, api, selector) => {}
                }
            });
        }
        let (weak, ended) = (Arc::downgrade(&shared), closing.clone());
        shared.tasks.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                () = strays::keep_away(weak) => {}
            }
        });
        let (hindrances, taken_away) = (Mutex::new(Some(hindrances)), Mutex::new(Some(taken_away)));
        Ok(Arc::new(Self { shared, ends, hindrances, taken_away, _work: closing.drop_guard() }))
    }
}

impl Shared {
    fn new(
        config: Config,
        end: mpsc::Sender<Ended>,
        hinder: mpsc::Sender<Hindered>,
        take_away: mpsc::Sender<TakenAway>,
    ) -> Self {
        Self {
            keys: Keys::new(&config.key),
            transfers: Transfers::new(),
            config,
            instances: Mutex::default(),
            blobs: Arc::default(),
            looked: AtomicBool::new(false),
            end,
            hinder,
            take_away,
            tasks: TaskTracker::new(),
            strays: strays::Strays::default(),
            looks: Semaphore::new(origin::LOOKS),
            said: Seldom::new(),
        }
    }

    fn books(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Arc<Instance>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &InstanceId) -> Option<Arc<Instance>> {
        self.books().get(id).cloned()
    }

    fn named(&self, name: &str) -> Option<Arc<Instance>> {
        self.find(&InstanceId::parse(name).ok()?)
    }

    fn running(&self, id: &InstanceId) -> Result<Arc<Instance>, Error> {
        let running = self.find(id).filter(|instance| instance.is_started() && !instance.has_ended());
        running.ok_or_else(|| Error::NotFound(id.clone()))
    }

    fn has_looked(&self) -> bool {
        self.looked.load(Ordering::Acquire)
    }

    /// Pods of one namespace.
    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.config.client.clone(), namespace)
    }

    /// Everywhere that Pods of this Hearth may be.
    fn apis(&self) -> Vec<Api<Pod>> {
        if self.config.namespaces.is_empty() {
            return vec![Api::all(self.config.client.clone())];
        }
        let own = std::iter::once(&self.config.namespace);
        let mut all: Vec<&String> = self.config.namespaces.iter().chain(own).collect();
        all.sort();
        all.dedup();
        all.into_iter().map(|namespace| self.pods(namespace)).collect()
    }

    /// Those of this Hearth.
    fn selector(&self) -> String {
        format!("{}={},{}", pod::INSTALLATION, self.config.namespace, pod::INSTANCE)
    }

    /// An instance has ended: noted once, and told if its start is over.
    async fn end(&self, instance: &Arc<Instance>, exit: Exit) {
        instance.note_end(exit);
        self.tell(instance).await;
    }

    async fn tell(&self, instance: &Arc<Instance>) {
        if let Some(exit) = instance.untold_end() {
            // Without a subscriber nobody wants to know.
            self.end.send(Ended { instance: instance.id.clone(), exit }).await.ok();
        }
    }

    async fn tell_taken_away(&self, instance: &Instance, why: String, left: Duration) {
        // Without a subscriber nobody wants to know.
        self.take_away.send(TakenAway { instance: instance.id.clone(), why, left }).await.ok();
    }

    /// A step that went wrong, as the API server tells it.
    fn step(step: &'static str, instance: &InstanceId, error: &kube::Error) -> Error {
        Error::Step { step, instance: instance.clone(), source: io::Error::other(plain(error)) }
    }

    /// The instance in the books whose Pod this is. A Pod of its name in another namespace is another's.
    fn of_pod(&self, pod: &Pod) -> Option<Arc<Instance>> {
        let instance = self.find(&pod::instance(pod)?)?;
        (pod.metadata.namespace.as_deref() == Some(&*instance.namespace)).then_some(instance)
    }
}

fn started(reported: instance::Reported, create: Duration) -> Started {
    Started { invoke: Address::Tcp(reported.invoke), control: Address::Tcp(reported.control), create }
}

/// What the API server said, without the library's words around it.
fn plain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => crate::telemetry::chain(other),
    }
}

fn not_listed(error: &kube::Error) -> Error {
    Shared::step("list the Pods", &InstanceId::parse("none").expect("a label"), error)
}

#[async_trait]
impl Backend for Kubernetes {
    fn name(&self) -> &'static str {
        "kubernetes"
    }

    fn image_form(&self) -> ImageForm {
        ImageForm::Reference
    }

    fn fixity(&self) -> Fixity {
        Fixity::Fixed
    }

    fn lacks(&self) -> &'static [(Ability, &'static str)] {
        &[
            (Ability::Pause, "Kubernetes cannot pause a Pod"),
            (Ability::Limit, "a Pod keeps the limits that it was started with"),
            (Ability::Pids, "how many processes a Pod may have is its node's to say"),
            (Ability::Tmp, "kubelets before 1.22 give a volume in memory no size of its own"),
            (Ability::Measure, "what a Pod uses is its node's to tell"),
            (Ability::Network, "what Pods may reach is for NetworkPolicies, and for who enforces them"),
            (Ability::ReadOnlyCode, "code is unpacked in the Pod, by the function's own user"),
            (Ability::OwnUser, "all of a Pod runs as one user, without root"),
            (Ability::Record, "how a Pod ended is its node's to tell, and takes it a moment"),
            (Ability::HideGroups, "what is seen of control groups is for the node's runtime"),
        ]
    }

    fn secret(&self, instance: &InstanceId) -> Option<String> {
        Some(self.shared.keys.secret(instance))
    }

    async fn start(&self, spec: &InstanceSpec) -> Result<Started, Error> {
        self.shared.start(spec).await
    }

    async fn inject(&self, instance: &InstanceId, code: &CodeMount) -> Result<(), Error> {
        self.shared.inject(instance, code).await
    }

    async fn record(&self, instance: &InstanceId, owner: &Owner, code: &CodeMount) -> Result<(), Error> {
        self.shared.record(instance, owner, code).await
    }

    /// A Pod keeps what it was started with; whoever pools instances sees to it that this is what their functions ask for.
    async fn limit(&self, instance: &InstanceId, _: &Limits) -> Result<(), Error> {
        self.shared.running(instance).map(drop)
    }

    async fn pause(&self, instance: &InstanceId) -> Result<(), Error> {
        self.shared.running(instance)?;
        Err(Error::Unsupported {
            what: "pause a Pod".to_owned(),
            remedy: "set `scale.pause: off`, or keep instances by `scale.min`".to_owned(),
        })
    }

    async fn resume(&self, instance: &InstanceId) -> Result<(), Error> {
        self.shared.running(instance).map(drop)
    }

    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), Error> {
        self.shared.stop(instance, grace).await
    }

    /// What it was promised: its node knows what it uses.
    async fn stats(&self, instance: &InstanceId) -> Result<Stats, Error> {
        let spec = self.shared.running(instance)?.spec();
        Ok(Stats { memory_bytes: spec.limits.memory_bytes, ..Stats::default() })
    }

    async fn list(&self) -> Result<Vec<Found>, Error> {
        let parameters = ListParams::default().labels(&self.shared.selector());
        let (mut all, mut refused) = (Vec::new(), None);
        let apis = self.shared.apis();
        let mut listed = 0;
        for api in &apis {
            match request::within(request::LIST, api.list(&parameters)).await {
                Ok(pods) => {
                    listed += 1;
                    all.extend(pods.items);
                }
                // A namespace that was deleted together with the rights in it must not keep the others from being served.
                Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {
                    let (namespace, error) = (api.namespace(), &status.message);
                    tracing::warn!(
                        namespace,
                        error,
                        "Pods of this namespace cannot be listed: they are left as they are"
                    );
                    refused = Some(kube::Error::Api(status));
                }
                Err(error) => return Err(not_listed(&error)),
            }
        }
        if let Some(error) = refused.as_ref().filter(|_| listed == 0) {
            return Err(not_listed(error));
        }
        let found = self.shared.found(&all);
        // Of instances that are not known it cannot be said that they are none, unless all was seen.
        self.shared.looked.store(refused.is_none(), Ordering::Release);
        Ok(found)
    }

    fn exits(&self) -> mpsc::Receiver<Ended> {
        self.ends.take()
    }

    fn hindrances(&self) -> mpsc::Receiver<Hindered> {
        let receiver = self.hindrances.lock().unwrap_or_else(PoisonError::into_inner).take();
        receiver.unwrap_or_else(|| mpsc::channel(1).1)
    }

    /// A kubelet may be quicker than the watch.
    fn tells_why_within(&self) -> Duration {
        WATCHED_WITHIN
    }

    fn taken_away(&self) -> mpsc::Receiver<TakenAway> {
        let receiver = self.taken_away.lock().unwrap_or_else(PoisonError::into_inner).take();
        receiver.unwrap_or_else(|| mpsc::channel(1).1)
    }

    async fn probe(&self) -> Vec<Capability> {
        let version = asked(self.shared.config.client.apiserver_version()).await;
        let (works, detail) = match &version {
            Ok(version) => (true, format!("Kubernetes {}", version.git_version)),
            Err(error) => (false, plain(error)),
        };
        let remedy = (!works)
            .then(|| "see that the API server answers, and what this service account may do".to_owned());
        vec![Capability { name: "API server".to_owned(), works, detail, remedy }]
    }

    async fn close(&self) -> Result<(), Error> {
        Ok(())
    }
}
