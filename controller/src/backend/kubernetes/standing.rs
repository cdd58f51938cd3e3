//! Whose a Pod is that says it is an instance of this Hearth: labels and annotations are for whoever may write Pods to choose. Pure.
//!
//! A controller seals what it writes down with the cluster key ([`Keys::seal`]), for this Pod and this namespace. What a Pod says is believed
//! only where it fits what the Pod is, and as far as something proves it ([`Proof`]); no path of a machine is taken from a Pod that is not sealed,
//! and never one that is written to.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::keys::Keys;
use super::pod;
use crate::backend::{InstanceSpec, Owner};

/// What says that a controller with this cluster key made the Pod, the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proof {
    /// Its specification is as a controller has written it.
    Seal,
    /// It was made by a version that sealed nothing, and has the token of its name.
    Token,
    /// Nothing but that the Revision, by whose reference it goes, is its owner. Nobody sends calls to it.
    Nothing,
}

/// A Pod of this Hearth, as far as it says so and nothing in it says otherwise.
#[derive(Debug)]
pub(super) struct Judged {
    /// Without secret, environment and build directory.
    pub(super) spec: InstanceSpec,
    pub(super) proof: Proof,
}

/// Looks at a Pod; `own`: the namespace of this Hearth.
///
/// # Errors
/// With why it is nobody's of this Hearth.
pub(super) fn judge(pod: &Pod, own: &str, keys: &Keys) -> Result<Judged, &'static str> {
    let text = annotation(pod, pod::SPECIFICATION).ok_or("it has no specification")?;
    let spec: InstanceSpec =
        serde_json::from_str(text).map_err(|_| "its specification is none of this version")?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if Some(spec.id.as_str()) != pod.metadata.name.as_deref() {
        return Err("its specification is another instance's");
    }
    if namespace != pod::namespace(&spec, own) {
        return Err("its specification is for another namespace");
    }
    if let Some(owner) = &spec.owner
        && !controllers(pod).any(|reference| is(reference, owner))
    {
        return Err("the Revision of its specification is not its owner");
    }
    let proof = match annotation(pod, pod::SEAL) {
        Some(seal) if keys.is_seal(namespace, spec.id.as_str(), text, seal) => Proof::Seal,
        None if pod::token(pod).is_some_and(|token| keys.is_token(spec.id.as_str(), token)) => Proof::Token,
        _ if spec.owner.is_some() => Proof::Nothing,
        _ => return Err("nothing proves that a controller with this cluster key made it"),
    };
    // What is built is over with the controller that built it.
    let spec = InstanceSpec { build_dir: None, ..spec };
    let spec = if proof == Proof::Seal { spec } else { InstanceSpec { code: None, ..spec } };
    Ok(Judged { spec, proof })
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn controllers(pod: &Pod) -> impl Iterator<Item = &OwnerReference> {
    pod.metadata.owner_references.iter().flatten().filter(|reference| reference.controller == Some(true))
}

/// Whether the reference is to the owner's Revision. Of a Revision whose uid was not written down, the name counts.
fn is(reference: &OwnerReference, owner: &Owner) -> bool {
    reference.kind == "Revision"
        && reference.api_version.starts_with("hearth.dev/")
        && reference.name == owner.revision.name()
        && owner.uid.as_ref().is_none_or(|uid| *uid == reference.uid)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::backend::CodeMount;
    use crate::backend::kubernetes::tests::spec;

    const KEYS: [u8; 32] = [7; 32];

    /// A Pod as a controller with this key makes it.
    fn made(name: &str, change: impl FnOnce(&mut InstanceSpec)) -> Value {
        let keys = Keys::new(&KEYS);
        let mut spec = spec(name);
        change(&mut spec);
        let namespace = pod::namespace(&spec, "hearth").to_owned();
        let owner = spec.owner.as_ref().map(|owner| {
            let (name, uid) = (owner.revision.name(), owner.uid.as_deref().unwrap_or("uid-1"));
            json!([{ "apiVersion": "hearth.dev/v1", "kind": "Revision", "controller": true, "name": name, "uid": uid }])
        });
        let token = json!({ "name": "HEARTH_TOKEN", "value": keys.token(&spec.id) });
        json!({
            "metadata": {
                "name": name, "namespace": namespace, "ownerReferences": owner,
                "annotations": pod::annotations(&spec, &namespace, &keys).unwrap(),
            },
            "spec": { "containers": [{ "name": pod::CONTAINER, "env": [token] }] },
        })
    }

    fn judged(pod: Value) -> Result<Judged, &'static str> {
        judge(&serde_json::from_value(pod).unwrap(), "hearth", &Keys::new(&KEYS))
    }

    fn proof(pod: Value) -> Result<Proof, &'static str> {
        judged(pod).map(|judged| judged.proof)
    }

    fn without_seal(mut pod: Value) -> Value {
        pod["metadata"]["annotations"].as_object_mut().unwrap().remove(pod::SEAL).unwrap();
        pod
    }

    /// As somebody else writes the specification: what he makes of it has no seal of ours.
    fn rewritten(mut pod: Value, change: impl FnOnce(&mut InstanceSpec)) -> Value {
        let text = &mut pod["metadata"]["annotations"][pod::SPECIFICATION];
        let mut spec: InstanceSpec = serde_json::from_str(text.as_str().unwrap()).unwrap();
        change(&mut spec);
        *text = json!(pod::written(&spec).unwrap());
        pod
    }

    fn with_code(spec: &mut InstanceSpec) {
        spec.code = Some(CodeMount { path: "/data/code".into(), dependencies: None });
    }

    #[test]
    fn what_a_controller_has_made_is_taken_as_it_was_written_down() {
        let judged = judged(made("hello-a", with_code)).unwrap();
        assert_eq!(judged.proof, Proof::Seal);
        assert!(judged.spec.code.is_some());
        let pooled = made("pooled-a", |spec| {
            (spec.owner, spec.namespace) = (None, Some("default".to_owned()));
        });
        assert_eq!(proof(pooled), Ok(Proof::Seal));
    }

    #[test]
    fn a_pod_of_another_namespace_is_nobodys_whatever_it_says() {
        // Whoever may make Pods in one namespace must not get the calls of a Function of another.
        let mut foreign = made("hello-a", |_| ());
        foreign["metadata"]["namespace"] = json!("evil");
        assert_eq!(proof(foreign.clone()), Err("its specification is for another namespace"));
        assert!(proof(without_seal(foreign)).is_err());
        // A pooled one's is said by nobody else; the seal is of the other namespace.
        let mut moved = made("pooled-a", |spec| {
            (spec.owner, spec.namespace) = (None, Some("default".to_owned()));
        });
        moved["metadata"]["namespace"] = json!("evil");
        let moved = rewritten(moved, |spec| spec.namespace = Some("evil".to_owned()));
        assert_eq!(proof(moved), Err("nothing proves that a controller with this cluster key made it"));
    }

    #[test]
    fn only_what_its_revision_owns_is_that_revisions() {
        let uid = |spec: &mut InstanceSpec| spec.owner.as_mut().unwrap().uid = Some("uid-1".to_owned());
        assert_eq!(proof(made("hello-a", uid)), Ok(Proof::Seal));
        for (field, value) in [
            ("name", json!("hello-00002")),
            ("uid", json!("uid-2")),
            ("kind", json!("ReplicaSet")),
            ("apiVersion", json!("apps/v1")),
            ("controller", json!(false)),
        ] {
            let mut other = made("hello-a", uid);
            other["metadata"]["ownerReferences"][0][field] = value;
            assert!(proof(other).is_err(), "{field}");
        }
        let mut nobodys = made("hello-a", uid);
        nobodys["metadata"]["ownerReferences"] = json!(null);
        assert!(proof(nobodys).is_err());
    }

    #[test]
    fn what_somebody_else_wrote_proves_nothing_and_names_no_directory() {
        let built = |spec: &mut InstanceSpec| {
            with_code(spec);
            spec.build_dir = Some("/data/bundles".into());
        };
        let changed = judged(rewritten(made("hello-a", |_| ()), built)).unwrap();
        assert_eq!(changed.proof, Proof::Nothing);
        assert_eq!((changed.spec.code, changed.spec.build_dir), (None, None));
        // Nor is there a directory to write to where it is ours.
        assert_eq!(judged(made("job-a", built)).unwrap().spec.build_dir, None);
        let mut forged = made("hello-a", |_| ());
        forged["metadata"]["annotations"][pod::SEAL] = json!("00".repeat(32));
        assert_eq!(proof(forged), Ok(Proof::Nothing));
        // What one Pod has is worth nothing in another's annotations.
        let (mut one, two) = (made("hello-a", |_| ()), made("hello-b", |_| ()));
        one["metadata"]["annotations"] = two["metadata"]["annotations"].clone();
        assert_eq!(proof(one), Err("its specification is another instance's"));
    }

    #[test]
    fn a_pod_of_a_version_that_sealed_nothing_is_known_by_its_token() {
        let before = || without_seal(made("hello-a", with_code));
        let old = judged(before()).unwrap();
        assert_eq!((old.proof, old.spec.code), (Proof::Token, None));
        let mut copied = before();
        copied["spec"]["containers"][0]["env"][0]["value"] =
            json!(Keys::new(&KEYS).token(&spec("hello-b").id));
        assert_eq!(proof(copied), Ok(Proof::Nothing));
        let mut without = before();
        without["spec"] = json!(null);
        assert_eq!(proof(without), Ok(Proof::Nothing));
    }
}
