//! Processes, held so that a reused number cannot be mistaken for the one that was meant: by pidfd, and across a restart of the
//! controller by process id and start time together.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

/// A process as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Identity {
    /// Process id on the host.
    pub(super) pid: i32,
    /// When it started, in the kernel's ticks since boot.
    pub(super) start_ticks: u64,
}

impl Identity {
    /// Of a process that is held by a pidfd or not yet waited for, so that the number is its own.
    ///
    /// # Errors
    /// When there is no such process.
    pub(super) fn of(pid: i32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_ticks =
            start_ticks(&stat).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no start time"))?;
        Ok(Self { pid, start_ticks })
    }

    /// Takes hold of the process; `None` when it is gone, be its number used again or not.
    pub(super) fn open(self) -> Option<OwnedFd> {
        let pidfd = rustix::process::pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::NONBLOCK).ok()?;
        // Compared after the opening: now the number cannot change hands unseen.
        (Self::of(self.pid).ok()? == self).then_some(pidfd)
    }
}

/// Field 22 of `/proc/<pid>/stat`. The second one, the name, may hold blanks and parentheses.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.trim().parse().ok()
}

/// Sends a signal. A process that is gone is no error.
///
/// # Errors
/// When the signal may not be sent.
pub(super) fn signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It ended; whose child it was knows how.
    Unknown,
}

/// Takes the dead process out of the kernel's table, if it is a child of ours; one that was adopted after a restart is not.
pub(super) fn reap(pidfd: &OwnedFd) -> Fate {
    use std::os::fd::AsFd as _;
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
        Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Fate::Code(code),
            (None, Some(signal)) => Fate::Signal(signal),
            (None, None) => Fate::Unknown,
        },
        Ok(None) | Err(_) => Fate::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_alone_is_not_a_process() {
        let own = Identity::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(own.open().is_some());
        let other = Identity { start_ticks: own.start_ticks + 1, ..own };
        assert!(other.open().is_none(), "same number, another start");
    }

    #[test]
    fn a_name_with_parentheses_hides_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(start_ticks(stat), Some(4711));
    }
}
