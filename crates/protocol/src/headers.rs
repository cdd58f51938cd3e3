//! Header lines: how the headers of an answer and its trailers travel (`name: value\n`, each).
//!
//! The lines come out of an instance, so they are checked once, when they are taken in; what then walks them cannot fail. A name is a
//! token of RFC 9110; a value has no control characters but the tab, so that nothing can be smuggled into a head that is written again.

use bytes::{Bytes, BytesMut};

/// Most header lines in one frame. Common servers take 100; Node's own parser 2000 pairs.
pub const MAX_LINES: usize = 256;

/// Most bytes of header lines in one frame: what most clients and proxies would refuse anyway.
pub const MAX_BYTES: usize = 64 * 1024;

/// Why header lines were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_LINES`].
    #[error("more than {MAX_LINES} header lines")]
    TooMany,
    /// More than [`MAX_BYTES`].
    #[error("more than {MAX_BYTES} bytes of headers")]
    TooLong,
    /// A line without `": "` or without its end.
    #[error("header line {line} is not `name: value`")]
    Shape {
        /// Which, from 1.
        line: usize,
    },
    /// The name is not a token.
    #[error("header line {line} has a name that HTTP does not allow")]
    Name {
        /// Which, from 1.
        line: usize,
    },
    /// The value has a control character.
    #[error("header line {line} has a value that HTTP does not allow")]
    Value {
        /// Which, from 1.
        line: usize,
    },
}

/// Header lines that have been checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderLines(Bytes);

impl HeaderLines {
    /// Checks `lines`.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn parse(lines: Bytes) -> Result<Self, Error> {
        if lines.len() > MAX_BYTES {
            return Err(Error::TooLong);
        }
        let mut rest: &[u8] = &lines;
        let mut line = 0;
        while !rest.is_empty() {
            line += 1;
            if line > MAX_LINES {
                return Err(Error::TooMany);
            }
            let end = rest.iter().position(|&byte| byte == b'\n').ok_or(Error::Shape { line })?;
            let (text, after) = (&rest[..end], &rest[end + 1..]);
            let colon = text.iter().position(|&byte| byte == b':').ok_or(Error::Shape { line })?;
            let (name, value) = (&text[..colon], &text[colon + 1..]);
            let value = value.strip_prefix(b" ").ok_or(Error::Shape { line })?;
            if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
                return Err(Error::Name { line });
            }
            if !value.iter().all(|&byte| is_field_byte(byte)) {
                return Err(Error::Value { line });
            }
            rest = after;
        }
        Ok(Self(lines))
    }

    /// Writes pairs as lines.
    ///
    /// # Errors
    /// When a pair is not a header that HTTP allows, or when there are too many.
    pub fn from_pairs<N: AsRef<[u8]>, V: AsRef<[u8]>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, Error> {
        let mut lines = BytesMut::new();
        for (index, (name, value)) in pairs.into_iter().enumerate() {
            // A newline inside a value would pass as two good lines.
            if value.as_ref().contains(&b'\n') {
                return Err(Error::Value { line: index + 1 });
            }
            if name.as_ref().iter().any(|byte| matches!(byte, b'\n' | b':')) {
                return Err(Error::Name { line: index + 1 });
            }
            lines.extend_from_slice(name.as_ref());
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(value.as_ref());
            lines.extend_from_slice(b"\n");
            if lines.len() > MAX_BYTES {
                return Err(Error::TooLong);
            }
        }
        Self::parse(lines.freeze())
    }

    /// Names (as they were written, ASCII) and values, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.split(|&byte| byte == b'\n').filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let name = std::str::from_utf8(&line[..colon]).ok()?;
            Some((name, line.get(colon + 2..)?))
        })
    }

    /// The same, each value a part of the frame that shares its memory.
    pub fn shared(&self) -> impl Iterator<Item = (&str, Bytes)> {
        self.iter().map(|(name, value)| (name, self.0.slice_ref(value)))
    }

    /// The lines as they travel.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `tchar` of RFC 9110, 5.6.2.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Visible characters, space, tab and the bytes above ASCII (RFC 9110, 5.5).
const fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &'static str) -> Result<Vec<(String, String)>, Error> {
        let lines = HeaderLines::parse(Bytes::from_static(lines.as_bytes()))?;
        Ok(lines
            .iter()
            .map(|(name, value)| (name.to_owned(), String::from_utf8_lossy(value).into_owned()))
            .collect())
    }

    #[test]
    fn lines_are_names_and_values() {
        let pairs = parse("content-type: text/plain\nset-cookie: a=b: c\nset-cookie: d\nempty: \n");
        let expected =
            [("content-type", "text/plain"), ("set-cookie", "a=b: c"), ("set-cookie", "d"), ("empty", "")];
        assert_eq!(pairs, Ok(expected.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec()));
        assert_eq!(parse(""), Ok(vec![]));
    }

    #[test]
    fn what_http_does_not_allow_is_refused() {
        assert_eq!(parse("a: b"), Err(Error::Shape { line: 1 }));
        assert_eq!(parse("a: b\nnonsense\n"), Err(Error::Shape { line: 2 }));
        assert_eq!(parse("a:b\n"), Err(Error::Shape { line: 1 }));
        assert_eq!(parse("a b: c\n"), Err(Error::Name { line: 1 }));
        assert_eq!(parse(": c\n"), Err(Error::Name { line: 1 }));
        assert_eq!(parse("a: b\r\n"), Err(Error::Value { line: 1 }));
        assert_eq!(parse("a: \0\n"), Err(Error::Value { line: 1 }));
        assert_eq!(HeaderLines::parse(Bytes::from("a: b\n".repeat(257))), Err(Error::TooMany));
        assert_eq!(HeaderLines::parse(Bytes::from(vec![b'a'; MAX_BYTES + 1])), Err(Error::TooLong));
    }

    #[test]
    fn a_pair_cannot_carry_a_second_line() {
        assert_eq!(HeaderLines::from_pairs([("a", "b\nc: d")]), Err(Error::Value { line: 1 }));
        assert_eq!(HeaderLines::from_pairs([("a: b\nc", "d")]), Err(Error::Name { line: 1 }));
        let lines = HeaderLines::from_pairs([("a", "b"), ("c", "d: e")]).unwrap();
        assert_eq!(lines.as_bytes(), &Bytes::from_static(b"a: b\nc: d: e\n"));
    }
}
