//! Packs a directory, or the files of a manifest, into a bundle. The same input gives the same bytes and so the same digest: entries are
//! sorted, times are zero, the owner is root, and of a file's mode only its executable bit is kept.
//!
//! Left out of a directory: what its own `.hearthignore` and `.gitignore` files say (the former wins), those files themselves, version
//! control (`.git`, `.hg`, `.svn`), what editors leave ([`is_scratch`]), Python's caches and virtual environments, and `node_modules` beside a `package.json`, for that is
//! installed from the lock file on the server. Everything else goes in, names that begin with a dot too.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use hearth_function::Digest;
use hearth_protocol::bundle;
use ignore::WalkBuilder;

use super::bundles::Limits;

/// What a bundle is made with.
#[derive(Debug, Clone, Default)]
pub struct PackOptions {
    /// Paths, absolute or relative to the directory, that are left out: the manifest itself, which is no code and would change the digest.
    pub exclude: Vec<PathBuf>,
    /// How large the bundle may be.
    pub limits: Limits,
}

/// A packed bundle.
#[derive(Clone)]
pub struct Packed {
    /// The digest of [`Packed::bytes`].
    pub digest: Digest,
    /// A tar archive compressed by gzip.
    pub bytes: Vec<u8>,
    /// Files and links in it.
    pub files: u64,
    /// Bytes of its files together.
    pub unpacked_bytes: u64,
}

/// Why a directory could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory is not there, or is none.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// There is nothing to pack.
    #[error("{} holds no file that is not ignored", .0.display())]
    Empty(PathBuf),
    /// It is larger than is allowed.
    #[error(
        "{what} is more than the {limit} allowed; leave out what the function does not need, by a .hearthignore file. {}",
        Largest(largest)
    )]
    TooLarge {
        /// What is too large, with its size.
        what: String,
        /// What is allowed, as people read it.
        limit: String,
        /// The largest files, largest first.
        largest: Vec<(PathBuf, u64)>,
    },
    /// A link leads out of the directory, where it would lead nowhere in an instance.
    #[error("{} is a link that leads out of the directory, to {}: put the file itself there", path.display(), target.display())]
    Link {
        /// The link.
        path: PathBuf,
        /// Where it leads.
        target: PathBuf,
    },
    /// Something that is neither file nor directory nor link.
    #[error("{} is a {kind}, which cannot be packed: name it in .hearthignore", path.display())]
    Special {
        /// Which.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// A path of inline files that is not one inside of a directory.
    #[error("{path:?} is no path for an inline file: {problem}")]
    InlinePath {
        /// The path.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packed")
            .field("digest", &self.digest)
            .field("bytes", &self.bytes.len())
            .field("files", &self.files)
            .field("unpacked_bytes", &self.unpacked_bytes)
            .finish()
    }
}

/// Packs a directory. Blocks for as long as it takes to read and compress it.
///
/// # Errors
/// As [`Error`] says: the message names the file and what to do.
pub fn pack(directory: &Path, options: &PackOptions) -> Result<Packed, Error> {
    let root = root_of(directory)?;
    let entries = entries(&root, options)?;
    if entries.is_empty() {
        return Err(Error::Empty(directory.to_owned()));
    }
    let sizes = entries.iter().filter_map(|(path, content)| Some((path.clone(), content.size()?)));
    let largest = largest(sizes.collect());
    let mut packer = Packer::new(&options.limits, largest);
    let total = entries.values().filter_map(Content::size).fold(0, u64::saturating_add);
    packer.check(entries.keys(), total)?;
    for (path, content) in &entries {
        match content {
            Content::File { size, executable } => {
                let full = root.join(path);
                let read = |source| Error::Read { path: full.clone(), source };
                let file = fs::File::open(&full).map_err(read)?;
                packer
                    .file(path, *size, *executable, Whole { file, left: *size })
                    .map_err(|error| error.of(read))?;
            }
            Content::Link { target } => packer.link(path, target)?,
        }
    }
    packer.finish()
}

/// Packs the files of a manifest, given as path and text.
///
/// # Errors
/// When a path is not one inside of a directory, or the files are too large.
pub fn pack_inline(files: &BTreeMap<String, String>, limits: &Limits) -> Result<Packed, Error> {
    let mut entries = BTreeMap::new();
    for (name, text) in files {
        let wrong = |problem| Error::InlinePath { path: name.clone(), problem };
        let path = bundle::inside(name.as_bytes()).map_err(wrong)?;
        if path.as_os_str().is_empty() || name.ends_with('/') {
            return Err(wrong("names a directory"));
        }
        if entries.insert(path, text).is_some() {
            return Err(wrong("is there twice"));
        }
    }
    for path in entries.keys() {
        if let Some(file) = path.ancestors().skip(1).find(|above| entries.contains_key(*above)) {
            let file = file.display().to_string();
            return Err(Error::InlinePath {
                path: file,
                problem: "is a file and a directory at the same time",
            });
        }
    }
    let sizes = entries.iter().map(|(path, text)| (path.clone(), text.len() as u64)).collect();
    let mut packer = Packer::new(limits, largest(sizes));
    packer.check(entries.keys(), entries.values().map(|text| text.len() as u64).sum())?;
    for (path, text) in entries {
        // A script with an interpreter line is meant to be run.
        let packed = packer.file(&path, text.len() as u64, text.starts_with("#!"), text.as_bytes());
        packed.map_err(|error| error.of(|source| Error::Read { path: path.clone(), source }))?;
    }
    packer.finish()
}

/// What an entry of the directory is.
enum Content {
    File { size: u64, executable: bool },
    Link { target: PathBuf },
}

impl Content {
    fn size(&self) -> Option<u64> {
        match self {
            Self::File { size, .. } => Some(*size),
            Self::Link { .. } => None,
        }
    }
}

/// The files and links that [`pack`] would put into the bundle, by their paths from the directory on. Reads names alone.
///
/// # Errors
/// As [`pack`], but for what it finds when it reads the files, and for their sizes.
pub fn list(directory: &Path, options: &PackOptions) -> Result<BTreeSet<PathBuf>, Error> {
    let files: BTreeSet<PathBuf> = entries(&root_of(directory)?, options)?.into_keys().collect();
    if files.is_empty() { Err(Error::Empty(directory.to_owned())) } else { Ok(files) }
}

fn root_of(directory: &Path) -> Result<PathBuf, Error> {
    if !directory.is_dir() {
        return Err(Error::NotADirectory(directory.to_owned()));
    }
    directory.canonicalize().map_err(|source| Error::Read { path: directory.to_owned(), source })
}

/// What goes into the bundle, by path: the map sorts by components, the same on every machine.
fn entries(root: &Path, options: &PackOptions) -> Result<BTreeMap<PathBuf, Content>, Error> {
    let exclude: Vec<PathBuf> = options
        .exclude
        .iter()
        .map(|path| root.join(path))
        .map(|path| path.canonicalize().unwrap_or(path))
        .collect();
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .add_custom_ignore_filename(".hearthignore")
        .filter_entry(move |entry| {
            !exclude.iter().any(|path| path == entry.path()) && !left_out(entry.path())
        })
        .build();
    let mut entries = BTreeMap::new();
    for entry in walk {
        let entry = entry.map_err(|error| unreadable(root, error))?;
        let full = entry.path();
        let read = |source| Error::Read { path: full.to_owned(), source };
        let metadata = fs::symlink_metadata(full).map_err(read)?;
        let kind = metadata.file_type();
        let path = full.strip_prefix(root).unwrap_or(full).to_owned();
        let content = if kind.is_dir() {
            continue;
        } else if kind.is_file() {
            Content::File { size: metadata.len(), executable: metadata.permissions().mode() & 0o111 != 0 }
        } else if kind.is_symlink() {
            let target = fs::read_link(full).map_err(read)?;
            if !bundle::link_stays_inside(&path, &target) {
                return Err(Error::Link { path: full.to_owned(), target });
            }
            Content::Link { target }
        } else {
            return Err(Error::Special { path: full.to_owned(), kind: special(kind) });
        };
        entries.insert(path, content);
    }
    Ok(entries)
}

/// Whether something is left out whatever the ignore files say.
fn left_out(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    match name.as_bytes() {
        b".gitignore" | b".hearthignore" => true,
        _ if is_scratch(name) => true,
        b"node_modules" => path.parent().is_some_and(|parent| parent.join("package.json").is_file()),
        _ => path.join("pyvenv.cfg").is_file(),
    }
}

/// Whether a file or directory of this name is never a part of the code: version control, and what editors, Python and macOS leave.
#[must_use]
pub fn is_scratch(name: &std::ffi::OsStr) -> bool {
    match name.as_bytes() {
        b".git" | b".hg" | b".svn" | b".DS_Store" | b"__pycache__" => true,
        // What vim tries whether it may write in a directory.
        b"4913" => true,
        // vim's swap files: `.index.js.swp`, `.swo`, `.swn` and so on down the alphabet.
        [b'.', .., b'.', b's', b'w', b'a'..=b'p'] => true,
        // emacs: locks and what it saves by itself.
        [b'.', b'#', ..] | [b'#', .., b'#'] => true,
        // Backups of either.
        [_, .., b'~'] => true,
        _ => false,
    }
}

fn unreadable(root: &Path, error: ignore::Error) -> Error {
    let path = match &error {
        ignore::Error::WithPath { path, .. } => path.clone(),
        _ => root.to_owned(),
    };
    let text = error.to_string();
    Error::Read { path, source: error.into_io_error().unwrap_or_else(|| io::Error::other(text)) }
}

fn special(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_socket() {
        "socket"
    } else if kind.is_fifo() {
        "named pipe"
    } else {
        "device"
    }
}

/// The five largest.
fn largest(mut sizes: Vec<(PathBuf, u64)>) -> Vec<(PathBuf, u64)> {
    sizes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sizes.truncate(5);
    sizes
}

/// Writes the archive.
struct Packer<'a> {
    limits: &'a Limits,
    largest: Vec<(PathBuf, u64)>,
    archive: tar::Builder<flate2::write::GzEncoder<Bounded>>,
    files: u64,
    unpacked_bytes: u64,
}

impl<'a> Packer<'a> {
    fn new(limits: &'a Limits, largest: Vec<(PathBuf, u64)>) -> Self {
        let bounded = Bounded { bytes: Vec::new(), limit: limits.packed_bytes, over: false };
        // 255: no operating system in the header either.
        let gzip = GzBuilder::new().mtime(0).operating_system(255).write(bounded, Compression::new(6));
        Self { limits, largest, archive: tar::Builder::new(gzip), files: 0, unpacked_bytes: 0 }
    }

    fn check<'p>(
        &mut self,
        paths: impl ExactSizeIterator<Item = &'p PathBuf>,
        bytes: u64,
    ) -> Result<(), Error> {
        (self.files, self.unpacked_bytes) = (paths.len() as u64, bytes);
        if bytes > self.limits.unpacked_bytes {
            let limit = human(self.limits.unpacked_bytes);
            return Err(self.too_large(format!("{} unpacked", human(bytes)), limit));
        }
        let directories: HashSet<&Path> = paths.flat_map(|path| path.ancestors().skip(1)).collect();
        // The directory itself is among them and is no entry.
        let entries = self.files + (directories.len() as u64).saturating_sub(1);
        if entries > self.limits.entries {
            let what = format!("{entries} files and directories");
            return Err(self.too_large(what, self.limits.entries.to_string()));
        }
        Ok(())
    }

    fn file(
        &mut self,
        path: &Path,
        size: u64,
        executable: bool,
        content: impl Read,
    ) -> Result<(), FileProblem> {
        let mut header = header(tar::EntryType::Regular, if executable { 0o755 } else { 0o644 });
        header.set_size(size);
        let appended = self.archive.append_data(&mut header, path, content);
        appended.map_err(|error| {
            if self.is_over() { FileProblem::Over(self.over()) } else { FileProblem::Read(error) }
        })
    }

    fn link(&mut self, path: &Path, target: &Path) -> Result<(), Error> {
        let mut header = header(tar::EntryType::Symlink, 0o777);
        header.set_size(0);
        let appended = self.archive.append_link(&mut header, path, target);
        appended.map_err(|source| {
            if self.is_over() { self.over() } else { Error::Read { path: path.to_owned(), source } }
        })
    }

    fn is_over(&self) -> bool {
        self.archive.get_ref().get_ref().over
    }

    fn over(&mut self) -> Error {
        let limit = human(self.limits.packed_bytes);
        self.too_large(format!("more than {limit} packed"), limit)
    }

    fn too_large(&mut self, what: String, limit: String) -> Error {
        Error::TooLarge { what, limit, largest: std::mem::take(&mut self.largest) }
    }

    fn finish(mut self) -> Result<Packed, Error> {
        let over = {
            let limit = human(self.limits.packed_bytes);
            Error::TooLarge {
                what: format!("more than {limit} packed"),
                limit,
                largest: std::mem::take(&mut self.largest),
            }
        };
        // Nothing else can fail here: it is all in memory.
        let finished = self.archive.into_inner().and_then(flate2::write::GzEncoder::finish);
        let Ok(Bounded { bytes, .. }) = finished else { return Err(over) };
        Ok(Packed {
            digest: Digest::of(&bytes),
            bytes,
            files: self.files,
            unpacked_bytes: self.unpacked_bytes,
        })
    }
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Why a file could not be packed.
enum FileProblem {
    Read(io::Error),
    Over(Error),
}

impl FileProblem {
    fn of(self, read: impl FnOnce(io::Error) -> Error) -> Error {
        match self {
            Self::Read(error) => read(error),
            Self::Over(error) => error,
        }
    }
}

/// A file that must have as many bytes as its header says; what is appended while it is read does not count.
struct Whole {
    file: fs::File,
    left: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it got shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// A buffer that does not grow beyond a limit.
struct Bounded {
    bytes: Vec<u8>,
    limit: u64,
    over: bool,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.bytes.len() + bytes.len()) as u64 > self.limit {
            self.over = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The largest files as a sentence.
struct Largest<'a>(&'a [(PathBuf, u64)]);

impl std::fmt::Display for Largest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("The largest files: ")?;
        for (index, (path, size)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({})", path.display(), human(*size))?;
        }
        Ok(())
    }
}

/// A size as people read it.
fn human(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    #[expect(clippy::cast_precision_loss, reason = "for people, to a tenth")]
    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}
