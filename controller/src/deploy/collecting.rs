//! Bundles, images and dependencies that nobody names are removed, beside everything else.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hearth_function::{Code, Digest, Function, Revision};

use super::parts::Sources;
use super::{Keeping, Shared};
use crate::store::Store;
use crate::telemetry::chain;

/// What was asked for so lately is not removed for room: a Function that names it may be about to come.
const GRACE: Duration = Duration::from_secs(600);

/// What of it a Function or a Revision names.
#[derive(Debug, Default)]
struct Live {
    bundles: HashSet<Digest>,
    images: HashSet<Digest>,
    /// Of dependencies.
    keys: HashSet<String>,
}

impl Live {
    /// As of now.
    fn of(store: &Store) -> Self {
        let mut live = Self::default();
        for revision in store.list::<Revision>(None).items {
            match revision.spec.template.code() {
                Some(Code::Bundle(bundle)) => _ = live.bundles.insert(bundle),
                Some(Code::Image(image)) => _ = live.images.insert(image.digest),
                None => {}
            }
            live.keys.extend(revision.status.as_ref().and_then(|status| status.dependencies.clone()));
        }
        for function in store.list::<Function>(None).items {
            let source = &function.spec.source;
            live.bundles.extend(source.bundle.clone());
            live.images.extend(source.image.as_ref().and_then(|image| image.parse::<Digest>().ok()));
        }
        live
    }
}

/// Removes what no Function and no Revision names. To be called now and then; once at a time.
pub(super) async fn collect(shared: Arc<Shared>) {
    let parts = &shared.parts;
    // What is known of the objects only grows meanwhile.
    let unlisted = parts.store.unlisted();
    if !unlisted.is_empty() {
        tracing::debug!(namespaces = ?unlisted, "nothing is cleaned up: Functions that are not known may use it");
        return;
    }
    let live = Live::of(&parts.store);
    let (sources, keeping) = (parts.sources.clone(), shared.config.keeping);
    if let Some(depot) = &sources.depot {
        depot.retain(&live.bundles, keeping.age).await;
    }
    let work = move || sources.collect(&live, &keeping, SystemTime::now());
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok((removed, bytes))) => {
            if removed > 0 {
                tracing::info!(removed, "bundles, images and dependencies that nobody uses are removed");
            }
            shared.stats.removed.inc_by(removed as u64);
            for (gauge, bytes) in shared.stats.bytes.iter().zip(bytes) {
                gauge.set(i64::try_from(bytes).unwrap_or(i64::MAX));
            }
        }
        Ok(Err(error)) => tracing::warn!(error, "bundles and dependencies are not cleaned up"),
        Err(error) => tracing::error!(%error, "cleaning up bundles and dependencies panicked"),
    }
}

impl Sources {
    /// Removes what nobody names: what nobody has asked for in the last `keep`, and what there is no room for. How much went, and the bytes
    /// that each store has then. Blocks.
    fn collect(&self, live: &Live, limits: &Keeping, now: SystemTime) -> Result<(usize, [u64; 3]), String> {
        let Keeping { age, unused_bytes } = *limits;
        let said = |error: &dyn std::error::Error| chain(error);
        let mut removed = self.bundles.collect(&live.bundles, age, now).map_err(|error| said(&error))?.len();
        let shrunk = self.bundles.shrink(&live.bundles, unused_bytes, GRACE, now);
        removed += shrunk.map_err(|error| said(&error))?;
        self.fetcher.forget().map_err(|error| said(&error))?;
        let installed = self.dependencies.list().map_err(|error| said(&error))?;
        let keys = installed.into_iter().filter(|key| live.keys.contains(key.as_str())).collect();
        removed += self.dependencies.collect(&keys, age, now).map_err(|error| said(&error))?.len();
        let shrunk = self.dependencies.shrink(&keys, unused_bytes, GRACE, now);
        removed += shrunk.map_err(|error| said(&error))?;
        let unpacked = self.images.collect(&live.images, age, unused_bytes, now);
        removed += unpacked.map_err(|error| said(&error))?;
        let bytes = [
            self.bundles.bytes().map_err(|error| said(&error))?,
            self.dependencies.bytes().map_err(|error| said(&error))?,
            self.images.bytes().map_err(|error| said(&error))?,
        ];
        Ok((removed, bytes))
    }
}
