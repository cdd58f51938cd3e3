//! Uploaded bundles, kept in ConfigMaps of Hearth's namespace: the disk of the next leader may be another one. Small ones only; the API server's
//! database is no file server.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use hearth_function::Digest;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};

use crate::backend::kubernetes::request::{asked, repeated};
use crate::deploy;
use crate::lease::MADE_BY;
use crate::telemetry::chain;

/// On each part: the bundle's digest, as much of it as a label takes.
const BUNDLE: &str = "hearth.dev/bundle";

/// On each part: how many there are.
const PARTS: &str = "hearth.dev/parts";

/// The entry of a part.
const ENTRY: &str = "bundle";

/// Bytes of a part. A ConfigMap holds a megabyte, in Base64 too.
const PART: usize = 700 << 10;

/// Where they are.
pub(in crate::serve) struct Depot {
    maps: Api<ConfigMap>,
    largest_bytes: u64,
    /// What was too large, so that it is not asked for again; forgotten when nobody names it.
    too_large: Mutex<HashSet<Digest>>,
}

impl std::fmt::Debug for Depot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Depot").field("largest_bytes", &self.largest_bytes).finish_non_exhaustive()
    }
}

impl Depot {
    pub(super) fn new(client: Client, namespace: &str, largest_bytes: u64) -> Self {
        Self { maps: Api::namespaced(client, namespace), largest_bytes, too_large: Mutex::default() }
    }

    /// Whether a bundle that is on this disk should be uploaded once more to be kept here too: what was made of code that stood in a
    /// Function is on the disk only. When that cannot be found out, it need not.
    pub(in crate::serve) async fn wants(&self, digest: &Digest) -> bool {
        if self.knows_too_large(|known| known.contains(digest)) {
            return false;
        }
        let parameters = ListParams::default().labels(&format!("{BUNDLE}={}", label(digest)));
        match repeated(|| self.maps.list_metadata(&parameters)).await {
            Ok(listed) => !all_there(listed.items.iter().map(|part| &part.metadata)),
            Err(error) => {
                tracing::debug!(%digest, error = chain(&error), "cannot look for a bundle in the cluster");
                false
            }
        }
    }

    fn knows_too_large<T>(&self, what: impl FnOnce(&mut HashSet<Digest>) -> T) -> T {
        what(&mut self.too_large.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Keeps the packed bundle in `file`. That it cannot be kept is said in the log, and is no failure of the upload: it is here.
    pub(in crate::serve) async fn store(&self, digest: &Digest, file: &Path) {
        match self.stored(digest, file).await {
            Ok(true) => {}
            Ok(false) => {
                self.knows_too_large(|known| known.insert(digest.clone()));
                tracing::info!(%digest, "a bundle is too large to be kept beside the data directory")
            }
            Err(error) => tracing::warn!(%digest, error, "a bundle is kept in the data directory only"),
        }
    }

    async fn stored(&self, digest: &Digest, file: &Path) -> Result<bool, String> {
        let length = tokio::fs::metadata(file).await.map_err(|error| error.to_string())?.len();
        if length > self.largest_bytes {
            return Ok(false);
        }
        let packed = tokio::fs::read(file).await.map_err(|error| error.to_string())?;
        // Of one that was on the disk before, nobody has read what came.
        if Digest::of(&packed) != *digest {
            return Err("what was uploaded has another digest".to_owned());
        }
        for part in parts(digest, &packed) {
            let how = PostParams::default();
            match repeated(|| self.maps.create(&how, &part)).await {
                Ok(_) => {}
                // Of an upload that was cut off, or a second one at the same time: the content is the same.
                Err(kube::Error::Api(status)) if status.is_already_exists() => {}
                Err(error) => return Err(chain(&error)),
            }
        }
        Ok(true)
    }

    async fn list(&self, selector: &str) -> Result<Vec<ConfigMap>, String> {
        let parameters = ListParams::default().labels(selector);
        let listed = repeated(|| self.maps.list(&parameters)).await;
        listed.map(|listed| listed.items).map_err(|error| chain(&error))
    }
}

#[async_trait]
impl deploy::Depot for Depot {
    async fn fetch(&self, digest: &Digest) -> Result<Option<Vec<u8>>, String> {
        let found = self.list(&format!("{BUNDLE}={}", label(digest))).await?;
        Ok(joined(found))
    }

    async fn retain(&self, live: &HashSet<Digest>, age: Duration) {
        let parameters = ListParams::default().labels(BUNDLE);
        let listed = match repeated(|| self.maps.list_metadata(&parameters)).await {
            Ok(listed) => listed.items,
            Err(error) => {
                return tracing::warn!(error = chain(&error), "bundles of the cluster are not cleaned up");
            }
        };
        self.knows_too_large(|known| known.retain(|digest| live.contains(digest)));
        let live: HashSet<String> = live.iter().map(label).collect();
        let now = Timestamp::now();
        for metadata in listed.into_iter().map(|part| part.metadata) {
            if !is_old(&metadata, &live, age, now) {
                continue;
            }
            let name = metadata.name.unwrap_or_default();
            if let Err(error) = asked(self.maps.delete(&name, &DeleteParams::default())).await {
                tracing::warn!(name, error = chain(&error), "a bundle of the cluster stays");
            }
        }
    }
}

/// A digest as a label: 63 characters are more than enough to tell one from all others; what is fetched is verified.
fn label(digest: &Digest) -> String {
    digest.hex().chars().take(63).collect()
}

fn parts(digest: &Digest, packed: &[u8]) -> Vec<ConfigMap> {
    let chunks: Vec<&[u8]> = packed.chunks(PART).collect();
    let count = chunks.len().to_string();
    let part = |(number, chunk): (usize, &&[u8])| ConfigMap {
        metadata: ObjectMeta {
            name: Some(format!(
                "hearth-bundle-{}-{number}",
                label(digest).chars().take(40).collect::<String>()
            )),
            labels: Some(BTreeMap::from([
                (BUNDLE.to_owned(), label(digest)),
                (MADE_BY.0.to_owned(), MADE_BY.1.to_owned()),
            ])),
            annotations: Some(BTreeMap::from([(PARTS.to_owned(), count.clone())])),
            ..ObjectMeta::default()
        },
        binary_data: Some(BTreeMap::from([(ENTRY.to_owned(), ByteString(chunk.to_vec()))])),
        immutable: Some(true),
        ..ConfigMap::default()
    };
    chunks.iter().enumerate().map(part).collect()
}

/// Whether these are all parts of one bundle.
fn all_there<'a>(parts: impl ExactSizeIterator<Item = &'a ObjectMeta>) -> bool {
    let there = parts.len();
    let counts = |part: &ObjectMeta| part.annotations.as_ref()?.get(PARTS)?.parse::<usize>().ok();
    there > 0 && { parts }.all(|part| counts(part) == Some(there))
}

/// The bundle, if all of its parts are there.
fn joined(found: Vec<ConfigMap>) -> Option<Vec<u8>> {
    let mut parts: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut count = None;
    for ConfigMap { metadata, binary_data, .. } in found {
        count = metadata.annotations.as_ref()?.get(PARTS)?.parse::<usize>().ok();
        let number = metadata.name.as_ref()?.rsplit_once('-')?.1.parse().ok()?;
        parts.insert(number, binary_data?.remove(ENTRY)?.0);
    }
    (Some(parts.len()) == count).then(|| parts.into_values().flatten().collect())
}

fn is_old(metadata: &ObjectMeta, live: &HashSet<String>, age: Duration, now: Timestamp) -> bool {
    let of = metadata.labels.as_ref().and_then(|labels| labels.get(BUNDLE));
    let made = metadata.creation_timestamp.as_ref().map(|time| time.0);
    let lived = made.and_then(|made| Duration::try_from(now.duration_since(made)).ok());
    of.is_some_and(|of| !live.contains(of)) && lived.is_some_and(|lived| lived > age)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    #[test]
    fn parts_make_the_bundle_again_unless_one_is_missing() {
        let packed: Vec<u8> = (0..PART * 2 + 5).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let digest = Digest::of(&packed);
        let mut parts = parts(&digest, &packed);
        assert_eq!(parts.len(), 3);
        // By it they are found when Hearth is gone.
        let by_us = |part: &ConfigMap| part.metadata.labels.as_ref()?.get(MADE_BY.0).cloned();
        assert!(parts.iter().all(|part| by_us(part).as_deref() == Some(MADE_BY.1)));
        parts.reverse();
        let whole = |parts: &[ConfigMap]| all_there(parts.iter().map(|part| &part.metadata));
        assert!(whole(&parts));
        assert_eq!(joined(parts.clone()), Some(packed));
        parts.pop();
        assert!(!whole(&parts) && !whole(&[]));
        assert_eq!(joined(parts), None);
        assert_eq!(joined(Vec::new()), None);
    }

    #[test]
    fn what_nobody_names_goes_when_it_is_old() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let digest = Digest::of(b"x");
        let mut metadata = parts(&digest, b"x").remove(0).metadata;
        metadata.creation_timestamp = Some(Time(at(100)));
        let age = Duration::from_secs(60);
        let nobody = HashSet::new();
        assert!(!is_old(&metadata, &nobody, age, at(150)));
        assert!(is_old(&metadata, &nobody, age, at(161)));
        assert!(!is_old(&metadata, &HashSet::from([label(&digest)]), age, at(161)));
    }
}
