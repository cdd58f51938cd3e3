//! Sets of fields: the paths of an object's leaves, and their text form in `metadata.managedFields` (`FieldsV1`).

use std::collections::BTreeSet;
use std::ops::Bound;

use serde_json::{Map, Value, json};

/// The way to a field: names of fields and keys of maps, from the root. Never into a list: a list is one field.
pub(super) type Path = Vec<String>;

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fields(BTreeSet<Path>);

/// What of `metadata` is declared; all else is the server's.
const DECLARED_METADATA: [&str; 4] = ["annotations", "finalizers", "labels", "ownerReferences"];

impl Fields {
    /// The leaves of what `object` declares: its spec, and of its metadata what clients set. A leaf is a value that is no map, or a map
    /// that `schema` says is atomic; null is as good as nothing.
    pub(super) fn of(object: &Value, schema: &Value) -> Self {
        let mut fields = Self::default();
        fields.add("spec", object, schema, &mut Vec::new());
        let metadata = object.get("metadata").unwrap_or(&Value::Null);
        for name in DECLARED_METADATA {
            fields.add(name, metadata, &Value::Null, &mut vec!["metadata".to_owned()]);
        }
        fields
    }

    fn add(&mut self, name: &str, outer: &Value, outer_schema: &Value, above: &mut Path) {
        let Some(value) = outer.get(name).filter(|value| !value.is_null()) else { return };
        let schema = outer_schema
            .get("properties")
            .and_then(|properties| properties.get(name))
            .or_else(|| outer_schema.get("additionalProperties"))
            .unwrap_or(&Value::Null);
        above.push(name.to_owned());
        match value.as_object() {
            // An empty map says nothing about the fields below it, and there are none.
            Some(map) if schema.get("x-kubernetes-map-type") != Some(&json!("atomic")) => {
                for name in map.keys() {
                    self.add(name, value, schema, above);
                }
            }
            _ => {
                self.0.insert(above.clone());
            }
        }
        above.pop();
    }

    /// Reads `FieldsV1`. What it says about parts of lists counts as the whole list.
    pub(super) fn decode(text: &Value) -> Self {
        let mut fields = Self::default();
        fields.decode_below(text, &mut Vec::new());
        fields
    }

    fn decode_below(&mut self, text: &Value, above: &mut Path) {
        let members = text.as_object().filter(|members| !members.is_empty());
        let Some(members) = members else {
            if !above.is_empty() {
                self.0.insert(above.clone());
            }
            return;
        };
        for (step, below) in members {
            if let Some(name) = step.strip_prefix("f:") {
                above.push(name.to_owned());
                self.decode_below(below, above);
                above.pop();
            } else if !above.is_empty() {
                // `.` is the field itself; `k:`, `v:` and `i:` are items of a list.
                self.0.insert(above.clone());
            }
        }
    }

    /// Writes `FieldsV1`.
    pub(super) fn encode(&self) -> Value {
        let mut root = Map::new();
        for path in &self.0 {
            let mut place = &mut root;
            for name in path {
                let next = place.entry(format!("f:{name}")).or_insert_with(|| json!({}));
                let Value::Object(below) = next else { break };
                place = below;
            }
        }
        // A field that is owned itself and has owned fields below it.
        for path in &self.0 {
            if self.below(path).nth(1).is_some() {
                let mut place = Some(&mut root);
                for name in path {
                    place = place.and_then(|map| map.get_mut(&format!("f:{name}"))?.as_object_mut());
                }
                if let Some(map) = place {
                    map.insert(".".to_owned(), json!({}));
                }
            }
        }
        Value::Object(root)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Path> {
        self.0.iter()
    }

    /// Whether one of them is `path`, above it or below it.
    pub(super) fn touches(&self, path: &Path) -> bool {
        (1..path.len()).any(|length| path.get(..length).is_some_and(|above| self.0.contains(above)))
            || self.below(path).next().is_some()
    }

    /// `path` itself, if it is one of them, and those below it, which follow it in the order of the set.
    fn below<'a>(&'a self, path: &'a Path) -> impl Iterator<Item = &'a Path> {
        let from = self.0.range::<[String], _>((Bound::Included(path.as_slice()), Bound::Unbounded));
        from.take_while(move |other| other.starts_with(path))
    }

    /// Those that do not touch any of `others`.
    pub(super) fn without(&self, others: &Self) -> Self {
        Self(self.0.iter().filter(|path| !others.touches(path)).cloned().collect())
    }

    pub(super) fn union(mut self, other: &Self) -> Self {
        self.0.extend(other.0.iter().cloned());
        self
    }

    pub(super) fn filter(&self, keep: impl Fn(&Path) -> bool) -> Self {
        Self(self.0.iter().filter(|path| keep(path)).cloned().collect())
    }
}

impl FromIterator<Path> for Fields {
    fn from_iter<T: IntoIterator<Item = Path>>(paths: T) -> Self {
        Self(paths.into_iter().collect())
    }
}

/// The value at `path`; `None` and null are the same.
pub(super) fn get<'a>(object: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name)).filter(|value| !value.is_null())
}

/// Puts `value` at `path`, with the maps above it; what stands in the way is replaced.
pub(super) fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((name, below)) = path.split_first() else {
        *object = value;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    if let Value::Object(map) = object {
        set(map.entry(name.clone()).or_insert(Value::Null), below, value);
    }
}

/// Takes the value at `path` away, and the maps above it (below the first) that are empty then.
pub(super) fn remove(object: &mut Value, path: &[String]) {
    let Some((name, below)) = path.split_first() else { return };
    let Value::Object(map) = object else { return };
    if below.is_empty() {
        map.remove(name);
        return;
    }
    if let Some(inner) = map.get_mut(name) {
        remove(inner, below);
        if inner.as_object().is_some_and(Map::is_empty) {
            map.remove(name);
        }
    }
}

/// As people and Kubernetes write it: `.spec.scale.max`.
pub(super) fn display(path: &Path) -> String {
    path.iter().map(|name| format!(".{name}")).collect()
}
