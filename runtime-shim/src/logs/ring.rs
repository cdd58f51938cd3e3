//! The ring of log records: encoded frames in one ring of bytes, so that its memory is what it says, and only as much as was ever used.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use hearth_protocol::codec::{HEADER_BYTES, put_log};
use hearth_protocol::{Frame, LogRecord, LogStream, RequestId, decode};

use super::Owner;

/// Where the `dropped` field is in an encoded record: after sequence, time, stream and flags.
const DROPPED_AT: usize = HEADER_BYTES + 8 + 8 + 1 + 1;

/// What a record costs beside its bytes: its entry in the index.
const ENTRY_BYTES: usize = size_of::<u32>();

/// Records among which the last lines of one call are looked for.
const SEARCHED: u64 = 256;

/// The newest records, within a number of bytes.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    /// Length of each record, oldest first.
    lengths: VecDeque<u32>,
    /// Sequence number of the newest record; 0: there was none.
    newest: u64,
    limit: usize,
    scratch: BytesMut,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), lengths: VecDeque::new(), newest: 0, limit, scratch: BytesMut::new() }
    }

    /// Sequence number of the newest record.
    pub(super) const fn newest(&self) -> u64 {
        self.newest
    }

    /// Sequence number of the oldest record that is kept.
    fn oldest(&self) -> u64 {
        self.newest + 1 - self.lengths.len() as u64
    }

    pub(super) fn push(
        &mut self,
        unix_micros: u64,
        stream: LogStream,
        owner: &Owner,
        line: &[u8],
        truncated: bool,
    ) {
        let record = LogRecord {
            sequence: self.newest + 1,
            unix_micros,
            stream,
            shared: *owner == Owner::Shared,
            truncated,
            dropped: 0,
            request_id: if let Owner::Call(id) = owner { Some(id.clone()) } else { None },
            line: Bytes::new(),
        };
        self.scratch.clear();
        // A line is at most MAX_LINE, far below the longest payload; it is appended here so that it need not be copied twice.
        let encoded = put_log(&mut self.scratch, &record);
        debug_assert!(encoded.is_ok());
        let payload = self.scratch.len() - HEADER_BYTES + line.len();
        let (Ok(field), Ok(size)) = (u32::try_from(payload), u32::try_from(payload + HEADER_BYTES)) else {
            return;
        };
        self.scratch[..4].copy_from_slice(&field.to_be_bytes());

        while !self.lengths.is_empty() && self.held() + size as usize + ENTRY_BYTES > self.limit {
            let gone = self.lengths.pop_front().map_or(0, |length| length as usize);
            self.bytes.drain(..gone);
        }
        self.newest += 1;
        self.bytes.extend(&self.scratch);
        self.bytes.extend(line);
        self.lengths.push_back(size);
    }

    fn held(&self) -> usize {
        self.bytes.len() + self.lengths.len() * ENTRY_BYTES
    }

    /// Appends the records after `after` to `out` until that has grown by `limit`; the first one says how many are missing before it.
    pub(super) fn fetch(&self, after: u64, limit: usize, out: &mut BytesMut) -> u64 {
        let oldest = self.oldest();
        let first = (after + 1).max(oldest);
        if self.lengths.is_empty() || first > self.newest {
            return after;
        }
        // The difference is at most the number of records kept.
        let skip = usize::try_from(first - oldest).unwrap_or(usize::MAX);
        let start: usize = self.lengths.iter().take(skip).map(|&length| length as usize).sum();
        let (mut end, mut last) = (start, first - 1);
        for &length in self.lengths.iter().skip(skip) {
            end += length as usize;
            last += 1;
            if end - start >= limit {
                break;
            }
        }
        let at = out.len();
        let (front, back) = self.bytes.as_slices();
        out.extend_from_slice(&front[start.min(front.len())..end.min(front.len())]);
        out.extend_from_slice(&back[start.saturating_sub(front.len())..end.saturating_sub(front.len())]);
        let missing = u32::try_from(first - after - 1).unwrap_or(u32::MAX);
        out[at + DROPPED_AT..at + DROPPED_AT + 4].copy_from_slice(&missing.to_be_bytes());
        last
    }

    /// The last `count` lines as text; those of `call` among the last records, if one is given.
    pub(super) fn last_lines(&self, count: usize, call: Option<&RequestId>) -> Vec<String> {
        let searched = if call.is_some() { SEARCHED } else { count as u64 };
        let mut frames = BytesMut::new();
        self.fetch(self.newest.saturating_sub(searched), usize::MAX, &mut frames);
        let mut lines = VecDeque::new();
        while let Ok(Some(Frame::Log(record))) = decode(&mut frames) {
            if call.is_some() && call != record.request_id.as_ref() {
                continue;
            }
            if lines.len() == count {
                lines.pop_front();
            }
            lines.push_back(String::from_utf8_lossy(&record.line).into_owned());
        }
        lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetch(ring: &Ring, after: u64, limit: usize) -> (u64, Vec<LogRecord>) {
        let mut out = BytesMut::from(&b""[..]);
        let last = ring.fetch(after, limit, &mut out);
        let mut records = Vec::new();
        while let Some(Frame::Log(record)) = decode(&mut out).unwrap() {
            records.push(record);
        }
        assert!(out.is_empty());
        (last, records)
    }

    #[test]
    fn records_come_back_as_they_went_in() {
        let mut ring = Ring::new(4096);
        let id = RequestId::copied("r-1").unwrap();
        ring.push(7, LogStream::Stderr, &Owner::Call(id.clone()), b"one", false);
        ring.push(8, LogStream::Stdout, &Owner::Shared, b"two", true);
        let (last, records) = fetch(&ring, 0, 1 << 20);
        assert_eq!(last, 2);
        assert_eq!(records[0].request_id, Some(id));
        assert_eq!(
            (records[0].sequence, records[0].unix_micros, records[0].stream),
            (1, 7, LogStream::Stderr)
        );
        assert_eq!(&records[0].line[..], b"one");
        assert!(records[1].shared && records[1].truncated && records[1].request_id.is_none());
        assert_eq!(fetch(&ring, 2, 1 << 20), (2, vec![]));
        assert_eq!(fetch(&ring, 1, 1 << 20).1.len(), 1);
    }

    #[test]
    fn the_oldest_are_lost_and_counted() {
        let mut ring = Ring::new(1000);
        for number in 0..100 {
            ring.push(0, LogStream::Stdout, &Owner::Nobody, format!("line {number}").as_bytes(), false);
        }
        assert!(ring.held() <= 1000);
        let (last, records) = fetch(&ring, 3, 1 << 20);
        assert_eq!(last, 100);
        assert_eq!(u64::from(records[0].dropped), records[0].sequence - 4);
        assert!(records[1..].iter().all(|record| record.dropped == 0));
        assert_eq!(&records.last().unwrap().line[..], b"line 99");
        // A reader that comes back in pieces sees the same.
        let (next, piece) = fetch(&ring, 3, 1);
        assert_eq!((next, piece.len()), (records[0].sequence, 1));
        assert_eq!(fetch(&ring, next, 1 << 20).1, records[1..]);
    }

    #[test]
    fn a_line_longer_than_the_ring_replaces_everything() {
        let mut ring = Ring::new(64);
        ring.push(0, LogStream::Stdout, &Owner::Nobody, b"small", false);
        ring.push(0, LogStream::Stdout, &Owner::Nobody, &[b'x'; 200], false);
        let (last, records) = fetch(&ring, 0, 1 << 20);
        assert_eq!((last, records.len(), records[0].dropped), (2, 1, 1));
    }
}
