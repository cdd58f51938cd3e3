//! Lines and owner markers out of a raw pipe.
//!
//! A marker is `\n`, 0x01, `H`, the nonce, `B` and a request id or `E` alone, and `\n`, in one write (shorter than what a pipe takes in one
//! piece). The newline before it ends whatever a child process left half written; an empty line right before a marker is
//! therefore not a line.

use std::rc::Rc;

use bytes::Bytes;
use hearth_protocol::RequestId;

use super::{MAX_LINE, Owner};

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item<'a> {
    /// A line without its newline.
    Line {
        /// Its bytes.
        text: &'a [u8],
        /// Its end is missing.
        truncated: bool,
    },
    /// From here on the lines are of this owner.
    Owner(Owner),
}

/// Cuts a stream of bytes into lines.
#[derive(Debug)]
pub(super) struct Lines {
    /// The beginning of a line whose end has not come; at most [`MAX_LINE`] of it.
    partial: Vec<u8>,
    /// More than that has come.
    overflow: bool,
    /// An empty line, held back because a marker may follow.
    empty: bool,
    /// What a marker begins with, if there are any.
    marker: Option<Box<[u8]>>,
}

impl Lines {
    pub(super) fn new(nonce: Option<Rc<str>>) -> Self {
        let marker = nonce.map(|nonce| format!("\u{1}H{nonce}").into_bytes().into_boxed_slice());
        Self { partial: Vec::new(), overflow: false, empty: false, marker }
    }

    /// Takes the next bytes and gives every line that they complete.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut give: impl FnMut(Item<'_>)) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let (text, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.partial.is_empty() {
                self.line(&text[..text.len().min(MAX_LINE)], text.len() > MAX_LINE, &mut give);
            } else {
                self.keep(text);
                let (partial, overflow) = (std::mem::take(&mut self.partial), self.overflow);
                self.line(&partial, overflow, &mut give);
                // Its memory serves the next one.
                self.partial = partial;
                self.partial.clear();
                self.overflow = false;
            }
            bytes = rest;
        }
        self.keep(bytes);
    }

    /// Gives what is left when the pipe has come to its end.
    pub(super) fn finish(&mut self, mut give: impl FnMut(Item<'_>)) {
        let partial = std::mem::take(&mut self.partial);
        if self.empty || !partial.is_empty() {
            self.flush_empty(&mut give);
            if !partial.is_empty() {
                give(Item::Line { text: &partial, truncated: self.overflow });
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.partial.len();
        self.overflow |= bytes.len() > room;
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn line(&mut self, text: &[u8], truncated: bool, give: &mut impl FnMut(Item<'_>)) {
        if let Some(owner) = self.marker(text) {
            self.empty = false;
            give(Item::Owner(owner));
            return;
        }
        self.flush_empty(give);
        if text.is_empty() && self.marker.is_some() {
            self.empty = true;
        } else {
            give(Item::Line { text: text.strip_suffix(b"\r").unwrap_or(text), truncated });
        }
    }

    fn flush_empty(&mut self, give: &mut impl FnMut(Item<'_>)) {
        if std::mem::take(&mut self.empty) {
            give(Item::Line { text: b"", truncated: false });
        }
    }

    fn marker(&self, text: &[u8]) -> Option<Owner> {
        match text.strip_prefix(&**self.marker.as_ref()?)?.split_first()? {
            (b'B', id) => RequestId::new(Bytes::copy_from_slice(id)).map(Owner::Call),
            (b'E', []) => Some(Owner::Nobody),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes out when `bytes` come in pieces of `size`.
    fn cut(bytes: &[u8], size: usize) -> Vec<String> {
        let mut lines = Lines::new(Some("NONCE".into()));
        let mut out = Vec::new();
        let mut give = |item: Item<'_>| {
            out.push(match item {
                Item::Line { text, truncated } if truncated => format!("{}…", text.len()),
                Item::Line { text, .. } => String::from_utf8_lossy(text).into_owned(),
                Item::Owner(owner) => format!("<{owner:?}>"),
            });
        };
        for piece in bytes.chunks(size) {
            lines.take(piece, &mut give);
        }
        lines.finish(&mut give);
        out
    }

    #[test]
    fn lines_and_markers_in_pieces_of_any_size() {
        let text = b"one\n\n\ntwo\r\nhalf\n\x01HNONCEBr-1\nmine\n\n\x01HNONCEE\n\x01HOTHERBr-1\n\n\x01HNONCEBr-2\nlast";
        let expected = [
            "one",
            "",
            "",
            "two",
            "half",
            "<Call(r-1)>",
            "mine",
            "<Nobody>",
            "\u{1}HOTHERBr-1",
            "<Call(r-2)>",
            "last",
        ];
        for size in 1..text.len() {
            assert_eq!(cut(text, size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_long_line_keeps_its_beginning() {
        let mut text = vec![b'x'; 3 * MAX_LINE];
        text.extend_from_slice(b"\nnext\n");
        for size in [1000, MAX_LINE, 2 * MAX_LINE, text.len()] {
            assert_eq!(cut(&text, size), [format!("{MAX_LINE}…"), "next".to_owned()], "in pieces of {size}");
        }
    }

    #[test]
    fn without_a_nonce_there_are_no_markers() {
        let mut lines = Lines::new(None);
        let mut count = 0;
        lines.take(b"\n\x01HE\n\n", |item| count += u32::from(matches!(item, Item::Line { .. })));
        assert_eq!(count, 3);
    }
}
