//! Finds entries in the segments of a function.
//!
//! A function's log is small by its bound, so that a query reads it through: no index that could be wrong.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use hearth_function::InstanceId;
use jiff::Timestamp;

use super::segments::{self, Place};
use super::{Entry, Error};

/// The longest line of a segment that is read: longer ones are not ours.
const LONGEST_LINE: u64 = 4 << 20;

/// Which entries are asked for: those that meet every condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only so many, the newest.
    pub tail: Option<usize>,
    /// None older than this.
    pub since: Option<Timestamp>,
    /// Only of this request: its lines and its [`super::CallRecord`].
    pub request: Option<String>,
    /// With [`super::CallRecord`]s; a query for a request always has its own.
    pub calls: bool,
}

impl Query {
    /// Whether the entry meets the conditions, `tail` aside.
    #[must_use]
    pub fn matches(&self, entry: &Entry) -> bool {
        let wanted_kind = self.calls || self.request.is_some() || !matches!(entry, Entry::Call(_));
        wanted_kind
            && self.since.is_none_or(|since| entry.time() >= since)
            && self.request.as_deref().is_none_or(|request| entry.request() == Some(request))
    }
}

pub(super) fn read(directory: &Path, query: &Query) -> Result<Vec<Entry>, Error> {
    read_until(directory, query, Place { segment: u64::MAX, byte: 0 })
}

/// What `query` asks for among the entries before `end`. Of one request its call comes last: the gateway may have told of its end while
/// lines that were printed before were still on the way.
pub(super) fn read_until(directory: &Path, query: &Query, end: Place) -> Result<Vec<Entry>, Error> {
    let mut found = VecDeque::new();
    let mut ended = Vec::new();
    let limit = query.tail.unwrap_or(usize::MAX);
    for_each(directory, end, |entry| {
        if limit == 0 || !query.matches(&entry) {
            return ControlFlow::Continue(());
        }
        if query.request.is_some() && matches!(entry, Entry::Call(_)) {
            ended.push(entry);
            return ControlFlow::Continue(());
        }
        if found.len() == limit {
            found.pop_front();
        }
        found.push_back(entry);
        ControlFlow::Continue(())
    })?;
    let surplus = (found.len() + ended.len()).saturating_sub(limit);
    found.drain(..surplus.min(found.len()));
    // An id that a client used again and again has as many calls.
    ended.drain(..ended.len().saturating_sub(limit));
    found.extend(ended);
    Ok(found.into())
}

/// Whether anything here is of this request.
pub(super) fn knows(directory: &Path, request: &str) -> Result<bool, Error> {
    let mut known = false;
    for_each(directory, Place { segment: u64::MAX, byte: 0 }, |entry| {
        known = entry.request() == Some(request);
        if known { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(known)
}

pub(super) fn last_sequence(directory: &Path, instance: &InstanceId) -> Result<u64, Error> {
    let mut last = 0;
    for_each(directory, Place { segment: u64::MAX, byte: 0 }, |entry| {
        if let Entry::Line(line) = entry
            && line.instance == *instance
        {
            last = last.max(line.sequence);
        }
        ControlFlow::Continue(())
    })?;
    Ok(last)
}

/// Shows every entry before `end`, oldest first, until that is enough. What cannot be read as an entry (a line torn by a crash) is passed over.
fn for_each(
    directory: &Path,
    end: Place,
    mut show: impl FnMut(Entry) -> ControlFlow<()>,
) -> Result<(), Error> {
    let segments = segments::list(directory).map_err(|source| Error::File {
        action: "list",
        path: directory.to_owned(),
        source,
    })?;
    for (number, path) in segments.into_iter().filter(|(number, _)| *number <= end.segment) {
        let file = match File::open(&path) {
            Ok(file) => file,
            // Dropped to make room since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(Error::File { action: "open", path, source }),
        };
        let length = if number == end.segment { end.byte } else { u64::MAX };
        let mut reader = BufReader::with_capacity(64 << 10, file.take(length));
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut line);
            match read {
                Ok(0) => break,
                Ok(_) => {
                    if let Ok(entry) = serde_json::from_slice(&line)
                        && show(entry).is_break()
                    {
                        return Ok(());
                    }
                }
                Err(source) => return Err(Error::File { action: "read", path, source }),
            }
        }
    }
    Ok(())
}
