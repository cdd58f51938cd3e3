//! What a job leaves: its build directory, which comes as a tar and takes the place of the one that was sent.
//!
//! One comes at a time, and none once the job is stopped: whoever started it then goes over what there is.

use std::fs::{self, File};
use std::io::{self, Seek as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hearth_function::Digest;
use hearth_protocol::report::ToShim;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::Unpack;
use super::reports::Line;
use super::transfers::allowed;

/// Longest silence in the middle of one.
const SILENCE: Duration = Duration::from_secs(30);

/// Whether an instance may bring its result.
#[derive(Debug)]
pub(super) struct Intake {
    /// Of the one that is on its way.
    turn: Semaphore,
    /// Held while one is unpacked.
    open: Mutex<bool>,
}

impl Intake {
    pub(super) fn new() -> Self {
        Self { turn: Semaphore::new(1), open: Mutex::new(true) }
    }

    #[cfg(test)]
    pub(super) fn is_free(&self) -> bool {
        self.turn.available_permits() > 0
    }

    /// Nothing changes in the build directory any more. One that is being unpacked is waited for.
    pub(super) async fn close(&self) {
        *self.open.lock().await = false;
    }
}

/// Receives a result, verifies it, and unpacks it in the place of what is in `build`. At most `most` bytes of tar are taken.
pub(super) async fn take(
    mut line: Line,
    intake: &Intake,
    build: &Path,
    (digest, bytes): (&str, u64),
    most: u64,
    unpack: &Arc<Unpack>,
) -> io::Result<()> {
    if bytes > most {
        let reason =
            format!("the result has {bytes} bytes: at most {most} are taken, twice build.max_installed");
        return line.send(&ToShim::Refused { reason }).await;
    }
    // Closed without a word, it comes again: the one before it may be of a connection that is broken.
    let Ok(_turn) = intake.turn.try_acquire() else { return Ok(()) };
    let receiving = timeout(allowed(bytes), receive(&mut line, build, bytes));
    let (packed, found) = receiving.await.map_err(io::Error::other)??;
    if digest != found.as_str() {
        let reason = format!("the result is {found} and not {digest}");
        return line.send(&ToShim::Refused { reason }).await;
    }
    let open = intake.open.lock().await;
    if !*open {
        return line.send(&ToShim::Refused { reason: "this instance was stopped".to_owned() }).await;
    }
    let (build, unpack) = (build.to_owned(), Arc::clone(unpack));
    let unpacked = tokio::task::spawn_blocking(move || {
        clear(&build)?;
        unpack(packed, &build)
    });
    let unpacked = unpacked.await?;
    drop(open);
    match unpacked {
        Ok(()) => line.send(&ToShim::Taken).await,
        Err(error) => {
            tracing::warn!(%error, "the result of a job cannot be unpacked");
            line.send(&ToShim::Refused { reason: format!("the result cannot be unpacked: {error}") }).await
        }
    }
}

/// So many bytes, in a file beside `build` that has no name any more: it goes with whoever holds it.
async fn receive(line: &mut Line, build: &Path, bytes: u64) -> io::Result<(File, Digest)> {
    let path = build.with_extension("result");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path)?;
    fs::remove_file(&path)?;
    let mut file = tokio::fs::File::from_std(file);
    let mut hash = Sha256::new();
    let mut left = bytes;
    while left > 0 {
        if line.buffer.is_empty() {
            line.buffer.reserve(1 << 16);
            let read = timeout(SILENCE, line.stream.read_buf(&mut line.buffer));
            if read.await.map_err(io::Error::other)?? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = line.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let piece = line.buffer.split_to(length);
        left -= piece.len() as u64;
        hash.update(&piece);
        file.write_all(&piece).await?;
    }
    // A write is told of once it was handed on: only this says that the last one came to the disk's cache.
    file.flush().await?;
    let mut file = file.into_std().await;
    file.rewind()?;
    Ok((file, Digest::from_sha256(hash.finalize().into())))
}

fn clear(build: &Path) -> io::Result<()> {
    for entry in fs::read_dir(build)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
