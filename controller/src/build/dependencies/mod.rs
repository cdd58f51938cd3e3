//! Installed dependencies: `<data-dir>/deps/<key>/`, holding `node_modules` or `python`, mounted read-only at `/deps` of every instance
//! whose code asks for them.
//!
//! [`plan()`] reads what a bundle asks for and gives it a key: the same lock file, interpreter, root and architecture have the same key, so
//! that a change of code installs nothing. [`Dependencies::ensure`] installs what is not there yet, once, however many ask at the same
//! time: npm or pip run in an instance of their own (`job`), as nobody, with a directory of their own and the network, and never with
//! the controller's rights or a function's secrets.

mod environment;
mod job;
mod plan;
mod seal;
mod space;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hearth_function::ByteSize;
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::shelf::{FileError, Half, Shelf, Sync};
use crate::backend::interpreters::Interpreter;
use crate::backend::{self, Backend, Root, control};

pub use environment::select as select_environment;
pub use plan::{Plan, PlanError, Tool, plan};

/// Under which installed dependencies are kept: 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DependencyKey(pub(crate) Arc<str>);

/// What dependencies are installed for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// The interpreter, on the host or inside of `root`.
    pub interpreter: Interpreter,
    /// The root that the function's instances have.
    pub root: Root,
}

/// How dependencies are installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long an installation may take. Default 10 minutes.
    pub timeout: Duration,
    /// Memory of the installing instance, in bytes. Default 1 GiB.
    pub memory_bytes: u64,
    /// Processes and threads of it. Default 512: a native module's build runs many compilers.
    pub pids: u32,
    /// Bytes of what is installed; while it is being installed, twice as many. Default 2 GiB.
    pub installed_bytes: u64,
    /// Bytes of the data directory's file system that stay free: an installation that would take them is stopped. Default 512 MiB.
    pub free_bytes: u64,
    /// Installations that run at once; more wait. Default 2.
    pub parallel: usize,
    /// Variables for npm and pip: a mirror's address, a proxy, the file of an authority's certificate. [`select_environment`] takes them from
    /// a process's own. A file they name is copied to where the instance sees it. They may hold credentials and are never logged.
    pub install_env: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(600),
            memory_bytes: 1 << 30,
            pids: 512,
            installed_bytes: 2 << 30,
            free_bytes: 512 << 20,
            parallel: 2,
            install_env: BTreeMap::new(),
        }
    }
}

/// What is heard of an installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Of which.
    pub key: DependencyKey,
    /// What happened.
    pub progress: Progress,
}

/// How an installation goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Others are being installed and it waits for its turn.
    Queued,
    /// It began.
    Started {
        /// What runs, as in `npm ci`.
        tool: Tool,
    },
    /// Something that the user should know, as in `yarn.lock is not read`.
    Note(String),
    /// A file came from the registry.
    Fetched {
        /// Its name.
        name: String,
    },
    /// The tool printed a line.
    Line(String),
    /// It is there.
    Finished {
        /// How long it took.
        took: Duration,
        /// Bytes that were installed.
        bytes: u64,
    },
    /// It failed; the error goes to those who wait for it.
    Failed {
        /// Why, in a sentence.
        message: String,
    },
}

/// Why dependencies are not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// npm or pip ended with an error, as a rule because of what the bundle asks for.
    #[error("{tool} failed: {how}{}", LastLines(last_lines))]
    Failed {
        /// What ran.
        tool: Tool,
        /// How it ended, as in `exit code 1`, and what to do where that is known.
        how: String,
        /// The last lines it printed.
        last_lines: Vec<String>,
    },
    /// It took too long.
    #[error("{tool} was not done after {}{}", humantime::format_duration(*after), LastLines(last_lines))]
    Timeout {
        /// What ran.
        tool: Tool,
        /// How long it had.
        after: Duration,
        /// The last lines it printed.
        last_lines: Vec<String>,
    },
    /// What was installed is larger than is allowed.
    #[error("{tool} installed more than {}, which is what build.max_installed allows", ByteSize::from_bytes(*limit))]
    TooLarge {
        /// What ran.
        tool: Tool,
        /// How many bytes are allowed.
        limit: u64,
    },
    /// The disk is nearly full.
    #[error("{tool} was stopped: the disk of {} must keep {kept} free", directory.display())]
    DiskFull {
        /// What ran.
        tool: Tool,
        /// What must stay free, and the option that says so.
        kept: String,
        /// A directory on it.
        directory: PathBuf,
    },
    /// The machine has no npm or no pip for this interpreter.
    #[error("there is no {tool} for {}: {remedy}", interpreter.display())]
    NoTool {
        /// What is missing.
        tool: &'static str,
        /// For which interpreter.
        interpreter: PathBuf,
        /// How to get it.
        remedy: String,
    },
    /// The instance could not be started.
    #[error("the instance that installs dependencies did not start")]
    Backend(#[from] backend::Error),
    /// The instance could not be heard.
    #[error("the instance that installs dependencies was lost")]
    Control(#[from] control::Error),
    /// The store's own file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The controller is ending.
    #[error("the installation was cut off because the controller is ending")]
    CutOff,
}

/// The store of installed dependencies, and the installations that are under way.
#[derive(Debug)]
pub struct Dependencies {
    inner: Arc<Inner>,
}

type Installation = Shared<BoxFuture<'static, Result<PathBuf, Arc<Error>>>>;

#[derive(Debug)]
struct Inner {
    shelf: Shelf,
    backend: Arc<dyn Backend>,
    config: Config,
    /// Installations that are under way; whoever asks for the same waits for the same.
    running: Mutex<HashMap<DependencyKey, Installation>>,
    turns: Semaphore,
    updates: broadcast::Sender<Update>,
    tasks: TaskTracker,
    closing: CancellationToken,
}

/// Updates kept for a listener that is slow; it is told how many it missed.
const UPDATES: usize = 1024;

impl Dependencies {
    /// Opens the store in the data directory and removes what a crash left half-installed. Instances of installations that a crash left
    /// running are the pool's to reap, as all others.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(data_dir: &Path, backend: Arc<dyn Backend>, config: Config) -> Result<Self, Error> {
        let shelf = Shelf::open(data_dir.join("deps"))?;
        let inner = Inner {
            shelf,
            backend,
            running: Mutex::default(),
            turns: Semaphore::new(config.parallel.max(1)),
            config,
            updates: broadcast::channel(UPDATES).0,
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Where dependencies are in a data directory that nobody has opened, if they are installed there.
    #[must_use]
    pub fn installed(data_dir: &Path, key: &DependencyKey) -> Option<PathBuf> {
        let path = data_dir.join("deps").join(key.as_str());
        path.is_dir().then_some(path)
    }

    /// Where these dependencies are, if they are installed.
    #[must_use]
    pub fn path(&self, key: &DependencyKey) -> Option<PathBuf> {
        self.inner.shelf.path(key.as_str())
    }

    /// Where the dependencies of this key are, or will be.
    pub(crate) fn place(&self, key: &str) -> PathBuf {
        self.inner.shelf.place(key)
    }

    /// Where these dependencies are; installs them if they are not there, or waits for whoever does already. A failed installation is not
    /// remembered: the next call tries again.
    ///
    /// # Errors
    /// As [`Error`] says. All who wait for one installation get the same error.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the installation; its result is there for the next who asks.
    pub async fn ensure(&self, plan: &Plan) -> Result<PathBuf, Arc<Error>> {
        let installation = {
            let mut running = self.inner.running.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(path) = self.path(&plan.key) {
                self.inner.shelf.touch(plan.key.as_str()).map_err(|error| Arc::new(error.into()))?;
                return Ok(path);
            }
            if self.inner.closing.is_cancelled() {
                return Err(Arc::new(Error::CutOff));
            }
            let begin = || Inner::begin(&self.inner, plan.clone());
            running.entry(plan.key.clone()).or_insert_with(begin).clone()
        };
        installation.await
    }

    /// Follows all installations from now on.
    #[must_use]
    pub fn updates(&self) -> broadcast::Receiver<Update> {
        self.inner.updates.subscribe()
    }

    /// Everything that is installed.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn list(&self) -> Result<BTreeSet<DependencyKey>, Error> {
        let names = self.inner.shelf.list()?;
        Ok(names.into_iter().map(|name| DependencyKey(name.into())).collect())
    }

    /// Removes what is not in `live`, that first which nobody has asked for the longest, until at most `most` bytes are left of it; nothing that
    /// was asked for in the last `grace`. How much. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn shrink(
        &self,
        live: &HashSet<DependencyKey>,
        most: u64,
        grace: Duration,
        now: SystemTime,
    ) -> Result<usize, Error> {
        let live: HashSet<&str> = live.iter().map(DependencyKey::as_str).collect();
        Ok(self.inner.shelf.shrink(|name| live.contains(name), most, grace, now)?.len())
    }

    /// Bytes of all that is installed. Looks at every file: blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn bytes(&self) -> Result<u64, Error> {
        Ok(self.inner.shelf.entries()?.iter().map(|entry| entry.bytes).sum())
    }

    /// Removes what is not in `live` and what nobody has asked for in the last `keep`. `live` must hold the keys of running instances too.
    /// Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn collect(
        &self,
        live: &HashSet<DependencyKey>,
        keep: Duration,
        now: SystemTime,
    ) -> Result<Vec<DependencyKey>, Error> {
        let live: HashSet<&str> = live.iter().map(DependencyKey::as_str).collect();
        let removed = self.inner.shelf.collect(|name| live.contains(name), keep, now)?;
        Ok(removed.into_iter().map(|name| DependencyKey(name.into())).collect())
    }

    /// Cuts off what is under way, stops its instances and waits for all of it to be gone.
    pub async fn close(&self) {
        self.inner.closing.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

impl Inner {
    fn begin(this: &Arc<Self>, plan: Plan) -> Installation {
        let inner = Arc::clone(this);
        let task = this.tasks.spawn(async move {
            let result = inner.install(&plan).await.map_err(Arc::new);
            if let Err(error) = &result {
                inner.report(&plan.key, Progress::Failed { message: error.to_string() });
            }
            inner.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&plan.key);
            result
        });
        async move { task.await.unwrap_or_else(|_| Err(Arc::new(Error::CutOff))) }.boxed().shared()
    }

    async fn install(&self, plan: &Plan) -> Result<PathBuf, Error> {
        if self.turns.available_permits() == 0 {
            self.report(&plan.key, Progress::Queued);
        }
        let turn = tokio::select! {
            turn = self.turns.acquire() => turn.map_err(|_| Error::CutOff)?,
            () = self.closing.cancelled() => return Err(Error::CutOff),
        };
        let begin = tokio::time::Instant::now();
        let half = self.shelf.begin()?;
        let result = self.install_into(plan, half, begin).await;
        drop(turn);
        result
    }

    async fn install_into(
        &self,
        plan: &Plan,
        half: Half,
        begin: tokio::time::Instant,
    ) -> Result<PathBuf, Error> {
        if let Err(error) = job::run(self, plan, half.path()).await {
            // A tree of npm's takes its time to remove.
            blocking(move || drop(half)).await?;
            return Err(error);
        }
        let (shelf, key) = (self.shelf.clone(), plan.key.clone());
        let (tool, limit) = (plan.tool, self.config.installed_bytes);
        let keep = plan.keep();
        let (path, bytes) = blocking(move || {
            let bytes = seal::seal(half.path(), keep, limit)?.ok_or(Error::TooLarge { tool, limit })?;
            Ok::<_, Error>((half.finish(&shelf, key.as_str(), Sync::All)?, bytes))
        })
        .await??;
        self.report(&plan.key, Progress::Finished { took: begin.elapsed(), bytes });
        Ok(path)
    }

    fn report(&self, key: &DependencyKey, progress: Progress) {
        // Nobody listens: then nobody wants to know.
        drop(self.updates.send(Update { key: key.clone(), progress }));
    }
}

/// Runs what blocks on a thread that may. It runs to its end even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::CutOff)
}

impl DependencyKey {
    /// The key as text: 64 hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DependencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Toolchain {
    /// An interpreter with the root that its instances have: this machine's own `/usr`, or the image that it is in.
    #[must_use]
    pub fn of(interpreter: Interpreter) -> Self {
        let path = Some(interpreter.path.clone());
        let root = Root::with_interpreter(path, interpreter.image.clone());
        Self { interpreter, root }
    }
}

/// What a tool printed last, below the message.
struct LastLines<'a>(&'a [String]);

impl fmt::Display for LastLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests;
