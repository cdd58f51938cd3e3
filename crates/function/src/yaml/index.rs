//! Places in the text: of every field by its path, and of a marker in lines, columns and bytes.

use std::collections::HashMap;

use saphyr_parser::Span;

use crate::problem::{Part, Position};

/// Where the fields of a document are, by path.
#[derive(Debug, Default, Clone)]
pub(super) struct Places {
    /// The key of a field, or its value where it has no key (an item of a list, the document).
    keys: HashMap<String, Span>,
    values: HashMap<String, Span>,
}

impl Places {
    pub(super) fn add(&mut self, path: String, key: Option<Span>, value: Span) {
        self.keys.insert(path.clone(), key.unwrap_or(value));
        self.values.insert(path, value);
    }

    /// Where each item of the list `items` begins and what is in it, as if each were a document of its own.
    pub(super) fn of_items(&self, count: usize) -> Vec<Self> {
        let mut parts = vec![Self::default(); count];
        let mut deal = |all: &HashMap<String, Span>, to: fn(&mut Self) -> &mut HashMap<String, Span>| {
            for (path, span) in all {
                let item = path.strip_prefix("items[").and_then(|path| path.split_once(']'));
                let Some((index, rest)) = item else { continue };
                if let Some(part) = index.parse::<usize>().ok().and_then(|index| parts.get_mut(index)) {
                    to(part).insert(rest.strip_prefix('.').unwrap_or(rest).to_owned(), *span);
                }
            }
        };
        deal(&self.keys, |part| &mut part.keys);
        deal(&self.values, |part| &mut part.values);
        parts
    }

    /// Where the document begins.
    pub(super) fn begin(&self) -> Option<Span> {
        self.keys.get("").copied()
    }

    /// The place of `path`: its value where that is a word or a number, and else its key. Of what is not there, the key of the nearest
    /// thing around it.
    pub(super) fn find(&self, path: &str, part: Part) -> Option<Span> {
        let key = self.keys.get(path).copied();
        let value = self.values.get(path).copied().filter(|value| part == Part::Value && !value.is_empty());
        if value.or(key).is_some() {
            return value.or(key);
        }
        let mut rest = path;
        while let Some(cut) = rest.rfind(['.', '[']) {
            rest = rest.get(..cut).unwrap_or_default();
            if let Some(key) = self.keys.get(rest) {
                return Some(*key);
            }
        }
        self.keys.get("").copied()
    }
}

/// The lines of a text, to find a place in bytes.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    /// Bytes before `text` that belong to what the caller gave.
    before: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str, before: usize) -> Self {
        // As the parser counts them: a carriage return ends a line, alone or with a newline after it.
        let mut starts = vec![0];
        let bytes = text.as_bytes();
        for (index, byte) in bytes.iter().enumerate() {
            let ends = *byte == b'\n' || (*byte == b'\r' && bytes.get(index + 1) != Some(&b'\n'));
            if ends {
                starts.push(index + 1);
            }
        }
        Self { text, starts, before }
    }

    /// The place of `span`; the start of the text for none.
    pub(super) fn of(&self, span: Option<Span>) -> Position {
        let Some(span) = span else { return self.position(1, 0, 0) };
        // Only what stands on one line is underlined.
        let length = if span.end.line() == span.start.line() { span.len() } else { 0 };
        self.position(span.start.line(), span.start.col(), length)
    }

    /// A line (from 1), a column and a length in characters. What lies outside of the text is moved to its end.
    pub(super) fn position(&self, line: usize, column: usize, length: usize) -> Position {
        let line = line.clamp(1, self.starts.len());
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let end = self.starts.get(line).copied().unwrap_or(self.text.len());
        let content = self.text.get(start..end).unwrap_or_default().trim_end_matches(['\n', '\r']);
        let column = column.min(content.chars().count());
        let bytes = |count: usize| content.chars().take(count).map(char::len_utf8).sum::<usize>();
        let offset = bytes(column);
        Position {
            line,
            column: column + 1,
            offset: self.before + start + offset,
            length: bytes(column.saturating_add(length)) - offset,
        }
    }
}
