//! What an API server did not keep of what it was sent: it drops, without a word, every field that its definition of the resource does not
//! know; what is read back has that type's default in its place. Pure.

use serde_json::Value;

/// The first field of `sent` that `kept` has not or has otherwise, as in `template.timeouts`. Fields that are empty say nothing, and others may
/// be added.
pub(super) fn lost(sent: &Value, kept: &Value) -> Option<String> {
    match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => sent.iter().find_map(|(name, sent)| {
            let deeper = |path: String| if path.is_empty() { name.clone() } else { join(name, &path) };
            match kept.get(name) {
                Some(kept) => lost(sent, kept).map(deeper),
                None => (!is_empty(sent)).then(|| name.clone()),
            }
        }),
        (Value::Array(sent), Value::Array(kept)) if sent.len() == kept.len() => {
            sent.iter().zip(kept).find_map(|(sent, kept)| lost(sent, kept))
        }
        _ => (!is_empty(sent) && sent != kept).then(String::new),
    }
}

fn join(name: &str, path: &str) -> String {
    format!("{name}.{path}")
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_field_that_was_dropped_is_named() {
        let sent = json!({ "a": 1, "b": { "c": [{ "d": "x", "e": 2 }] } });
        assert_eq!(lost(&sent, &sent), None);
        assert_eq!(lost(&sent, &json!({ "a": 1 })), Some("b".to_owned()));
        assert_eq!(lost(&sent, &json!({ "a": 1, "b": { "c": [{ "d": "x" }] } })), Some("b.c.e".to_owned()));
        assert_eq!(
            lost(&sent, &json!({ "a": 1, "b": { "c": [{ "d": "y", "e": 2 }] } })),
            Some("b.c.d".to_owned())
        );
        assert_eq!(lost(&sent, &json!({ "a": 1, "b": { "c": [] } })), Some("b.c".to_owned()));
        assert_eq!(lost(&sent, &Value::Null), Some(String::new()));
    }

    #[test]
    fn what_was_added_or_empty_is_no_loss() {
        let kept = json!({ "a": 1, "z": { "default": true } });
        assert_eq!(lost(&json!({ "a": 1, "n": null, "o": { "p": [] } }), &kept), None);
        assert_eq!(lost(&json!({ "n": null }), &Value::Null), None);
    }
}
