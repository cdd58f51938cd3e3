//! Writes an image down: as an OCI layout directory, and as an archive that `docker load` and `podman load` take.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use hearth_function::Digest;

use super::{Error, Image, descriptor};
use crate::build::images::local::Local;
use crate::build::shelf::{At as _, FileError};

/// Writes an image into a directory, which is made if it is not there; one that holds a layout already gets this image in its place, and keeps the
/// blobs that it has. The digest of the manifest. Blocks.
///
/// # Errors
/// When the base cannot be read or the directory not be written, or when it holds something else.
pub fn write(directory: &Path, image: &Image) -> Result<Digest, Error> {
    let is_layout = directory.join("oci-layout").is_file();
    let is_empty = fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none());
    if !is_layout && !is_empty {
        return Err(Error::Host {
            what: format!("{} holds something that is no OCI layout", directory.display()),
            fix: "name another directory".to_owned(),
        });
    }
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).at("create", &blobs)?;
    let (config, manifest) = image.documents()?;
    if let Some(base) = &image.base {
        for blob in base.blobs().iter().skip(1) {
            let path = blobs.join(blob.digest.hex());
            if !path.is_file() {
                aside(&path, |file| {
                    io::copy(&mut base.read(blob).map_err(io::Error::other)?, file).map(drop)
                })?;
            }
        }
    }
    for layer in &image.layers {
        let path = blobs.join(layer.digest.hex());
        if !path.is_file() && fs::hard_link(&layer.path, &path).is_err() {
            aside(&path, |file| io::copy(&mut fs::File::open(&layer.path)?, file).map(drop))?;
        }
    }
    for bytes in [&config, &manifest] {
        aside(&blobs.join(Digest::of(bytes).hex()), |file| file.write_all(bytes))?;
    }
    let digest = Digest::of(&manifest);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [descriptor(kind, &digest, manifest.len() as u64)],
    });
    aside(&directory.join("oci-layout"), |file| file.write_all(br#"{"imageLayoutVersion":"1.0.0"}"#))?;
    // Last: until then the directory holds the image that it held before.
    aside(&directory.join("index.json"), |file| file.write_all(index.to_string().as_bytes()))?;
    Ok(digest)
}

/// Writes a file beside its place and renames it there when it is whole.
fn aside(path: &Path, write: impl FnOnce(&mut fs::File) -> io::Result<()>) -> Result<(), FileError> {
    let half = path.with_extension("half");
    let mut file = fs::File::create(&half).at("create", &half)?;
    write(&mut file).at("write", &half)?;
    fs::rename(&half, path).at("name", path)
}

/// Writes an image as an archive under a name. Both forms that engines have known are in it: an OCI layout, and the older `manifest.json`.
///
/// # Errors
/// When the image cannot be read or the archive not be written: the engine has hung up.
pub fn docker_archive(local: &Local, name: &str, to: impl Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(to);
    let mut add = |path: &str, size: u64, content: &mut dyn Read| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(size);
        header.set_mtime(0);
        archive.append_data(&mut header, path, content)
    };
    let place = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let mut described = descriptor(kind, &local.digest(), local.manifest().len() as u64);
    described["annotations"] =
        serde_json::json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": name });
    let index = serde_json::json!({ "schemaVersion": 2, "manifests": [described] }).to_string();
    let mut blobs = local.blobs().iter().map(|blob| place(&blob.digest));
    let config = blobs.next().unwrap_or_default();
    let older =
        serde_json::json!([{ "Config": config, "RepoTags": [name], "Layers": blobs.collect::<Vec<_>>() }]);
    let older = older.to_string();
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    add("oci-layout", layout.len() as u64, &mut layout.as_slice())?;
    add("index.json", index.len() as u64, &mut index.as_bytes())?;
    add("manifest.json", older.len() as u64, &mut older.as_bytes())?;
    let mut manifest = local.manifest();
    add(&place(&local.digest()), manifest.len() as u64, &mut manifest)?;
    for blob in local.blobs() {
        let mut content = local.read(blob).map_err(io::Error::other)?;
        add(&place(&blob.digest), blob.size, &mut content)?;
    }
    archive.into_inner()?.flush()
}
