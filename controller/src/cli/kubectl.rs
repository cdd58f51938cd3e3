//! Getting along with `kubectl apply`: whichever of the two applies a Function, it has the one source that was applied last.

use hearth_function::Function;
use serde_json::Value;

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

/// What takes out of the source what others have put there, if anything is left of it: a merge patch. Where the definitions do not say
/// that the source is one value, as older ones, an API server merges it field by field.
pub(super) fn rest_of_source(after: &Function, applied: &Function) -> Option<Value> {
    if after.spec.source == applied.spec.source {
        return None;
    }
    let [there, wanted] =
        [after, applied].map(|function| serde_json::to_value(&function.spec.source).unwrap_or_default());
    Some(serde_json::json!({ "spec": { "source": merge_patch(&there, &wanted) } }))
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
mod tests {
    use serde_json::json;

    use super::*;

    fn function(source: &Value) -> Function {
        serde_json::from_value(json!({
            "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "x" },
            "spec": { "runtime": "nodejs", "handler": "index.handler", "source": source },
        }))
        .unwrap()
    }

    #[test]
    fn what_others_have_put_into_the_source_is_taken_out() {
        let bundle = format!("sha256:{}", "0".repeat(64));
        let applied = function(&json!({ "bundle": bundle }));
        assert_eq!(rest_of_source(&applied, &applied), None);
        let merged = function(&json!({ "bundle": bundle, "inline": { "index.js": "" } }));
        assert_eq!(
            rest_of_source(&merged, &applied),
            Some(json!({ "spec": { "source": { "inline": null } } }))
        );
        // Files of an earlier source, too.
        let applied = function(&json!({ "inline": { "index.js": "new" } }));
        let merged = function(&json!({ "inline": { "index.js": "new", "lib.js": "old" } }));
        let rest = json!({ "spec": { "source": { "inline": { "lib.js": null } } } });
        assert_eq!(rest_of_source(&merged, &applied), Some(rest));
    }

    #[test]
    fn kubectl_is_told_what_was_applied_and_of_long_files_their_names() {
        let told = |text: &str| {
            let mut function = function(&json!({ "inline": { "index.js": text } }));
            // As it is when a manifest was printed by kubectl.
            function.metadata.annotations = Some([(LAST_APPLIED.to_owned(), "old".to_owned())].into());
            note_applied(&mut function);
            let text = function.metadata.annotations.unwrap().remove(LAST_APPLIED).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let short = told("short");
        assert_eq!(short["spec"]["source"]["inline"]["index.js"], "short");
        assert!(short["metadata"]["annotations"].get(LAST_APPLIED).is_none(), "{short}");
        assert_eq!(told(&"x".repeat(100_000))["spec"]["source"]["inline"]["index.js"], "");
    }
}
