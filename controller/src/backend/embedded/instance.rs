//! A running instance as the controller holds it, and how its end is found out.

use std::os::fd::OwnedFd;
use std::time::Duration;

use hearth_function::InstanceId;
use tokio::sync::watch::Sender;

use super::process::{self, Fate};
use crate::backend::code_place::CodePlace;
use crate::backend::local::cgroup::Group;
use crate::backend::local::directory::Directory;
use crate::backend::local::watch;
use crate::backend::{Exit, Started};

/// How often it is asked how a child of ours ended, and how long apart: the launcher's worker, whose child it was at first, may be a
/// moment later in ending.
const REAP_TRIES: u32 = 50;
const REAP_PAUSE: Duration = Duration::from_millis(2);

/// Where a process's exit status can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kin {
    /// A child of this controller.
    Child,
    /// Started by one before: somebody else waits for it.
    Adopted,
}

/// A running instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) directory: Directory,
    pub(super) group: Group,
    pub(super) pidfd: OwnedFd,
    pub(super) kin: Kin,
    pub(super) started: Started,
    pub(super) code_place: CodePlace,
    /// How it ended, once it has.
    pub(super) end: Sender<Option<Exit>>,
}

impl Instance {
    /// Waits for the end of the shim and says how the instance ended.
    pub(super) async fn watch(&self) -> Exit {
        if let Err(error) = watch::end(&self.pidfd).await {
            tracing::error!(instance = %self.id, %error, "cannot watch the instance's process");
        }
        let exit = self.conclude().await;
        self.end.send_replace(Some(exit));
        exit
    }

    async fn conclude(&self) -> Exit {
        let mut fate = process::reap(&self.pidfd);
        if self.kin == Kin::Child {
            for _ in 0..REAP_TRIES {
                if fate != Fate::Unknown {
                    break;
                }
                tokio::time::sleep(REAP_PAUSE).await;
                fate = process::reap(&self.pidfd);
            }
        }
        conclusion(&self.directory, &self.group, fate)
    }

    /// Waits until the instance has ended.
    pub(super) async fn ended(&self) {
        let mut end = self.end.subscribe();
        // The sender is in this very structure, so the channel is open.
        end.wait_for(Option::is_some).await.ok();
    }
}

/// How an instance ended: by the shim's record, else by the shim's own end; and whether the kernel killed for want of memory.
pub(super) fn conclusion(directory: &Directory, group: &Group, fate: Fate) -> Exit {
    let (code, signal) = match (directory.read_exit::<Exit>(), fate) {
        (Some(record), _) => (record.code, record.signal),
        (None, Fate::Code(code)) => (Some(code), None),
        (None, Fate::Signal(signal)) => (None, Some(signal)),
        (None, Fate::Unknown) => (None, None),
    };
    // A process other than the runtime may have been killed, and the runtime ended by itself for it: code 0 is a proper end.
    Exit { code, signal, out_of_memory: group.out_of_memory() && code != Some(0) }
}
