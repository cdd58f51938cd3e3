//! Functions that another Hearth of the same cluster has claimed: not in the store, so that nobody here runs, writes or routes to them
//! (INV-21).

use std::sync::{Arc, PoisonError, Weak};

use hearth_function::{FunctionId, INSTALLATION_ANNOTATION};
use kube::api::ObjectMeta;
use tokio::sync::watch;

use super::Memory;

/// Which Hearth has claimed the Function with this metadata: a namespace. What cannot be the name of one claims nothing; whoever may write the
/// Function may write anything there.
pub(super) fn claimant(metadata: &ObjectMeta) -> Option<&str> {
    let annotations = metadata.annotations.as_ref()?;
    annotations.get(INSTALLATION_ANNOTATION).map(String::as_str).filter(|claimant| is_namespace(claimant))
}

/// A label of the DNS (RFC 1123).
fn is_namespace(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let (first, last) = (name.as_bytes().first(), name.as_bytes().last());
    name.len() <= 63
        && name.bytes().all(inner)
        && first.is_some()
        && first != Some(&b'-')
        && last != Some(&b'-')
}

/// A Function that another Hearth has claimed.
#[derive(Debug, Clone, PartialEq)]
pub struct Taken {
    /// Which.
    pub function: FunctionId,
    /// Its metadata, as far as it takes to write to it and of it: name, namespace, uid and version.
    pub metadata: ObjectMeta,
    /// The other Hearth, by its namespace.
    pub claimant: String,
}

/// All of them.
#[derive(Debug)]
pub struct Elsewhere {
    memory: Weak<Memory>,
    changes: watch::Receiver<u64>,
}

impl Elsewhere {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { memory: Arc::downgrade(memory), changes: memory.taken.subscribe() }
    }

    /// Waits until one more is claimed elsewhere, or one less; for ever once the store is closed.
    ///
    /// # Cancel safety
    /// No change is missed.
    pub async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Those of now, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Taken> {
        let Some(memory) = self.memory.upgrade() else { return Vec::new() };
        memory.book.lock().unwrap_or_else(PoisonError::into_inner).elsewhere().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_name_of_a_namespace_is_a_claim() {
        let claimed = |by: &str| {
            let annotations = [(INSTALLATION_ANNOTATION.to_owned(), by.to_owned())];
            let metadata = ObjectMeta { annotations: Some(annotations.into()), ..ObjectMeta::default() };
            claimant(&metadata).map(str::to_owned)
        };
        for name in ["hearth", "a-1", "0"] {
            assert_eq!(claimed(name).as_deref(), Some(name));
        }
        for name in ["", "-a", "a-", "../../nodes", "a/b", "A", "a?x=1", &"a".repeat(64)] {
            assert_eq!(claimed(name), None, "{name}");
        }
        assert_eq!(claimant(&ObjectMeta::default()), None);
    }
}
