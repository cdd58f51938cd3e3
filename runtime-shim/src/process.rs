//! Starting processes and hearing of their end. The shim is PID 1: it reaps every child, its own and those that lost their parent.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;

use hearth_protocol::Exit;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process_group, wait};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use crate::confine::{self, Filters};

/// Bytes of a log pipe: the most that Linux gives without a privilege. A burst fits, so that printing seldom waits for the shim.
const PIPE_BYTES: usize = 1 << 20;

/// What to start.
#[derive(Debug)]
pub(crate) struct Program {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it starts.
    pub working_directory: String,
    /// User and group.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Descriptors it inherits, from 3 on.
    pub inherited: Vec<OwnedFd>,
    /// Whether its standard input is a pipe from us; `/dev/null` otherwise.
    pub input: Input,
}

/// Where standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// `/dev/null`.
    Nothing,
    /// A pipe.
    Piped,
}

/// A process that runs.
#[derive(Debug)]
pub(crate) struct Running {
    /// It leads a process group of its own.
    pub group: Group,
    /// Its standard input, if it was asked for.
    pub stdin: Option<pipe::Sender>,
    /// Its standard output.
    pub stdout: pipe::Receiver,
    /// Its standard error.
    pub stderr: pipe::Receiver,
    /// How it ends.
    pub ended: oneshot::Receiver<Exit>,
}

/// A process group that was started here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group(Pid);

impl Group {
    /// Signals the process that leads the group, and leaves it to that one to tell the others.
    pub(crate) fn signal_leader(self, signal: Signal) {
        rustix::process::kill_process(self.0, signal).ok();
    }

    /// Signals every process of the group; that there is none left is no error.
    pub(crate) fn signal(self, signal: Signal) {
        // The only other failure is EPERM, and it is answered by the container's end.
        kill_process_group(self.0, signal).ok();
    }
}

/// Starts processes and knows who waits for which.
#[derive(Debug, Clone)]
pub(crate) struct Processes {
    waiting: Rc<RefCell<HashMap<Pid, oneshot::Sender<Exit>>>>,
    /// `None` without confinement.
    filters: Option<Arc<Filters>>,
    changes_user: bool,
}

impl Processes {
    /// With `filters`, each process gets them, and its user and its group if we may give them; without, it stays who we are.
    pub(crate) fn new(filters: Option<Filters>) -> Self {
        let changes_user = filters.is_some() && confine::changes_user();
        Self { waiting: Rc::default(), filters: filters.map(Arc::new), changes_user }
    }

    /// Starts `program` as the leader of a process group of its own.
    pub(crate) fn start(&self, program: Program) -> io::Result<Running> {
        let Some((file, arguments)) = program.command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command"));
        };
        let (stdout, their_stdout) = log_pipe()?;
        let (stderr, their_stderr) = log_pipe()?;
        let mut command = Command::new(file);
        command
            .args(arguments)
            .env_clear()
            .envs(program.env)
            .current_dir(&program.working_directory)
            .stdout(Stdio::from(their_stdout))
            .stderr(Stdio::from(their_stderr))
            .process_group(0);
        let stdin = match program.input {
            Input::Nothing => {
                command.stdin(Stdio::null());
                None
            }
            Input::Piped => {
                let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                rustix::io::ioctl_fionbio(&ours, true)?;
                command.stdin(Stdio::from(theirs));
                Some(pipe::Sender::from_owned_fd(ours)?)
            }
        };
        if self.changes_user {
            command.uid(program.uid).gid(program.gid);
        }
        let inherited = out_of_the_way(program.inherited)?;
        let filters = self.filters.clone();
        let prepare = move || {
            for (to, from) in (3..).zip(&inherited) {
                place(from, to)?;
            }
            filters.as_ref().map_or(Ok(()), |filters| filters.apply())
        };
        #[expect(unsafe_code, reason = "what happens between fork and exec needs it")]
        // SAFETY: the closure makes system calls only; it neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(prepare);
        }
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        let (sender, ended) = oneshot::channel();
        // Nothing reaps between the start and this line: one thread, and no await.
        self.waiting.borrow_mut().insert(pid, sender);
        Ok(Running { group: Group(pid), stdin, stdout, stderr, ended })
    }

    /// Reaps every process that has ended, and tells who waits for it. To be called at each SIGCHLD.
    pub(crate) fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(waiting) = self.waiting.borrow_mut().remove(&pid) {
                // Nobody may be interested any more.
                waiting.send(exit(status)).ok();
            }
        }
    }
}

fn exit(status: WaitStatus) -> Exit {
    Exit { code: status.exit_status(), signal: status.terminating_signal(), out_of_memory: false }
}

/// Our end (non-blocking) and theirs (blocking) of a large pipe.
pub(crate) fn log_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    // A system-wide or per-user limit may refuse it; the default of 64 KiB does too.
    rustix::pipe::fcntl_setpipe_size(&ours, PIPE_BYTES).ok();
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((pipe::Receiver::from_owned_fd(ours)?, theirs))
}

/// Descriptors above those that the child wants to have filled, so that placing one never hits another.
fn out_of_the_way(descriptors: Vec<OwnedFd>) -> io::Result<Vec<OwnedFd>> {
    descriptors.into_iter().map(|fd| Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 16)?)).collect()
}

/// Makes `from` known as `number` and lets it survive the exec.
fn place(from: &OwnedFd, number: i32) -> io::Result<()> {
    debug_assert_ne!(from.as_raw_fd(), number);
    #[expect(unsafe_code, reason = "the number is what the child is promised")]
    // SAFETY: whatever has this number in the forked child is not used by it again: `reserve_low_descriptors` keeps it free of the pipe by
    // which the standard library reports a failed exec.
    let mut target = unsafe { OwnedFd::from_raw_fd(number) };
    let placed = rustix::io::dup2(from, &mut target);
    // It stays open for the program.
    std::mem::forget(target);
    Ok(placed?)
}

/// Closes whatever the shim was started with beyond the standard three: it must not keep, and children must not inherit, what somebody
/// forgot. To be called before anything is opened.
pub(crate) fn close_inherited() {
    #[expect(unsafe_code, reason = "no safe way to close what nobody owns")]
    // SAFETY: nothing in this process owns a descriptor yet. It fails on kernels before 5.9 alone, and then there is nothing to be done.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
}

/// Fills the descriptors that children inherit things as (3 and up) with `/dev/null`, so that nothing of ours ever has these numbers.
pub(crate) fn reserve_low_descriptors() -> io::Result<()> {
    loop {
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        if null.as_raw_fd() >= 6 {
            return Ok(());
        }
        // Kept for the life of the process.
        std::mem::forget(null);
    }
}
