//! Images: the roots that instances of a Function with `source.image` have. They come from a registry, or from a file or directory that a
//! client uploads by digest; every blob is verified, every layer is unpacked once, and a root is shared read-only between instances.
//!
//! ```text
//! <data-dir>/images/
//!     blobs/<hex>           what was uploaded and is not unpacked yet
//!     layers/<hex>/         a layer, by the digest of its blob: tree/, layer.json (what it takes away of those below)
//!     roots/<hex>/          an image, by the digest of its manifest: rootfs/ (hard links to its layers' files), image.json
//! ```
//!
//! Whatever comes in is hostile until it is unpacked, and the image's own programs are hostile afterwards. A directory is whole or not there:
//! it is made under a temporary name and renamed. What a crash left half-made is removed when the store is opened.

mod assemble;
mod config;
mod credentials;
mod error;
mod files;
mod identity;
mod keep;
mod keys;
mod layer;
pub mod local;
mod pull;
mod push;
mod put;
mod registry;
mod zstd;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hearth_function::{Digest, ImageTemplate};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use self::files::{read, read_json};
use super::shelf::{At as _, Shelf};
use crate::backend::User;
use crate::backend::rooted::Rooted;

pub use config::Settings;
pub(crate) use config::architecture;
pub use error::Error;
pub use keep::Listed;
pub use keys::Keys;
pub use push::Sent;
pub use registry::{Access, Remote, reference};

/// Images that are fetched at once; more wait.
const PULLS: usize = 4;

/// Where the root is in an image's directory.
const ROOTFS: &str = "rootfs";

/// How large images may be and where they may come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of all layers of an image together, unpacked. Default 8 GiB.
    pub unpacked_bytes: u64,
    /// Files, directories and links of a layer. Default 500,000: a distribution with a desktop stays below.
    pub entries: u64,
    /// How long the layers of an image may take to be fetched. Default 15 minutes.
    pub timeout: Duration,
    /// How registries are reached.
    pub access: Access,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            unpacked_bytes: 8 << 30,
            entries: 500_000,
            timeout: Duration::from_secs(900),
            access: Access::default(),
        }
    }
}

/// The store of images. A cheap handle.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

/// Who holds it makes the image; in it is the last attempt that failed, and when.
type Turn = tokio::sync::Mutex<Option<(Instant, Arc<Error>)>>;

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    layers: Shelf,
    roots: Shelf,
    config: Config,
    /// Images that somebody is about to have: whoever asks for the same waits.
    busy: Mutex<HashMap<Digest, Weak<Turn>>>,
    pulls: Semaphore,
    next: AtomicU64,
}

/// An image as instances have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its root, on this machine.
    pub path: PathBuf,
    /// Whom its programs run as; `None`: Hearth's own user for functions.
    pub user: Option<User>,
}

/// What `image.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    settings: Settings,
    layers: Vec<Digest>,
    bytes: u64,
}

impl Images {
    /// Opens the store in the data directory and removes what a crash left half-made.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(data_dir: &Path, config: Config) -> Result<Self, Error> {
        let directory = data_dir.join("images");
        let blobs = directory.join("blobs");
        fs::create_dir_all(&blobs).at("create", &blobs)?;
        for entry in fs::read_dir(&blobs).at("list", &blobs)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                fs::remove_file(entry.path()).at("remove", &entry.path())?;
            }
        }
        let inner = Inner {
            blobs,
            layers: Shelf::open(directory.join("layers"))?,
            roots: Shelf::open(directory.join("roots"))?,
            config,
            busy: Mutex::default(),
            pulls: Semaphore::new(PULLS),
            next: AtomicU64::new(0),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What a reference means now: an image that was loaded, by its digest, or one of a registry, of which the manifest and the
    /// configuration are fetched and nothing else.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn resolve(&self, reference: &str) -> Result<ImageTemplate, Error> {
        self.resolve_with(reference, None).await
    }

    /// The same, where whoever names it brings credentials along.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub async fn resolve_with(&self, reference: &str, keys: Option<&Keys>) -> Result<ImageTemplate, Error> {
        if let Ok(digest) = reference.parse::<Digest>() {
            let stored = self.stored(&digest).ok_or_else(|| Error::NotLoaded(digest.clone()))?;
            return Ok(stored.settings.template(reference, digest));
        }
        let remote = Remote::open_with(reference, &self.inner.config.access, keys).await?;
        let documents = self.in_time(reference, remote.documents()).await?;
        let settings = Settings::read(&documents.config)?;
        Ok(settings.template(reference, documents.digest))
    }

    /// The root of an image; fetches and unpacks what of it is not here. `progress` hears how that goes.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is left half-made, and what came whole is not fetched again.
    ///
    /// # Cancel safety
    /// Dropping the future ends the fetching. A layer that is being unpacked is unpacked to its end.
    pub async fn ensure(
        &self,
        image: &ImageTemplate,
        mut progress: impl FnMut(String),
    ) -> Result<Root, Error> {
        let asked = Instant::now();
        let turn = self.turn(&image.digest);
        let mut turn = turn.lock().await;
        if self.stored(&image.digest).is_none() {
            // Who has waited for an attempt that failed does not make one of his own: the next is his who asks later.
            if let Some((when, error)) = turn.as_ref().filter(|(when, _)| *when >= asked) {
                tracing::debug!(digest = %image.digest, since = ?when.elapsed(), "somebody else's pull has failed");
                return Err(Error::Shared(Arc::clone(error)));
            }
            if image.reference.parse::<Digest>().is_ok() {
                return Err(Error::NotLoaded(image.digest.clone()));
            }
            let _pull = self.inner.pulls.acquire().await.map_err(|_| Error::CutOff)?;
            if let Err(error) = self.pull(image, &mut progress).await {
                let error = Arc::new(error);
                *turn = Some((Instant::now(), Arc::clone(&error)));
                return Err(Error::Shared(error));
            }
        }
        self.root(image)
    }

    /// Whoever has it is the only one that makes this image.
    fn turn(&self, digest: &Digest) -> Arc<Turn> {
        let mut busy = self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = busy.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(Turn::default());
        busy.insert(digest.clone(), Arc::downgrade(&turn));
        turn
    }

    fn root(&self, image: &ImageTemplate) -> Result<Root, Error> {
        let missing = || Error::NotLoaded(image.digest.clone());
        let path = self.inner.roots.path(image.digest.hex()).ok_or_else(missing)?.join(ROOTFS);
        self.inner.roots.touch(image.digest.hex())?;
        let user = match &image.user {
            None => None,
            Some(user) => {
                let root = Rooted::open(&path).at("open", &path)?;
                config::user(user, &read(&root, "etc/passwd"), &read(&root, "etc/group"))?
            }
        };
        Ok(Root { path, user })
    }

    fn stored(&self, digest: &Digest) -> Option<Stored> {
        let path = self.inner.roots.path(digest.hex())?;
        self.inner.roots.touch(digest.hex()).ok()?;
        read_json(&path.join("image.json")).ok()
    }

    /// Whether a blob of an image is here, packed or unpacked: it need not be uploaded.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let unpacked = self.inner.layers.path(digest.hex()).is_some();
        (unpacked && self.inner.layers.touch(digest.hex()).is_ok())
            || self.inner.blobs.join(digest.hex()).is_file()
    }

    /// Whether an image is here, whole.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.stored(digest).is_some()
    }
}

/// The name of an image with its digest, for an engine that pulls it itself.
///
/// # Errors
/// When it was loaded here and has no name elsewhere.
pub fn pinned(image: &ImageTemplate) -> Result<String, Error> {
    if image.reference.parse::<Digest>().is_ok() {
        return Err(Error::Unsupported(
            "an image that was loaded into Hearth cannot be given to this backend's engine: load it there, or push it to a registry, and name it so",
        ));
    }
    Ok(reference(&image.reference)?.clone_with_digest(image.digest.to_string()).to_string())
}

/// Whom an image runs as, when its files cannot be looked at.
///
/// # Errors
/// When it gives a name.
pub fn user_by_numbers(image: &ImageTemplate) -> Result<Option<User>, Error> {
    image.user.as_deref().map_or(Ok(None), |user| config::user(user, "", ""))
}

#[cfg(test)]
mod tests;
