//! The shim and the bootstraps that this binary carries, and their way onto the disk.

use std::io;
use std::path::{Path, PathBuf};

/// Why the files could not be put in place.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}")]
pub struct Error {
    /// Which file or directory.
    path: PathBuf,
    /// What the system said.
    #[source]
    source: io::Error,
}

/// Puts the shim and the bootstraps under `<data_dir>/shim/<digest>/` and returns that directory: what is mounted read-only at `/hearth`
/// in every instance. It holds `hearth-shim`, `node/bootstrap.cjs` and `python/…`. Files that are there already are left alone.
///
/// # Errors
/// When the disk refuses.
///
/// # Guarantees
/// The directory appears whole or not at all, whoever else does the same at the time.
pub fn install(data_dir: &Path) -> Result<PathBuf, Error> {
    let _ = data_dir;
    Err(Error { path: data_dir.to_owned(), source: io::Error::from(io::ErrorKind::Unsupported) })
}
