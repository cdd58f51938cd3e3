//! One controller for each data directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The lock on a data directory: the kernel gives it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another controller has it.
    #[error("{} is in use by another hearth{holder}", directory.display())]
    Held {
        /// Which directory.
        directory: PathBuf,
        /// ` (process 4711)`, when it has said so.
        holder: String,
    },
    /// It cannot be made or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Makes the data directory, for root alone, and locks it.
pub(super) fn lock(directory: &Path) -> Result<Lock, Error> {
    let file_error = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(file_error(directory))?;
    let path = directory.join("lock");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(file_error(&path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        // Only to be helpful.
        let _unreadable = file.read_to_string(&mut holder).is_err();
        let holder = holder.trim();
        let holder = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
        return Err(Error::Held { directory: directory.to_owned(), holder });
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(file_error(&path))?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_told_who_has_it_and_a_later_one_gets_it() {
        let directory = tempfile::TempDir::new().unwrap();
        let data = directory.path().join("data");
        let held = lock(&data).unwrap();
        let refused = lock(&data).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        lock(&data).unwrap();
    }
}
