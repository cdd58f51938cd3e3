//! Leader election by a Lease (`coordination.k8s.io/v1`): of several controllers one works.
//!
//! The holder renews the Lease; whoever waits takes it once it was given back, or once nobody has renewed it for its duration, counted by
//! the waiting one's own clock from when it saw the last renewal (clocks of machines need not agree). A holder that cannot renew gives up
//! before others may take over (INV-19). Decisions are in `decide`, pure.
//!
//! The Lease also says where the leader is: gateways read [`HUB_ANNOTATION`] off it.

mod decide;
mod hold;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

pub use decide::{Lost, STRANGERS, Timing};
pub use hold::{Candidate, Error, Held};
pub(crate) use watch::Watch;

/// The Lease, in Hearth's own namespace.
pub const NAME: &str = "hearth-controller";

/// The label, with its value, of what Hearth makes beside Functions: whoever removes it finds by that what stays behind.
pub const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "hearth");

/// The annotation of the Lease with the address that gateways connect to: `10.0.0.7:7071`.
pub const HUB_ANNOTATION: &str = "hearth.dev/hub";

/// The annotation of the Lease with the fingerprint of the cluster key of whoever holds it, or held it last. A controller with another key is one
/// of another Hearth (or of this one, after its key was changed), and takes the Lease only when nobody of the first has come back for it.
pub const KEY_ANNOTATION: &str = "hearth.dev/key";

/// Who wants to lead. Two processes never have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The Pod, or what else is one at a time: a process that begins in the place of another knows by it that the other is no more.
    pub place: String,
    /// Which process of that place.
    pub run: String,
}

impl Identity {
    /// This process, at this place.
    ///
    /// # Panics
    /// When the kernel has no random bytes, which it has once it has booted.
    #[must_use]
    pub fn new(place: &str) -> Self {
        let mut random = [0; 4];
        getrandom::fill(&mut random).expect("the kernel gives random bytes once it has booted");
        Self { place: place.to_owned(), run: format!("{:08x}", u32::from_ne_bytes(random)) }
    }

    /// As it stands in `spec.holderIdentity`.
    #[must_use]
    pub fn holder(&self) -> String {
        format!("{}_{}", self.place, self.run)
    }

    /// Whether this holder was an earlier process at this place.
    fn is_predecessor(&self, holder: &str) -> bool {
        holder.rsplit_once('_').is_some_and(|(place, run)| place == self.place && run != self.run)
    }
}

/// How long a Lease is good for without a renewal. What waits for a new leader waits so long after the old one was killed, and one that ends
/// in good order gives it back.
pub const DURATION: Duration = Duration::from_secs(10);
