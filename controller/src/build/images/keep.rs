//! What is kept: which images are here, and what goes when nobody needs it.

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, SystemTime};

use hearth_function::Digest;
use serde::{Deserialize, Serialize};

use super::files::read_json;
use super::{Error, Images, Stored};
use crate::build::shelf::At as _;

/// What was asked for so lately is not removed for room: somebody may be about to use it.
const GRACE: Duration = Duration::from_secs(600);

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// The digest of its manifest.
    pub digest: Digest,
    /// Bytes of its layers, unpacked.
    pub bytes: u64,
    /// How many layers it has.
    pub layers: usize,
    /// What it runs.
    pub command: Vec<String>,
}

impl Images {
    /// Every image that is here.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        let digests = self.inner.roots.list()?;
        let digests = digests.iter().filter_map(|name| format!("sha256:{name}").parse::<Digest>().ok());
        let listed = digests.filter_map(|digest| {
            let stored: Stored = read_json(&self.inner.roots.path(digest.hex())?.join("image.json")).ok()?;
            Some(Listed {
                digest,
                bytes: stored.bytes,
                layers: stored.layers.len(),
                command: stored.settings.command,
            })
        });
        Ok(listed.collect())
    }

    /// Removes the images that are not in `live` and that nobody has asked for in the last `keep`, then the layers of no image, those first
    /// that nobody has asked for the longest, down to `most` bytes, and blobs that nobody made an image of. `live` must hold those of
    /// running instances too. How many directories and files went. Blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn collect(
        &self,
        live: &HashSet<Digest>,
        keep: Duration,
        most: u64,
        now: SystemTime,
    ) -> Result<usize, Error> {
        let live: HashSet<&str> = live.iter().map(Digest::hex).collect();
        let inner = &self.inner;
        let is_live = |name: &str| live.contains(name);
        let mut removed = inner.roots.collect(is_live, keep, now)?.len();
        // Their files are their layers': without them these have the room.
        removed += inner.roots.shrink(is_live, most, GRACE, now)?.len();
        let mut used: HashSet<String> = HashSet::new();
        for name in inner.roots.list()? {
            if let Some(path) = inner.roots.path(&name)
                && let Ok(stored) = read_json::<Stored>(&path.join("image.json"))
            {
                used.extend(stored.layers.iter().map(|layer| layer.hex().to_owned()));
            }
        }
        let is_used = |name: &str| used.contains(name);
        removed += inner.layers.collect(is_used, keep, now)?.len();
        removed += inner.layers.shrink(is_used, most, GRACE, now)?.len();
        for entry in fs::read_dir(&inner.blobs).at("list", &inner.blobs)?.flatten() {
            let put = entry.metadata().and_then(|metadata| metadata.modified());
            if put.is_ok_and(|put| now.duration_since(put).is_ok_and(|age| age >= keep)) {
                fs::remove_file(entry.path()).at("remove", &entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Bytes of all layers, unpacked. Looks at every file: blocks.
    ///
    /// # Errors
    /// When the file system fails.
    pub fn bytes(&self) -> Result<u64, Error> {
        Ok(self.inner.layers.entries()?.iter().map(|entry| entry.bytes).sum())
    }
}
