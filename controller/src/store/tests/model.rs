//! Random changes against the one rule that watches rest on: the history, replayed, gives the objects.

use super::*;

/// What a random user does to one of a few objects.
#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Own(u8, u8),
    Update(u8, u32),
    Status(u8, i64),
    Delete(u8),
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<Step>> {
    use proptest::prelude::*;
    let name = 0_u8..4;
    let step = prop_oneof![
        name.clone().prop_map(Step::Create),
        (name.clone(), 0_u8..4).prop_map(|(name, number)| Step::Own(name, number)),
        (name.clone(), 1_u32..4).prop_map(|(name, max)| Step::Update(name, max)),
        (name.clone(), 0_i64..3).prop_map(|(name, observed)| Step::Status(name, observed)),
        name.prop_map(Step::Delete),
    ];
    proptest::collection::vec(step, 0..60)
}

fn take(state: &mut State, step: &Step, uid: usize) {
    let named = |name: &u8| format!("f{name}");
    let changes = match step {
        Step::Create(name) => {
            plan::create(state, function(&named(name)), uid as u128, now()).map(|plan| plan.changes)
        }
        Step::Own(name, number) => {
            state.get::<Function>("default", &named(name)).map_or(Ok(Vec::new()), |owner| {
                let owned = revision(&format!("f{name}-{number:05}"), &owner);
                plan::create(state, owned, uid as u128, now()).map(|plan| plan.changes)
            })
        }
        Step::Update(name, max) => {
            let mut changed = function(&named(name));
            changed.spec.scale.max = *max;
            plan::update(state, changed).map(|plan| plan.changes)
        }
        Step::Status(name, observed) => {
            let mut changed = function(&named(name));
            changed.status =
                Some(FunctionStatus { observed_generation: Some(*observed), ..FunctionStatus::default() });
            plan::update_status(state, changed).map(|plan| plan.changes)
        }
        Step::Delete(name) => {
            let none = Preconditions::default();
            plan::delete::<Function>(state, "default", &named(name), &none, now()).map(|plan| plan.changes)
        }
    };
    state.apply(changes.unwrap_or_default());
}

proptest::proptest! {
    #[test]
    fn the_history_replayed_gives_the_objects(steps in steps()) {
        let mut state = State::new(10_000);
        for (uid, step) in steps.iter().enumerate() {
            take(&mut state, step, uid);
        }
        let mut replayed = std::collections::BTreeMap::new();
        let mut version = 0;
        for history::Happening { change, .. } in state.history().after(0) {
            proptest::prop_assert_eq!(change.version, version + 1, "no version is left out or given twice");
            version = change.version;
            let metadata = change.object.metadata();
            proptest::prop_assert_eq!(metadata.resource_version.clone(), Some(version.to_string()));
            match change.happened {
                history::Happened::Added => {
                    proptest::prop_assert!(replayed.insert(change.object.key(), change.object.clone()).is_none());
                }
                history::Happened::Modified => {
                    proptest::prop_assert!(replayed.insert(change.object.key(), change.object.clone()).is_some());
                }
                history::Happened::Deleted => {
                    proptest::prop_assert!(replayed.remove(&change.object.key()).is_some());
                }
            }
        }
        proptest::prop_assert_eq!(version, state.version());
        let functions: Vec<_> = replayed.values().filter_map(Function::peel).cloned().collect();
        let revisions: Vec<_> = replayed.values().filter_map(Revision::peel).cloned().collect();
        for revision in &revisions {
            let owner = &revision.metadata.owner_references.as_ref().unwrap()[0].uid;
            let owned = functions.iter().any(|function| function.metadata.uid.as_ref() == Some(owner));
            proptest::prop_assert!(owned, "no revision outlives its function");
        }
        for prefix in ["f1-", "f", "g"] {
            let named = |revision: &&Arc<Revision>| {
                revision.metadata.name.as_deref().is_some_and(|name| name.starts_with(prefix))
            };
            let named: Vec<_> = revisions.iter().filter(named).cloned().collect();
            proptest::prop_assert_eq!(named, state.list_named::<Revision>("default", prefix));
            proptest::prop_assert!(state.list_named::<Revision>("another", prefix).is_empty());
        }
        proptest::prop_assert_eq!(functions, state.list::<Function>(None));
        proptest::prop_assert_eq!(revisions, state.list::<Revision>(None));
    }
}
