//! `metadata.managedFields` in memory: the sets of fields as text.
//!
//! As trees of maps, which the type of an object has them as, they are two thirds of it. They are read when somebody writes the object, and
//! written out when somebody reads it; so they are packed as long as the store holds them, and unpacked wherever they leave it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry};
use kube::api::ObjectMeta;
use serde_json::Value;

use super::object::Object;

/// Packs what is not packed yet. A set of fields is an object; a text is never one that somebody has sent.
pub(super) fn pack(metadata: &mut ObjectMeta) {
    for entry in metadata.managed_fields.iter_mut().flatten() {
        if let Some(FieldsV1(fields)) = &mut entry.fields_v1
            && !fields.is_string()
        {
            *fields = Value::String(fields.to_string());
        }
    }
}

/// The managers of an object's fields, as Kubernetes has them.
#[must_use]
pub fn managers(metadata: &ObjectMeta) -> Vec<ManagedFieldsEntry> {
    let mut managers = metadata.managed_fields.clone().unwrap_or_default();
    for entry in &mut managers {
        if let Some(FieldsV1(fields)) = &mut entry.fields_v1 {
            unpack(fields);
        }
    }
    managers
}

/// An object as JSON, as Kubernetes has it.
///
/// # Errors
/// When it has no JSON form.
pub fn to_json<O: Object>(object: &O) -> serde_json::Result<Value> {
    let mut whole = serde_json::to_value(object)?;
    let entries = whole.pointer_mut("/metadata/managedFields").and_then(Value::as_array_mut);
    for entry in entries.into_iter().flatten() {
        if let Some(fields) = entry.get_mut("fieldsV1") {
            unpack(fields);
        }
    }
    Ok(whole)
}

fn unpack(fields: &mut Value) {
    if let Value::String(text) = fields {
        // What is no JSON was never packed here: it stays what it is.
        if let Ok(unpacked) = serde_json::from_str(text) {
            *fields = unpacked;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_packed_is_told_as_it_was() {
        let managed = json!([
            { "manager": "kubectl", "operation": "Apply", "fieldsV1": { "f:spec": { "f:runtime": {}, ".": {} } } },
            { "manager": "other", "operation": "Update" },
        ]);
        let mut function: hearth_function::Function = serde_json::from_value(json!({
            "apiVersion": "hearth.dev/v1alpha1",
            "kind": "Function",
            "metadata": { "name": "hello", "namespace": "default", "managedFields": managed },
            "spec": { "runtime": "exec", "source": { "inline": { "run": "" } }, "command": ["./run"] },
        }))
        .unwrap();
        let (before, known) = (to_json(&function).unwrap(), managers(&function.metadata));
        pack(&mut function.metadata);
        assert!(
            function.metadata.managed_fields.as_ref().unwrap()[0].fields_v1.as_ref().unwrap().0.is_string()
        );
        let packed = function.clone();
        pack(&mut function.metadata);
        assert_eq!(function, packed, "once is enough");
        assert_eq!(to_json(&function).unwrap(), before);
        assert_eq!(before["metadata"]["managedFields"], managed);
        assert_eq!(managers(&function.metadata), known);
    }
}
