//! Unpacks a bundle that nobody vouches for. Nothing is written outside of the directory that was given (INV-14), whatever the archive
//! says, and nothing is believed before it is counted.
//!
//! Files and directories come first; links are made when no file is to be written any more, so that nothing is ever written through one.
//! Of a mode only the executable bit is kept: files are 0644 or 0755, directories 0755, all of them whoever runs this owns (root).

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::bufread::GzDecoder;
use hearth_function::Digest;
use hearth_protocol::bundle::{inside, link_stays_inside};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::bundles::{Error, Limits};
use super::headers::{self, Extension, LONGEST_EXTENSION};
use super::shelf::{At, Sync};

/// Headers for one entry: its own, a long name, a long link's target, and an extension.
const HEADERS_PER_ENTRY: u64 = 4;

/// Bytes of names that are held until all is unpacked, for each entry that there may be.
const NAME_BYTES_PER_ENTRY: u64 = 256;

/// Files up to which each is synced by itself: a small bundle should not wait for all that the file system has to write.
const SYNCED_ONE_BY_ONE: u64 = 64;

/// Unpacks `packed` into the directory `into` and makes sure that it had the digest that was announced. After an error the directory holds
/// anything; the caller removes it.
pub(super) fn verified(
    packed: impl Read,
    digest: &Digest,
    into: &Path,
    limits: &Limits,
) -> Result<Sync, Error> {
    let mut source = Source::new(packed, limits.packed_bytes);
    let outcome = plain(gunzip(&mut source), into, limits);
    if let Err(error @ Error::File(_)) = outcome {
        return Err(error);
    }
    // The digest is over all that came, what the archive's end left unread too. A damaged upload is called that, and not a broken archive.
    let copied = io::copy(&mut source, &mut io::sink());
    if source.is_over() {
        return Err(Error::TooLarge { limit: limits.packed_bytes, unit: "bytes packed" });
    }
    copied.map_err(Error::Read)?;
    let actual = source.digest();
    if actual != *digest {
        return Err(Error::WrongDigest { expected: digest.clone(), actual });
    }
    outcome
}

/// What comes in: hashed and counted as it is read.
pub(super) struct Source<R> {
    inner: R,
    hash: Sha256,
    left: u64,
    over: bool,
}

impl<R: Read> Source<R> {
    /// At most `limit` bytes of it.
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: Sha256::new(), left: limit, over: false }
    }

    /// Whether there was more than the limit.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// The digest of what was read.
    pub(super) fn digest(self) -> Digest {
        Digest::from_sha256(self.hash.finalize().into())
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                self.over = true;
                return Err(io::Error::from(io::ErrorKind::FileTooLarge));
            }
        }
        Ok(read)
    }
}

/// What an archive compressed by gzip is when it is not.
pub(super) fn gunzip(source: impl Read) -> impl Read {
    GzDecoder::new(BufReader::with_capacity(64 * 1024, source))
}

/// What an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Code that a user brings: times are nobody's, and set-uid bits are refused.
    Bundle,
    /// What an installation left: compiled Python is good for a source of one time, and tools have whatever bits they like until it is sealed.
    Result,
}

/// Unpacks a bundle that is not compressed into the directory `into`. After an error the directory holds anything; the caller removes it.
pub(super) fn plain(source: impl Read, into: &Path, limits: &Limits) -> Result<Sync, Error> {
    of(source, into, limits, Form::Bundle)
}

/// The same of an archive of this form.
pub(super) fn of(source: impl Read, into: &Path, limits: &Limits, form: Form) -> Result<Sync, Error> {
    let mut archive = tar::Archive::new(source);
    // Raw: the library would read an extension header of any size into memory.
    let entries = archive.entries().map_err(Error::Archive)?.raw(true);
    let mut tree = Tree::new(into, limits);
    let mut links = Vec::new();
    let mut extension = Extension::default();
    for entry in entries {
        let mut entry = entry.map_err(Error::Archive)?;
        tree.count_header()?;
        let header = entry.header().clone();
        let kind = header.entry_type();
        if extension.take(kind, &mut entry)? {
            continue;
        }
        let named = std::mem::take(&mut extension);
        let raw = named.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let refused = |problem| Error::Refused { path: String::from_utf8_lossy(&raw).into_owned(), problem };
        let path = inside(&raw).map_err(refused)?;
        let mode = header.mode().map_err(Error::Archive)?;
        let link = named.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        // In the oldest form of tar a directory is a file whose name ends with a slash.
        let slash = raw.last() == Some(&b'/');
        match kind {
            EntryType::Directory => tree.directory(&path).map_err(|error| error.of(refused))?,
            EntryType::Regular | EntryType::Continuous if slash => {
                tree.directory(&path).map_err(|error| error.of(refused))?;
            }
            EntryType::Regular | EntryType::Continuous => {
                if mode & 0o6000 != 0 && form == Form::Bundle {
                    return Err(refused("has a set-uid or set-gid bit"));
                }
                tree.count_bytes(header.size().map_err(Error::Archive)?)?;
                let size = size_of(&header)?;
                let file = tree.file(&path, mode & 0o111 != 0, &mut entry, size);
                let file = file.map_err(|error| error.of(refused))?;
                if form == Form::Result {
                    let modified = header.mtime().map_err(Error::Archive)?;
                    // A time that does not fit is none that anybody could have seen.
                    if let Some(modified) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(modified))
                    {
                        let times = FileTimes::new().set_modified(modified);
                        file.set_times(times).at("set the time of", &into.join(&path))?;
                    }
                }
            }
            EntryType::Symlink | EntryType::Link => {
                let target = link.filter(|target| !target.is_empty());
                let target = target.ok_or_else(|| refused("is a link to nowhere"))?;
                tree.count_names(raw.len() + target.len())?;
                links.push((raw, path, kind, target));
            }
            EntryType::Char | EntryType::Block => return Err(refused("is a device")),
            EntryType::Fifo => return Err(refused("is a named pipe")),
            _ => return Err(refused("is of a kind that cannot be unpacked")),
        }
    }
    for (raw, path, kind, target) in links {
        let refused = |problem| Error::Refused { path: String::from_utf8_lossy(&raw).into_owned(), problem };
        let made = if kind == EntryType::Symlink {
            tree.symlink(&path, Path::new(OsStr::from_bytes(&target)))
        } else {
            let target = inside(&target).map_err(|_| refused("is a link that leads out of the bundle"))?;
            tree.hard_link(&path, &target)
        };
        made.map_err(|error| error.of(refused))?;
    }
    tree.sync()
}

fn size_of(header: &Header) -> Result<u64, Error> {
    header.size().map_err(Error::Archive)
}

impl From<headers::Problem> for Error {
    fn from(problem: headers::Problem) -> Self {
        match problem {
            headers::Problem::Archive(error) => Self::Archive(error),
            headers::Problem::TooLong => {
                Self::TooLarge { limit: LONGEST_EXTENSION, unit: "bytes in an extension header" }
            }
            headers::Problem::Size(path) => Self::Refused {
                path: String::from_utf8_lossy(&path).into_owned(),
                problem: "has a size in an extension header",
            },
        }
    }
}

/// What went wrong with one entry.
pub(super) enum EntryError {
    Refused(&'static str),
    Other(Error),
}

impl EntryError {
    pub(super) fn of(self, refused: impl FnOnce(&'static str) -> Error) -> Error {
        match self {
            Self::Refused(problem) => refused(problem),
            Self::Other(error) => error,
        }
    }
}

impl<E: Into<Error>> From<E> for EntryError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// What is written, and how much of it.
pub(super) struct Tree<'a> {
    root: &'a Path,
    limits: &'a Limits,
    /// Headers in the archive: each costs time, even one that makes nothing.
    headers: u64,
    /// Files, directories and links: each costs an inode, whether the archive names it or not.
    entries: u64,
    /// Bytes of the names that are held: of links, and of directories that were made.
    names: u64,
    bytes: u64,
    files: u64,
    /// Directories that were made here: real ones, no links.
    directories: HashSet<PathBuf>,
}

impl<'a> Tree<'a> {
    /// Nothing yet, in a directory that is empty.
    pub(super) fn new(root: &'a Path, limits: &'a Limits) -> Self {
        Self {
            root,
            limits,
            headers: 0,
            entries: 0,
            names: 0,
            bytes: 0,
            files: 0,
            directories: HashSet::new(),
        }
    }

    fn count_header(&mut self) -> Result<(), Error> {
        self.headers += 1;
        if self.headers > self.limits.entries.saturating_mul(HEADERS_PER_ENTRY) {
            return Err(Error::TooLarge { limit: self.limits.entries, unit: "entries" });
        }
        Ok(())
    }

    fn count_entry(&mut self) -> Result<(), Error> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::TooLarge { limit: self.limits.entries, unit: "entries" });
        }
        Ok(())
    }

    fn count_names(&mut self, bytes: usize) -> Result<(), Error> {
        self.names = self.names.saturating_add(bytes as u64);
        let limit = self.limits.entries.saturating_mul(NAME_BYTES_PER_ENTRY);
        if self.names > limit {
            return Err(Error::TooLarge { limit, unit: "bytes of names of directories and links" });
        }
        Ok(())
    }

    pub(super) fn count_bytes(&mut self, size: u64) -> Result<(), Error> {
        self.bytes = self.bytes.saturating_add(size);
        if self.bytes > self.limits.unpacked_bytes {
            return Err(Error::TooLarge { limit: self.limits.unpacked_bytes, unit: "bytes unpacked" });
        }
        Ok(())
    }

    /// Makes the directory and those above it.
    pub(super) fn directory(&mut self, path: &Path) -> Result<(), EntryError> {
        let mut above = PathBuf::new();
        for component in path.components() {
            above.push(component);
            if self.directories.contains(&above) {
                continue;
            }
            let full = self.root.join(&above);
            match fs::create_dir(&full) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(EntryError::Refused("is or lies below something that is no directory"));
                }
                Err(error) => Err(error).at("create", &full)?,
            }
            fs::set_permissions(&full, Permissions::from_mode(0o755)).at("open", &full)?;
            self.count_names(above.as_os_str().len())?;
            self.directories.insert(above.clone());
            self.count_entry()?;
        }
        Ok(())
    }

    fn parents(&mut self, path: &Path) -> Result<PathBuf, EntryError> {
        if path.as_os_str().is_empty() {
            return Err(EntryError::Refused("is the bundle's own directory"));
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        Ok(self.root.join(path))
    }

    pub(super) fn file(
        &mut self,
        path: &Path,
        executable: bool,
        content: impl Read,
        size: u64,
    ) -> Result<File, EntryError> {
        let full = self.parents(path)?;
        self.count_entry()?;
        let mode = if executable { 0o755 } else { 0o644 };
        let created = File::options().write(true).create_new(true).mode(mode).open(&full);
        let mut file = match created {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(EntryError::Refused("is there twice"));
            }
            Err(error) => Err(error).at("create", &full)?,
        };
        copy(content, size, &mut file, &full)?;
        // The mode above went through the process's umask.
        file.set_permissions(Permissions::from_mode(mode)).at("open", &full)?;
        self.files += 1;
        if self.files <= SYNCED_ONE_BY_ONE {
            file.sync_all().at("sync", &full)?;
        }
        Ok(file)
    }

    pub(super) fn symlink(&mut self, path: &Path, target: &Path) -> Result<(), EntryError> {
        let full = self.parents(path)?;
        self.count_entry()?;
        if !link_stays_inside(path, target) {
            return Err(EntryError::Refused("is a link that leads out of the bundle"));
        }
        Self::linked(symlink(target, &full), &full)
    }

    fn hard_link(&mut self, path: &Path, target: &Path) -> Result<(), EntryError> {
        let full = self.parents(path)?;
        self.count_entry()?;
        let parent = target.parent().unwrap_or_else(|| Path::new(""));
        let real = parent.as_os_str().is_empty() || self.directories.contains(parent);
        let original = self.root.join(target);
        if !real || !fs::symlink_metadata(&original).is_ok_and(|metadata| metadata.is_file()) {
            return Err(EntryError::Refused("is a link to something that is no file of the bundle"));
        }
        Self::linked(fs::hard_link(&original, &full), &full)
    }

    fn linked(made: io::Result<()>, full: &Path) -> Result<(), EntryError> {
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(EntryError::Refused("is there twice"))
            }
            made => Ok(made.at("create", full)?),
        }
    }

    fn sync(&self) -> Result<Sync, Error> {
        if self.files > SYNCED_ONE_BY_ONE {
            return Ok(Sync::All);
        }
        for directory in &self.directories {
            let full = self.root.join(directory);
            File::open(&full).and_then(|directory| directory.sync_all()).at("sync", &full)?;
        }
        Ok(Sync::Done)
    }
}

/// Copies exactly `size` bytes and tells what is wrong with the archive from what is wrong with the disk.
pub(super) fn copy(mut content: impl Read, size: u64, file: &mut File, path: &Path) -> Result<(), Error> {
    use std::io::Write;
    let mut buffer = vec![0; 64 * 1024];
    let mut left = size;
    while left > 0 {
        let read = match content.read(&mut buffer) {
            Ok(0) => return Err(Error::Archive(io::ErrorKind::UnexpectedEof.into())),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Archive(error)),
        };
        file.write_all(&buffer[..read]).at("write", path)?;
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}
