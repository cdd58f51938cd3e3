//! The rules of field ownership: examples, and what holds of any sequence of writes.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const MANAGERS: [&str; 3] = ["alice", "bob", "carol"];

fn schema() -> Value {
    json!({ "properties": { "spec": { "properties": { "source": { "x-kubernetes-map-type": "atomic" } } } } })
}

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// An object and its managers.
#[derive(Debug, Clone, PartialEq)]
struct Stored {
    object: Value,
    managers: Vec<ManagedFieldsEntry>,
}

impl Stored {
    fn empty() -> Self {
        Self { object: json!({ "metadata": { "name": "a" } }), managers: Vec::new() }
    }

    fn apply(&self, manager: &str, applied: &Value, force: Force) -> Result<Self, Vec<Conflict>> {
        let schema = schema();
        let apply = Apply { live: &self.object, managers: &self.managers, applied, manager, schema: &schema };
        let object = apply.merge();
        let managers = apply.settle(&object, force, now())?;
        Ok(Self { object, managers })
    }

    fn update(&self, manager: &str, spec: &Value) -> Self {
        let mut object = self.object.clone();
        object["spec"] = spec.clone();
        let managers = update(&self.managers, &self.object, &object, manager, &schema(), now());
        Self { object, managers }
    }

    fn owned_by(&self, manager: &str, operation: &str) -> Fields {
        self.managers.iter().find(|entry| is(entry, manager, operation)).map(owned).unwrap_or_default()
    }
}

#[test]
fn an_apply_takes_away_what_it_no_longer_names() {
    let first = json!({ "spec": { "a": "1", "b": { "c": "2", "d": "3" } } });
    let there = Stored::empty().apply("alice", &first, Force::No).unwrap();
    let shared = there.apply("bob", &json!({ "spec": { "b": { "d": "3" } } }), Force::No).unwrap();
    let less = shared.apply("alice", &json!({ "spec": { "a": "1" } }), Force::No).unwrap();
    assert_eq!(less.object["spec"], json!({ "a": "1", "b": { "d": "3" } }), "bob's field stays");
    let none = less.apply("bob", &json!({}), Force::No).unwrap();
    assert_eq!(none.object["spec"], json!({ "a": "1" }));
    assert_eq!(none.managers.len(), 1, "bob owns nothing and is forgotten");
}

#[test]
fn a_conflict_names_the_field_and_its_owner() {
    let there =
        Stored::empty().apply("alice", &json!({ "spec": { "scale": { "max": 3 } } }), Force::No).unwrap();
    let mine = json!({ "spec": { "scale": { "max": 4, "min": 1 } } });
    let conflicts = there.apply("bob", &mine, Force::No).unwrap_err();
    assert_eq!(conflicts, [Conflict { manager: "alice".to_owned(), field: ".spec.scale.max".to_owned() }]);
    let forced = there.apply("bob", &mine, Force::Yes).unwrap();
    assert_eq!(forced.object["spec"]["scale"], json!({ "max": 4, "min": 1 }));
    assert!(forced.owned_by("alice", APPLY).is_empty());
}

#[test]
fn an_edit_makes_a_conflict_for_the_next_apply() {
    let manifest = json!({ "spec": { "a": "1", "list": ["x"] } });
    let there = Stored::empty().apply("alice", &manifest, Force::No).unwrap();
    let edited = there.update("kubectl-edit", &json!({ "a": "1", "list": ["x", "y"] }));
    let conflicts = edited.apply("alice", &manifest, Force::No).unwrap_err();
    assert_eq!(conflicts[0].field, ".spec.list", "a list is one field");
    assert_eq!(edited.apply("alice", &manifest, Force::Yes).unwrap().object["spec"], manifest["spec"]);
}

#[test]
fn an_atomic_map_is_replaced_whole() {
    let inline = json!({ "spec": { "source": { "inline": { "a": "b" } } } });
    let bundle = json!({ "spec": { "source": { "bundle": "sha256:x" } } });
    let there = Stored::empty().apply("alice", &inline, Force::No).unwrap();
    assert_eq!(there.apply("alice", &bundle, Force::No).unwrap().object["spec"], bundle["spec"]);
    assert_eq!(there.apply("bob", &bundle, Force::No).unwrap_err()[0].field, ".spec.source");
}

#[test]
fn what_is_not_declared_has_no_owner() {
    let sent = json!({
        "apiVersion": "v1", "kind": "Function", "metadata": { "name": "a", "uid": "u", "labels": { "a.b/c": "d" } },
        "spec": { "a": null, "b": {}, "c": "d" }, "status": { "url": "x" },
    });
    let managers = update(&[], &Value::Null, &sent, "alice", &Value::Null, now());
    let text = &managers[0].fields_v1.as_ref().unwrap().0;
    assert_eq!(*text, json!({ "f:metadata": { "f:labels": { "f:a.b/c": {} } }, "f:spec": { "f:c": {} } }));
}

#[test]
fn owners_of_list_items_own_the_list() {
    let text = json!({ "f:metadata": { "f:finalizers": { ".": {}, "v:\"x\"": {} } }, "f:spec": { "f:env": { "k:{\"name\":\"A\"}": { "f:value": {} } } } });
    let fields = Fields::decode(&text);
    let paths: Vec<String> = fields.iter().map(fields::display).collect();
    assert_eq!(paths, [".metadata.finalizers", ".spec.env"]);
}

#[test]
fn many_who_updated_become_one() {
    let mut stored = Stored::empty();
    let mut spec = json!({});
    for number in 0..30 {
        spec[format!("field{number}")] = json!(number);
        stored = stored.update(&format!("tool-{number}"), &spec);
    }
    assert_eq!(stored.managers.len(), MAX_UPDATERS);
    let all = stored.managers.iter().map(owned).fold(Fields::default(), |all, own| all.union(&own));
    assert_eq!(all, Fields::of(&stored.object, &schema()), "no field lost its owner");
}

#[test]
fn managers_that_a_client_sends_are_checked() {
    let entry = |manager: &str, operation: &str| ManagedFieldsEntry {
        manager: Some(manager.to_owned()),
        operation: Some(operation.to_owned()),
        fields_type: Some("FieldsV1".to_owned()),
        ..ManagedFieldsEntry::default()
    };
    assert!(check(&[entry("kubectl", "Apply")]).is_ok());
    for wrong in [
        entry("", "Apply"),
        entry(&"x".repeat(129), "Apply"),
        entry("a", "Delete"),
        ManagedFieldsEntry::default(),
    ] {
        assert!(check(&[wrong]).is_err());
    }
}

/// A small object: a few names, nested at most three deep, so that managers meet.
fn spec() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        (0..3_u8).prop_map(|number| json!(number)),
        proptest::collection::vec(0..2_u8, 0..2).prop_map(|list| json!(list)),
    ];
    let name = prop_oneof![Just("a"), Just("b"), Just("source")];
    leaf.prop_recursive(3, 12, 3, move |inner| {
        proptest::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..3)
            .prop_map(|map| json!(map))
    })
    .prop_map(|value| json!({ "spec": { "x": value } }))
}

#[derive(Debug, Clone)]
enum Write {
    Apply(usize, Value, bool),
    Update(usize, Value),
}

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = prop_oneof![
        3 => (0..3_usize, spec(), any::<bool>()).prop_map(|(who, what, force)| Write::Apply(who, what, force)),
        1 => (0..3_usize, spec()).prop_map(|(who, what)| Write::Update(who, what)),
    ];
    proptest::collection::vec(write, 0..8)
}

fn after(writes: &[Write]) -> Stored {
    writes.iter().fold(Stored::empty(), |stored, write| match write {
        Write::Apply(who, what, force) => {
            let force = if *force { Force::Yes } else { Force::No };
            stored.apply(MANAGERS[*who], what, force).unwrap_or(stored)
        }
        Write::Update(who, what) => stored.update(MANAGERS[*who], &what["spec"]),
    })
}

proptest! {
    /// The text form says what the set says.
    #[test]
    fn fields_survive_their_text(object in spec()) {
        let fields = Fields::of(&object, &schema());
        prop_assert_eq!(Fields::decode(&fields.encode()), fields);
    }

    /// The same apply again changes nothing, neither of the object nor of its owners.
    #[test]
    fn an_apply_is_idempotent(before in writes(), applied in spec()) {
        let once = after(&before).apply("alice", &applied, Force::Yes).unwrap();
        let twice = once.apply("alice", &applied, Force::No);
        prop_assert_eq!(twice, Ok(once));
    }

    /// Two who apply in turns what both agree on change nothing, not even the order of the owners.
    #[test]
    fn appliers_in_turns_change_nothing(before in writes(), applied in spec()) {
        let first = after(&before).apply("alice", &applied, Force::Yes).unwrap();
        let both = first.apply("bob", &applied, Force::Yes).unwrap();
        let alice_again = both.apply("alice", &applied, Force::No).unwrap();
        prop_assert_eq!(&alice_again, &both);
        let bob_again = alice_again.apply("bob", &applied, Force::No).unwrap();
        prop_assert_eq!(bob_again, both);
    }

    /// What was applied is there, and belongs to who applied it.
    #[test]
    fn an_apply_gets_and_owns_what_it_names(before in writes(), applied in spec()) {
        let stored = after(&before).apply("alice", &applied, Force::Yes).unwrap();
        let named = Fields::of(&applied, &schema());
        for path in named.iter() {
            prop_assert_eq!(fields::get(&stored.object, path), fields::get(&applied, path));
        }
        prop_assert_eq!(stored.owned_by("alice", APPLY), named);
    }

    /// Without force, nothing that another owns is changed.
    #[test]
    fn an_apply_without_force_leaves_others_alone(before in writes(), applied in spec()) {
        let stored = after(&before);
        if let Ok(applied) = stored.apply("alice", &applied, Force::No) {
            for entry in stored.managers.iter().filter(|entry| !is(entry, "alice", APPLY)) {
                for path in owned(entry).iter() {
                    prop_assert_eq!(fields::get(&stored.object, path), fields::get(&applied.object, path));
                }
            }
        }
    }

    /// With force, who lost a value no longer owns it.
    #[test]
    fn a_forced_apply_takes_what_it_changes(before in writes(), applied in spec()) {
        let stored = after(&before);
        let forced = stored.apply("alice", &applied, Force::Yes).unwrap();
        for path in Fields::of(&applied, &schema()).iter() {
            if fields::get(&stored.object, path) != fields::get(&forced.object, path) {
                for entry in forced.managers.iter().filter(|entry| !is(entry, "alice", APPLY)) {
                    prop_assert!(!owned(entry).touches(path), "{:?} still has {:?}", entry.manager, path);
                }
            }
        }
    }

    /// Who alone wrote an object and applies nothing takes it all away.
    #[test]
    fn nothing_stays_of_a_sole_owner_who_names_nothing(applied in spec()) {
        let stored = Stored::empty().apply("alice", &applied, Force::No).unwrap();
        let nothing = stored.apply("alice", &json!({}), Force::No).unwrap();
        prop_assert!(Fields::of(&nothing.object, &schema()).is_empty());
        prop_assert!(nothing.managers.is_empty());
    }

    /// Each value that an update changed belongs to it alone.
    #[test]
    fn an_update_owns_what_it_changes(before in writes(), what in spec()) {
        let stored = after(&before);
        let updated = stored.update("carol", &what["spec"]);
        for path in Fields::of(&updated.object, &schema()).iter() {
            if fields::get(&stored.object, path) != fields::get(&updated.object, path) {
                for entry in &updated.managers {
                    prop_assert_eq!(owned(entry).touches(path), is(entry, "carol", UPDATE));
                }
            }
        }
    }
}
