//! The JSON schema of a manifest, made from the types: what the checker walks and what `explain` prints.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::AddNullable;
use serde_json::{Value, json};

use crate::revision::{RevisionSpec, RevisionStatus};
use crate::spec::FunctionSpec;
use crate::status::FunctionStatus;

/// The extension that names the text form of a value, for those that are more than text.
pub(crate) const KIND: &str = "x-hearth-kind";

/// The extension that marks what is observed and not declared.
pub(crate) const OBSERVED: &str = "x-hearth-observed";

/// The extension that gives the default of a field which is kept as not set.
pub(crate) const DEFAULT: &str = "x-hearth-default";

/// A Function as a user writes it.
pub(crate) static FUNCTION: LazyLock<Value> = LazyLock::new(|| {
    resource(
        "A function: code that Hearth runs in containers, as many as its traffic needs and none when there is none.",
        "Function",
        of::<FunctionSpec>(),
        of::<FunctionStatus>(),
    )
});

/// A Revision as Hearth writes it.
pub(crate) static REVISION: LazyLock<Value> = LazyLock::new(|| {
    resource(
        "An immutable snapshot of what a Function runs, made whenever its code or its template changes.",
        "Revision",
        of::<RevisionSpec>(),
        of::<RevisionStatus>(),
    )
});

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .with_transform(AddNullable::default());
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

fn resource(description: &str, kind: &str, spec: Value, mut status: Value) -> Value {
    status[OBSERVED] = Value::Bool(true);
    json!({
        "type": "object",
        "description": description,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "type": "string", "enum": [crate::API_VERSION], "description": "The version of this form." },
            "kind": { "type": "string", "enum": [kind], "description": "What this is." },
            "metadata": metadata(),
            "spec": spec,
            "status": status,
        },
    })
}

/// The schema of `metadata`, which Kubernetes leaves out of a resource definition. What a user writes is described; the rest is what a server
/// adds and a client sends back.
#[must_use]
pub fn metadata() -> Value {
    let server_field =
        |kind: &str| json!({ "type": kind, "description": "Set by the server.", "x-hearth-server": true });
    json!({
        "type": "object",
        "description": "What the object is called.",
        "required": ["name"],
        "properties": {
            "name": { "type": "string", "description": "Its name: lower-case letters, digits and dashes, at most 56." },
            "namespace": { "type": "string", "description": "Where the name is unique.", DEFAULT: crate::DEFAULT_NAMESPACE },
            "labels": {
                "type": "object", "additionalProperties": { "type": "string" },
                "description": "Words by which objects are selected.",
            },
            "annotations": {
                "type": "object", "additionalProperties": { "type": "string" },
                "description": "Notes for people and tools.",
            },
            "finalizers": {
                "type": "array", "items": { "type": "string" },
                "description": "Who must be done with the object before it is deleted.",
            },
            "ownerReferences": {
                "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                "description": "Objects that take this one along when they are deleted.",
            },
            "creationTimestamp": server_field("string"),
            "deletionGracePeriodSeconds": server_field("integer"),
            "deletionTimestamp": server_field("string"),
            "generateName": server_field("string"),
            "generation": server_field("integer"),
            "managedFields": {
                "type": "array", "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                "description": "Set by the server.", "x-hearth-server": true,
            },
            "resourceVersion": server_field("string"),
            "selfLink": server_field("string"),
            "uid": server_field("string"),
        },
    })
}

/// The fields of an object, when it has a fixed set of them.
pub(crate) fn properties(schema: &Value) -> Option<&serde_json::Map<String, Value>> {
    schema.get("properties").and_then(Value::as_object)
}

/// The words that a value may be, when only some are allowed.
pub(crate) fn words(schema: &Value) -> Vec<&str> {
    let own = schema.get("enum").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let constant = schema.get("const").and_then(Value::as_str);
    let parts = ["oneOf", "anyOf"]
        .into_iter()
        .filter_map(|key| schema.get(key).and_then(Value::as_array))
        .flatten()
        .flat_map(words);
    own.chain(constant).chain(parts).collect()
}

/// What kind of value it is, for people: `size`, `text`, `list of text`.
pub(crate) fn type_name(schema: &Value) -> String {
    if let Some(kind) = schema.get(KIND).and_then(Value::as_str) {
        return kind.to_owned();
    }
    if !words(schema).is_empty() {
        return "word".to_owned();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => "text".to_owned(),
        Some("integer") => "whole number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("array") => {
            let items = schema.get("items").map_or_else(|| "value".to_owned(), type_name);
            if items == "text" { "list of text".to_owned() } else { format!("list of {items}s") }
        }
        Some("object") => match schema.get("additionalProperties") {
            Some(values) if values.is_object() => format!("map of {}", type_name(values)),
            _ => "object".to_owned(),
        },
        _ => "value".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_documented() {
        fn undocumented(schema: &Value, path: &str, found: &mut Vec<String>) {
            for (name, field) in properties(schema).into_iter().flatten() {
                let path = format!("{path}.{name}");
                let described =
                    field.get("description").and_then(Value::as_str).is_some_and(|text| !text.is_empty());
                if !described {
                    found.push(path.clone());
                }
                undocumented(field, &path, found);
                if let Some(items) = field.get("items") {
                    undocumented(items, &format!("{path}[]"), found);
                }
            }
        }
        for schema in [&*FUNCTION, &*REVISION] {
            let mut found = Vec::new();
            undocumented(schema, "", &mut found);
            assert_eq!(found, Vec::<String>::new());
        }
    }
}
