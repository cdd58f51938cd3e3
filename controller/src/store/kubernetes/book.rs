//! How what the API server answers and what its watches tell become one history: pure.
//!
//! A write is answered before or after the watch tells of it, and a watch that was lost begins with a list of everything. So an object may
//! arrive twice, late, or not at all, and one that was deleted may seem to come back for a moment. What is older than what is known changes
//! nothing; what a list leaves out is gone, unless it was written while the list was made; and what a watch has told to be gone never comes back.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use hearth_function::FunctionId;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::history::Happened;
use super::super::object::{Key, Kind, Stored, mark_unreadable};
use super::super::state::{Change, State};
use super::elsewhere::{Taken, claimant};

/// What one watch follows: a kind of object, in one namespace or in all (`None`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Scope {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
}

impl Scope {
    fn holds(&self, key: &Key) -> bool {
        self.kind == key.kind && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

/// Whence something is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// The answer to a write of ours.
    Answer,
    /// A watch, or the list that it begins with.
    Watch,
}

/// How many objects that are gone are remembered. A write is answered within seconds, and hardly ever are so many deleted meanwhile.
const GONE: usize = 1024;

/// What is remembered beside the objects.
#[derive(Debug, Default)]
pub(super) struct Book {
    /// Objects that we deleted, by uid, until their watch has told of it: until then it may still tell of them as alive.
    deleted: BTreeMap<Key, Deleted>,
    /// Objects that watches have told to be gone: a write of ours may be answered after that, and tells of them as alive.
    gone: Gone,
    /// Lists that are being read, each with what it holds and what was written meanwhile.
    lists: BTreeMap<Scope, BTreeSet<Key>>,
    /// Which Hearth this is; with one, Functions that another has claimed are no objects of ours.
    installation: Option<String>,
    elsewhere: BTreeMap<Key, Taken>,
    /// How often that has got or lost one.
    claims: u64,
}

#[derive(Debug)]
struct Deleted {
    uid: String,
    /// Deleted before the list began that its watch is reading: that list does not hold it.
    before_list: bool,
}

/// The last uids of what is gone. None is ever given to another object.
#[derive(Debug, Default)]
struct Gone {
    uids: HashSet<String>,
    oldest_first: VecDeque<String>,
}

impl Gone {
    fn note(&mut self, uid: &str) {
        if !self.uids.insert(uid.to_owned()) {
            return;
        }
        self.oldest_first.push_back(uid.to_owned());
        if self.oldest_first.len() > GONE
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.uids.remove(&oldest);
        }
    }

    fn holds(&self, uid: &str) -> bool {
        self.uids.contains(uid)
    }
}

impl Book {
    /// Nothing is known.
    pub(super) fn new(installation: Option<String>) -> Self {
        Self { installation, ..Self::default() }
    }

    /// Functions that others have claimed.
    pub(super) fn elsewhere(&self) -> impl Iterator<Item = Taken> {
        self.elsewhere.values().cloned()
    }

    /// Another number after each change of which they are.
    pub(super) fn claims(&self) -> u64 {
        self.claims
    }

    /// An object as it is now, or was a moment ago.
    pub(super) fn arrive(&mut self, state: &State, mut object: Stored) -> Vec<Change> {
        // Nobody needs them, and they are half of what an object takes.
        object.metadata_mut().managed_fields = None;
        let key = object.key();
        if uid(&object).is_some_and(|uid| self.gone.holds(uid)) {
            return Vec::new();
        }
        self.note_in_lists(&key);
        if self.deleted.get(&key).is_some_and(|deleted| Some(&deleted.uid) == uid(&object)) {
            return Vec::new();
        }
        if let Some(known) = self.elsewhere.get(&key)
            && known.metadata.uid == object.metadata().uid
            && !is_newer(object.metadata(), &known.metadata)
        {
            return Vec::new();
        }
        if let Some(taken) = self.of_another(&object) {
            return match state.stored(&key) {
                Some(known)
                    if uid(known) == uid(&object) && !is_newer(object.metadata(), known.metadata()) =>
                {
                    Vec::new()
                }
                known => {
                    let news = self.elsewhere.insert(key, taken.clone());
                    self.claims += u64::from(news.is_none_or(|before| before.claimant != taken.claimant));
                    known
                        .map(|known| change(state, 1, Happened::Deleted, known.clone()))
                        .into_iter()
                        .collect()
                }
            };
        }
        self.claims += u64::from(self.elsewhere.remove(&key).is_some());
        let happened = match state.stored(&key) {
            None => return vec![change(state, 1, Happened::Added, object)],
            Some(known) if !is_newer(object.metadata(), known.metadata()) => return Vec::new(),
            Some(known) if known.metadata().uid != object.metadata().uid => {
                let gone = change(state, 1, Happened::Deleted, known.clone());
                return vec![gone, change(state, 2, Happened::Added, object)];
            }
            Some(_) => Happened::Modified,
        };
        vec![change(state, 1, happened, object)]
    }

    /// An object whose spec cannot be read. The spec that is known goes on; without one, `placeholder` stands for it.
    pub(super) fn arrive_unreadable(
        &mut self,
        state: &State,
        placeholder: Stored,
        error: &str,
    ) -> Vec<Change> {
        let key = placeholder.key();
        let object = match state.stored(&key) {
            Some(known) if known.metadata().uid == placeholder.metadata().uid => {
                let mut object = known.clone();
                let same = known.metadata().resource_version == placeholder.metadata().resource_version;
                object.metadata_mut().clone_from(placeholder.metadata());
                let news = object.take_status_of(&placeholder);
                mark_unreadable(object.metadata_mut(), error);
                object.metadata_mut().managed_fields = None;
                if same && news {
                    // The watch was faster than the answer, and does not know what was written.
                    return vec![change(state, 1, Happened::Modified, object)];
                }
                object
            }
            _ => placeholder,
        };
        self.arrive(state, object)
    }

    /// An object that is gone, as it last was.
    pub(super) fn leave(
        &mut self,
        state: &State,
        key: &Key,
        last: Option<&Stored>,
        from: From,
    ) -> Vec<Change> {
        self.claims += u64::from(self.elsewhere.remove(key).is_some());
        let known = state.stored(key);
        let gone = last.and_then(uid).or_else(|| known.and_then(uid)).cloned();
        let is_known = gone.is_some() && known.and_then(uid) == gone.as_ref();
        if let (From::Watch, Some(uid)) = (from, &gone) {
            self.gone.note(uid);
        }
        match (from, &gone) {
            // Of one that is not known its watch, or a list, was faster than the answer, and tells no more.
            (From::Answer, Some(uid)) if is_known => {
                self.deleted.insert(key.clone(), Deleted { uid: uid.clone(), before_list: false });
            }
            (From::Watch, Some(uid)) if self.deleted.get(key).is_some_and(|deleted| deleted.uid == *uid) => {
                self.deleted.remove(key);
            }
            _ => {}
        }
        match known {
            Some(known) if uid(known) == gone.as_ref() => {
                let mut last = last.unwrap_or(known).clone();
                last.metadata_mut().managed_fields = None;
                vec![change(state, 1, Happened::Deleted, last)]
            }
            _ => Vec::new(),
        }
    }

    /// A list begins.
    pub(super) fn begin(&mut self, scope: &Scope) {
        self.lists.insert(scope.clone(), BTreeSet::new());
        for (_, deleted) in self.deleted.iter_mut().filter(|(key, _)| scope.holds(key)) {
            deleted.before_list = true;
        }
    }

    /// A list is read to its end: what it left out is gone.
    pub(super) fn end(&mut self, state: &State, scope: &Scope) -> Vec<Change> {
        self.deleted.retain(|key, deleted| !(scope.holds(key) && deleted.before_list));
        let Some(there) = self.lists.remove(scope) else { return Vec::new() };
        let before = self.elsewhere.len();
        self.elsewhere.retain(|key, _| !scope.holds(key) || there.contains(key));
        self.claims += u64::from(self.elsewhere.len() < before);
        let gone = state.objects().filter(|known| {
            let key = known.key();
            scope.holds(&key) && !there.contains(&key)
        });
        (1..).zip(gone).map(|(step, known)| change(state, step, Happened::Deleted, known.clone())).collect()
    }

    /// Who has claimed it, if that is another Hearth than this.
    fn of_another(&self, object: &Stored) -> Option<Taken> {
        let (mine, metadata) = (self.installation.as_ref()?, object.metadata());
        let claimant = claimant(metadata).filter(|claimant| *claimant != mine)?;
        let key = object.key();
        let function = (key.kind == Kind::Function).then(|| FunctionId::parse(&key.qualified()).ok())??;
        let ObjectMeta { name, namespace, uid, resource_version, .. } = metadata.clone();
        let metadata = ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() };
        Some(Taken { function, metadata, claimant: claimant.to_owned() })
    }

    /// What we have written while a list is made may be missing in it.
    fn note_in_lists(&mut self, key: &Key) {
        for (_, there) in self.lists.iter_mut().filter(|(scope, _)| scope.holds(key)) {
            there.insert(key.clone());
        }
    }
}

fn uid(object: &Stored) -> Option<&String> {
    object.metadata().uid.as_ref()
}

fn change(state: &State, step: u64, happened: Happened, object: Stored) -> Change {
    Change { version: state.version() + step, happened, object }
}

/// Versions of one kind of object grow (what every API server has always done, and Kubernetes promises from 1.35 on). Where they are no
/// numbers, what comes later is newer.
fn is_newer(arriving: &ObjectMeta, known: &ObjectMeta) -> bool {
    let number = |metadata: &ObjectMeta| metadata.resource_version.as_deref()?.parse::<u64>().ok();
    match (number(arriving), number(known)) {
        (Some(arriving), Some(known)) => arriving > known,
        _ => arriving.resource_version != known.resource_version,
    }
}

#[cfg(test)]
mod tests;
