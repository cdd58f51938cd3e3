//! The cluster key: what controllers and gateways share, and what instances are known by.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Fewer bytes could be guessed.
const LEAST_BYTES: usize = 32;

/// The key. Never printed.
#[derive(Clone)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("cannot read the cluster key in {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// What it holds.
    #[error("{} holds less than {LEAST_BYTES} bytes: make it of as many random ones at least", .0.display())]
    Short(PathBuf),
}

impl Key {
    /// Reads it: the digest of whatever the file holds, without spaces around it.
    ///
    /// # Errors
    /// When it cannot be read, or is too short to be secret.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let content = std::fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
        let content = content.trim_ascii();
        if content.len() < LEAST_BYTES {
            return Err(Error::Short(path.to_owned()));
        }
        Ok(Self::of(content))
    }

    /// The key that a file with this content is. Spaces around it do not count.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content.trim_ascii()).into())
    }

    /// By which keys are told from each other. Nothing of the key can be learned from it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(b"hearth cluster key fingerprint\n");
        digest.update(self.0);
        hearth_function::hex(digest.finalize().get(..8).unwrap_or_default())
    }

    /// What the management API asks for where no other token is configured.
    #[must_use]
    pub fn management_token(&self) -> String {
        let mut digest = Sha256::new();
        digest.update(b"hearth management token\n");
        digest.update(self.0);
        hearth_function::hex(&digest.finalize())
    }
}
