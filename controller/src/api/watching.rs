//! Watches: the changes of one kind of object as JSON, a line each.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::kinds;
use super::render::{Rendering, View};
use super::selector::Selector;
use crate::store::{self, Error, Event, Object, Watch};

/// How often a quiet watch says how far it has come, so that its client can resume there. Kubernetes does so about once a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);

/// A watch whose client names no end, ends after it; clients begin anew. As long as Kubernetes' shortest.
pub(super) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The annotation of the bookmark behind the objects that were there.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// What a watch was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) selector: Selector,
    pub(super) view: View,
    pub(super) bookmarks: bool,
    /// A bookmark says where the objects that were there end and the changes begin.
    pub(super) initial_end: bool,
    pub(super) timeout: Option<Duration>,
}

/// Answers with `first`, the objects that were there before the watch began, and then with the events of `watch`.
pub(super) fn answer<O: Object>(
    first: Vec<Arc<O>>,
    watch: Result<Watch<O>, Failure>,
    asked: Asked,
    shutdown: CancellationToken,
) -> Response {
    let end = Instant::now() + asked.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let (watch, first) = match watch {
        Ok(watch) => {
            let mut first: Vec<Value> =
                first.iter().map(|object| asked.event("ADDED", object.as_ref())).collect();
            if asked.initial_end {
                first.push(asked.bookmark::<O>(&watch, &initial_end()));
            }
            (Some(watch), first)
        }
        // Within the stream, not as the answer's status: clients of the watch cache expect it there and list again.
        Err(failure) => (None, vec![error_event(&failure)]),
    };
    let following = Following {
        first: first.into_iter(),
        watch,
        asked,
        end,
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        shutdown,
    };
    lines(following.events())
}

/// Says how far a watch has come. `kind` is its objects' version and kind.
pub(super) fn bookmark(
    rendering: &Rendering<'_>,
    kind: (&str, &str),
    version: &str,
    annotations: &Value,
) -> Value {
    let mut metadata = json!({ "resourceVersion": version });
    if !annotations.is_null() {
        metadata["annotations"] = annotations.clone();
    }
    let object = match rendering.view {
        View::Table(_) => rendering.list("", "", metadata, Vec::new()),
        View::Whole | View::Metadata => {
            rendering.one(json!({ "apiVersion": kind.0, "kind": kind.1, "metadata": metadata }))
        }
    };
    json!({ "type": "BOOKMARK", "object": object })
}

/// The annotations of the bookmark behind the objects that were there.
pub(super) fn initial_end() -> Value {
    json!({ INITIAL_END: "true" })
}

/// An answer of events, a line each.
pub(super) fn lines(events: impl Stream<Item = Value> + Send + 'static) -> Response {
    let lines = events.map(|event| Ok::<_, std::convert::Infallible>(Bytes::from(format!("{event}\n"))));
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

struct Following<O> {
    first: std::vec::IntoIter<Value>,
    watch: Option<Watch<O>>,
    asked: Asked,
    end: Instant,
    next_bookmark: Instant,
    shutdown: CancellationToken,
}

impl<O: Object> Following<O> {
    fn events(self) -> impl Stream<Item = Value> {
        futures_util::stream::unfold(self, |mut following| async move {
            let event = following.next().await?;
            Some((event, following))
        })
    }

    async fn next(&mut self) -> Option<Value> {
        if let Some(event) = self.first.next() {
            return Some(event);
        }
        loop {
            // `None` after an error: the error was the last.
            let watch = self.watch.as_mut()?;
            tokio::select! {
                () = self.shutdown.cancelled() => return None,
                () = tokio::time::sleep_until(self.end) => return None,
                () = tokio::time::sleep_until(self.next_bookmark), if self.asked.bookmarks => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    return Some(self.asked.bookmark::<O>(watch, &Value::Null));
                }
                // Cancel-safe: a dropped `next` has taken nothing.
                event = watch.next_and_before() => match event {
                    Ok((event, before)) => if let Some(event) = self.asked.wanted(&event, before.as_deref()) {
                        return Some(event);
                    },
                    Err(Error::Closed) => return None,
                    Err(error) => {
                        self.watch = None;
                        return Some(error_event(&Failure::from(error)));
                    }
                }
            }
        }
    }
}

impl Asked {
    /// The event as the client sees it: an object that begins to match is added for it, and one that ceases to is deleted.
    fn wanted<O: Object>(&self, event: &Event<O>, before: Option<&O>) -> Option<Value> {
        let object = event.object().as_ref();
        let was = before.is_some_and(|before| self.selector.matches(before));
        let is = !matches!(event, Event::Deleted(_)) && self.selector.matches(object);
        let name = match (was, is) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(self.event(name, object))
    }

    fn event<O: Object>(&self, name: &str, object: &O) -> Value {
        let object = store::to_json(object).unwrap_or_default();
        json!({ "type": name, "object": self.rendering::<O>().one(object) })
    }

    fn bookmark<O: Object>(&self, watch: &Watch<O>, annotations: &Value) -> Value {
        let version = watch.resource_version().to_string();
        bookmark(&self.rendering::<O>(), (&O::api_version(&()), &O::kind(&())), &version, annotations)
    }

    fn rendering<O: Object>(&self) -> Rendering<'static> {
        Rendering { view: self.view, columns: &kinds::of::<O>().columns, now: Timestamp::now() }
    }
}

/// The last event of a watch that cannot go on.
pub(super) fn error_event(failure: &Failure) -> Value {
    json!({ "type": "ERROR", "object": failure.to_json() })
}
