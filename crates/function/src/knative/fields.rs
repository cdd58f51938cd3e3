//! An object whose fields are taken out one by one. What is left at the end was not understood.

use serde_json::{Map, Value};

use super::Notes;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Fields {
    path: String,
    left: Map<String, Value>,
}

impl Fields {
    /// The fields of `value`; none when it is absent or `null`. Anything but an object is a problem.
    pub(super) fn new(path: impl Into<String>, value: Option<Value>, notes: &mut Notes) -> Self {
        let path = path.into();
        let left = match value {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map,
            Some(_) => {
                notes.problem(&path, "this is not a mapping", "write `key: value` pairs");
                Map::new()
            }
        };
        Self { path, left }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn path_of(&self, name: &str) -> String {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        match (self.path.as_str(), plain) {
            ("", _) => name.to_owned(),
            (path, true) => format!("{path}.{name}"),
            (path, false) => format!("{path}[{name:?}]"),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.left.keys().map(String::as_str)
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    /// Takes a field that says nothing.
    pub(super) fn drop(&mut self, name: &str) {
        drop(self.left.remove(name));
    }

    /// Takes a field that says nothing while it has this value.
    pub(super) fn drop_if(&mut self, name: &str, value: &Value) {
        if self.left.get(name) == Some(value) {
            self.drop(name);
        }
    }

    pub(super) fn object(&mut self, name: &str, notes: &mut Notes) -> Self {
        Self::new(self.path_of(name), self.take(name), notes)
    }

    /// The items of a list, as they are.
    pub(super) fn values(&mut self, name: &str, notes: &mut Notes) -> Vec<Value> {
        match self.take(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items,
            Some(_) => {
                notes.problem(&self.path_of(name), "this is not a list", "write its items as `- item`");
                Vec::new()
            }
        }
    }

    /// The items of a list of objects.
    pub(super) fn list(&mut self, name: &str, notes: &mut Notes) -> Vec<Self> {
        let path = self.path_of(name);
        let items = self.values(name, notes).into_iter().enumerate();
        items.map(|(index, item)| Self::new(format!("{path}[{index}]"), Some(item), notes)).collect()
    }

    /// A text; a number or a truth value is taken as it is written.
    pub(super) fn text(&mut self, name: &str, notes: &mut Notes) -> Option<String> {
        match self.take(name)? {
            Value::String(text) => Some(text),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            _ => {
                notes.problem(&self.path_of(name), "this is not a text", "write a text");
                None
            }
        }
    }

    /// A whole number, also as a text.
    pub(super) fn number(&mut self, name: &str, notes: &mut Notes) -> Option<u64> {
        let text = self.text(name, notes)?;
        let number = text.parse().ok();
        if number.is_none() {
            notes.problem(
                &self.path_of(name),
                format!("{text:?} is not a whole number"),
                "write a whole number",
            );
        }
        number
    }

    /// Divides them by their names.
    pub(super) fn split(self, kept: impl Fn(&str) -> bool) -> (Map<String, Value>, Self) {
        let (kept, left) = self.left.into_iter().partition(|(name, _)| kept(name));
        (kept, Self { path: self.path, left })
    }

    /// Names all that is left.
    pub(super) fn leave(self, notes: &mut Notes) {
        for name in self.names() {
            notes.warn(&self.path_of(name), "not honoured: Hearth has nothing that corresponds to it");
        }
    }
}
