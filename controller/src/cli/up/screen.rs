//! The screen of `up`: lines that scroll away, and below them a table that stays. Without a terminal a line for each change.

use std::collections::BTreeMap;

use kube::ResourceExt;
use tokio::time::{Instant, sleep_until};

use hearth_function::Function;

use super::super::apply::{Verdict, caveat, verdict};
use super::super::error::Error;
use super::super::get::state;
use super::super::hint;
use super::super::logs;
use super::super::out::{self, Columns, Paint};
use super::feed::Key;
use super::plain::Plain;
use crate::api::ports::LogLine;

const HEADER: [&str; 4] = ["FUNCTION", "URL", "STATE", "INSTANCES"];

/// What is shown.
pub(super) struct Screen {
    /// Standard output can be redrawn.
    live: bool,
    /// Lines of the table on the terminal now.
    drawn: usize,
    rows: Vec<Vec<String>>,
    plain: Plain,
    /// A round of changes runs.
    changing: bool,
    /// What each function's failure said when it was shown last.
    failures: BTreeMap<String, String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        let plain = Plain::default();
        let (rows, failures) = (Vec::new(), BTreeMap::new());
        Self { live: out::is_live(), drawn: 0, rows, plain, changing: false, failures }
    }

    /// Whether a round of changes runs, of which it is not said yet what it changes. Without a table, where what was said stays, what comes
    /// of it waits until then.
    pub(super) fn changing(&mut self, changing: bool) {
        self.changing = changing;
    }

    /// The functions are these now.
    pub(super) fn functions(&mut self, functions: &BTreeMap<Key, Function>) -> Result<(), Error> {
        if self.changing && !self.live {
            return Ok(());
        }
        let rows: Vec<Vec<String>> = functions.values().map(row).collect();
        for function in functions.values() {
            self.failure(function)?;
        }
        if rows == self.rows {
            return Ok(());
        }
        self.rows = rows;
        if self.live { self.print("") } else { self.settle() }
    }

    /// Without a terminal: says what is new by now.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let news = self.plain.news(&self.rows, Instant::now());
        if news.is_empty() { Ok(()) } else { out::text(&news) }
    }

    /// Returns when [`Screen::settle`] has something to say though no function has changed. Cancel-safe.
    pub(super) async fn settled(&self) {
        match self.plain.due() {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// A function does not come up: why, once.
    fn failure(&mut self, function: &Function) -> Result<(), Error> {
        let name = function.name_any();
        match verdict(function) {
            Verdict::Failed { reason, message } => {
                if self.failures.insert(name.clone(), message.clone()).as_ref() != Some(&message) {
                    let text = if message.is_empty() { reason } else { message };
                    let fix = hint::of(&text).map(|fix| format!("\n    fix: {fix}")).unwrap_or_default();
                    self.remark(&format!("{name}: {}{fix}", text.trim_end().replace('\n', "\n    ")))?;
                }
            }
            Verdict::Ready | Verdict::Busy(_) => match caveat(function) {
                Some(caveat) => {
                    if self.failures.insert(name.clone(), caveat.clone()).as_ref() != Some(&caveat) {
                        self.remark(&format!("{name}: {caveat}"))?;
                    }
                }
                None => {
                    self.failures.remove(&name);
                }
            },
        }
        Ok(())
    }

    /// A function printed a line.
    pub(super) fn line(&mut self, function: &str, line: &LogLine) -> Result<(), Error> {
        self.print(&logs::prefixed(function, &logs::plain(line, false)))
    }

    /// A remark of ours.
    pub(super) fn remark(&mut self, text: &str) -> Result<(), Error> {
        self.print(&format!("{text}\n"))
    }

    /// An error that `up` survives.
    pub(super) fn error(&mut self, error: &Error) -> Result<(), Error> {
        let text = error.text();
        self.print(&format!("{}\n", text.trim_end()))
    }

    /// Whether it has a table that other output must not break.
    pub(super) fn is_live(&self) -> bool {
        self.live
    }

    /// Prints above the table, and the table anew. One write: nothing flickers.
    fn print(&mut self, text: &str) -> Result<(), Error> {
        if !self.live {
            return if text.is_empty() { Ok(()) } else { out::text(text) };
        }
        let table = self.table();
        let erase = if self.drawn == 0 { String::new() } else { format!("\u{1b}[{}A\u{1b}[J", self.drawn) };
        self.drawn = table.len();
        let table: String = table.iter().map(|line| format!("{line}\n")).collect();
        out::text(&format!("{erase}{text}{table}"))
    }

    /// The table's lines, none wider than the terminal: a wrapped line could not be erased.
    fn table(&self) -> Vec<String> {
        if self.rows.is_empty() {
            return Vec::new();
        }
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
        // A terminal that does not know its size says 0.
        let known = |cells: u16, usual: usize| if cells == 0 { usual } else { usize::from(cells) };
        let width = size.map_or(80, |size| known(size.ws_col, 80)).max(20);
        let height = size.map_or(24, |size| known(size.ws_row, 24)).max(5);
        let columns = Columns::new(&HEADER, &self.rows);
        let mut lines = vec![String::new(), fit(&columns.row(&HEADER), width)];
        // What does not fit on the screen could not be erased either.
        let room = height.saturating_sub(4).max(1);
        for row in self.rows.iter().take(room) {
            let line = fit(&columns.row(row), width);
            lines.push(match row.get(2).map(String::as_str) {
                Some("Ready") => colored(&line, "Ready", Paint::Good),
                Some(state @ ("Pending" | "Building" | "Starting")) => colored(&line, state, Paint::Busy),
                Some(state) => colored(&line, state, Paint::Bad),
                None => line,
            });
        }
        if self.rows.len() > room {
            lines
                .push(fit(&format!("… and {} more: hearth get functions -A", self.rows.len() - room), width));
        }
        lines
    }
}

/// Only the state's own word.
fn colored(line: &str, word: &str, paint: Paint) -> String {
    line.replacen(&format!("  {word}  "), &format!("  {}  ", out::paint(word, paint)), 1)
}

fn fit(line: &str, width: usize) -> String {
    line.trim_end().chars().take(width.saturating_sub(1)).collect()
}

fn row(function: &Function) -> Vec<String> {
    let status = function.status.clone().unwrap_or_default();
    let counts = status.instances;
    let namespace = function.namespace().filter(|namespace| namespace != hearth_function::DEFAULT_NAMESPACE);
    let name = namespace
        .map_or_else(|| function.name_any(), |namespace| format!("{namespace}/{}", function.name_any()));
    let mut instances = vec![counts.ready.to_string()];
    if counts.busy > 0 {
        instances.push(format!("{} busy", counts.busy));
    }
    if counts.starting > 0 {
        instances.push(format!("{} starting", counts.starting));
    }
    vec![name, status.url.unwrap_or_default(), state(function), instances.join(", ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_table_what_comes_of_a_change_waits_until_the_change_was_said() {
        let mut screen = Screen::new();
        screen.live = false;
        // Nothing is printed of it yet: its instances are about to be counted.
        let function = serde_json::json!({
            "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "hello" },
            "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
            "status": { "conditions": [{ "type": "Ready", "status": "True", "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z" }] },
        });
        let key = ("default".to_owned(), "hello".to_owned());
        let functions = BTreeMap::from([(key, serde_json::from_value(function).unwrap())]);
        screen.changing(true);
        screen.functions(&functions).unwrap();
        assert_eq!((screen.rows.len(), screen.plain.due()), (0, None));
        screen.changing(false);
        screen.functions(&functions).unwrap();
        assert_eq!((screen.rows.len(), screen.plain.due().is_some()), (1, true));
    }

    #[test]
    fn a_line_that_is_too_wide_is_cut() {
        assert_eq!(fit("hello  world   \n", 80), "hello  world");
        assert_eq!(fit("hello", 4), "hel");
    }
}
