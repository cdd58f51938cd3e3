//! PID 1 of an instance.
//!
//! It binds the instance's two sockets first thing, so that nobody waits longer than for the runtime itself, locks itself in, starts
//! the runtime as an unprivileged user, and from then on supervises: logs, signals, orphans, the controller's absence, and at the end a
//! record of how the runtime ended. For Node and Python it is not on the data path: their bootstraps inherit the listening socket. For
//! `http` and `exec` it speaks the invocation protocol and translates.
//!
//! One thread, no more memory than it must: it runs in every instance.

mod bootstrap;
mod confine;
mod control;
mod copy;
mod exec;
mod http;
mod logs;
mod process;
mod relay;
mod report;
mod socket;
mod supervisor;
mod wire;

use std::io::{self, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;

use hearth_protocol::config::{CONTROL_SOCKET, DIRECTORY, FILE, INVOKE_SOCKET};
use hearth_protocol::{Exit, ShimConfig};
use rustix::fs::Mode;

use socket::Listener;
use supervisor::Entrances;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    let outcome = match (first, arguments.next()) {
        (Some(command), Some(into)) if command == copy::COMMAND => {
            copy::own_directory(Path::new(&into)).map(|()| Exit { code: Some(0), ..Exit::default() })
        }
        (Some(directory), _) => run(Path::new(&directory)),
        (None, _) => run(Path::new(DIRECTORY)),
    };
    match outcome {
        // As a shell tells it; PID 1's code is the container's.
        Ok(Exit { code: Some(code), .. }) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Ok(Exit { signal, .. }) => {
            ExitCode::from(signal.and_then(|signal| u8::try_from(128 + signal).ok()).unwrap_or(1))
        }
        Err(error) => {
            // Into whatever the backend has put there: nothing else can be reached.
            // A full pipe is no reason to panic.
            writeln!(io::stderr(), "hearth-shim: {error}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(directory: &Path) -> io::Result<Exit> {
    process::close_inherited();
    process::reserve_low_descriptors()?;
    let file = directory.join(FILE);
    if let Some(caller) = report::Caller::from_environment()?
        && !file.exists()
    {
        return report::run(caller);
    }
    let entrances = Entrances {
        invoke: bind(&directory.join(INVOKE_SOCKET))?,
        control: bind(&directory.join(CONTROL_SOCKET))?,
    };
    let config: ShimConfig = std::fs::read(&file)
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::from))
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    supervisor::run(config, directory, entrances)
}

/// Listens at `path`, for root alone.
fn bind(path: &Path) -> io::Result<Listener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(mask);
    Ok(Listener::Unix(listener?))
}
