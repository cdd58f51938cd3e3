//! Watches: the changes of one kind of object as JSON, a line each.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use http::header;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::selector::Selector;
use crate::store::{Error, Event, Object, Watch};

/// How often a quiet watch says how far it has come, so that its client can resume there. Kubernetes does so about once a minute.
const BOOKMARK_EVERY: Duration = Duration::from_secs(30);

/// A watch whose client names no end, ends after it; clients begin anew. As long as Kubernetes' shortest.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// What a watch was asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) selector: Selector,
    pub(super) bookmarks: bool,
    pub(super) timeout: Option<Duration>,
}

/// Answers with the events of `watch` after those of `first`.
pub(super) fn answer<O: Object>(
    first: Vec<Value>,
    watch: Result<Watch<O>, Failure>,
    asked: Asked,
    shutdown: CancellationToken,
) -> Response {
    let end = Instant::now() + asked.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let (watch, first) = match watch {
        Ok(watch) => (Some(watch), first),
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
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(following.lines())).into_response()
}

/// `ADDED` for an object that was there before the watch began.
pub(super) fn added<O: Object>(object: &O) -> Value {
    json!({ "type": "ADDED", "object": object })
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
    fn lines(self) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
        futures_util::stream::unfold(self, |mut following| async move {
            let event = following.next().await?;
            Some((Ok(Bytes::from(format!("{event}\n"))), following))
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
                    return Some(bookmark::<O>(watch));
                }
                // Cancel-safe: a dropped `next` has taken nothing.
                event = watch.next() => match event {
                    Ok(event) => if let Some(event) = self.asked.wanted(&event) {
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
    /// The event as the client sees it: an object whose labels no longer match is deleted for it.
    fn wanted<O: Object>(&self, event: &Event<O>) -> Option<Value> {
        let object = event.object().as_ref();
        if self.selector.matches(object) {
            Some(json!({ "type": event.name(), "object": object }))
        } else if self.selector.can_change()
            && self.selector.concerns(object)
            && matches!(event, Event::Modified(_))
        {
            // Whether the client had it is not known here; a deletion of what it did not have does no harm.
            Some(json!({ "type": "DELETED", "object": object }))
        } else {
            None
        }
    }
}

fn bookmark<O: Object>(watch: &Watch<O>) -> Value {
    json!({
        "type": "BOOKMARK",
        "object": {
            "kind": O::kind(&()), "apiVersion": O::api_version(&()),
            "metadata": { "resourceVersion": watch.resource_version().to_string() },
        },
    })
}

fn error_event(failure: &Failure) -> Value {
    json!({ "type": "ERROR", "object": failure.to_json() })
}
