//! The system calls of this backend that no safe crate offers, each wrapped once.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `CLONE_INTO_CGROUP`, since Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Which side of a [`fork`] this is.
pub(super) enum Fork {
    /// The process that called.
    Parent,
    /// The new one.
    Child,
}

/// Copies this process; the copy is born in the v2 control group that `group` is the directory of. To be moved there later would wait for
/// a lock of the whole machine, which takes milliseconds when it is busy.
///
/// # Errors
/// What `clone3(2)` says.
///
/// # Panics
/// When this process has more than one thread: the copy could find locks that nobody will ever open.
#[expect(unsafe_code, reason = "rustix has no fork")]
pub(super) fn fork(group: Option<BorrowedFd<'_>>) -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "the launcher has one thread");
    let no_such = || io::Error::from(io::ErrorKind::InvalidInput);
    let group = group.map(|group| u64::try_from(group.as_raw_fd())).transpose().map_err(|_| no_such())?;
    let arguments = libc::clone_args {
        flags: if group.is_some() { CLONE_INTO_CGROUP } else { 0 },
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: u64::try_from(libc::SIGCHLD).map_err(|_| no_such())?,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.unwrap_or(0),
    };
    // SAFETY: without a stack and without shared memory this is fork. This process has one thread, as was just checked, so the child is a
    // whole copy and may do anything; the arguments outlive the call and their size is the one given.
    match unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&arguments), size_of::<libc::clone_args>())
    } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        _ => Ok(Fork::Parent),
    }
}

/// What happens to children that end.
pub(super) enum Children {
    /// They vanish; nobody waits for them.
    Forgotten,
    /// They stay until their parent has waited for them.
    Kept,
}

/// Says what happens to this process's children when they end.
#[expect(unsafe_code, reason = "rustix sets no signal dispositions")]
pub(super) fn children(fate: Children) {
    let action = match fate {
        Children::Forgotten => libc::SIG_IGN,
        Children::Kept => libc::SIG_DFL,
    };
    // SAFETY: neither disposition runs code of ours.
    let _ = unsafe { libc::signal(libc::SIGCHLD, action) };
}

/// Ignores a terminal's Ctrl-C, which goes to every process of the group: the controller decides when to end.
#[expect(unsafe_code, reason = "rustix sets no signal dispositions")]
pub(super) fn ignore_interrupt() {
    // SAFETY: the disposition runs no code of ours.
    let _ = unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}
