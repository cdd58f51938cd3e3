//! What an instance is to be: all that a backend needs to start it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use hearth_function::spec::{Kubernetes, ValueFrom};
use hearth_function::{FunctionId, InstanceId, RevisionId};
use serde::{Deserialize, Serialize};

/// Everything a backend needs to start one instance.
#[derive(Clone, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// The instance's name, unique for ever in this data directory.
    pub id: InstanceId,
    /// What it is for; `None` while it is pooled.
    pub owner: Option<Owner>,
    /// What its shim runs.
    pub process: Process,
    /// Code to mount at `/code`, read-only.
    pub code: Option<CodeMount>,
    /// A directory of the host, mounted read-write at `/build` (a dependency installation and nothing else).
    pub build_dir: Option<PathBuf>,
    /// The container's root file system.
    pub root: Root,
    /// Environment of the user's process: the manifest's and Hearth's own.
    pub env: BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: Network,
    /// The namespace that it is made in, where its owner does not say and the backend has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What only a cluster gives it.
    #[serde(default, skip_serializing_if = "InCluster::is_empty")]
    pub in_cluster: InCluster,
    /// Whom the user's process runs as; `None`: Hearth's own user for functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<User>,
    /// Where the user's process starts; `None`: at `/code`, and an installation at `/build`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    /// Calls it may run at once (the shim and the bootstrap attribute log lines by it).
    pub concurrency: u32,
    /// Whoever opens a connection must know this: 64 hex digits.
    pub secret: String,
}

impl fmt::Debug for InstanceSpec {
    /// Without secret and environment, which may hold a user's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InstanceSpec")
            .field("id", &self.id)
            .field("owner", &self.owner)
            .field("process", &self.process)
            .field("code", &self.code)
            .field("build_dir", &self.build_dir)
            .field("root", &self.root)
            .field("limits", &self.limits)
            .field("network", &self.network)
            .field("namespace", &self.namespace)
            .field("in_cluster", &self.in_cluster)
            .field("user", &self.user)
            .field("working_directory", &self.working_directory)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// What only a cluster gives to an instance. Backends of one machine pass over it: what they cannot do is refused before there is a
/// Revision, or has no effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InCluster {
    /// Variables whose values the cluster keeps and the instance's node looks up. None of them is in [`InstanceSpec::env`].
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, ValueFrom>,
    /// Service account, nodes, credentials of registries.
    pub pod: Kubernetes,
}

impl InCluster {
    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// For whom an instance runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The Function.
    pub function: FunctionId,
    /// Its Revision.
    pub revision: RevisionId,
    /// Since when: the beginning of its start, or of that of its function in an instance that was pooled. A later controller goes by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<jiff::Timestamp>,
    /// The uid of the Revision's object: another of the same name may have been before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// What the shim runs in the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Process {
    /// The Node bootstrap, by the interpreter that the root has.
    Nodejs,
    /// The Python bootstrap, by the interpreter that the root has.
    Python,
    /// The user's own HTTP server, on `$PORT`.
    Http {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A process for each call.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// One command that runs to its end and leaves its result in `/build`.
    Job {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// The root file system of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Root {
    /// The host's own `/usr`, read-only, and the prefix of the interpreter.
    Host {
        /// The interpreter's binary on the host, for `Process::Nodejs` and `Process::Python`; resolved by the caller.
        interpreter: Option<PathBuf>,
    },
    /// An unpacked image at this path of the host.
    Directory(PathBuf),
    /// An image that the backend's engine has, or pulls: a reference with a digest.
    Image(String),
    /// An image of Hearth's own, with the shim in it.
    Runtime {
        /// Its reference.
        image: String,
        /// The interpreter in it, for `Process::Nodejs` and `Process::Python`.
        interpreter: Option<PathBuf>,
    },
}

impl Root {
    /// The root of code that brings none: where its interpreter is.
    #[must_use]
    pub fn with_interpreter(interpreter: Option<PathBuf>, image: Option<String>) -> Self {
        match image {
            Some(image) => Self::Runtime { image, interpreter },
            None => Self::Host { interpreter },
        }
    }
}

/// A user and a group, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// Code on the host and where it is seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeMount {
    /// An unpacked bundle on the host; mounted read-only at `/code`.
    pub path: PathBuf,
    /// Installed dependencies on the host; mounted read-only at `/deps` (`/code/node_modules` is a link the bundle holds, or `PYTHONPATH`).
    pub dependencies: Option<PathBuf>,
}

/// What an instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, in bytes, page cache included.
    pub memory_bytes: u64,
    /// Cpu time in thousandths of a core; `None`: no quota, only a weight.
    pub cpu_millis: Option<u32>,
    /// Size of `/tmp`, in bytes; counts against memory too.
    pub tmp_bytes: u64,
    /// Processes and threads.
    pub pids: u32,
    /// Whether it gives way while cpu is short: a start that no request waits for, and an installation.
    #[serde(default)]
    pub patient: bool,
}

/// The weight of a whole core, and of an instance without a quota, in the shares of control groups v1 (and of container engines).
const SHARES_OF_A_CORE: u64 = 1024;

/// The part of its weight that a patient instance has: enough to go on, too little to be felt beside one that somebody waits for.
const PATIENT_PART: u64 = 16;

/// The least shares that the kernel takes.
const LEAST_SHARES: u64 = 2;

impl Limits {
    /// The weight of the instance, in shares: 1024 for each core of its quota.
    pub(crate) fn shares(&self) -> u64 {
        let full =
            self.cpu_millis.map_or(SHARES_OF_A_CORE, |millis| u64::from(millis) * SHARES_OF_A_CORE / 1000);
        let part = if self.patient { PATIENT_PART } else { 1 };
        (full / part).max(LEAST_SHARES)
    }
}

/// What an instance may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Its own loopback only.
    None,
    /// The outside, the gateway, and what the operator lists of the host.
    Outbound,
}
