//! What an API server would refuse of a Pod, and where values of variables are kept.

use super::metadata::{is_label_value, is_qualified};
use super::{Problems, Side};
use crate::ids::is_label;
use crate::spec::{FunctionSpec, KeySelector, TaintEffect, Toleration, TolerationOperator, ValueFrom};

/// Names of most objects, as DNS has them.
const LONGEST_NAME: usize = 253;

const NAME_FORM: &str =
    "use lower-case letters, digits, dashes and dots, with a letter or digit at both ends";

pub(super) fn check(spec: &FunctionSpec, side: Side, found: &mut Problems) {
    for (index, variable) in spec.env.iter().enumerate() {
        if let Some(from) = &variable.value_from {
            value_from(from, side, &format!("spec.env[{index}].valueFrom"), found);
        }
    }
    let Some(kubernetes) = &spec.kubernetes else { return };
    if let Some(account) = &kubernetes.service_account {
        name(account, "spec.kubernetes.serviceAccount", found);
    }
    for (key, value) in &kubernetes.node_selector {
        let path = crate::check::join("spec.kubernetes.nodeSelector", key);
        label(key, value, &path, found);
    }
    for (index, toleration) in kubernetes.tolerations.iter().enumerate() {
        tolerates(toleration, &format!("spec.kubernetes.tolerations[{index}]"), found);
    }
    for (index, secret) in kubernetes.image_pull_secrets.iter().enumerate() {
        name(&secret.name, &format!("spec.kubernetes.imagePullSecrets[{index}].name"), found);
    }
}

fn value_from(from: &ValueFrom, side: Side, path: &str, found: &mut Problems) {
    if side == Side::Server {
        let message = "Secrets and ConfigMaps are Kubernetes' own: this server has none";
        return found.add(path, message, "use `value`, or run the function in a cluster");
    }
    let (field, selector) = match (&from.secret_key_ref, &from.config_map_key_ref) {
        (Some(secret), None) => ("secretKeyRef", secret),
        (None, Some(map)) => ("configMapKeyRef", map),
        (None, None) => {
            return found.add(
                path,
                "it does not say where the value is",
                "give secretKeyRef or configMapKeyRef",
            );
        }
        (Some(_), Some(_)) => {
            return found.add(path, "there are two places where the value is", "keep one of them");
        }
    };
    let KeySelector { name: object, key, optional: _ } = selector;
    name(object, &format!("{path}.{field}.name"), found);
    let is_key = (1..=LONGEST_NAME).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && !matches!(key.as_str(), "." | "..");
    if !is_key {
        let message = format!("{key:?} is not a key of a Secret or ConfigMap");
        found.add(
            format!("{path}.{field}.key"),
            message,
            "use letters, digits, dashes, dots and underscores",
        );
    }
}

fn name(name: &str, path: &str, found: &mut Problems) {
    if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        found.add(path, format!("{name:?} is not a name"), NAME_FORM);
    }
}

fn label(key: &str, value: &str, path: &str, found: &mut Problems) {
    if !is_qualified(key) {
        let fix = "write it as in zone or example.com/zone";
        found.add(path, format!("{key:?} is not the name of a label"), fix);
    }
    label_value(value, path, found);
}

fn label_value(value: &str, path: &str, found: &mut Problems) {
    if !is_label_value(value) {
        let fix = "use at most 63 letters, digits, dashes, dots and underscores";
        found.add(path, format!("{value:?} cannot be the value of a label"), fix);
    }
}

fn tolerates(toleration: &Toleration, path: &str, found: &mut Problems) {
    let Toleration { key, operator, value, effect, toleration_seconds } = toleration;
    match key.as_deref() {
        None | Some("") if *operator == TolerationOperator::Equal => {
            found.add(path, "it names no taint", "give `key`, or `operator: Exists` for every taint");
        }
        None | Some("") => {}
        Some(key) if !is_qualified(key) => {
            let fix = "write it as in dedicated or example.com/dedicated";
            found.add(format!("{path}.key"), format!("{key:?} is not the key of a taint"), fix);
        }
        Some(_) => {}
    }
    let path_of_value = format!("{path}.value");
    match value.as_deref() {
        None | Some("") => {}
        Some(_) if *operator == TolerationOperator::Exists => {
            found.add(path_of_value, "with the operator Exists every value is tolerated", "take it out");
        }
        Some(value) => label_value(value, &path_of_value, found),
    }
    if toleration_seconds.is_some() && *effect != Some(TaintEffect::NoExecute) {
        let path = format!("{path}.tolerationSeconds");
        found.add(path, "only the effect NoExecute takes Pods off a node", "add `effect: NoExecute`");
    }
}
