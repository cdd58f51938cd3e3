//! Rules by example. What holds of any claims is [`properties`]'s.

use super::*;

mod properties;

fn claim(host: &str, path: &str, kind: PathKind, methods: &[&str]) -> Claim {
    Claim {
        host: host.to_owned(),
        path: path.to_owned(),
        kind,
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
    }
}

fn claimant(name: &str, created: u64, claims: Vec<Claim>) -> Claimant<String> {
    claimant_in("default", name, created, claims)
}

fn claimant_in(namespace: &str, name: &str, created: u64, claims: Vec<Claim>) -> Claimant<String> {
    let function = FunctionId::parse(&format!("{namespace}/{name}")).unwrap();
    Claimant { function, created, target: name.to_owned(), claims }
}

fn holder(conflict: &Conflict) -> String {
    match &conflict.holder {
        Holder::Function(function) => function.to_string(),
        Holder::Namespace { namespace, host } => format!("{host} of {namespace}"),
    }
}

fn found(table: &Table<String>, host: &str, path: &str, method: &str) -> String {
    match table.find(Some(host), path, method) {
        Match::Found { target, prefix } => format!("{target}:{prefix}"),
        Match::NotFound => "404".to_owned(),
        Match::MethodNotAllowed { allow } => format!("405 {allow}"),
    }
}

use PathKind::{Exact, Prefix};

#[test]
fn the_most_specific_claim_wins() {
    let (table, conflicts) = Table::build(vec![
        claimant("root", 1, vec![claim("", "/", Prefix, &[])]),
        claimant("shop", 2, vec![claim("", "/shop", Prefix, &[])]),
        claimant("cart", 3, vec![claim("", "/shop/cart/", Prefix, &["GET", "POST"])]),
        claimant("exact", 4, vec![claim("", "/shop", Exact, &["GET"])]),
        claimant("host", 5, vec![claim("Api.Example.com", "/", Prefix, &[])]),
    ]);
    assert!(conflicts.is_empty(), "{conflicts:?}");
    let cases = [
        ("x", "/", "GET", "root:0"),
        ("x", "/shopping", "GET", "root:0"),
        ("x", "/shop", "GET", "exact:0"),
        ("x", "/shop", "HEAD", "exact:0"),
        ("x", "/shop", "POST", "405 GET, HEAD"),
        ("x", "/shop/", "GET", "shop:5"),
        ("x", "/shop/cart", "GET", "cart:10"),
        ("x", "/shop/cart/7", "POST", "cart:10"),
        ("x", "/shop/cart/7", "PUT", "405 GET, HEAD, POST"),
        ("x", "/shop/carts", "PUT", "shop:5"),
        ("API.example.com", "/shop", "GET", "host:0"),
        ("x", "/function/default/cart/a/b", "DELETE", "cart:22"),
        ("x", "/function/default/cart", "GET", "cart:22"),
        ("x", "/function/default/none", "GET", "404"),
        ("x", "/function/default", "GET", "404"),
    ];
    for (host, path, method, expected) in cases {
        assert_eq!(found(&table, host, path, method), expected, "{host} {path} {method}");
    }
}

#[test]
fn a_host_that_lacks_the_path_falls_back_to_every_host() {
    let (table, _) = Table::build(vec![
        claimant("named", 1, vec![claim("a.example", "/named", Exact, &[])]),
        claimant("open", 2, vec![claim("", "/open", Exact, &[])]),
    ]);
    assert_eq!(found(&table, "a.example", "/open", "GET"), "open:0");
    assert_eq!(found(&table, "b.example", "/named", "GET"), "404");
    assert_eq!(table.find(None, "/open", "GET"), Match::Found { target: &"open".to_owned(), prefix: 0 });
}

#[test]
fn the_older_function_keeps_what_two_claim() {
    let all = |name, created| claimant(name, created, vec![claim("", "/a", Prefix, &[])]);
    for order in [[all("old", 1), all("new", 2)], [all("new", 2), all("old", 1)]] {
        let (table, conflicts) = Table::build(order.to_vec());
        assert_eq!(found(&table, "x", "/a/b", "GET"), "old:2");
        let [conflict] = conflicts.as_slice() else { panic!("{conflicts:?}") };
        assert_eq!((conflict.function.name(), holder(conflict).as_str()), ("new", "default/old"));
    }
}

#[test]
fn methods_are_shared_out_one_by_one() {
    let (table, conflicts) = Table::build(vec![
        claimant("read", 1, vec![claim("", "/a", Exact, &["GET"])]),
        claimant("write", 2, vec![claim("", "/a", Exact, &["GET", "POST"])]),
        claimant("rest", 3, vec![claim("", "/a", Exact, &[])]),
        claimant("late", 4, vec![claim("", "/a", Exact, &["DELETE"])]),
    ]);
    let got: Vec<String> =
        ["GET", "POST", "DELETE"].iter().map(|method| found(&table, "x", "/a", method)).collect();
    assert_eq!(got, ["read:0", "write:0", "rest:0"]);
    let lost: Vec<_> =
        conflicts.iter().map(|c| (c.function.name(), holder(c), c.claim.methods.join(","))).collect();
    let expected = [("write", "default/read", "GET"), ("late", "default/rest", "DELETE")];
    assert_eq!(lost, expected.map(|(name, holder, methods)| (name, holder.to_owned(), methods.to_owned())));
}

#[test]
fn a_function_that_claims_twice_does_not_conflict_with_itself() {
    let twice = vec![claim("", "/a", Prefix, &["GET"]), claim("", "/a/", Prefix, &["GET", "POST"])];
    let (table, conflicts) = Table::build(vec![claimant("one", 1, twice)]);
    assert!(conflicts.is_empty(), "{conflicts:?}");
    assert_eq!(found(&table, "x", "/a", "POST"), "one:2");
}

#[test]
fn a_wildcard_stands_for_one_label_and_gives_way_to_the_name_itself() {
    let (table, conflicts) = Table::build(vec![
        claimant(
            "wild",
            1,
            vec![claim("*.Example.com", "/", Prefix, &[]), claim("*.example.com", "/a", Prefix, &[])],
        ),
        claimant("name", 2, vec![claim("a.example.com", "/a", Prefix, &["GET"])]),
        claimant("open", 3, vec![claim("", "/", Prefix, &[])]),
    ]);
    assert!(conflicts.is_empty(), "{conflicts:?}");
    let cases = [
        ("b.example.com", "/a/b", "POST", "wild:2"),
        ("B.EXAMPLE.com", "/x", "GET", "wild:0"),
        ("b.example.com.", "/x", "GET", "wild:0"),
        ("a.example.com", "/a/b", "GET", "name:2"),
        ("a.example.com.", "/a/b", "GET", "name:2"),
        ("a.example.com", "/a/b", "POST", "405 GET, HEAD"),
        ("a.example.com", "/x", "GET", "wild:0"),
        ("example.com", "/x", "GET", "open:0"),
        ("c.b.example.com", "/x", "GET", "open:0"),
        (".example.com", "/x", "GET", "open:0"),
        ("*.example.com", "/x", "GET", "wild:0"),
        ("", "/x", "GET", "open:0"),
        (".", "/x", "GET", "open:0"),
        ("com", "/x", "GET", "open:0"),
    ];
    for (host, path, method, expected) in cases {
        assert_eq!(found(&table, host, path, method), expected, "{host} {path} {method}");
    }
}

#[test]
fn a_named_host_belongs_to_the_namespace_that_claimed_it_first() {
    let (table, conflicts) = Table::build(vec![
        claimant_in("shop", "front", 1, vec![claim("shop.example", "/", Prefix, &["GET"])]),
        claimant_in("shop", "cart", 3, vec![claim("shop.example", "/cart", Prefix, &[])]),
        claimant_in(
            "evil",
            "pay",
            2,
            vec![claim("Shop.Example", "/pay", Exact, &["POST"]), claim("", "/pay", Exact, &[])],
        ),
    ]);
    let lost: Vec<_> =
        conflicts.iter().map(|c| (c.function.as_str(), holder(c), c.claim.path.as_str())).collect();
    assert_eq!(lost, [("evil/pay", "shop.example of shop".to_owned(), "/pay")]);
    for (host, path, method, expected) in [
        ("shop.example", "/pay", "POST", "405 GET, HEAD"),
        ("shop.example", "/cart/7", "POST", "cart:5"),
        ("other.example", "/pay", "POST", "pay:0"),
    ] {
        assert_eq!(found(&table, host, path, method), expected, "{host} {path} {method}");
    }
}

#[test]
fn a_host_goes_to_the_next_when_its_owner_gives_it_up() {
    let first = claimant_in("a", "first", 1, vec![claim("x.org", "/", Prefix, &[])]);
    let second = claimant_in("b", "second", 2, vec![claim("x.org", "/b", Prefix, &[])]);
    let third = claimant_in("a", "third", 3, vec![claim("x.org", "/a", Prefix, &[])]);
    let owner_of_all = Table::build(vec![first, second.clone(), third.clone()]);
    assert_eq!(owner_of_all.1.iter().map(|c| c.function.name()).collect::<Vec<_>>(), ["second"]);
    let (table, conflicts) = Table::build(vec![third, second]);
    assert_eq!(conflicts.iter().map(holder).collect::<Vec<_>>(), ["x.org of b"]);
    assert_eq!(found(&table, "x.org", "/b", "GET"), "second:2");
    assert_eq!(found(&table, "x.org", "/a", "GET"), "404");
}

#[test]
fn a_wildcard_keeps_the_names_below_it_that_nobody_older_has() {
    let (table, conflicts) = Table::build(vec![
        claimant_in("old", "name", 1, vec![claim("old.example.com", "/name", Prefix, &[])]),
        claimant_in("mine", "wild", 2, vec![claim("*.example.com", "/", Prefix, &[])]),
        claimant_in(
            "evil",
            "late",
            3,
            vec![claim("a.example.com", "/", Prefix, &[]), claim("a.b.example.com", "/", Prefix, &[])],
        ),
        claimant_in("old", "more", 4, vec![claim("old.example.com", "/more", Prefix, &[])]),
        claimant_in("mine", "own", 5, vec![claim("own.example.com", "/own", Prefix, &[])]),
        claimant_in("evil", "wild2", 6, vec![claim("*.example.com", "/long", Prefix, &[])]),
        claimant_in("any", "open", 7, vec![claim("", "/", Prefix, &[])]),
    ]);
    let lost: Vec<_> = conflicts.iter().map(|c| format!("{}: {}", c.function.name(), holder(c))).collect();
    assert_eq!(lost, ["late: *.example.com of mine", "wild2: *.example.com of mine"]);
    for (host, path, expected) in [
        ("a.example.com", "/", "wild:0"),
        ("a.example.com", "/long", "wild:0"),
        ("a.b.example.com", "/", "late:0"),
        ("old.example.com", "/name", "name:5"),
        ("old.example.com", "/more", "more:5"),
        // Not the wildcard of another namespace.
        ("old.example.com", "/", "open:0"),
        ("own.example.com", "/own", "own:4"),
        ("own.example.com", "/", "wild:0"),
    ] {
        assert_eq!(found(&table, host, path, "GET"), expected, "{host} {path}");
    }
}
