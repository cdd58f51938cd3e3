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
mod identity;
mod layer;
pub mod local;
mod push;
mod registry;
mod zstd;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hearth_function::{ByteSize, Digest, ImageTemplate};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::bundles;
use super::shelf::{At as _, FileError, Shelf, Sync};
use crate::backend::User;
use crate::backend::rooted::Rooted;

pub use config::Settings;
pub(crate) use config::architecture;
pub use push::Sent;
pub use registry::{Access, Remote, reference};

/// Layers that are fetched at once of one image.
const LAYERS: usize = 3;

/// Images that are fetched at once; more wait.
const PULLS: usize = 4;

/// What was asked for so lately is not removed for room: somebody may be about to use it.
const GRACE: Duration = Duration::from_secs(600);

/// Files of an image's root that are read to find its user.
const LARGEST_PASSWD: u64 = 1 << 20;

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

/// Why an image is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What came is not what was announced.
    #[error(
        "the {what} is {actual} and not {expected} as announced: it was damaged on the way, or is another"
    )]
    WrongDigest {
        /// What.
        what: &'static str,
        /// The digest that was announced.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// It is larger than is allowed.
    #[error("{what} of the image has more than {limit} {unit}")]
    TooLarge {
        /// What of it.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A layer holds something that it must not hold.
    #[error("the image's entry {path:?} {problem}")]
    Refused {
        /// Which entry.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The image is not as it must be.
    #[error("{0}")]
    Invalid(String),
    /// It uses something that is not built yet.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Nobody has loaded it here.
    #[error("the image {0} is not on this server: load it with `hearth image load`")]
    NotLoaded(Digest),
    /// The registry did not give it.
    #[error("{what}: {fix}")]
    Registry {
        /// What happened.
        what: String,
        /// What to do.
        fix: &'static str,
        /// What was said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + std::marker::Sync>>,
    },
    /// A layer is no archive, or it breaks off.
    #[error("a layer of the image is not a whole tar archive")]
    Archive(#[source] io::Error),
    /// It could not be received.
    #[error("the image could not be read")]
    Read(#[source] io::Error),
    /// What came could not be written.
    #[error("the image could not be stored")]
    Store(#[source] io::Error),
    /// The store's own file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The task that unpacked it did not end by itself.
    #[error("unpacking the image was cut off")]
    CutOff,
}

impl Error {
    /// Whether the image, or whoever named it, is at fault (and neither this machine nor a registry).
    #[must_use]
    pub fn is_clients(&self) -> bool {
        match self {
            Self::WrongDigest { .. }
            | Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::Invalid(_)
            | Self::Unsupported(_)
            | Self::NotLoaded(_)
            | Self::Archive(_) => true,
            Self::Registry { .. } | Self::Read(_) | Self::Store(_) | Self::File(_) | Self::CutOff => false,
        }
    }
}

impl From<bundles::Error> for Error {
    fn from(error: bundles::Error) -> Self {
        match error {
            bundles::Error::File(error) => Self::File(error),
            bundles::Error::Archive(error) => Self::Archive(error),
            other => Self::Archive(io::Error::other(other)),
        }
    }
}

/// The store of images. A cheap handle.
#[derive(Debug, Clone)]
pub struct Images {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    blobs: PathBuf,
    layers: Shelf,
    roots: Shelf,
    config: Config,
    /// Images that somebody is about to have: whoever asks for the same waits.
    busy: Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
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

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes of its layers, unpacked.
    pub bytes: u64,
    /// How many layers it has.
    pub layers: usize,
    /// What it runs.
    pub command: Vec<String>,
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
        if let Ok(digest) = reference.parse::<Digest>() {
            let stored = self.stored(&digest).ok_or_else(|| Error::NotLoaded(digest.clone()))?;
            return Ok(stored.settings.template(reference, digest));
        }
        let remote = Remote::open(reference, &self.inner.config.access).await?;
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
        let turn = self.turn(&image.digest);
        let _turn = turn.lock().await;
        if self.stored(&image.digest).is_none() {
            if image.reference.parse::<Digest>().is_ok() {
                return Err(Error::NotLoaded(image.digest.clone()));
            }
            let _pull = self.inner.pulls.acquire().await.map_err(|_| Error::CutOff)?;
            self.pull(image, &mut progress).await?;
        }
        self.root(image)
    }

    /// Whoever has it is the only one that makes this image.
    fn turn(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.inner.busy.lock().unwrap_or_else(PoisonError::into_inner);
        busy.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = busy.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(tokio::sync::Mutex::new(()));
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

    async fn pull(&self, image: &ImageTemplate, progress: &mut impl FnMut(String)) -> Result<(), Error> {
        let remote = Remote::open(&image.reference, &self.inner.config.access).await?.at(&image.digest);
        let fetched = self.in_time(&image.reference, async {
            progress(format!("looks for {}", image.reference));
            let documents = remote.documents().await?;
            let layers = config::layers(&config::manifest(&documents.manifest)?, &documents.config)?;
            self.fetch(&remote, &layers, progress).await?;
            Ok::<_, Error>((documents, layers))
        });
        let (documents, layers) = fetched.await?;
        progress("puts the layers together".to_owned());
        let (this, digest) = (self.clone(), image.digest.clone());
        blocking(move || this.put_together(&digest, &documents.config, &layers)).await
    }

    /// What is done with a registry, for so long as it may take.
    async fn in_time<T>(
        &self,
        reference: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let timeout = self.inner.config.timeout;
        tokio::time::timeout(timeout, work).await.map_err(|_| Error::Registry {
            what: format!("{reference} was not fetched within {}", humantime::format_duration(timeout)),
            fix: "try again: the layers that came are kept; images.timeout is how long it may take",
            source: None,
        })?
    }

    /// Has every layer unpacked that is not here.
    async fn fetch(
        &self,
        remote: &Remote,
        layers: &[config::Layer],
        progress: &mut impl FnMut(String),
    ) -> Result<(), Error> {
        let missing = self.missing(layers)?;
        let total: u64 = missing.iter().map(|layer| layer.size).sum();
        let came = AtomicU64::new(0);
        let (told, mut hears) = tokio::sync::mpsc::channel(1);
        let (came, told) = (&came, &told);
        let count = missing.len();
        let mut each: Vec<BoxFuture<'_, Result<(), Error>>> = Vec::with_capacity(count);
        for layer in missing {
            let more = |bytes| {
                came.fetch_add(bytes, Ordering::Relaxed);
                // Somebody hears of it already, and will of this too.
                let _full = told.try_send(()).is_err();
            };
            each.push(self.fetch_layer(remote, layer, more).boxed());
        }
        let fetching = stream::iter(each).buffer_unordered(LAYERS).try_collect::<Vec<()>>();
        let mut fetching = std::pin::pin!(fetching);
        loop {
            tokio::select! {
                done = &mut fetching => return done.map(drop),
                Some(()) = hears.recv() => {
                    let size = |bytes| ByteSize::from_bytes(bytes >> 20 << 20);
                    progress(format!(
                        "fetches {count} layers, {} of {}", size(came.load(Ordering::Relaxed)), size(total + (1 << 20) - 1)
                    ));
                }
            }
        }
    }

    /// The layers that are not here; those that are, are in use from now on.
    fn missing(&self, layers: &[config::Layer]) -> Result<Vec<config::Layer>, Error> {
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for layer in layers {
            if !seen.insert(&layer.digest) {
                continue;
            }
            if self.inner.layers.path(layer.digest.hex()).is_some() {
                self.inner.layers.touch(layer.digest.hex())?;
            } else {
                missing.push(layer.clone());
            }
        }
        Ok(missing)
    }

    async fn fetch_layer(
        &self,
        remote: &Remote,
        layer: config::Layer,
        came: impl FnMut(u64) + Send,
    ) -> Result<(), Error> {
        let packed = self.incoming();
        let file = tokio::fs::File::create(&packed.0).await.map_err(Error::Store)?;
        remote.blob(&layer.digest, layer.size, file, came).await?;
        let this = self.clone();
        blocking(move || {
            let file = fs::File::open(&packed.0).at("open", &packed.0)?;
            this.unpack(&layer, file)
        })
        .await
    }

    fn incoming(&self) -> Incoming {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        Incoming(self.inner.blobs.join(format!(".{number}")))
    }

    fn unpack(&self, layer: &config::Layer, packed: fs::File) -> Result<(), Error> {
        let limits = layer::Limits {
            // A layer that does not shrink is a little larger packed.
            packed_bytes: self.inner.config.unpacked_bytes.saturating_add(64 << 20),
            unpacked_bytes: self.inner.config.unpacked_bytes,
            entries: self.inner.config.entries,
        };
        let half = self.inner.layers.begin()?;
        let packed = BufReader::with_capacity(256 * 1024, packed);
        let record = layer::unpack(packed, &layer.digest, Some(&layer.plain), half.path(), &limits)?;
        write_json(&half.path().join("layer.json"), &record)?;
        half.finish(&self.inner.layers, layer.digest.hex(), Sync::All)?;
        Ok(())
    }

    /// Makes the root of an image whose layers are all here.
    fn put_together(&self, digest: &Digest, config: &[u8], layers: &[config::Layer]) -> Result<(), Error> {
        let settings = Settings::read(config)?;
        let half = self.inner.roots.begin()?;
        let root = half.path().join(ROOTFS);
        fs::create_dir(&root).at("create", &root)?;
        let mut bytes: u64 = 0;
        for layer in layers {
            let gone = || Error::Invalid(format!("the layer {} has gone meanwhile: try again", layer.digest));
            let path = self.inner.layers.path(layer.digest.hex()).ok_or_else(gone)?;
            let record: layer::Record = read_json(&path.join("layer.json"))?;
            bytes = bytes.saturating_add(record.bytes);
            if bytes > self.inner.config.unpacked_bytes {
                let limit = self.inner.config.unpacked_bytes;
                return Err(Error::TooLarge { what: "all layers together", limit, unit: "bytes unpacked" });
            }
            assemble::lay(&path, &record, &root)?;
        }
        let layers = layers.iter().map(|layer| layer.digest.clone()).collect();
        write_json(&half.path().join("image.json"), &Stored { settings, layers, bytes })?;
        half.finish(&self.inner.roots, digest.hex(), Sync::All)?;
        Ok(())
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

    /// Takes a blob in from a file, which is moved when it is on the same file system. Blocks.
    ///
    /// # Errors
    /// When it is another than was announced.
    pub fn put_blob(&self, digest: &Digest, from: &Path) -> Result<(), Error> {
        use super::unpack::Source;
        let mut source = Source::new(fs::File::open(from).at("open", from)?, u64::MAX);
        io::copy(&mut source, &mut io::sink()).map_err(Error::Read)?;
        let actual = source.digest();
        if actual != *digest {
            return Err(Error::WrongDigest { what: "blob", expected: digest.clone(), actual });
        }
        let path = self.inner.blobs.join(digest.hex());
        if fs::rename(from, &path).is_err() {
            let aside = self.incoming();
            fs::copy(from, &aside.0).at("copy to", &aside.0)?;
            fs::rename(&aside.0, &path).at("name", &path)?;
        }
        Ok(())
    }

    /// Makes an image of blobs that were put before: its manifest names them.
    ///
    /// # Errors
    /// As [`Error`] says; an image that names what is not here is [`Error::Invalid`].
    pub async fn put(&self, digest: &Digest, manifest: &[u8]) -> Result<(), Error> {
        let actual = Digest::of(manifest);
        if actual != *digest {
            return Err(Error::WrongDigest { what: "manifest", expected: digest.clone(), actual });
        }
        let turn = self.turn(digest);
        let _turn = turn.lock().await;
        if self.has(digest) {
            return Ok(());
        }
        let manifest = config::manifest(manifest)?;
        let (this, digest) = (self.clone(), digest.clone());
        blocking(move || this.put_blocking(&digest, &manifest)).await
    }

    fn put_blocking(&self, digest: &Digest, manifest: &oci_spec::image::ImageManifest) -> Result<(), Error> {
        let blob = |digest: &Digest| self.inner.blobs.join(digest.hex());
        let missing = |digest: &Digest| Error::Invalid(format!("the blob {digest} was not uploaded"));
        let named = manifest.config().digest().to_string();
        let named: Digest =
            named.parse().map_err(|_| Error::Invalid(format!("{named} is no sha256 digest")))?;
        let path = blob(&named);
        let size = fs::metadata(&path).map_err(|_| missing(&named))?.len();
        if size > registry::LARGEST_DOCUMENT {
            return Err(Error::Invalid("the image's configuration is too large".to_owned()));
        }
        let config = fs::read(&path).at("read", &path)?;
        let layers = config::layers(manifest, &config)?;
        for layer in self.missing(&layers)? {
            let file = fs::File::open(blob(&layer.digest)).map_err(|_| missing(&layer.digest))?;
            self.unpack(&layer, file)?;
        }
        self.put_together(digest, &config, &layers)?;
        for used in layers.iter().map(|layer| &layer.digest).chain([&named]) {
            let path = blob(used);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", &path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Every image that is here.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let digests = self.inner.roots.list()?;
        let digests = digests.iter().filter_map(|name| format!("sha256:{name}").parse::<Digest>().ok());
        let listed = digests.filter_map(|digest| {
            let stored: Stored = read_json(&self.inner.roots.path(digest.hex())?.join("image.json")).ok()?;
            Some(Listed {
                digest,
                bytes: stored.bytes,
                layers: stored.layers.len(),
                command: stored.settings.command,
            })
        });
        Ok(listed.collect())
    }

    /// Removes the images that are not in `live` and that nobody has asked for in the last `keep`, then the layers of no image, those first
    /// that nobody has asked for the longest, down to `most` bytes, and blobs that nobody made an image of. `live` must hold those of
    /// running instances too. How many directories and files went. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn collect(
        &self,
        live: &HashSet<Digest>,
        keep: Duration,
        most: u64,
        now: SystemTime,
    ) -> Result<usize, Error> {
        let live: HashSet<&str> = live.iter().map(Digest::hex).collect();
        let inner = &self.inner;
        let is_live = |name: &str| live.contains(name);
        let mut removed = inner.roots.collect(is_live, keep, now)?.len();
        // Their files are their layers': without them these have the room.
        removed += inner.roots.shrink(is_live, most, GRACE, now)?.len();
        let mut used: HashSet<String> = HashSet::new();
        for name in inner.roots.list()? {
            if let Some(path) = inner.roots.path(&name)
                && let Ok(stored) = read_json::<Stored>(&path.join("image.json"))
            {
                used.extend(stored.layers.iter().map(|layer| layer.hex().to_owned()));
            }
        }
        let is_used = |name: &str| used.contains(name);
        removed += inner.layers.collect(is_used, keep, now)?.len();
        removed += inner.layers.shrink(is_used, most, GRACE, now)?.len();
        for entry in fs::read_dir(&inner.blobs).at("list", &inner.blobs)?.flatten() {
            let put = entry.metadata().and_then(|metadata| metadata.modified());
            if put.is_ok_and(|put| now.duration_since(put).is_ok_and(|age| age >= keep)) {
                fs::remove_file(entry.path()).at("remove", &entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Bytes of all layers, unpacked. Looks at every file: blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn bytes(&self) -> Result<u64, Error> {
        Ok(self.inner.layers.entries()?.iter().map(|entry| entry.bytes).sum())
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

/// A file that goes away with this value.
struct Incoming(PathBuf);

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
fn read(root: &Rooted, path: &str) -> String {
    use io::Read as _;
    let mut text = Vec::new();
    let Ok(file) = root.file(Path::new(path)) else { return String::new() };
    // What cannot be read names nobody.
    let _unreadable = file.take(LARGEST_PASSWD).read_to_end(&mut text).is_err();
    String::from_utf8_lossy(&text).into_owned()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), FileError> {
    let bytes = serde_json::to_vec(value).map_err(io::Error::other).at("write", path)?;
    fs::write(path, bytes).at("write", path)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    let bytes = fs::read(path).at("read", path)?;
    serde_json::from_slice(&bytes).map_err(io::Error::other).at("read", path)
}

/// Runs what blocks on a thread that may. It runs to its end even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::CutOff)?
}

#[cfg(test)]
mod tests;
