//! What holds of any claims of any namespaces.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const HOSTS: [&str; 5] = ["", "a.example.com", "b.example.com", "*.example.com", "c.org"];
const ASKED: [&str; 5] = ["a.example.com", "b.example.com", "x.example.com", "c.org", "d.org"];

/// A path that no claim without a host has begins with `/named`: who answers there does so by a host.
fn claims() -> impl Strategy<Value = Vec<Claim>> {
    let methods = prop::sample::select(vec![vec![], vec!["GET"], vec!["GET", "POST"], vec!["POST"]]);
    let path = prop::sample::select(vec!["", "/x", "/x/y", "/z"]);
    let one = (prop::sample::select(HOSTS.to_vec()), path, any::<bool>(), methods).prop_map(
        |(host, path, exact, methods)| {
            let under = if host.is_empty() { "/open" } else { "/named" };
            claim(host, &format!("{under}{path}"), if exact { Exact } else { Prefix }, &methods)
        },
    );
    prop::collection::vec(one, 0..4)
}

/// Functions of three namespaces, with their ages; some are of one age.
fn claimants() -> impl Strategy<Value = Vec<Claimant<String>>> {
    prop::collection::vec((0..3u8, 0..6u64, claims()), 1..8).prop_map(|functions| {
        let named = |(index, (namespace, created, claims)): (usize, (u8, u64, Vec<Claim>))| {
            let namespace = format!("n{namespace}");
            Claimant {
                target: namespace.clone(),
                ..claimant_in(&namespace, &format!("f{index}"), created, claims)
            }
        };
        functions.into_iter().enumerate().map(named).collect()
    })
}

fn requests() -> impl Iterator<Item = (&'static str, String, &'static str)> {
    ASKED.into_iter().flat_map(|host| {
        ["/named", "/open"].into_iter().flat_map(move |under| {
            ["", "/x", "/x/y", "/x/y/z", "/z", "/w"].into_iter().flat_map(move |path| {
                ["GET", "POST", "PUT"].into_iter().map(move |method| (host, format!("{under}{path}"), method))
            })
        })
    })
}

proptest! {
    #[test]
    fn a_named_host_is_served_by_one_namespace(claimants in claimants()) {
        let (table, conflicts) = Table::build(claimants);
        let mut served: HashMap<&str, String> = HashMap::new();
        for (host, path, method) in requests().filter(|(_, path, _)| path.starts_with("/named")) {
            if let Match::Found { target, .. } = table.find(Some(host), &path, method) {
                let owner = served.entry(host).or_insert_with(|| target.clone());
                prop_assert_eq!(&*owner, target, "{} {}", host, path);
            }
        }
        for Conflict { function, claim, holder } in &conflicts {
            match holder {
                Holder::Function(other) => prop_assert!(function != other),
                Holder::Namespace { namespace, host } => {
                    prop_assert!(function.namespace() != namespace.as_str());
                    prop_assert!(*host == claim.host || host.starts_with("*."), "{} {}", host, claim.host);
                }
            }
        }
    }

    #[test]
    fn who_lost_nothing_is_met_by_his_namespace_and_who_lost_a_host_is_not(claimants in claimants()) {
        let (table, conflicts) = Table::build(claimants.clone());
        for Claimant { function, claims, .. } in &claimants {
            for claim in claims.iter().filter(|claim| HOSTS[1..].contains(&&*claim.host)) {
                let lost = conflicts.iter().find(|conflict| {
                    let Conflict { claim: lost, .. } = conflict;
                    conflict.function == *function
                        && (&lost.host, &lost.path, lost.kind) == (&claim.host, &claim.path, claim.kind)
                });
                // Nobody else's claim is of a name like this one, so it is the wildcard's.
                let host = claim.host.replace('*', "nobody-else");
                let method = claim.methods.first().map_or("DELETE", String::as_str);
                match (lost.map(|lost| &lost.holder), table.find(Some(&host), &claim.path, method)) {
                    (None, Match::Found { target, .. }) => prop_assert_eq!(target, function.namespace()),
                    // Another Function of the namespace may have the path `Exact`, with other methods.
                    (None, other) => prop_assert!(other != Match::NotFound, "{:?}", claim),
                    (Some(Holder::Namespace { .. }), Match::Found { target, .. }) => {
                        prop_assert!(target != function.namespace(), "{:?}", claim);
                    }
                    (Some(_), _) => {}
                }
            }
        }
    }

    #[test]
    fn the_oldest_never_loses(claimants in claimants()) {
        let oldest = claimants.iter().min_by_key(|one| (one.created, one.function.clone())).unwrap();
        let oldest = oldest.function.clone();
        let (_, conflicts) = Table::build(claimants);
        prop_assert!(conflicts.iter().all(|conflict| conflict.function != oldest), "{:?}", conflicts);
    }

    #[test]
    fn the_order_of_the_claimants_does_not_matter(
        (one, other) in claimants().prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle())),
    ) {
        let ((one, lost), (other, lost_too)) = (Table::build(one), Table::build(other));
        prop_assert_eq!(lost, lost_too);
        for (host, path, method) in requests() {
            prop_assert_eq!(one.find(Some(host), &path, method), other.find(Some(host), &path, method));
        }
    }

    #[test]
    fn nobody_takes_the_path_that_every_function_has(
        mut claimants in claimants(), host in prop::sample::select(HOSTS.to_vec()),
        path in prop::sample::select(vec!["/", "/function", "/function/", "/function/n9", "/function/n9/mine"]),
    ) {
        if let Some(first) = claimants.first_mut() {
            first.claims.extend([claim(host, path, Prefix, &[]), claim(host, "/function/n9/mine", Exact, &["GET"])]);
        }
        claimants.push(claimant_in("n9", "mine", 99, Vec::new()));
        let (table, _) = Table::build(claimants);
        for host in ASKED {
            prop_assert_eq!(found(&table, host, "/function/n9/mine", "GET"), "mine:17");
            prop_assert_eq!(found(&table, host, "/function/n9/mine/x", "PUT"), "mine:17");
        }
    }
}
