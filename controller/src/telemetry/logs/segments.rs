//! The files of one function: numbered, written at the end of the newest, dropped from the oldest.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hearth_function::FunctionId;

/// A function's bytes are spread over this many segments, so that making room drops an eighth of them.
const SEGMENTS: u64 = 8;

const EXTENSION: &str = "jsonl";

/// Where the segments of a function are.
pub(super) fn directory(root: &Path, function: &FunctionId) -> PathBuf {
    root.join(function.namespace()).join(function.name())
}

/// The functions that have a directory.
pub(super) fn functions(root: &Path) -> io::Result<Vec<FunctionId>> {
    let mut found = Vec::new();
    for namespace in fs::read_dir(root)? {
        let namespace = namespace?;
        if !namespace.file_type()?.is_dir() {
            continue;
        }
        for function in fs::read_dir(namespace.path())? {
            let (namespace, name) = (namespace.file_name(), function?.file_name());
            let id = format!("{}/{}", namespace.to_string_lossy(), name.to_string_lossy());
            // What has no function's name is not ours.
            found.extend(FunctionId::parse(&id));
        }
    }
    Ok(found)
}

/// A place in a function's log: the segment's number and the byte in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) segment: u64,
    pub(super) byte: u64,
}

/// The segments that are there, oldest first. A directory that is not there has none.
pub(super) fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) =
            number.filter(|_| path.extension().is_some_and(|extension| extension == EXTENSION))
        {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// The end of one function's log, open for writing.
#[derive(Debug)]
pub(super) struct Appender {
    directory: PathBuf,
    file: File,
    place: Place,
    limit: u64,
}

impl Appender {
    /// Goes on where the log ends; in a new segment when the last line is torn.
    pub(super) fn open(directory: PathBuf, limit: u64) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        let place = end(&directory)?;
        let file = open(&directory, place.segment)?;
        let appender = Self { directory, file, place, limit };
        appender.make_room()?;
        Ok(appender)
    }

    /// Where the next line will stand.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Appends `lines`, each of which ends with a newline.
    pub(super) fn append(&mut self, mut lines: &[u8]) -> io::Result<()> {
        while !lines.is_empty() {
            let room = (self.limit / SEGMENTS).saturating_sub(self.place.byte);
            let fitting = whole_lines(lines, usize::try_from(room).unwrap_or(usize::MAX));
            if fitting == 0 && self.place.byte > 0 {
                self.place = Place { segment: self.place.segment + 1, byte: 0 };
                self.file = open(&self.directory, self.place.segment)?;
                self.make_room()?;
                continue;
            }
            // A line longer than a segment has one of its own.
            let first_line =
                || lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1);
            let length = if fitting == 0 { first_line() } else { fitting };
            let (now, later) = lines.split_at(length);
            self.file.write_all(now)?;
            self.place.byte += length as u64;
            lines = later;
        }
        Ok(())
    }

    /// Drops the oldest segments until a full new one fits into the limit.
    fn make_room(&self) -> io::Result<()> {
        let segments = list(&self.directory)?;
        let mut sizes = Vec::with_capacity(segments.len());
        for (_, path) in &segments {
            sizes.push(fs::metadata(path)?.len());
        }
        let mut kept: u64 = sizes.iter().sum::<u64>() + self.limit / SEGMENTS;
        for ((number, path), size) in segments.iter().zip(sizes) {
            if kept <= self.limit || *number == self.place.segment {
                break;
            }
            fs::remove_file(path)?;
            kept -= size;
        }
        Ok(())
    }
}

/// The length of as many whole lines as fit into `room` bytes.
fn whole_lines(lines: &[u8], room: usize) -> usize {
    let fitting = &lines[..lines.len().min(room)];
    fitting.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

/// Where the next line of a function that nobody writes to will stand.
pub(super) fn end(directory: &Path) -> io::Result<Place> {
    let Some((segment, path)) = list(directory)?.pop() else { return Ok(Place { segment: 1, byte: 0 }) };
    let mut file = File::open(path)?;
    let byte = file.seek(SeekFrom::End(0))?;
    if byte == 0 {
        return Ok(Place { segment, byte });
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(if last == *b"\n" { Place { segment, byte } } else { Place { segment: segment + 1, byte: 0 } })
}

fn open(directory: &Path, number: u64) -> io::Result<File> {
    File::options().append(true).create(true).open(directory.join(format!("{number:08}.{EXTENSION}")))
}
