//! What is to be done next for a Function: a pure function of what is wanted and what is there.
//!
//! Level-based: it is asked again after each step, with what was observed then, and after the last step it has nothing to say (INV-9). It does not
//! matter which steps were done by an earlier controller.
//!
//! The order of a deployment, as the rules below give it:
//!
//! ```text
//!  Resolve ─► Build ─► Create ─► Put(untried) ─► Try ─┬─ came up ─► Mark(Ready) ─► Put(routed) ─► Serve ─► Remove(old) ─► Mark(old, Retired)
//!  the code's  code and   the      its first          └─ did not ─► Mark(Failed) ─► Remove(new); the old one goes on serving
//!  digest      deps here  Revision instances
//! ```
//!
//! A Function that has nothing yet that serves is routed to the Revision that is being tried: its requests wait for the instance that is
//! coming up, and are told why when it does not.

use std::collections::BTreeMap;

use hearth_function::{Digest, RevisionState};
use hearth_scaler::Reach;

/// Revisions that are kept of each Function, so that what was running can be looked up (and, later, be given traffic again).
pub(super) const KEPT_REVISIONS: usize = 10;

/// A Revision's number in its name.
pub(super) type Number = u32;

/// What its owner wants of a Function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Nothing any more: it was deleted.
    Gone,
    /// What is written cannot be run. What runs goes on.
    Invalid,
    /// The digest of its code is not known yet.
    Unresolved,
    /// Its code cannot be had for now.
    Unresolvable,
    /// To run the template of this digest.
    Template(Digest),
}

/// What is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observed {
    /// The generation of the Function's spec: what serves follows it in its routes and its scale.
    pub(super) generation: i64,
    /// Revisions by number.
    pub(super) revisions: BTreeMap<Number, Revision>,
    /// The Revision that routes lead to, and the generation that the routes are from.
    pub(super) served: Option<(Number, i64)>,
    /// The Revisions that the autoscaler knows: how they are reached, and the generation that their scale is from.
    pub(super) targets: BTreeMap<Number, (Reach, i64)>,
    /// Whether code and dependencies of the wanted template are there.
    pub(super) build: Build,
    /// Whether a new Revision is to be tried before it gets traffic (`scale.initial` is not 0).
    pub(super) tried_first: bool,
}

/// A Revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision {
    pub(super) digest: Digest,
    pub(super) state: RevisionState,
    /// Whether it is known where its parts are on this machine.
    pub(super) prepared: Prepared,
    /// An instance of it was Ready since this controller knows it.
    pub(super) came_up: bool,
    /// It has failed, and what it lacked may be there by now.
    pub(super) retry: bool,
}

/// Whether it is known where the parts of a Revision are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prepared {
    /// To be found out.
    No,
    /// It is.
    Yes,
    /// They are not there; it is no use to ask again yet.
    Failed,
}

/// Whether code and dependencies of the wanted template are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Build {
    /// To be found out.
    No,
    /// They are.
    Done,
    /// They are not, and it is no use to try again yet.
    Failed,
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Find out the digest of the code.
    Resolve,
    /// Have code and dependencies of the wanted template.
    Build,
    /// Make the Revision of the wanted template.
    Create,
    /// Find the parts of a Revision on this machine.
    Prepare(Number),
    /// Tell the autoscaler of a Revision.
    Put(Number, Reach),
    /// Wait until a new Revision has come up.
    Try(Number),
    /// Record how far a Revision is.
    Mark(Number, RevisionState),
    /// Lead the Function's routes to a Revision.
    Serve(Number),
    /// Take the Function's routes away.
    Unserve,
    /// Drain a Revision's instances.
    Remove(Number),
    /// Delete an old Revision.
    Delete(Number),
}

/// The next step; `None` when there is nothing to do until something changes.
pub(super) fn plan(wanted: &Wanted, seen: &Observed) -> Option<Action> {
    if *wanted == Wanted::Gone {
        let removal = || seen.targets.keys().next().map(|number| Action::Remove(*number));
        return seen.served.map(|_| Action::Unserve).or_else(removal);
    }
    let latest = seen.revisions.last_key_value();
    // The wanted Revision, once it was made: always the latest.
    let current = latest.filter(|(_, latest)| *wanted == Wanted::Template(latest.digest.clone()));
    let serving = serving(seen);
    serve(seen, serving, current.map(|(number, _)| *number))
        .or_else(|| advance(wanted, seen, current))
        .or_else(|| tidy(seen, serving, current.map(|(number, _)| *number)))
}

/// The Revision that routes should lead to: the newest that is Ready; with none, the newest of all that can be asked at all.
fn serving(seen: &Observed) -> Option<Number> {
    serves(seen.revisions.iter().map(|(number, revision)| (*number, revision.state)))
}

/// The same, of the Revisions of a Function in any order.
pub(super) fn serves(revisions: impl Iterator<Item = (Number, RevisionState)>) -> Option<Number> {
    let asked = revisions.filter(|(_, state)| *state != RevisionState::Retired);
    asked.max_by_key(|(number, state)| (*state == RevisionState::Ready, *number)).map(|(number, _)| number)
}

/// What there is no step for now and will be after a while: a look, or a trial, that has failed and is not to be repeated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The look for the code.
    Source,
    /// The build of the wanted template.
    Build,
    /// The look for the parts of a Revision.
    Parts(Number),
    /// The next trial of a Revision.
    Trial(Number),
}

/// What the plan waits for: each of these, once it is due, gives it a step. Nothing else that was ever put off is a reason to look again.
pub(super) fn awaited(wanted: &Wanted, seen: &Observed) -> Vec<Awaited> {
    if *wanted == Wanted::Gone {
        return Vec::new();
    }
    let lacks_parts = |number: &Number| {
        seen.revisions.get(number).is_some_and(|revision| revision.prepared == Prepared::Failed)
    };
    let mut awaited: Vec<Awaited> =
        serving(seen).filter(lacks_parts).map(Awaited::Parts).into_iter().collect();
    if *wanted == Wanted::Unresolvable {
        awaited.push(Awaited::Source);
    }
    let Wanted::Template(digest) = wanted else { return awaited };
    match seen.revisions.last_key_value().filter(|(_, latest)| latest.digest == *digest) {
        None if seen.build == Build::Failed => awaited.push(Awaited::Build),
        Some((&number, latest)) if is_new(latest.state) && lacks_parts(&number) => {
            awaited.push(Awaited::Parts(number));
        }
        Some((&number, latest)) if latest.state == RevisionState::Failed => {
            awaited.push(Awaited::Trial(number))
        }
        _ => {}
    }
    awaited
}

/// Keeps routes, reach and scale of what serves right.
fn serve(seen: &Observed, serving: Option<Number>, current: Option<Number>) -> Option<Action> {
    let number = serving?;
    let revision = seen.revisions.get(&number)?;
    match revision.prepared {
        Prepared::No => return Some(Action::Prepare(number)),
        Prepared::Failed => return None,
        Prepared::Yes => {}
    }
    // The first Revision of a Function takes requests while it is tried.
    let on_trial = Some(number) == current && is_new(revision.state) && seen.tried_first;
    let reach = if on_trial { Reach::Untried } else { Reach::Routed };
    if seen.targets.get(&number) != Some(&(reach, seen.generation)) {
        return Some(Action::Put(number, reach));
    }
    (seen.served != Some((number, seen.generation))).then_some(Action::Serve(number))
}

/// The next step towards what is wanted.
fn advance(wanted: &Wanted, seen: &Observed, current: Option<(&Number, &Revision)>) -> Option<Action> {
    match (wanted, current) {
        (Wanted::Gone | Wanted::Invalid | Wanted::Unresolvable, _) => None,
        (Wanted::Unresolved, _) => Some(Action::Resolve),
        (Wanted::Template(_), None) => match seen.build {
            Build::No => Some(Action::Build),
            Build::Done => Some(Action::Create),
            Build::Failed => None,
        },
        (Wanted::Template(_), Some((&number, revision))) => match revision.state {
            RevisionState::Pending | RevisionState::Building | RevisionState::Starting => {
                match revision.prepared {
                    Prepared::No => Some(Action::Prepare(number)),
                    Prepared::Failed => None,
                    Prepared::Yes if !seen.tried_first => Some(Action::Mark(number, RevisionState::Ready)),
                    Prepared::Yes if !seen.targets.contains_key(&number) => {
                        Some(Action::Put(number, Reach::Untried))
                    }
                    Prepared::Yes => Some(Action::Try(number)),
                }
            }
            // What it lacked (a database, say) was there when a request started it again.
            RevisionState::Failed if revision.came_up => Some(Action::Mark(number, RevisionState::Ready)),
            RevisionState::Failed if revision.retry => Some(Action::Mark(number, RevisionState::Pending)),
            RevisionState::Failed | RevisionState::Ready | RevisionState::Retired => None,
        },
    }
}

/// Takes away what nobody needs any more.
fn tidy(seen: &Observed, serving: Option<Number>, current: Option<Number>) -> Option<Action> {
    let on_trial = |number: &Number| {
        Some(*number) == current && seen.revisions.get(number).is_some_and(|revision| is_new(revision.state))
    };
    let needed = |number: &Number| Some(*number) == serving || on_trial(number);
    let surplus = seen.revisions.len().saturating_sub(KEPT_REVISIONS);
    let used = |number: &Number| {
        needed(number)
            || seen.targets.contains_key(number)
            || seen.served.is_some_and(|(served, _)| served == *number)
    };
    if let Some(number) = seen.revisions.keys().take(surplus).find(|number| !used(number)) {
        return Some(Action::Delete(*number));
    }
    // While what should serve cannot, what does is left alone.
    let settled = serving.is_none_or(|number| seen.served.is_some_and(|(served, _)| served == number));
    if !settled {
        return None;
    }
    if let Some(number) = seen.targets.keys().find(|number| !needed(number)) {
        return Some(Action::Remove(*number));
    }
    let overtaken = |(number, revision): &(&Number, &Revision)| {
        Some(**number) < serving && revision.state == RevisionState::Ready
    };
    seen.revisions.iter().find(overtaken).map(|(number, _)| Action::Mark(*number, RevisionState::Retired))
}

fn is_new(state: RevisionState) -> bool {
    matches!(state, RevisionState::Pending | RevisionState::Building | RevisionState::Starting)
}

#[cfg(test)]
mod tests {
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
            build: Build::No,
            tried_first: true,
        }
    }

    /// How the world answers a step.
    #[derive(Debug, Clone, Copy)]
    struct World {
        builds: bool,
        prepares: bool,
        comes_up: bool,
    }

    const GOOD: World = World { builds: true, prepares: true, comes_up: true };

    fn apply(action: &Action, wanted: &mut Wanted, target: &Digest, seen: &mut Observed, world: World) {
        let generation = seen.generation;
        match action.clone() {
            Action::Resolve => *wanted = Wanted::Template(target.clone()),
            Action::Build => seen.build = if world.builds { Build::Done } else { Build::Failed },
            Action::Create => {
                let Wanted::Template(digest) = wanted else { panic!("nothing is wanted") };
                let number = seen.revisions.keys().last().map_or(1, |last| last + 1);
                let revision = Revision {
                    digest: digest.clone(),
                    state: RevisionState::Pending,
                    prepared: Prepared::No,
                    came_up: false,
                    retry: false,
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
                revision.state = if world.comes_up { RevisionState::Ready } else { RevisionState::Failed };
                revision.came_up = world.comes_up;
                revision.retry = false;
            }
            Action::Mark(number, state) => seen.revisions.get_mut(&number).unwrap().state = state,
            Action::Serve(number) => {
                assert!(seen.targets.contains_key(&number), "served without a target");
                seen.served = Some((number, generation));
            }
            Action::Unserve => seen.served = None,
            Action::Remove(number) => {
                assert!(seen.served.is_none_or(|(served, _)| served != number), "removed while it serves");
                seen.targets.remove(&number);
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
        converge(&mut wanted, &digest(2), &mut seen, World { comes_up: false, ..GOOD });
        assert_eq!(seen.served, Some((1, 1)));
        assert_eq!(seen.targets.keys().collect::<Vec<_>>(), [&1]);
        assert_eq!(seen.revisions[&2].state, RevisionState::Failed);
    }

    #[test]
    fn a_first_one_that_did_not_come_up_is_ready_as_soon_as_it_does() {
        let mut seen = nothing();
        let mut wanted = Wanted::Template(digest(1));
        converge(&mut wanted, &digest(1), &mut seen, World { comes_up: false, ..GOOD });
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
        converge(&mut wanted, &digest(2), &mut seen, World { comes_up: false, ..GOOD });
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
        converge(&mut wanted, &digest(1), &mut seen, World { comes_up: false, ..GOOD });
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
        converge(&mut other, &digest(2), &mut seen, World { comes_up: false, ..GOOD });
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
        let revision =
            |digest, state| Revision { digest, state, prepared: Prepared::No, came_up: false, retry: false };
        let mut seen = nothing();
        seen.revisions.insert(1, revision(digest(1), RevisionState::Retired));
        seen.revisions.insert(2, revision(digest(2), RevisionState::Ready));
        let steps = converge(&mut Wanted::Template(digest(2)), &digest(2), &mut seen, GOOD);
        assert_eq!(steps, [Action::Prepare(2), Action::Put(2, Reach::Routed), Action::Serve(2)]);
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
    }

    proptest! {
        #[test]
        fn whatever_is_there_it_comes_to_an_end_and_something_serves(
            history in proptest::collection::vec((any::<u8>(), any::<bool>(), any::<bool>(), any::<bool>()), 1..14),
            restarts in proptest::collection::vec(any::<bool>(), 14),
        ) {
            let mut seen = nothing();
            let mut served_before = false;
            for (deployment, (content, builds, prepares, comes_up)) in history.into_iter().enumerate() {
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
                        revision.came_up = false;
                    }
                    served_before = false;
                }
                let target = digest(content);
                // The same template again makes no new Revision, and one that has failed is not tried again.
                let failed = |revision: &Revision| revision.state == RevisionState::Failed && revision.digest == target;
                let failed_before = seen.revisions.values().next_back().is_some_and(failed);
                let mut wanted = Wanted::Unresolved;
                converge(&mut wanted, &target, &mut seen, World { builds, prepares, comes_up });
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
                if builds && prepares && comes_up && !failed_before {
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
}
