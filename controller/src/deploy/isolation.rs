//! Whether `network: none` has an effect: pure. On one machine the backend sees to it; in a cluster it is a label on the Pod, to which a network
//! policy of the Pod's namespace gives its effect, and whoever installs Hearth says where there are some.

use std::collections::BTreeSet;

use hearth_function::spec::Network;

/// Stands for all namespaces in a list of them.
const ALL: &str = "*";

/// In which namespaces `network: none` has an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Isolation {
    /// In all.
    Everywhere,
    /// In these, as far as is known.
    Within(BTreeSet<String>),
}

impl Isolation {
    /// By a list of namespaces, in which `*` stands for all.
    #[must_use]
    pub fn listed(namespaces: &[String]) -> Self {
        if namespaces.iter().any(|namespace| namespace == ALL) {
            return Self::Everywhere;
        }
        Self::Within(namespaces.iter().cloned().collect())
    }

    /// What a Function of `namespace` that asks for `network` does not get, and what to do: a sentence without its full stop. `None` when it gets it.
    #[must_use]
    pub fn lack(&self, network: Network, namespace: &str) -> Option<String> {
        let has = match (network, self) {
            (Network::Outbound, _) | (Network::None, Self::Everywhere) => true,
            (Network::None, Self::Within(namespaces)) => namespaces.contains(namespace),
        };
        (!has).then(|| {
            format!(
                "`network: none` has no effect: no network policy of the namespace {namespace} is known (networkPolicy.enabled and \
                 networkPolicy.functionNamespaces of the chart make one; where there is another, name it in controller.network_policies)"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_function_without_network_where_no_policy_is_known_lacks_something() {
        let listed = |namespaces: &[&str]| {
            Isolation::listed(&namespaces.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        let lack = |namespaces, network| listed(namespaces).lack(network, "shop");
        for namespaces in [&["shop"][..], &["other", "shop"], &["*"], &["other", "*"]] {
            assert_eq!(lack(namespaces, Network::None), None, "{namespaces:?}");
        }
        for namespaces in [&[][..], &["other"]] {
            let said = lack(namespaces, Network::None).unwrap();
            assert!(said.contains("the namespace shop is known"), "{said}");
            assert_eq!(lack(namespaces, Network::Outbound), None);
        }
        assert_eq!(Isolation::Everywhere.lack(Network::None, "shop"), None);
    }
}
