//! Watches of events: what has come and gone is found by looking again, for events are a view and tell nobody.
//!
//! Nothing is kept of what was told to whom. So that a watch can resume, a version says which events there were: the second, so that
//! versions grow, and a mark of all of them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use axum::response::Response;
use futures_util::Stream;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{COLUMNS, Look};
use crate::api::failure::Failure;
use crate::api::objects::{Beginning, ListQuery};
use crate::api::render::{Rendering, View};
use crate::api::watching;

/// Between two looks for new events.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The time of an event, and its name, which says all that it is about.
type Key = (Option<Timestamp>, String);

/// Events by their time, so that the newest is last.
pub(super) type Events = BTreeMap<Key, Value>;

/// Which events there are, as a number: the sum of theirs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mark(u64);

impl Mark {
    /// The lower bits of a version; those above are seconds, and the whole is positive as a signed number until 2242.
    const BITS: u32 = 30;
    const MASK: u64 = (1 << Self::BITS) - 1;

    pub(super) fn of<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Self {
        keys.into_iter().fold(Self::default(), Self::with)
    }

    fn with(self, key: &Key) -> Self {
        Self(self.0.wrapping_add(number(key)) & Self::MASK)
    }

    fn without(self, key: &Key) -> Self {
        Self(self.0.wrapping_sub(number(key)) & Self::MASK)
    }

    /// The version of these events at `now`, as text.
    pub(super) fn version(self, now: Timestamp) -> String {
        let second = u64::try_from(now.as_second()).unwrap_or(0);
        ((second << Self::BITS) | self.0).to_string()
    }

    fn of_version(version: u64) -> Self {
        Self(version & Self::MASK)
    }
}

fn number(key: &Key) -> u64 {
    // Without a random key: the same for every watch.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// How many of these events, oldest first, there were at a version; `None` when it cannot be told, for some are gone or have come between.
fn seen(events: &Events, version: u64) -> Option<usize> {
    let wanted = Mark::of_version(version);
    let mut mark = Mark::default();
    let mut found = (mark == wanted).then_some(0);
    for (before, key) in events.keys().enumerate() {
        mark = mark.with(key);
        if mark == wanted {
            found = Some(before + 1);
        }
    }
    found
}

/// The answer to a watch.
pub(super) async fn answer(look: Look, view: View, asked: &ListQuery) -> Result<Response, Failure> {
    let (beginning, since) = (asked.beginning()?, asked.since());
    let known = if beginning.is_with_all() {
        Events::new()
    } else {
        let events = look.events().await;
        let count = if since.is_empty() { Some(events.len()) } else { seen(&events, version(since)?) };
        let Some(count) = count else {
            let now = Mark::of(events.keys()).version(Timestamp::now());
            // Within the stream, as for every watch.
            let last = watching::error_event(&Failure::expired(&since, &now));
            return Ok(watching::lines(futures_util::stream::iter([last])));
        };
        events.into_iter().take(count).collect()
    };
    let following = Following {
        look,
        view,
        mark: Mark::of(known.keys()),
        known,
        told: Vec::new().into_iter(),
        initial_end: beginning == Beginning::Streamed,
        end: Instant::now() + asked.timeout().unwrap_or(watching::DEFAULT_TIMEOUT),
    };
    Ok(watching::lines(following.events()))
}

fn version(text: &str) -> Result<u64, Failure> {
    text.parse().map_err(|_| Failure::bad_request(&format!("invalid resource version {text:?}")))
}

struct Following {
    look: Look,
    view: View,
    known: Events,
    /// Of those that are known.
    mark: Mark,
    /// Found, and not sent yet.
    told: std::vec::IntoIter<Value>,
    /// A bookmark is still to say where the events that were there end.
    initial_end: bool,
    end: Instant,
}

impl Following {
    fn events(self) -> impl Stream<Item = Value> {
        futures_util::stream::unfold(self, |mut following| async move {
            let event = following.next().await?;
            Some((event, following))
        })
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.told.next() {
                return Some(event);
            }
            let events = self.look.events().await;
            let now = Timestamp::now();
            let rendering = Rendering { view: self.view, columns: &COLUMNS, now };
            let (changes, mark) = changes(&self.known, &events, self.mark, now);
            let mut told: Vec<Value> = changes
                .into_iter()
                .map(|(name, event)| json!({ "type": name, "object": rendering.one(event) }))
                .collect();
            (self.known, self.mark) = (events, mark);
            if std::mem::take(&mut self.initial_end) {
                let version = mark.version(now);
                told.push(watching::bookmark(
                    &rendering,
                    ("v1", "Event"),
                    &version,
                    &watching::initial_end(),
                ));
            }
            if told.is_empty() {
                tokio::select! {
                    () = self.look.context.shutdown.cancelled() => return None,
                    () = tokio::time::sleep_until(self.end) => return None,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            self.told = told.into_iter();
        }
    }
}

/// What leads from the events that are known, with their mark, to those that there are, and the mark of these. Each carries the version with
/// which the watch can be resumed behind it.
fn changes(
    known: &Events,
    events: &Events,
    mut mark: Mark,
    now: Timestamp,
) -> (Vec<(&'static str, Value)>, Mark) {
    let mut changes = Vec::new();
    let mut tell = |name, event: &Value, mark: Mark| {
        let mut event = event.clone();
        event["metadata"]["resourceVersion"] = json!(mark.version(now));
        changes.push((name, event));
    };
    for (key, event) in known.iter().filter(|(key, _)| !events.contains_key(*key)) {
        mark = mark.without(key);
        tell("DELETED", event, mark);
    }
    for (key, event) in events.iter().filter(|(key, _)| !known.contains_key(*key)) {
        mark = mark.with(key);
        tell("ADDED", event, mark);
    }
    (changes, mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    /// An event for each second.
    fn events(seconds: &[i64]) -> Events {
        let event = |second: &i64| {
            let name = format!("e{second}");
            ((Timestamp::from_second(*second).ok(), name.clone()), json!({ "metadata": { "name": name } }))
        };
        seconds.iter().map(event).collect()
    }

    fn version_of(events: &Events) -> u64 {
        Mark::of(events.keys()).version(now()).parse().unwrap()
    }

    #[test]
    fn a_version_says_which_of_the_events_there_were() {
        let before = events(&[1, 2]);
        let since = version_of(&before);
        assert_eq!(seen(&before, since), Some(2));
        assert_eq!(seen(&events(&[1, 2, 3, 4]), since), Some(2), "what came is still to be told");
        assert_eq!(seen(&events(&[2, 3]), since), None, "one is gone");
        assert_eq!(seen(&events(&[0, 1, 2]), since), None, "one that is older was found later");
        assert_eq!(seen(&before, version_of(&Events::new())), Some(0));
        assert!(i64::try_from(since).is_ok());
    }

    #[test]
    fn versions_grow_with_time() {
        let later = Timestamp::from_second(1_800_000_001).unwrap();
        let later: u64 = Mark::default().version(later).parse().unwrap();
        assert!(later > version_of(&events(&[1, 2, 3])));
    }

    #[test]
    fn a_watch_resumes_behind_each_event() {
        let (known, there) = (events(&[1, 2]), events(&[2, 3, 4]));
        let (told, mark) = changes(&known, &there, Mark::of(known.keys()), now());
        let left: Vec<_> = told
            .iter()
            .map(|(name, event)| {
                let since = version(event["metadata"]["resourceVersion"].as_str().unwrap()).unwrap();
                (*name, event["metadata"]["name"].as_str().unwrap(), seen(&there, since))
            })
            .collect();
        let expected = [("DELETED", "e1", Some(1)), ("ADDED", "e3", Some(2)), ("ADDED", "e4", Some(3))];
        assert_eq!(left, expected);
        assert_eq!(mark, Mark::of(there.keys()));
    }
}
