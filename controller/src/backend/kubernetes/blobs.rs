//! What instances fetch: directories of this machine as tars, the same bytes for the same files. Nothing is kept of them but digest and
//! length: a tar is written anew for everybody who fetches it.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use hearth_function::Digest;
use hearth_protocol::report::Mount;
use sha2::{Digest as _, Sha256};

/// Directories whose digest is remembered; beyond, all are forgotten: to find one out again costs no more than to read it.
const REMEMBERED: usize = 4096;

/// A directory as a tar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) path: PathBuf,
    /// `sha256:` and 64 hex digits.
    pub(super) digest: String,
    pub(super) bytes: u64,
}

impl Blob {
    /// What a shim is told of it.
    pub(super) fn mount(&self, at: &str) -> Mount {
        Mount { digest: self.digest.clone(), bytes: self.bytes, at: at.to_owned() }
    }
}

/// The blobs of directories that never change: code and dependencies lie under their digests.
#[derive(Debug, Default)]
pub(super) struct Blobs(Mutex<HashMap<PathBuf, Arc<Blob>>>);

impl Blobs {
    /// The directory's blob, measured if it is not known. Blocks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn of(&self, path: &Path) -> io::Result<Arc<Blob>> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blob) = known().get(path) {
            return Ok(Arc::clone(blob));
        }
        let blob = Arc::new(measure(path)?);
        let mut known = known();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(path.to_owned(), Arc::clone(&blob));
        Ok(blob)
    }
}

/// The blob of a directory as it is now. Blocks.
///
/// # Errors
/// When it cannot be read.
pub(super) fn measure(path: &Path) -> io::Result<Blob> {
    let mut counted = Counted { digest: Sha256::new(), bytes: 0 };
    write(path, &mut counted)?;
    let digest = Digest::from_sha256(counted.digest.finalize().into()).to_string();
    Ok(Blob { path: path.to_owned(), digest, bytes: counted.bytes })
}

/// Writes the directory as a tar: names in order, no owners, and of times those of files: compiled Python is good for a source of one time.
/// Blocks.
///
/// # Errors
/// When it cannot be read or written.
pub(super) fn write(path: &Path, out: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    append(&mut tar, path, Path::new(""))?;
    tar.into_inner()?.flush()
}

fn append(tar: &mut tar::Builder<impl Write>, directory: &Path, inside: &Path) -> io::Result<()> {
    let mut names: Vec<_> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        let (path, inside) = (directory.join(&name), inside.join(&name));
        let metadata = path.symlink_metadata()?;
        let mut header = header(&metadata);
        if metadata.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            tar.append_data(&mut header, &inside, io::empty())?;
            append(tar, &path, &inside)?;
        } else if metadata.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            tar.append_link(&mut header, &inside, fs::read_link(&path)?)?;
        } else if metadata.is_file() {
            header.set_size(metadata.len());
            tar.append_data(&mut header, &inside, File::open(&path)?)?;
        }
        // Sockets and the like are nobody's code.
    }
    Ok(())
}

fn header(metadata: &Metadata) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let runs = metadata.is_dir() || metadata.permissions().mode() & 0o111 != 0;
    header.set_mode(if runs { 0o755 } else { 0o644 });
    let modified = if metadata.is_file() { u64::try_from(metadata.mtime()).unwrap_or(0) } else { 0 };
    header.set_mtime(modified);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

struct Counted {
    digest: Sha256,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn fill(root: &Path, names: [&str; 2]) {
        for name in names {
            fs::create_dir_all(root.join("sub")).unwrap();
            let path = root.join("sub").join(name);
            fs::write(&path, name).unwrap();
            let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        }
        std::os::unix::fs::symlink("sub/a", root.join("link")).unwrap();
    }

    #[test]
    fn the_same_content_is_the_same_blob_whatever_the_order_it_was_made_in() {
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        fill(one.path(), ["a", "b"]);
        fill(other.path(), ["b", "a"]);
        let [blob, same] = [one.path(), other.path()].map(|path| measure(path).unwrap());
        assert_eq!((&blob.digest, blob.bytes), (&same.digest, same.bytes));
        let mut bytes = Vec::new();
        write(one.path(), &mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, blob.bytes);
        let mut archive = tar::Archive::new(&bytes[..]);
        let times: Vec<u64> =
            archive.entries().unwrap().map(|entry| entry.unwrap().header().mtime().unwrap()).collect();
        assert_eq!(times, [0, 0, 1_700_000_000, 1_700_000_000], "of link and directory nobody asks");
        fs::write(other.path().join("sub/a"), "changed").unwrap();
        assert_ne!(measure(other.path()).unwrap().digest, blob.digest);
    }

    #[test]
    fn what_lies_under_its_digest_is_measured_once() {
        let root = tempfile::tempdir().unwrap();
        fill(root.path(), ["a", "b"]);
        let blobs = Blobs::default();
        let first = blobs.of(root.path()).unwrap();
        assert!(Arc::ptr_eq(&first, &blobs.of(root.path()).unwrap()));
    }
}
