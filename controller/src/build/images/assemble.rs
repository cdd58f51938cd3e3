//! Puts the layers of an image together to the root that its instances see. Files are hard links to those of the layers: however many images
//! share a layer, its bytes are on the disk once. Nothing is ever written to them again.
//!
//! Layers come from whoever made the image: every path of the root is resolved below the root, and links lead nowhere else (INV-14).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use super::layer::{Name, Record, TREE};
use crate::backend::rooted::{self, Links, Rooted};
use crate::build::shelf::{At as _, FileError};

/// Lays one layer over what is in `root` already.
pub(super) fn lay(layer: &Path, record: &Record, root: &Path) -> Result<(), FileError> {
    let rooted = Rooted::open(root).at("open", root)?;
    let over = Over { tree: layer.join(TREE), record, root: &rooted, path: root };
    over.take_away()?;
    over.add()
}

struct Over<'a> {
    tree: PathBuf,
    record: &'a Record,
    root: &'a Rooted,
    /// Of the root, for messages.
    path: &'a Path,
}

impl Over<'_> {
    fn take_away(&self) -> Result<(), FileError> {
        for Name(directory) in &self.record.emptied {
            match self.root.directory(directory, Links::InTree) {
                Ok(open) => rooted::empty(&open).at("empty", &self.path.join(directory))?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => Err(error).at("open", &self.path.join(directory))?,
            }
        }
        for Name(removed) in &self.record.removed {
            let (Some(above), Some(name)) = (removed.parent(), removed.file_name()) else { continue };
            match self.root.directory(above, Links::InTree) {
                Ok(open) => rooted::remove(&open, name).at("remove", &self.path.join(removed))?,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => Err(error).at("open", &self.path.join(above))?,
            }
        }
        Ok(())
    }

    fn add(&self) -> Result<(), FileError> {
        same_attributes(&self.tree, self.root).at("change", self.path)?;
        let mut waiting = vec![PathBuf::new()];
        while let Some(directory) = waiting.pop() {
            let full = self.path.join(&directory);
            let into = self.root.directory(&directory, Links::InTree).at("open", &full)?;
            let from = self.tree.join(&directory);
            for entry in fs::read_dir(&from).at("list", &from)? {
                let entry = entry.at("list", &from)?;
                let (name, path) = (entry.file_name(), directory.join(entry.file_name()));
                let full = self.path.join(&path);
                if entry.file_type().at("look at", &entry.path())?.is_dir() {
                    self.directory(&into, &name, &path).at("create", &full)?;
                    waiting.push(path);
                } else {
                    rooted::remove(&into, &name).at("replace", &full)?;
                    link(&entry.path(), &into, &name).at("link", &full)?;
                }
            }
        }
        Ok(())
    }

    fn directory(&self, into: &OwnedFd, name: &OsStr, path: &Path) -> io::Result<()> {
        let implied = self.record.implied.contains(&Name(path.to_owned()));
        let there = rooted::look(into, name)?;
        let stays = match &there {
            Some(there) if rooted::is_directory(there) => true,
            // What the layer puts below it goes to where the link leads, as for a process in the image.
            Some(there) if implied && rooted::is_link(there) => {
                self.root.directory(path, Links::InTree).is_ok()
            }
            _ => false,
        };
        if stays && implied {
            return Ok(());
        }
        if !stays {
            rooted::remove(into, name)?;
            rustix::fs::mkdirat(into, name, Mode::from_raw_mode(0o755))?;
        }
        same_attributes(&self.tree.join(path), &self.root.directory(path, Links::InTree)?)
    }
}

/// Gives a directory of the root the owner, mode and attributes that it has in the layer.
fn same_attributes(from: &Path, to: impl AsFd) -> io::Result<()> {
    let metadata = fs::symlink_metadata(from)?;
    rustix::fs::fchown(&to, Some(Uid::from_raw(metadata.uid())), Some(Gid::from_raw(metadata.gid())))?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(metadata.mode() & 0o7777))?;
    let mut list = [0_u8; 4096];
    // A directory with more attributes than that has none that matter.
    let Ok(length) = rustix::fs::llistxattr(from, &mut list) else { return Ok(()) };
    for name in list.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        if !name.starts_with(b"user.") {
            continue;
        }
        let mut value = vec![0_u8; 64 * 1024];
        let size = rustix::fs::lgetxattr(from, name, value.as_mut_slice())?;
        rustix::fs::fsetxattr(&to, name, value.get(..size).unwrap_or_default(), XattrFlags::empty())?;
    }
    Ok(())
}

/// A second name for a file of a layer; a copy where the file system gives it no more names.
fn link(from: &Path, into: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::linkat(CWD, from, into, name, AtFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::MLINK) => copy(from, into, name),
        Err(error) => Err(error.into()),
    }
}

fn copy(from: &Path, into: &OwnedFd, name: &OsStr) -> io::Result<()> {
    use rustix::fs::OFlags;
    let metadata = fs::symlink_metadata(from)?;
    if metadata.is_symlink() {
        let target = fs::read_link(from)?;
        rustix::fs::symlinkat(target.as_os_str().as_bytes(), into, name)?;
        return Ok(());
    }
    if !metadata.is_file() {
        return Err(io::Error::from(Errno::MLINK));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = fs::File::from(rustix::fs::openat(into, name, flags, Mode::from_raw_mode(0o600))?);
    io::copy(&mut fs::File::open(from)?, &mut file)?;
    file.set_modified(metadata.modified()?)?;
    same_attributes(from, &file)
}
