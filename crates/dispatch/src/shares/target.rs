//! How many slots of a Revision each gateway should have.

/// A gateway, as it is dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    /// Calls that run and requests that wait.
    pub(super) demand: u32,
    /// Slots that it has.
    pub(super) held: u32,
    /// It has waited without a single slot for so long that it is its turn.
    pub(super) starved: bool,
}

/// What each should have, in the order of `claims`; in sum `capacity`, if there is anybody.
///
/// First demands, by equal shares: nobody gets more than he asks for while another has less than he. Then what nobody asked for, in
/// equal parts, so that the next request finds a slot wherever it comes. A slot that cannot be divided stays where it is, unless a
/// gateway would starve.
///
/// Example: 10 slots, demands 1, 9 and 6. Equal shares are 3; the first needs 1, which leaves 9 for two: 5 and 4.
pub(super) fn targets(capacity: u32, claims: &[Claim]) -> Vec<u32> {
    let mut targets = vec![0; claims.len()];
    let mut left = capacity;
    while left > 0 {
        let open = |(at, claim): (usize, &Claim)| (claim.demand > targets[at]).then_some(at);
        let asking: Vec<usize> = claims.iter().enumerate().filter_map(open).collect();
        let Some(each) = left.checked_div(count(asking.len())) else { break };
        if each == 0 {
            one_more(left, asking, claims, &mut targets);
            return targets;
        }
        for at in asking {
            let more = each.min(claims[at].demand - targets[at]);
            targets[at] += more;
            left -= more;
        }
    }
    if let Some(each) = left.checked_div(count(claims.len())) {
        targets.iter_mut().for_each(|target| *target += each);
        let rest = left - each * count(claims.len());
        one_more(rest, (0..claims.len()).collect(), claims, &mut targets);
    }
    targets
}

/// One slot each to the first `left` of `to`, who come first that starve, then those that have it already.
fn one_more(left: u32, mut to: Vec<usize>, claims: &[Claim], targets: &mut [u32]) {
    to.sort_by_key(|&at| (!claims[at].starved, claims[at].held <= targets[at], at));
    for at in to.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        targets[at] += 1;
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(demand: u32, held: u32) -> Claim {
        Claim { demand, held, starved: false }
    }

    #[test]
    fn demands_come_first_and_what_is_left_is_divided() {
        let of = |capacity, demands: &[u32]| {
            let claims: Vec<Claim> = demands.iter().map(|demand| claim(*demand, 0)).collect();
            targets(capacity, &claims)
        };
        assert_eq!(of(10, &[1, 9, 6]), [1, 5, 4]);
        assert_eq!(of(10, &[0, 0]), [5, 5]);
        assert_eq!(of(10, &[6, 1]), [8, 2], "3 are left: 2 and 1");
        assert_eq!(of(10, &[20, 0]), [10, 0]);
        assert_eq!(of(0, &[3, 1]), [0, 0]);
        assert_eq!(of(5, &[]), [0; 0]);
    }

    #[test]
    fn what_cannot_be_divided_stays_until_somebody_starves() {
        assert_eq!(targets(1, &[claim(3, 0), claim(3, 1)]), [0, 1]);
        assert_eq!(targets(3, &[claim(0, 1), claim(0, 2)]), [1, 2]);
        assert_eq!(targets(1, &[Claim { starved: true, ..claim(3, 0) }, claim(3, 1)]), [1, 0]);
    }

    proptest! {
        #[test]
        fn nothing_is_left_over_and_nobody_goes_short_for_another(
            capacity in 0u32..60,
            claims in prop::collection::vec((0u32..20, 0u32..20, any::<bool>()), 1..6),
        ) {
            let claims: Vec<Claim> =
                claims.into_iter().map(|(demand, held, starved)| Claim { demand, held, starved }).collect();
            let targets = targets(capacity, &claims);
            prop_assert_eq!(targets.iter().sum::<u32>(), capacity);
            for (claim, target) in claims.iter().zip(&targets) {
                if *target < claim.demand {
                    prop_assert!(targets.iter().all(|other| *other <= target + 1), "{:?} of {:?}", targets, claims);
                }
            }
        }
    }
}
