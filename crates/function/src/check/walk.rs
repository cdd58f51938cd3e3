//! Walks a JSON value along its schema. What is right is kept, what is wrong is named.

use serde_json::{Map, Value};

use super::renamed::Renamed;
use super::{fix, suggest};
use crate::problem::{Part, Problem};
use crate::schema::{KIND, OBSERVED, properties, type_name, words};

/// Collects problems on the way.
#[derive(Debug, Default)]
pub(super) struct Walker {
    pub(super) problems: Vec<Problem>,
    /// Fields, by their right names, that were given but could not be read, or are missing, and those that hang on them: what is said
    /// about them now is no news, or wrong.
    pub(super) unread: Vec<String>,
    /// The paths of what was reported, but for fields that are missing (those are in `unread` by their own names) and for names that were
    /// misspelt and read all the same.
    pub(super) reported: Vec<String>,
    /// What was read under another name than it was written by.
    pub(super) renamed: Renamed,
}

impl Walker {
    fn report(&mut self, path: &str, message: impl Into<String>, fix: Option<String>) {
        self.reported.push(path.to_owned());
        self.problems.push(Problem::new(path, message, fix));
    }

    /// The part of `value` that fits `schema`; `None` when nothing of it does, or a part without which it means nothing is missing.
    pub(super) fn walk(&mut self, schema: &Value, value: &Value, path: &str) -> Option<Value> {
        if let Some(kind) = schema.get(KIND).and_then(Value::as_str) {
            return self.special(kind, value, path);
        }
        let words = words(schema);
        if !words.is_empty() {
            return self.word(&words, value, path);
        }
        match (schema.get("type").and_then(Value::as_str), value) {
            (Some("object"), Value::Object(fields)) => match properties(schema) {
                Some(known) => self.object(schema, known, fields, path),
                None => Some(self.map(schema, fields, path)),
            },
            (Some("array"), Value::Array(items)) => {
                let schema = schema.get("items").unwrap_or(&Value::Null);
                let walked = items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| self.walk(schema, item, &format!("{path}[{index}]")))
                    .collect::<Vec<_>>();
                // One bad item leaves a list of which nothing more is to be said: its other items were walked above.
                walked.into_iter().collect::<Option<Vec<_>>>().map(Value::Array)
            }
            (Some("string"), Value::String(_)) | (Some("boolean"), Value::Bool(_)) | (None, _) => {
                Some(value.clone())
            }
            (Some("integer"), Value::Number(_)) => self.integer(schema, value, path),
            _ => self.mismatch(&type_name(schema), schema, value, path),
        }
    }

    fn object(
        &mut self,
        schema: &Value,
        known: &Map<String, Value>,
        fields: &Map<String, Value>,
        path: &str,
    ) -> Option<Value> {
        let mut kept = Map::new();
        let mut whole = true;
        for (name, value) in fields {
            let at = join(path, name);
            let field = match known.get_key_value(name) {
                Some(field) => field,
                None => {
                    let meant = self.unknown(known, name, path, &at);
                    match meant.and_then(|meant| known.get_key_value(meant)) {
                        Some(field) if !fields.contains_key(field.0) => {
                            self.renamed.add(at.clone(), join(path, field.0));
                            field
                        }
                        _ => {
                            self.reported.push(at);
                            continue;
                        }
                    }
                }
            };
            if value.is_null() || field.1.get(OBSERVED).is_some() {
                continue;
            }
            match self.walk(field.1, value, &at) {
                Some(value) => {
                    kept.insert(field.0.clone(), value);
                }
                // A field that cannot be read: the object is taken without it, if it can be.
                None => {
                    self.unread.push(join(path, field.0));
                    if fix::required(schema).any(|required| required == field.0) {
                        whole &= self.stand_in(&mut kept, fields, path, field.0);
                    }
                }
            }
        }
        for name in fix::required(schema) {
            let given = fields.get(name).is_some_and(|value| !value.is_null());
            if !given && !kept.contains_key(name) {
                // Misspelt beyond use, or what belongs in it stands beside it; and reported as such.
                let meant = |given: &String| {
                    let belongs = || suggest::elsewhere(path, given).is_some_and(|at| below(name, at));
                    !known.contains_key(given)
                        && (suggest::nearest(given, [name]).is_some()
                            || known
                                .get(name)
                                .and_then(properties)
                                .is_some_and(|fields| fields.contains_key(given))
                            || belongs())
                };
                if !fields.keys().any(meant) {
                    let message = format!("`{name}` is missing");
                    self.problems.push(Problem::new(path, message, fix::missing(known, name)));
                }
                self.unread.push(join(path, name));
                whole &= self.stand_in(&mut kept, fields, path, name);
            }
        }
        whole.then_some(Value::Object(kept))
    }

    /// Puts something in the place of a required field that is not there, so that the rest of the object can be looked at too; `false` when
    /// without it the rest means nothing. The object is not taken: the field was reported.
    fn stand_in(
        &mut self,
        kept: &mut Map<String, Value>,
        fields: &Map<String, Value>,
        path: &str,
        name: &str,
    ) -> bool {
        let value = match (path, name) {
            ("", "apiVersion") => Value::from(crate::API_VERSION),
            ("", "kind") => Value::from("Function"),
            ("", "metadata") => serde_json::json!({ "name": "unnamed" }),
            ("metadata", "name") => Value::from("unnamed"),
            ("spec", "source") => serde_json::json!({ "path": "." }),
            ("spec", "runtime") => {
                // Which of these are right is not known now.
                self.unread
                    .extend(["handler", "command", "signature", "resources"].map(|name| join(path, name)));
                Value::from(if fields.contains_key("command") { "exec" } else { "nodejs" })
            }
            _ => return false,
        };
        kept.insert(name.to_owned(), value);
        true
    }

    /// Reports a field that is not known, and gives the name that was clearly meant.
    fn unknown<'a>(
        &mut self,
        known: &'a Map<String, Value>,
        name: &str,
        path: &str,
        at: &str,
    ) -> Option<&'a str> {
        let candidates = known.iter().filter(|(_, field)| field.get("x-hearth-server").is_none());
        let nearest = suggest::nearest(name, candidates.map(|(name, _)| name.as_str()));
        // `timeout` is nearer to `timeouts.execute` than to `timeouts`.
        let elsewhere = suggest::elsewhere(path, name);
        let meant = nearest.filter(|_| elsewhere.is_none());
        let below = || {
            known.iter().find(|(_, field)| properties(field).is_some_and(|fields| fields.contains_key(name)))
        };
        let fix = if let Some(meant) = elsewhere.or(meant) {
            format!("did you mean `{meant}`?")
        } else if let Some((outer, _)) = below() {
            format!("it belongs in `{outer}`, as `{outer}.{name}`")
        } else if let Some(meant) = suggest::nearly_elsewhere(path, name) {
            format!("did you mean `{meant}`?")
        } else {
            format!("known here: {}", fix::names(known))
        };
        let problem = Problem::new(at, format!("unknown field `{}`", shorten(name)), Some(fix));
        self.problems.push(Problem { part: Part::Key, ..problem });
        meant
    }

    fn map(&mut self, schema: &Value, fields: &Map<String, Value>, path: &str) -> Value {
        let values = schema.get("additionalProperties").filter(|values| values.is_object());
        let text = |values: &Value| values.get("type").and_then(Value::as_str) == Some("string");
        let kept = fields.iter().filter_map(|(name, value)| match values {
            Some(values) => {
                let walked = self.walk(values, value, &join(path, name));
                // That there is an entry of this name is known: a file is not missing because its text could not be read.
                Some((name.clone(), walked.or_else(|| text(values).then(|| Value::from("")))?))
            }
            None => Some((name.clone(), value.clone())),
        });
        Value::Object(kept.collect())
    }

    fn word(&mut self, words: &[&str], value: &Value, path: &str) -> Option<Value> {
        // `network: none` and `signature: http` are words; what YAML takes for something else never is one.
        let Value::String(text) = value else {
            let fix = Some(format!("write {}", fix::one_of(words)));
            self.report(path, fix::stands(value, "word"), fix);
            return None;
        };
        if words.contains(&text.as_str()) {
            return Some(value.clone());
        }
        let meant = suggest::nearest(text, words.iter().copied());
        let fix = match (meant, words) {
            (Some(meant), _) => format!("did you mean `{meant}`?"),
            (None, [only]) => format!("only `{only}` works so far"),
            (None, words) => format!("write {}", fix::one_of(words)),
        };
        self.report(path, format!("`{}` is not known here", shorten(text)), Some(fix));
        meant.map(|meant| Value::String(meant.to_owned()))
    }

    fn integer(&mut self, schema: &Value, value: &Value, path: &str) -> Option<Value> {
        let number = value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX));
        let least = schema.get("minimum").and_then(Value::as_i64).unwrap_or(i64::MIN);
        let most = if schema.get("format").and_then(Value::as_str) == Some("uint32") {
            i64::from(u32::MAX)
        } else {
            i64::MAX - 1
        };
        if number.is_some_and(|number| (least..=most).contains(&number)) {
            return Some(value.clone());
        }
        let message = match number {
            Some(_) => format!("{value} is out of range"),
            None => format!("{value} is not a whole number"),
        };
        let fix = if least == 0 { "write a whole number from 0 on" } else { "write a whole number" };
        self.report(path, message, Some(fix.to_owned()));
        None
    }

    /// A value with a text form of its own.
    fn special(&mut self, kind: &str, value: &Value, path: &str) -> Option<Value> {
        let numbers = matches!(kind, "size" | "cpu" | "percentage");
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if numbers => number.to_string(),
            Value::Number(number) if matches!(kind, "time" | "time or off") => {
                if number.as_u64() == Some(0) {
                    return Some(Value::from("0s"));
                }
                self.report(
                    path,
                    format!("{number} is not a time"),
                    Some(format!("give it a unit, as in {number}s")),
                );
                return None;
            }
            Value::Bool(false) if kind == "time or off" => return Some(value.clone()),
            _ => return self.mismatch(kind, &Value::Null, value, path),
        };
        match fix::parse(kind, &text) {
            Ok(()) => Some(value.clone()),
            Err(error) => {
                self.report(path, error.what, Some(error.fix));
                None
            }
        }
    }

    fn mismatch(&mut self, wanted: &str, schema: &Value, found: &Value, path: &str) -> Option<Value> {
        self.report(path, fix::stands(found, wanted), Some(fix::of(wanted, schema, found, path)));
        None
    }
}

/// Whether `at` is `name` or something in it.
fn below(name: &str, at: &str) -> bool {
    at.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// The path of a field. A name that is no plain word stands in brackets: `spec.source.inline["index.js"]`.
pub(crate) fn join(path: &str, name: &str) -> String {
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (plain, path.is_empty()) {
        (true, true) => name.to_owned(),
        (true, false) => format!("{path}.{name}"),
        (false, _) => format!("{path}[{name:?}]"),
    }
}

/// A text for a message; a long one is cut.
pub(super) fn shorten(text: &str) -> String {
    const LENGTH: usize = 60;
    if text.chars().count() <= LENGTH {
        text.to_owned()
    } else {
        text.chars().take(LENGTH).chain(['…']).collect()
    }
}
