//! What `hearth explain` prints, from the documentation of the types.

use serde_json::Value;

use crate::check::suggest;
use crate::schema::{self, properties, type_name, words};

/// What the two resources are called at the start of a path.
const NAMES: [&str; 8] =
    ["function", "functions", "fn", "Function", "revision", "revisions", "rev", "Revision"];

/// Columns that the text is folded to.
const WIDTH: usize = 88;

/// What the field at `path` is, as in `function.spec.scale` or `function`: its type, its default, what it means, and the fields below it.
/// `spec.scale` alone means the Function's. Indexes may be left out: `function.spec.triggers.http`. `None` when there is no such
/// field.
#[must_use]
pub fn explain(path: &str) -> Option<String> {
    let mut steps = path
        .split(['.', '[', ']'])
        .filter(|step| !step.is_empty() && step.parse::<usize>().is_err())
        .peekable();
    let (kind, schema) = match *steps.peek()? {
        "revision" | "revisions" | "rev" | "Revision" => ("Revision", &*schema::REVISION),
        _ => ("Function", &*schema::FUNCTION),
    };
    steps.next_if(|first| NAMES.contains(first));
    below(kind, schema, steps)
}

/// The path that somebody probably meant who asked for one that there is not: `function.spec.scale` for `function.spec.scal` and for `scale`.
#[must_use]
pub fn explain_nearest(path: &str) -> Option<String> {
    let mut steps: Vec<&str> = path
        .split(['.', '[', ']'])
        .filter(|step| !step.is_empty() && step.parse::<usize>().is_err())
        .collect();
    let (kind, root) = match *steps.first()? {
        "revision" | "revisions" | "rev" | "Revision" => ("revision", &*schema::REVISION),
        _ => ("function", &*schema::FUNCTION),
    };
    let first = *steps.first()?;
    if NAMES.contains(&first) || suggest::nearest(first, [kind]).is_some() {
        steps.remove(0);
    }
    let walk = |steps: &[&str]| {
        let (mut schema, mut names) = (root, vec![kind.to_owned()]);
        for step in steps {
            let known = properties(fields_of(schema))?;
            let name = if known.contains_key(*step) {
                step
            } else {
                suggest::nearest(step, known.keys().map(String::as_str))?
            };
            schema = known.get(name)?;
            names.push(name.to_owned());
        }
        Some(names.join("."))
    };
    // Most fields are those of `spec`.
    walk(&steps).or_else(|| walk(&[&["spec"], steps.as_slice()].concat()))
}

fn below<'a>(kind: &str, root: &Value, steps: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut schema = root;
    let mut names = Vec::new();
    for step in steps {
        schema = properties(fields_of(schema))?.get(step)?;
        names.push(step);
    }
    let mut text = format!("{kind}, {}\n", crate::API_VERSION);
    if let Some(last) = names.last() {
        text.push_str(&format!("\nFIELD:    {}\nNAME:     {last}", names.join(".")));
    } else {
        text.push_str("\nRESOURCE: ");
        text.push_str(kind);
    }
    text.push_str(&format!("\nTYPE:     {}\n", type_name(schema)));
    if let Some(default) = default_of(schema) {
        text.push_str(&format!("DEFAULT:  {default}\n"));
    }
    let words = words(schema);
    if !words.is_empty() {
        text.push_str(&format!("WORDS:    {}\n", words.join(", ")));
    }
    if let Some(description) = description(schema) {
        text.push('\n');
        fold(description, "  ", &mut text);
    }
    let fields = fields_of(schema);
    if let Some(children) = properties(fields) {
        let required: Vec<&str> = required(fields).collect();
        text.push_str("\nFIELDS:\n");
        for (name, field) in children.iter().filter(|(_, field)| field.get("x-hearth-server").is_none()) {
            let mut notes = vec![type_name(field)];
            if required.contains(&name.as_str()) {
                notes.push("required".to_owned());
            }
            // The default of an object is that of its fields, which are explained below it.
            if let Some(default) = default_of(field).filter(|_| properties(field).is_none()) {
                notes.push(format!("default {default}"));
            }
            text.push_str(&format!("  {name}  <{}>\n", notes.join(", ")));
            if let Some(description) = description(field) {
                fold(description, "      ", &mut text);
            }
        }
    }
    if names.is_empty() {
        text.push_str("\nEVERYTHING IN IT, with defaults:\n");
        tree(schema, "  ", &mut text);
    }
    Some(text)
}

/// Every field below `schema` on a line of its own.
fn tree(schema: &Value, indent: &str, out: &mut String) {
    let fields = properties(fields_of(schema)).into_iter().flatten();
    for (name, field) in fields.filter(|(_, field)| field.get("x-hearth-server").is_none()) {
        let dash =
            if field.get("items").is_some_and(|items| properties(items).is_some()) { "[]" } else { "" };
        match default_of(field).filter(|_| properties(field).is_none()) {
            Some(default) => {
                out.push_str(&format!("{indent}{name}{dash}  <{}>  {default}\n", type_name(field)))
            }
            None => out.push_str(&format!("{indent}{name}{dash}  <{}>\n", type_name(field))),
        }
        tree(field, &format!("{indent}  "), out);
    }
}

/// The schema whose fields stand below this one: of a list, its items'.
fn fields_of(schema: &Value) -> &Value {
    schema.get("items").unwrap_or(schema)
}

fn required(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

fn description(schema: &Value) -> Option<&str> {
    schema.get("description").and_then(Value::as_str)
}

fn default_of(schema: &Value) -> Option<String> {
    match schema.get("default").or_else(|| schema.get(schema::DEFAULT))? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Object(fields) => {
            let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
            let parts: Vec<String> =
                fields.iter().map(|(name, value)| format!("{name}: {}", plain(value))).collect();
            Some(format!("{{ {} }}", parts.join(", ")))
        }
        other => Some(other.to_string()),
    }
}

/// Appends `text`, folded and indented.
fn fold(text: &str, indent: &str, out: &mut String) {
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            out.push_str(indent);
            column = indent.len();
        } else {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_field_is_found_from_any_part_of_a_path() {
        for (path, meant) in [
            ("function.spec.scal", Some("function.spec.scale")),
            ("scale", Some("function.spec.scale")),
            ("scale.idletimeout", Some("function.spec.scale.idleTimeout")),
            ("fnction.spec.triggers[0].htp", Some("function.spec.triggers.http")),
            ("fnction", Some("function")),
            ("revision.spec.tmplate", Some("revision.spec.template")),
            ("function.banana", None),
            ("", None),
        ] {
            assert_eq!(explain_nearest(path).as_deref(), meant, "{path}");
        }
    }

    #[test]
    fn prints_type_default_meaning_and_children() {
        insta::assert_snapshot!(explain("function").unwrap());
        insta::assert_snapshot!(explain("function.spec.scale").unwrap());
        insta::assert_snapshot!(explain("function.spec.triggers.http").unwrap());
        insta::assert_snapshot!(explain("function.spec.timeouts.queue").unwrap());
    }

    #[test]
    fn takes_short_names_and_indexes() {
        assert_eq!(explain("spec.triggers[0].http"), explain("fn.spec.triggers.http"));
        assert!(explain("function").unwrap().contains("RESOURCE: Function"));
        assert!(explain("revision.spec.template").unwrap().contains("bundle"));
        for unknown in ["", "banana", "function.banana", "function.spec.runtime.x"] {
            assert_eq!(explain(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn every_default_of_the_design_is_printed() {
        for (path, default) in [
            ("spec.timeouts.queue", "30s"),
            ("spec.timeouts.start", "60s"),
            ("spec.timeouts.execute", "30s"),
            ("spec.timeouts.idleStream", "60s"),
            ("spec.resources.memory", "128Mi"),
            ("spec.resources.tmp", "64Mi"),
            ("spec.concurrency.limit", "10"),
            ("spec.scale.keepAlive", "learned"),
            ("spec.scale.pause", "10s"),
            ("metadata.namespace", "default"),
            ("spec.network", "outbound"),
            ("spec.processModel", "resident"),
            ("spec.signature", "auto"),
            ("spec.concurrency.target", "70%"),
            ("spec.scale.min", "0"),
            ("spec.scale.max", "20"),
            ("spec.scale.initial", "1"),
            ("spec.scale.activation", "0"),
            ("spec.scale.window", "60s"),
            ("spec.scale.scaleDownDelay", "0s"),
            ("spec.scale.idleTimeout", "60s"),
            ("spec.scale.metric", "concurrency"),
        ] {
            let text = explain(path).unwrap();
            assert!(text.contains(&format!("DEFAULT:  {default}\n")), "{path}: {text}");
        }
    }
}
