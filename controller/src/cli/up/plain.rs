//! The table where there is no terminal: a line for each change.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A function is Ready a moment before its instances are counted, those that a restart adopts too: a line that says none waits so long.
const COUNTED_WITHIN: Duration = Duration::from_secs(2);

/// What was said so far, by function.
#[derive(Debug, Default)]
pub(super) struct Plain {
    said: BTreeMap<String, String>,
    /// Functions that are Ready and have no instance yet: until when their line waits.
    held: BTreeMap<String, Instant>,
}

impl Plain {
    /// When to look again though no row has changed.
    pub(super) fn due(&self) -> Option<Instant> {
        self.held.values().min().copied()
    }

    /// The lines that are new, of these rows: name, URL, state, instances.
    pub(super) fn news(&mut self, rows: &[Vec<String>], now: Instant) -> String {
        let known = |name: &String| rows.iter().any(|row| row.first() == Some(name));
        self.said.retain(|name, _| known(name));
        self.held.retain(|name, _| known(name));
        let mut news = String::new();
        for row in rows {
            let [name, url, state, instances] = row.as_slice() else { continue };
            // Calls that come and go are no news where every change is a line.
            let count = instances.split(',').next().unwrap_or_default();
            let comes_up = state == "Ready" && count == "0" && !self.was_ready(name);
            if comes_up && now < *self.held.entry(name.clone()).or_insert(now + COUNTED_WITHIN) {
                continue;
            }
            self.held.remove(name);
            let line = line(name, url, state, count);
            if self.said.get(name) != Some(&line) {
                news += &line;
                self.said.insert(name.clone(), line);
            }
        }
        news
    }

    fn was_ready(&self, name: &str) -> bool {
        self.said.get(name).is_some_and(|line| line.starts_with(&format!("{name}: Ready,")))
    }
}

/// `hello: Ready, http://127.0.0.1:8080/hello, instances 1`
fn line(name: &str, url: &str, state: &str, count: &str) -> String {
    let url = if url.is_empty() { String::new() } else { format!(" {url},") };
    format!("{name}: {state},{url} instances {count}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(state: &str, instances: &str) -> Vec<Vec<String>> {
        vec![["hello", "http://127.0.0.1:8080/hello", state, instances].map(str::to_owned).to_vec()]
    }

    const STARTING: &str = "hello: Starting, http://127.0.0.1:8080/hello, instances 0\n";
    const ONE: &str = "hello: Ready, http://127.0.0.1:8080/hello, instances 1\n";
    const NONE: &str = "hello: Ready, http://127.0.0.1:8080/hello, instances 0\n";

    #[test]
    fn a_change_is_one_line_and_a_call_is_none() {
        let (now, mut plain) = (Instant::now(), Plain::default());
        assert_eq!(plain.news(&hello("Starting", "0"), now), STARTING);
        assert_eq!(plain.news(&hello("Ready", "1"), now), ONE);
        assert_eq!(plain.news(&hello("Ready", "1, 1 busy"), now), "");
        assert_eq!(plain.news(&hello("Ready", "0"), now), NONE);
    }

    #[test]
    fn what_comes_up_is_said_with_its_instances_if_it_has_any_soon() {
        // At a start, and when a restart adopts them: then it is the first line.
        for before in [Some("Starting"), None] {
            let (now, mut plain) = (Instant::now(), Plain::default());
            if let Some(state) = before {
                plain.news(&hello(state, "0"), now);
            }
            assert_eq!(plain.news(&hello("Ready", "0"), now), "");
            assert!(plain.due().is_some());
            assert_eq!(plain.news(&hello("Ready", "1"), now), ONE);
            assert_eq!(plain.due(), None);
        }
        let (now, mut plain) = (Instant::now(), Plain::default());
        plain.news(&hello("Ready", "0"), now);
        let due = plain.due().unwrap();
        assert_eq!(plain.news(&hello("Ready", "0"), due), NONE, "one that is at zero says so");
        assert_eq!((plain.due(), plain.news(&hello("Ready", "0"), due)), (None, String::new()));
    }
}
