//! `kind: List`, as `kubectl get -o yaml` prints several objects: each item is a document of its own, with its places.

use serde_json::Value;

use super::tree::Document;

/// The documents that this one is: its items if it is a list, or else itself.
pub(super) fn documents(mut document: Document) -> Vec<Document> {
    if !is_list(&document.value) {
        return vec![document];
    }
    let Some(Value::Array(items)) = document.value.get_mut("items") else { return vec![document] };
    let items = std::mem::take(items);
    if items.is_empty() && !document.problems.is_empty() {
        return vec![document];
    }
    let places = document.places.of_items(items.len());
    let mut parts: Vec<Document> = items
        .into_iter()
        .zip(places)
        .map(|(value, places)| Document { value, places, problems: Vec::new() })
        .collect();
    // Of what is wrong with the text itself each item has what stands in it; the first, also what stands before.
    for (problem, span) in document.problems {
        let begins_before = |part: &&Document| {
            let (begin, place) = (part.places.begin(), span);
            begin.zip(place).is_some_and(|(begin, place)| begin.start.index() <= place.start.index())
        };
        let after = parts.iter().skip(1).take_while(begins_before).count();
        if let Some(part) = parts.get_mut(after) {
            part.problems.push((problem, span));
        }
    }
    parts
}

fn is_list(value: &Value) -> bool {
    value.get("kind").and_then(Value::as_str) == Some("List")
        && value.get("apiVersion").and_then(Value::as_str) == Some("v1")
}
