//! Whether a report can be of the instance that it names: where the instance's Pod is, and from where the report comes. Pure.
//!
//! The token that a shim shows stands in its Pod, where whoever may read Pods sees it. So the address counts too. A node writes its Pod's
//! address down half a second or so after the shim has reported, and starts do not wait for that ([`Compared::Later`]): until then a report is
//! believed unless it comes from the Pod of another instance, and what turns out to be wrong ends the instance.
//!
//! ```text
//!  no node yet ────────────── nothing of it runs ─────────── NotYet
//!  a node, no address ─────── `first`, or another's Pod ──── NotYet      else  Its
//!  its addresses ──────────── one of them ────────────────── Its         else  Another
//! ```

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

/// When the address that an instance reports from is compared with those of its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// As soon as its node has written them down. Calls do not wait for that.
    Later,
    /// Before it is told anything.
    First,
    /// Never: Pods come from other addresses than their own.
    Never,
}

/// Where a Pod is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Whereabouts {
    has_node: bool,
    /// Of each family one, as a rule; none before its node has written them down.
    addresses: Vec<IpAddr>,
}

/// Whose a report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The instance's, as far as is known.
    Its,
    /// Nobody can say yet.
    NotYet,
    /// Somebody else's.
    Another,
}

impl Whereabouts {
    /// What is written down of them.
    pub(super) fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let all = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        // API servers since 1.16 write both.
        let texts = all.map(|one| &one.ip).chain(status.and_then(|status| status.pod_ip.as_ref()));
        let mut addresses: Vec<IpAddr> = texts.filter_map(|text| text.parse().ok()).collect();
        addresses.sort();
        addresses.dedup();
        Self { has_node: pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()), addresses }
    }

    /// Whether that is one of its addresses.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Whether it is known that it is none of them.
    pub(super) fn belie(&self, address: IpAddr) -> bool {
        !self.addresses.is_empty() && !self.has(address)
    }

    /// Whose a report from there is; `is_of_another`: whether another instance's Pod is there.
    pub(super) fn judge(
        &self,
        from: IpAddr,
        compared: Compared,
        is_of_another: impl FnOnce() -> bool,
    ) -> Verdict {
        if !self.has_node {
            return Verdict::NotYet;
        }
        match compared {
            Compared::Never => Verdict::Its,
            _ if self.has(from) => Verdict::Its,
            _ if self.belie(from) => Verdict::Another,
            Compared::First => Verdict::NotYet,
            // The other may be gone, and its address be this one's, without that it is known yet.
            Compared::Later if is_of_another() => Verdict::NotYet,
            Compared::Later => Verdict::Its,
        }
    }
}

impl fmt::Display for Whereabouts {
    /// Its addresses, for people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(node: &Value, status: &Value) -> Whereabouts {
        let spec = json!({ "containers": [], "nodeName": node });
        Whereabouts::of(
            &serde_json::from_value(json!({ "metadata": {}, "spec": spec, "status": status })).unwrap(),
        )
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_report_is_judged_by_what_is_known_of_its_pod() {
        use Compared::{First, Later, Never};
        use Verdict::{Another, Its, NotYet};
        let nowhere = at(&json!(null), &json!({}));
        let on_a_node = at(&json!("node1"), &json!({ "phase": "Pending" }));
        let both = json!({ "podIP": "10.0.0.7", "podIPs": [{ "ip": "10.0.0.7" }, { "ip": "fd00::7" }] });
        let known = at(&json!("node1"), &both);
        let from = [address("10.0.0.7"), address("fd00::7"), address("10.0.0.8")];
        for (place, compared, verdicts) in [
            (&nowhere, Later, [NotYet; 3]),
            (&nowhere, Never, [NotYet; 3]),
            (&on_a_node, Later, [Its, Its, NotYet]),
            (&on_a_node, First, [NotYet; 3]),
            (&on_a_node, Never, [Its; 3]),
            (&known, Later, [Its, Its, Another]),
            (&known, First, [Its, Its, Another]),
            (&known, Never, [Its; 3]),
        ] {
            // Another instance's Pod has the last.
            let judged = from.map(|one| place.judge(one, compared, || one == from[2]));
            assert_eq!(judged, verdicts, "{place:?} {compared:?}");
        }
        assert_eq!(known.to_string(), "10.0.0.7, fd00::7");
    }

    #[test]
    fn what_is_not_known_belies_nothing() {
        let here = address("10.0.0.7");
        assert!(!at(&json!("node1"), &json!({})).belie(here));
        let known = at(&json!("node1"), &json!({ "podIP": "10.0.0.7" }));
        assert!(!known.belie(here) && known.has(here) && known.belie(address("10.0.0.8")));
    }
}
