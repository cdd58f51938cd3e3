//! What happened lately, and the watches that follow it. A watch holds only its place; what it has not read yet is in the one bounded
//! history, and one that falls behind it must list again. Replayed, it gives the objects (INV-10).

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::error::Error;
use super::object::{Object, Stored};
use super::plan::ResourceVersion;
use super::state::{Change, State};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happened {
    Added,
    Modified,
    Deleted,
}

/// A change, and the object as it was before; mostly that of the change before, and so nothing that is held for it alone.
#[derive(Debug)]
pub(super) struct Happening {
    pub(super) change: Change,
    /// `None` for one that is new.
    pub(super) before: Option<Stored>,
}

/// The last changes, oldest first, with growing versions.
#[derive(Debug)]
pub(super) struct History {
    changes: VecDeque<Happening>,
    capacity: usize,
    /// Everything after this version is in `changes`.
    oldest: u64,
}

impl History {
    pub(super) fn new(capacity: usize) -> Self {
        Self { changes: VecDeque::new(), capacity: capacity.max(1), oldest: 0 }
    }

    pub(super) fn restart(&mut self, version: u64) {
        self.changes.clear();
        self.oldest = version;
    }

    pub(super) fn push(&mut self, happening: Happening) {
        if self.changes.len() == self.capacity
            && let Some(forgotten) = self.changes.pop_front()
        {
            self.oldest = forgotten.change.version;
        }
        self.changes.push_back(happening);
    }

    /// Whether a watch can begin at `since`, with the store at version `now`. One from the future is of a store that is no more.
    pub(super) fn check(&self, since: u64, now: u64) -> Result<(), Error> {
        if (self.oldest..=now).contains(&since) {
            Ok(())
        } else {
            Err(Error::Expired {
                since: ResourceVersion::new(since),
                oldest: ResourceVersion::new(self.oldest),
            })
        }
    }

    pub(super) fn after(&self, cursor: u64) -> impl Iterator<Item = &Happening> {
        let start = self.changes.partition_point(|happening| happening.change.version <= cursor);
        self.changes.range(start..)
    }
}

/// Something that happened to an object.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<O> {
    /// It is new.
    Added(Arc<O>),
    /// It has changed.
    Modified(Arc<O>),
    /// It is gone; this is its last form, at the version of its deletion.
    Deleted(Arc<O>),
}

impl<O> Event<O> {
    /// The object that it is about.
    #[must_use]
    pub fn object(&self) -> &Arc<O> {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) => object,
        }
    }

    /// As in the events of a Kubernetes watch: `ADDED`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Added(_) => "ADDED",
            Self::Modified(_) => "MODIFIED",
            Self::Deleted(_) => "DELETED",
        }
    }
}

/// An event, and the object as it was before.
type EventAndBefore<O> = (Event<O>, Option<Arc<O>>);

/// Follows the changes of one kind of object.
#[derive(Debug)]
pub struct Watch<O> {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) version: watch::Receiver<u64>,
    pub(super) cursor: u64,
    pub(super) kind: PhantomData<fn() -> O>,
}

impl<O: Object> Watch<O> {
    /// The next event, as soon as there is one.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Expired`] when this watch has fallen behind the history: list again. [`Error::Closed`] when the store was closed.
    pub async fn next(&mut self) -> Result<Event<O>, Error> {
        self.next_and_before().await.map(|(event, _)| event)
    }

    /// As [`Watch::next`], with the object as it was before the event; `None` for one that is new.
    ///
    /// # Cancel safety
    /// As [`Watch::next`].
    ///
    /// # Errors
    /// Those of [`Watch::next`].
    pub async fn next_and_before(&mut self) -> Result<EventAndBefore<O>, Error> {
        loop {
            // Marked as seen before the look, so that a change after the look wakes.
            self.version.borrow_and_update();
            if let Some(event) = self.look()? {
                return Ok(event);
            }
            self.version.changed().await.map_err(|_| Error::Closed)?;
        }
    }

    /// How far this watch has come: what a bookmark says.
    #[must_use]
    pub fn resource_version(&self) -> ResourceVersion {
        ResourceVersion::new(self.cursor)
    }

    fn look(&mut self) -> Result<Option<EventAndBefore<O>>, Error> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.history().check(self.cursor, state.version())?;
        for Happening { change, before } in state.history().after(self.cursor) {
            if let Some(object) = O::peel(&change.object) {
                self.cursor = change.version;
                let object = Arc::clone(object);
                let event = match change.happened {
                    Happened::Added => Event::Added(object),
                    Happened::Modified => Event::Modified(object),
                    Happened::Deleted => Event::Deleted(object),
                };
                return Ok(Some((event, before.as_ref().and_then(O::peel).cloned())));
            }
        }
        // Nothing of this kind up to here: changes of other kinds must not let it expire.
        self.cursor = state.version();
        Ok(None)
    }
}
