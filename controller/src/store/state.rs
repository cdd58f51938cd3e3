//! What the store holds in memory: every object, and what happened lately. Changed by the owner thread alone, after the change
//! is on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::history::{Happened, Happening, History};
use super::object::{Key, Object, Stored};

/// A change of one object, at the version that it brings the store to.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) happened: Happened,
    /// The object as it is after the change; one that was removed, as it last was.
    pub(super) object: Stored,
}

/// Objects and history.
#[derive(Debug)]
pub(super) struct State {
    objects: BTreeMap<Key, Stored>,
    version: u64,
    history: History,
}

impl State {
    pub(super) fn new(history: usize) -> Self {
        Self { objects: BTreeMap::new(), version: 0, history: History::new(history) }
    }

    /// What the database held when it was opened. The history begins here.
    pub(super) fn load(&mut self, objects: Vec<Stored>, version: u64) {
        self.objects = objects.into_iter().map(|object| (object.key(), object)).collect();
        self.version = version;
        self.history.restart(version);
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn history(&self) -> &History {
        &self.history
    }

    pub(super) fn get<O: Object>(&self, namespace: &str, name: &str) -> Option<Arc<O>> {
        let key = Key { kind: O::KIND, namespace: namespace.to_owned(), name: name.to_owned() };
        self.objects.get(&key).and_then(O::peel).cloned()
    }

    pub(super) fn stored(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key)
    }

    pub(super) fn list<O: Object>(&self, namespace: Option<&str>) -> Vec<Arc<O>> {
        let within = |key: &Key| namespace.is_none_or(|wanted| wanted == key.namespace);
        self.from::<O>(namespace.unwrap_or_default(), "")
            .take_while(|(key, _)| within(key))
            .map(cloned)
            .collect()
    }

    /// The objects of a namespace whose names begin with `prefix`.
    pub(super) fn list_named<O: Object>(&self, namespace: &str, prefix: &str) -> Vec<Arc<O>> {
        let within = |key: &Key| key.namespace == namespace && key.name.starts_with(prefix);
        self.from::<O>(namespace, prefix).take_while(|(key, _)| within(key)).map(cloned).collect()
    }

    /// The objects of one kind in their order, from this name on.
    fn from<O: Object>(&self, namespace: &str, name: &str) -> impl Iterator<Item = (&Key, &Arc<O>)> {
        let first = Key { kind: O::KIND, namespace: namespace.to_owned(), name: name.to_owned() };
        self.objects.range(first..).map_while(|(key, object)| Some((key, O::peel(object)?)))
    }

    pub(super) fn objects(&self) -> impl Iterator<Item = &Stored> {
        self.objects.values()
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.version = change.version;
            let key = change.object.key();
            let before = match change.happened {
                Happened::Added | Happened::Modified => self.objects.insert(key, change.object.clone()),
                Happened::Deleted => self.objects.remove(&key),
            };
            self.history.push(Happening { change, before });
        }
    }
}

fn cloned<O>((_, object): (&Key, &Arc<O>)) -> Arc<O> {
    Arc::clone(object)
}
