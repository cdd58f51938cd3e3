//! How many instances a Revision should have, when a failed start is tried again, and which instances go first.
//!
//! Everything here is a function of (policy, observation, time): no I/O, no clock, no randomness. The same code runs in production, in
//! unit tests and in the simulator. Time comes in as an argument.
//!
//! ```text
//!  gateway's reports ──► Tracker (window of what happened) ──► Observation ──┐
//!  pool's counts (ready, starting) ─────────────────────────────────────────┼─► decide ──► Decision { desired, reason }
//!  Function's scale, concurrency, processModel ─────────► Policy ────────────┘
//! ```
//!
//! [`decide()`] is the rule itself and keeps nothing. [`Tracker`] is the little that has to be remembered between decisions, one for each
//! Revision. [`Backoff`] says when a start may be tried after one failed, [`choose`] which instances a scale-in puts out.
//!
//! ## The rule
//! * **From zero** on the first waiting request.
//! * **Out** when slots run short. The ceiling is what could run at once: `ceil((in flight + waiting) / limit)`. Below it, a further instance
//!   is started only if calls would still wait for it when it is up: those ahead of it finish calls meanwhile ([`backlog`]). A backlog that
//!   outlives twice the time it was expected to take is a load and no burst, and then the ceiling holds.
//! * **Out**, too, when the average over the window is above the target utilisation, so that there is room before anyone waits; and for a
//!   whole window after the need has doubled at once, when the average over a tenth of it is (Knative's stable and panic window).
//! * **In** to the highest need of the last window, at most by half in two seconds, so that a dip does not cost a cold start and the end of a
//!   panic undoes nothing.
//! * **To the minimum** after a time without traffic that is learned from the function's own times between calls ([`keepalive`]), or after
//!   the idle timeout; and **ahead of a call** that those times predict, one instance again.
//! * **Ephemeral**: an instance for each call that runs or waits.
//!
//! Beside the rule: how large a pool of a runtime class should be ([`pool`]), which warmth goes first when memory is short ([`evict`]), and
//! what all this would have done with a trace ([`simulate`]).

pub mod backlog;
mod backoff;
mod choice;
mod decide;
pub mod evict;
pub mod keepalive;
mod need;
mod peak;
mod policy;
pub mod pool;
mod reason;
pub mod simulate;
mod tracker;
mod window;

pub use backoff::{AfterFailure, Allowance, Backoff, BackoffPolicy, Fault};
pub use choice::{Candidate, Occupation, choose};
pub use decide::{Decision, Observation, Reach, decide};
pub use policy::{Policy, PolicyError};
pub use reason::{Bound, Reason, span};
pub use tracker::{Counts, Load, Tracker};
pub use window::Average;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests;
