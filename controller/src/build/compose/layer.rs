//! Writes one layer: a tar archive compressed by gzip, the same bytes for the same entries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use hearth_function::Digest;
use sha2::{Digest as _, Sha256};

use super::{Error, Layer};
use crate::build::shelf::{At as _, FileError};

/// A layer in the making.
pub struct Archive {
    archive: tar::Builder<Hashed<GzEncoder<Hashed<BufWriter<File>>>>>,
    /// Of the file, for messages.
    path: PathBuf,
    /// Directories that are in it.
    directories: BTreeSet<PathBuf>,
}

impl std::fmt::Debug for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Hashes and counts what goes through.
struct Hashed<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W> Hashed<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(bytes.get(..written).unwrap_or_default());
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Archive {
    /// Writes a layer into a file; `fill` puts its entries in, which must come in the same order for the same layer. Blocks.
    ///
    /// # Errors
    /// When the file system fails, or `fill`.
    pub fn write(path: &Path, fill: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<Layer, Error> {
        let file = File::create(path).at("create", path)?;
        // 255: no operating system in the header.
        let gzip = GzBuilder::new()
            .mtime(0)
            .operating_system(255)
            .write(Hashed::new(BufWriter::new(file)), Compression::new(6));
        let archive = tar::Builder::new(Hashed::new(gzip));
        let mut this = Self { archive, path: path.to_owned(), directories: BTreeSet::new() };
        fill(&mut this)?;
        let plain = this.archive.into_inner().at("write", path)?;
        let mut packed = plain.inner.finish().at("write", path)?;
        packed.flush().at("write", path)?;
        Ok(Layer {
            digest: Digest::from_sha256(packed.hash.finalize().into()),
            plain: Digest::from_sha256(plain.hash.finalize().into()),
            size: packed.bytes,
            path: path.to_owned(),
        })
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header
    }

    /// A directory; those above it come by themselves, open to everybody.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn directory(&mut self, path: &Path, mode: u32) -> Result<(), Error> {
        if path.as_os_str().is_empty() || !self.directories.insert(path.to_owned()) {
            return Ok(());
        }
        self.parents(path)?;
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        self.archive.append_data(&mut header, path.join(""), io::empty()).at("write", &self.path)?;
        Ok(())
    }

    fn parents(&mut self, path: &Path) -> Result<(), Error> {
        match path.parent() {
            Some(above) => self.directory(above, 0o755),
            None => Ok(()),
        }
    }

    /// A file with this content.
    ///
    /// # Errors
    /// When the file cannot be written, or the content be read.
    pub fn file(
        &mut self,
        path: &Path,
        executable: bool,
        size: u64,
        content: impl Read,
    ) -> Result<(), Error> {
        self.parents(path)?;
        let mode = if executable { 0o755 } else { 0o644 };
        let mut header = Self::header(tar::EntryType::Regular, mode, size);
        self.archive.append_data(&mut header, path, content).at("write", &self.path)?;
        Ok(())
    }

    /// A file with the content of a file of this machine, which is followed when it is a link.
    ///
    /// # Errors
    /// When it cannot be read, or the layer not be written.
    pub fn copy(&mut self, path: &Path, from: &Path) -> Result<(), Error> {
        let file = File::open(from).at("open", from)?;
        let metadata = file.metadata().at("look at", from)?;
        let executable = metadata.permissions().mode() & 0o111 != 0;
        // What is appended while it is read does not count.
        self.file(path, executable, metadata.len(), file.take(metadata.len()))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        self.parents(path)?;
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.archive.append_link(&mut header, path, target).at("write", &self.path)?;
        Ok(())
    }

    /// All of a directory of this machine, in the order of its names, without those that `wanted` does not want.
    ///
    /// # Errors
    /// When it cannot be read, or the layer not be written.
    pub fn tree(
        &mut self,
        path: &Path,
        from: &Path,
        mut wanted: impl FnMut(&str) -> bool,
    ) -> Result<(), Error> {
        self.walk(path, from, &mut wanted)
    }

    fn walk(&mut self, path: &Path, from: &Path, wanted: &mut dyn FnMut(&str) -> bool) -> Result<(), Error> {
        self.directory(path, 0o755)?;
        let entries = fs::read_dir(from).at("list", from)?;
        let mut entries =
            entries.map(|entry| entry.at("list", from)).collect::<Result<Vec<_>, FileError>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            if !wanted(&name.to_string_lossy()) {
                continue;
            }
            let (inside, full) = (path.join(&name), entry.path());
            let kind = entry.file_type().at("look at", &full)?;
            if kind.is_dir() {
                self.walk(&inside, &full, wanted)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&full).at("read", &full)?;
                self.link(&inside, &target)?;
            } else if kind.is_file() {
                self.copy(&inside, &full)?;
            }
        }
        Ok(())
    }
}
