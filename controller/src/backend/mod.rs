//! Where instances run. One trait, [`Backend`], with as few methods as the life of an instance needs; `embedded`, `docker` and
//! `kubernetes`, and a fake with injected faults for tests. All of them pass the same conformance suite.
//!
//! A backend makes containers and takes them away. It does not know Functions, routes or scaling, and it does not speak the
//! invocation protocol: it says at which addresses the instance's two sockets are (`invoke` and `control`), and the pool talks.

mod code_place;
pub mod conformance;
pub mod control;
pub(crate) mod credentials;
pub mod docker;
pub mod embedded;
mod ends;
pub mod fake;
pub mod interpreters;
pub mod kubernetes;
mod local;
pub(crate) mod rooted;
pub mod shim_files;
mod spec;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use hearth_function::{Digest, InstanceId};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub(crate) use credentials::Credentials;
pub use hearth_protocol::Exit;
pub use spec::{CodeMount, InCluster, InstanceSpec, Limits, Network, Owner, Process, Root, User};

/// Starts, stops and finds instances.
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug + 'static {
    /// The name that `--backend` takes.
    fn name(&self) -> &'static str;

    /// Makes the container and starts its shim. Returns when the process runs; whether the runtime in it listens and the code loads is
    /// the caller's to find out at the addresses returned. After an error nothing of the instance is left.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the instance running; [`Backend::stop`] with its id takes it away.
    async fn start(&self, spec: &InstanceSpec) -> Result<Started, Error>;

    /// Makes `code` visible, read-only, at `/code` of a running instance that was started without code.
    async fn inject(&self, instance: &InstanceId, code: &CodeMount) -> Result<(), Error>;

    /// Writes down that an instance runs for `owner` from now on, with `code` that was injected: [`Backend::list`] says so. Until then it is
    /// nobody's for a controller that comes back.
    async fn record(&self, instance: &InstanceId, owner: &Owner, code: &CodeMount) -> Result<(), Error>;

    /// Gives the instance the limits of the function it now runs (and from Ready on, its cpu quota).
    async fn limit(&self, instance: &InstanceId, limits: &Limits) -> Result<(), Error>;

    /// Freezes every process of the instance.
    async fn pause(&self, instance: &InstanceId) -> Result<(), Error>;

    /// Thaws a paused instance. Thawing one that runs is no error.
    async fn resume(&self, instance: &InstanceId) -> Result<(), Error>;

    /// Ends the instance: SIGTERM to its shim (which hands it on), and after `grace` kills what is left; thaws first. Returns when nothing
    /// of it is left: processes, cgroups, mounts, network, files. Stopping an instance that is gone is no error.
    ///
    /// A second call may come while a first runs: the shorter of their graces ends the instance, and both return when nothing of it is left.
    async fn stop(&self, instance: &InstanceId, grace: Duration) -> Result<(), Error>;

    /// In which form it takes images.
    fn image_form(&self) -> ImageForm {
        ImageForm::Unpacked
    }

    /// The secret that an instance of this name is to have; `None`: a random one. Where it is kept nowhere, it must be found out again.
    fn secret(&self, _instance: &InstanceId) -> Option<String> {
        None
    }

    /// What can be changed of an instance while it runs.
    fn fixity(&self) -> Fixity {
        Fixity::Free
    }

    /// What it cannot do of what instances elsewhere have, each with the reason, for people. What is not named it does.
    fn lacks(&self) -> &'static [(Ability, &'static str)] {
        &[]
    }

    /// Has an image that is taken by reference be there when an instance is started: a start is no time to pull one.
    async fn fetch(&self, _reference: &str) -> Result<(), Error> {
        Ok(())
    }

    /// The image of this name that its engine has itself; `None`, also where images are taken unpacked: a registry may have it.
    async fn image(&self, _reference: &str) -> Result<Option<EngineImage>, Error> {
        Ok(None)
    }

    /// What the instance uses now.
    async fn stats(&self, instance: &InstanceId) -> Result<Stats, Error>;

    /// Every instance of this data directory that the backend can find, running or dead, whoever started it: what a controller that
    /// comes back adopts or reaps.
    async fn list(&self) -> Result<Vec<Found>, Error>;

    /// Tells of instances that end, however they end. One subscriber; called once.
    fn exits(&self) -> mpsc::Receiver<Ended>;

    /// Tells of starts that wait for something outside which may take long, and when they go on. One subscriber; called once. A backend whose
    /// starts wait for nothing of the kind never tells of any.
    fn hindrances(&self) -> mpsc::Receiver<Hindered> {
        mpsc::channel(1).1
    }

    /// Tells of instances that something outside has begun to take away, as when a node is drained. One subscriber; called once. A backend
    /// whose instances nobody else can end in good order never tells of any.
    fn taken_away(&self) -> mpsc::Receiver<TakenAway> {
        mpsc::channel(1).1
    }

    /// How long after an instance has said itself that it was told to end the backend may still tell who takes it away, and why. Zero where it
    /// tells of none.
    fn tells_why_within(&self) -> Duration {
        Duration::ZERO
    }

    /// What this machine can and cannot do for this backend, for `hearth doctor`.
    async fn probe(&self) -> Vec<Capability>;

    /// Takes away what the backend made for itself (bridge, firewall rules, spare namespaces, launchers). Instances must be stopped before.
    async fn close(&self) -> Result<(), Error>;
}

/// In which form a backend takes the image of a Function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageForm {
    /// As [`Root::Directory`].
    Unpacked,
    /// As [`Root::Image`].
    Reference,
}

/// What can be changed of an instance while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fixity {
    /// Its limits can be, and it can be paused.
    #[default]
    Free,
    /// Nothing: it keeps the limits that it was started with, stays in its namespace, and runs on. As a Pod.
    Fixed,
}

/// What not every backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// Pausing an instance.
    Pause,
    /// Changing limits while an instance runs.
    Limit,
    /// Limiting processes and threads.
    Pids,
    /// Limiting the size of `/tmp`.
    Tmp,
    /// Telling what an instance uses.
    Measure,
    /// Keeping to [`Network`] by itself.
    Network,
    /// Code on a file system that is mounted read-only.
    ReadOnlyCode,
    /// A shim with a user of its own.
    OwnUser,
    /// Knowing at once how an instance ended that another handle has started.
    Record,
    /// Hiding the control groups.
    HideGroups,
}

/// An image that an engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineImage {
    /// The engine's name for it: the digest of its configuration, and so of all that it is.
    pub id: Digest,
    /// What it says of how it is run, in the form of an image's own configuration (OCI, JSON).
    pub config: Vec<u8>,
}

/// A started instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Where the invocation protocol is spoken.
    pub invoke: Address,
    /// Where the shim speaks: logs, exit, drain.
    pub control: Address,
    /// How long the parts of the start took, for the phases of a cold start.
    pub create: Duration,
}

/// Where a socket of an instance listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Address {
    /// A Unix socket at this path of the host.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(std::net::SocketAddr),
}

/// What an instance uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Cpu time since its start.
    pub cpu: Duration,
    /// Memory now, in bytes.
    pub memory_bytes: u64,
    /// Highest memory, in bytes.
    pub memory_peak_bytes: u64,
    /// Processes and threads now.
    pub pids: u32,
    /// Processes and threads that could not be made since its start, because there were as many as may be; 0 where nobody counts them.
    pub pids_refused: u64,
}

/// An instance that [`Backend::list`] found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What it was started as.
    pub spec: InstanceSpec,
    /// Where it listens.
    pub started: Started,
    /// How it ended, if it did.
    pub ended: Option<Exit>,
    /// Something outside takes it away, and leaves it so long to end its calls: nobody is to give it more of them.
    pub taken_away: Option<Duration>,
}

impl Found {
    /// Whether it runs, and goes on running.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.ended.is_none() && self.taken_away.is_none()
    }
}

/// An instance came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub instance: InstanceId,
    /// How.
    pub exit: Exit,
}

/// A start waits for something outside, or goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hindered {
    /// Which.
    pub instance: InstanceId,
    /// For what.
    pub by: Hindrance,
}

/// What a start waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hindrance {
    /// Something outside, for people. It may take very long: whoever waits for the start is told, and no others are begun beside it.
    Outside(String),
    /// Something that takes its time and comes by itself, as an image that is pulled: it is no part of the time that a start may take, though of
    /// what it took. Those who wait are not told.
    Time,
    /// Nothing any more: it goes on.
    Over,
}

/// Something outside has begun to take an instance away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenAway {
    /// Which.
    pub instance: InstanceId,
    /// Who takes it away, for people, as in `Kubernetes takes its Pod away`.
    pub why: String,
    /// How long it has to end its calls.
    pub left: Duration,
}

/// One thing that a machine can or cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Short name, as in `memory limits`.
    pub name: String,
    /// Whether it works here.
    pub works: bool,
    /// What was found.
    pub detail: String,
    /// What to do to have it, when it does not work.
    pub remedy: Option<String>,
}

/// Why the backend cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The machine lacks something that no instance can do without.
    #[error("this machine cannot {what}: {remedy}")]
    Unsupported {
        /// What it lacks.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// A step of the setting up went wrong.
    #[error("{step}")]
    Step {
        /// What was being done, with the path.
        step: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Why a backend could not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No instance of this name.
    #[error("instance {0} is not here")]
    NotFound(InstanceId),
    /// The specification cannot be carried out as it stands: the user must change it.
    #[error("{what}: {remedy}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// What to change.
        remedy: String,
    },
    /// The machine lacks something: see `hearth doctor`.
    #[error("this machine cannot {what}: {remedy}")]
    Unsupported {
        /// What it lacks.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// The image that it runs in cannot be had; trying again may help.
    #[error("{0}")]
    Image(String),
    /// It is to have something that is not there, as a Secret: trying again helps once somebody has made it.
    #[error("{0}")]
    Lacking(String),
    /// Something outside went wrong in this step; trying again may help.
    #[error("{step} for instance {instance}")]
    Step {
        /// What was being done, as in `create the cgroup`.
        step: &'static str,
        /// For which instance.
        instance: InstanceId,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    /// An instance has one name, for ever.
    fn name_is_taken(instance: &InstanceId) -> Self {
        Self::Invalid {
            what: format!("there is an instance {instance} already"),
            remedy: "give every instance a name of its own".to_owned(),
        }
    }
}
