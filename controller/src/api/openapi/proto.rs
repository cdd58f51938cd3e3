//! OpenAPI version 2 as protobuf: the parts of gnostic's `openapi.v2.Document` that a set of schemas needs.
//! <https://github.com/google/gnostic-models/blob/main/openapiv2/OpenAPIv2.proto>; the numbers are its.

use prost::Message;
use serde_json::Value;

#[derive(Clone, PartialEq, Message)]
struct Document {
    #[prost(string, tag = "1")]
    swagger: String,
    #[prost(message, optional, tag = "2")]
    info: Option<Info>,
    /// Wanted, and empty.
    #[prost(message, optional, tag = "8")]
    paths: Option<Empty>,
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
struct Empty {}

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
        paths: Some(Empty {}),
        definitions: named(&document["definitions"]),
    }
    .encode_to_vec()
}

fn named(schemas: &Value) -> Option<NamedSchemas> {
    let schemas = schemas.as_object()?.iter();
    let schemas = schemas.map(|(name, value)| NamedSchema { name: name.clone(), value: Some(schema(value)) });
    Some(NamedSchemas { schemas: schemas.collect() })
}

fn schema(value: &Value) -> Schema {
    let strings = |field: &Value| field.as_array().into_iter().flatten().map(text).collect();
    let extensions = value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-"));
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
        extensions: extensions
            .map(|(name, value)| Extension { name: name.clone(), value: Some(yaml(value)) })
            .collect(),
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
            "definitions": { "a.B": {
                "type": "object", "description": "d", "required": ["c"], "x-y": [1],
                "properties": { "c": { "type": "array", "items": { "type": "string", "enum": ["e"], "default": "e" } } },
                "additionalProperties": { "type": "integer", "format": "int32" },
            } },
        });
        let read = Document::decode(encode(&document).as_slice()).unwrap();
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
