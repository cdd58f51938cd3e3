//! Getting along with `kubectl apply`: whichever of the two applies a Function, it has the one source that was applied last.

use hearth_function::Function;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::Value;

/// What our applies are known as.
const MANAGER: &str = "hearth";

/// How often a Function is applied that others change at the same time. The server does when it has just been applied: it writes down how
/// that goes.
const ATTEMPTS: u32 = 5;

/// By what `kubectl apply` knows what a manifest no longer names. Without it, a source of its own would stand beside ours.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// An object's annotations have 256 KiB together.
const LAST_APPLIED_BYTES: usize = 64 << 10;

/// Writes into the Function what of it was applied, as `kubectl apply` does. Of one with long files their names have to do: kubectl asks for
/// fields and not for what is in them.
pub(super) fn note_applied(function: &mut Function) {
    if let Some(annotations) = &mut function.metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
    let Ok(mut applied) = serde_json::to_value(&*function) else { return };
    if applied.to_string().len() > LAST_APPLIED_BYTES
        && let Some(files) = applied.pointer_mut("/spec/source/inline").and_then(Value::as_object_mut)
    {
        files.values_mut().for_each(|text| *text = Value::from(""));
    }
    let text = applied.to_string();
    if text.len() <= LAST_APPLIED_BYTES {
        function.metadata.annotations.get_or_insert_default().insert(LAST_APPLIED.to_owned(), text);
    }
}

/// Applies the Function; its source is then what was applied, and nothing that others have put there.
///
/// # Errors
/// Those of the server; a conflict when others have changed the Function each time.
pub(super) async fn apply(functions: &Api<Function>, function: &Function) -> kube::Result<Function> {
    let name = function.name_any();
    let ours = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    let mut attempts = 1;
    loop {
        let applying = PatchParams::apply(MANAGER).force();
        let after = functions.patch(&name, &applying, &Patch::Apply(function)).await?;
        let Some(rest) = rest_of_source(&after, function) else { return Ok(after) };
        match functions.patch(&name, &ours, &Patch::Merge(&rest)).await {
            // It is no longer what the rest was made for.
            Err(kube::Error::Api(status)) if status.code == 409 && attempts < ATTEMPTS => attempts += 1,
            done => return done,
        }
    }
}

/// What takes out of the source what others have put there, if anything is left of it: a merge patch, for the Function as it is in `after`
/// and no later one. Where the definitions do not say that the source is one value, as older ones, an API server merges it field by field.
fn rest_of_source(after: &Function, applied: &Function) -> Option<Value> {
    if after.spec.source == applied.spec.source {
        return None;
    }
    let [there, wanted] =
        [after, applied].map(|function| serde_json::to_value(&function.spec.source).unwrap_or_default());
    Some(serde_json::json!({
        "metadata": { "resourceVersion": after.metadata.resource_version },
        "spec": { "source": merge_patch(&there, &wanted) },
    }))
}

/// The merge patch (RFC 7396) that makes `wanted` of `there`.
fn merge_patch(there: &Value, wanted: &Value) -> Value {
    let (Value::Object(there), Value::Object(wanted)) = (there, wanted) else { return wanted.clone() };
    let gone =
        there.keys().filter(|name| !wanted.contains_key(*name)).map(|name| (name.clone(), Value::Null));
    let changed = wanted.iter().filter(|(name, value)| there.get(*name) != Some(value));
    let changed = changed.map(|(name, value)| {
        (name.clone(), there.get(name).map_or_else(|| value.clone(), |there| merge_patch(there, value)))
    });
    gone.chain(changed).collect()
}

#[cfg(test)]
mod tests;
