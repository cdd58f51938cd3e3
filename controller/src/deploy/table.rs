//! The gateway's table as the objects of a cluster say it: the same that the deployer makes step by step, read off what it has written.

use std::collections::{BTreeMap, HashMap};

use hearth_function::{Function, FunctionId, Revision, RevisionId, revision_number};

use super::{COME_AGAIN, plan, routes, status};
use crate::gateway::{Served, Unready};

/// What serves and what does not yet. A Function that is being deleted is neither.
///
/// Routes lead to the newest Revision that is Ready; with none, to the newest of all that can be asked at all: its requests wait for the
/// instance that is coming up, and are told why when it does not.
#[must_use]
pub fn table<F, R>(functions: &[F], revisions: &[R]) -> (Vec<Served>, Vec<Unready>)
where
    F: AsRef<Function>,
    R: AsRef<Revision>,
{
    let mut of: HashMap<&str, BTreeMap<plan::Number, &Revision>> = HashMap::new();
    for revision in revisions.iter().map(AsRef::as_ref) {
        let number =
            revision.metadata.name.as_deref().and_then(|name| revision_number(&revision.spec.function, name));
        let owners = revision.metadata.owner_references.as_deref().unwrap_or_default();
        if let (Some(number), Some(owner)) = (number, owners.iter().find(|owner| owner.kind == "Function")) {
            of.entry(&owner.uid).or_default().insert(number, revision);
        }
    }
    let (mut served, mut unready) = (Vec::new(), Vec::new());
    for function in functions.iter().map(AsRef::as_ref) {
        let metadata = &function.metadata;
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else { continue };
        let Ok(id) = FunctionId::parse(&format!("{namespace}/{name}")) else { continue };
        if metadata.deletion_timestamp.is_some() {
            continue;
        }
        let own = metadata.uid.as_deref().and_then(|uid| of.get(uid));
        let state =
            |revision: &Revision| revision.status.as_ref().map(|status| status.state).unwrap_or_default();
        let leads = own.and_then(|own| {
            let number = plan::serves(own.iter().map(|(number, revision)| (*number, state(revision))))?;
            let revision = own.get(&number)?;
            let name = revision.metadata.name.as_deref()?;
            Some((RevisionId::parse(&format!("{namespace}/{name}")).ok()?, *revision))
        });
        match leads {
            Some((revision, object)) => {
                served.push(routes::served(function, &id, revision, &object.spec.template.timeouts));
            }
            None => {
                let (reason, passes) = status::unready_by(function.status.as_ref());
                unready.push(routes::unready(function, &id, reason, passes.then_some(COME_AGAIN)));
            }
        }
    }
    (served, unready)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn function(name: &str, more: serde_json::Value) -> Arc<Function> {
        let mut object = json!({
            "metadata": { "name": name, "namespace": "default", "uid": format!("uid-{name}"),
                "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "runtime": "exec", "source": { "inline": { "run.sh": "" } }, "command": ["/bin/true"],
                "timeouts": { "queue": "7s" }, "triggers": [{ "http": { "path": format!("/{name}") } }] },
        });
        json_patch::merge(&mut object, &more);
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn revision(function: &str, number: u32, state: &str, owner: &str) -> Arc<Revision> {
        let name = format!("{function}-{number:05}");
        let object = json!({
            "metadata": { "name": name, "namespace": "default", "ownerReferences": [{ "kind": "Function",
                "apiVersion": "hearth.dev/v1", "name": function, "uid": owner }] },
            "spec": { "function": function, "generation": 1,
                "templateDigest": format!("sha256:{}", "0".repeat(64)),
                "template": { "runtime": "exec", "command": ["/bin/true"], "timeouts": { "queue": format!("{number}s") } } },
            "status": { "state": state },
        });
        Arc::new(serde_json::from_value(object).unwrap())
    }

    #[test]
    fn routes_lead_to_the_newest_that_is_ready_or_to_the_one_that_is_tried() {
        let functions = [function("a", json!({})), function("b", json!({})), function("c", json!({}))];
        let revisions = [
            revision("a", 1, "Retired", "uid-a"),
            revision("a", 2, "Ready", "uid-a"),
            revision("a", 3, "Starting", "uid-a"),
            revision("b", 1, "Failed", "uid-b"),
            // Of one of the same name that was deleted.
            revision("c", 1, "Ready", "uid-of-another"),
        ];
        let (served, unready) = table(&functions, &revisions);
        let to: Vec<(&str, &str)> =
            served.iter().map(|served| (served.function.as_str(), served.revision.as_str())).collect();
        assert_eq!(to, [("default/a", "default/a-00002"), ("default/b", "default/b-00001")]);
        assert_eq!(served[0].timeouts.queue.as_secs(), 2, "the Revision's");
        assert_eq!(served[0].claims[0].path, "/a");
        assert_eq!((unready.len(), unready[0].reason.as_str()), (1, "pending"));
    }

    #[test]
    fn who_asks_for_what_does_not_serve_is_told_why() {
        let condition = |of: &str, status: &str, reason: &str| {
            json!({ "type": of, "status": status, "reason": reason, "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z" })
        };
        let with = |conditions: serde_json::Value| json!({ "status": { "conditions": conditions } });
        let functions = [
            function("a", with(json!([condition("Ready", "False", "BuildFailed")]))),
            function(
                "b",
                with(json!([
                    condition("Ready", "Unknown", "Building"),
                    condition("Built", "Unknown", "Installing")
                ])),
            ),
            function("c", json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:00Z" } })),
        ];
        let (served, unready) = table::<_, Arc<Revision>>(&functions, &[]);
        assert!(served.is_empty());
        let told: Vec<(&str, bool)> =
            unready.iter().map(|one| (one.reason.as_str(), one.retry_after.is_some())).collect();
        assert_eq!(told, [("build_failed", false), ("installing", true)]);
    }
}
