//! The shim and the bootstraps that this binary carries, and their way onto the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// One file: its path below the directory, its contents, its mode.
struct Carried {
    path: &'static str,
    bytes: &'static [u8],
    mode: u32,
}

macro_rules! bootstrap {
    ($path:literal) => {
        Carried {
            path: $path,
            bytes: include_bytes!(concat!(env!("BUILT_BOOTSTRAPS"), "/", $path)),
            mode: 0o644,
        }
    };
}

/// Everything that is mounted at `/hearth`.
static FILES: &[Carried] = &[
    Carried { path: "hearth-shim", bytes: include_bytes!(env!("BUILT_SHIM")), mode: 0o755 },
    bootstrap!("node/bootstrap.cjs"),
    bootstrap!("node/connection.cjs"),
    bootstrap!("node/event.cjs"),
    bootstrap!("node/exercise.cjs"),
    bootstrap!("node/exercise/handler.js"),
    bootstrap!("node/exercise/module.mjs"),
    bootstrap!("node/fetch.cjs"),
    bootstrap!("node/http.cjs"),
    bootstrap!("node/load.cjs"),
    bootstrap!("node/logs.cjs"),
    bootstrap!("python/bootstrap.py"),
    bootstrap!("python/hearth_asgi.py"),
    bootstrap!("python/hearth_call.py"),
    bootstrap!("python/hearth_event.py"),
    bootstrap!("python/hearth_exercise.py"),
    bootstrap!("python/hearth_load.py"),
    bootstrap!("python/hearth_logs.py"),
    bootstrap!("python/hearth_loop.py"),
    bootstrap!("python/hearth_rehearsal.py"),
    bootstrap!("python/hearth_threads.py"),
    bootstrap!("python/hearth_wsgi.py"),
];

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
/// in every instance. It holds `hearth-shim`, `node/bootstrap.cjs` and `python/bootstrap.py`. Files that are there already are left alone: a
/// running instance of an earlier controller has them mounted.
///
/// # Errors
/// When the disk refuses.
///
/// # Guarantees
/// The directory appears whole or not at all, whoever else does the same at the time.
pub fn install(data_dir: &Path) -> Result<PathBuf, Error> {
    let parent = data_dir.join("shim");
    let directory = parent.join(digest());
    if directory.is_dir() {
        return Ok(directory);
    }
    let draft = parent.join(format!(".{}.{}", digest(), std::process::id()));
    let written = write_all(&draft).and_then(|()| match fs::rename(&draft, &directory) {
        // Somebody else was faster, with the same files.
        Err(_) if directory.is_dir() => Ok(()),
        renamed => renamed.map_err(|source| Error { path: directory.clone(), source }),
    });
    if draft.exists() {
        // What is left of a draft is only in the way.
        fs::remove_dir_all(&draft).map_err(|source| Error { path: draft, source })?;
    }
    written.map(|()| directory)
}

fn write_all(directory: &Path) -> Result<(), Error> {
    for carried in FILES {
        let path = directory.join(carried.path);
        write(&path, carried).map_err(|source| Error { path, source })?;
    }
    Ok(())
}

fn write(path: &Path, carried: &Carried) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut file: File =
        OpenOptions::new().write(true).create(true).truncate(true).mode(carried.mode).open(path)?;
    file.write_all(carried.bytes)?;
    // A directory that appears whole after a power cut too.
    file.sync_all()
}

/// Names the contents: the first 16 hex digits of the SHA-256 of all paths, modes and bytes.
fn digest() -> String {
    let mut hash = Sha256::new();
    for Carried { path, bytes, mode } in FILES {
        hash.update(path.as_bytes());
        hash.update([0]);
        hash.update(mode.to_be_bytes());
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    }
    hearth_function::hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_files_appear_once_and_whole() {
        let data = tempfile::tempdir().unwrap();
        let directory = install(data.path()).unwrap();
        let shim = directory.join("hearth-shim");
        assert_eq!(fs::metadata(&shim).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(
            directory.join("node/bootstrap.cjs").is_file() && directory.join("python/bootstrap.py").is_file()
        );
        let first = fs::metadata(&shim).unwrap().modified().unwrap();
        assert_eq!(install(data.path()).unwrap(), directory);
        assert_eq!(fs::metadata(&shim).unwrap().modified().unwrap(), first);
        assert_eq!(fs::read_dir(data.path().join("shim")).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn the_shim_needs_nothing_of_the_container() {
        let elf = FILES[0].bytes;
        assert_eq!(elf.get(..4), Some(&b"\x7fELF"[..]));
        // A dynamic program names its loader.
        assert!(!elf.windows(8).any(|window| window == b"/ld-linu"), "the shim is not static");
    }
}
