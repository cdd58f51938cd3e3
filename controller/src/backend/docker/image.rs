//! Images that containers are made of: one that Hearth makes itself, out of a root's skeleton, for
//! [`Root::Host`](crate::backend::Root::Host); and whatever the engine has or can pull for
//! [`Root::Image`](crate::backend::Root::Image).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, CreateImageOptions, ListImagesOptions,
    RemoveContainerOptions, RemoveImageOptions,
};
use bollard::{Docker, body_full};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::sync::Mutex;

use super::container::DATA;
use super::engine::status;
use crate::backend::local::blocking;
use crate::backend::local::root::Template;

/// Repositories of the images that Hearth makes begin so. What an image is made of is in the repository's name: Podman ignores the tag of
/// an import.
const REPOSITORY: &str = "hearth";

/// Where an interpreter is in most images.
const PLACES: [&str; 3] = ["/usr/local/bin", "/usr/bin", "/bin"];

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] bollard::errors::Error),
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The engine does not have it and cannot pull it.
    #[error("{0}")]
    Missing(String),
}

/// The images, by what they are made of.
#[derive(Debug)]
pub(super) struct Images {
    api: Docker,
    tag: String,
    /// Identifiers, by reference. The lock is held while one is made: it is made once.
    known: Mutex<HashMap<String, String>>,
    /// Where a program is in an image, by the image's identifier and the program's name.
    programs: Mutex<HashMap<(String, &'static str), Option<String>>>,
}

impl Images {
    pub(super) fn new(api: Docker, tag: String) -> Self {
        Self { api, tag, known: Mutex::default(), programs: Mutex::default() }
    }

    /// Forgets all: another engine may answer now, or somebody has taken an image away.
    pub(super) async fn forget(&self) {
        self.known.lock().await.clear();
        self.programs.lock().await.clear();
    }

    /// The image of a skeleton, made if it is not there.
    ///
    /// # Errors
    /// When the engine or the disk refuses.
    pub(super) async fn skeleton(&self, template: &Template) -> Result<String, Error> {
        let name = template.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let reference = format!("{REPOSITORY}/{}:latest", name.unwrap_or_default());
        let mut known = self.known.lock().await;
        if let Some(id) = known.get(&reference) {
            return Ok(id.clone());
        }
        let id = match self.find(&reference).await? {
            Some(id) => id,
            None => {
                let id = self.import(&reference, template.path.clone()).await?;
                self.sweep(&id).await;
                id
            }
        };
        known.insert(reference, id.clone());
        Ok(id)
    }

    /// The image of that name, pulled if the engine does not have it.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none to be had.
    pub(super) async fn named(&self, reference: &str) -> Result<String, Error> {
        let mut known = self.known.lock().await;
        if let Some(id) = known.get(reference) {
            return Ok(id.clone());
        }
        let id = match self.find(reference).await? {
            Some(id) => id,
            None => self.pull(reference).await?,
        };
        known.insert(reference.to_owned(), id.clone());
        Ok(id)
    }

    async fn find(&self, reference: &str) -> Result<Option<String>, Error> {
        match self.api.inspect_image(reference).await {
            Ok(image) => Ok(image.id),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn pull(&self, reference: &str) -> Result<String, Error> {
        // Without a tag an engine pulls all of them.
        let tagged =
            reference.contains('@') || reference.rsplit('/').next().is_some_and(|name| name.contains(':'));
        let from = if tagged { reference.to_owned() } else { format!("{reference}:latest") };
        let options = CreateImageOptions { from_image: Some(from), ..CreateImageOptions::default() };
        let pulled =
            self.api.create_image(Some(options), None, None).try_for_each(|_| async { Ok(()) }).await;
        if let Err(error) = pulled {
            return Err(Error::Missing(format!(
                "the engine has no image {reference} and cannot pull it ({})",
                super::engine::plain(&error)
            )));
        }
        let missing = || Error::Missing(format!("the engine pulled {reference} and does not have it"));
        self.find(reference).await?.ok_or_else(missing)
    }

    async fn import(&self, reference: &str, skeleton: PathBuf) -> Result<String, Error> {
        let archive = blocking(move || pack(&skeleton)).await?;
        let (repository, tag) = reference.split_once(':').unwrap_or((reference, "latest"));
        let options = CreateImageOptions {
            from_src: Some("-".to_owned()),
            repo: Some(repository.to_owned()),
            tag: Some(tag.to_owned()),
            changes: vec![format!("LABEL {DATA}={}", self.tag)],
            ..CreateImageOptions::default()
        };
        let body = body_full(Bytes::from(archive));
        self.api.create_image(Some(options), Some(body), None).try_for_each(|_| async { Ok(()) }).await?;
        let missing = || Error::Missing(format!("the engine imported {reference} and does not have it"));
        self.find(reference).await?.ok_or_else(missing)
    }

    /// Takes away images of earlier skeletons; one that a container uses stays.
    async fn sweep(&self, current: &str) {
        let filters = HashMap::from([("label".to_owned(), vec![format!("{DATA}={}", self.tag)])]);
        let options = ListImagesOptions { filters: Some(filters), ..ListImagesOptions::default() };
        for image in self.api.list_images(Some(options)).await.unwrap_or_default() {
            if image.id != current {
                self.api.remove_image(&image.id, None::<RemoveImageOptions>, None).await.ok();
            }
        }
    }

    /// Where `program` is in an image, looked up once.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) async fn program(&self, image: &str, program: &'static str) -> Result<Option<String>, Error> {
        let mut programs = self.programs.lock().await;
        if let Some(found) = programs.get(&(image.to_owned(), program)) {
            return Ok(found.clone());
        }
        // Only a container can be looked into; this one never runs.
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            entrypoint: Some(vec!["/hearth/hearth-shim".to_owned()]),
            network_disabled: Some(true),
            ..ContainerCreateBody::default()
        };
        let container = self.api.create_container(None::<CreateContainerOptions>, body).await?.id;
        let mut found = None;
        for place in PLACES {
            let path = format!("{place}/{program}");
            let options = ContainerArchiveInfoOptions { path: path.clone() };
            if self.api.get_container_archive_info(&container, Some(options)).await.is_ok() {
                found = Some(path);
                break;
            }
        }
        let remove = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        self.api.remove_container(&container, Some(remove)).await?;
        programs.insert((image.to_owned(), program), found.clone());
        Ok(found)
    }
}

/// A skeleton as an archive: a few small files.
fn pack(skeleton: &Path) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, skeleton, Path::new(""))?;
    archive.into_inner()
}

/// Adds what is in a directory, in the order of names.
fn add(archive: &mut tar::Builder<Vec<u8>>, skeleton: &Path, below: &Path) -> io::Result<()> {
    let mut entries = fs::read_dir(skeleton.join(below))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = below.join(entry.file_name());
        let kind = entry.file_type()?;
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            // What is mounted over such a place takes over its mode.
            header.set_mode(if path.ends_with("tmp") { 0o1777 } else { 0o755 });
            archive.append_data(&mut header, &path, io::empty())?;
            add(archive, skeleton, &path)?;
        } else if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, &path, fs::read_link(entry.path())?)?;
        } else {
            let content = fs::read(entry.path())?;
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, &path, content.as_slice())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skeleton_is_packed_the_same_whenever_it_was_made() {
        let make = || {
            let root = tempfile::tempdir().unwrap();
            for directory in ["var/tmp", "tmp", "etc"] {
                fs::create_dir_all(root.path().join(directory)).unwrap();
            }
            fs::write(root.path().join("etc/hosts"), "127.0.0.1 localhost\n").unwrap();
            std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).unwrap();
            pack(root.path()).unwrap()
        };
        let packed = make();
        assert_eq!(packed, make());
        let mut archive = tar::Archive::new(packed.as_slice());
        let modes: HashMap<_, _> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
            })
            .collect();
        assert_eq!(modes["tmp"], 0o1777);
        assert_eq!(modes["var"], 0o755);
        assert_eq!(modes["etc/hosts"], 0o644);
        assert!(modes.contains_key("bin"));
    }
}
