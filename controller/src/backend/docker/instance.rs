//! An instance as the controller holds it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use hearth_function::InstanceId;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::backend::code_place::CodePlace;
use crate::backend::local::cgroup::Group;
use crate::backend::local::directory::Directory;
use crate::backend::{Exit, Limits, Started};

/// What `started.json` says of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The engine's name for its container.
    pub(super) container: String,
    /// What the start answered.
    pub(super) started: Started,
}

/// An instance, from before its container is there until nothing is left of it.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) directory: Directory,
    /// What the start made, once it has.
    pub(super) record: OnceLock<Record>,
    pub(super) code_place: CodePlace,
    pub(super) paused: AtomicBool,
    /// It is being taken away.
    pub(super) stopping: AtomicBool,
    /// The limits its container has; unknown of one that was adopted.
    pub(super) limits: Mutex<Option<Limits>>,
    /// The engine saw the kernel kill in it for want of memory.
    pub(super) starved: watch::Sender<bool>,
    /// Highest memory seen, in bytes.
    pub(super) peak: AtomicU64,
    /// Its first process and its control groups, once somebody needed them.
    pub(super) process: OnceLock<Held>,
    /// How it ended, once it has.
    pub(super) end: watch::Sender<Option<Exit>>,
}

impl Instance {
    pub(super) fn new(id: InstanceId, directory: Directory, has_code: bool) -> Self {
        Self {
            id,
            directory,
            record: OnceLock::new(),
            code_place: CodePlace::new(has_code),
            paused: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            limits: Mutex::new(None),
            starved: watch::Sender::new(false),
            peak: AtomicU64::new(0),
            process: OnceLock::new(),
            end: watch::Sender::new(None),
        }
    }

    /// Waits until the instance has ended.
    pub(super) async fn ended(&self) {
        let mut end = self.end.subscribe();
        // The sender is in this very structure, so the channel is open.
        end.wait_for(Option::is_some).await.ok();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    /// Notes what its container was given.
    pub(super) fn set_limits(&self, limits: Limits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = Some(limits);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// The first process of a container.
#[derive(Debug)]
pub(super) struct Held {
    /// Stands for it, be its number used again or not.
    pub(super) process: OwnedFd,
    /// Its control groups.
    pub(super) group: Group,
}

/// Takes hold of the container's first process.
///
/// # Errors
/// When it is gone, be its number used again or not; and when it is on another machine, as behind an engine in a virtual one.
pub(super) fn hold(pid: i64, container: &str) -> io::Result<Held> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the container's process is not on this machine");
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    // Looked at after the opening: now the number cannot change hands unseen. Every engine puts the container's name into its groups'.
    let group = Group::of(pid.as_raw_nonzero().get())?;
    if group.is_named_after(container) { Ok(Held { process, group }) } else { Err(gone()) }
}
