//! OpenAPI, versions 2 and 3, of Hearth's own resources: what `kubectl explain` prints and what clients check objects by before they send
//! them. Made once, out of the schemas of the resource definitions.

mod proto;

use std::sync::LazyLock;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use serde_json::{Map, Value, json};

use super::discovery::{FUNCTION_VERBS, REVISION_VERBS};
use super::kinds::{self, Facts};

/// The path of the one document of version 3.
pub(super) const V3_HEARTH: &str = "/openapi/v3/apis/hearth.dev/v1";

/// What clients written in Go want of version 2, and the only form that they take.
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

static V3: LazyLock<Value> = LazyLock::new(document);
static V2: LazyLock<Value> = LazyLock::new(
    || json!({ "swagger": "2.0", "info": info(), "paths": old_paths(&V3["paths"]), "definitions": components().map(old_form) }),
);

/// The list of documents of version 3.
pub(super) async fn v3_index() -> Json<Value> {
    let url = format!("{V3_HEARTH}?hash={}", env!("CARGO_PKG_VERSION"));
    Json(json!({ "paths": { "apis/hearth.dev/v1": { "serverRelativeURL": url } } }))
}

/// The document of version 3.
pub(super) async fn v3() -> Json<&'static Value> {
    Json(&V3)
}

/// Version 2, as protobuf or JSON.
pub(super) async fn v2(headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accept.contains("proto-openapi") {
        return ([(header::CONTENT_TYPE, V2_PROTOBUF)], proto::encode(&V2)).into_response();
    }
    Json(&*V2).into_response()
}

fn info() -> Value {
    json!({ "title": "Hearth", "version": env!("CARGO_PKG_VERSION") })
}

fn document() -> Value {
    let mut paths = Map::new();
    for (facts, verbs) in kinds::all().into_iter().zip([FUNCTION_VERBS, REVISION_VERBS]) {
        add_paths(&mut paths, facts, verbs);
    }
    json!({ "openapi": "3.0.0", "info": info(), "paths": paths, "components": { "schemas": components().0 } })
}

/// Schemas by name.
struct Components(Map<String, Value>);

impl Components {
    fn map(self, change: impl Fn(Value) -> Value) -> Value {
        Value::Object(self.0.into_iter().map(|(name, schema)| (name, change(schema))).collect())
    }
}

fn component(kind: &str) -> String {
    format!("dev.hearth.v1.{kind}")
}

fn components() -> Components {
    let mut schemas = Map::new();
    for facts in kinds::all() {
        let kind = &facts.names.kind;
        let mut schema = facts.schema.clone();
        schema["x-kubernetes-group-version-kind"] = json!([group_version_kind(kind)]);
        let list = json!({
            "type": "object", "description": format!("Several of kind {kind}."), "required": ["items"],
            "properties": {
                "apiVersion": schema["properties"]["apiVersion"], "kind": schema["properties"]["kind"],
                "metadata": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": "What the list is." },
                "items": { "type": "array", "items": schema, "description": "The objects." },
            },
            "x-kubernetes-group-version-kind": [group_version_kind(&format!("{kind}List"))],
        });
        schemas.insert(component(&format!("{kind}List")), list);
        schemas.insert(component(kind), schema);
    }
    Components(schemas)
}

fn group_version_kind(kind: &str) -> Value {
    json!({ "group": "hearth.dev", "version": "v1", "kind": kind })
}

/// The operations of a resource. Clients look here which parameters they may use.
fn add_paths(paths: &mut Map<String, Value>, facts: &Facts, verbs: &[&str]) {
    let kind = &facts.names.kind;
    let collection = format!("/apis/hearth.dev/v1/namespaces/{{namespace}}/{}", facts.names.plural);
    let operations = [
        (&collection, "get", "list", "list", &["labelSelector", "fieldSelector", "limit", "continue"][..]),
        (&collection, "post", "create", "post", &["dryRun", "fieldManager", "fieldValidation"]),
        (&format!("{collection}/{{name}}"), "get", "get", "get", &[]),
        (
            &format!("{collection}/{{name}}"),
            "put",
            "update",
            "put",
            &["dryRun", "fieldManager", "fieldValidation"],
        ),
        (
            &format!("{collection}/{{name}}"),
            "patch",
            "patch",
            "patch",
            &["dryRun", "fieldManager", "fieldValidation", "force"],
        ),
        (&format!("{collection}/{{name}}"), "delete", "delete", "delete", &["dryRun", "propagationPolicy"]),
    ];
    for (path, method, verb, action, parameters) in operations {
        if !verbs.contains(&verb) {
            continue;
        }
        let answer = component(&if verb == "list" { format!("{kind}List") } else { kind.clone() });
        let parameter = |name: &&str| {
            let kind = match *name {
                "limit" => "integer",
                "force" => "boolean",
                _ => "string",
            };
            json!({ "name": name, "in": "query", "schema": { "type": kind } })
        };
        let operation = json!({
            "operationId": format!("{verb}HearthDevV1Namespaced{kind}"),
            "parameters": parameters.iter().map(parameter).collect::<Vec<_>>(),
            "responses": { "200": {
                "description": "OK",
                "content": { "application/json": { "schema": { "$ref": format!("#/components/schemas/{answer}") } } },
            } },
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": group_version_kind(kind),
        });
        let place = paths.entry(path.clone()).or_insert_with(|| json!({}));
        place[method] = operation;
    }
}

/// The paths in the words of version 2.
fn old_paths(paths: &Value) -> Value {
    let mut paths = paths.clone();
    let operations = paths.as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in operations.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        let definition = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
            .as_str()
            .map(|name| name.replace("#/components/schemas/", "#/definitions/"));
        operation["responses"] = json!({ "200": { "description": "OK", "schema": { "$ref": definition } } });
        for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
            if let Some(fields) = parameter.as_object_mut() {
                let schema = fields.remove("schema").unwrap_or_default();
                fields.insert("type".to_owned(), schema["type"].clone());
            }
        }
    }
    paths
}

/// A schema in the words of version 2, which has no alternatives and no null.
fn old_form(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        for newer in ["oneOf", "anyOf", "not", "nullable", "x-kubernetes-validations"] {
            fields.remove(newer);
        }
        for (name, below) in fields {
            match name.as_str() {
                "properties" => {
                    for property in below.as_object_mut().into_iter().flat_map(Map::values_mut) {
                        *property = old_form(property.take());
                    }
                }
                "items" | "additionalProperties" => *below = old_form(below.take()),
                _ => {}
            }
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_the_parameters_that_they_look_for() {
        let patch = &V3["paths"]["/apis/hearth.dev/v1/namespaces/{namespace}/functions/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Function");
        let names: Vec<_> = patch["parameters"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
        assert!(names.contains(&&json!("fieldValidation")) && names.contains(&&json!("dryRun")));
        let revision = &V3["paths"]["/apis/hearth.dev/v1/namespaces/{namespace}/revisions/{name}"];
        assert!(revision["get"].is_object() && revision["patch"].is_null());
    }

    #[test]
    fn version_2_has_only_words_of_version_2() {
        let text = V2.to_string();
        for newer in ["nullable", "anyOf", "oneOf"] {
            assert!(!text.contains(&format!("\"{newer}\"")), "{newer}");
        }
        assert!(
            V2["definitions"]["dev.hearth.v1.Function"]["properties"]["spec"]["properties"]["scale"]
                .is_object()
        );
    }
}
