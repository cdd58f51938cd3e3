//! OpenAPI version 2 as protobuf: the parts of gnostic's `openapi.v2.Document` that are used.
//! <https://github.com/google/gnostic-models/blob/main/openapiv2/OpenAPIv2.proto>; the numbers are its.

use prost::Message;
use serde_json::Value;

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    #[prost(message, optional, tag = "8")]
    paths: Option<Paths>,
    #[prost(message, optional, tag = "9")]
    definitions: Option<NamedSchemas>,
}

#[derive(Clone, PartialEq, Message)]
struct Info {
    #[prost(string, tag = "1")]
    title: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Paths {
    #[prost(message, repeated, tag = "2")]
    path: Vec<NamedPath>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedPath {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Methods>,
}

#[derive(Clone, PartialEq, Message)]
struct Methods {
    #[prost(message, optional, tag = "2")]
    get: Option<Operation>,
    #[prost(message, optional, tag = "3")]
    put: Option<Operation>,
    #[prost(message, optional, tag = "4")]
    post: Option<Operation>,
    #[prost(message, optional, tag = "5")]
    delete: Option<Operation>,
    #[prost(message, optional, tag = "8")]
    patch: Option<Operation>,
}

#[derive(Clone, PartialEq, Message)]
struct Operation {
    #[prost(string, tag = "5")]
    id: String,
    #[prost(message, repeated, tag = "8")]
    parameters: Vec<AnyParameter>,
    #[prost(message, repeated, tag = "13")]
    extensions: Vec<Extension>,
}

/// A parameter or a reference; then of the body or not; then of the query or of elsewhere.
#[derive(Clone, PartialEq, Message)]
struct AnyParameter {
    #[prost(message, optional, tag = "1")]
    parameter: Option<Parameter>,
}

#[derive(Clone, PartialEq, Message)]
struct Parameter {
    #[prost(message, optional, tag = "2")]
    non_body: Option<NonBodyParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct NonBodyParameter {
    #[prost(message, optional, tag = "3")]
    query: Option<QueryParameter>,
}

#[derive(Clone, PartialEq, Message)]
struct QueryParameter {
    #[prost(string, tag = "2")]
    place: String,
    #[prost(string, tag = "4")]
    name: String,
    #[prost(string, tag = "6")]
    type_: String,
}

/// `Definitions` and `Properties`, which have the same form.
#[derive(Clone, PartialEq, Message)]
struct NamedSchemas {
    #[prost(message, repeated, tag = "1")]
    schemas: Vec<NamedSchema>,
}

#[derive(Clone, PartialEq, Message)]
struct NamedSchema {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Schema>,
}

#[derive(Clone, PartialEq, Message)]
struct Schema {
    #[prost(string, tag = "2")]
    format: String,
    #[prost(string, tag = "4")]
    description: String,
    #[prost(message, optional, tag = "5")]
    default: Option<Yaml>,
    #[prost(string, repeated, tag = "19")]
    required: Vec<String>,
    #[prost(message, repeated, tag = "20")]
    allowed: Vec<Yaml>,
    #[prost(message, optional, boxed, tag = "21")]
    additional_properties: Option<Box<AdditionalProperties>>,
    #[prost(message, optional, tag = "22")]
    types: Option<Types>,
    #[prost(message, optional, tag = "23")]
    items: Option<Items>,
    #[prost(message, optional, tag = "25")]
    properties: Option<NamedSchemas>,
    #[prost(message, repeated, tag = "31")]
    extensions: Vec<Extension>,
}

#[derive(Clone, PartialEq, Message)]
struct AdditionalProperties {
    #[prost(message, optional, boxed, tag = "1")]
    schema: Option<Box<Schema>>,
}

#[derive(Clone, PartialEq, Message)]
struct Types {
    #[prost(string, repeated, tag = "1")]
    value: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Items {
    #[prost(message, repeated, tag = "1")]
    schema: Vec<Schema>,
}

/// Any value, as YAML; JSON is YAML.
#[derive(Clone, PartialEq, Message)]
struct Yaml {
    #[prost(string, tag = "2")]
    yaml: String,
}

#[derive(Clone, PartialEq, Message)]
struct Extension {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    value: Option<Yaml>,
}

/// Encodes a document of version 2.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    Document {
        swagger: text(&document["swagger"]),
        info: Some(Info {
            title: text(&document["info"]["title"]),
            version: text(&document["info"]["version"]),
        }),
        paths: Some(paths(&document["paths"])),
        definitions: named(&document["definitions"]),
    }
    .encode_to_vec()
}

fn paths(paths: &Value) -> Paths {
    let methods = |methods: &Value| Methods {
        get: methods.get("get").map(operation),
        put: methods.get("put").map(operation),
        post: methods.get("post").map(operation),
        delete: methods.get("delete").map(operation),
        patch: methods.get("patch").map(operation),
    };
    let path =
        |(name, value): (&String, &Value)| NamedPath { name: name.clone(), value: Some(methods(value)) };
    Paths { path: paths.as_object().into_iter().flatten().map(path).collect() }
}

fn operation(value: &Value) -> Operation {
    let parameter = |value: &Value| {
        let query = QueryParameter {
            place: text(&value["in"]),
            name: text(&value["name"]),
            type_: text(&value["type"]),
        };
        let parameter = Parameter { non_body: Some(NonBodyParameter { query: Some(query) }) };
        AnyParameter { parameter: Some(parameter) }
    };
    Operation {
        id: text(&value["operationId"]),
        parameters: value["parameters"].as_array().into_iter().flatten().map(parameter).collect(),
        extensions: extensions(value),
    }
}

fn extensions(value: &Value) -> Vec<Extension> {
    let extensions = value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
    extensions.map(|(name, value)| Extension { name: name.clone(), value: Some(yaml(value)) }).collect()
}

fn named(schemas: &Value) -> Option<NamedSchemas> {
    let schemas = schemas.as_object()?.iter();
    let schemas = schemas.map(|(name, value)| NamedSchema { name: name.clone(), value: Some(schema(value)) });
    Some(NamedSchemas { schemas: schemas.collect() })
}

fn schema(value: &Value) -> Schema {
    let strings = |field: &Value| field.as_array().into_iter().flatten().map(text).collect();
    Schema {
        format: text(&value["format"]),
        description: text(&value["description"]),
        default: value.get("default").map(yaml),
        required: strings(&value["required"]),
        allowed: value["enum"].as_array().into_iter().flatten().map(yaml).collect(),
        additional_properties: value
            .get("additionalProperties")
            .filter(|below| below.is_object())
            .map(|below| Box::new(AdditionalProperties { schema: Some(Box::new(schema(below))) })),
        types: value["type"].as_str().map(|name| Types { value: vec![name.to_owned()] }),
        items: value.get("items").map(|below| Items { schema: vec![schema(below)] }),
        properties: value.get("properties").and_then(named),
        extensions: extensions(value),
    }
}

fn yaml(value: &Value) -> Yaml {
    Yaml { yaml: value.to_string() }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_comes_back_as_it_went() {
        let document = json!({
            "swagger": "2.0", "info": { "title": "t", "version": "1" },
            "paths": { "/p": { "patch": { "parameters": [{ "name": "dryRun", "in": "query", "type": "string" }] } } },
            "definitions": { "a.B": {
                "type": "object", "description": "d", "required": ["c"], "x-y": [1],
                "properties": { "c": { "type": "array", "items": { "type": "string", "enum": ["e"], "default": "e" } } },
                "additionalProperties": { "type": "integer", "format": "int32" },
            } },
        });
        let read = Document::decode(encode(&document).as_slice()).unwrap();
        let patch = read.paths.unwrap().path.remove(0).value.unwrap().patch.unwrap();
        let query = patch.parameters[0].parameter.clone().unwrap().non_body.unwrap().query.unwrap();
        assert_eq!((query.name.as_str(), query.place.as_str()), ("dryRun", "query"));
        let definition = read.definitions.unwrap().schemas.remove(0);
        assert_eq!(definition.name, "a.B");
        let schema = definition.value.unwrap();
        assert_eq!((schema.description.as_str(), schema.required.as_slice()), ("d", &["c".to_owned()][..]));
        assert_eq!(schema.extensions[0].value.as_ref().unwrap().yaml, "[1]");
        let list = schema.properties.unwrap().schemas.remove(0).value.unwrap().items.unwrap();
        assert_eq!(list.schema[0].allowed[0].yaml, r#""e""#);
        assert_eq!(schema.additional_properties.unwrap().schema.unwrap().format, "int32");
    }
}
