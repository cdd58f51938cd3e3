//! What a request changes: pure functions from the state to changes, or to the reason why not. The owner thread carries them out.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::history::Happened;
use super::managers;
use super::object::{Key, Object, Stored};
use super::state::{Change, State};

/// A version of the whole store; every change of an object has one of its own, and they grow. Text, as in Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceVersion(u64);

impl ResourceVersion {
    pub(super) const fn new(version: u64) -> Self {
        Self(version)
    }

    pub(super) const fn get(self) -> u64 {
        self.0
    }

    /// Reads what stands in `metadata.resourceVersion` or in a `resourceVersion` parameter; `None` when it is not one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok().map(Self)).flatten()
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What must hold of an object for it to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// It has this uid.
    pub uid: Option<String>,
    /// It has this `resourceVersion`.
    pub resource_version: Option<String>,
}

/// What is to be stored, and what the caller gets for it.
#[derive(Debug)]
pub(super) struct Plan<O> {
    pub(super) changes: Vec<Change>,
    pub(super) answer: Arc<O>,
}

pub(super) fn create<O: Object>(
    state: &State,
    mut object: O,
    random: u128,
    now: Timestamp,
) -> Result<Plan<O>, Error> {
    let key = key(&object)?;
    if state.get::<O>(&key.namespace, &key.name).is_some() {
        return Err(Error::AlreadyExists { kind: O::KIND, name: key.qualified() });
    }
    let version = state.version() + 1;
    let metadata = object.meta_mut();
    managers::pack(metadata);
    metadata.uid = Some(uid(version, random));
    metadata.generation = Some(1);
    metadata.creation_timestamp = Some(Time(whole_seconds(now)));
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
    metadata.resource_version = Some(version.to_string());
    Ok(one(version, Happened::Added, object))
}

pub(super) fn update<O: Object>(state: &State, mut object: O) -> Result<Plan<O>, Error> {
    let stored = current(state, &object)?;
    object.take_status(&stored);
    let spec_changed = !object.same_spec(&stored);
    let (metadata, old) = (object.meta_mut(), stored.meta());
    managers::pack(metadata);
    metadata.uid.clone_from(&old.uid);
    metadata.creation_timestamp.clone_from(&old.creation_timestamp);
    metadata.deletion_timestamp.clone_from(&old.deletion_timestamp);
    metadata.deletion_grace_period_seconds = old.deletion_grace_period_seconds;
    metadata.resource_version.clone_from(&old.resource_version);
    metadata.generation = old.generation.map(|generation| generation + i64::from(spec_changed));
    if object == *stored {
        return Ok(Plan { changes: Vec::new(), answer: stored });
    }
    no_new_finalizers(&object, &stored)?;
    if object.meta().deletion_timestamp.is_some() && !has_finalizers(&object) {
        return Ok(remove(state, &Arc::new(object)));
    }
    let version = state.version() + 1;
    object.meta_mut().resource_version = Some(version.to_string());
    Ok(one(version, Happened::Modified, object))
}

pub(super) fn finalize<O: Object>(
    state: &State,
    object: &O,
    finalizer: &str,
    on: bool,
) -> Result<Plan<O>, Error> {
    let mut asked = object.clone();
    asked.meta_mut().resource_version = None;
    let stored = current(state, &asked)?;
    let mut changed = O::clone(&stored);
    changed.meta_mut().finalizers = with_finalizer(stored.meta(), finalizer, on);
    update(state, changed)
}

/// Who puts a finalizer on an object that is being deleted would hold what others already take to be going.
fn no_new_finalizers<O: Object>(object: &O, stored: &O) -> Result<(), Error> {
    let old = stored.meta().finalizers.as_deref().unwrap_or_default();
    let new = object.meta().finalizers.iter().flatten().filter(|finalizer| !old.contains(finalizer));
    let new: BTreeSet<String> = new.cloned().collect();
    if stored.meta().deletion_timestamp.is_none() || new.is_empty() {
        return Ok(());
    }
    let name = key(object)?.qualified();
    Err(Error::Deleting { kind: O::KIND, name, finalizers: new.into_iter().collect() })
}

/// The finalizers of an object with this one, or without it.
pub(super) fn with_finalizer(metadata: &ObjectMeta, finalizer: &str, on: bool) -> Option<Vec<String>> {
    let mut all = metadata.finalizers.clone().unwrap_or_default();
    all.retain(|one| one != finalizer);
    if on {
        all.push(finalizer.to_owned());
    }
    (!all.is_empty()).then_some(all)
}

pub(super) fn update_status<O: Object>(state: &State, object: O) -> Result<Plan<O>, Error> {
    let stored = current(state, &object)?;
    let mut changed = O::clone(&stored);
    changed.take_status(&object);
    if changed == *stored {
        return Ok(Plan { changes: Vec::new(), answer: stored });
    }
    let version = state.version() + 1;
    changed.meta_mut().resource_version = Some(version.to_string());
    Ok(one(version, Happened::Modified, changed))
}

pub(super) fn delete<O: Object>(
    state: &State,
    namespace: &str,
    name: &str,
    preconditions: &Preconditions,
    now: Timestamp,
) -> Result<Plan<O>, Error> {
    let qualified = format!("{namespace}/{name}");
    let stored = state
        .get::<O>(namespace, name)
        .ok_or_else(|| Error::NotFound { kind: O::KIND, name: qualified.clone() })?;
    let uid = preconditions.uid.as_deref();
    check(O::KIND, &qualified, "uid", uid, stored.meta().uid.as_deref())?;
    let version = preconditions.resource_version.as_deref();
    check(O::KIND, &qualified, "resourceVersion", version, stored.meta().resource_version.as_deref())?;
    if !has_finalizers(&*stored) {
        return Ok(remove(state, &stored));
    }
    if stored.meta().deletion_timestamp.is_some() {
        return Ok(Plan { changes: Vec::new(), answer: stored });
    }
    let mut marked = O::clone(&stored);
    let version = state.version() + 1;
    let metadata = marked.meta_mut();
    metadata.deletion_timestamp = Some(Time(whole_seconds(now)));
    metadata.deletion_grace_period_seconds = Some(0);
    metadata.resource_version = Some(version.to_string());
    Ok(one(version, Happened::Modified, marked))
}

/// Removes `object` and, transitively, what it alone owns. An owned object with finalizers goes too: nothing else would ever take it
/// away, and a standalone store has no garbage collector that runs later.
fn remove<O: Object>(state: &State, object: &Arc<O>) -> Plan<O> {
    let mut gone: BTreeSet<String> = object.meta().uid.iter().cloned().collect();
    let mut removed = vec![O::wrap(Arc::clone(object))];
    let mut taken = BTreeSet::from([O::wrap(Arc::clone(object)).key()]);
    loop {
        let owned: Vec<&Stored> = state
            .objects()
            .filter(|candidate| {
                let owners = candidate.metadata().owner_references.as_deref().unwrap_or_default();
                !owners.is_empty() && owners.iter().all(|owner| gone.contains(&owner.uid))
            })
            .filter(|candidate| !taken.contains(&candidate.key()))
            .collect();
        if owned.is_empty() {
            break;
        }
        for object in owned {
            gone.extend(object.metadata().uid.clone());
            taken.insert(object.key());
            removed.push(object.clone());
        }
    }
    let mut version = state.version();
    let changes: Vec<Change> = removed
        .into_iter()
        .map(|object| {
            version += 1;
            Change { version, happened: Happened::Deleted, object: object.at_version(version) }
        })
        .collect();
    let answer = changes
        .first()
        .and_then(|change| O::peel(&change.object))
        .map_or_else(|| Arc::clone(object), Arc::clone);
    Plan { changes, answer }
}

fn one<O: Object>(version: u64, happened: Happened, object: O) -> Plan<O> {
    let answer = Arc::new(object);
    Plan { changes: vec![Change { version, happened, object: O::wrap(Arc::clone(&answer)) }], answer }
}

/// The stored form of `object`, when it is what `object` was made from.
fn current<O: Object>(state: &State, object: &O) -> Result<Arc<O>, Error> {
    let key = key(object)?;
    let stored = state
        .get::<O>(&key.namespace, &key.name)
        .ok_or_else(|| Error::NotFound { kind: O::KIND, name: key.qualified() })?;
    let (wanted, found) = (object.meta(), stored.meta());
    check(O::KIND, &key.qualified(), "uid", wanted.uid.as_deref(), found.uid.as_deref())?;
    let version = wanted.resource_version.as_deref();
    check(O::KIND, &key.qualified(), "resourceVersion", version, found.resource_version.as_deref())?;
    Ok(stored)
}

/// An empty text asks for nothing, as in Kubernetes.
fn check(
    kind: super::Kind,
    name: &str,
    field: &str,
    wanted: Option<&str>,
    found: Option<&str>,
) -> Result<(), Error> {
    match wanted.filter(|wanted| !wanted.is_empty()) {
        Some(wanted) if Some(wanted) != found => Err(Error::Conflict {
            kind,
            name: name.to_owned(),
            detail: format!("{field} is {} and not {wanted}", found.unwrap_or("not set")),
        }),
        _ => Ok(()),
    }
}

fn key<O: Object>(object: &O) -> Result<Key, Error> {
    let field = |value: &Option<String>, detail| {
        value.clone().filter(|text| !text.is_empty()).ok_or(Error::Invalid { kind: O::KIND, detail })
    };
    Ok(Key {
        kind: O::KIND,
        namespace: field(&object.meta().namespace, "it has no namespace")?,
        name: field(&object.meta().name, "it has no name")?,
    })
}

fn has_finalizers<O: Object>(object: &O) -> bool {
    object.meta().finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty())
}

/// A UUID (version 8, RFC 9562) of random bits behind the last 32 of the store's version. Times are kept to the second, as in Kubernetes; of
/// two objects of one second, the uid still says which was first ([`creation_order`]).
fn uid(version: u64, random: u128) -> String {
    let first = u128::from(version) & 0xffff_ffff;
    uuid((first << 96) | (random & 0xffff_ffff_ffff_ffff_ffff_ffff))
}

/// A UUID (version 8, RFC 9562) of these bits.
pub(crate) fn uuid(number: u128) -> String {
    let number = (number & !(0xf << 76) & !(0x3 << 62)) | (0x8 << 76) | (0x2 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        number >> 96,
        (number >> 80) & 0xffff,
        (number >> 64) & 0xffff,
        (number >> 48) & 0xffff,
        number & 0xffff_ffff_ffff
    )
}

/// Grows with each object that the store makes: the second of its creation, and its place among those of that second. Of objects that another
/// store has made, the place means nothing but is always the same.
#[must_use]
pub fn creation_order(metadata: &ObjectMeta) -> u64 {
    let second = metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let place = metadata.uid.as_deref().and_then(|uid| u32::from_str_radix(uid.get(..8)?, 16).ok());
    // Before 1970 nothing was made; until 2106 the seconds fit.
    u64::try_from(second).unwrap_or(0) << 32 | u64::from(place.unwrap_or(0))
}

/// Kubernetes keeps times to the second; so what is read back is what was answered.
fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
