//! Unpacks a tar while it comes in, and checks that it is the one that was promised.
//!
//! The digest comes from the controller and the tar from whoever answers at its address. Nothing is written outside of the directory that
//! was given, whatever the tar says (INV-14): an entry's parents are directories that were made here, and links are made when no file is to
//! be written any more. Of a mode only the executable bit is kept; the function may read everything and write nothing, but for a job's own
//! directory. In a Pod it has the shim's user and could give itself the right to: what it would change is its own copy.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hearth_protocol::bundle;
use hearth_protocol::report::Mount;
use sha2::{Digest, Sha256};
use tar::EntryType;

/// Bytes per read: a tar is read by blocks of 512.
const BUFFER: usize = 64 * 1024;

/// What may be done with it afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadOnly,
    ReadWrite,
}

/// Why a directory does not have what it should.
#[derive(Debug)]
pub(super) enum Error {
    /// The connection broke, or ended early. Another one may do better.
    Cut(io::Error),
    /// What came is something else.
    WrongDigest { expected: String, actual: String },
    /// It is no tar.
    Archive(io::Error),
    /// An entry that is not unpacked.
    Refused { path: PathBuf, problem: &'static str },
    /// The disk.
    File { path: PathBuf, error: io::Error },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cut(error) => write!(f, "the tar was cut off: {error}"),
            Self::WrongDigest { expected, actual } => {
                write!(f, "the digest is {actual} and should be {expected}")
            }
            Self::Archive(error) => write!(f, "this is no tar: {error}"),
            Self::Refused { path, problem } => write!(f, "{} in the tar {problem}", path.display()),
            Self::File { path, error } => write!(f, "cannot write {}: {error}", path.display()),
        }
    }
}

/// Unpacks what comes from `tar` into the mount's directory, which is empty. After an error it holds anything.
pub(super) fn verified(tar: impl Read, mount: &Mount, access: Access) -> Result<(), Error> {
    let root = Path::new(&mount.at);
    let source = Source { inner: tar, left: mount.bytes, hash: Sha256::new(), broken: None };
    let mut archive = tar::Archive::new(BufReader::with_capacity(BUFFER, source));
    let mut tree = Tree { root, directories: HashSet::new(), access };
    let unpacked = tree.unpack(&mut archive);
    let mut rest = archive.into_inner();
    // The digest is over all that comes, what stands behind the archive's end too. A tar that is not the right one is called that, and not
    // a bad one; but a disk that is full is no reason to read on.
    let disk = matches!(unpacked, Err(Error::File { .. }));
    let read = if disk { Ok(0) } else { io::copy(&mut rest, &mut io::sink()) };
    let source = rest.into_inner();
    if let Some(error) = source.broken {
        return Err(Error::Cut(error));
    }
    read.map_err(Error::Cut)?;
    if !disk {
        let actual = name(&source.hash.finalize());
        if actual != mount.digest {
            return Err(Error::WrongDigest { expected: mount.digest.clone(), actual });
        }
    }
    unpacked?;
    tree.seal()
}

/// Removes whatever is in the directory.
pub(super) fn clear(directory: &Path) -> Result<(), Error> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |error| Error::File { path, error }
    };
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let real = fs::symlink_metadata(&path).map_err(at(&path))?.is_dir();
        if real { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.map_err(at(&path))?;
    }
    Ok(())
}

/// As digests are written.
pub(super) fn name(digest: &[u8]) -> String {
    use std::fmt::Write as _;
    digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
        // A String takes everything.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// As many bytes as were promised, and what they are.
struct Source<R> {
    inner: R,
    left: u64,
    hash: Sha256,
    broken: Option<io::Error>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let error = match self.inner.read(&mut buffer[..most]) {
            Ok(0) => io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} bytes are missing", self.left)),
            Ok(read) => {
                self.left -= read as u64;
                self.hash.update(&buffer[..read]);
                return Ok(read);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => error,
        };
        let kind = error.kind();
        self.broken = Some(error);
        Err(kind.into())
    }
}

/// What is unpacked.
struct Tree<'a> {
    root: &'a Path,
    /// Directories that were made here: real ones, no links.
    directories: HashSet<PathBuf>,
    access: Access,
}

/// A link that is made when everything else is there.
struct Link {
    path: PathBuf,
    target: PathBuf,
    kind: EntryType,
}

impl Tree<'_> {
    fn unpack(&mut self, archive: &mut tar::Archive<impl Read>) -> Result<(), Error> {
        let mut links = Vec::new();
        for entry in archive.entries().map_err(Error::Archive)? {
            let mut entry = entry.map_err(Error::Archive)?;
            let path = path_of(&entry.path_bytes())?;
            let kind = entry.header().entry_type();
            let refused = |problem| Error::Refused { path: path.clone(), problem };
            match kind {
                EntryType::Directory => self.directory(&path)?,
                EntryType::Regular | EntryType::Continuous => self.file(&path, &mut entry)?,
                EntryType::Symlink | EntryType::Link => {
                    let target = entry.link_name_bytes().filter(|target| !target.is_empty());
                    let target = target.ok_or_else(|| refused("is a link to nowhere"))?;
                    links.push(Link { target: OsStr::from_bytes(&target).into(), path, kind });
                }
                // It says something of all that follow, and nothing that is kept.
                EntryType::XGlobalHeader => {}
                EntryType::Char | EntryType::Block => return Err(refused("is a device")),
                EntryType::Fifo => return Err(refused("is a named pipe")),
                _ => return Err(refused("is of a kind that is not unpacked")),
            }
        }
        links.into_iter().try_for_each(|link| self.link(link))
    }

    /// Makes the directory and those above it.
    fn directory(&mut self, path: &Path) -> Result<(), Error> {
        let mut above = PathBuf::new();
        for component in path.components() {
            above.push(component);
            if self.directories.contains(&above) {
                continue;
            }
            let full = self.root.join(&above);
            made(fs::create_dir(&full), &above, &full)?;
            // Past the process's umask.
            set_mode(&full, 0o755)?;
            self.directories.insert(above.clone());
        }
        Ok(())
    }

    /// Where the entry is, its parents made.
    fn place(&mut self, path: &Path) -> Result<PathBuf, Error> {
        if path.as_os_str().is_empty() {
            return Err(Error::Refused { path: ".".into(), problem: "is no directory" });
        }
        if let Some(parent) = path.parent() {
            self.directory(parent)?;
        }
        Ok(self.root.join(path))
    }

    fn file(&mut self, path: &Path, entry: &mut tar::Entry<'_, impl Read>) -> Result<(), Error> {
        let full = self.place(path)?;
        let at = |error| Error::File { path: full.clone(), error };
        let header = entry.header();
        let executable = header.mode().map_err(Error::Archive)? & 0o111 != 0;
        let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(header.mtime().map_err(Error::Archive)?);
        let created = File::options().write(true).create_new(true).mode(0o600).open(&full);
        let mut file = made(created, path, &full)?;
        copy(entry, &mut file, &full)?;
        // Compiled Python is good for a source of one time.
        file.set_times(FileTimes::new().set_modified(modified)).map_err(at)?;
        let mode = if executable { 0o755 } else { 0o644 };
        file.set_permissions(Permissions::from_mode(self.allowed(mode))).map_err(at)
    }

    fn link(&mut self, link: Link) -> Result<(), Error> {
        let Link { path, target, kind } = link;
        let refused = |problem| Error::Refused { path: path.clone(), problem };
        let full = self.place(&path)?;
        if kind == EntryType::Symlink {
            if !bundle::link_stays_inside(&path, &target) {
                return Err(refused("is a link that leads out of it"));
            }
            return made(symlink(&target, &full), &path, &full);
        }
        let target = path_of(target.as_os_str().as_bytes())?;
        let parent = target.parent().unwrap_or_else(|| Path::new(""));
        let real = parent.as_os_str().is_empty() || self.directories.contains(parent);
        let original = self.root.join(&target);
        if !real || !fs::symlink_metadata(&original).is_ok_and(|metadata| metadata.is_file()) {
            return Err(refused("is a link to something that is no file of it"));
        }
        made(fs::hard_link(&original, &full), &path, &full)
    }

    /// Takes the right to write from the directories; the files have none already.
    fn seal(self) -> Result<(), Error> {
        if self.access == Access::ReadWrite {
            return Ok(());
        }
        for directory in &self.directories {
            set_mode(&self.root.join(directory), 0o555)?;
        }
        match set_mode(self.root, 0o555) {
            // The kubelet's: it is everybody's to write.
            Err(Error::File { error, .. }) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            set => set,
        }
    }

    fn allowed(&self, mode: u32) -> u32 {
        match self.access {
            Access::ReadOnly => mode & !0o222,
            Access::ReadWrite => mode,
        }
    }
}

/// The content; a source that breaks is told from a disk that does.
fn copy(entry: &mut impl Read, file: &mut File, path: &Path) -> Result<(), Error> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match entry.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::Archive(error)),
        };
        io::Write::write_all(file, &buffer[..read])
            .map_err(|error| Error::File { path: path.to_owned(), error })?;
    }
}

fn made<T>(result: io::Result<T>, path: &Path, full: &Path) -> Result<T, Error> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Error::Refused { path: path.to_owned(), problem: "is there already, or below something that is" }
        }
        _ => Error::File { path: full.to_owned(), error },
    })
}

fn set_mode(path: &Path, mode: u32) -> Result<(), Error> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|error| Error::File { path: path.to_owned(), error })
}

/// The path of an entry, below the directory; one that leads out is refused.
fn path_of(raw: &[u8]) -> Result<PathBuf, Error> {
    bundle::inside(raw).map_err(|problem| Error::Refused { path: OsStr::from_bytes(raw).into(), problem })
}

#[cfg(test)]
#[path = "unpack_tests.rs"]
mod tests;
