//! Gives memory back that nobody needs any more.
//!
//! The allocator keeps what was freed, in an arena for each few threads. Deployments are what frees much: packing, parsing and planning a
//! thousand functions left ten to twenty megabytes of it. So when the store has come to rest after a change, what is whole pages is handed
//! back to the kernel. That takes a few milliseconds and happens at no time of a request's own.

use std::time::Duration;

use hearth_function::Function;

use crate::store::{self, Store, Watch};

/// So long nothing must have changed: the next step of a deployment follows the last one at once.
const QUIET: Duration = Duration::from_secs(2);

/// Until the store is closed.
pub(super) async fn run(store: Store) {
    let mut changes = Changes::new(store);
    while changes.next().await {
        loop {
            match tokio::time::timeout(QUIET, changes.next()).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(_) => break,
            }
        }
        give_back();
    }
}

/// Anything that happens to a Function.
struct Changes {
    store: Store,
    watch: Option<Watch<Function>>,
}

impl Changes {
    fn new(store: Store) -> Self {
        Self { store, watch: None }
    }

    /// Waits for the next; `false` when the store was closed. Cancel-safe.
    async fn next(&mut self) -> bool {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => match self.store.watch(self.store.resource_version()) {
                Ok(watch) => none.insert(watch),
                Err(_) => return false,
            },
        };
        match watch.next().await {
            Ok(_) => true,
            // It has fallen behind, which is to say that much has happened.
            Err(store::Error::Expired { .. }) => {
                self.watch = None;
                true
            }
            Err(_) => false,
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a call of the C library that no safe crate offers")]
fn give_back() {
    // SAFETY: it takes a number, and is safe to be called by several threads.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries give back by themselves.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str) -> Function {
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn it_hears_of_changes_and_ends_with_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let config = store::Config { history: 2, ..store::Config::new(directory.path().join("hearth.redb")) };
        let store = Store::open(config).await.unwrap();
        let mut changes = Changes::new(store.clone());
        let waiting = tokio::time::timeout(Duration::ZERO, changes.next()).await;
        assert!(waiting.is_err(), "nothing has happened");
        for name in ["a", "b", "c", "d"] {
            store.create(function(name), jiff::Timestamp::now()).await.unwrap();
        }
        // The history does not reach back to where it was: it goes on from here.
        assert!(changes.next().await);
        assert!(tokio::time::timeout(Duration::ZERO, changes.next()).await.is_err());
        store.create(function("e"), jiff::Timestamp::now()).await.unwrap();
        assert!(changes.next().await);
        store.close().await;
        assert!(!changes.next().await);
    }
}
