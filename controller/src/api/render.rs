//! In which form objects are answered: whole, as a table, or their metadata alone. What the client asks for stands in `Accept`.

mod age;

use http::{HeaderMap, header};
use jiff::Timestamp;
use jsonpath_rust::query::js_path_process;
use serde_json::{Value, json};

use super::failure::Failure;
use super::kinds::Column;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// The objects themselves.
    Whole,
    /// Their metadata.
    Metadata,
    /// A table for people, with as much of each object beside its row.
    Table(Include),
}

/// What of an object stands beside its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All.
    Object,
}

impl View {
    /// The first form of `Accept` that is served; `include` is the parameter `includeObject`.
    ///
    /// # Errors
    /// 406 when none is.
    pub(super) fn of(headers: &HeaderMap, include: &str) -> Result<Self, Failure> {
        let include = match include {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::None,
            "Object" => Include::Object,
            other => {
                let message = format!("includeObject is {other:?}: write None, Metadata or Object");
                return Err(Failure::bad_request(&message));
            }
        };
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
        accept
            .split(',')
            .find_map(|media| form(media, include))
            .ok_or_else(|| Failure::not_acceptable(&["application/json"]))
    }
}

fn form(media: &str, include: Include) -> Option<View> {
    let mut parts = media.split(';').map(str::trim);
    if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
        return None;
    }
    let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
    let parameter = |name| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    match parameter("as") {
        None => Some(View::Whole),
        // The older version of the group differs in nothing but its name, which the answer would have to carry.
        Some(_) if (parameter("g"), parameter("v")) != (Some("meta.k8s.io"), Some("v1")) => None,
        Some("Table") => Some(View::Table(include)),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(View::Metadata),
        Some(_) => None,
    }
}

/// Objects of one kind, to be answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rendering<'a> {
    /// In which form.
    pub(super) view: View,
    /// The columns of the kind.
    pub(super) columns: &'a [Column],
    /// For ages.
    pub(super) now: Timestamp,
}

impl Rendering<'_> {
    /// One object.
    pub(super) fn one(&self, object: Value) -> Value {
        match self.view {
            View::Whole => object,
            View::Metadata => metadata(&object),
            View::Table(include) => {
                let version = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
                self.table(version, &[object], include)
            }
        }
    }

    /// A list: `kind` is `FunctionList`, `metadata` the list's.
    pub(super) fn list(&self, api_version: &str, kind: &str, list: Value, items: Vec<Value>) -> Value {
        match self.view {
            View::Whole => {
                json!({ "apiVersion": api_version, "kind": kind, "metadata": list, "items": items })
            }
            View::Metadata => json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": list,
                "items": items.iter().map(metadata).collect::<Vec<_>>(),
            }),
            View::Table(include) => self.table(list, &items, include),
        }
    }

    fn table(&self, list: Value, items: &[Value], include: Include) -> Value {
        let definition = |column: &Column| {
            json!({
                "name": column.name, "type": column.type_, "format": column.format, "description": column.description,
                "priority": column.priority,
            })
        };
        let row = |object: &Value| {
            let cells: Vec<Value> = self.columns.iter().map(|column| self.cell(column, object)).collect();
            match include {
                Include::None => json!({ "cells": cells }),
                Include::Metadata => json!({ "cells": cells, "object": metadata(object) }),
                Include::Object => json!({ "cells": cells, "object": object }),
            }
        };
        json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "Table", "metadata": list,
            "columnDefinitions": self.columns.iter().map(definition).collect::<Vec<_>>(),
            "rows": items.iter().map(row).collect::<Vec<_>>(),
        })
    }

    /// The first value at the column's path, as a table shows it; null, which clients leave empty, without one.
    fn cell(&self, column: &Column, object: &Value) -> Value {
        let found = js_path_process(&column.value, object).unwrap_or_default();
        let Some(value) = found.into_iter().next().map(|found| found.val()) else { return Value::Null };
        if column.type_ != "date" {
            return value.clone();
        }
        match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
            Some(then) => Value::from(age::between(then, self.now)),
            None => Value::from("<unknown>"),
        }
    }
}

fn metadata(object: &Value) -> Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(accept: &str) -> Option<View> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        View::of(&headers, "").ok()
    }

    #[test]
    fn the_first_form_that_is_served_is_taken() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(view(kubectl), Some(View::Table(Include::Metadata)));
        assert_eq!(view("application/vnd.kubernetes.protobuf, application/json"), Some(View::Whole));
        assert_eq!(
            view("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"),
            Some(View::Metadata)
        );
        assert_eq!(view("*/*"), Some(View::Whole));
        assert_eq!(view("application/vnd.kubernetes.protobuf"), None);
        assert_eq!(View::of(&HeaderMap::new(), "").unwrap(), View::Whole);
        assert_eq!(View::of(&HeaderMap::new(), "All").unwrap_err().code().as_u16(), 400);
    }

    #[test]
    fn a_table_shows_what_the_columns_say() {
        let columns: Vec<Column> = [
            Column::new("Name", "string", "name", "", ".metadata.name"),
            Column::new("Ready", "string", "", "", r#".status.conditions[?(@.type=="Ready")].status"#),
            Column::new("Instances", "integer", "", "", ".status.instances.ready"),
            Column::new("Age", "date", "", "", ".metadata.creationTimestamp"),
        ]
        .into_iter()
        .map(Option::unwrap)
        .collect();
        let now = "2026-01-01T00:05:00Z".parse().unwrap();
        let rendering = Rendering { view: View::Table(Include::None), columns: &columns, now };
        let ready = json!({ "type": "Ready", "status": "True" });
        let built = json!({ "type": "Built", "status": "False" });
        let object = json!({
            "metadata": { "name": "a", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "7" },
            "status": { "conditions": [built, ready], "instances": { "ready": 3 } },
        });
        let table = rendering.one(object);
        assert_eq!(table["metadata"]["resourceVersion"], "7");
        assert_eq!(table["rows"][0]["cells"], json!(["a", "True", 3, "5m"]));
        let empty = rendering.one(json!({ "metadata": { "name": "b" } }));
        assert_eq!(empty["rows"][0]["cells"], json!(["b", null, null, null]));
    }
}
