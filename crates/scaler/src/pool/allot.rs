//! How the memory for pools is shared out among runtime classes.
//!
//! Every class gets its first instance before any gets a second one for which nothing speaks but `least`: first those that starts were
//! wanted of lately. Then these get what they want, one each in turn; last the others. What is there already goes before what would have to
//! be made, so that nothing is put out to make its like.

/// What a class asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Instances that would be useful.
    pub(super) count: u32,
    /// Whether starts were wanted of it lately.
    pub(super) is_asked_for: bool,
    /// Memory of one, in bytes.
    pub(super) size: u64,
    /// Instances there are.
    pub(super) present: u32,
}

/// How much more than the budget may be held by what is there: a measurement that comes out a little higher puts nothing out.
const TOLERANCE: u64 = 8;

/// How many each class gets of `memory` bytes.
pub(super) fn allot(memory: u64, wanted: &[Wanted]) -> Vec<u32> {
    let mut sharing = Sharing { memory, used: 0, is_short: false, wanted, given: vec![0; wanted.len()] };
    let asked_for = |index: &usize| wanted.get(*index).is_some_and(|one| one.is_asked_for);
    let (mut asked_for, mut quiet): (Vec<usize>, Vec<usize>) = (0..wanted.len()).partition(asked_for);
    sharing.round(&mut asked_for);
    sharing.round(&mut quiet);
    for group in [&mut asked_for, &mut quiet] {
        while !group.is_empty() {
            sharing.round(group);
        }
    }
    sharing.given
}

struct Sharing<'a> {
    memory: u64,
    used: u64,
    /// Whether somebody did not get what he asked for.
    is_short: bool,
    wanted: &'a [Wanted],
    given: Vec<u32>,
}

impl Sharing<'_> {
    /// One more for each of a group; who wants no more, or gets none, leaves it.
    fn round(&mut self, group: &mut Vec<usize>) {
        let has_it = |index: usize| {
            let given = self.given.get(index).copied().unwrap_or(0);
            self.wanted.get(index).is_some_and(|one| given < one.present)
        };
        group.sort_by_key(|&index| (!has_it(index), index));
        group.retain(|&index| {
            let (Some(one), Some(given)) = (self.wanted.get(index), self.given.get_mut(index)) else {
                return false;
            };
            if *given >= one.count {
                return false;
            }
            let kept = *given < one.present && !self.is_short;
            let limit = if kept { self.memory.saturating_add(self.memory / TOLERANCE) } else { self.memory };
            let sum = self.used.saturating_add(one.size);
            if sum > limit {
                self.is_short = true;
                return false;
            }
            self.used = sum;
            *given += 1;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POD: u64 = 128 << 20;

    fn quiet(present: u32) -> Wanted {
        Wanted { count: 2, is_asked_for: false, size: POD, present }
    }

    fn asked_for(count: u32, present: u32) -> Wanted {
        Wanted { count, is_asked_for: true, size: POD, present }
    }

    #[test]
    fn no_class_is_left_without_one_for_the_second_of_another() {
        let table = [
            // What was there first does not keep the others out.
            (4, vec![quiet(2), quiet(2), quiet(0), quiet(0)], vec![1, 1, 1, 1]),
            (5, vec![quiet(2), quiet(2), quiet(0)], vec![2, 2, 1]),
            // Who has one keeps it; who is asked for comes first all the same.
            (2, vec![quiet(0), quiet(1), quiet(1)], vec![0, 1, 1]),
            (2, vec![quiet(1), quiet(1), asked_for(2, 0)], vec![1, 0, 1]),
            // Demand before what is kept without.
            (8, vec![quiet(2), asked_for(16, 1), asked_for(3, 0)], vec![1, 4, 3]),
            (30, vec![quiet(2), asked_for(16, 1), asked_for(3, 0)], vec![2, 16, 3]),
            (0, vec![quiet(2)], vec![0]),
        ];
        for (pods, wanted, expected) in table {
            assert_eq!(allot(pods * POD, &wanted), expected, "{pods}: {wanted:?}");
        }
    }

    #[test]
    fn a_higher_measurement_puts_nothing_out_that_nobody_lacks() {
        let bytes = |size| Wanted { size, ..asked_for(20, 10) };
        assert_eq!(allot(1000, &[bytes(100)]), [10]);
        assert_eq!(allot(1000, &[bytes(112)]), [10]);
        assert_eq!(allot(1000, &[bytes(113)]), [9]);
        // A class that has none does not get it for that; nor does the first keep it then.
        assert_eq!(allot(1000, &[bytes(112), Wanted { size: 900, ..quiet(0) }]), [8, 0]);
    }

    proptest! {
        #[test]
        fn of_equal_ones_nobody_has_two_while_another_lacks_one(
            pods in 0u64..40, classes in prop::collection::vec((1u32..20, any::<bool>(), 0u32..20), 1..12),
        ) {
            let wanted: Vec<Wanted> = classes
                .into_iter()
                .map(|(count, is_asked_for, present)| Wanted { count, is_asked_for, size: POD, present })
                .collect();
            let given = allot(pods * POD, &wanted);
            if given.contains(&0) {
                prop_assert!(given.iter().all(|given| *given < 2), "{:?}", given);
            }
            // Nothing lies idle that somebody wants.
            let sum: u64 = given.iter().copied().map(u64::from).sum();
            if given.iter().zip(&wanted).any(|(given, one)| *given < one.count) {
                prop_assert!(sum >= pods, "{:?}", given);
            }
        }

        /// What was decided is decided again when it is there.
        #[test]
        fn it_comes_to_rest(
            memory in 0u64..4000,
            classes in prop::collection::vec((0u32..20, any::<bool>(), 1u64..300, 0u32..20), 1..12),
        ) {
            let mut wanted: Vec<Wanted> = classes
                .into_iter()
                .map(|(count, is_asked_for, size, present)| Wanted { count, is_asked_for, size, present })
                .collect();
            let mut before = Vec::new();
            for _ in 0..3 {
                before = allot(memory, &wanted);
                wanted.iter_mut().zip(&before).for_each(|(one, given)| one.present = *given);
            }
            prop_assert_eq!(allot(memory, &wanted), before);
        }
    }
}
