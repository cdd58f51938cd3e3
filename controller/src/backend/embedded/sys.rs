//! The system calls of this backend that no safe crate offers, each wrapped once.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Makes the mount that `tree` is, and with `recursive` those below it, read-only, without set-user-id and without devices.
///
/// # Errors
/// What `mount_setattr(2)` says.
#[expect(unsafe_code, reason = "rustix has no mount_setattr")]
pub(super) fn make_read_only(tree: impl AsFd, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let empty: &CStr = c"";
    // SAFETY: the path is a string that ends in NUL, the attributes outlive the call and their size is the one given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            empty.as_ptr(),
            flags,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Which side of a [`fork`] this is.
pub(super) enum Fork {
    /// The process that called.
    Parent,
    /// The new one.
    Child,
}

/// Copies this process.
///
/// # Errors
/// What `fork(2)` says.
///
/// # Panics
/// When this process has more than one thread: the copy could find locks that nobody will ever open.
#[expect(unsafe_code, reason = "rustix has no fork")]
pub(super) fn fork() -> io::Result<Fork> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "the launcher has one thread");
    // SAFETY: this process has one thread, as was just checked, so the child is a whole copy and may do anything.
    match unsafe { libc::fork() } {
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
