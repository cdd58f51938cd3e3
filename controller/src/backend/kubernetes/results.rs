//! What a job leaves: its build directory, which comes as a tar and takes the place of the one that was sent.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_function::Digest;
use hearth_protocol::report::ToShim;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::reports::Line;

/// Largest result, in bytes of its tar: twice what is allowed of dependencies by default.
const MAX_BYTES: u64 = 4 << 30;

/// Longest silence in the middle of one.
const SILENCE: Duration = Duration::from_secs(30);

/// Receives a result, verifies it, and unpacks it over `build`.
pub(super) async fn take(mut line: Line, build: &Path, digest: &str, bytes: u64) -> io::Result<()> {
    if bytes > MAX_BYTES {
        let reason = format!("the result has {bytes} bytes: at most {MAX_BYTES} are taken");
        return line.send(&ToShim::Refused { reason }).await;
    }
    let packed = Packed(build.with_extension("result"));
    let mut file = tokio::fs::File::create(&packed.0).await?;
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
    let found = Digest::from_sha256(hash.finalize().into());
    if digest != found.as_str() {
        let reason = format!("the result is {found} and not {digest}");
        return line.send(&ToShim::Refused { reason }).await;
    }
    let build = build.to_owned();
    let unpacked = tokio::task::spawn_blocking(move || unpack(&packed, &build)).await?;
    match unpacked {
        Ok(()) => line.send(&ToShim::Taken).await,
        Err(error) => {
            tracing::warn!(%error, "the result of a job cannot be unpacked");
            line.send(&ToShim::Refused { reason: format!("the result cannot be unpacked: {error}") }).await
        }
    }
}

/// A file that goes with its owner.
struct Packed(PathBuf);

impl Drop for Packed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!(%error, "a received result stays");
        }
    }
}

/// What comes is somebody else's: the library leaves no path of it out of `build`, by links neither.
fn unpack(packed: &Packed, build: &Path) -> io::Result<()> {
    for entry in fs::read_dir(build)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    let mut tar = tar::Archive::new(BufReader::new(File::open(&packed.0)?));
    tar.set_overwrite(false);
    // Compiled Python is good for a source of one time.
    tar.set_preserve_mtime(true);
    for entry in tar.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link()) {
            continue;
        }
        if !entry.unpack_in(build)? {
            return Err(io::Error::other(format!("{} lies outside", entry.path()?.display())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_takes_the_place_of_what_was_there_and_keeps_its_times() {
        let root = tempfile::tempdir().unwrap();
        let build = root.path().join("build");
        fs::create_dir_all(build.join("before")).unwrap();
        let packed = Packed(root.path().join("build.result"));
        let mut tar = tar::Builder::new(File::create(&packed.0).unwrap());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, "lib/one.py", &b"1"[..]).unwrap();
        tar.finish().unwrap();
        unpack(&packed, &build).unwrap();
        let modified = fs::metadata(build.join("lib/one.py")).unwrap().modified().unwrap();
        assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_700_000_000);
        assert!(!build.join("before").exists());
    }
}
