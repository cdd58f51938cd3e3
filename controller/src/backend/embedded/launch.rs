//! The controller's side of the launcher: starts it, hands it requests, starts it again when it dies.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::launcher::{ARGUMENT, MAX_MESSAGE, Reply, Request, receive, send};
use crate::backend::local::cgroup::Entrances;

/// How long the launcher may take to be ready, and a worker to make a container: a machine under load, not a broken one.
const PATIENCE: Duration = Duration::from_secs(30);

/// The launcher, as the controller holds it.
#[derive(Debug)]
pub(super) struct Launcher {
    program: PathBuf,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: OwnedFd,
}

impl Launcher {
    /// Starts the launcher and waits until it is ready.
    ///
    /// # Errors
    /// When the program cannot be run or says what it lacks.
    pub(super) fn start(program: &Path) -> io::Result<Self> {
        let running = Running::start(program)?;
        Ok(Self { program: program.to_owned(), running: Mutex::new(Some(running)) })
    }

    /// Has a container made. Blocks until its shim runs.
    ///
    /// # Errors
    /// When the launcher cannot be reached, or no answer comes in time.
    pub(super) fn launch(
        &self,
        request: &Request,
        streams: &OwnedFd,
        network: BorrowedFd<'_>,
        groups: &Entrances,
    ) -> io::Result<(Reply, Option<OwnedFd>)> {
        let bytes = serde_json::to_vec(request).map_err(io::Error::other)?;
        if bytes.len() > MAX_MESSAGE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the request is longer than the launcher takes",
            ));
        }
        let (ours, theirs) = pair()?;
        let mut descriptors = vec![theirs.as_fd(), streams.as_fd(), network];
        descriptors.extend(groups.unified.iter().chain(&groups.tasks).map(AsFd::as_fd));
        self.hand_over(&bytes, &descriptors)?;
        drop(theirs);
        wait_readable(ours.as_fd(), PATIENCE)?;
        let mut buffer = vec![0; MAX_MESSAGE];
        let (length, mut descriptors) = receive(ours.as_fd(), &mut buffer)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the launcher's worker died"))?;
        let reply =
            serde_json::from_slice(buffer.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
        Ok((reply, descriptors.pop()))
    }

    /// Gives the request to the launcher, and once more to a new one if the old is gone.
    fn hand_over(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(launcher) = running.as_ref()
            && send(launcher.socket.as_fd(), bytes, descriptors).is_ok()
        {
            return Ok(());
        }
        drop(running.take());
        let launcher = running.insert(Running::start(&self.program)?);
        send(launcher.socket.as_fd(), bytes, descriptors)
    }

    /// Ends the launcher.
    pub(super) fn stop(&self) {
        drop(self.running.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Running {
    fn start(program: &Path) -> io::Result<Self> {
        let (ours, theirs) = pair()?;
        let child = Command::new(program)
            .arg(ARGUMENT)
            .env_clear()
            .current_dir("/")
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
        let running = Self { child, socket: ours };
        wait_readable(running.socket.as_fd(), PATIENCE)?;
        let mut buffer = [0; 1024];
        let (length, _) = receive(running.socket.as_fd(), &mut buffer)?.ok_or_else(|| {
            io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} is no launcher", program.display()))
        })?;
        match buffer.get(..length) {
            Some(b"ready") => Ok(running),
            said => Err(io::Error::other(String::from_utf8_lossy(said.unwrap_or_default()).into_owned())),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its workers finish by themselves; it holds nothing that has to be put away.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Waits until there is something to read or the other side is gone.
fn wait_readable(socket: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    let deadline = std::time::Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "the launcher does not answer")),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
