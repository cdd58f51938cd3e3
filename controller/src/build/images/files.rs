//! Small files of the store, and work that blocks.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Error;
use crate::backend::rooted::Rooted;
use crate::build::shelf::{At as _, FileError};

/// Files of an image's root that are read to find its user.
const LARGEST_PASSWD: u64 = 1 << 20;

/// A file that goes away with this value.
pub(super) struct Incoming(pub(super) PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "a received layer stays until the next start");
        }
    }
}

/// A small file of the root as text; empty when it is not there.
pub(super) fn read(root: &Rooted, path: &str) -> String {
    use io::Read as _;
    let mut text = Vec::new();
    let Ok(file) = root.file(Path::new(path)) else { return String::new() };
    // What cannot be read names nobody.
    let _unreadable = file.take(LARGEST_PASSWD).read_to_end(&mut text).is_err();
    String::from_utf8_lossy(&text).into_owned()
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other).at("write", path)?;
    fs::write(path, bytes).at("write", path)
}

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let bytes = fs::read(path).at("read", path)?;
    serde_json::from_slice(&bytes).map_err(io::Error::other).at("read", path)
}

/// Runs what blocks on a thread that may. It runs to its end even if nobody waits for it any more.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::CutOff)?
}
