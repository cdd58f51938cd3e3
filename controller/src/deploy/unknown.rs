//! Namespaces of which it is not known what they hold, and whose instances are therefore nobody's to take away: pure.

use std::collections::BTreeSet;

/// What was said last to be unknown.
#[derive(Debug)]
pub(super) struct Unknown {
    /// Instances there were left alone.
    left: BTreeSet<String>,
    /// What was not listed then.
    unlisted: BTreeSet<String>,
}

impl Unknown {
    /// With what cannot be listed at the beginning.
    pub(super) fn new(unlisted: BTreeSet<String>) -> Self {
        Self { left: unlisted.clone(), unlisted }
    }

    /// What is unknown now, if instances were left alone the last time. A namespace that was listed since then counts until the next time: its
    /// Functions have named theirs by then.
    pub(super) fn again(&mut self, unlisted: BTreeSet<String>) -> Option<BTreeSet<String>> {
        if self.left.is_empty() {
            return None;
        }
        self.left = self.unlisted.union(&unlisted).cloned().collect();
        self.unlisted = unlisted;
        Some(self.left.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_namespace_holds_is_judged_at_the_second_look_after_it_was_listed() {
        let of = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let mut unknown = Unknown::new(of(&["a", "b"]));
        assert_eq!(unknown.again(of(&["a", "b"])), Some(of(&["a", "b"])));
        assert_eq!(unknown.again(of(&["b"])), Some(of(&["a", "b"])));
        assert_eq!(unknown.again(of(&["b"])), Some(of(&["b"])));
        assert_eq!(unknown.again(of(&[])), Some(of(&["b"])));
        assert_eq!(unknown.again(of(&[])), Some(of(&[])));
        assert_eq!(unknown.again(of(&[])), None);
    }
}
