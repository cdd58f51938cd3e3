//! What to write in place of a value of the wrong kind, or for a field that is not there. Each has an answer: a problem without a fix
//! leaves its reader alone.

use serde_json::{Map, Value};

use super::walk::shorten;
use crate::schema::properties;
use crate::spec::Pause;
use crate::values::{ByteSize, CpuMillis, Digest, Handler, HumanDuration, Percent, RuntimeName, ValueError};

/// The field that somebody means who writes a text where an object is wanted: by the name of the object's own field.
const MEANT: [(&str, &str); 9] = [
    ("archive", "url"),
    ("cron", "schedule"),
    ("event", "type"),
    ("git", "url"),
    ("http", "path"),
    ("metadata", "name"),
    ("reserved", "schedule"),
    ("source", "path"),
    ("traffic", "revision"),
];

/// What is wrong: something of another kind.
pub(super) fn stands(found: &Value, wanted: &str) -> String {
    let found = match found {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let wanted = match wanted {
        "text" | "true or false" | "cpu" => wanted.to_owned(),
        "object" => "an object".to_owned(),
        wanted => format!("a {wanted}"),
    };
    format!("here stands {found}, where {wanted} is wanted")
}

/// What to write instead.
pub(super) fn of(wanted: &str, schema: &Value, found: &Value, path: &str) -> String {
    match (wanted, found) {
        ("text", Value::Bool(flag)) => {
            let others = if *flag { "yes and on" } else { "no and off" };
            format!("put it in quotes, as in \"{flag}\" (YAML reads {others} as {flag} too)")
        }
        ("text", Value::Number(number)) => format!("put it in quotes: \"{number}\""),
        ("text", Value::Null) => "write \"\" for an empty text".to_owned(),
        ("text", _) => {
            "write a text; put it in quotes when it contains `: `, or begins with [ or {".to_owned()
        }
        ("whole number", Value::String(text)) if text.parse::<i64>().is_ok() => {
            format!("write it without quotes: {text}")
        }
        ("whole number", _) => "write a whole number, as in 3".to_owned(),
        ("true or false", _) => "write true or false".to_owned(),
        ("object", found) => object(schema, found, path),
        (wanted, _) if wanted.starts_with("map of ") => {
            let example = if path.ends_with(".inline") { "index.js: …" } else { "name: value" };
            format!("write names with a text each, as in `{{ {example} }}`")
        }
        (wanted, Value::String(text)) if wanted == "list of text" && plain(text) => {
            format!("put it in brackets: [ {text} ]")
        }
        ("list of text", Value::Number(number)) => {
            format!("put it in brackets and quotes: [ \"{number}\" ]")
        }
        ("list of text", _) => "put the texts in brackets, as in [ a, b ]".to_owned(),
        (wanted, _) if wanted.starts_with("list of ") => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            match example(items) {
                Some(example) => format!("begin each item with a dash, as in `- {example}`"),
                None => "begin each item with a dash".to_owned(),
            }
        }
        // A value with a form of its own knows how it is written.
        (kind, _) => match parse(kind, "") {
            Err(error) => error.fix,
            Ok(()) => format!("write a {kind}"),
        },
    }
}

fn object(schema: &Value, found: &Value, path: &str) -> String {
    if path.is_empty() {
        let begin =
            format!("a manifest begins with `apiVersion: {}` and `kind: Function`", crate::API_VERSION);
        return format!("{begin}: see `hearth explain function`");
    }
    let Value::String(text) = found else {
        return match example(schema) {
            Some(example) => format!("write its fields, as in `{{ {example} }}`"),
            None => "write its fields, as in `{ name: value }`".to_owned(),
        };
    };
    if let (true, Some((name, value))) = (path.starts_with("spec.env["), text.split_once('=')) {
        return format!("write `{{ name: {name}, value: {value:?} }}`");
    }
    let field = path.rsplit('.').next().unwrap_or(path);
    let field = field.split('[').next().unwrap_or(field);
    let meant = MEANT.iter().find(|(outer, _)| *outer == field).map(|(_, inner)| *inner);
    let known = |name: &&str| properties(schema).is_some_and(|fields| fields.contains_key(*name));
    match meant.or(Some("name")).filter(known) {
        Some(meant) if plain(text) => format!("write `{{ {meant}: {text} }}`"),
        Some(meant) => format!("write `{{ {meant}: {:?} }}`", shorten(text)),
        None => match example(schema) {
            Some(example) => format!("write its fields, as in `{{ {example} }}`"),
            None => "write its fields, as in `{ name: value }`".to_owned(),
        },
    }
}

/// A field as it may be written: the first that is required, or else the first there is.
fn example(schema: &Value) -> Option<String> {
    let known = properties(schema)?;
    let name = required(schema).next().or_else(|| {
        known.iter().find(|(_, field)| field.get("x-hearth-server").is_none()).map(|(name, _)| name.as_str())
    })?;
    Some(format!("{name}: …"))
}

/// Whether a text can stand in a manifest without quotes.
fn plain(text: &str) -> bool {
    let usual = |c: char| c.is_alphanumeric() || matches!(c, '.' | '/' | '_' | '-');
    !text.is_empty() && text.chars().count() <= 60 && text.chars().all(usual) && !text.starts_with('-')
}

/// What to write for a field that is missing.
pub(super) fn missing(known: &Map<String, Value>, name: &str) -> Option<String> {
    match name {
        "apiVersion" => Some(format!("write `apiVersion: {}`", crate::API_VERSION)),
        "kind" => Some("write `kind: Function`".to_owned()),
        "metadata" | "name" if known.contains_key("kind") || known.contains_key("labels") => {
            Some("give the function a name, as in `metadata: { name: hello }`".to_owned())
        }
        "spec" => Some("say what it runs: see `hearth explain function.spec`".to_owned()),
        "runtime" => Some("say what runs the code, as in `runtime: nodejs`".to_owned()),
        "source" => Some("say where the code is, as in `source: { path: . }`".to_owned()),
        _ => {
            let description = known.get(name)?.get("description")?.as_str()?;
            let first = description.split_once(['.', ';']).map_or(description, |(first, _)| first);
            let mut letters = first.chars();
            let lower =
                letters.next().map(|letter| letter.to_lowercase().collect::<String>() + letters.as_str())?;
            Some(format!("write `{name}: …`, {}", lower.replace('\n', " ")))
        }
    }
}

/// The fields that somebody may write here.
pub(super) fn names(known: &Map<String, Value>) -> String {
    let names = known.iter().filter(|(_, field)| field.get("x-hearth-server").is_none());
    names.map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// `one of` these words.
pub(super) fn one_of(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    if words.len() == 1 { words.concat() } else { format!("one of {}", words.join(", ")) }
}

/// The names of the fields that have to be there.
pub(super) fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Reads a text of a kind that has a form of its own.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(kind: &str, text: &str) -> Result<(), ValueError> {
    match kind {
        "size" => text.parse::<ByteSize>().map(drop),
        "cpu" => text.parse::<CpuMillis>().map(drop),
        "time" => text.parse::<HumanDuration>().map(drop),
        "time or off" => text.parse::<Pause>().map(drop),
        "percentage" => text.parse::<Percent>().map(drop),
        "digest" => text.parse::<Digest>().map(drop),
        "runtime" => text.parse::<RuntimeName>().map(drop),
        "handler" => text.parse::<Handler>().map(drop),
        // A kind without a form of its own is text; a test walks every kind of the schema.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::walk::Walker;
    use super::*;
    use crate::schema::{FUNCTION, KIND, OBSERVED};

    #[test]
    fn every_kind_of_the_schema_is_parsed() {
        fn kinds(schema: &Value, found: &mut Vec<String>) {
            match schema {
                Value::Object(fields) => {
                    found.extend(fields.get(KIND).and_then(Value::as_str).map(ToOwned::to_owned));
                    fields.values().for_each(|value| kinds(value, found));
                }
                Value::Array(items) => items.iter().for_each(|value| kinds(value, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        kinds(&FUNCTION, &mut found);
        assert!(found.len() > 8, "{found:?}");
        for kind in found {
            assert!(parse(&kind, "\u{0}").is_err(), "{kind} takes anything");
        }
    }

    /// Every field of a manifest, given each kind of value that it does not take.
    #[test]
    fn whatever_stands_in_a_field_a_problem_has_its_fix() {
        fn visit(schema: &Value, path: &str, said: &mut Vec<String>) {
            if schema.get(OBSERVED).is_some() {
                return;
            }
            let wrong = [
                json!(3),
                json!(1.5),
                json!(-3),
                json!(true),
                json!([]),
                json!({}),
                json!("a b:c"),
                json!(null),
            ];
            for value in wrong {
                let mut walker = Walker::default();
                walker.walk(schema, &value, path);
                for problem in walker.problems {
                    let fix = problem.fix.clone().unwrap_or_default();
                    assert!(!fix.is_empty(), "{problem} of {value}");
                    said.push(problem.to_string());
                }
            }
            for (name, field) in properties(schema).into_iter().flatten() {
                visit(field, &super::super::join(path, name), said);
            }
            if let Some(items) = schema.get("items") {
                visit(items, &format!("{path}[0]"), said);
            }
            if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
                visit(values, &format!("{path}.name"), said);
            }
        }
        let mut said = Vec::new();
        visit(&FUNCTION, "", &mut said);
        assert!(said.len() > 300, "{}", said.len());
    }

    #[test]
    fn a_text_for_an_object_goes_into_the_field_that_was_meant() {
        let said = |path: &str, text: &str| {
            let mut schema = &*FUNCTION;
            for part in path.split('.') {
                let (name, item) = part.strip_suffix("[0]").map_or((part, false), |name| (name, true));
                schema = &schema["properties"][name];
                if item {
                    schema = &schema["items"];
                }
            }
            object(schema, &json!(text), path)
        };
        for (path, text, fix) in [
            ("spec.source", "./code", "write `{ path: ./code }`"),
            ("spec.source.git", "https://x/y", "write `{ url: \"https://x/y\" }`"),
            ("spec.triggers[0].http", "/x", "write `{ path: /x }`"),
            ("spec.env[0]", "A=b c", "write `{ name: A, value: \"b c\" }`"),
            ("metadata", "hello", "write `{ name: hello }`"),
            ("spec.resources", "128Mi", "write its fields, as in `{ cpu: … }`"),
        ] {
            assert_eq!(said(path, text), fix, "{path}");
        }
    }
}
