//! Images that containers are made of: one that Hearth makes itself, out of a root's skeleton, for
//! [`Root::Host`](crate::backend::Root::Host); and whatever the engine has or can pull for
//! [`Root::Image`](crate::backend::Root::Image).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::{ContainerCreateBody, ImageInspect};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateContainerOptions, CreateImageOptions, ListImagesOptions,
    RemoveContainerOptions, RemoveImageOptions,
};
use bollard::{Docker, body_full};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::cells::Cells;
use super::container::DATA;
use super::engine::{is_away, plain, status};
use crate::backend::EngineImage;
use crate::backend::credentials::{Credentials, server};
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
    /// The engine does not have it, and there is none to be had under this name.
    #[error("{0}")]
    Missing(String),
    /// The engine does not have it and cannot pull it now: its registry does not answer, or has had enough of it for a while.
    #[error("{0}")]
    NotNow(String),
    /// The engine pulls it, and does not come to an end.
    #[error(
        "the engine has not pulled {reference} within {limit:?}: its registry is slow or does not answer"
    )]
    Slow {
        /// The image.
        reference: String,
        /// The limit on a pull.
        limit: Duration,
    },
    /// The controller ends.
    #[error("the controller ends")]
    CutOff,
    /// A bug. More is in the log.
    #[error("an error inside Hearth ended the work on it")]
    Panicked,
}

/// The images, by what they are made of.
#[derive(Debug)]
pub(super) struct Images {
    maker: Maker,
    /// Identifiers, by reference.
    known: Cells<String, String>,
    /// Where a program is in an image, by the image's identifier and the program's name.
    programs: Cells<(String, &'static str), Option<String>>,
}

/// What asks the engine.
#[derive(Debug, Clone)]
struct Maker {
    api: Docker,
    tag: String,
    /// How long a pull may take.
    limit: Duration,
}

impl Images {
    /// `limit`: how long a pull may take. Work runs in `tasks`.
    pub(super) fn new(api: Docker, tag: String, limit: Duration, tasks: &TaskTracker) -> Self {
        let maker = Maker { api, tag, limit };
        Self { maker, known: Cells::new(tasks.clone()), programs: Cells::new(tasks.clone()) }
    }

    /// Forgets all: another engine may answer now, or somebody has taken an image away.
    pub(super) fn forget(&self) {
        self.known.forget();
        self.programs.forget();
    }

    /// The image of a skeleton, made if it is not there.
    ///
    /// # Errors
    /// When the engine or the disk refuses.
    pub(super) async fn skeleton(&self, template: &Template) -> Result<String, Arc<Error>> {
        let name = template.path.file_name().map(|name| name.to_string_lossy().into_owned());
        let reference = format!("{REPOSITORY}/{}:latest", name.unwrap_or_default());
        let (maker, key, skeleton) = (self.maker.clone(), reference.clone(), template.path.clone());
        let made = async move {
            if let Some(id) = maker.find(&reference).await? {
                return Ok(id);
            }
            let id = maker.import(&reference, skeleton).await?;
            maker.sweep(&id).await;
            Ok(id)
        };
        self.known.get(key, made).await
    }

    /// The image of that name, pulled if the engine does not have it. Who asks while it is pulled waits for the same pull.
    ///
    /// # Errors
    /// [`Error::Missing`] when there is none to be had, [`Error::NotNow`] and [`Error::Slow`] when another time there may be.
    pub(super) async fn named(&self, reference: &str) -> Result<String, Arc<Error>> {
        let (maker, reference) = (self.maker.clone(), reference.to_owned());
        let key = reference.clone();
        let had = async move {
            match maker.find(&reference).await? {
                Some(id) => Ok(id),
                None => maker.pull(&reference).await,
            }
        };
        self.known.get(key, had).await
    }

    /// The image of that name that the engine has now.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn in_engine(&self, reference: &str) -> Result<Option<EngineImage>, Error> {
        Ok(self.maker.inspect(reference).await?.and_then(described))
    }

    /// Where `program` is in an image, looked up once.
    ///
    /// # Errors
    /// When the engine refuses.
    pub(super) async fn program(
        &self,
        image: &str,
        program: &'static str,
    ) -> Result<Option<String>, Arc<Error>> {
        let (maker, image) = (self.maker.clone(), image.to_owned());
        let key = (image.clone(), program);
        self.programs.get(key, async move { maker.program(image, program).await }).await
    }
}

impl Maker {
    async fn find(&self, reference: &str) -> Result<Option<String>, Error> {
        if let Some(image) = self.inspect(reference).await? {
            return Ok(image.id);
        }
        // One that was never in a registry has no digest but the engine's own.
        let Some((_, digest)) = reference.split_once('@') else { return Ok(None) };
        Ok(self.inspect(digest).await?.and_then(|image| image.id))
    }

    async fn inspect(&self, reference: &str) -> Result<Option<ImageInspect>, Error> {
        match self.api.inspect_image(reference).await {
            Ok(image) => Ok(Some(image)),
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
        let login = login(reference).await?;
        let pull = self.api.create_image(Some(options), None, login).try_for_each(|_| async { Ok(()) });
        // An engine that nobody listens to any more gives the pull up.
        let pulled = timeout(self.limit, pull)
            .await
            .map_err(|_| Error::Slow { reference: reference.to_owned(), limit: self.limit })?;
        pulled.map_err(|error| not_pulled(reference, error))?;
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

    /// Looks into an image: by a container of it, which never runs.
    async fn program(&self, image: String, program: &'static str) -> Result<Option<String>, Error> {
        let body = ContainerCreateBody {
            image: Some(image),
            entrypoint: Some(vec!["/hearth/hearth-shim".to_owned()]),
            network_disabled: Some(true),
            // By this it is taken away if we are killed: at the next opening.
            labels: Some(HashMap::from([(DATA.to_owned(), self.tag.clone())])),
            ..ContainerCreateBody::default()
        };
        let container = self.api.create_container(None::<CreateContainerOptions>, body).await?.id;
        let found = self.look(&container, program).await;
        let remove = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        if let Err(error) = self.api.remove_container(&container, Some(remove)).await {
            tracing::warn!(
                container,
                error = plain(&error),
                "a container that an image was looked into by stays until the next start of the controller"
            );
        }
        found
    }

    async fn look(&self, container: &str, program: &str) -> Result<Option<String>, Error> {
        for place in PLACES {
            let path = format!("{place}/{program}");
            let options = ContainerArchiveInfoOptions { path: path.clone() };
            match self.api.get_container_archive_info(container, Some(options)).await {
                Ok(_) => return Ok(Some(path)),
                Err(error) if status(&error) == Some(404) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}

/// What an engine's error at a pull means. The engine tells whose fault it is by a status at best; where it was already answering, and in
/// Podman always, only by its words, which are the registry's or its own.
fn not_pulled(reference: &str, error: bollard::errors::Error) -> Error {
    if is_away(&error) {
        return Error::Engine(error);
    }
    let said = plain(&error);
    let words = said.to_ascii_lowercase();
    let is_none_to_be_had =
        matches!(status(&error), Some(400..=404)) || NONE_TO_BE_HAD.iter().any(|none| words.contains(none));
    let what = format!("the engine has no image {reference} and cannot pull it ({said})");
    if is_none_to_be_had { Error::Missing(what) } else { Error::NotNow(what) }
}

/// Parts of what engines say when a registry has answered and does not give the image, to this user or at all.
const NONE_TO_BE_HAD: [&str; 9] = [
    "manifest unknown",
    "name unknown",
    "not found: manifest",
    "repository does not exist",
    "access denied",
    "access to the resource is denied",
    "unauthorized",
    "invalid reference",
    "no matching manifest",
];

/// An image as others know it; `None` for one whose name is no digest, which no engine has.
fn described(image: ImageInspect) -> Option<EngineImage> {
    let id = image.id.unwrap_or_default();
    let id = if id.contains(':') { id } else { format!("sha256:{id}") };
    let run = image.config.unwrap_or_default();
    let ports: HashMap<String, serde_json::Value> =
        run.exposed_ports.into_iter().flatten().map(|port| (port, serde_json::json!({}))).collect();
    let config = serde_json::json!({
        "os": image.os.unwrap_or_default(),
        "architecture": image.architecture.unwrap_or_default(),
        "rootfs": { "type": "layers", "diff_ids": [] },
        "config": {
            "Entrypoint": run.entrypoint,
            "Cmd": run.cmd,
            "Env": run.env,
            "User": run.user,
            "WorkingDir": run.working_dir,
            "ExposedPorts": ports,
        },
    });
    Some(EngineImage { id: id.parse().ok()?, config: config.to_string().into_bytes() })
}

/// What an engine is told to give to the registry of an image: it does not look for credentials itself.
async fn login(reference: &str) -> Result<Option<DockerCredentials>, Error> {
    let registry = registry(reference);
    let credentials = Credentials::of(registry).await.map_err(|error| Error::Missing(error.to_string()))?;
    Ok(told(credentials, registry))
}

/// Credentials as an engine takes them.
fn told(credentials: Credentials, registry: &str) -> Option<DockerCredentials> {
    let known = DockerCredentials { serveraddress: Some(server(registry)), ..DockerCredentials::default() };
    match credentials {
        Credentials::None => None,
        Credentials::Password(user, password) => {
            Some(DockerCredentials { username: Some(user), password: Some(password), ..known })
        }
        Credentials::Identity(token) => Some(DockerCredentials { identitytoken: Some(token), ..known }),
    }
}

/// The registry of a reference, as Docker reads it: what stands before the first slash, if it looks like a host.
fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
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
    fn what_an_engine_says_of_an_image_is_told_as_the_image_itself_would() {
        let run = bollard::models::ImageConfig {
            entrypoint: Some(vec!["/server".to_owned()]),
            cmd: Some(vec!["--fast".to_owned()]),
            exposed_ports: Some(vec!["8000/tcp".to_owned()]),
            user: Some("7:8".to_owned()),
            ..Default::default()
        };
        let hex = "0".repeat(64);
        let image = ImageInspect {
            id: Some(hex.clone()),
            os: Some("linux".to_owned()),
            architecture: Some("amd64".to_owned()),
            config: Some(run),
            ..ImageInspect::default()
        };
        let image = described(image).unwrap();
        assert_eq!(image.id.hex(), hex);
        let config: oci_spec::image::ImageConfiguration = serde_json::from_slice(&image.config).unwrap();
        let run = config.config().clone().unwrap();
        assert_eq!(run.entrypoint().clone().unwrap(), ["/server"]);
        assert_eq!(run.exposed_ports().clone().unwrap(), ["8000/tcp"]);
        assert_eq!(run.user().as_deref(), Some("7:8"));
    }

    #[test]
    fn a_pull_that_fails_for_want_of_a_registry_is_nobodys_fault_and_tried_again() {
        use bollard::errors::Error as E;
        let answered = |status_code, message: &str| E::DockerResponseServerError {
            status_code,
            message: message.to_owned(),
        };
        let streamed = |error: &str| E::DockerStreamError { error: error.to_owned() };
        let missing = [
            answered(404, "manifest for r.test/app:1 not found: manifest unknown: manifest unknown"),
            answered(
                404,
                "pull access denied for app, repository does not exist or may require 'docker login'",
            ),
            answered(400, "invalid reference format: repository name must be lowercase"),
            answered(500, "unauthorized: authentication required"),
            streamed("no matching manifest for linux/amd64 in the manifest list entries"),
            streamed(
                "initializing source docker://r.test/app:1: reading manifest 1 in r.test/app: manifest unknown",
            ),
        ];
        for error in missing {
            let error = not_pulled("r.test/app:1", error);
            assert!(matches!(&error, Error::Missing(what) if what.contains("r.test/app:1")), "{error:?}");
        }
        let later = [
            answered(
                500,
                "Get \"http://127.0.0.1:9/v2/\": dial tcp 127.0.0.1:9: connect: connection refused",
            ),
            answered(500, "Get \"https://r.test/v2/\": dial tcp: lookup r.test on 10.0.0.1:53: no such host"),
            answered(500, "toomanyrequests: You have reached your pull rate limit"),
            answered(503, "received unexpected HTTP status: 503 Service Unavailable"),
            streamed("write /var/lib/docker/tmp/1: no space left on device"),
        ];
        for error in later {
            let error = not_pulled("r.test/app:1", error);
            assert!(matches!(&error, Error::NotNow(what) if what.contains("cannot pull it")), "{error:?}");
        }
        let away = not_pulled("r.test/app:1", E::RequestTimeoutError);
        assert!(matches!(away, Error::Engine(_)), "{away:?}");
    }

    #[test]
    fn an_engine_is_told_the_credentials_and_what_they_are_for() {
        assert!(told(Credentials::None, "registry.test").is_none());
        let password = told(Credentials::Password("ada".to_owned(), "secret".to_owned()), "registry.test");
        let password = password.unwrap();
        assert_eq!(password.username.as_deref().zip(password.password.as_deref()), Some(("ada", "secret")));
        assert_eq!(password.serveraddress.as_deref(), Some("registry.test"));
        let token = told(Credentials::Identity("kept".to_owned()), registry("team/app")).unwrap();
        assert_eq!((token.identitytoken.as_deref(), token.username), (Some("kept"), None));
        assert_eq!(token.serveraddress.as_deref(), Some("https://index.docker.io/v1/"));
    }

    #[test]
    fn the_registry_of_a_reference_is_what_docker_takes_it_for() {
        for (reference, host) in [
            ("app", "docker.io"),
            ("team/app:1", "docker.io"),
            ("localhost/app", "localhost"),
            ("127.0.0.1:5000/team/app@sha256:00", "127.0.0.1:5000"),
            ("registry.example.com/app", "registry.example.com"),
        ] {
            assert_eq!(registry(reference), host, "{reference}");
        }
    }

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
