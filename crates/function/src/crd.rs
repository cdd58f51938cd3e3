//! The custom resource definitions for a cluster, from the same types.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, ValidationRule,
};
use kube_core::CustomResourceExt;

use crate::ids::LONGEST_LABEL;
use crate::revision::Revision;
use crate::spec::Function;
use crate::validate::LONGEST_NAME;

/// An RFC 1123 label. Kubernetes itself takes dots in the name of an object too, and 253 characters.
const LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// The definitions of `functions.hearth.dev` and `revisions.hearth.dev`, for any API server that knows `apiextensions.k8s.io/v1` (1.16).
#[must_use]
pub fn crds() -> [CustomResourceDefinition; 2] {
    let mut crds = [Function::crd(), Revision::crd()];
    // A Function whose name is a label, if one too long, is held like any other. Before 1.30 an API server refuses every write of an object that
    // does not fit, even the one that takes the finalizer off.
    restrict_name(&mut crds[0], LONGEST_LABEL);
    // Known from 1.30 on; what came before refuses them as unknown fields.
    for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        version.selectable_fields = None;
    }
    crds
}

/// Rules in CEL, by their place in the schema: what a schema alone cannot say and an API server can refuse by itself, before Hearth sees it.
/// Each as path below `spec` (of dots), rule, and what is said when it does not hold.
const FUNCTION_RULES: [(&str, &str, &str); 4] = [
    (
        "source",
        "[has(self.inline), has(self.bundle), has(self.archive), has(self.git), has(self.image)].filter(given, given).size() == 1",
        "exactly one of inline, bundle, archive, git, image (path is for the hearth client)",
    ),
    ("scale", "self.min <= self.max", "min is more than max"),
    ("scale", "self.initial <= self.max", "initial is more than max"),
    ("scale", "self.activation <= self.max", "activation is more than max"),
];

const REVISION_RULES: [(&str, &str, &str); 1] = [("", "self == oldSelf", "a Revision is never changed")];

/// As [`crds`], with rules in CEL and the fields that can be selected by: for API servers from 1.30 on (which
/// knows the latter, but selects by them from 1.31 on).
#[must_use]
pub fn crds_with_rules() -> [CustomResourceDefinition; 2] {
    let [mut function, mut revision] = [Function::crd(), Revision::crd()];
    restrict_name(&mut function, LONGEST_NAME);
    add_rules(&mut function, &FUNCTION_RULES);
    add_rules(&mut revision, &REVISION_RULES);
    [function, revision]
}

/// Has an API server refuse names that are none of a Function. Of `metadata` a structural schema may say this and nothing else. A name that is made
/// from `generateName` is there by then.
fn restrict_name(crd: &mut CustomResourceDefinition, longest: usize) {
    let root = crd.spec.versions.first_mut().and_then(|version| version.schema.as_mut());
    let Some(root) = root.and_then(|schema| schema.open_api_v3_schema.as_mut()) else { return };
    let name = JSONSchemaProps {
        type_: Some("string".to_owned()),
        max_length: i64::try_from(longest).ok(),
        pattern: Some(LABEL.to_owned()),
        ..JSONSchemaProps::default()
    };
    let metadata = JSONSchemaProps {
        type_: Some("object".to_owned()),
        properties: Some(BTreeMap::from([("name".to_owned(), name)])),
        ..JSONSchemaProps::default()
    };
    root.properties.get_or_insert_default().insert("metadata".to_owned(), metadata);
}

fn add_rules(crd: &mut CustomResourceDefinition, rules: &[(&str, &str, &str)]) {
    for (path, rule, message) in rules {
        let path = std::iter::once("spec").chain(path.split('.').filter(|name| !name.is_empty()));
        let root = crd.spec.versions.first_mut().and_then(|version| version.schema.as_mut());
        let root = root.and_then(|schema| schema.open_api_v3_schema.as_mut());
        let place = path.fold(root, |schema, name| schema?.properties.as_mut()?.get_mut(name));
        if let Some(schema) = place {
            schema.x_kubernetes_validations.get_or_insert_default().push(ValidationRule {
                rule: (*rule).to_owned(),
                message: Some((*message).to_owned()),
                ..ValidationRule::default()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_schema_is_structural() {
        // What an API server asks of a structural schema and our own schema extensions could spoil: a type everywhere (or one of the two
        // extensions that stand in for it), and no keyword of ours.
        fn check(schema: &Value, path: &str) {
            let Some(fields) = schema.as_object() else { return };
            let typed = ["type", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
            assert!(typed.iter().any(|key| fields.contains_key(*key)), "{path} has no type: {schema}");
            assert!(!fields.keys().any(|key| key.starts_with("x-hearth")), "{path}");
            for (name, field) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
                check(field, &format!("{path}.{name}"));
            }
            for key in ["items", "additionalProperties"] {
                if let Some(inner) = fields.get(key) {
                    check(inner, &format!("{path}[]"));
                }
            }
        }
        for crd in crds() {
            let text = serde_json::to_value(&crd).unwrap();
            let schema = &text["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            check(&schema["properties"]["spec"], "spec");
            check(&schema["properties"]["status"], "status");
        }
    }

    #[test]
    fn names_that_no_function_has_are_refused() {
        for (crds, longest) in [(crds(), 63), (crds_with_rules(), 56)] {
            let [function, revision] = crds.map(|crd| serde_json::to_value(&crd).unwrap());
            let properties =
                |crd: &Value| crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"].clone();
            assert!(properties(&revision).get("metadata").is_none(), "Hearth names them");
            // An API server takes no definition that says more of it.
            let name = json!({ "type": "string", "maxLength": longest, "pattern": LABEL });
            let metadata = json!({ "type": "object", "properties": { "name": name } });
            assert_eq!(properties(&function)["metadata"], metadata);
        }
    }

    #[test]
    fn the_pattern_of_names_takes_what_hearth_takes() {
        let pattern = regex::Regex::new(LABEL).unwrap();
        for name in ["hello", "a", "0", "a-b", "a--b", "1st", "a-"].into_iter().chain([
            "-a",
            "",
            "-",
            "hello.v2",
            "Hello",
            "my_function",
            "hello\n",
            "é",
            "a b",
            "a/b",
        ]) {
            assert_eq!(pattern.is_match(name), crate::ids::is_label(name), "{name:?}");
        }
    }

    #[test]
    fn the_names_are_those_that_people_type() {
        let [function, revision] = crds();
        assert_eq!(function.metadata.name.as_deref(), Some("functions.hearth.dev"));
        assert_eq!(function.spec.names.short_names, Some(vec!["fn".to_owned()]));
        assert_eq!(revision.metadata.name.as_deref(), Some("revisions.hearth.dev"));
    }

    #[test]
    fn rules_are_there_only_where_they_are_asked_for() {
        let count = |crds: &[CustomResourceDefinition; 2]| {
            serde_json::to_string(crds).unwrap().matches("x-kubernetes-validations").count()
        };
        // Three of the rules stand at one place.
        assert_eq!((count(&crds()), count(&crds_with_rules())), (0, 3));
        assert!(crds_with_rules().iter().all(|crd| crd.spec.versions[0].selectable_fields.is_some()));
    }

    /// What of a rule, given a Function's spec as it is written, an API server says; the schema's defaults are filled in first, as it does.
    fn said_of(spec: &Value) -> Vec<String> {
        fn fill(schema: &Value, value: &mut Value) {
            let Some(value) = value.as_object_mut() else { return };
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = field.get("default") {
                    value.entry(name).or_insert_with(|| default.clone());
                }
                if let Some(inner) = value.get_mut(name) {
                    fill(field, inner);
                }
            }
        }
        fn check(schema: &Value, value: &Value, said: &mut Vec<String>) {
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let mut context = cel::Context::default();
                context.add_variable("self", value).unwrap();
                let program = cel::Program::compile(rule["rule"].as_str().unwrap()).unwrap();
                match program.execute(&context).unwrap() {
                    cel::Value::Bool(true) => {}
                    cel::Value::Bool(false) => said.push(rule["message"].as_str().unwrap().to_owned()),
                    other => panic!("{rule} is {other:?}"),
                }
            }
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(inner) = value.get(name) {
                    check(field, inner, said);
                }
            }
        }
        let [function, _] = crds_with_rules();
        let schema = serde_json::to_value(&function.spec.versions[0].schema).unwrap();
        let schema = &schema["openAPIV3Schema"]["properties"]["spec"];
        let (mut spec, mut said) = (spec.clone(), Vec::new());
        fill(schema, &mut spec);
        check(schema, &spec, &mut said);
        said
    }

    #[test]
    fn the_rules_say_what_hearth_says() {
        let spec = |more: Value| {
            let mut spec =
                json!({ "runtime": "nodejs", "handler": "index.handler", "source": { "inline": {} } });
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        let nothing: [&str; 0] = [];
        assert_eq!(said_of(&spec(json!({}))), nothing);
        assert_eq!(
            said_of(&spec(json!({ "scale": { "max": 3 } }))),
            nothing,
            "the others have their defaults"
        );
        let two = json!({ "source": { "inline": {}, "image": "hello" } });
        let one_of_them = FUNCTION_RULES[0].2;
        assert_eq!(said_of(&spec(two)), [one_of_them]);
        assert_eq!(said_of(&spec(json!({ "source": { "path": "." } }))), [one_of_them]);
        let scale = json!({ "scale": { "min": 5, "max": 3, "initial": 4, "activation": 6 } });
        let all: Vec<_> = FUNCTION_RULES[1..].iter().map(|(_, _, said)| *said).collect();
        assert_eq!(said_of(&spec(scale)), all);
    }

    #[test]
    fn the_subresources_are_status_and_scale() {
        let [function, revision] = crds();
        let text = serde_json::to_value([&function, &revision]).unwrap();
        let version = &text[0]["spec"]["versions"][0];
        assert_eq!(version["subresources"]["scale"]["specReplicasPath"], ".spec.scale.min");
        assert!(version["subresources"]["status"].is_object());
        assert!(text[1]["spec"]["versions"][0]["subresources"]["scale"].is_null());
        let columns: Vec<_> = version["additionalPrinterColumns"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|column| column["priority"].as_i64().unwrap_or(0) == 0)
            .map(|column| column["name"].as_str().unwrap())
            .collect();
        assert_eq!(columns, ["Ready", "URL", "Instances", "Age"]);
    }
}
