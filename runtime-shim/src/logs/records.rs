//! Log records that a bootstrap writes to descriptor 4.
//!
//! ```text
//! | length: u32 | stream: u8 (1 stdout, 2 stderr, 3 platform) | flags: u8 (1 shared, 2 truncated) | id_len: u8 | request id | lines |
//! ```
//!
//! `length` counts what follows it. The lines may be many, each ended by a newline but the last. The function can write here too, so it is
//! read like anything hostile: what is no record ends the reading, and the pipe is drained for nothing.

use bytes::Bytes;
use hearth_protocol::{LogStream, RequestId};

use super::{MAX_LINE, Owner};

/// Longest record: bootstraps cut at this.
const MAX_RECORD: usize = 256 * 1024;

/// Stream, flags and the length of the id.
const FIXED: usize = 3;

/// Reads records from pieces.
#[derive(Debug, Default)]
pub(super) struct Records {
    partial: Vec<u8>,
    broken: bool,
}

impl Records {
    /// Takes the next bytes and gives every line that they complete: stream, owner, text, truncated.
    pub(super) fn take(&mut self, bytes: &[u8], mut give: impl FnMut(LogStream, &Owner, &[u8], bool)) {
        if self.broken {
            return;
        }
        let whole = if self.partial.is_empty() {
            bytes
        } else {
            self.partial.extend_from_slice(bytes);
            &self.partial
        };
        let mut rest = whole;
        let mut broken = false;
        let used = loop {
            match record(rest) {
                Ok(Some((body, after))) if lines(body, &mut give).is_some() => rest = after,
                Ok(None) => break whole.len() - rest.len(),
                Ok(Some(_)) | Err(()) => {
                    broken = true;
                    break whole.len();
                }
            }
        };
        self.broken = broken;
        if self.partial.is_empty() {
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            self.partial.drain(..used);
        }
        if self.partial.is_empty() && self.partial.capacity() > 4 * MAX_LINE {
            self.partial = Vec::new();
        }
    }

    /// Whether something else than records came.
    pub(super) const fn broken(&self) -> bool {
        self.broken
    }
}

/// A record and what follows it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// The first record of `bytes` without its length, and what follows it; `None` when it is not complete.
fn record(bytes: &[u8]) -> Result<Option<Split<'_>>, ()> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if !(FIXED..=MAX_RECORD).contains(&length) {
        return Err(());
    }
    Ok(rest.split_at_checked(length))
}

fn lines(body: &[u8], give: &mut impl FnMut(LogStream, &Owner, &[u8], bool)) -> Option<()> {
    let (&[stream, flags, id_length], rest) = body.split_first_chunk::<FIXED>()?;
    let stream = match stream {
        1 => LogStream::Stdout,
        2 => LogStream::Stderr,
        3 => LogStream::Platform,
        _ => return None,
    };
    let (id, text) = rest.split_at_checked(usize::from(id_length))?;
    let owner = match (id, flags & 1 != 0) {
        ([], false) => Owner::Nobody,
        ([], true) => Owner::Shared,
        (id, _) => Owner::Call(RequestId::new(Bytes::copy_from_slice(id))?),
    };
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    for line in text.split(|&byte| byte == b'\n') {
        let truncated = line.len() > MAX_LINE || flags & 2 != 0;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        give(stream, &owner, &line[..line.len().min(MAX_LINE)], truncated);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stream: u8, flags: u8, id: &str, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&u32::try_from(FIXED + id.len() + text.len()).unwrap().to_be_bytes());
        out.extend_from_slice(&[stream, flags, u8::try_from(id.len()).unwrap()]);
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(text.as_bytes());
        out
    }

    fn read(bytes: &[u8], size: usize) -> (Vec<String>, bool) {
        let mut records = Records::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(size) {
            records.take(piece, |stream, owner, line, _| {
                out.push(format!("{stream:?} {owner:?} {}", String::from_utf8_lossy(line)));
            });
        }
        (out, records.broken())
    }

    #[test]
    fn records_in_pieces_of_any_size() {
        let bytes =
            [record(1, 0, "r-1", "one\ntwo\n"), record(2, 1, "", "three"), record(3, 0, "", "")].concat();
        let expected =
            ["Stdout Call(r-1) one", "Stdout Call(r-1) two", "Stderr Shared three", "Platform Nobody "]
                .map(str::to_owned);
        for size in 1..=bytes.len() {
            assert_eq!(read(&bytes, size), (expected.to_vec(), false), "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_record_ends_the_reading() {
        let good = record(1, 0, "", "good");
        for bad in [record(9, 0, "", "x"), record(1, 0, "a b", "x"), vec![0xff; 8], vec![0, 0, 0, 1, 1]] {
            let (lines, broken) = read(&[good.clone(), bad, good.clone()].concat(), 5);
            assert_eq!((lines, broken), (vec!["Stdout Nobody good".to_owned()], true));
        }
    }
}
