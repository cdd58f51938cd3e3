//! Which field belongs to whom: what server-side apply makes of an object, and what `metadata.managedFields` says afterwards. Pure.
//!
//! The subset of Kubernetes' rules that is kept:
//!
//! - A *manager* is a name and an operation, `Apply` or `Update` (every other write). It owns leaves of the spec and of labels, annotations,
//!   finalizers and owners. A list is one leaf, and so is a map that the schema says is atomic (`spec.source`).
//! - An apply takes over every field that it names. One whose value it changes while another manager owns it is a conflict, unless it is
//!   forced; then the others lose it. With the same value, both own it.
//! - A field that the manager's last apply named and this one does not is taken away, if nobody else owns it; a default takes its place.
//! - An update owns what it changed, and the others lose that.
//! - Defaults that nobody wrote belong to nobody. The status is Hearth's and has no managers.

mod fields;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, Time};
use serde_json::Value;

use fields::Fields;

/// Longest name of a manager, in bytes. Kubernetes' own limit.
pub(super) const MAX_MANAGER_BYTES: usize = 128;

/// Managers that have only updated and are kept apart; the oldest beyond them are counted as one. Kubernetes' own limit.
const MAX_UPDATERS: usize = 10;

/// Who stands for those.
const ANCIENT: &str = "ancient-changes";

const APPLY: &str = "Apply";
const UPDATE: &str = "Update";

/// A field that another manager owns and has set to another value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Conflict {
    /// Who owns it.
    pub(super) manager: String,
    /// Which: `.spec.scale.max`.
    pub(super) field: String,
}

/// What an apply does about fields that are others'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Force {
    /// It fails.
    No,
    /// It takes them.
    Yes,
}

/// An apply: what is there, and what is said about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Apply<'a> {
    /// The object as it is stored.
    pub(super) live: &'a Value,
    /// Its managers.
    pub(super) managers: &'a [ManagedFieldsEntry],
    /// What was applied.
    pub(super) applied: &'a Value,
    /// By whom.
    pub(super) manager: &'a str,
    /// The schema of the kind.
    pub(super) schema: &'a Value,
}

impl Apply<'_> {
    /// The object with what was applied laid over it, and without what this manager no longer names.
    pub(super) fn merge(&self) -> Value {
        let mut merged = self.live.clone();
        let named = Fields::of(self.applied, self.schema);
        let others = self.others().fold(Fields::default(), |all, entry| all.union(&owned(entry)));
        // What is applied or another's stays; also what lies above or below it.
        for path in self.own().without(&named).without(&others).iter() {
            fields::remove(&mut merged, path);
        }
        for path in named.iter() {
            if let Some(value) = fields::get(self.applied, path) {
                fields::set(&mut merged, path, value.clone());
            }
        }
        merged
    }

    /// The managers after the apply has made `result` of the object: [`Apply::merge`], read and with its defaults.
    ///
    /// # Errors
    /// The fields that others own and that it would change, unless it is forced.
    pub(super) fn settle(
        &self,
        result: &Value,
        force: Force,
        now: Timestamp,
    ) -> Result<Vec<ManagedFieldsEntry>, Vec<Conflict>> {
        let named = Fields::of(self.applied, self.schema);
        let changed = named.filter(|path| fields::get(self.live, path) != fields::get(result, path));
        if force == Force::No {
            let mut conflicts = Vec::new();
            for entry in self.others() {
                let theirs = owned(entry);
                conflicts.extend(changed.iter().filter(|path| theirs.touches(path)).map(|path| Conflict {
                    manager: entry.manager.clone().unwrap_or_default(),
                    field: fields::display(path),
                }));
            }
            if !conflicts.is_empty() {
                conflicts.sort();
                conflicts.dedup();
                return Err(conflicts);
            }
        }
        Ok(with_own(self.managers, (self.manager, APPLY), named, &changed, now))
    }

    fn own(&self) -> Fields {
        self.managers.iter().find(|entry| is(entry, self.manager, APPLY)).map(owned).unwrap_or_default()
    }

    fn others(&self) -> impl Iterator<Item = &ManagedFieldsEntry> {
        self.managers.iter().filter(|entry| !is(entry, self.manager, APPLY))
    }
}

/// The managers after `manager` has made `after` of `before` by anything but an apply. Of a new object (`before` is null) it owns what it
/// wrote, and not the defaults: `after` is then what was sent.
pub(super) fn update(
    managers: &[ManagedFieldsEntry],
    before: &Value,
    after: &Value,
    manager: &str,
    schema: &Value,
    now: Timestamp,
) -> Vec<ManagedFieldsEntry> {
    let differs = |path: &fields::Path| fields::get(before, path) != fields::get(after, path);
    let set = Fields::of(after, schema).filter(differs);
    let gone = Fields::of(before, schema).filter(|path| fields::get(after, path).is_none());
    if set.is_empty() && gone.is_empty() {
        return managers.to_vec();
    }
    let lost = set.clone().union(&gone);
    let own = managers.iter().find(|entry| is(entry, manager, UPDATE));
    let fields = own.map(owned).unwrap_or_default().without(&lost).union(&set);
    bounded(with_own(managers, (manager, UPDATE), fields, &lost, now))
}

/// The entries that a client may send: those with a name, an operation and fields.
///
/// # Errors
/// What is wrong with one.
pub(super) fn check(managers: &[ManagedFieldsEntry]) -> Result<(), String> {
    for entry in managers {
        let name = entry.manager.as_deref().unwrap_or_default();
        if name.is_empty() || name.len() > MAX_MANAGER_BYTES {
            return Err(format!("manager is needed, with at most {MAX_MANAGER_BYTES} bytes"));
        }
        if !matches!(entry.operation.as_deref(), Some(APPLY | UPDATE)) {
            return Err("operation is `Apply` or `Update`".to_owned());
        }
        if entry.fields_type.as_deref() != Some("FieldsV1") {
            return Err("fieldsType is `FieldsV1`".to_owned());
        }
    }
    Ok(())
}

fn is(entry: &ManagedFieldsEntry, manager: &str, operation: &str) -> bool {
    entry.manager.as_deref() == Some(manager) && entry.operation.as_deref() == Some(operation)
}

fn owned(entry: &ManagedFieldsEntry) -> Fields {
    entry.fields_v1.as_ref().map(|fields| Fields::decode(&fields.0)).unwrap_or_default()
}

/// The entry with other fields; the same, with its time, when they are the same; none without any.
fn with_fields(entry: &ManagedFieldsEntry, fields: Fields, now: Timestamp) -> Option<ManagedFieldsEntry> {
    if fields.is_empty() {
        return None;
    }
    if fields == owned(entry) {
        return Some(entry.clone());
    }
    Some(ManagedFieldsEntry {
        fields_v1: Some(FieldsV1(fields.encode())),
        time: Some(Time(whole_seconds(now))),
        ..entry.clone()
    })
}

/// The managers when this one, a name and an operation, owns `fields` and the others have `lost` some. Each keeps its place: in another order
/// they would be a change of the object, and two who apply in turns would make one for each other for ever.
fn with_own(
    managers: &[ManagedFieldsEntry],
    (manager, operation): (&str, &str),
    fields: Fields,
    lost: &Fields,
    now: Timestamp,
) -> Vec<ManagedFieldsEntry> {
    let mut own = Some(fields);
    let mut kept = Vec::new();
    for entry in managers {
        if !is(entry, manager, operation) {
            kept.extend(with_fields(entry, owned(entry).without(lost), now));
        } else if let Some(fields) = own.take() {
            kept.extend(with_fields(entry, fields, now));
        }
    }
    let fresh = ManagedFieldsEntry {
        api_version: Some(hearth_function::API_VERSION.to_owned()),
        fields_type: Some("FieldsV1".to_owned()),
        manager: Some(manager.to_owned()),
        operation: Some(operation.to_owned()),
        ..ManagedFieldsEntry::default()
    };
    kept.extend(own.and_then(|fields| with_fields(&fresh, fields, now)));
    kept
}

/// At most [`MAX_UPDATERS`] that update: the oldest become one.
fn bounded(mut managers: Vec<ManagedFieldsEntry>) -> Vec<ManagedFieldsEntry> {
    while managers.iter().filter(|entry| entry.operation.as_deref() == Some(UPDATE)).count() > MAX_UPDATERS {
        let mut updaters: Vec<usize> = (0..managers.len())
            .filter(|index| {
                managers.get(*index).is_some_and(|entry| entry.operation.as_deref() == Some(UPDATE))
            })
            .collect();
        let age = |index: &usize| {
            let entry = managers.get(*index);
            let ancient = entry.is_none_or(|entry| entry.manager.as_deref() != Some(ANCIENT));
            (ancient, entry.and_then(|entry| entry.time.as_ref().map(|time| time.0)))
        };
        updaters.sort_by_key(age);
        let [older, younger, ..] = updaters.as_slice() else { break };
        let (first, second) = (*older.min(younger), *older.max(younger));
        let second = managers.remove(second);
        let first = managers.remove(first);
        let fields = owned(&first).union(&owned(&second));
        managers.push(ManagedFieldsEntry {
            manager: Some(ANCIENT.to_owned()),
            fields_v1: Some(FieldsV1(fields.encode())),
            ..first
        });
    }
    managers
}

fn whole_seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}
