//! The launcher: this binary, re-executed with one thread, in which libcontainer may fork.
//!
//! It lives as long as the controller and has a mount namespace of its own, so that what it mounts goes with it. In there it
//! - puts roots together once (a `Template`): a start then clones the whole tree with one recursive bind,
//! - hides the cgroup file systems: libcontainer finds none and does not spend milliseconds on looking through them. The worker has joined
//!   the instance's cgroups by then, and what it makes is born in them.
//!
//! For each start it forks a worker, which drives libcontainer, answers and ends. So libcontainer always works in a fresh process: nothing
//! that it changes (dumpable, oom score, umask, working directory) is left for the next start. The instance's first process then becomes
//! a child of the controller, which is a subreaper.
//!
//! Requests come as one datagram each: JSON, with descriptors: where to answer, standard
//! streams, network namespace, the directory of the instance's v2 control group if there is one, and the open `tasks` files of its v1 groups.

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, UnmountFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};

use super::sys;
use crate::backend::local::mounts;
use crate::backend::local::root::Template;

/// The first argument that makes the `hearth` binary a launcher. Not for people.
pub const ARGUMENT: &str = "__launcher";

/// The longest request and the longest reply, in bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

/// One start.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// The instance's name.
    pub(super) id: String,
    /// The directory with the OCI `config.json`; libcontainer keeps its state beside it.
    pub(super) bundle: PathBuf,
    /// Whether a v2 control group comes along.
    pub(super) unified: bool,
    /// Its root.
    pub(super) root: Template,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The shim runs. A pidfd comes along.
    Started {
        /// Its process id on the host.
        pid: i32,
        /// Microseconds in the worker: joining cgroups and network, libcontainer's create, its start.
        micros: [u64; 3],
    },
    /// It does not.
    Failed {
        /// Where it went wrong.
        step: String,
        /// What was said.
        message: String,
    },
}

/// Runs the launcher until the controller goes away. `main` calls it when the first argument is [`ARGUMENT`], before any thread or
/// runtime exists.
#[must_use]
pub fn main() -> ExitCode {
    // Standard input is the socket to the controller; without a controller there is nothing to do.
    let socket = rustix::stdio::stdin();
    sys::ignore_interrupt();
    sys::children(sys::Children::Forgotten);
    let ready = match own_mounts() {
        Ok(()) => rustix::net::send(socket, b"ready", SendFlags::NOSIGNAL),
        Err(error) => rustix::net::send(socket, error.to_string().as_bytes(), SendFlags::NOSIGNAL),
    };
    if ready.is_err() {
        return ExitCode::FAILURE;
    }
    let mut templates = HashMap::new();
    let mut buffer = vec![0; MAX_MESSAGE];
    loop {
        match receive(socket, &mut buffer) {
            Ok(Some((length, descriptors))) => {
                let message = buffer.get(..length).unwrap_or_default();
                launch(message, descriptors, &mut templates);
            }
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Gives this process a mount namespace of its own, without cgroup file systems.
fn own_mounts() -> io::Result<()> {
    unshare_mounts()?;
    // Mounts that the host makes later arrive here; ours do not leave.
    rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    match rustix::mount::unmount("/sys/fs/cgroup", UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    // libcontainer takes an empty tmpfs here for a machine that has no cgroup controller.
    rustix::mount::mount(
        "tmpfs",
        "/sys/fs/cgroup",
        "tmpfs",
        rustix::mount::MountFlags::RDONLY,
        None::<&std::ffi::CStr>,
    )?;
    Ok(())
}

#[expect(unsafe_code, reason = "rustix marks every unshare so, for the descriptor table's sake")]
fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the descriptor table is not unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    Ok(())
}

/// Takes one request; `None` when the controller has gone.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok((received.bytes != 0).then_some((received.bytes, descriptors)))
}

/// Sends one message with descriptors.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        let fits = ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        debug_assert!(fits, "the space is for sixteen descriptors");
    }
    rustix::net::sendmsg(socket, &[io::IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn answer(socket: BorrowedFd<'_>, reply: &Reply, descriptors: &[BorrowedFd<'_>]) {
    // A controller that does not listen any more has its own way to find what was started.
    if let Ok(bytes) = serde_json::to_vec(reply) {
        send(socket, &bytes, descriptors).ok();
    }
}

fn failed(step: &str, error: impl std::fmt::Display) -> Reply {
    Reply::Failed { step: step.to_owned(), message: error.to_string() }
}

/// Carries out one request in a forked worker.
fn launch(message: &[u8], descriptors: Vec<OwnedFd>, templates: &mut Assembled) {
    let mut descriptors = descriptors.into_iter();
    let (Some(reply), Some(streams), Some(network)) =
        (descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return;
    };

    let request: Request = match serde_json::from_slice(message) {
        Ok(request) => request,
        Err(error) => return answer(reply.as_fd(), &failed("read the request", error), &[]),
    };
    if !is_assembled(&request.root, templates) {
        if let Err(error) = assemble(&request.root) {
            return answer(reply.as_fd(), &failed("put the root together", error), &[]);
        }
        let inode = inode(&request.root.path);
        templates.insert(request.root.path.clone(), (inode, request.root.binds.clone()));
    }
    let unified = if request.unified { descriptors.next() } else { None };
    match sys::fork(unified.as_ref().map(AsFd::as_fd)) {
        Ok(sys::Fork::Parent) => {}
        Ok(sys::Fork::Child) => {
            sys::children(sys::Children::Kept);
            match work(&request, &streams, &network, descriptors) {
                Ok((pid, pidfd, micros)) => {
                    answer(reply.as_fd(), &Reply::Started { pid, micros }, &[pidfd.as_fd()]);
                }
                Err(reason) => answer(reply.as_fd(), &reason, &[]),
            }
            std::process::exit(0);
        }
        Err(error) => answer(reply.as_fd(), &failed("fork a worker", error), &[]),
    }
}

/// The roots that are put together: by path, which directory that was, and what is mounted in it.
type Assembled = HashMap<PathBuf, (Option<u64>, Vec<(PathBuf, PathBuf)>)>;

/// Whether a root is put together as it should be. An image's may have been removed and made again, and then nothing is mounted on it; what is
/// mounted in it may be another file now. Then it is put together anew, above what was there.
fn is_assembled(root: &Template, templates: &Assembled) -> bool {
    templates
        .get(&root.path)
        .is_some_and(|(known, binds)| *known == inode(&root.path) && *binds == root.binds)
}

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.ino())
}

/// Mounts what a root consists of over its directory.
fn assemble(root: &Template) -> Result<(), String> {
    let said = |path: &Path, error: rustix::io::Errno| format!("{}: {error}", path.display());
    // The root is a mount too, so that the clone of a start takes all that is below.
    rustix::mount::mount_bind(&root.path, &root.path).map_err(|error| said(&root.path, error))?;
    for (source, target) in &root.binds {
        let target = root.path.join(target);
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree =
            rustix::mount::open_tree(rustix::fs::CWD, source, flags).map_err(|error| said(source, error))?;
        mounts::make_read_only(&tree, true).map_err(|error| format!("{}: {error}", source.display()))?;
        let flags = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&tree, "", rustix::fs::CWD, &target, flags)
            .map_err(|error| said(&target, error))?;
    }
    Ok(())
}

/// Makes and starts the container: the worker's whole life.
fn work(
    request: &Request,
    streams: &OwnedFd,
    network: &OwnedFd,
    groups: impl Iterator<Item = OwnedFd>,
) -> Result<(i32, OwnedFd, [u64; 3]), Reply> {
    let begin = Instant::now();
    for group in groups {
        fs::File::from(group).write_all(b"0").map_err(|error| failed("join the cgroup", error))?;
    }
    rustix::thread::move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| failed("enter the network namespace", error))?;
    let joined = begin.elapsed();

    let copy = || streams.try_clone().map_err(|error| failed("copy the standard streams", error));
    let mut container = ContainerBuilder::new(request.id.clone(), SyscallType::default())
        .with_root_path(request.bundle.clone())
        .map_err(|error| failed("name the container", crate::telemetry::chain(&error)))?
        .with_stdin(copy()?)
        .with_stdout(copy()?)
        .with_stderr(copy()?)
        .as_init(&request.bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        .map_err(|error| failed("create the container", crate::telemetry::chain(&error)))?;
    let created = begin.elapsed();
    container.start().map_err(|error| failed("start the container", crate::telemetry::chain(&error)))?;

    let pid = container.pid().map(|pid| pid.as_raw()).unwrap_or_default();
    let pidfd = Pid::from_raw(pid)
        .ok_or(rustix::io::Errno::SRCH)
        .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()))
        .map_err(|error| failed("open the process", error))?;
    let micros = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    Ok((pid, pidfd, [micros(joined), micros(created - joined), micros(begin.elapsed() - created)]))
}
