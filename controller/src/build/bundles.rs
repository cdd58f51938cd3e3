//! The bundles that were uploaded, unpacked: `<data-dir>/bundles/sha256/<hex>/`, each under the digest of its packed form.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hearth_function::Digest;

use super::shelf::{FileError, Shelf};
use super::unpack;

/// How large a bundle may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive. Default 256 MiB.
    pub packed_bytes: u64,
    /// Bytes of its files together. Default 1 GiB.
    pub unpacked_bytes: u64,
    /// Files, directories and links. Default 50,000.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        // AWS Lambda allows 250 MB unpacked; four times that is room for what others allow, and nobody fills a disk with one upload.
        Self { packed_bytes: 256 << 20, unpacked_bytes: 1 << 30, entries: 50_000 }
    }
}

/// The store of bundles. A cheap handle.
#[derive(Debug, Clone)]
pub struct Bundles {
    shelf: Shelf,
    limits: Limits,
}

/// Why a bundle could not be taken in, looked at or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What came is not what was announced: damaged on the way, or the wrong file.
    #[error("the bundle is {actual} and not {expected} as announced: upload it again")]
    WrongDigest {
        /// The digest that was announced.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// It is larger than is allowed.
    #[error(
        "the bundle has more than {limit} {unit}: leave out what the function does not need, by a .hearthignore file"
    )]
    TooLarge {
        /// How much is allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// It holds something that a bundle must not hold.
    #[error("the bundle's entry {path:?} {problem}")]
    Refused {
        /// Which entry.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// It is no archive, or it breaks off.
    #[error("the bundle is not a whole tar archive compressed by gzip")]
    Archive(#[source] io::Error),
    /// It could not be received.
    #[error("the bundle could not be read")]
    Read(#[source] io::Error),
    /// The store's own file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The task that unpacked it did not end by itself.
    #[error("unpacking the bundle was cut off")]
    CutOff,
}

impl Error {
    /// Whether the bundle is at fault (and not this machine).
    #[must_use]
    pub fn is_clients(&self) -> bool {
        match self {
            Self::WrongDigest { .. } | Self::TooLarge { .. } | Self::Refused { .. } | Self::Archive(_) => {
                true
            }
            Self::Read(_) | Self::File(_) | Self::CutOff => false,
        }
    }
}

impl Bundles {
    /// Opens the store in the data directory and removes what a crash left half-unpacked.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(data_dir: &Path, limits: Limits) -> Result<Self, Error> {
        Ok(Self { shelf: Shelf::open(data_dir.join("bundles").join("sha256"))?, limits })
    }

    /// Takes a packed bundle in: unpacks it, checks it, and makes it visible under its digest when all of it is right and on the disk. One
    /// that is here already is not read.
    ///
    /// # Errors
    /// As [`Error`] says; nothing of the bundle is left then.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the unpacking; its result is whole or nothing either way.
    pub async fn put(&self, digest: &Digest, packed: impl Read + Send + 'static) -> Result<PathBuf, Error> {
        let (this, digest) = (self.clone(), digest.clone());
        let unpacked = tokio::task::spawn_blocking(move || this.put_blocking(&digest, packed));
        unpacked.await.map_err(|_| Error::CutOff)?
    }

    /// [`Bundles::put`] for a thread that may block.
    ///
    /// # Errors
    /// As [`Bundles::put`].
    pub fn put_blocking(&self, digest: &Digest, packed: impl Read) -> Result<PathBuf, Error> {
        if let Some(path) = self.path(digest) {
            self.shelf.touch(digest.hex())?;
            return Ok(path);
        }
        let half = self.shelf.begin()?;
        let sync = unpack::verified(packed, digest, half.path(), &self.limits)?;
        Ok(half.finish(&self.shelf, digest.hex(), sync)?)
    }

    /// Whether the bundle is here, whole. Whoever asks is about to use it: it is not garbage for a while.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_some() && self.shelf.touch(digest.hex()).is_ok()
    }

    /// Where the bundle is, unpacked, if it is here.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        self.shelf.path(digest.hex())
    }

    /// Where the bundle is, if it is here, and where it will be.
    pub(crate) fn place(&self, digest: &Digest) -> PathBuf {
        self.shelf.place(digest.hex())
    }

    /// Removes a bundle; no error if it is not here. Blocks for as long as it takes to remove its files.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn remove(&self, digest: &Digest) -> Result<(), Error> {
        Ok(self.shelf.remove(digest.hex())?)
    }

    /// Every bundle that is here.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn list(&self) -> Result<BTreeSet<Digest>, Error> {
        let names = self.shelf.list()?;
        Ok(names.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect())
    }

    /// Removes bundles that are not in `live`, those first that nobody has asked for the longest, until at most `most` bytes are left of them;
    /// nothing that was asked for in the last `grace`. How many. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn shrink(
        &self,
        live: &HashSet<Digest>,
        most: u64,
        grace: Duration,
        now: SystemTime,
    ) -> Result<usize, Error> {
        let live: HashSet<&str> = live.iter().map(Digest::hex).collect();
        Ok(self.shelf.shrink(|name| live.contains(name), most, grace, now)?.len())
    }

    /// Bytes of all bundles, unpacked. Looks at every file: blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn bytes(&self) -> Result<u64, Error> {
        Ok(self.shelf.entries()?.iter().map(|entry| entry.bytes).sum())
    }

    /// Removes the bundles that are not in `live` and that nobody has put or asked for in the last `keep` (an upload comes before the
    /// Function that names it). `live` must hold those of running instances too: a mount does not keep files that are removed. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn collect(
        &self,
        live: &HashSet<Digest>,
        keep: Duration,
        now: SystemTime,
    ) -> Result<Vec<Digest>, Error> {
        let live: HashSet<&str> = live.iter().map(Digest::hex).collect();
        let removed = self.shelf.collect(|name| live.contains(name), keep, now)?;
        Ok(removed.iter().filter_map(|name| format!("sha256:{name}").parse().ok()).collect())
    }
}
