//! What is to be done next for a Function: a pure function of what is wanted and what is there.
//!
//! Level-based: it is asked again after each step, with what was observed then, and after the last step it has nothing to say (INV-9). It does not
//! matter which steps were done by an earlier controller.
//!
//! The order of a deployment, as the rules below give it:
//!
//! ```text
//!  Hold ─► Resolve ─► Build ─► Create ─► Put(untried) ─► Try ─┬─ came up ─► Mark(Ready) ─► Put(routed) ─► Serve ─► Remove(old) ─► Mark(old, Retired)
//!  the code's  code and   the      its first          └─ did not ─► Mark(Failed) ─► Remove(new); the old one goes on serving
//!  digest      deps here  Revision instances
//! ```
//!
//! A Function that has nothing yet that serves is routed to the Revision that is being tried: its requests wait for the instance that is
//! coming up, and are told why when it does not.
//!
//! A Revision that somebody has changed is not what was made, and no instance is started of what it says now. What runs of it goes on until
//! another, made of the Function as it is, is Ready; a controller that takes over meanwhile does not go on with it.
//!
//! A trial is no step that lasts but a state that is observed ([`Trial`]): while one goes on, for hours where no node has room, what serves is kept
//! right. Nor is a removal one, which lasts as long as the calls that its instances run.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

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
    /// Its object is not held yet, so that nobody may know of what runs of it. What runs goes on.
    Unheld,
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
    /// Those that it is still draining: no targets any more.
    pub(super) removing: BTreeSet<Number>,
    /// Whether code and dependencies of the wanted template are there.
    pub(super) build: Build,
    /// Whether a new Revision is to be tried before it gets traffic (`scale.initial` is not 0).
    pub(super) tried_first: bool,
    /// Whether instances of it run, by this controller or by an earlier one of this Hearth.
    pub(super) runs: bool,
}

impl Observed {
    /// The Revision that was made of this template, and still is as it was made: always the latest.
    pub(super) fn current(&self, template: &Digest) -> Option<(&Number, &Revision)> {
        self.revisions.last_key_value().filter(|(_, latest)| latest.intact && latest.digest == *template)
    }

    /// The Revision that routes lead to, unless it has not come up yet: requests are led to a first one while it is tried.
    pub(super) fn served_and_ready(&self) -> Option<Number> {
        let (number, _) = self.served?;
        let revision = self.revisions.get(&number)?;
        (!is_new(revision.state) && revision.state != RevisionState::Failed).then_some(number)
    }
}

/// A Revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Revision {
    pub(super) digest: Digest,
    /// Whether it still is as it was made.
    pub(super) intact: bool,
    pub(super) state: RevisionState,
    /// Whether it is known where its parts are on this machine.
    pub(super) prepared: Prepared,
    /// An instance of it was Ready since this controller knows it.
    pub(super) came_up: bool,
    /// It has failed, and what it lacked may be there by now.
    pub(super) retry: bool,
    pub(super) trial: Trial,
}

/// How the trial of a Revision stands. It may last, as when no node has room: nothing else waits for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Trial {
    /// There is none.
    #[default]
    No,
    /// It goes on.
    Underway,
    /// The Revision came up.
    CameUp,
    /// It did not.
    Failed,
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
    /// See to it that the object is not gone before its instances are.
    Hold,
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
    /// Begin to try whether a new Revision comes up; what comes of it is observed.
    Try(Number),
    /// Record how far a Revision is.
    Mark(Number, RevisionState),
    /// Lead the Function's routes to a Revision.
    Serve(Number),
    /// Take the Function's routes away.
    Unserve,
    /// Begin to drain a Revision's instances; that it is done is observed.
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
    if *wanted == Wanted::Unheld {
        // That may be refused for ever. Nothing new begins then, and nothing that runs is forgotten.
        let latest = seen.revisions.keys().next_back().copied();
        let goes_on = if seen.runs { serve(wanted, seen, serving(seen), latest) } else { None };
        return goes_on.or(Some(Action::Hold));
    }
    let current = match wanted {
        Wanted::Template(template) => seen.current(template),
        _ => None,
    };
    let serving = serving(seen);
    serve(wanted, seen, serving, current.map(|(number, _)| *number))
        .or_else(|| advance(wanted, seen, current))
        .or_else(|| tidy(seen, serving, current.map(|(number, _)| *number)))
}

/// The Revision that routes should lead to: the newest that is Ready; with none, the newest of all that can be asked at all. One that is not intact
/// is none of them, but goes on where it serves until there is one that is Ready.
fn serving(seen: &Observed) -> Option<Number> {
    let intact = seen.revisions.iter().filter(|(_, revision)| revision.intact);
    let best = serves(intact.map(|(number, revision)| (*number, revision.state)));
    let state = |number: &Number| seen.revisions.get(number).map(|revision| revision.state);
    if best.as_ref().and_then(state) == Some(RevisionState::Ready) {
        return best;
    }
    let served = seen.served_and_ready();
    served.filter(|number| seen.revisions.get(number).is_some_and(|served| !served.intact)).or(best)
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
        let revision = seen.revisions.get(number);
        revision.is_some_and(|revision| revision.intact && revision.prepared == Prepared::Failed)
    };
    let mut awaited: Vec<Awaited> =
        serving(seen).filter(lacks_parts).map(Awaited::Parts).into_iter().collect();
    if *wanted == Wanted::Unresolvable {
        awaited.push(Awaited::Source);
    }
    let Wanted::Template(digest) = wanted else { return awaited };
    match seen.current(digest) {
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
fn serve(
    wanted: &Wanted,
    seen: &Observed,
    serving: Option<Number>,
    current: Option<Number>,
) -> Option<Action> {
    let number = serving?;
    // One that is not intact goes on as it is.
    let revision = seen.revisions.get(&number).filter(|revision| revision.intact)?;
    match revision.prepared {
        Prepared::No => return Some(Action::Prepare(number)),
        Prepared::Failed => return None,
        Prepared::Yes => {}
    }
    // The first Revision of a Function takes requests while it is tried.
    let on_trial = Some(number) == current && is_new(revision.state) && seen.tried_first;
    let reach = if on_trial { Reach::Untried } else { Reach::Routed };
    // Of a spec that cannot be run, routes and scale are not taken over either; only a controller that knows no other goes by it.
    let is_followed = |generation: i64| generation == seen.generation || *wanted == Wanted::Invalid;
    if !seen.targets.get(&number).is_some_and(|(known, since)| *known == reach && is_followed(*since)) {
        return Some(Action::Put(number, reach));
    }
    let served = seen.served.is_some_and(|(known, since)| known == number && is_followed(since));
    (!served).then_some(Action::Serve(number))
}

/// The next step towards what is wanted.
fn advance(wanted: &Wanted, seen: &Observed, current: Option<(&Number, &Revision)>) -> Option<Action> {
    match (wanted, current) {
        (Wanted::Gone | Wanted::Unheld | Wanted::Invalid | Wanted::Unresolvable, _) => None,
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
                    // What is left of the trial before it is no part of the next.
                    Prepared::Yes if seen.removing.contains(&number) => None,
                    Prepared::Yes if !seen.targets.contains_key(&number) => {
                        Some(Action::Put(number, Reach::Untried))
                    }
                    Prepared::Yes => match revision.trial {
                        Trial::No => Some(Action::Try(number)),
                        Trial::Underway => None,
                        Trial::CameUp => Some(Action::Mark(number, RevisionState::Ready)),
                        Trial::Failed => Some(Action::Mark(number, RevisionState::Failed)),
                    },
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
    // Where nothing can take its place, what routes lead to stays.
    let leads = |number: &Number| seen.served.is_some_and(|(served, _)| served == *number);
    let has_instances = |number: &Number| seen.targets.contains_key(number) || seen.removing.contains(number);
    let used = |number: &Number| needed(number) || has_instances(number) || leads(number);
    if let Some(number) = seen.revisions.keys().take(surplus).find(|number| !used(number)) {
        return Some(Action::Delete(*number));
    }
    // While what should serve cannot, what does is left alone.
    if !serving.as_ref().is_none_or(leads) {
        return None;
    }
    if let Some(number) = seen.targets.keys().find(|number| !needed(number) && !leads(number)) {
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
