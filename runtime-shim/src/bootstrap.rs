//! Processes that are the whole instance: the Node and Python bootstraps, and jobs.

use std::ffi::OsString;
use std::io::{self, Seek, Write};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use hearth_protocol::{Exit, LogStream, ShimProcess};
use rustix::fs::MemfdFlags;
use serde::Serialize;
use tokio::task::JoinSet;

use crate::logs::Owner;
use crate::process::{Input, Program, Running, log_pipe};
use crate::socket::Listener;
use crate::supervisor::{Shim, to_the_end};

/// What the bootstrap reads from descriptor 5.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BootConfig<'a> {
    instance: &'a str,
    secret: &'a str,
    concurrency: u32,
    memory_bytes: u64,
    /// What markers in the raw pipes carry, so that no line is taken for one by chance.
    nonce: &'a str,
}

/// Runs the bootstrap to its end. It inherits the listening socket as descriptor 3, the log records' pipe as 4, its configuration as 5.
pub(crate) async fn run(shim: &Rc<Shim>, invoke: Listener) -> io::Result<Exit> {
    let config = &shim.config;
    let programs = &config.programs;
    let command: Vec<String> = match &config.process {
        ShimProcess::Nodejs { interpreter } => vec![
            interpreter.clone(),
            format!("--max-old-space-size={}", heap_mib(config.memory_bytes)),
            format!("{programs}/node/bootstrap.cjs"),
        ],
        // Isolated from the environment and the user's directory; `site` and with it the packages come with the first load.
        ShimProcess::Python { interpreter } => vec![
            interpreter.clone(),
            "-I".to_owned(),
            "-S".to_owned(),
            "-u".to_owned(),
            format!("{programs}/python/bootstrap.py"),
        ],
        _ => Vec::new(),
    };
    let (records, their_records) = log_pipe()?;
    let nonce: Rc<str> = nonce(&config.secret).into();
    let boot = BootConfig {
        instance: &config.instance,
        secret: &config.secret,
        concurrency: config.concurrency,
        memory_bytes: config.memory_bytes,
        nonce: &nonce,
    };
    let inherited = vec![invoke.into_fd()?, their_records, boot_file(&boot)?];
    let running = shim.processes.start(program(shim, &command, inherited))?;
    let mut pumps = JoinSet::new();
    pumps.spawn_local(shim.logs.clone().pump_records(records));
    finish(shim, running, &mut pumps, Some(nonce)).await
}

/// Runs a job's command to its end.
pub(crate) async fn run_job(shim: &Rc<Shim>, command: &[String]) -> io::Result<Exit> {
    let running = shim.processes.start(program(shim, command, Vec::new()))?;
    finish(shim, running, &mut JoinSet::new(), None).await
}

fn program(shim: &Shim, command: &[String], inherited: Vec<OwnedFd>) -> Program {
    let config = &shim.config;
    Program {
        command: command.iter().map(OsString::from).collect(),
        env: config.env.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        working_directory: config.working_directory.clone(),
        uid: config.uid,
        gid: config.gid,
        inherited,
        input: Input::Nothing,
    }
}

async fn finish(
    shim: &Rc<Shim>,
    running: Running,
    pumps: &mut JoinSet<()>,
    nonce: Option<Rc<str>>,
) -> io::Result<Exit> {
    let Running { group, stdout, stderr, ended, .. } = running;
    // Until the bootstrap marks a call: it does so only where one runs at a time.
    let owner = if nonce.is_some() && shim.config.concurrency > 1 { Owner::Shared } else { Owner::Nobody };
    for (pipe, stream) in [(stdout, LogStream::Stdout), (stderr, LogStream::Stderr)] {
        pumps.spawn_local(shim.logs.clone().pump_lines(pipe, stream, owner.clone(), nonce.clone()));
    }
    Ok(to_the_end(shim, group, ended, pumps).await)
}

/// Node does not see the memory limit (it would take 259 MiB in 128). Five eighths: the rest is for the young generation, buffers, and
/// the binary's own pages.
const fn heap_mib(memory_bytes: u64) -> u64 {
    let mib = memory_bytes / (1 << 20) * 5 / 8;
    if mib < 24 { 24 } else { mib }
}

/// Tells one instance's markers from another's text. Not a secret: the function can read it, and would mislabel its own lines alone.
fn nonce(secret: &str) -> String {
    let hash = secret.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

fn boot_file(boot: &BootConfig<'_>) -> io::Result<OwnedFd> {
    let mut file = std::fs::File::from(rustix::fs::memfd_create("boot", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(boot)?)?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_fits_into_the_memory_limit() {
        assert_eq!(heap_mib(128 << 20), 80);
        assert_eq!(heap_mib(1 << 30), 640);
        assert_eq!(heap_mib(32 << 20), 24);
    }
}
