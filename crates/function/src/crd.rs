//! The custom resource definitions for a cluster, from the same types.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube_core::CustomResourceExt;

use crate::revision::Revision;
use crate::spec::Function;

/// The definitions of `functions.hearth.dev` and `revisions.hearth.dev`.
#[must_use]
pub fn crds() -> [CustomResourceDefinition; 2] {
    [Function::crd(), Revision::crd()]
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

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
    fn the_names_are_those_that_people_type() {
        let [function, revision] = crds();
        assert_eq!(function.metadata.name.as_deref(), Some("functions.hearth.dev"));
        assert_eq!(function.spec.names.short_names, Some(vec!["fn".to_owned()]));
        assert_eq!(revision.metadata.name.as_deref(), Some("revisions.hearth.dev"));
    }
}
