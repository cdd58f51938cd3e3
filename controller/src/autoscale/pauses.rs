//! The pauses before what has failed is tried again by itself. Pure.

use std::time::Duration;

use hearth_dispatch::StartCode;

/// From the first failure of code that did not come up to the next attempt; each pause is twice the one before, up to the longest. An attempt is
/// the start of an instance, and whoever has mended something need not wait: `hearth apply` tries at once.
pub(crate) const FIRST: Duration = Duration::from_secs(60);
pub(crate) const LONGEST: Duration = Duration::from_secs(3600);

/// The same where the instance could not be made at all: a quota, a Secret, a node or an image is missing. Its code has no part in it, and
/// whoever mends that may not even know of the Function.
pub(crate) const FIRST_UNMADE: Duration = Duration::from_secs(5);

/// The pause after so many failed starts and one more; where the instance could not be made, none is longer than `longest_unmade`.
pub(crate) fn after_start(code: Option<StartCode>, longest_unmade: Duration, failures: u32) -> Duration {
    match code {
        Some(StartCode::StartFailed | StartCode::ImageMissing) => {
            pause(FIRST_UNMADE, longest_unmade, failures)
        }
        _ => pause(FIRST, LONGEST, failures),
    }
}

/// The pause after so many failures and one more: each is twice the one before, and none longer than `longest`.
pub(crate) fn pause(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(longest)
}
