//! More than one Hearth: in one namespace, and over the same Functions.

use crate::HELLO;
use crate::cluster::{Cluster, pause};
use crate::support::{eventually, node_with};

#[test]
fn of_two_hearths_that_watch_the_same_functions_each_leaves_the_others_alone_until_it_is_no_more() {
    let Some(mut first) = Cluster::working() else { return };
    let Some(mut second) = Cluster::start() else { return };
    let (ours, theirs) = (first.ground.namespace.clone(), second.ground.namespace.clone());
    first.apply(&node_with("hello", HELLO, "scale: { min: 1 }"));
    first.ready("hello");
    let pods = first.pods();
    let calls = first.caller("hello");

    second.watch = Some(ours.clone());
    second.work();
    first.tells("hello", &["Warning", "ServedElsewhere", &ours, &theirs]);
    assert!(second.controllers[0].text().contains("another Hearth serves"), "{}", second.logs());
    assert_eq!(second.ask(&first.target("hello")).0, 404, "{}", second.logs());
    // A new one is of whoever is faster, and of one only.
    first.apply(&node_with("new", HELLO, "scale: { min: 1 }"));
    first.ready("new");
    let statuses = [first.call("new").0, second.ask(&first.target("new")).0];
    assert!(statuses == [200, 404] || statuses == [404, 200], "{statuses:?}");
    let of_new = first.ground.pods("hearth.dev/function=new");
    assert_eq!(of_new.len(), 1, "{of_new:?}\n{}{}", first.logs(), second.logs());
    let (good, bad) = calls.end();
    assert!(bad.is_empty() && good > 0, "{good} good, {bad:?}\n{}", first.logs());
    assert!(pods.iter().all(|pod| first.pods().contains(pod)), "nobody else has touched it");

    // The first is removed, with its Lease: the second goes on with its Functions.
    first.stop_controllers();
    first.kubectl(&["delete", "lease", "hearth-controller"]);
    let taken = eventually(|| {
        let answers = ["hello", "new"].map(|name| second.ask(&first.target(name)).0);
        (answers == [200, 200]).then_some(())
    });
    assert!(taken.is_some(), "{}", second.logs());
    first.end();
    second.end();
}

#[test]
fn a_second_hearth_in_a_namespace_stands_by_and_names_the_first() {
    let Some(mut cluster) = Cluster::working() else { return };
    cluster.apply(&node_with("steady", HELLO, "scale: { min: 1 }"));
    cluster.ready("steady");
    let (calls, pods) = (cluster.caller("steady"), cluster.pods());
    let holder = |cluster: &Cluster| {
        let path = "jsonpath={.spec.holderIdentity}";
        cluster.kubectl(&["get", "lease", "hearth-controller", "-o", path])
    };
    let first = holder(&cluster);
    cluster.write_key("fedcba9876543210fedcba9876543210fedc");
    cluster.controller();
    let said = eventually(|| {
        let log = cluster.controllers[1].text();
        (log.contains("of another Hearth, or of this one before its key was changed") && log.contains(&first))
            .then_some(())
    });
    assert!(said.is_some(), "{}", cluster.logs());
    // The first comes back with its own key: it was a new version, and not its end.
    cluster.write_key("0123456789abcdef0123456789abcdef0123");
    drop(cluster.controllers.remove(0));
    pause(std::time::Duration::from_secs(10));
    cluster.controller();
    let back = eventually(|| {
        let holder = holder(&cluster);
        let is_new = !holder.is_empty() && holder != first;
        is_new.then_some(())
    });
    assert!(back.is_some(), "{}", cluster.logs());
    assert!(cluster.controllers[1].text().contains("leading"), "the one with the key\n{}", cluster.logs());
    assert!(!cluster.controllers[0].text().contains("leading"), "and not the other\n{}", cluster.logs());
    let (good, bad) = calls.end();
    assert!(bad.is_empty() && good > 0, "{good} good, {bad:?}\n{}", cluster.logs());
    assert!(cluster.pods().iter().any(|pod| pods.contains(pod)), "its instance stays\n{}", cluster.logs());
    cluster.end();
}
