//! Of which namespaces it is known what they hold: pure.
//!
//! Nothing may be concluded from what is missing before it was listed once. A namespace that lets nobody list it, as one that was deleted together
//! with the rights in it, would hold up all others for ever: it is given up after a while. What it holds is unknown then, which is not gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Scope;

/// So long a namespace that refuses is waited for, unless more is asked for: rights that are given just now take less.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How far the lists are.
#[derive(Debug)]
pub(super) struct Lists {
    of: BTreeMap<Scope, Progress>,
    patience: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// There was no answer yet, or none that means anything.
    Waiting,
    /// The API server refuses, since then.
    Refused(Instant),
    Listed,
}

impl Lists {
    /// `patience`: how long one that refuses is waited for.
    pub(super) fn new(scopes: &[Scope], patience: Duration) -> Self {
        Self { of: scopes.iter().map(|scope| (scope.clone(), Progress::Waiting)).collect(), patience }
    }

    /// A scope was read to its end.
    pub(super) fn listed(&mut self, scope: &Scope) {
        self.of.insert(scope.clone(), Progress::Listed);
    }

    /// It cannot be read now; `refused`: the API server says no, as it will the next time.
    pub(super) fn failed(&mut self, scope: &Scope, refused: bool, now: Instant) {
        let Some(progress) = self.of.get_mut(scope) else { return };
        *progress = match (*progress, refused) {
            (Progress::Listed, _) => Progress::Listed,
            (Progress::Refused(since), true) => Progress::Refused(since),
            (Progress::Waiting, true) => Progress::Refused(now),
            (_, false) => Progress::Waiting,
        };
    }

    /// Whether there is no more to wait for: all was listed, or some of it, and the rest is refused for long. Where all is refused, what would
    /// begin would know nothing.
    pub(super) fn are_enough(&self, now: Instant) -> bool {
        let unlisted = self.unlisted_places();
        let refused = |place: &Option<String>| {
            let given_up = |progress: &Progress| matches!(progress, Progress::Refused(since) if now >= *since + self.patience);
            self.of.iter().any(|(scope, progress)| scope.namespace == *place && given_up(progress))
        };
        let some = self.of.keys().any(|scope| !unlisted.contains(&scope.namespace));
        some && unlisted.iter().all(refused)
    }

    /// When that may change by itself.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.of.values().filter_map(|progress| match progress {
            Progress::Refused(since) => Some(*since + self.patience),
            Progress::Waiting | Progress::Listed => None,
        });
        due.filter(|due| *due > now).min()
    }

    /// The namespaces of which something was never listed.
    pub(super) fn unlisted(&self) -> BTreeSet<String> {
        self.unlisted_places().into_iter().flatten().collect()
    }

    fn unlisted_places(&self) -> BTreeSet<Option<String>> {
        let waits = self.of.iter().filter(|(_, progress)| **progress != Progress::Listed);
        waits.map(|(scope, _)| scope.namespace.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::object::Kind;
    use super::*;

    fn scopes(namespaces: &[&str]) -> Vec<Scope> {
        let of =
            |kind| namespaces.iter().map(move |name| Scope { kind, namespace: Some((*name).to_owned()) });
        of(Kind::Revision).chain(of(Kind::Function)).collect()
    }

    #[test]
    fn one_namespace_that_refuses_is_given_up_when_others_are_known() {
        let (scopes, now) = (scopes(&["a", "b"]), Instant::now());
        let [a_revisions, b_revisions, a_functions, b_functions] = &scopes[..] else { panic!() };
        let mut lists = Lists::new(&scopes, PATIENCE);
        lists.failed(b_revisions, true, now);
        lists.listed(a_revisions);
        assert!(!lists.are_enough(now + PATIENCE), "of no namespace all is known");
        lists.listed(a_functions);
        lists.failed(b_revisions, true, now + PATIENCE / 2);
        assert_eq!(lists.due(now), Some(now + PATIENCE));
        assert!(!lists.are_enough(now + PATIENCE / 2));
        assert!(lists.are_enough(now + PATIENCE));
        assert_eq!(lists.unlisted(), ["b".to_owned()].into());
        // It is let in again, first to one kind.
        lists.listed(b_revisions);
        assert_eq!(lists.unlisted(), ["b".to_owned()].into());
        lists.listed(b_functions);
        assert!(lists.unlisted().is_empty() && lists.are_enough(now));
        // And what was known once goes on being known.
        lists.failed(b_functions, true, now);
        assert!(lists.unlisted().is_empty());
    }

    #[test]
    fn what_is_only_away_is_waited_for() {
        let (scopes, now) = (scopes(&["a", "b"]), Instant::now());
        let [a_revisions, b_revisions, a_functions, _] = &scopes[..] else { panic!() };
        let mut lists = Lists::new(&scopes, PATIENCE);
        lists.listed(a_revisions);
        lists.listed(a_functions);
        lists.failed(b_revisions, true, now);
        lists.failed(b_revisions, false, now + PATIENCE / 2);
        assert!(!lists.are_enough(now + PATIENCE), "an API server that fails says nothing");
        lists.failed(b_revisions, true, now + PATIENCE);
        assert!(!lists.are_enough(now + PATIENCE) && lists.are_enough(now + 2 * PATIENCE));
    }

    #[test]
    fn who_may_list_nothing_begins_with_nothing() {
        let now = Instant::now();
        for namespaces in [&["a", "b"][..], &["a"]] {
            let scopes = scopes(namespaces);
            let mut lists = Lists::new(&scopes, PATIENCE);
            scopes.iter().for_each(|scope| lists.failed(scope, true, now));
            assert!(!lists.are_enough(now + 10 * PATIENCE));
        }
        let everywhere = [Scope { kind: Kind::Function, namespace: None }];
        let mut lists = Lists::new(&everywhere, PATIENCE);
        lists.failed(&everywhere[0], true, now);
        assert!(!lists.are_enough(now + 10 * PATIENCE));
        lists.listed(&everywhere[0]);
        assert!(lists.are_enough(now) && lists.unlisted().is_empty());
    }
}
