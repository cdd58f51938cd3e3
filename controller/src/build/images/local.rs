//! Images that lie on this machine's disk: an OCI layout, as a directory or a tar archive, and what `docker save` writes. Read where they lie,
//! by whoever has them: the client, which uploads their blobs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use hearth_function::Digest;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;

use super::{Error, config};
use crate::build::unpack::Source;

/// Largest index, manifest and configuration.
const LARGEST_DOCUMENT: u64 = 4 << 20;

/// Links that are followed from a name in an archive to its bytes: `docker save` writes a layer once and links to it.
const LINKS: usize = 8;

/// The media type of a layer that is not compressed.
const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image whose blobs can be read.
#[derive(Debug)]
pub struct Local {
    place: Place,
    /// Its manifest, as bytes.
    manifest: Vec<u8>,
    /// Its parts, the configuration first.
    blobs: Vec<Blob>,
}

/// A part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Where it is.
    part: Part,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// A file, by its name in the layout or archive.
    File(String),
    /// These bytes.
    Bytes(Vec<u8>),
}

#[derive(Debug)]
enum Place {
    Directory(PathBuf),
    Archive { path: PathBuf, entries: BTreeMap<String, Entry> },
}

#[derive(Debug)]
enum Entry {
    File { at: u64, size: u64 },
    Link(String),
}

/// What `manifest.json` of `docker save` says of one image.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    layers: Vec<String>,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

impl Local {
    /// Reads an OCI layout directory, an OCI archive or a `docker save` archive. Blocks, for a `docker save` archive as long as it takes to
    /// read all of it.
    ///
    /// # Errors
    /// When it is none of these, or holds more than one image for this machine.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
        let place = if metadata.is_dir() {
            Place::Directory(path.to_owned())
        } else {
            Place::Archive { path: path.to_owned(), entries: index(path)? }
        };
        if let Some(index) = place.document("index.json")? {
            return Self::layout(place, &index);
        }
        match place.document("manifest.json")? {
            Some(manifest) => Self::saved(place, &manifest),
            None => Err(Error::Invalid(format!(
                "{} is neither an OCI layout (there is no index.json) nor what docker save writes (no manifest.json)",
                path.display()
            ))),
        }
    }

    fn layout(place: Place, index: &[u8]) -> Result<Self, Error> {
        let mut index: ImageIndex = serde_json::from_slice(index)
            .map_err(|error| Error::Invalid(format!("index.json cannot be read: {error}")))?;
        // An index may name an index, of several platforms.
        for _ in 0..LINKS {
            let fitting: Vec<&Descriptor> = index.manifests().iter().filter(|entry| fits(entry)).collect();
            let descriptor = match fitting.as_slice() {
                [one] => *one,
                [] => {
                    let platform = format!("linux/{}", config::architecture());
                    return Err(Error::Invalid(format!("the layout holds no image for {platform}")));
                }
                several => {
                    return Err(Error::Invalid(format!(
                        "the layout holds {} images: keep one, by `skopeo copy` or by saving it alone",
                        several.len()
                    )));
                }
            };
            let bytes = place.blob(descriptor)?;
            match serde_json::from_slice::<ImageIndex>(&bytes) {
                Ok(nested) if !nested.manifests().is_empty() => index = nested,
                _ => {
                    let manifest: ImageManifest = config::manifest(&bytes)?;
                    let parts = std::iter::once(manifest.config()).chain(manifest.layers());
                    let blobs = parts.map(|part| {
                        let digest = digest(part)?;
                        let part_of = Part::File(format!("blobs/sha256/{}", digest.hex()));
                        Ok(Blob { digest, size: part.size(), part: part_of })
                    });
                    return Ok(Self { blobs: blobs.collect::<Result<_, Error>>()?, place, manifest: bytes });
                }
            }
        }
        Err(Error::Invalid("index.json leads from index to index".to_owned()))
    }

    fn saved(place: Place, manifest: &[u8]) -> Result<Self, Error> {
        let saved: Vec<Saved> = serde_json::from_slice(manifest)
            .map_err(|error| Error::Invalid(format!("manifest.json cannot be read: {error}")))?;
        let [saved] = saved.as_slice() else {
            let names: Vec<String> =
                saved.iter().flat_map(|one| one.repo_tags.clone().unwrap_or_default()).collect();
            return Err(Error::Invalid(format!(
                "the archive holds {} images ({}): save the one alone",
                saved.len(),
                names.join(", ")
            )));
        };
        let missing = |name: &str| Error::Invalid(format!("the archive names {name} and does not hold it"));
        let config = place.document(&saved.config)?.ok_or_else(|| missing(&saved.config))?;
        let configuration =
            Blob { digest: Digest::of(&config), size: config.len() as u64, part: Part::Bytes(config) };
        let mut blobs = vec![configuration];
        for name in &saved.layers {
            let file = place.file(name).ok_or_else(|| missing(name))?.map_err(Error::Read)?;
            let mut source = Source::new(file, u64::MAX);
            let size = io::copy(&mut source, &mut io::sink()).map_err(Error::Read)?;
            blobs.push(Blob { digest: source.digest(), size, part: Part::File(name.clone()) });
        }
        let described = |blob: &Blob, kind: &str| serde_json::json!({ "mediaType": kind, "digest": blob.digest, "size": blob.size });
        let layers: Vec<_> = blobs.iter().skip(1).map(|blob| described(blob, PLAIN_LAYER)).collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described(&blobs[0], "application/vnd.oci.image.config.v1+json"),
            "layers": layers,
        });
        Ok(Self { manifest: manifest.to_string().into_bytes(), place, blobs })
    }

    /// The digest of its manifest: its name wherever it is loaded.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &[u8] {
        &self.manifest
    }

    /// Its parts, the configuration first and then the layers from the bottom.
    #[must_use]
    pub fn blobs(&self) -> &[Blob] {
        &self.blobs
    }

    /// Opens a part for reading.
    ///
    /// # Errors
    /// When it is not there.
    pub fn read(&self, blob: &Blob) -> Result<Box<dyn Read + Send>, Error> {
        match &blob.part {
            Part::Bytes(bytes) => Ok(Box::new(io::Cursor::new(bytes.clone()))),
            Part::File(name) => {
                let missing = || Error::Invalid(format!("the image lacks its blob {}", blob.digest));
                Ok(Box::new(self.place.file(name).ok_or_else(missing)?.map_err(Error::Read)?))
            }
        }
    }
}

fn fits(entry: &Descriptor) -> bool {
    entry.platform().as_ref().is_none_or(|platform| {
        platform.os().to_string() == "linux" && platform.architecture().to_string() == config::architecture()
    })
}

fn digest(descriptor: &Descriptor) -> Result<Digest, Error> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|_| Error::Invalid(format!("{text} is no sha256 digest")))
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::Invalid(format!("{} cannot be read: {error}", path.display()))
}

impl Place {
    /// A file of this name for reading; `None`: there is none.
    fn file(&self, name: &str) -> Option<io::Result<io::Take<File>>> {
        match self {
            Self::Directory(path) => {
                // Names come from the layout itself; they must not lead out of it.
                let name = hearth_protocol::bundle::inside(name.as_bytes()).ok()?;
                let path = path.join(name);
                path.is_file().then(|| File::open(path).map(|file| file.take(u64::MAX)))
            }
            Self::Archive { path, entries } => {
                let mut name = name.to_owned();
                for _ in 0..LINKS {
                    match entries.get(&name)? {
                        Entry::File { at, size } => {
                            return Some(File::open(path).and_then(|mut file| {
                                file.seek(SeekFrom::Start(*at))?;
                                Ok(file.take(*size))
                            }));
                        }
                        Entry::Link(target) => name.clone_from(target),
                    }
                }
                None
            }
        }
    }

    fn document(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.file(name) else { return Ok(None) };
        let mut bytes = Vec::new();
        file.and_then(|file| file.take(LARGEST_DOCUMENT + 1).read_to_end(&mut bytes)).map_err(Error::Read)?;
        if bytes.len() as u64 > LARGEST_DOCUMENT {
            return Err(Error::Invalid(format!("{name} is larger than {LARGEST_DOCUMENT} bytes")));
        }
        Ok(Some(bytes))
    }

    /// A document that is a blob, verified.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let expected = digest(descriptor)?;
        let bytes = self.document(&format!("blobs/sha256/{}", expected.hex()))?;
        let bytes = bytes.ok_or_else(|| Error::Invalid(format!("the layout lacks its blob {expected}")))?;
        let actual = Digest::of(&bytes);
        if actual == expected {
            Ok(bytes)
        } else {
            Err(Error::WrongDigest { what: "blob", expected, actual })
        }
    }
}

/// Where the files of a tar archive are in it.
fn index(path: &Path) -> Result<BTreeMap<String, Entry>, Error> {
    let mut file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut magic = [0; 2];
    if file.read(&mut magic).map_err(Error::Read)? == 2 && magic == [0x1f, 0x8b] {
        return Err(Error::Invalid(format!("{} is compressed: unpack it with gunzip first", path.display())));
    }
    file.rewind().map_err(Error::Read)?;
    let archive = |_| Error::Invalid(format!("{} is neither a directory nor a tar archive", path.display()));
    let mut entries = BTreeMap::new();
    let mut archive_of = tar::Archive::new(file);
    for entry in archive_of.entries_with_seek().map_err(archive)? {
        let entry = entry.map_err(archive)?;
        let name = |path: &Path| path.strip_prefix("./").unwrap_or(path).to_string_lossy().into_owned();
        let own = entry.path().map_err(archive)?.into_owned();
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let place = Entry::File { at: entry.raw_file_position(), size: entry.size() };
            entries.insert(name(&own), place);
        } else if let Some(target) = entry.link_name().map_err(archive)? {
            let target = if kind.is_symlink() { beside(&own, &target) } else { target.into_owned() };
            entries.insert(name(&own), Entry::Link(name(&target)));
        }
    }
    Ok(entries)
}

/// Where a link in an archive leads.
fn beside(link: &Path, target: &Path) -> PathBuf {
    let mut path = link.parent().unwrap_or_else(|| Path::new("")).to_owned();
    for part in target.components() {
        match part {
            std::path::Component::ParentDir => {
                path.pop();
            }
            std::path::Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}
