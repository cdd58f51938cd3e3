use super::*;

fn claim(host: &str, path: &str, kind: PathKind, methods: &[&str]) -> Claim {
    Claim {
        host: host.to_owned(),
        path: path.to_owned(),
        kind,
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
    }
}

fn claimant(name: &str, created: u64, claims: Vec<Claim>) -> Claimant<String> {
    Claimant {
        function: FunctionId::parse(&format!("default/{name}")).unwrap(),
        created,
        target: name.to_owned(),
        claims,
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
        assert_eq!((conflict.function.name(), conflict.holder.name()), ("new", "old"));
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
        conflicts.iter().map(|c| (c.function.name(), c.holder.name(), c.claim.methods.join(","))).collect();
    assert_eq!(lost, [("write", "read", "GET".to_owned()), ("late", "rest", "DELETE".to_owned())]);
}

#[test]
fn a_function_that_claims_twice_does_not_conflict_with_itself() {
    let twice = vec![claim("", "/a", Prefix, &["GET"]), claim("", "/a/", Prefix, &["GET", "POST"])];
    let (table, conflicts) = Table::build(vec![claimant("one", 1, twice)]);
    assert!(conflicts.is_empty(), "{conflicts:?}");
    assert_eq!(found(&table, "x", "/a", "POST"), "one:2");
}
