//! What is known of the resources beside their objects: names, columns, fields to select by, schema. All of it out of the resource
//! definitions that `hearth crd` prints, so that this server and a cluster say the same.

use std::sync::LazyLock;

use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::parser::parse_json_path;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, CustomResourceDefinitionNames,
};
use serde_json::{Value, json};

use crate::store::{Kind, Object};

/// A resource.
#[derive(Debug)]
pub(super) struct Facts {
    /// Plural, singular, kind, short names, categories.
    pub(super) names: CustomResourceDefinitionNames,
    /// The columns of its table.
    pub(super) columns: Vec<Column>,
    /// The fields that it can be selected by beside name and namespace, as paths: `spec.runtime`.
    pub(super) selectable: Vec<String>,
    /// The schema of the whole object.
    pub(super) schema: Value,
}

/// A column of a table.
#[derive(Debug)]
pub(super) struct Column {
    /// Its title.
    pub(super) name: String,
    /// `string`, `integer`, `date`.
    pub(super) type_: String,
    /// `name` for the column by which clients name objects.
    pub(super) format: String,
    /// What it says.
    pub(super) description: String,
    /// Above 0: only in the wide table.
    pub(super) priority: i32,
    /// Where its value is.
    pub(super) value: JpQuery,
}

static FUNCTION: LazyLock<Facts> = LazyLock::new(|| facts(Kind::Function));
static REVISION: LazyLock<Facts> = LazyLock::new(|| facts(Kind::Revision));

/// Of a kind of object.
pub(super) fn of<O: Object>() -> &'static Facts {
    match O::KIND {
        Kind::Function => &FUNCTION,
        Kind::Revision => &REVISION,
    }
}

/// Every resource of Hearth.
pub(super) fn all() -> [&'static Facts; 2] {
    [&FUNCTION, &REVISION]
}

fn facts(kind: Kind) -> Facts {
    let [function, revision] = hearth_function::crds_with_rules();
    let crd: CustomResourceDefinition = match kind {
        Kind::Function => function,
        Kind::Revision => revision,
    };
    let version = crd.spec.versions.into_iter().next().unwrap_or_default();
    let schema = version.schema.and_then(|schema| schema.open_api_v3_schema);
    let mut schema = serde_json::to_value(schema).unwrap_or_default();
    schema["properties"]["apiVersion"] =
        json!({ "type": "string", "description": "The version of this form." });
    schema["properties"]["kind"] = json!({ "type": "string", "description": "What this is." });
    schema["properties"]["metadata"] = hearth_function::metadata_schema();
    let columns = version.additional_printer_columns.unwrap_or_default();
    let name = Column::new("Name", "string", "name", "What it is called.", ".metadata.name");
    Facts {
        names: crd.spec.names,
        columns: name.into_iter().chain(columns.into_iter().filter_map(column)).collect(),
        selectable: version
            .selectable_fields
            .into_iter()
            .flatten()
            .map(|field| field.json_path.trim_start_matches('.').to_owned())
            .collect(),
        schema,
    }
}

fn column(definition: CustomResourceColumnDefinition) -> Option<Column> {
    let CustomResourceColumnDefinition { name, type_, format, description, priority, json_path } = definition;
    let column = Column::new(
        &name,
        &type_,
        format.as_deref().unwrap_or_default(),
        description.as_deref().unwrap_or_default(),
        &json_path,
    )?;
    Some(Column { priority: priority.unwrap_or(0), ..column })
}

impl Column {
    /// A column of the normal table; `path` as in a resource definition. `None` when the path is none.
    pub(super) fn new(name: &str, type_: &str, format: &str, description: &str, path: &str) -> Option<Self> {
        Some(Self {
            name: name.to_owned(),
            type_: type_.to_owned(),
            format: format.to_owned(),
            description: description.to_owned(),
            priority: 0,
            value: parse_json_path(&format!("${path}")).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_the_definitions_can_be_shown() {
        for (facts, crd) in all().into_iter().zip(hearth_function::crds()) {
            let defined = crd.spec.versions[0].additional_printer_columns.as_ref().unwrap();
            let names: Vec<_> = facts.columns.iter().skip(1).map(|column| &column.name).collect();
            assert_eq!(names, defined.iter().map(|column| &column.name).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_schema_describes_the_whole_object() {
        for facts in all() {
            for part in ["apiVersion", "kind", "metadata", "spec", "status"] {
                assert!(facts.schema["properties"][part]["description"].is_string(), "{part}");
            }
        }
    }
}
