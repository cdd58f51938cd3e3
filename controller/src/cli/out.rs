//! What goes to standard output and standard error: tables for people, JSON and YAML for programs, and no noise when a pipe is closed.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::args::Format;
use super::error::Error;

/// Writes `text` to standard output as it is.
///
/// # Errors
/// [`Error::Pipe`] when the reader has gone.
pub(super) fn text(text: &str) -> Result<(), Error> {
    bytes(text.as_bytes())
}

/// Writes `text` and the end of the line to standard output.
///
/// # Errors
/// [`Error::Pipe`] when the reader has gone.
pub(super) fn line(text: &str) -> Result<(), Error> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output and flushes: nothing lingers when a program follows along.
///
/// # Errors
/// [`Error::Pipe`] when the reader has gone.
pub(super) fn bytes(content: &[u8]) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(content).and_then(|()| out.flush()).map_err(Error::output)
}

/// Writes a remark for people to standard error; a program's output stays clean. Nobody to read it is no reason to fail.
pub(super) fn note(text: &str) {
    // Standard error may be closed; there is nowhere left to say so.
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// Writes `value` in the form asked for.
///
/// # Errors
/// [`Error::Pipe`] when the reader has gone.
pub(super) fn object<T: Serialize>(value: &T, format: Format) -> Result<(), Error> {
    match format {
        Format::Json => {
            let json = serde_json::to_string_pretty(value)
                .map_err(|error| Error::failed(format!("cannot write this as JSON: {error}")))?;
            line(&json)
        }
        Format::Yaml => text(&yaml(value)?),
    }
}

/// `value` as a YAML document, ending with a line's end.
pub(super) fn yaml<T: Serialize>(value: &T) -> Result<String, Error> {
    let mut yaml = serde_saphyr::to_string(value)
        .map_err(|error| Error::failed(format!("cannot write this as YAML: {error}")))?;
    if !yaml.ends_with('\n') {
        yaml.push('\n');
    }
    Ok(yaml)
}

/// Columns that stay as wide as they were, for rows that come later.
#[derive(Debug, Clone)]
pub(super) struct Columns(Vec<usize>);

impl Columns {
    /// Wide enough for the header and these rows.
    pub(super) fn new(header: &[&str], rows: &[Vec<String>]) -> Self {
        let widest = |(column, title): (usize, &&str)| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .fold(title.len(), usize::max)
        };
        Self(header.iter().enumerate().map(widest).collect())
    }

    /// One line, with its end. Never cut: a terminal wraps or a pager scrolls, and `awk` finds every field.
    pub(super) fn row<T: AsRef<str>>(&self, cells: &[T]) -> String {
        let padded = |(cell, width): (&T, &usize)| {
            let text = if cell.as_ref().is_empty() { "-" } else { cell.as_ref() };
            format!("{text:<width$}  ")
        };
        let line: String = cells.iter().zip(&self.0).map(padded).collect();
        format!("{}\n", line.trim_end())
    }
}

/// A table of left-aligned columns without lines, as people know it from `kubectl` and `docker`.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let columns = Columns::new(header, rows);
    std::iter::once(columns.row(header)).chain(rows.iter().map(|row| columns.row(row))).collect()
}

/// Whether standard output is a terminal that can be redrawn.
pub(super) fn is_live() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether to use colour on standard output: a terminal, and `NO_COLOR` (no-color.org) not set to anything.
pub(super) fn has_color() -> bool {
    is_live() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A colour.
#[derive(Debug, Clone, Copy)]
pub(super) enum Paint {
    /// It is well.
    Good,
    /// It is under way.
    Busy,
    /// It failed.
    Bad,
    /// Less important.
    Dim,
}

/// `text` in this colour, when standard output has colour.
pub(super) fn paint(text: &str, paint: Paint) -> String {
    colored(text, paint, has_color())
}

/// `text` in this colour, when standard error has colour.
pub(super) fn paint_stderr(text: &str, paint: Paint) -> String {
    colored(text, paint, super::error::color_on_stderr())
}

fn colored(text: &str, paint: Paint, colour: bool) -> String {
    let code = match paint {
        Paint::Good => 32,
        Paint::Busy => 33,
        Paint::Bad => 31,
        Paint::Dim => 2,
    };
    if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// How long ago `then` was, short: `42s`, `5m`, `3h`, `12d`.
pub(super) fn age(then: jiff::Timestamp, now: jiff::Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second()).max(0);
    match seconds {
        ..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Bytes for people: `12.3Mi`.
pub(super) fn bytes_for_people(count: u64) -> String {
    let units = [("Gi", 1u64 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)];
    match units.iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(count) * 10 / u128::from(*unit);
            format!("{}.{}{name}", tenths / 10, tenths % 10)
        }
        None => format!("{count}B"),
    }
}

/// Rows of the terminal on standard output.
pub(super) fn rows() -> usize {
    let rows = rustix::termios::tcgetwinsize(io::stdout()).map_or(0, |size| usize::from(size.ws_row));
    // A terminal that does not know its size says 0.
    if rows == 0 { 24 } else { rows }
}

/// The first line of a message, and a mark when there are more: the conditions and the log have the rest.
pub(super) fn first_line(message: &str) -> String {
    let mut lines = message.trim_end().lines();
    let first = lines.next().unwrap_or_default();
    if lines.next().is_none() { first.to_owned() } else { format!("{first} …") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_is_its_first_in_a_table() {
        assert_eq!(first_line("Error: x\n  at y\n"), "Error: x …");
        assert_eq!(first_line("Error: x\n"), "Error: x");
        assert_eq!(first_line(""), "");
    }

    #[test]
    fn a_table_has_aligned_columns_and_no_trailing_space() {
        let table = table(
            &["NAME", "STATE"],
            &[vec!["hello".to_owned(), "Ready".to_owned()], vec!["a".to_owned(), String::new()]],
        );
        assert_eq!(table, "NAME   STATE\nhello  Ready\na      -\n");
    }

    #[test]
    fn ages_are_short() {
        let now = jiff::Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| age(jiff::Timestamp::from_second(1_000_000 - seconds).unwrap(), now);
        assert_eq!(
            [ago(0), ago(119), ago(120), ago(7200), ago(200_000), ago(-5)],
            ["0s", "119s", "2m", "2h", "2d", "0s"]
        );
    }

    #[test]
    fn sizes_are_rounded_down() {
        assert_eq!(
            [bytes_for_people(12), bytes_for_people(1536), bytes_for_people(128 << 20)],
            ["12B", "1.5Ki", "128.0Mi"]
        );
    }
}
