//! Whom a command waits for where nobody answers it: which controller of a cluster holds the Lease, and until when.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, ResourceExt as _};

use super::aside;
use crate::lease::{KEY_ANNOTATION, NAME, STRANGERS};

/// It is said beside what a command is about: it must not hold that up.
const WITHIN: Duration = Duration::from_secs(3);

/// Who is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whom {
    /// Who, and until when: a sentence without its full stop.
    pub(super) what: String,
    /// What spares the wait.
    pub(super) fix: Option<String>,
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, "; {fix}"))
    }
}

/// Who is waited for. `None` for a server of its own, or where the Lease may not be read.
pub(super) async fn whom(client: &Client) -> Option<Whom> {
    tokio::time::timeout(WITHIN, find(client)).await.ok().flatten()
}

async fn find(client: &Client) -> Option<Whom> {
    let service = aside::elsewhere(client).await.ok().flatten()?;
    let namespace = service.namespace()?;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &namespace);
    let lease = leases.get_opt(NAME).await.ok()?;
    let key = aside::key(client, &service).await.map(|key| key.fingerprint());
    Some(told(&namespace, lease.as_ref(), key.as_deref(), Timestamp::now()))
}

/// The same. `key` is the fingerprint of the cluster key that controllers of this Hearth have, if it is known.
fn told(namespace: &str, lease: Option<&Lease>, key: Option<&str>, now: Timestamp) -> Whom {
    let name = format!("the Lease {namespace}/{NAME}");
    let Some(lease) = lease else {
        return Whom {
            what: format!("nobody has taken {name} yet"),
            fix: Some(format!("`kubectl -n {namespace} get pods` shows whether a controller starts")),
        };
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let seconds = i64::from(spec.lease_duration_seconds.unwrap_or_default());
    let until = spec
        .renew_time
        .and_then(|renewed| renewed.0.checked_add(SignedDuration::from_secs(seconds)).ok())
        .unwrap_or(now);
    let held = match spec.holder_identity.filter(|holder| !holder.is_empty()) {
        None => format!("{name} was given back, and nobody has taken it yet"),
        Some(holder) if until < now => format!("{name} was held by {holder} until {until:.0}"),
        Some(holder) => format!("{name} is held by {holder} until {until:.0}"),
    };
    let holders = lease.annotations().get(KEY_ANNOTATION);
    if holders.zip(key).is_none_or(|(holders, key)| holders == key) {
        return Whom { what: held, fix: None };
    }
    // Counted from when the controller that waits first saw it.
    let longest = STRANGERS.as_secs().saturating_add_signed(seconds);
    Whom {
        what: format!(
            "{held}, with another cluster key (another Hearth's, or of one that was removed): this one takes it {longest} s after its start"
        ),
        fix: Some(format!(
            "`kubectl -n {namespace} delete lease {NAME}` spares the wait, if no other Hearth works there"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(holder: &str, key: &str) -> Lease {
        let spec = json!({ "holderIdentity": holder, "leaseDurationSeconds": 10, "renewTime": "2026-01-01T00:00:00.250000Z" });
        let metadata = json!({ "name": NAME, "annotations": { KEY_ANNOTATION: key } });
        serde_json::from_value(json!({ "metadata": metadata, "spec": spec })).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_767_225_600 + second).unwrap()
    }

    #[test]
    fn whoever_is_waited_for_is_named_with_the_time() {
        let told = |holder, second| told("h", Some(&lease(holder, "a")), Some("a"), at(second)).to_string();
        assert_eq!(
            told("pod-1_x", 5),
            "the Lease h/hearth-controller is held by pod-1_x until 2026-01-01T00:00:10Z"
        );
        assert_eq!(
            told("pod-1_x", 11),
            "the Lease h/hearth-controller was held by pod-1_x until 2026-01-01T00:00:10Z"
        );
        assert_eq!(told("", 5), "the Lease h/hearth-controller was given back, and nobody has taken it yet");
        assert!(super::told("h", None, None, at(0)).to_string().contains("kubectl -n h get pods"));
    }

    #[test]
    fn a_lease_that_a_removed_release_has_left_is_told_with_what_spares_the_wait() {
        let told = |key| told("h", Some(&lease("pod-1_x", "a")), key, at(11)).to_string();
        assert!(told(Some("b")).contains("takes it 100 s after its start"), "{}", told(Some("b")));
        assert!(told(Some("b")).contains("`kubectl -n h delete lease hearth-controller`"));
        // Whoever may not read the key is told what is certain.
        assert_eq!(told(None), told(Some("a")));
    }
}
