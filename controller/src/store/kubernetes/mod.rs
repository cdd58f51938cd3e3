//! The store of a cluster: the API server has the objects, and memory follows it.
//!
//! ```text
//!                     ┌── answers ──┐
//!  Writer ── writes ──┤ API server  ├── watches ──► Follower ─┐
//!    └─ what was answered           └─────────────────────────┤
//!                     └──────────────► Book (pure) ───────────┴─► memory: objects + history ──► Store, Watch
//! ```
//!
//! A write is in memory when it returns, so whoever wrote sees it at the next look. Versions of [`Watch`](super::Watch) and
//! [`Listed`](super::Listed) are this process's own; `metadata.resourceVersion` is the API server's.

mod book;
mod elsewhere;
mod follow;
mod lists;
mod lost;
mod reading;
mod write;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use elsewhere::{Elsewhere, Taken};
pub use follow::Follower;
pub(super) use write::Writer;

use super::object::{Key, Stored};
use super::state::{Change, State};
use super::{HISTORY, Store, Truth};
use book::{Book, From, Scope};

/// Which objects a cluster's store holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The namespaces that are followed; none: all of them.
    pub namespaces: Vec<String>,
    /// Which Hearth this is, by its namespace: Functions that another has claimed are not in the store. Without one, nothing is claimed.
    pub installation: Option<String>,
}

/// A store whose truth is the API server, and what keeps its memory up to date.
#[derive(Debug)]
pub struct Opened {
    /// Empty until `listed`.
    pub store: Store,
    /// To be run, as long as the store is used.
    pub follower: Follower,
    /// Answered when everything was read once, but for namespaces that refuse it for long ([`Store::unlisted`]). Before that nothing may be concluded
    /// from what is missing.
    pub listed: oneshot::Receiver<()>,
    /// Functions that are not in the store because another Hearth has claimed them.
    pub elsewhere: Elsewhere,
}

/// Makes the store; nothing is asked of the API server before [`Follower::run`].
#[must_use]
pub fn open(client: kube::Client, config: &Config) -> Opened {
    let version = watch::Sender::new(0);
    let heard = version.subscribe();
    let state = Arc::new(Mutex::new(State::new(HISTORY)));
    let book = Mutex::new(Book::new(config.installation.clone()));
    let unlisted = Unlisted::default();
    let taken = watch::Sender::new(0);
    let memory =
        Arc::new(Memory { state: Arc::clone(&state), book, version, taken, unlisted: unlisted.clone() });
    let ended = CancellationToken::new();
    let claim = config.installation.clone();
    let writer = Writer::new(client.clone(), Arc::downgrade(&memory), unlisted, ended.clone(), claim);
    let elsewhere = Elsewhere::new(&memory);
    let (follower, listed) = Follower::new(client, &config.namespaces, memory, ended);
    let store = Store { truth: Truth::Cluster(writer), state, version: heard };
    Opened { store, follower, listed, elsewhere }
}

/// Namespaces of which it is not known what they hold.
#[derive(Debug, Clone, Default)]
struct Unlisted(watch::Sender<BTreeSet<String>>);

impl Unlisted {
    fn get(&self) -> BTreeSet<String> {
        self.0.borrow().clone()
    }

    fn follow(&self) -> watch::Receiver<BTreeSet<String>> {
        self.0.subscribe()
    }

    /// What was there before. Nobody is told of what is as it was.
    fn replace(&self, namespaces: BTreeSet<String>) -> BTreeSet<String> {
        let mut before = namespaces.clone();
        self.0.send_if_modified(|known| {
            before = std::mem::replace(known, namespaces);
            before != *known
        });
        before
    }
}

/// Objects, and who is told of their changes. The follower owns it: when that ends, watches do.
#[derive(Debug)]
struct Memory {
    state: Arc<Mutex<State>>,
    book: Mutex<Book>,
    version: watch::Sender<u64>,
    /// Counts changes of what others have claimed.
    taken: watch::Sender<u64>,
    unlisted: Unlisted,
}

impl Memory {
    fn arrive(&self, object: Stored) {
        self.change(|book, state| book.arrive(state, object));
    }

    fn arrive_unreadable(&self, placeholder: Stored, error: &str) {
        self.change(|book, state| book.arrive_unreadable(state, placeholder, error));
    }

    fn leave(&self, key: &Key, last: Option<&Stored>, from: From) {
        self.change(|book, state| book.leave(state, key, last, from));
    }

    fn begin(&self, scope: &Scope) {
        self.change(|book, _| {
            book.begin(scope);
            Vec::new()
        });
    }

    fn end(&self, scope: &Scope) {
        self.change(|book, state| book.end(state, scope));
    }

    fn stored(&self, key: &Key) -> Option<Stored> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stored(key).cloned()
    }

    fn change(&self, decide: impl FnOnce(&mut Book, &State) -> Vec<Change>) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = decide(&mut book, &state);
        let claims = book.claims();
        self.taken.send_if_modified(|known| std::mem::replace(known, claims) != claims);
        let Some(version) = changes.last().map(|change| change.version) else { return };
        state.apply(changes);
        drop(state);
        self.version.send_replace(version);
    }
}
