//! How something goes, told on standard error.

use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressStyle};

use super::out::{self, Paint};

/// Tells on standard error how something goes: a line that changes on a terminal, a line for each change without one.
pub(super) struct Progress {
    name: String,
    bar: ProgressBar,
    last: Mutex<String>,
}

impl Progress {
    /// Of what has this name. Says nothing yet.
    pub(super) fn new(name: &str) -> Self {
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        Self { name: name.to_owned(), bar, last: Mutex::default() }
    }

    /// How far it is now.
    pub(super) fn say(&self, what: &str) {
        let first = what.lines().next().unwrap_or_default();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *last, first.to_owned()) == first {
            return;
        }
        if self.bar.is_hidden() {
            out::note(&format!("{}: {first}", self.name));
        } else {
            self.bar.set_message(format!("{}: {first}", self.name));
            self.bar.tick();
        }
    }

    /// That it is done, for good.
    pub(super) fn done(&self, what: &str) {
        self.bar.finish_and_clear();
        out::note(&format!("{}: {}", self.name, out::paint_stderr(what, Paint::Good)));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
