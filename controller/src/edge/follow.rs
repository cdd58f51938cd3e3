//! The gateway's table, kept as the objects are.

use std::collections::BTreeSet;
use std::time::Duration;

use hearth_function::{Function, Revision};
use tokio::sync::{oneshot, watch};

use crate::deploy;
use crate::gateway;
use crate::store::Store;

/// Changes come in bursts (a status is written often): the table is made anew at once, and then not for so long.
const PACE: Duration = Duration::from_millis(50);

/// Gives the table to the gateway whenever it has changed, once everything was listed, and which namespaces were not (`unlisted`); for ever. `ready` is
/// told when it was given first.
pub(super) async fn follow(
    store: &Store,
    listed: oneshot::Receiver<()>,
    mut unlisted: watch::Receiver<BTreeSet<String>>,
    gateway: &gateway::Handle,
    ready: &watch::Sender<bool>,
) {
    if listed.await.is_err() {
        return;
    }
    let mut changes = store.changes();
    let mut before = None;
    loop {
        changes.borrow_and_update();
        // Before the table, and told after it: of a namespace that is known now the routes are there first.
        let unread = unlisted.borrow_and_update().clone();
        let (functions, revisions) = (store.list::<Function>(None).items, store.list::<Revision>(None).items);
        let table = deploy::table(&functions, &revisions);
        if before.as_ref() != Some(&table) {
            // The controller says in a condition which routes were lost.
            let _conflicts = gateway.serve_all(table.0.clone(), table.1.clone());
            let (serving, unready) = (table.0.len(), table.1.len());
            tracing::debug!(serving, unready, "routes changed");
            before = Some(table);
        }
        gateway.unread(unread);
        ready.send_if_modified(|ready| !std::mem::replace(ready, true));
        let changed = tokio::select! {
            changed = changes.changed() => changed,
            changed = unlisted.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        tokio::time::sleep(PACE).await;
    }
}
