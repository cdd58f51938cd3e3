//! The routing table as the controller needs it: on paper. Gateways make their own from the same Functions; here it tells which routes were
//! lost to older Functions.

use hearth_dispatch::routes::{Claimant, Conflict, Table};

use crate::deploy;
use crate::gateway::{Served, Unready};

/// Routes that lead nowhere.
#[derive(Debug)]
pub(super) struct OnPaper;

impl deploy::Gateway for OnPaper {
    fn serve(&self, functions: Vec<Served>, unready: Vec<Unready>) -> Vec<Conflict> {
        let served = functions.into_iter().map(|served| Claimant {
            function: served.function,
            created: served.created,
            target: (),
            claims: served.claims,
        });
        let unready = unready.into_iter().map(|unready| Claimant {
            function: unready.function,
            created: unready.created,
            target: (),
            claims: unready.claims,
        });
        Table::build(served.chain(unready).collect()).1
    }
}
