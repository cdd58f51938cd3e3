//! The table where there is no terminal: a line for each change.

use std::time::Duration;

use tokio::time::Instant;

/// After a restart functions are Ready before their instances are adopted: what is only Ready waits so long for its first line.
const SETTLES_WITHIN: Duration = Duration::from_secs(1);

/// What was said so far.
#[derive(Debug)]
pub(super) struct Plain {
    said: Vec<String>,
    /// Until then the first lines wait, if nothing but the number of instances is to change.
    settles: Option<Instant>,
}

impl Plain {
    pub(super) fn new(now: Instant) -> Self {
        Self { said: Vec::new(), settles: Some(now + SETTLES_WITHIN) }
    }

    /// When to look again though no row has changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.settles
    }

    /// The lines that are new, of these rows: name, URL, state, instances.
    pub(super) fn news(&mut self, rows: &[Vec<String>], now: Instant) -> String {
        let ready = rows.iter().all(|row| row.get(2).is_some_and(|state| state == "Ready"));
        if ready && self.settles.is_some_and(|at| now < at) {
            return String::new();
        }
        self.settles = None;
        // Calls that come and go are no news where every change is a line.
        let before = std::mem::replace(&mut self.said, rows.iter().map(|row| line(row)).collect());
        self.said.iter().filter(|line| !before.contains(line)).map(String::as_str).collect()
    }
}

/// `hello: Ready, http://127.0.0.1:8080/hello, instances 1`
fn line(row: &[String]) -> String {
    match row {
        [name, url, state, instances] => {
            let ready = instances.split(',').next().unwrap_or_default();
            let url = if url.is_empty() { String::new() } else { format!(" {url},") };
            format!("{name}: {state},{url} instances {ready}\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(state: &str, instances: &str) -> Vec<Vec<String>> {
        vec![["hello", "http://127.0.0.1:8080/hello", state, instances].map(str::to_owned).to_vec()]
    }

    #[test]
    fn a_change_is_one_line_and_a_call_is_none() {
        let now = Instant::now();
        let mut plain = Plain::new(now);
        assert_eq!(
            plain.news(&hello("Starting", "0"), now),
            "hello: Starting, http://127.0.0.1:8080/hello, instances 0\n"
        );
        let ready = "hello: Ready, http://127.0.0.1:8080/hello, instances 1\n";
        assert_eq!(plain.news(&hello("Ready", "1"), now), ready);
        assert_eq!(plain.news(&hello("Ready", "1, 1 busy"), now), "");
    }

    #[test]
    fn the_first_line_after_a_restart_counts_what_was_adopted() {
        let now = Instant::now();
        let mut plain = Plain::new(now);
        assert_eq!(plain.news(&hello("Ready", "0"), now), "");
        assert_eq!(plain.news(&hello("Ready", "1"), now + SETTLES_WITHIN / 2), "");
        let due = plain.due().unwrap();
        let ready = "hello: Ready, http://127.0.0.1:8080/hello, instances 1\n";
        assert_eq!(plain.news(&hello("Ready", "1"), due), ready);
        assert_eq!(plain.due(), None);
        assert_eq!(
            plain.news(&hello("Ready", "0"), due),
            "hello: Ready, http://127.0.0.1:8080/hello, instances 0\n"
        );
    }
}
