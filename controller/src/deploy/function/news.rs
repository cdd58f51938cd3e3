//! What of a Function its task is told of: pure.

use hearth_function::{Function, RETRY_ANNOTATION};

use super::beside::holds;

/// Whether a Function differs in anything that its task goes by (its own status writes do not count). Where a finalizer is to hold it, that and
/// its claim count when they are lost: who writes a whole object over another takes them off. That they come is the task's own doing.
pub(in super::super) fn is_news(
    known: Option<&Function>,
    newest: Option<&Function>,
    finalizer: Option<&str>,
) -> bool {
    match (known, newest) {
        (Some(known), Some(newest)) => {
            let key = |function: &Function| {
                let metadata = &function.metadata;
                let wish = metadata.annotations.as_ref().and_then(|all| all.get(RETRY_ANNOTATION));
                let deleted = metadata.deletion_timestamp.is_some();
                (metadata.uid.clone(), metadata.generation, deleted, wish.cloned())
            };
            let is_lost = |finalizer| holds(known, finalizer) && !holds(newest, finalizer);
            key(known) != key(newest) || finalizer.is_some_and(is_lost)
        }
        (None, None) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use hearth_function::INSTALLATION_ANNOTATION;
    use serde_json::json;

    use super::*;

    const FINALIZER: Option<&str> = Some("hold");

    fn function(finalizers: &[&str], claim: Option<&str>) -> Function {
        let annotations = claim.map(|claim| json!({ INSTALLATION_ANNOTATION: claim }));
        serde_json::from_value(json!({
            "metadata": { "name": "hello", "namespace": "default", "uid": "u", "generation": 1,
                "finalizers": finalizers, "annotations": annotations },
            "spec": { "runtime": "exec", "source": { "inline": { "run.sh": "" } }, "command": ["/bin/true"] },
        }))
        .unwrap()
    }

    #[test]
    fn that_nothing_holds_a_function_any_longer_is_news_and_that_it_is_held_is_none() {
        let held = function(&["hold"], Some("hearth"));
        for loose in [function(&[], None), function(&["hold"], None), function(&["other"], Some("hearth"))] {
            assert!(is_news(Some(&held), Some(&loose), FINALIZER), "{loose:?}");
            assert!(!is_news(Some(&loose), Some(&held), FINALIZER), "its task has written it");
            assert!(!is_news(Some(&held), Some(&loose), None), "nothing is to hold it");
        }
        assert!(!is_news(Some(&held), Some(&function(&["hold", "other"], Some("hearth"))), FINALIZER));
    }
}
