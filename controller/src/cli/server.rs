//! `hearth serve`, and what `up` shares with it: the runtime, the start of the server with clear errors, and signals.

use std::future::Future;

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::args::{Serve, ServerOptions};
use super::error::Error;
use super::out;
use crate::serve::config::Config;
use crate::serve::{self, Calls, CutOff, Running};
use crate::telemetry::tracing::{Format, Verbosity, init};

/// Threads of the control plane. It decides a few hundred times a second at most; the gateway has threads of its own.
const CONTROL_THREADS: usize = 2;

/// Runs the command.
pub(super) async fn run(arguments: Serve) -> Result<(), Error> {
    let mut signals = Signals::new()?;
    let (config, mut running) = start(&arguments.server, Verbosity::Normal).await?;
    out::note(&format!(
        "Functions answer at http://{}. Apply some: hearth apply -f DIR{}",
        running.gateway_address(),
        data_dir_flag(&config)
    ));
    let outcome = tokio::select! {
        () = signals.next() => Ok(()),
        reason = running.failed() => Err(Error::failed(format!("the server cannot go on: {reason}"))),
    };
    stop(running, &config, &mut signals).await;
    outcome
}

/// The flag that other commands need to find this server, when it does not keep to the usual place.
pub(super) fn data_dir_flag(config: &Config) -> String {
    let usual = Config::default().main.data_dir;
    if config.main.data_dir == usual {
        String::new()
    } else {
        format!(" --data-dir {}", config.main.data_dir.display())
    }
}

/// Reads the configuration, sets up diagnostics, starts the server.
pub(super) async fn start(options: &ServerOptions, usual: Verbosity) -> Result<(Config, Running), Error> {
    let config = super::configuration(options)?.config;
    diagnose_as(&config, usual);
    let running = serve::start(config.clone()).await.map_err(|error| explain(&error))?;
    Ok((config, running))
}

/// Sets up diagnostics as for a server without a screen.
pub(super) fn diagnose(config: &Config) {
    diagnose_as(config, Verbosity::Normal);
}

fn diagnose_as(config: &Config, usual: Verbosity) {
    let verbosity = match config.log.level.as_deref() {
        Some("debug") => Verbosity::Debug,
        Some("info") => Verbosity::Normal,
        Some(_) => Verbosity::Quiet,
        None => usual,
    };
    init(if config.log.format == "json" { Format::Json } else { Format::Text }, verbosity);
}

fn explain(error: &serve::Error) -> Error {
    let what = crate::telemetry::chain(error);
    match error.fix() {
        Some(fix) => Error::fixable(what, fix),
        None => Error::failed(what),
    }
}

/// Drains and stops everything; a further signal does not wait for running calls, and one more not even for instances to end.
pub(super) async fn stop(running: Running, config: &Config, signals: &mut Signals) {
    let deadline = humantime::format_duration(config.drain.deadline);
    out::note(&format!(
        "Stopping: running calls have {deadline} to end. Ctrl-C again does not wait for them."
    ));
    let hurry = CancellationToken::new();
    let stopping = running.stop(hurry.clone());
    tokio::pin!(stopping);
    let cut_off = loop {
        tokio::select! {
            cut_off = &mut stopping => break cut_off,
            () = signals.next() => {
                if hurry.is_cancelled() {
                    return out::note(&format!(
                        "Not stopped: instances may be left. The next start in {} adopts them, or takes them away.",
                        config.main.data_dir.display()
                    ));
                }
                out::note("Stopping at once. Ctrl-C again does not even wait for the instances to end.");
                hurry.cancel();
            }
        }
    };
    out::note(&stopped(cut_off));
}

/// The last line, with what was not waited for.
fn stopped(CutOff { calls, instances }: CutOff) -> String {
    let calls = match calls {
        Calls::Ended => None,
        Calls::Overdue(1) => Some("1 connection was closed whose call had not ended in time".to_owned()),
        Calls::Overdue(count) => {
            Some(format!("{count} connections were closed whose calls had not ended in time"))
        }
        Calls::Hurried => Some("calls that ran were cut off".to_owned()),
    };
    let instances = match instances {
        0 => None,
        1 => Some("1 instance was killed".to_owned()),
        count => Some(format!("{count} instances were killed")),
    };
    let cut: Vec<String> = calls.into_iter().chain(instances).collect();
    if cut.is_empty() { "Stopped.".to_owned() } else { format!("Stopped; {}.", cut.join(", ")) }
}

/// Ctrl-C, SIGTERM, and SIGHUP of a terminal that is closed, which mean the same.
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// From here on the signals no longer end the process by themselves.
    pub(super) fn new() -> Result<Self, Error> {
        let failed = |error| Error::failed(format!("cannot listen for signals: {error}"));
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            hangup: signal(SignalKind::hangup()).map_err(failed)?,
        })
    }

    /// The next of any. Cancel-safe.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Runs `work` on the runtime of the control plane.
pub(super) fn block_on<F: Future<Output = Result<(), Error>>>(work: F) -> Result<(), Error> {
    runtime(CONTROL_THREADS)?.block_on(work)
}

/// The runtime of the control plane, with so many threads.
pub(super) fn runtime(threads: usize) -> Result<Runtime, Error> {
    serve::few_arenas();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("hearth-control")
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("cannot start: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_what_was_not_waited_for() {
        let said = |calls, instances| stopped(CutOff { calls, instances });
        assert_eq!(said(Calls::Ended, 0), "Stopped.");
        assert_eq!(said(Calls::Hurried, 1), "Stopped; calls that ran were cut off, 1 instance was killed.");
        assert_eq!(
            said(Calls::Overdue(2), 0),
            "Stopped; 2 connections were closed whose calls had not ended in time."
        );
    }
}
