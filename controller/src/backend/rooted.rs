//! A tree that somebody else has filled, worked in without ever leaving it: whatever its links say, every path is resolved by the kernel below
//! its root (`openat2`), and nothing of this machine is followed, written or removed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// How links on the way are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// They lead to something in the tree, as for a process whose root it is.
    InTree,
    /// There must be none.
    Refused,
}

/// A directory that is the root of all that is done by it.
#[derive(Debug)]
pub(crate) struct Rooted {
    root: OwnedFd,
}

impl Rooted {
    /// Opens the directory at this path of the machine, which must be its owner's own.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { root: File::open(path)?.into() })
    }

    /// Opens a directory of the tree; an empty path is the root.
    pub(crate) fn directory(&self, path: &Path, links: Links) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY, links)
    }

    /// Opens a file of the tree for reading; a named pipe is not waited for.
    pub(crate) fn file(&self, path: &Path) -> Result<File, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Links::InTree).map(File::from)
    }

    fn open_at(&self, path: &Path, flags: OFlags, links: Links) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = match links {
            Links::InTree => ResolveFlags::IN_ROOT,
            Links::Refused => ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        };
        let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Somebody renamed something meanwhile, and the kernel cannot vouch for the path.
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// Opens a directory of the tree and makes it and those above it (0755) where they are not; `made` hears of each that was made. What is
    /// there and no directory, nor a link to one in the tree where links are taken, is an error.
    pub(crate) fn make(&self, path: &Path, links: Links, mut made: impl FnMut(&Path)) -> io::Result<OwnedFd> {
        match self.directory(path, links) {
            Err(Errno::NOENT) => {}
            opened => return Ok(opened?),
        }
        let mut so_far = std::path::PathBuf::new();
        let mut at = self.directory(Path::new(""), links)?;
        for component in path.components() {
            let Component::Normal(name) = component else { continue };
            so_far.push(name);
            at = match self.directory(&so_far, links) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755))?;
                    let directory = self.directory(&so_far, links)?;
                    // The mode went through the process's umask.
                    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o755))?;
                    made(&so_far);
                    directory
                }
                opened => opened?,
            };
        }
        Ok(at)
    }
}

impl AsFd for Rooted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// What is at this name of a directory, links not followed; `None`: nothing.
pub(crate) fn look(directory: impl AsFd, name: &OsStr) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it is a directory.
pub(crate) fn is_directory(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Directory
}

/// Whether it is a symbolic link.
pub(crate) fn is_link(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::Symlink
}

/// Takes away whatever is at this name of a directory, with all that is below it; no error when there is nothing.
pub(crate) fn remove(directory: impl AsFd, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error),
    }
    let below = rustix::fs::openat(
        &directory,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    empty(&below)?;
    rustix::fs::unlinkat(&directory, name, AtFlags::REMOVEDIR)
}

/// Takes away all that is in a directory.
pub(crate) fn empty(directory: impl AsFd) -> Result<(), Errno> {
    names(&directory)?.iter().try_for_each(|name| remove(&directory, name))
}

/// The names in a directory.
pub(crate) fn names(directory: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_link_leads_out_of_the_tree() {
        let outside = tempfile::tempdir().unwrap();
        let tree = outside.path().join("tree");
        std::fs::create_dir_all(tree.join("real/below")).unwrap();
        std::fs::create_dir(outside.path().join("secret")).unwrap();
        symlink("/real", tree.join("absolute")).unwrap();
        symlink("../secret", tree.join("up")).unwrap();
        symlink(outside.path().join("secret"), tree.join("away")).unwrap();
        let rooted = Rooted::open(&tree).unwrap();
        assert!(rooted.directory(Path::new("absolute/below"), Links::InTree).is_ok());
        assert!(rooted.directory(Path::new("absolute/below"), Links::Refused).is_err());
        for out in ["up", "away"] {
            assert_eq!(rooted.directory(Path::new(out), Links::InTree).unwrap_err(), Errno::NOENT, "{out}");
        }
        let mut made = Vec::new();
        rooted.make(Path::new("absolute/new/one"), Links::InTree, |path| made.push(path.to_owned())).unwrap();
        assert!(tree.join("real/new/one").is_dir());
        assert_eq!(made.len(), 2);
        remove(&rooted, OsStr::new("real")).unwrap();
        remove(&rooted, OsStr::new("up")).unwrap();
        remove(&rooted, OsStr::new("up")).unwrap();
        assert!(outside.path().join("secret").is_dir() && !tree.join("real").exists());
    }
}
