//! Takes in what an image consists of, from a client or a registry: unpacks layers, and puts roots together of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::atomic::Ordering;

use hearth_function::Digest;

use super::files::{Incoming, blocking, read_json, write_json};
use super::{Error, Images, ROOTFS, Settings, Stored, assemble, config, layer, registry};
use crate::build::shelf::{At as _, Sync};
use crate::build::unpack::Source;

impl Images {
    /// Takes a blob in from a file, which is moved when it is on the same file system. Blocks.
    ///
    /// # Errors
    /// When it is another than was announced.
    pub fn put_blob(&self, digest: &Digest, from: &Path) -> Result<(), Error> {
        let mut source = Source::new(fs::File::open(from).at("open", from)?, u64::MAX);
        io::copy(&mut source, &mut io::sink()).map_err(Error::Read)?;
        let actual = source.digest();
        if actual != *digest {
            return Err(Error::WrongDigest { what: "blob", expected: digest.clone(), actual });
        }
        let path = self.inner.blobs.join(digest.hex());
        if fs::rename(from, &path).is_err() {
            let aside = self.incoming();
            fs::copy(from, &aside.0).at("copy to", &aside.0)?;
            fs::rename(&aside.0, &path).at("name", &path)?;
        }
        Ok(())
    }

    /// Makes an image of blobs that were put before: its manifest names them.
    ///
    /// # Errors
    /// As [`Error`] says; an image that names what is not here is [`Error::Invalid`].
    pub async fn put(&self, digest: &Digest, manifest: &[u8]) -> Result<(), Error> {
        let actual = Digest::of(manifest);
        if actual != *digest {
            return Err(Error::WrongDigest { what: "manifest", expected: digest.clone(), actual });
        }
        let turn = self.turn(digest);
        let _turn = turn.lock().await;
        if self.has(digest) {
            return Ok(());
        }
        let manifest = config::manifest(manifest)?;
        let (this, digest) = (self.clone(), digest.clone());
        blocking(move || this.put_blocking(&digest, &manifest)).await
    }

    fn put_blocking(&self, digest: &Digest, manifest: &oci_spec::image::ImageManifest) -> Result<(), Error> {
        let blob = |digest: &Digest| self.inner.blobs.join(digest.hex());
        let missing = |digest: &Digest| Error::Invalid(format!("the blob {digest} was not uploaded"));
        let named = manifest.config().digest().to_string();
        let named: Digest =
            named.parse().map_err(|_| Error::Invalid(format!("{named} is no sha256 digest")))?;
        let path = blob(&named);
        let size = fs::metadata(&path).map_err(|_| missing(&named))?.len();
        if size > registry::LARGEST_DOCUMENT {
            return Err(Error::Invalid("the image's configuration is too large".to_owned()));
        }
        let config = fs::read(&path).at("read", &path)?;
        let layers = config::layers(manifest, &config)?;
        for layer in self.missing(&layers)? {
            let file = fs::File::open(blob(&layer.digest)).map_err(|_| missing(&layer.digest))?;
            self.unpack(&layer, file)?;
        }
        self.put_together(digest, &config, &layers)?;
        for used in layers.iter().map(|layer| &layer.digest).chain([&named]) {
            let path = blob(used);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at("remove", &path)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The layers that are not here; those that are, are in use from now on.
    pub(super) fn missing(&self, layers: &[config::Layer]) -> Result<Vec<config::Layer>, Error> {
        let mut seen = BTreeSet::new();
        let mut missing = Vec::new();
        for layer in layers {
            if !seen.insert(&layer.digest) {
                continue;
            }
            if self.inner.layers.path(layer.digest.hex()).is_some() {
                self.inner.layers.touch(layer.digest.hex())?;
            } else {
                missing.push(layer.clone());
            }
        }
        Ok(missing)
    }

    pub(super) fn incoming(&self) -> Incoming {
        let number = self.inner.next.fetch_add(1, Ordering::Relaxed);
        Incoming(self.inner.blobs.join(format!(".{number}")))
    }

    pub(super) fn unpack(&self, layer: &config::Layer, packed: fs::File) -> Result<(), Error> {
        let limits = layer::Limits {
            // A layer that does not shrink is a little larger packed.
            packed_bytes: self.inner.config.unpacked_bytes.saturating_add(64 << 20),
            unpacked_bytes: self.inner.config.unpacked_bytes,
            entries: self.inner.config.entries,
        };
        let half = self.inner.layers.begin()?;
        let packed = BufReader::with_capacity(256 * 1024, packed);
        let record = layer::unpack(packed, &layer.digest, Some(&layer.plain), half.path(), &limits)?;
        write_json(&half.path().join("layer.json"), &record)?;
        half.finish(&self.inner.layers, layer.digest.hex(), Sync::All)?;
        Ok(())
    }

    /// Makes the root of an image whose layers are all here.
    pub(super) fn put_together(
        &self,
        digest: &Digest,
        config: &[u8],
        layers: &[config::Layer],
    ) -> Result<(), Error> {
        let settings = Settings::read(config)?;
        let half = self.inner.roots.begin()?;
        let root = half.path().join(ROOTFS);
        fs::create_dir(&root).at("create", &root)?;
        let mut bytes: u64 = 0;
        for layer in layers {
            let gone = || Error::Invalid(format!("the layer {} has gone meanwhile: try again", layer.digest));
            let path = self.inner.layers.path(layer.digest.hex()).ok_or_else(gone)?;
            let record: layer::Record = read_json(&path.join("layer.json"))?;
            bytes = bytes.saturating_add(record.bytes);
            if bytes > self.inner.config.unpacked_bytes {
                let limit = self.inner.config.unpacked_bytes;
                return Err(Error::TooLarge { what: "all layers together", limit, unit: "bytes unpacked" });
            }
            assemble::lay(&path, &record, &root)?;
        }
        let layers = layers.iter().map(|layer| layer.digest.clone()).collect();
        write_json(&half.path().join("image.json"), &Stored { settings, layers, bytes })?;
        half.finish(&self.inner.roots, digest.hex(), Sync::All)?;
        Ok(())
    }
}
