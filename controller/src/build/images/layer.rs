//! Unpacks one layer of an image, which nobody vouches for, into a tree of its own: `tree/` with the files, and what the layer takes away of
//! those below it as a list. Nothing is written outside of the tree, whatever names and links say: the kernel resolves every path below it
//! and through no link (INV-14).
//!
//! Unlike in a bundle, owners, modes, times, extended attributes and links of every kind are kept: an image is a file system.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use hearth_function::Digest;
use hearth_protocol::bundle::inside;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use super::{Error, zstd};
use crate::backend::rooted::{self, Links, Rooted};
use crate::build::headers::{Extension, Problem};
use crate::build::shelf::At as _;
use crate::build::unpack::{Source, copy};

/// Where the files are in a layer's directory.
pub(super) const TREE: &str = "tree";

/// Begins the name of an entry that takes something away.
const WHITEOUT: &[u8] = b".wh.";

/// The entry that takes away all that lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Attributes that are kept: those of programs and people, and a file's capabilities. Others belong to the machine that made the image.
const ATTRIBUTES: [&[u8]; 2] = [b"user.", b"security.capability"];

/// How large a layer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes, packed.
    pub(super) packed_bytes: u64,
    /// Bytes, unpacked.
    pub(super) unpacked_bytes: u64,
    /// Files, directories and links.
    pub(super) entries: u64,
}

/// What a layer does beside adding files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// Paths that are taken away of the layers below.
    pub(super) removed: BTreeSet<Name>,
    /// Directories of which all that the layers below have in them is taken away.
    pub(super) emptied: BTreeSet<Name>,
    /// Directories that the layer does not name: where the layers below have a link to a directory, it stays.
    pub(super) implied: BTreeSet<Name>,
    /// Bytes of its files.
    pub(super) bytes: u64,
}

/// A path in a layer. Names of files are bytes and need not be text: in JSON each byte is a character.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(super) struct Name(pub(super) PathBuf);

impl From<String> for Name {
    fn from(text: String) -> Self {
        let bytes = text.chars().filter_map(|letter| u8::try_from(letter).ok()).collect();
        Self(PathBuf::from(OsString::from_vec(bytes)))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.as_os_str().as_bytes().iter().copied().map(char::from).collect()
    }
}

/// Unpacks a layer below `into` and makes sure that it is the one of this digest, and of this digest when it is not compressed where that
/// is known. After an error the directory holds anything; the caller removes it.
pub(super) fn unpack(
    packed: impl Read,
    digest: &Digest,
    plain: Option<&Digest>,
    into: &Path,
    limits: &Limits,
) -> Result<Record, Error> {
    let mut source = Source::new(packed, limits.packed_bytes);
    let outcome = plain_tar(&mut source, into, plain, limits);
    if let Err(error @ Error::File(_)) = outcome {
        return Err(error);
    }
    // The digest is over all that came; a damaged layer is called that, and not a broken archive.
    let copied = io::copy(&mut source, &mut io::sink());
    if source.is_over() {
        return Err(Error::TooLarge { what: "a layer", limit: limits.packed_bytes, unit: "bytes packed" });
    }
    copied.map_err(Error::Read)?;
    let actual = source.digest();
    if actual != *digest {
        return Err(Error::WrongDigest { what: "layer", expected: digest.clone(), actual });
    }
    outcome
}

fn plain_tar(
    source: impl Read,
    into: &Path,
    plain: Option<&Digest>,
    limits: &Limits,
) -> Result<Record, Error> {
    let mut source = BufReader::with_capacity(64 * 1024, source);
    let magic = source.fill_buf().map_err(Error::Archive)?;
    let decoded: Box<dyn Read + '_> = match magic {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(source)),
        magic if magic.starts_with(&zstd::MAGIC) || zstd::is_skippable(magic) => {
            Box::new(zstd::Decoder::new(source))
        }
        _ => Box::new(source),
    };
    // Headers and padding come on top of the files' bytes.
    let most = limits.unpacked_bytes.saturating_add(limits.entries.saturating_mul(2048));
    let mut decoded = Source::new(decoded, most);
    let outcome = entries(&mut decoded, into, limits);
    if decoded.is_over() {
        return Err(too_large(limits.unpacked_bytes, "bytes unpacked"));
    }
    let record = outcome?;
    io::copy(&mut decoded, &mut io::sink()).map_err(Error::Archive)?;
    let actual = decoded.digest();
    match plain {
        Some(expected) if *expected != actual => {
            Err(Error::WrongDigest { what: "unpacked layer", expected: expected.clone(), actual })
        }
        _ => Ok(record),
    }
}

fn too_large(limit: u64, unit: &'static str) -> Error {
    Error::TooLarge { what: "a layer", limit, unit }
}

fn entries(source: impl Read, into: &Path, limits: &Limits) -> Result<Record, Error> {
    let path = into.join(TREE);
    fs::create_dir(&path).at("create", &path)?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(64 * 1024, source));
    // Raw: the library would read an extension header of any size into memory.
    let entries = archive.entries().map_err(Error::Archive)?.raw(true);
    let root = Rooted::open(&path).at("open", &path)?;
    let mut tree = Tree { root, path, limits, entries: 0, record: Record::default(), parent: None };
    let mut extension = Extension::default();
    for entry in entries {
        let mut entry = entry.map_err(Error::Archive)?;
        tree.count()?;
        let header = entry.header().clone();
        if extension.take(header.entry_type(), &mut entry)? {
            continue;
        }
        let named = std::mem::take(&mut extension);
        let raw = named.path.clone().unwrap_or_else(|| header.path_bytes().into_owned());
        tree.entry(&raw, &header, named, &mut entry).map_err(|error| match error {
            Wrong::Refused(problem) => {
                Error::Refused { path: String::from_utf8_lossy(&raw).into_owned(), problem }
            }
            Wrong::Other(error) => error,
            Wrong::System(step, error) => {
                let path = tree.path.join(OsStr::from_bytes(trimmed(&raw)));
                let failed: Result<(), _> = Err(io::Error::from(error));
                failed.at(step, &path).map_or_else(Error::File, |()| Error::CutOff)
            }
        })?;
    }
    Ok(tree.record)
}

/// An absolute path of a layer is meant from the image's root.
fn trimmed(raw: &[u8]) -> &[u8] {
    let start = raw.iter().position(|byte| *byte != b'/').unwrap_or(raw.len());
    raw.get(start..).unwrap_or_default()
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::Archive(error) => Self::Archive(error),
            Problem::TooLong => {
                too_large(crate::build::headers::LONGEST_EXTENSION, "bytes in an extension header")
            }
            Problem::Size(path) => Self::Refused {
                path: String::from_utf8_lossy(&path).into_owned(),
                problem: "has a size in an extension header",
            },
        }
    }
}

/// What went wrong with one entry.
enum Wrong {
    Refused(&'static str),
    System(&'static str, Errno),
    Other(Error),
}

impl<E: Into<Error>> From<E> for Wrong {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// What a step of the file system's was.
fn step(step: &'static str) -> impl Fn(Errno) -> Wrong {
    move |error| match error {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => {
            Wrong::Refused("lies below something that is no directory")
        }
        error => Wrong::System(step, error),
    }
}

struct Tree<'a> {
    root: Rooted,
    path: PathBuf,
    limits: &'a Limits,
    entries: u64,
    record: Record,
    /// The directory of the last entry: entries of one directory follow one another.
    parent: Option<(PathBuf, OwnedFd)>,
}

/// What an entry's header says beside its content.
struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    seconds: i64,
    extended: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    fn of(header: &Header, extension: Extension) -> Result<Self, Wrong> {
        let id = |id: u64| u32::try_from(id).map_err(|_| Wrong::Refused("belongs to a user that cannot be"));
        // Some programs leave them blank, which means nothing in particular.
        let uid = extension.uid.or_else(|| header.uid().ok()).unwrap_or_default();
        let gid = extension.gid.or_else(|| header.gid().ok()).unwrap_or_default();
        let seconds = header.mtime().unwrap_or_default();
        Ok(Self {
            uid: id(uid)?,
            gid: id(gid)?,
            mode: header.mode().map_err(Error::Archive)? & 0o7777,
            seconds: i64::try_from(seconds).unwrap_or_default(),
            extended: extension.attributes,
        })
    }

    /// Gives them to what is open; its owner first, for that takes set-uid bits and capabilities away.
    fn give(&self, to: impl std::os::fd::AsFd) -> Result<(), Wrong> {
        rustix::fs::fchown(&to, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))
            .map_err(step("change the owner of"))?;
        rustix::fs::fchmod(&to, Mode::from_raw_mode(self.mode)).map_err(step("change the mode of"))?;
        for (name, value) in &self.extended {
            if ATTRIBUTES.iter().any(|kept| name.starts_with(kept)) {
                match rustix::fs::fsetxattr(&to, name.as_slice(), value, XattrFlags::empty()) {
                    // A file system without them: then no program of this machine can have been told to count on them.
                    Ok(()) | Err(Errno::NOTSUP) => {}
                    Err(error) => return Err(Wrong::System("set an attribute of", error)),
                }
            }
        }
        Ok(())
    }

    fn times(&self) -> Timestamps {
        let time = Timespec { tv_sec: self.seconds, tv_nsec: 0 };
        Timestamps { last_access: time, last_modification: time }
    }
}

impl Tree<'_> {
    fn count(&mut self) -> Result<(), Error> {
        self.entries += 1;
        // Up to four headers make one entry.
        if self.entries > self.limits.entries.saturating_mul(4) {
            return Err(too_large(self.limits.entries, "entries"));
        }
        Ok(())
    }

    fn entry(
        &mut self,
        raw: &[u8],
        header: &Header,
        extension: Extension,
        content: &mut impl Read,
    ) -> Result<(), Wrong> {
        let path = inside(trimmed(raw)).map_err(Wrong::Refused)?;
        let link =
            extension.link.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let attributes = Attributes::of(header, extension)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The root itself.
            return attributes.give(&self.root);
        };
        let above = path.parent().unwrap_or_else(|| Path::new("")).to_owned();
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.whiteout(&above, &name);
        }
        // In the oldest form of tar a directory is a file whose name ends with a slash.
        let is_directory = raw.last() == Some(&b'/');
        match header.entry_type() {
            EntryType::Directory => self.directory(&path, &attributes),
            EntryType::Regular | EntryType::Continuous if is_directory => self.directory(&path, &attributes),
            EntryType::Regular | EntryType::Continuous => {
                let size = header.size().map_err(Error::Archive)?;
                self.file(&above, &name, &attributes, size, content)
            }
            EntryType::Symlink => self.symlink(&above, &name, &attributes, link.as_deref()),
            EntryType::Link => self.hard_link(&above, &name, link.as_deref()),
            EntryType::Fifo => {
                let parent = self.room(&above, &name)?;
                let mode = Mode::from_raw_mode(attributes.mode);
                rustix::fs::mknodat(parent.as_fd(), &name, FileType::Fifo, mode, 0).map_err(step("create"))
            }
            EntryType::Char | EntryType::Block => Err(Wrong::Refused("is a device")),
            _ => Err(Wrong::Refused("is of a kind that cannot be unpacked")),
        }
    }

    fn whiteout(&mut self, above: &Path, name: &OsStr) -> Result<(), Wrong> {
        if name.as_bytes() == OPAQUE {
            self.record.emptied.insert(Name(above.to_owned()));
        } else if name.as_bytes().starts_with(b".wh..wh.") {
            // An earlier union file system's own files; they mean nothing to others.
        } else {
            let removed = name.as_bytes().get(WHITEOUT.len()..).unwrap_or_default();
            if matches!(removed, b"" | b"." | b"..") {
                return Err(Wrong::Refused("takes away what cannot be"));
            }
            self.record.removed.insert(Name(above.join(OsStr::from_bytes(removed))));
        }
        Ok(())
    }

    /// The directory that an entry goes into, with whatever was at its name taken away: of two entries with one name the later counts.
    fn room(&mut self, above: &Path, name: &OsStr) -> Result<&OwnedFd, Wrong> {
        let parent = self.parent(above)?;
        match rooted::look(parent, name).map_err(step("look at"))? {
            Some(there) if rooted::is_directory(&there) => {
                Err(Wrong::Refused("is there twice, as a directory and as something else"))
            }
            Some(_) => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty()).map_err(step("replace"))?;
                Ok(parent)
            }
            None => Ok(parent),
        }
    }

    fn parent(&mut self, path: &Path) -> Result<&OwnedFd, Wrong> {
        if self.parent.as_ref().is_none_or(|(known, _)| known != path) {
            let implied = &mut self.record.implied;
            let made = self.root.make(path, Links::Refused, |made| {
                implied.insert(Name(made.to_owned()));
            });
            let opened = made.map_err(|error| {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                step("create")(errno)
            })?;
            self.parent = Some((path.to_owned(), opened));
        }
        match &self.parent {
            Some((_, directory)) => Ok(directory),
            None => Err(Wrong::System("open", Errno::BADF)),
        }
    }

    fn directory(&mut self, path: &Path, attributes: &Attributes) -> Result<(), Wrong> {
        let (above, name) = (path.parent().unwrap_or_else(|| Path::new("")), path.file_name());
        let name = name.unwrap_or_default().to_owned();
        let parent = self.parent(above)?;
        match rooted::look(parent, &name).map_err(step("look at"))? {
            Some(there) if rooted::is_directory(&there) => {}
            Some(_) => return Err(Wrong::Refused("is there twice, as a directory and as something else")),
            None => rustix::fs::mkdirat(parent, &name, Mode::from_raw_mode(0o755)).map_err(step("create"))?,
        }
        let made = self.root.directory(path, Links::Refused).map_err(step("open"))?;
        attributes.give(&made)?;
        self.record.implied.remove(&Name(path.to_owned()));
        Ok(())
    }

    fn file(
        &mut self,
        above: &Path,
        name: &OsStr,
        attributes: &Attributes,
        size: u64,
        content: &mut impl Read,
    ) -> Result<(), Wrong> {
        self.record.bytes = self.record.bytes.saturating_add(size);
        if self.record.bytes > self.limits.unpacked_bytes {
            return Err(too_large(self.limits.unpacked_bytes, "bytes unpacked").into());
        }
        let full = self.path.join(above).join(name);
        let parent = self.room(above, name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(step("create"))?;
        let mut file = File::from(file);
        copy(content, size, &mut file, &full).map_err(Error::from)?;
        attributes.give(&file)?;
        rustix::fs::futimens(&file, &attributes.times()).map_err(step("set the time of"))
    }

    fn symlink(
        &mut self,
        above: &Path,
        name: &OsStr,
        attributes: &Attributes,
        target: Option<&[u8]>,
    ) -> Result<(), Wrong> {
        // Absolute or not, it is followed by the image's own processes in the image's own root, and by nobody else.
        let target = target.filter(|target| !target.is_empty() && !target.contains(&0));
        let target = target.ok_or(Wrong::Refused("is a link to nowhere"))?;
        let parent = self.room(above, name)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), parent, name).map_err(step("create"))?;
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(step("change the owner of"))
    }

    fn hard_link(&mut self, above: &Path, name: &OsStr, target: Option<&[u8]>) -> Result<(), Wrong> {
        let target = target.unwrap_or_default();
        let target =
            inside(trimmed(target)).map_err(|_| Wrong::Refused("is a link that leads out of the image"))?;
        let (there, original) = (target.parent().unwrap_or_else(|| Path::new("")), target.file_name());
        let original = original.ok_or(Wrong::Refused("is a link to nowhere"))?;
        let missing = || Wrong::Refused("is a hard link to something that its layer does not hold");
        let directory = self.root.directory(there, Links::Refused).map_err(|_| missing())?;
        match rooted::look(&directory, original).map_err(step("look at"))? {
            Some(found) if !rooted::is_directory(&found) => {}
            _ => return Err(missing()),
        }
        if there == above && original == name {
            return Ok(());
        }
        let parent = self.room(above, name)?;
        rustix::fs::linkat(&directory, original, parent, name, AtFlags::empty()).map_err(step("create"))
    }
}
