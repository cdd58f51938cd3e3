//! A directory of directories that are each complete or not there.
//!
//! One is made under a name that begins with [`HALF`] and renamed when it is whole; it is taken away by renaming it back first. So
//! whatever the moment of a crash, what is left half-made or half-removed has such a name, and [`Shelf::open`] removes it. The data
//! directory's lock sees to it that only one process does this.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Begins the name of what is not whole.
const HALF: &str = ".half-";

/// A store of directories, each under the name of its content.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    root: PathBuf,
}

/// A directory in the making; removed on drop unless it is [`Half::finish`]ed.
#[derive(Debug)]
pub(crate) struct Half {
    path: PathBuf,
    finished: bool,
}

/// What a step of the file system's said, and where.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}", path.display())]
pub struct FileError {
    /// What was being done, as in `write`.
    pub step: &'static str,
    /// To what.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Says where an error of the file system came up.
pub(crate) trait At<T> {
    /// Adds what was being done to what.
    fn at(self, step: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { step, path: path.to_owned(), source: source.into() })
    }
}

impl Shelf {
    /// Opens it, makes it if it is not there, and removes what a crash left.
    pub(crate) fn open(root: PathBuf) -> Result<Self, FileError> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&root).at("create", &root)?;
        for name in names(&root)? {
            if name.starts_with(HALF) {
                let path = root.join(name);
                // A result that was being received is a file beside it.
                let directory = fs::symlink_metadata(&path).at("look at", &path)?.is_dir();
                let removed = if directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.at("remove", &path)?;
            }
        }
        Ok(Self { root })
    }

    /// The directory of this name, if it is whole.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.place(name)).filter(|path| path.is_dir())
    }

    /// Where it is, or will be.
    pub(crate) fn place(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Begins a directory. Whoever is not root cannot look into it before it is whole.
    pub(crate) fn begin(&self) -> Result<Half, FileError> {
        let path = self.root.join(format!("{HALF}{}", crate::build::random_hex::<8>()));
        fs::DirBuilder::new().mode(0o700).create(&path).at("create", &path)?;
        Ok(Half { path, finished: false })
    }

    /// Notes that somebody has use for the directory of this name: its age begins anew.
    pub(crate) fn touch(&self, name: &str) -> Result<(), FileError> {
        let path = self.root.join(name);
        let now = rustix::fs::Timestamps {
            last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
            last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW },
        };
        rustix::fs::utimensat(rustix::fs::CWD, &path, &now, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .at("touch", &path)
    }

    /// Takes the directory of this name away; no error if there is none.
    pub(crate) fn remove(&self, name: &str) -> Result<(), FileError> {
        let path = self.root.join(name);
        let gone = self.root.join(format!("{HALF}{}", crate::build::random_hex::<8>()));
        match fs::rename(&path, &gone) {
            Ok(()) => fs::remove_dir_all(&gone).at("remove", &gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).at("remove", &path),
        }
    }

    /// The names of all that are whole.
    pub(crate) fn list(&self) -> Result<BTreeSet<String>, FileError> {
        Ok(names(&self.root)?.into_iter().filter(|name| !name.starts_with('.')).collect())
    }

    /// Removes all that nobody needs (`live` says who does) and nobody has asked for in the last `keep`.
    pub(crate) fn collect(
        &self,
        live: impl Fn(&str) -> bool,
        keep: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, FileError> {
        let mut removed = Vec::new();
        for name in self.list()? {
            let path = self.root.join(&name);
            let Ok(asked) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
            if !live(&name) && now.duration_since(asked).is_ok_and(|age| age >= keep) {
                self.remove(&name)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }
}

/// A whole directory of a shelf: its name, the bytes of its files, and when somebody last asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) asked: SystemTime,
}

impl Shelf {
    /// All that is whole, with its size. Looks at every file: it takes a while.
    pub(crate) fn entries(&self) -> Result<Vec<Entry>, FileError> {
        let mut entries = Vec::new();
        for name in self.list()? {
            let path = self.root.join(&name);
            // Gone meanwhile.
            let Ok(asked) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
            entries.push(Entry { name, bytes: bytes(&path), asked });
        }
        Ok(entries)
    }

    /// Removes, those first that nobody has asked for the longest, until at most `most` bytes are left of what `live` does not need; nothing
    /// that was asked for in the last `grace`, for somebody may be about to use it.
    pub(crate) fn shrink(
        &self,
        live: impl Fn(&str) -> bool,
        most: u64,
        grace: Duration,
        now: SystemTime,
    ) -> Result<Vec<String>, FileError> {
        let mut unneeded: Vec<Entry> =
            self.entries()?.into_iter().filter(|entry| !live(&entry.name)).collect();
        unneeded.sort_by_key(|entry| entry.asked);
        let mut left: u64 = unneeded.iter().map(|entry| entry.bytes).sum();
        let mut removed = Vec::new();
        for entry in unneeded {
            if left <= most {
                break;
            }
            if now.duration_since(entry.asked).is_ok_and(|age| age >= grace) {
                self.remove(&entry.name)?;
                left -= entry.bytes;
                removed.push(entry.name);
            }
        }
        Ok(removed)
    }
}

/// Bytes of the files below a directory; a file with several names in it counts for each.
fn bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.fold(0, |total, entry| {
        let bytes = match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes(&entry.path()),
            Ok(metadata) if metadata.is_file() => metadata.len(),
            _ => 0,
        };
        total.saturating_add(bytes)
    })
}

impl Half {
    /// Where it is made.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it whole under `name`. If another was quicker, theirs stays: by its name it has the same content.
    pub(crate) fn finish(mut self, shelf: &Shelf, name: &str, sync: Sync) -> Result<PathBuf, FileError> {
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o755)).at("open", &self.path)?;
        let directory = fs::File::open(&self.path).at("open", &self.path)?;
        match sync {
            // One call for all of it, however many files: but it waits for whatever else the file system has to write.
            Sync::All => rustix::fs::syncfs(&directory).at("sync", &self.path)?,
            Sync::Done => directory.sync_all().at("sync", &self.path)?,
        }
        let path = shelf.root.join(name);
        match fs::rename(&self.path, &path) {
            Ok(()) => self.finished = true,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) => {}
            Err(error) => return Err(error).at("name", &path),
        }
        fs::File::open(&shelf.root).and_then(|root| root.sync_all()).at("sync", &shelf.root)?;
        Ok(path)
    }
}

/// What is still to be written to the disk before a directory may be called whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// The files in it.
    All,
    /// Only itself: every file and directory in it was synced one by one.
    Done,
}

impl Drop for Half {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a half-made directory stays until the next start");
        }
    }
}

fn names(directory: &Path) -> Result<Vec<String>, FileError> {
    let entries = fs::read_dir(directory).at("list", directory)?;
    entries.map(|entry| Ok(entry.at("list", directory)?.file_name().to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_is_gone_after_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path().join("shelf")).unwrap();
        let half = shelf.begin().unwrap();
        fs::write(half.path().join("file"), "content").unwrap();
        fs::write(half.path().with_extension("result"), "half a result").unwrap();
        let left = half.path().to_owned();
        std::mem::forget(half);
        assert!(left.exists());
        assert!(shelf.list().unwrap().is_empty());
        Shelf::open(dir.path().join("shelf")).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn the_first_of_two_with_one_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path().to_owned()).unwrap();
        for content in ["first", "second"] {
            let half = shelf.begin().unwrap();
            fs::write(half.path().join("file"), content).unwrap();
            let path = half.finish(&shelf, "name", Sync::Done).unwrap();
            assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "first");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_was_not_asked_for_the_longest_makes_room_first() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path().to_owned()).unwrap();
        let now = SystemTime::now();
        for (name, ago) in [("needed", 900), ("oldest", 800), ("older", 700), ("young", 1)] {
            let half = shelf.begin().unwrap();
            fs::write(half.path().join("file"), [0; 100]).unwrap();
            let path = half.finish(&shelf, name, Sync::Done).unwrap();
            fs::File::open(path).unwrap().set_modified(now - Duration::from_secs(ago)).unwrap();
        }
        let shrink =
            |most| shelf.shrink(|name| name == "needed", most, Duration::from_secs(60), now).unwrap();
        assert!(shrink(300).is_empty());
        assert_eq!(shrink(200), ["oldest"]);
        assert_eq!(shrink(0), ["older"], "and not what somebody may be about to use");
        assert_eq!(shelf.list().unwrap().len(), 2);
    }

    #[test]
    fn only_what_is_old_and_not_needed_is_collected() {
        let dir = tempfile::tempdir().unwrap();
        let shelf = Shelf::open(dir.path().to_owned()).unwrap();
        for name in ["live", "old", "young"] {
            shelf.begin().unwrap().finish(&shelf, name, Sync::Done).unwrap();
        }
        let later = SystemTime::now() + Duration::from_secs(100);
        fs::File::open(dir.path().join("young")).unwrap().set_modified(later).unwrap();
        let keep = Duration::from_secs(60);
        let removed = shelf.collect(|name| name == "live", keep, later).unwrap();
        assert_eq!(removed, ["old"]);
        assert_eq!(shelf.list().unwrap().len(), 2);
        shelf.touch("live").unwrap();
        shelf.remove("live").unwrap();
        shelf.remove("live").unwrap();
        assert_eq!(shelf.path("live"), None);
    }
}
