//! What is wrong with a manifest: where, what and how to mend it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Where in the object, as in `spec.triggers[0].http.path`; empty for the whole object.
    pub path: String,
    /// Where in the text, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// What is wrong, as in ``unknown field `hander` ``.
    pub message: String,
    /// What to do, as in ``did you mean `handler`?``.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
    /// What of the field it is about.
    #[serde(skip)]
    pub(crate) part: Part,
    /// Other fields that it follows from: where one of them could not be read, it is no news.
    #[serde(skip)]
    pub(crate) follows_from: &'static [&'static str],
}

/// The part of a field that a problem is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Part {
    /// What stands there.
    #[default]
    Value,
    /// That it stands there at all.
    Key,
}

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The place in bytes from the start of the text, for programs that underline.
    pub offset: usize,
    /// How many bytes belong to it; at least 0.
    pub length: usize,
}

impl Problem {
    /// A problem without a place in a text.
    #[must_use]
    pub fn new(path: impl Into<String>, message: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            path: path.into(),
            position: None,
            message: message.into(),
            fix,
            part: Part::Value,
            follows_from: &[],
        }
    }

    /// A problem that only holds if these fields were read as they are meant: it is not told when something is wrong with one of them.
    #[must_use]
    pub fn following_from(mut self, fields: &'static [&'static str]) -> Self {
        self.follows_from = fields;
        self
    }
}

/// `12:5 spec.handler: message; fix`, on one line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "{}:{} ", position.line, position.column)?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.fix {
            Some(fix) => write!(f, "; {fix}"),
            None => Ok(()),
        }
    }
}
