//! Sources that lie elsewhere: an archive on the web, a Git repository. What comes is checked, unpacked, packed again as every bundle is, and put
//! among the bundles; what it was is remembered, so that it is not fetched a second time.
//!
//! ```text
//! <data-dir>/sources/<key>      the bundle that an archive of this digest, or a commit, has become
//! <data-dir>/sources/.work/     what is being fetched
//! ```

mod archive;
mod git;
mod zip;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_function::Digest;
use hearth_function::spec::{Archive, Git};
use hearth_protocol::bundle::inside;
use tokio::sync::Semaphore;

use super::bundles::{self, Bundles};
use super::pack::{self, PackOptions};
use super::shelf::{At as _, FileError, Shelf};

/// Sources that are fetched at once; more wait.
const FETCHES: usize = 4;

/// How sources are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How large they may be, packed and unpacked.
    pub limits: bundles::Limits,
    /// How long fetching one may take. Default 10 minutes.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { limits: bundles::Limits::default(), timeout: Duration::from_secs(600) }
    }
}

/// Why a source is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be fetched.
    #[error("{what}: {fix}")]
    Fetch {
        /// What happened.
        what: String,
        /// What to do.
        fix: &'static str,
        /// What was said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// What came is not what was announced.
    #[error(
        "{url} is sha256 {actual} and not {expected} as source.archive.sha256 says: correct it, if the archive is the right one"
    )]
    WrongDigest {
        /// Where it came from.
        url: String,
        /// The digest that was announced, as hex.
        expected: String,
        /// The digest of what came, as hex.
        actual: String,
    },
    /// It is larger than is allowed.
    #[error("{what} is larger than the {limit} bytes that build.max_bundle allows")]
    TooLarge {
        /// What.
        what: String,
        /// How much is allowed.
        limit: u64,
    },
    /// It holds something that no source may hold, or it is no archive.
    #[error("{what} cannot be used")]
    Content {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: bundles::Error,
    },
    /// The directory that is named in it is not there.
    #[error("{what} has no directory {path:?}: correct source.{field}.path")]
    NoDirectory {
        /// What.
        what: String,
        /// The directory.
        path: String,
        /// Which field of the source it is.
        field: &'static str,
    },
    /// It cannot be packed.
    #[error("{what} cannot be packed")]
    Pack {
        /// What.
        what: String,
        /// Why.
        #[source]
        source: pack::Error,
    },
    /// The store of bundles failed.
    #[error("the bundle could not be stored")]
    Bundle(#[from] bundles::Error),
    /// The store's own file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// It was cut off.
    #[error("fetching the source was cut off")]
    CutOff,
}

/// Fetches sources. A cheap handle.
#[derive(Debug, Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    work: Shelf,
    bundles: Bundles,
    config: Config,
    turns: Semaphore,
}

impl Fetcher {
    /// Opens it in the data directory and removes what a crash left.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(data_dir: &Path, bundles: Bundles, config: Config) -> Result<Self, Error> {
        let directory = data_dir.join("sources");
        let work = Shelf::open(directory.join(".work"))?;
        git::sweep(data_dir);
        Ok(Self {
            inner: Arc::new(Inner { directory, work, bundles, config, turns: Semaphore::new(FETCHES) }),
        })
    }

    /// The bundle of an archive; downloads it if it is not known.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is left then.
    ///
    /// # Cancel safety
    /// Dropping the future ends the download.
    pub async fn archive(&self, archive: &Archive) -> Result<Digest, Error> {
        let sha256 = archive.sha256.to_ascii_lowercase();
        let key = key(&["archive", &sha256, archive.path.as_deref().unwrap_or_default()]);
        if let Some(bundle) = self.known(&key) {
            return Ok(bundle);
        }
        let _turn = self.inner.turns.acquire().await.map_err(|_| Error::CutOff)?;
        let half = self.inner.work.begin()?;
        let file = half.path().join("archive");
        let fetching = archive::download(&archive.url, &file, self.inner.config.limits.packed_bytes);
        let actual = tokio::time::timeout(self.inner.config.timeout, fetching).await;
        let actual = actual.map_err(|_| too_slow(&archive.url, self.inner.config.timeout))??;
        if actual.hex() != sha256 {
            let (url, actual) = (redacted(&archive.url), actual.hex().to_owned());
            return Err(Error::WrongDigest { url, expected: sha256, actual });
        }
        let (this, what, path) = (self.clone(), redacted(&archive.url), archive.path.clone());
        blocking(move || {
            let into = half.path().join("tree");
            fs::create_dir(&into).at("create", &into)?;
            archive::unpack(&file, &into, &this.inner.config.limits)
                .map_err(|source| Error::Content { what: what.clone(), source })?;
            this.finish(&key, &what, &into, path.as_deref(), "archive")
        })
        .await
    }

    /// The bundle of what a repository has at a branch, tag or commit now.
    ///
    /// # Errors
    /// As [`Error`] says; nothing is left then.
    ///
    /// # Cancel safety
    /// Dropping the future kills the program that fetches.
    pub async fn git(&self, git: &Git) -> Result<Digest, Error> {
        let path = git.path.as_deref().unwrap_or_default();
        // A whole commit is its own name.
        if let Some(commit) = git.reference.as_deref().filter(|text| git::is_commit(text))
            && let Some(bundle) = self.known(&key(&["git", commit, path]))
        {
            return Ok(bundle);
        }
        let _turn = self.inner.turns.acquire().await.map_err(|_| Error::CutOff)?;
        let half = self.inner.work.begin()?;
        let (what, limits) = (redacted(&git.url), self.inner.config.limits);
        let repository = git::Repository::new(&self.inner.directory)?;
        let fetching = repository.fetch(git, &limits);
        let commit = tokio::time::timeout(self.inner.config.timeout, fetching).await;
        let commit = commit.map_err(|_| too_slow(&git.url, self.inner.config.timeout))??;
        let key = key(&["git", &commit, path]);
        if let Some(bundle) = self.known(&key) {
            return Ok(bundle);
        }
        let (this, path) = (self.clone(), git.path.clone());
        blocking(move || {
            let into = half.path().join("tree");
            fs::create_dir(&into).at("create", &into)?;
            repository.unpack(&commit, &into, &what, &limits)?;
            this.finish(&key, &what, &into, path.as_deref(), "git")
        })
        .await
    }

    fn finish(
        &self,
        key: &str,
        what: &str,
        tree: &Path,
        path: Option<&str>,
        field: &'static str,
    ) -> Result<Digest, Error> {
        let code = match path {
            None => tree.to_owned(),
            Some(path) => below(tree, path).ok_or_else(|| Error::NoDirectory {
                what: what.to_owned(),
                path: path.to_owned(),
                field,
            })?,
        };
        let options = PackOptions { limits: self.inner.config.limits, ..PackOptions::default() };
        let packed =
            pack::pack(&code, &options).map_err(|source| Error::Pack { what: what.to_owned(), source })?;
        self.inner.bundles.put_blocking(&packed.digest, packed.bytes.as_slice())?;
        let path = self.inner.directory.join(key);
        let aside = tree.with_extension("key");
        fs::write(&aside, packed.digest.as_str()).at("write", &aside)?;
        fs::rename(&aside, &path).at("name", &path)?;
        Ok(packed.digest)
    }

    /// The bundle that was made of it, if it is still here.
    fn known(&self, key: &str) -> Option<Digest> {
        let text = fs::read_to_string(self.inner.directory.join(key)).ok()?;
        let digest: Digest = text.trim().parse().ok()?;
        self.inner.bundles.has(&digest).then_some(digest)
    }

    /// Forgets what was fetched and whose bundle is gone. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn forget(&self) -> Result<(), Error> {
        let directory = &self.inner.directory;
        for entry in fs::read_dir(directory).at("list", directory)?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let gone = text.parse::<Digest>().is_ok_and(|bundle| self.inner.bundles.path(&bundle).is_none());
            if !name.starts_with('.') && gone {
                fs::remove_file(entry.path()).at("remove", &entry.path())?;
            }
        }
        Ok(())
    }
}

/// A directory below a tree, reached through no link.
fn below(tree: &Path, path: &str) -> Option<PathBuf> {
    let full = tree.join(inside(path.as_bytes()).ok()?);
    let real = full.canonicalize().ok()?;
    (real.is_dir() && real.starts_with(tree.canonicalize().ok()?)).then_some(real)
}

fn key(parts: &[&str]) -> String {
    Digest::of(parts.join("\n").as_bytes()).hex().to_owned()
}

fn too_slow(url: &str, timeout: Duration) -> Error {
    Error::Fetch {
        what: format!("{} was not fetched within {}", redacted(url), humantime::format_duration(timeout)),
        fix: "try again; build.timeout is how long it may take",
        source: None,
    }
}

/// An address without a user and a password in it.
fn redacted(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// Runs what blocks on a thread that may. It runs to its end even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::CutOff)?
}

/// What a failed step of this machine's was.
fn failed(what: String, fix: &'static str, source: io::Error) -> Error {
    Error::Fetch { what, fix, source: Some(Box::new(source)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_an_address_are_not_told() {
        assert_eq!(redacted("https://ada:secret@example.com/x.git"), "https://example.com/x.git");
        assert_eq!(redacted("https://example.com/@x"), "https://example.com/@x");
    }

    #[test]
    fn a_directory_of_a_source_is_in_it() {
        let tree = tempfile::tempdir().unwrap();
        fs::create_dir_all(tree.path().join("a/b")).unwrap();
        fs::write(tree.path().join("file"), "").unwrap();
        assert!(below(tree.path(), "a/b").is_some() && below(tree.path(), "./a").is_some());
        for none in ["..", "a/../..", "/etc", "file", "missing"] {
            assert_eq!(below(tree.path(), none), None, "{none}");
        }
    }
}
