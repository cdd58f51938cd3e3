//! What a Function asks of Kubernetes itself, as its Pods have it. Pure.

use std::collections::BTreeMap;

use hearth_function::spec::{KeySelector, Kubernetes, Toleration, ValueFrom};
use k8s_openapi::api::core::v1::{
    self, ConfigMapKeySelector, EnvVar, EnvVarSource, LocalObjectReference, PodSpec, SecretKeySelector,
};

/// A Pod with nothing but service account, nodes and credentials.
pub(super) fn pod(asked: &Kubernetes) -> PodSpec {
    let Kubernetes { service_account, node_selector, tolerations, image_pull_secrets } = asked;
    let secret = |name: &String| LocalObjectReference { name: name.clone() };
    let secrets = image_pull_secrets.iter().map(|asked| secret(&asked.name)).collect();
    PodSpec {
        service_account_name: service_account.clone(),
        node_selector: (!node_selector.is_empty()).then(|| node_selector.clone()),
        tolerations: some(tolerations.iter().map(tolerated).collect()),
        image_pull_secrets: some(secrets),
        ..PodSpec::default()
    }
}

/// Variables whose values the node looks up.
pub(super) fn variables(kept: &BTreeMap<String, ValueFrom>) -> impl Iterator<Item = EnvVar> {
    kept.iter().map(|(name, from)| EnvVar {
        name: name.clone(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: from.secret_key_ref.as_ref().map(|KeySelector { name, key, optional }| {
                SecretKeySelector { name: name.clone(), key: key.clone(), optional: Some(*optional) }
            }),
            config_map_key_ref: from.config_map_key_ref.as_ref().map(
                |KeySelector { name, key, optional }| ConfigMapKeySelector {
                    name: name.clone(),
                    key: key.clone(),
                    optional: Some(*optional),
                },
            ),
            ..EnvVarSource::default()
        }),
    })
}

fn tolerated(asked: &Toleration) -> v1::Toleration {
    let Toleration { key, operator, value, effect, toleration_seconds } = asked;
    v1::Toleration {
        key: key.clone(),
        operator: Some(operator.as_str().to_owned()),
        value: value.clone(),
        effect: effect.map(|effect| effect.as_str().to_owned()),
        toleration_seconds: *toleration_seconds,
    }
}

/// An empty list is none.
fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_for_is_in_the_pod_in_the_same_words() {
        let asked = json!({
            "serviceAccount": "robot",
            "nodeSelector": { "zone": "a" },
            "tolerations": [
                { "operator": "Exists" },
                { "key": "gpu", "operator": "Equal", "value": "big", "effect": "NoExecute", "tolerationSeconds": 60 },
            ],
            "imagePullSecrets": [{ "name": "registry" }],
        });
        let mut found = serde_json::to_value(pod(&serde_json::from_value(asked.clone()).unwrap())).unwrap();
        let fields = found.as_object_mut().unwrap();
        let account = fields.remove("serviceAccountName").unwrap();
        fields.insert("serviceAccount".to_owned(), account);
        assert_eq!(fields.remove("containers"), Some(json!([])));
        assert_eq!(found, asked);
    }

    #[test]
    fn nothing_is_asked_for_by_default() {
        assert_eq!(pod(&Kubernetes::default()), PodSpec::default());
    }

    #[test]
    fn a_value_stays_where_it_is_kept() {
        let kept = json!({
            "A": { "secretKeyRef": { "name": "s", "key": "k", "optional": true } },
            "B": { "configMapKeyRef": { "name": "c", "key": "k" } },
        });
        let found: Vec<EnvVar> = variables(&serde_json::from_value(kept).unwrap()).collect();
        let expected = json!([
            { "name": "A", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k", "optional": true } } },
            { "name": "B", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k", "optional": false } } },
        ]);
        assert_eq!(serde_json::to_value(found).unwrap(), expected);
    }
}
