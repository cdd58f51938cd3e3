//! Desired state and records: Functions and Revisions, and small records beside them (usage counters, keys and values). Standalone they are
//! in an embedded database; in a cluster the API server has the objects ([`kubernetes`]), and there are no records.
//!
//! Objects follow the semantics of the Kubernetes API: one growing `resourceVersion` for the whole store, optimistic concurrency,
//! `generation` counted up when the spec changes, a status of its own, deletion that waits for finalizers and takes owned objects along,
//! and watches that continue from a version as long as the history reaches.
//!
//! ```text
//!  handles (Store, Watch) ── reads ──> memory: objects + history <── published after the commit ──┐
//!        └── commands (bounded) ──> owner thread: plan (pure) ─> one transaction, synced ─────────┘
//! ```
//!
//! The database is used by one thread of its own, because it blocks on the disk: a write is answered when it is durable (INV-11), and
//! what is read was durable before. Objects are few and small, so all of them are held in memory and reads never wait for the disk.
//! In a cluster memory and history are the same; what happens there comes from the answers of the API server and from watches.

mod error;
mod history;
pub mod kubernetes;
mod managers;
mod object;
mod owner;
mod plan;
mod records;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

pub use error::Error;
pub use history::{Event, Watch};
pub use managers::{managers, to_json};
pub use object::{Kind, Object, unreadable};
pub(crate) use plan::uuid;
pub use plan::{Preconditions, ResourceVersion, creation_order};

use owner::{Command, Owner};
use state::State;

/// Commands that may wait for the owner thread; whoever comes then waits for room.
const COMMANDS: usize = 256;
/// Events that a watch can fall behind before it must list again. Each holds an object as it was
/// then, about two kilobytes.
const HISTORY: usize = 512;

/// A handle to the store; a clone is another handle to the same.
#[derive(Debug, Clone)]
pub struct Store {
    truth: Truth,
    state: Arc<Mutex<State>>,
    version: watch::Receiver<u64>,
}

/// Who says what there is.
#[derive(Debug, Clone)]
enum Truth {
    /// The database: its owner thread.
    Disk(mpsc::Sender<Command>),
    /// The API server of a cluster. What waits for it is large: on the heap while it lasts, for every Function has a task that may.
    Cluster(kubernetes::Writer),
}

/// The objects of a list, and the version of the store that they are from: a watch continues there.
#[derive(Debug, Clone)]
pub struct Listed<O> {
    /// The objects, by namespace and name.
    pub items: Vec<Arc<O>>,
    /// What to watch from.
    pub resource_version: ResourceVersion,
}

/// Where a store keeps its file, and how much history it holds.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file of the database; made when it is not there. Its directory must exist.
    pub path: PathBuf,
    /// Events kept for watches.
    pub history: usize,
    /// Tells of a disk that can be full.
    #[cfg(test)]
    pub(crate) full: Option<Arc<std::sync::atomic::AtomicBool>>,
}

impl Config {
    /// `path`, with the default history.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            history: HISTORY,
            #[cfg(test)]
            full: None,
        }
    }
}

impl Store {
    /// Opens the store, and makes it when the file is not there. Reads all objects into memory. After a kill, the database repairs
    /// itself here.
    ///
    /// # Errors
    /// [`Error::InUse`] when another process has it open, [`Error::TooNew`] when a later version of Hearth wrote it,
    /// [`Error::Corrupt`] and [`Error::Io`] by the state of file and disk.
    pub async fn open(config: Config) -> Result<Self, Error> {
        let state = Arc::new(Mutex::new(State::new(config.history)));
        let (commands, queue) = mpsc::channel(COMMANDS);
        let (opened, result) = oneshot::channel();
        let shared = Arc::clone(&state);
        std::thread::Builder::new()
            .name("hearth-store".to_owned())
            .spawn(move || owner::run(&config, shared, queue, opened))
            .map_err(|source| Error::Io {
                doing: "start the thread of the store",
                source: Box::new(source),
            })?;
        let version = result.await.map_err(|_| Error::Closed)??;
        Ok(Self { truth: Truth::Disk(commands), state, version })
    }

    /// Ends the store when all commands sent before are done; the file is closed when this returns. Other handles and watches get
    /// [`Error::Closed`] from then on.
    pub async fn close(self) {
        let commands = match &self.truth {
            Truth::Disk(commands) => commands,
            Truth::Cluster(cluster) => return cluster.close(),
        };
        let (done, closed) = oneshot::channel();
        if commands.send(Command::Close(done)).await.is_ok() {
            // An error means that the thread has ended, which is what was asked for.
            closed.await.unwrap_or_default();
        }
    }

    /// The namespaces of a cluster that could not be listed yet: what they hold is unknown, and nothing of it may be taken to be gone. Standalone
    /// there are none.
    #[must_use]
    pub fn unlisted(&self) -> BTreeSet<String> {
        match &self.truth {
            Truth::Disk(_) => BTreeSet::new(),
            Truth::Cluster(cluster) => cluster.unlisted(),
        }
    }

    /// Stores a new object. Gives it uid, generation 1, `resourceVersion` and `creationTimestamp` (`now`); a status that it carries is kept.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], [`Error::Invalid`] when it has no name or no namespace.
    pub async fn create<O: Object>(&self, object: O, now: Timestamp) -> Result<Arc<O>, Error> {
        if let Truth::Cluster(cluster) = &self.truth {
            return Box::pin(cluster.create(object)).await;
        }
        let random =
            random().map_err(|source| Error::Io { doing: "draw a uid", source: Box::new(source) })?;
        self.change(move |state| plan::create(state, object, random, now)).await
    }

    /// The object of this name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get<O: Object>(&self, namespace: &str, name: &str) -> Result<Arc<O>, Error> {
        self.read(|state| state.get::<O>(namespace, name))
            .ok_or_else(|| Error::NotFound { kind: O::KIND, name: format!("{namespace}/{name}") })
    }

    /// The objects of one namespace, or of all.
    #[must_use]
    pub fn list<O: Object>(&self, namespace: Option<&str>) -> Listed<O> {
        self.read(|state| Listed {
            items: state.list::<O>(namespace),
            resource_version: ResourceVersion::new(state.version()),
        })
    }

    /// The objects of a namespace whose names begin with `prefix`, without a look at any other.
    #[must_use]
    pub fn list_named<O: Object>(&self, namespace: &str, prefix: &str) -> Vec<Arc<O>> {
        self.read(|state| state.list_named::<O>(namespace, prefix))
    }

    /// Replaces the object of this name: labels, annotations, finalizers, owners and spec. Its status stays what it is stored as, and uid,
    /// creation and deletion are never changed. `generation` counts up when the spec is another. When nothing is changed, nothing is written and
    /// the stored object comes back.
    ///
    /// An object that is being deleted and has lost its last finalizer is removed; what comes back is its last form.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when `object` carries a `resourceVersion` or uid other than the stored (without
    /// a `resourceVersion` the update is unconditional); [`Error::Deleting`] when it brings finalizers to one that is being deleted.
    pub async fn update<O: Object>(&self, object: O) -> Result<Arc<O>, Error> {
        match &self.truth {
            Truth::Disk(_) => self.change(move |state| plan::update(state, object)).await,
            Truth::Cluster(cluster) => Box::pin(cluster.update(object)).await,
        }
    }

    /// Replaces the status of the object of this name, and nothing else.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub async fn update_status<O: Object>(&self, object: O) -> Result<Arc<O>, Error> {
        match &self.truth {
            Truth::Disk(_) => self.change(move |state| plan::update_status(state, object)).await,
            Truth::Cluster(cluster) => Box::pin(cluster.update_status(object)).await,
        }
    }

    /// Puts this finalizer on the object, or takes it away, and changes nothing else of it: not even the form in which its spec is written.
    ///
    /// # Errors
    /// As [`Store::update`]; the uid is what `object` must still have.
    pub async fn finalize<O: Object>(&self, object: &O, finalizer: &str, on: bool) -> Result<Arc<O>, Error> {
        if let Truth::Cluster(cluster) = &self.truth {
            return Box::pin(cluster.finalize(object, finalizer, on)).await;
        }
        let (object, finalizer) = (object.clone(), finalizer.to_owned());
        self.change(move |state| plan::finalize(state, &object, &finalizer, on)).await
    }

    /// Deletes the object of this name and, with it, every object that it alone owns. One with finalizers is marked with `now` and stays
    /// until they are taken away. What comes back is its last form.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when a precondition does not hold.
    pub async fn delete<O: Object>(
        &self,
        namespace: &str,
        name: &str,
        preconditions: Preconditions,
        now: Timestamp,
    ) -> Result<Arc<O>, Error> {
        if let Truth::Cluster(cluster) = &self.truth {
            return Box::pin(cluster.delete(namespace, name, &preconditions)).await;
        }
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        self.change(move |state| plan::delete::<O>(state, &namespace, &name, &preconditions, now)).await
    }

    /// What [`Store::create`] would answer now. Nothing is stored.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub fn preview_create<O: Object>(&self, object: O, now: Timestamp) -> Result<Arc<O>, Error> {
        let random =
            random().map_err(|source| Error::Io { doing: "draw a uid", source: Box::new(source) })?;
        self.read(|state| plan::create(state, object, random, now)).map(|plan| plan.answer)
    }

    /// What [`Store::update`] would answer now. Nothing is stored.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub fn preview_update<O: Object>(&self, object: O) -> Result<Arc<O>, Error> {
        self.read(|state| plan::update(state, object)).map(|plan| plan.answer)
    }

    /// What [`Store::update_status`] would answer now. Nothing is stored.
    ///
    /// # Errors
    /// As [`Store::update`].
    pub fn preview_update_status<O: Object>(&self, object: O) -> Result<Arc<O>, Error> {
        self.read(|state| plan::update_status(state, object)).map(|plan| plan.answer)
    }

    /// What [`Store::delete`] would answer now. Nothing is deleted.
    ///
    /// # Errors
    /// As [`Store::delete`].
    pub fn preview_delete<O: Object>(
        &self,
        namespace: &str,
        name: &str,
        preconditions: &Preconditions,
        now: Timestamp,
    ) -> Result<Arc<O>, Error> {
        self.read(|state| plan::delete::<O>(state, namespace, name, preconditions, now))
            .map(|plan| plan.answer)
    }

    /// Everything that happens to objects of this kind after `since`. A version of [`Store::list`] continues without a gap.
    ///
    /// # Errors
    /// [`Error::Expired`] when the history does not reach back so far, or `since` is of another store: list again.
    pub fn watch<O: Object>(&self, since: ResourceVersion) -> Result<Watch<O>, Error> {
        self.read(|state| state.history().check(since.get(), state.version()))?;
        Ok(Watch {
            state: Arc::clone(&self.state),
            version: self.version.clone(),
            cursor: since.get(),
            kind: PhantomData,
        })
    }

    /// The version of the store now.
    #[must_use]
    pub fn resource_version(&self) -> ResourceVersion {
        ResourceVersion::new(self.read(State::version))
    }

    /// Told of every change: for whoever looks at all objects then.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.clone()
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn change<O: Object>(
        &self,
        planned: impl FnOnce(&State) -> Result<plan::Plan<O>, Error> + Send + 'static,
    ) -> Result<Arc<O>, Error> {
        self.run(move |owner| owner.change(planned)).await
    }

    /// Runs `work` on the owner thread; in a cluster there is none.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Owner) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Run(Box::new(move |owner| {
            // Nobody waits for the answer any more: the change itself is done all the same.
            reply.send(work(owner)).unwrap_or_default();
        }));
        let Truth::Disk(commands) = &self.truth else { return Err(Error::NoRecords) };
        commands.send(command).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }
}

fn random() -> Result<u128, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}
