//! The life of an instance from its first to its last moment.

use std::cell::Cell;
use std::fs;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use hearth_protocol::config::{Confinement, EXIT_FILE};
use hearth_protocol::{Exit, ShimConfig, ShimProcess, report};
use rustix::process::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{sleep, timeout};

use crate::confine::{self, Filters};
use crate::control::Control;
use crate::logs::{Logs, Printer};
use crate::process::{Group, Processes};
use crate::report::Reporting;
use crate::socket::Listener;
use crate::{bootstrap, exec, http, relay};

/// How long the runtime may take to end after the shim itself has decided on the end (nobody else would kill it).
const GRACE: Duration = Duration::from_secs(10);

/// How long what is left in the log pipes is waited for after the runtime's end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long controllers may take to fetch the last lines and the exit.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the container's own streams may take for the last lines.
const PRINTED: Duration = Duration::from_millis(250);

/// How long a runtime's end waits for the first controller: one that crashed at once was faster than the connection.
const FIRST_CONTROLLER: Duration = Duration::from_secs(2);

/// What the parts of the shim share.
#[derive(Debug)]
pub(crate) struct Shim {
    /// What the backend asked for.
    pub config: ShimConfig,
    /// What is printed.
    pub logs: Logs,
    /// What runs.
    pub processes: Processes,
    /// Turns true when the instance is to end.
    pub stop: watch::Sender<bool>,
    /// Calls ended so far, where the shim speaks the invocation protocol.
    pub served: Cell<u64>,
}

impl Shim {
    /// Waits until the instance is to end.
    pub(crate) async fn stopped(&self) {
        // The sender lives as long as the shim.
        self.stop.subscribe().wait_for(|stop| *stop).await.ok();
    }

    /// Whether the instance is to end.
    pub(crate) fn is_ending(&self) -> bool {
        *self.stop.borrow()
    }

    /// Asks for the instance's end.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the end of a process; hands on the wish to stop as SIGTERM.
    pub(crate) async fn supervise(&self, group: Group, ended: impl Future<Output = Exit>) -> Exit {
        let mut ended = std::pin::pin!(ended);
        tokio::select! {
            exit = &mut ended => return exit,
            () = self.stopped() => group.signal_leader(Signal::TERM),
        }
        ended.await
    }
}

/// Where calls and controllers come in.
#[derive(Debug)]
pub(crate) struct Entrances {
    /// Of the invocation protocol.
    pub invoke: Listener,
    /// Of the shim itself.
    pub control: Listener,
}

/// Who has asked for the instance, and is told its end beside the control connections.
#[derive(Debug)]
pub(crate) enum Backing<'a> {
    /// A backend that reads and writes the instance's directory.
    Directory(&'a Path),
    /// A controller at the other end of the report connection.
    Report(Reporting),
}

/// Runs the instance to its end.
pub(crate) fn run(config: ShimConfig, directory: &Path, entrances: Entrances) -> io::Result<Exit> {
    let shim = Shim::locked_in(config)?;
    let runtime = runtime()?;
    let life = async {
        let terminate = signal(SignalKind::terminate())?;
        live(shim, Backing::Directory(directory), entrances, terminate).await
    };
    runtime.block_on(LocalSet::new().run_until(life))
}

/// One thread.
pub(crate) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl Shim {
    /// Locks this process in, for good, and makes ready what the runtime will be locked in by.
    pub(crate) fn locked_in(mut config: ShimConfig) -> io::Result<Rc<Self>> {
        inherit(&mut config);
        let filters = match config.confinement {
            Confinement::Full => {
                confine::lock_self()?;
                Some(Filters::compile()?)
            }
            Confinement::None => None,
        };
        Ok(Rc::new(Self {
            logs: Logs::new(config.log_ring_bytes as usize),
            processes: Processes::new(filters),
            stop: watch::Sender::new(false),
            served: Cell::new(0),
            config,
        }))
    }
}

/// Completes the environment with what the container was started with.
fn inherit(config: &mut ShimConfig) {
    for name in std::mem::take(&mut config.inherit) {
        let own = name == report::TOKEN_VARIABLE;
        if let (false, Ok(value)) = (own, std::env::var(&name)) {
            config.env.entry(name).or_insert(value);
        }
    }
}

/// The instance's life, from where it is known what to run.
pub(crate) async fn live(
    shim: Rc<Shim>,
    backing: Backing<'_>,
    entrances: Entrances,
    mut terminate: Signals,
) -> io::Result<Exit> {
    // Before the first child, as the one for SIGTERM.
    let mut children = signal(SignalKind::child())?;
    let mut background = JoinSet::new();
    let control = Control::start(Rc::clone(&shim), entrances.control, &mut background)?;
    let (directory, report) = match backing {
        Backing::Directory(directory) => (Some(directory), None),
        Backing::Report(reporting) => (None, Some(reporting.keep(&shim, &control, &mut background))),
    };
    // Without a directory it is in a Pod.
    let printer = report.as_ref().map(|_| Rc::new(Printer::on_own_streams(shim.logs.clone())));
    if let Some(printer) = printer.clone() {
        background.spawn_local(async move { printer.run().await });
    }
    if let (Some(relay), Some(directory)) = (shim.config.relay, directory) {
        relay::start(relay, directory, &mut background).await?;
    }
    let reaper = Rc::clone(&shim);
    background.spawn_local(async move {
        loop {
            reaper.processes.reap();
            children.recv().await;
        }
    });
    let handed_on = Rc::clone(&shim);
    background.spawn_local(async move {
        terminate.recv().await;
        handed_on.ask_to_stop();
    });

    let abandoned = control.abandoned(Duration::from_millis(shim.config.controller_absence_ms));
    let unwanted = async {
        match &report {
            Some(report) => report.refused().await,
            None => std::future::pending().await,
        }
    };
    let exit = {
        let mut runtime = std::pin::pin!(run_process(&shim, entrances.invoke));
        let why = tokio::select! {
            exit = &mut runtime => Ok(exit),
            () = abandoned => Err("no controller has connected for too long: the instance ends".to_owned()),
            reason = unwanted => Err(format!("the controller does not want this instance: {reason}")),
        };
        match why {
            Ok(exit) => Some(exit),
            Err(why) => {
                shim.logs.say(&why);
                shim.ask_to_stop();
                timeout(GRACE, runtime).await.ok()
            }
        }
    };
    let exit = match exit {
        Some(exit) => exit.unwrap_or_else(|error| {
            shim.logs.say(&format!("the runtime could not be started: {error}"));
            // What a shell answers for a command that is not there.
            Exit { code: Some(127), ..Exit::default() }
        }),
        // It did not end in time. Whatever runs dies with PID 1.
        None => Exit { signal: Some(Signal::TERM.as_raw()), ..Exit::default() },
    };
    let mut exit = Exit { out_of_memory: out_of_memory(exit, memory_kills()), ..exit };
    if let Some(directory) = directory {
        write_record(&directory.join(EXIT_FILE), exit)?;
    }
    if let Some(report) = &report {
        exit = report.deliver(&shim, exit).await;
    }
    let asked = shim.is_ending();
    let patience = match (control.was_reached(), asked) {
        (true, _) => FAREWELL,
        (false, false) => FIRST_CONTROLLER,
        // Whoever asked for the end wants nothing more.
        (false, true) => Duration::ZERO,
    };
    timeout(patience, control.farewell(exit)).await.ok();
    if let Some(printer) = printer {
        timeout(PRINTED, printer.caught_up()).await.ok();
    }
    if let Some(report) = report {
        // Last, for the controller may end the container at once.
        report.farewell(exit, asked).await;
    }
    Ok(exit)
}

async fn run_process(shim: &Rc<Shim>, invoke: Listener) -> io::Result<Exit> {
    match &shim.config.process {
        ShimProcess::Nodejs { .. } | ShimProcess::Python { .. } => bootstrap::run(shim, invoke).await,
        ShimProcess::Http { command } => http::run(shim, command, invoke).await,
        ShimProcess::Exec { command } => exec::run(shim, command, invoke).await,
        ShimProcess::Job { command } => bootstrap::run_job(shim, command).await,
    }
}

/// Waits for the end of a process that is the whole instance, and for what it printed.
pub(crate) async fn to_the_end(
    shim: &Shim,
    group: Group,
    ended: oneshot::Receiver<Exit>,
    pumps: &mut JoinSet<()>,
) -> Exit {
    let exit = shim.supervise(group, async { ended.await.unwrap_or_default() }).await;
    // What it left behind holds the pipes open, and must not outlive it anyway.
    group.signal(Signal::KILL);
    let pumped = async { while pumps.join_next().await.is_some() {} };
    timeout(LAST_WORDS, pumped).await.ok();
    exit
}

/// Whether the kernel ended it because the memory limit was reached. The cgroup tells where it can be seen; else a SIGKILL is taken for
/// it: the shim sends none before the end, and the backend kills the whole container.
fn out_of_memory(exit: Exit, kills: Option<u64>) -> bool {
    exit.out_of_memory || exit.signal == Some(Signal::KILL.as_raw()) && kills.is_none_or(|kills| kills > 0)
}

/// How many processes the kernel has killed at this cgroup's limit; `None` where that cannot be seen.
fn memory_kills() -> Option<u64> {
    ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"]
        .iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|text| text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()))
}

fn write_record(path: &Path, exit: Exit) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    fs::write(&draft, serde_json::to_vec(&exit)?)?;
    fs::rename(&draft, path)
}

/// Waits so long; for ever where there is no deadline (zero).
pub(crate) async fn after(duration: Duration) {
    if duration.is_zero() {
        std::future::pending::<()>().await;
    }
    sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_is_the_memory_limits_unless_the_cgroup_knows_better() {
        let killed = Exit { signal: Some(9), ..Exit::default() };
        assert!(out_of_memory(killed, None));
        assert!(out_of_memory(killed, Some(1)));
        assert!(!out_of_memory(killed, Some(0)));
        for other in [Exit { signal: Some(15), ..Exit::default() }, Exit { code: Some(0), ..Exit::default() }]
        {
            assert!(!out_of_memory(other, None));
        }
    }
}
