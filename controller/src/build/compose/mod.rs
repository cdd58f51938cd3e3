//! From a bundle, its dependencies and a base to an OCI image, without a daemon. Layers are the same bytes whoever writes them and when: entries
//! are sorted, times are zero, the owner is root, and gzip says nothing of the machine. So a change of code makes one small layer, and
//! whatever has the others already is not sent them again.
//!
//! ```text
//! base          the layers of an image, or the host's own interpreter (`host`), kept under what it is made of
//! dependencies  /deps, kept under the key that they are installed under
//! code          /code
//! ```

pub mod host;
mod layer;
mod layout;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hearth_function::Digest;
use serde::{Deserialize, Serialize};

use super::images::local::Local;
use super::images::{self, architecture};
use super::shelf::{At as _, FileError, Shelf, Sync};

pub use layer::Archive;
pub use layout::{docker_archive, write as write_layout};

/// Files that hold secrets by their names: they are left out of images, which go to registries and stay in every copy of them.
const SECRETS: [&str; 9] = [
    ".env",
    ".netrc",
    ".npmrc",
    ".pypirc",
    ".git-credentials",
    "id_ecdsa",
    "id_ed25519",
    "id_rsa",
    ".dockercfg",
];

/// Endings of such names.
const SECRET_ENDINGS: [&str; 4] = [".key", ".p12", ".pem", ".pfx"];

/// Why an image was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host's interpreter cannot be taken.
    #[error("{what}: {fix}")]
    Host {
        /// What is wrong.
        what: String,
        /// What to do.
        fix: String,
    },
    /// The base cannot be read.
    #[error("the base cannot be used")]
    Base(#[from] images::Error),
    /// The file system failed.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A layer on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// The digest of the file.
    pub digest: Digest,
    /// The digest of the archive in it.
    pub plain: Digest,
    /// Bytes of the file.
    pub size: u64,
    /// Where it is; not kept, for the store may be moved.
    #[serde(skip)]
    pub path: PathBuf,
}

/// How an image is run: what its configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Its entry point.
    pub command: Vec<String>,
    /// Its variables. Those of a manifest are none of them: they may be secret, and are given at the start.
    pub env: BTreeMap<String, String>,
    /// Where it starts.
    pub working_directory: String,
    /// What is known of it, for people and tools.
    pub labels: BTreeMap<String, String>,
}

/// Where layers are kept that do not change with the code.
#[derive(Debug)]
pub struct Kept {
    shelf: Shelf,
}

impl Kept {
    /// Opens it in a directory and removes what a crash left.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Ok(Self { shelf: Shelf::open(directory.join("layers"))? })
    }

    /// The layer of this key; written by `fill` when it is not there. Whether it was. Blocks.
    ///
    /// # Errors
    /// When the file system fails, or `fill`.
    pub fn layer(
        &self,
        key: &str,
        fill: impl FnOnce(&mut Archive) -> Result<(), Error>,
    ) -> Result<(Layer, bool), Error> {
        if let Some(path) = self.shelf.path(key) {
            self.shelf.touch(key)?;
            return Ok((read(&path)?, true));
        }
        let half = self.shelf.begin()?;
        let layer = Archive::write(&half.path().join("layer"), fill)?;
        let about = half.path().join("layer.json");
        fs::write(&about, serde_json::to_vec(&layer).map_err(io::Error::other).at("write", &about)?)
            .at("write", &about)?;
        let path = half.finish(&self.shelf, key, Sync::All)?;
        Ok((read(&path)?, false))
    }
}

fn read(path: &Path) -> Result<Layer, FileError> {
    let about = path.join("layer.json");
    let bytes = fs::read(&about).at("read", &about)?;
    let layer: Layer = serde_json::from_slice(&bytes).map_err(io::Error::other).at("read", &about)?;
    Ok(Layer { path: path.join("layer"), ..layer })
}

/// Puts installed dependencies into a layer, as an instance sees them.
///
/// # Errors
/// When they cannot be read.
pub fn dependencies(archive: &mut Archive, installed: &Path) -> Result<(), Error> {
    if installed.join("node_modules").exists() {
        archive.link(Path::new("node_modules"), Path::new("/deps/node_modules"))?;
    }
    archive.tree(Path::new("deps"), installed, |name| name != "__pycache__")
}

/// Puts an unpacked bundle into a layer. What was left out, because its name says that it is secret.
///
/// # Errors
/// When it cannot be read.
pub fn code(archive: &mut Archive, bundle: &Path) -> Result<Vec<String>, Error> {
    let mut left_out = Vec::new();
    archive.tree(Path::new("code"), bundle, |name| {
        let is_secret = SECRETS.contains(&name)
            || name.starts_with(".env.")
            || SECRET_ENDINGS.iter().any(|ending| name.ends_with(ending));
        if is_secret {
            left_out.push(name.to_owned());
        }
        !is_secret
    })?;
    Ok(left_out)
}

/// An image before it is written.
#[derive(Debug)]
pub struct Image {
    /// Its base, whose layers come first; `None`: there is nothing below `layers`.
    pub base: Option<Local>,
    /// Its own layers, from the bottom.
    pub layers: Vec<Layer>,
    /// How it is run.
    pub run: Run,
}

impl Image {
    /// Its configuration and its manifest, as bytes.
    ///
    /// # Errors
    /// When the base's cannot be read.
    pub fn documents(&self) -> Result<(Vec<u8>, Vec<u8>), Error> {
        let (mut config, mut layers) = match &self.base {
            None => (serde_json::json!({}), Vec::new()),
            Some(base) => base_documents(base)?,
        };
        let mut plain: Vec<serde_json::Value> =
            config.pointer("/rootfs/diff_ids").and_then(|ids| ids.as_array().cloned()).unwrap_or_default();
        for layer in &self.layers {
            plain.push(layer.plain.as_str().into());
            layers.push(descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer.digest, layer.size));
        }
        let mut run = config.get("config").cloned().unwrap_or_else(|| serde_json::json!({}));
        if !self.run.command.is_empty() {
            run["Entrypoint"] = self.run.command.clone().into();
            if let Some(run) = run.as_object_mut() {
                run.remove("Cmd");
            }
        }
        let mut env: Vec<String> = run["Env"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pair| Some(pair.as_str()?.to_owned()))
            .collect();
        for (name, value) in &self.run.env {
            env.retain(|pair| pair.split('=').next() != Some(name));
            env.push(format!("{name}={value}"));
        }
        if !env.is_empty() {
            run["Env"] = env.into();
        }
        run["User"] = format!("{0}:{0}", hearth_protocol::config::USER).into();
        run["WorkingDir"] = self.run.working_directory.clone().into();
        for (name, value) in &self.run.labels {
            run["Labels"][name] = value.clone().into();
        }
        config["architecture"] = architecture().into();
        config["os"] = "linux".into();
        // The same input gives the same image: it was made at no time, by steps that nobody needs to know.
        config["created"] = "1970-01-01T00:00:00Z".into();
        if let Some(config) = config.as_object_mut() {
            config.remove("history");
        }
        config["config"] = run;
        config["rootfs"] = serde_json::json!({ "type": "layers", "diff_ids": plain });
        let config = config.to_string().into_bytes();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor(
                "application/vnd.oci.image.config.v1+json", &Digest::of(&config), config.len() as u64
            ),
            "layers": layers,
        });
        Ok((config, manifest.to_string().into_bytes()))
    }
}

fn base_documents(base: &Local) -> Result<(serde_json::Value, Vec<serde_json::Value>), Error> {
    let invalid =
        |error: serde_json::Error| images::Error::Invalid(format!("the base cannot be read: {error}"));
    let manifest: serde_json::Value = serde_json::from_slice(base.manifest()).map_err(invalid)?;
    let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
    let config =
        base.blobs().first().ok_or_else(|| images::Error::Invalid("the base is empty".to_owned()))?;
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut base.read(config)?, &mut bytes).map_err(images::Error::Read)?;
    // It says for what machine it is, and is refused here for another.
    images::Settings::read(&bytes)?;
    Ok((serde_json::from_slice(&bytes).map_err(invalid)?, layers))
}

fn descriptor(kind: &str, digest: &Digest, size: u64) -> serde_json::Value {
    serde_json::json!({ "mediaType": kind, "digest": digest, "size": size })
}

#[cfg(test)]
mod tests;
