use proptest::prelude::*;

use super::*;

fn digest(content: u8) -> Digest {
    Digest::of(&[content])
}

fn nothing() -> Observed {
    Observed {
        generation: 1,
        revisions: BTreeMap::new(),
        served: None,
        targets: BTreeMap::new(),
        removing: BTreeSet::new(),
        build: Build::No,
        tried_first: true,
        runs: false,
    }
}

/// How the world answers a step.
#[derive(Debug, Clone, Copy)]
struct World {
    builds: bool,
    prepares: bool,
    trial: Trial,
}

const GOOD: World = World { builds: true, prepares: true, trial: Trial::CameUp };

fn apply(action: &Action, wanted: &mut Wanted, target: &Digest, seen: &mut Observed, world: World) {
    let generation = seen.generation;
    match action.clone() {
        Action::Hold => *wanted = Wanted::Unresolved,
        Action::Resolve => *wanted = Wanted::Template(target.clone()),
        Action::Build => seen.build = if world.builds { Build::Done } else { Build::Failed },
        Action::Create => {
            let Wanted::Template(digest) = wanted else { panic!("nothing is wanted") };
            let number = seen.revisions.keys().last().map_or(1, |last| last + 1);
            let revision = Revision {
                digest: digest.clone(),
                intact: true,
                state: RevisionState::Pending,
                prepared: Prepared::No,
                came_up: false,
                retry: false,
                trial: Trial::No,
            };
            seen.revisions.insert(number, revision);
        }
        Action::Prepare(number) => {
            let prepared = if world.prepares { Prepared::Yes } else { Prepared::Failed };
            seen.revisions.get_mut(&number).unwrap().prepared = prepared;
        }
        Action::Put(number, reach) => {
            seen.targets.insert(number, (reach, generation));
        }
        Action::Try(number) => {
            assert!(seen.targets.contains_key(&number), "tried without a target");
            let revision = seen.revisions.get_mut(&number).unwrap();
            (revision.trial, revision.came_up) = match world.trial {
                Trial::CameUp => (Trial::CameUp, true),
                other => (other, false),
            };
            revision.retry = false;
        }
        Action::Mark(number, state) => {
            let revision = seen.revisions.get_mut(&number).unwrap();
            (revision.state, revision.trial) = (state, Trial::No);
        }
        Action::Serve(number) => {
            assert!(seen.targets.contains_key(&number), "served without a target");
            seen.served = Some((number, generation));
        }
        Action::Unserve => seen.served = None,
        Action::Remove(number) => {
            assert!(seen.served.is_none_or(|(served, _)| served != number), "removed while it serves");
            seen.targets.remove(&number);
            seen.revisions.get_mut(&number).unwrap().trial = Trial::No;
        }
        Action::Delete(number) => {
            assert!(!seen.targets.contains_key(&number), "deleted while it has instances");
            seen.revisions.remove(&number);
        }
    }
}

/// Takes steps until there is none; the steps.
fn converge(wanted: &mut Wanted, target: &Digest, seen: &mut Observed, world: World) -> Vec<Action> {
    let mut steps = Vec::new();
    while let Some(action) = plan(wanted, seen) {
        apply(&action, wanted, target, seen, world);
        steps.push(action);
        assert!(steps.len() < 100, "no end: {steps:?}");
    }
    steps
}

#[test]
fn a_first_deployment_is_routed_while_it_is_tried() {
    let mut seen = nothing();
    let steps = converge(&mut Wanted::Unresolved, &digest(1), &mut seen, GOOD);
    let expected = [
        Action::Resolve,
        Action::Build,
        Action::Create,
        Action::Prepare(1),
        Action::Put(1, Reach::Untried),
        Action::Serve(1),
        Action::Try(1),
        Action::Mark(1, RevisionState::Ready),
        Action::Put(1, Reach::Routed),
    ];
    assert_eq!(steps, expected);
    assert_eq!(plan(&Wanted::Template(digest(1)), &seen), None, "the same template makes nothing new");
}

#[test]
fn a_second_one_gets_the_routes_when_it_is_up_and_only_then_the_first_goes() {
    let mut seen = nothing();
    converge(&mut Wanted::Template(digest(1)), &digest(1), &mut seen, GOOD);
    seen.build = Build::No;
    seen.generation = 2;
    let steps = converge(&mut Wanted::Template(digest(2)), &digest(2), &mut seen, GOOD);
    let expected = [
        // Routes and scale of the new spec are the old Revision's at once: they are no part of the template.
        Action::Put(1, Reach::Routed),
        Action::Serve(1),
        Action::Build,
        Action::Create,
        Action::Prepare(2),
        Action::Put(2, Reach::Untried),
        Action::Try(2),
        Action::Mark(2, RevisionState::Ready),
        Action::Put(2, Reach::Routed),
        Action::Serve(2),
        Action::Remove(1),
        Action::Mark(1, RevisionState::Retired),
    ];
    assert_eq!(steps, expected);
}

#[test]
fn one_that_does_not_come_up_leaves_the_old_one_serving() {
    let mut seen = nothing();
    converge(&mut Wanted::Template(digest(1)), &digest(1), &mut seen, GOOD);
    seen.build = Build::No;
    let mut wanted = Wanted::Template(digest(2));
    converge(&mut wanted, &digest(2), &mut seen, World { trial: Trial::Failed, ..GOOD });
    assert_eq!(seen.served, Some((1, 1)));
    assert_eq!(seen.targets.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!(seen.revisions[&2].state, RevisionState::Failed);
}

#[test]
fn a_first_one_that_did_not_come_up_is_ready_as_soon_as_it_does() {
    let mut seen = nothing();
    let mut wanted = Wanted::Template(digest(1));
    converge(&mut wanted, &digest(1), &mut seen, World { trial: Trial::Failed, ..GOOD });
    assert_eq!(seen.served, Some((1, 1)), "its requests are told why");
    seen.revisions.get_mut(&1).unwrap().came_up = true;
    assert_eq!(plan(&wanted, &seen), Some(Action::Mark(1, RevisionState::Ready)));
}

#[test]
fn one_that_failed_is_tried_again_when_it_is_time() {
    let mut seen = nothing();
    converge(&mut Wanted::Template(digest(1)), &digest(1), &mut seen, GOOD);
    seen.build = Build::No;
    let mut wanted = Wanted::Template(digest(2));
    converge(&mut wanted, &digest(2), &mut seen, World { trial: Trial::Failed, ..GOOD });
    assert_eq!(plan(&wanted, &seen), None);
    seen.revisions.get_mut(&2).unwrap().retry = true;
    let steps = converge(&mut wanted, &digest(2), &mut seen, GOOD);
    let again = [Action::Mark(2, RevisionState::Pending), Action::Put(2, Reach::Untried), Action::Try(2)];
    assert_eq!(steps[..3], again);
    assert_eq!(seen.served, Some((2, 1)), "the old one served until then");
}

#[test]
fn what_it_would_not_act_on_is_not_waited_for() {
    // Tried again for a while, and then a request brought it up.
    let mut seen = nothing();
    let mut wanted = Wanted::Template(digest(1));
    converge(&mut wanted, &digest(1), &mut seen, World { trial: Trial::Failed, ..GOOD });
    assert_eq!(awaited(&wanted, &seen), [Awaited::Trial(1)]);
    seen.revisions.get_mut(&1).unwrap().came_up = true;
    converge(&mut wanted, &digest(1), &mut seen, GOOD);
    assert_eq!(awaited(&wanted, &seen), []);

    // A spec that does not build, and is undone.
    seen.build = Build::No;
    let mut other = Wanted::Template(digest(2));
    converge(&mut other, &digest(2), &mut seen, World { builds: false, ..GOOD });
    assert_eq!(awaited(&other, &seen), [Awaited::Build]);
    assert_eq!(awaited(&wanted, &seen), []);

    // The latest has failed, and is no longer what is wanted; or cannot be tried for want of parts.
    seen.build = Build::No;
    converge(&mut other, &digest(2), &mut seen, World { trial: Trial::Failed, ..GOOD });
    assert_eq!(awaited(&other, &seen), [Awaited::Trial(2)]);
    seen.build = Build::Failed;
    assert_eq!(awaited(&Wanted::Template(digest(3)), &seen), [Awaited::Build]);
    assert_eq!(awaited(&Wanted::Invalid, &seen), []);
    assert_eq!(awaited(&Wanted::Unresolvable, &seen), [Awaited::Source]);
    let latest = seen.revisions.get_mut(&2).unwrap();
    (latest.retry, latest.prepared) = (true, Prepared::Failed);
    converge(&mut other, &digest(2), &mut seen, GOOD);
    assert_eq!(awaited(&other, &seen), [Awaited::Parts(2)]);

    // Parts of one that serves no longer.
    seen.revisions.get_mut(&2).unwrap().prepared = Prepared::No;
    converge(&mut other, &digest(2), &mut seen, GOOD);
    seen.revisions.get_mut(&1).unwrap().prepared = Prepared::Failed;
    assert_eq!(awaited(&other, &seen), []);
}

#[test]
fn after_a_restart_what_was_ready_serves_without_a_trial() {
    let revision = |digest, state| Revision {
        digest,
        intact: true,
        state,
        prepared: Prepared::No,
        came_up: false,
        retry: false,
        trial: Trial::No,
    };
    let mut seen = nothing();
    seen.revisions.insert(1, revision(digest(1), RevisionState::Retired));
    seen.revisions.insert(2, revision(digest(2), RevisionState::Ready));
    let steps = converge(&mut Wanted::Template(digest(2)), &digest(2), &mut seen, GOOD);
    assert_eq!(steps, [Action::Prepare(2), Action::Put(2, Reach::Routed), Action::Serve(2)]);
}

#[test]
fn what_is_not_held_begins_nothing_and_what_runs_of_it_goes_on() {
    let mut seen = nothing();
    assert_eq!(plan(&Wanted::Unheld, &seen), Some(Action::Hold));
    converge(&mut Wanted::Unheld, &digest(1), &mut seen, GOOD);
    // Another controller, which is not let hold it.
    (seen.served, seen.targets) = (None, BTreeMap::new());
    seen.revisions.get_mut(&1).unwrap().prepared = Prepared::No;
    assert_eq!(plan(&Wanted::Unheld, &seen), Some(Action::Hold));
    seen.runs = true;
    let mut steps = Vec::new();
    while let Some(action) = plan(&Wanted::Unheld, &seen).filter(|action| *action != Action::Hold) {
        apply(&action, &mut Wanted::Unheld, &digest(1), &mut seen, GOOD);
        steps.push(action);
    }
    assert_eq!(steps, [Action::Prepare(1), Action::Put(1, Reach::Routed), Action::Serve(1)]);
}

#[test]
fn what_is_deleted_loses_its_routes_before_its_instances() {
    let mut seen = nothing();
    converge(&mut Wanted::Template(digest(1)), &digest(1), &mut seen, GOOD);
    let steps = converge(&mut Wanted::Gone, &digest(1), &mut seen, GOOD);
    assert_eq!(steps, [Action::Unserve, Action::Remove(1)]);
}

#[test]
fn an_invalid_spec_leaves_what_runs() {
    let mut seen = nothing();
    converge(&mut Wanted::Template(digest(1)), &digest(1), &mut seen, GOOD);
    assert_eq!(plan(&Wanted::Invalid, &seen), None);
    // A newer spec cannot be run: neither its scale nor its routes are taken over.
    seen.generation += 1;
    assert_eq!(plan(&Wanted::Invalid, &seen), None);
    assert_eq!(plan(&Wanted::Template(digest(1)), &seen), Some(Action::Put(1, Reach::Routed)));
}

/// Beside a spec that was given up: a Revision whose trial goes on for ever.
fn trials() -> impl Strategy<Value = Trial> {
    prop_oneof![Just(Trial::CameUp), Just(Trial::Failed), Just(Trial::Underway)]
}

#[test]
fn a_trial_that_goes_on_holds_nothing_else_up() {
    let mut seen = nothing();
    converge(&mut Wanted::Template(digest(1)), &digest(1), &mut seen, GOOD);
    seen.build = Build::No;
    let mut wanted = Wanted::Template(digest(2));
    converge(&mut wanted, &digest(2), &mut seen, World { trial: Trial::Underway, ..GOOD });
    assert_eq!((plan(&wanted, &seen), seen.served), (None, Some((1, 1))));
    // The routes of a newer spec with the same template are taken over meanwhile.
    seen.generation = 2;
    assert_eq!(plan(&wanted, &seen), Some(Action::Put(1, Reach::Routed)));
    // The old one's parts come to another controller, though no node takes the new one.
    seen.targets.clear();
    seen.served = None;
    for revision in seen.revisions.values_mut() {
        (revision.prepared, revision.trial) = (Prepared::No, Trial::No);
    }
    let steps = converge(&mut wanted, &digest(2), &mut seen, World { trial: Trial::Underway, ..GOOD });
    let expected = [
        Action::Prepare(1),
        Action::Put(1, Reach::Routed),
        Action::Serve(1),
        Action::Prepare(2),
        Action::Put(2, Reach::Untried),
        Action::Try(2),
    ];
    assert_eq!(steps, expected);
    // And when there is room, it gets the routes.
    let new = seen.revisions.get_mut(&2).unwrap();
    (new.trial, new.came_up) = (Trial::CameUp, true);
    converge(&mut wanted, &digest(2), &mut seen, GOOD);
    assert_eq!(seen.served, Some((2, 2)));
}

#[test]
fn one_that_was_changed_serves_until_another_is_ready_and_no_longer() {
    let mut seen = nothing();
    let mut wanted = Wanted::Template(digest(1));
    converge(&mut wanted, &digest(1), &mut seen, GOOD);
    seen.revisions.get_mut(&1).unwrap().intact = false;
    // What it says now is not started, nor told to those who call it.
    seen.revisions.get_mut(&1).unwrap().prepared = Prepared::No;
    (seen.build, seen.generation) = (Build::No, 2);
    let steps = converge(&mut wanted, &digest(1), &mut seen, World { trial: Trial::Failed, ..GOOD });
    let expected = [
        Action::Build,
        Action::Create,
        Action::Prepare(2),
        Action::Put(2, Reach::Untried),
        Action::Try(2),
        Action::Mark(2, RevisionState::Failed),
        Action::Remove(2),
    ];
    assert_eq!((steps.as_slice(), seen.served), (expected.as_slice(), Some((1, 1))));
    assert_eq!(awaited(&wanted, &seen), [Awaited::Trial(2)]);
    seen.revisions.get_mut(&2).unwrap().retry = true;
    converge(&mut wanted, &digest(1), &mut seen, GOOD);
    assert_eq!((seen.served, seen.targets.keys().collect::<Vec<_>>()), (Some((2, 2)), vec![&2]));
    assert_eq!(seen.revisions[&1].state, RevisionState::Retired);
    // Another controller knows of no instance of the one that was changed.
    let latest = seen.revisions.get_mut(&2).unwrap();
    (latest.intact, seen.served, seen.build) = (false, None, Build::No);
    seen.targets.clear();
    let steps = converge(&mut wanted, &digest(1), &mut seen, GOOD);
    assert_eq!(steps[..2], [Action::Build, Action::Create]);
    assert!(!steps.iter().any(|step| matches!(step, Action::Prepare(2) | Action::Put(2, _))), "{steps:?}");
    assert_eq!(seen.served, Some((3, 2)));
}

#[test]
fn one_that_was_changed_while_it_was_tried_keeps_its_routes_until_another_has_them() {
    let mut seen = nothing();
    let mut wanted = Wanted::Template(digest(1));
    converge(&mut wanted, &digest(1), &mut seen, World { trial: Trial::Underway, ..GOOD });
    seen.revisions.get_mut(&1).unwrap().intact = false;
    seen.build = Build::Failed;
    assert_eq!((plan(&wanted, &seen), seen.served), (None, Some((1, 1))));
    seen.build = Build::Done;
    converge(&mut wanted, &digest(1), &mut seen, GOOD);
    assert_eq!((seen.served, seen.targets.keys().collect::<Vec<_>>()), (Some((2, 1)), vec![&2]));
}

#[test]
fn a_removal_that_goes_on_holds_nothing_else_up_and_is_not_begun_again() {
    let mut seen = nothing();
    converge(&mut Wanted::Template(digest(1)), &digest(1), &mut seen, GOOD);
    seen.build = Build::No;
    let mut wanted = Wanted::Template(digest(2));
    converge(&mut wanted, &digest(2), &mut seen, GOOD);
    seen.removing.insert(1);
    assert_eq!(plan(&wanted, &seen), None);
    seen.generation = 2;
    assert_eq!(plan(&wanted, &seen), Some(Action::Put(2, Reach::Routed)));
    // Its Revision is not deleted before, however many came after it.
    for content in 3..20 {
        seen.build = Build::No;
        let steps = converge(&mut Wanted::Template(digest(content)), &digest(content), &mut seen, GOOD);
        assert!(!steps.contains(&Action::Delete(1)) && !steps.contains(&Action::Remove(1)), "{steps:?}");
    }
    let last = Wanted::Template(digest(19));
    assert_eq!(plan(&last, &seen), None);
    seen.removing.clear();
    assert_eq!(plan(&last, &seen), Some(Action::Delete(1)));
}

#[test]
fn what_is_tried_again_waits_for_what_the_trial_before_has_left() {
    let mut seen = nothing();
    converge(&mut Wanted::Template(digest(1)), &digest(1), &mut seen, GOOD);
    seen.build = Build::No;
    let mut wanted = Wanted::Template(digest(2));
    converge(&mut wanted, &digest(2), &mut seen, World { trial: Trial::Failed, ..GOOD });
    seen.removing.insert(2);
    seen.revisions.get_mut(&2).unwrap().retry = true;
    let steps = converge(&mut wanted, &digest(2), &mut seen, GOOD);
    assert_eq!(steps, [Action::Mark(2, RevisionState::Pending)]);
    seen.removing.clear();
    assert_eq!(plan(&wanted, &seen), Some(Action::Put(2, Reach::Untried)));
}

#[test]
fn what_has_not_come_up_is_not_called_ready_though_requests_are_led_to_it() {
    let mut seen = nothing();
    let mut wanted = Wanted::Template(digest(1));
    converge(&mut wanted, &digest(1), &mut seen, World { trial: Trial::Underway, ..GOOD });
    assert_eq!((seen.served, seen.served_and_ready()), (Some((1, 1)), None));
    seen.revisions.get_mut(&1).unwrap().trial = Trial::Failed;
    converge(&mut wanted, &digest(1), &mut seen, GOOD);
    assert_eq!((seen.served, seen.served_and_ready()), (Some((1, 1)), None));
    seen.revisions.get_mut(&1).unwrap().came_up = true;
    converge(&mut wanted, &digest(1), &mut seen, GOOD);
    assert_eq!(seen.served_and_ready(), Some(1));
}

proptest! {
    #[test]
    fn whatever_is_there_it_comes_to_an_end_and_something_serves(
        history in proptest::collection::vec((any::<u8>(), any::<bool>(), any::<bool>(), trials()), 1..14),
        restarts in proptest::collection::vec(any::<bool>(), 14),
    ) {
        let mut seen = nothing();
        let mut served_before = false;
        for (deployment, (content, builds, prepares, trial)) in history.into_iter().enumerate() {
            seen.generation += 1;
            seen.build = Build::No;
            // What was not there is looked for again after a while.
            for revision in seen.revisions.values_mut().filter(|known| known.prepared == Prepared::Failed) {
                revision.prepared = Prepared::No;
            }
            if restarts[deployment] {
                seen.targets.clear();
                seen.served = None;
                for revision in seen.revisions.values_mut() {
                    revision.prepared = Prepared::No;
                    (revision.came_up, revision.trial) = (false, Trial::No);
                }
                served_before = false;
            }
            let target = digest(content);
            // The same template again makes no new Revision, and one that has failed is not tried again.
            let failed = |revision: &Revision| revision.state == RevisionState::Failed && revision.digest == target;
            let failed_before = seen.revisions.values().next_back().is_some_and(failed);
            let mut wanted = Wanted::Unheld;
            seen.runs = !seen.targets.is_empty();
            converge(&mut wanted, &target, &mut seen, World { builds, prepares, trial });
            prop_assert_eq!(plan(&wanted, &seen), None);
            for one in awaited(&wanted, &seen) {
                let mut due = seen.clone();
                let mut wanted = wanted.clone();
                match one {
                    Awaited::Source => wanted = Wanted::Unresolved,
                    Awaited::Build => due.build = Build::No,
                    Awaited::Parts(number) => due.revisions.get_mut(&number).unwrap().prepared = Prepared::No,
                    Awaited::Trial(number) => due.revisions.get_mut(&number).unwrap().retry = true,
                }
                prop_assert!(plan(&wanted, &due).is_some(), "{:?} is waited for in vain", one);
            }
            prop_assert!(seen.revisions.len() <= KEPT_REVISIONS + 1);
            if builds && prepares && trial == Trial::CameUp && !failed_before {
                let (served, _) = seen.served.expect("it came up");
                prop_assert_eq!(&seen.revisions[&served].digest, &target);
                prop_assert_eq!(seen.targets.len(), 1);
            }
            prop_assert!(!served_before || seen.served.is_some(), "routes were lost");
            served_before = seen.served.is_some();
        }
        converge(&mut Wanted::Gone, &digest(0), &mut seen, GOOD);
        prop_assert!(seen.targets.is_empty() && seen.served.is_none());
    }
}
