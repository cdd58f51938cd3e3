//! Brings code into an instance that runs: a detached mount is made here and moved into the instance's mount namespace.
//!
//! Entering a mount namespace needs a thread that shares its working directory and root with no other, so a thread of its own does it
//! and ends. 0.2 ms, whatever the size of the tree.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags};
use rustix::thread::ThreadNameSpaceType;
use tokio::sync::oneshot;

/// Bytes of the stack of such a thread: it calls the kernel a few times.
const STACK: usize = 64 * 1024;

/// Mounts each pair's directory of the host, read-only, at the place in the instance.
///
/// # Errors
/// What the kernel says. Those of the pairs that came before stay.
pub(in crate::backend) async fn mount(
    pidfd: &OwnedFd,
    pairs: Vec<(PathBuf, &'static str)>,
) -> io::Result<()> {
    inside(pidfd, move |enter| {
        let trees = pairs
            .into_iter()
            .map(|(source, at)| detached(&source).map(|tree| (tree, at)))
            .collect::<io::Result<Vec<_>>>()?;
        enter()?;
        for (tree, at) in trees {
            rustix::mount::move_mount(
                &tree,
                "",
                rustix::fs::CWD,
                at,
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )?;
        }
        Ok(())
    })
    .await
}

/// Gives `/tmp` of an instance another size.
///
/// # Errors
/// What the kernel says; among others when more is in it already.
pub(in crate::backend) async fn resize_tmp(pidfd: &OwnedFd, bytes: u64) -> io::Result<()> {
    inside(pidfd, move |enter| {
        enter()?;
        let size = std::ffi::CString::new(format!("size={bytes}"))?;
        rustix::mount::mount_remount("/tmp", MountFlags::NOSUID | MountFlags::NODEV, size.as_c_str())?;
        Ok(())
    })
    .await
}

/// A copy of the mount that a directory is on, with the directory as its root, read-only and nowhere mounted yet.
fn detached(source: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, source, flags)?;
    make_read_only(&tree, false)?;
    Ok(tree)
}

/// Makes the mount that `tree` is, and with `recursive` those below it, read-only, without set-user-id and without devices.
///
/// # Errors
/// What `mount_setattr(2)` says.
#[expect(unsafe_code, reason = "rustix has no mount_setattr")]
pub(in crate::backend) fn make_read_only(tree: impl AsFd, recursive: bool) -> io::Result<()> {
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

/// Runs `work` in a thread that may enter the mount namespace of the process, by the function it is given.
async fn inside(
    pidfd: &OwnedFd,
    work: impl FnOnce(&dyn Fn() -> io::Result<()>) -> io::Result<()> + Send + 'static,
) -> io::Result<()> {
    let pidfd = pidfd.try_clone()?;
    let enter = move || -> io::Result<()> {
        rustix::thread::move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::MOUNT)?;
        Ok(())
    };
    let (done, result) = oneshot::channel();
    // It ends in a moment, and nothing of it is left whoever waits.
    std::thread::Builder::new().name("hearth-inject".to_owned()).stack_size(STACK).spawn(move || {
        let worked = unshare_working_directory().and_then(|()| work(&enter));
        let _gone = done.send(worked).is_err();
    })?;
    result.await.unwrap_or_else(|_| Err(io::Error::other("the thread that enters the instance panicked")))
}

#[expect(unsafe_code, reason = "rustix marks every unshare so, for the descriptor table's sake")]
fn unshare_working_directory() -> io::Result<()> {
    // SAFETY: the descriptor table is not unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }?;
    Ok(())
}
