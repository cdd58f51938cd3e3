//! From what a client sent to a valid Function, or to everything that is wrong with it.

use hearth_function::{Function, Problem, Side};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use serde_json::{Value, json};

use super::failure::Failure;
use super::ownership;

/// Reads and validates a Function that was sent to `namespace` (and to the path of `name`).
///
/// # Errors
/// 400 when it is of another kind or sent to the wrong place; 422 with every problem.
pub(super) fn function(namespace: &str, name: Option<&str>, mut object: Value) -> Result<Function, Failure> {
    place(namespace, name, &mut object)?;
    hearth_function::from_value(&object, Side::Server).map_err(|problems| {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let cause = |problem: Problem| {
            let message = problem
                .fix
                .map_or_else(|| problem.message.clone(), |fix| format!("{}; {fix}", problem.message));
            (problem.path, message)
        };
        Failure::invalid("Function", name, problems.into_iter().map(cause).collect())
    })
}

/// Reads a Function of which only the status counts.
pub(super) fn with_status(namespace: &str, name: &str, mut object: Value) -> Result<Function, Failure> {
    place(namespace, Some(name), &mut object)?;
    serde_json::from_value(object)
        .map_err(|error| Failure::bad_request(&format!("the status cannot be read: {error}")))
}

/// Takes `metadata.managedFields` out of what a client sent, for a server keeps them: `None` when there are none, and none at all when the
/// client sent the empty list, which takes them away.
///
/// # Errors
/// 400 when they are no such list.
pub(super) fn take_managers(object: &mut Value) -> Result<Option<Vec<ManagedFieldsEntry>>, Failure> {
    let sent = object.get_mut("metadata").and_then(Value::as_object_mut);
    let Some(sent) = sent.and_then(|metadata| metadata.remove("managedFields")) else { return Ok(None) };
    if sent.is_null() {
        return Ok(None);
    }
    let wrong = |why: String| Failure::bad_request(&format!("metadata.managedFields cannot be read: {why}"));
    let managers: Vec<ManagedFieldsEntry> =
        serde_json::from_value(sent).map_err(|error| wrong(error.to_string()))?;
    // One entry with nothing in it is how JSON patches say none.
    if managers.iter().all(|entry| *entry == ManagedFieldsEntry::default()) {
        return Ok(Some(Vec::new()));
    }
    ownership::check(&managers).map_err(wrong)?;
    Ok(Some(managers))
}

/// Fills in what the path says and refuses what contradicts it.
///
/// # Errors
/// 400 when the object is of another kind, namespace or name.
pub(super) fn place(namespace: &str, name: Option<&str>, object: &mut Value) -> Result<(), Failure> {
    if !object.is_object() {
        return Err(Failure::bad_request("the body is no object"));
    }
    for (field, wanted) in [("apiVersion", hearth_function::API_VERSION), ("kind", "Function")] {
        match &object[field] {
            Value::Null => object[field] = json!(wanted),
            Value::String(found) if found == wanted => {}
            found => {
                return Err(Failure::bad_request(&format!("{field} is {found}, and here it is {wanted:?}")));
            }
        }
    }
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    if !object["metadata"].is_object() {
        return Err(Failure::bad_request("metadata is no object"));
    }
    for (field, wanted) in [("namespace", Some(namespace)), ("name", name)] {
        let Some(wanted) = wanted else { continue };
        match &object["metadata"][field] {
            Value::Null => object["metadata"][field] = json!(wanted),
            Value::String(found) if found == wanted => {}
            found => {
                return Err(Failure::bad_request(&format!(
                    "the {field} of the object ({found}) does not match the {field} of the request ({wanted:?})"
                )));
            }
        }
    }
    Ok(())
}
