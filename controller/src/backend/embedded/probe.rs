//! What this machine can and cannot do, for `hearth doctor`.

use crate::backend::Capability;

/// What this machine can and cannot do for the embedded backend, found out without opening one.
pub async fn probe() -> Vec<Capability> {
    Vec::new()
}
