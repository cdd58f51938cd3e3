//! Where the parts of a Revision are on this machine: its code, its dependencies, its interpreter.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hearth_function::spec::{SecretName, SourceKind};
use hearth_function::{Code, Digest, FunctionSpec, ImageTemplate, RuntimeName, Template};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::missing::{Lack, Missing};
use crate::backend::interpreters::{self, Catalogue, Interpreter};
use crate::backend::{Backend, Fixity, Root, User};
use crate::build::images;
use crate::build::{self, Bundles, Dependencies, Fetcher, Images, Toolchain};
use crate::telemetry::chain;

/// Where uploaded bundles are that this machine does not have: another controller may have taken them in.
#[async_trait]
pub trait Depot: Send + Sync + fmt::Debug + 'static {
    /// The packed bundle, if it is there.
    ///
    /// # Errors
    /// Why it cannot be looked for, for people.
    async fn fetch(&self, digest: &Digest) -> Result<Option<Vec<u8>>, String>;

    /// Removes what is neither live nor younger than `age`.
    async fn retain(&self, live: &HashSet<Digest>, age: Duration);
}

/// Where the credentials are that Functions name for registries.
#[async_trait]
pub trait Keyring: Send + Sync + fmt::Debug + 'static {
    /// Those of these Secrets; and why some cannot be had, for people.
    async fn keys(&self, namespace: &str, secrets: &[SecretName]) -> (images::Keys, Vec<String>);
}

/// Code, dependencies and images. Clones share the stores.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The unpacked bundles.
    pub bundles: Bundles,
    /// The installed dependencies.
    pub dependencies: Arc<Dependencies>,
    /// What lies elsewhere.
    pub fetcher: Fetcher,
    /// The unpacked images.
    pub images: Images,
    /// The backend, where it takes images by reference: its engine may have some that no registry has.
    pub engine: Option<Arc<dyn Backend>>,
    /// What can be changed of the backend's instances while they run.
    pub fixity: Fixity,
    /// The image for programs that need no interpreter; `None`: this machine's own.
    pub program_image: Option<String>,
    /// What interprets code.
    pub interpreters: Catalogue,
    /// Where bundles are that are not here.
    pub depot: Option<Arc<dyn Depot>>,
    /// Where credentials for registries are that Functions name; `None`: nothing keeps any here, and those that are named are not looked for.
    pub keyring: Option<Arc<dyn Keyring>>,
}

/// What an installation tells while it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// How far it is, for the condition.
    Progress(String),
    /// A line for the function's log: what npm or pip printed, and what Hearth says of it.
    Line(String),
}

/// Where the parts are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Unpacked; `None` where an image holds it.
    pub(super) code: Option<PathBuf>,
    /// The image's root, and whom it runs as.
    pub(super) image: Option<(Root, Option<User>)>,
    pub(super) dependencies: Option<PathBuf>,
    pub(super) interpreter: Option<PathBuf>,
    /// The image that has it, where it is not this machine's own.
    pub(super) runtime_image: Option<String>,
    /// Under which the dependencies are kept.
    pub(super) key: Option<String>,
}

impl Sources {
    /// Which code a Function has: the digest of a bundle or an image. Files in the manifest become a bundle here.
    pub(super) async fn resolve(&self, namespace: &str, spec: &FunctionSpec) -> Result<Code, Missing> {
        match spec.source.kind() {
            Some(SourceKind::Bundle(digest)) => Ok(Code::Bundle(digest.clone())),
            Some(SourceKind::Image(reference)) => {
                let image = match self.in_engine(reference).await? {
                    Some(image) => image,
                    None => self.in_registry(namespace, reference, spec).await?,
                };
                let needs_command = !spec.runtime.has_handler() && spec.command.is_empty();
                if needs_command && image.command.is_empty() {
                    let message =
                        format!("the image {reference} says no command to run: give one as spec.command");
                    return Err(Missing::new(Lack::SourceInvalid, message));
                }
                Ok(Code::Image(image))
            }
            Some(SourceKind::Inline(files)) => {
                let (bundles, files) = (self.bundles.clone(), files.clone());
                let packing = move || {
                    let packed = build::pack_inline(&files, &build::Limits::default())
                        .map_err(|error| Missing::new(Lack::SourceInvalid, chain(&error)))?;
                    if !bundles.has(&packed.digest) {
                        bundles
                            .put_blocking(&packed.digest, packed.bytes.as_slice())
                            .map_err(|error| Missing::new(Lack::SourceInvalid, chain(&error)))?;
                    }
                    Ok(Code::Bundle(packed.digest))
                };
                blocking(packing).await
            }
            Some(SourceKind::Archive(archive)) => {
                self.fetcher.archive(archive).await.map(Code::Bundle).map_err(|error| fetch_failed(&error))
            }
            Some(SourceKind::Git(git)) => {
                self.fetcher.git(git).await.map(Code::Bundle).map_err(|error| fetch_failed(&error))
            }
            Some(kind) => {
                let field = kind.field();
                Err(Missing::new(
                    Lack::SourceInvalid,
                    format!("source.{field} cannot be used by this server"),
                ))
            }
            None => Err(Missing::new(Lack::SourceInvalid, "spec.source has no field, or more than one")),
        }
    }

    /// Sees to it that a bundle which was here, or at another controller, is here again: made anew of the source that `spec` names, if that still
    /// means the same, or fetched. That it stays away is seen by whoever looks for it next.
    pub(super) async fn bring_back(&self, digest: &Digest, namespace: &str, spec: &FunctionSpec) {
        if self.bundles.has(digest) {
            return;
        }
        if let Some(SourceKind::Inline(_) | SourceKind::Archive(_) | SourceKind::Git(_)) = spec.source.kind()
            && let Err(missing) = self.resolve(namespace, spec).await
        {
            tracing::debug!(%digest, why = missing.message, "a source cannot be had again");
        }
        let Some(depot) = self.depot.as_ref().filter(|_| !self.bundles.has(digest)) else { return };
        let brought = match depot.fetch(digest).await {
            Ok(Some(packed)) => {
                self.bundles.put(digest, io::Cursor::new(packed)).await.map_err(|error| chain(&error))
            }
            Ok(None) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = brought {
            tracing::warn!(%digest, error, "a bundle is not brought back");
        }
    }

    /// Where the parts of `template` are; installs dependencies that are not there. `tell` hears what an installation does.
    pub(super) async fn ensure(
        &self,
        template: &Template,
        mut tell: impl FnMut(Told),
    ) -> Result<Found, Missing> {
        let digest = match template.code() {
            Some(Code::Bundle(digest)) => digest,
            Some(Code::Image(image)) => return self.image(&image, |text| tell(Told::Progress(text))).await,
            None => {
                return Err(Missing::new(Lack::SourceInvalid, "the revision names neither bundle nor image"));
            }
        };
        let missing = || {
            let message = format!("the bundle {digest} is not on this server: upload it (hearth apply does)");
            Missing::new(Lack::BundleMissing, message)
        };
        if !self.bundles.has(&digest) {
            return Err(missing());
        }
        let code = self.bundles.path(&digest).ok_or_else(missing)?;
        let found = interpreter(&self.interpreters, template, code.clone()).await?;
        let Some(interpreter) = found else {
            let runtime_image = self.program_image.clone();
            return Ok(Found { code: Some(code), runtime_image, ..Found::default() });
        };
        let toolchain = Toolchain::of(interpreter.clone());
        let at = code.clone();
        let planned = blocking(move || {
            build::plan(&at, &toolchain).map_err(|error| Missing::new(Lack::BuildFailed, chain(&error)))
        });
        let found = Found {
            code: Some(code),
            interpreter: Some(interpreter.path),
            runtime_image: interpreter.image,
            ..Found::default()
        };
        let Some(plan) = planned.await? else { return Ok(found) };
        let key = plan.key.clone();
        let updates = self.dependencies.updates();
        let tell = |update: build::Update| {
            if update.key == key {
                said(&update.progress).into_iter().for_each(&mut tell);
            }
        };
        let path = follow(updates, self.dependencies.ensure(&plan), tell).await;
        let path = path.map_err(|error| Missing::new(Lack::BuildFailed, chain(error.as_ref())))?;
        Ok(Found { dependencies: Some(path), key: Some(key.as_str().to_owned()), ..found })
    }

    /// What a registry says of an image, with the credentials that the Function names.
    async fn in_registry(
        &self,
        namespace: &str,
        reference: &str,
        spec: &FunctionSpec,
    ) -> Result<ImageTemplate, Missing> {
        let Some(keyring) = &self.keyring else {
            return self.images.resolve(reference).await.map_err(|error| image_missing(&error));
        };
        let secrets = spec.kubernetes.as_ref().map(|asked| asked.image_pull_secrets.as_slice());
        // The registry may give it to everybody.
        let (keys, unread) = keyring.keys(namespace, secrets.unwrap_or_default()).await;
        self.images.resolve_with(reference, Some(&keys)).await.map_err(|error| {
            let Missing { reason, message } = image_missing(&error);
            let message = std::iter::once(message).chain(unread).collect::<Vec<_>>().join("; ");
            Missing { reason, message }
        })
    }

    /// An image that the backend's engine has under this name.
    async fn in_engine(&self, reference: &str) -> Result<Option<ImageTemplate>, Missing> {
        let Some(engine) = &self.engine else { return Ok(None) };
        let found = engine.image(reference).await;
        let Some(image) = found.map_err(|error| Missing::new(Lack::ImageMissing, chain(&error)))? else {
            return Ok(None);
        };
        let settings = images::Settings::read(&image.config).map_err(|error| image_missing(&error))?;
        Ok(Some(settings.template(reference, image.id)))
    }

    /// An image's root on this machine; or its name, for an engine that has its own.
    async fn image(&self, image: &ImageTemplate, mut progress: impl FnMut(String)) -> Result<Found, Missing> {
        let image = match &self.engine {
            None => {
                let ensuring = self.images.ensure(image, &mut progress).await;
                let root = ensuring.map_err(|error| image_missing(&error))?;
                (Root::Directory(root.path), root.user)
            }
            Some(engine) => {
                let named = images::pinned(image).map_err(|error| image_missing(&error))?;
                let fetched = engine.fetch(&named).await;
                fetched.map_err(|error| Missing::new(Lack::ImageMissing, chain(&error)))?;
                (Root::Image(named), images::user_by_numbers(image).map_err(|error| image_missing(&error))?)
            }
        };
        Ok(Found { image: Some(image), ..Found::default() })
    }
}

fn fetch_failed(error: &build::fetch::Error) -> Missing {
    use build::fetch::Error;
    let reason = match error {
        Error::Fetch { .. } | Error::CutOff => Lack::SourceMissing,
        Error::Bundle(_) | Error::File(_) => Lack::BuildFailed,
        _ => Lack::SourceInvalid,
    };
    Missing::new(reason, chain(error))
}

fn image_missing(error: &images::Error) -> Missing {
    if let images::Error::Shared(error) = error {
        return image_missing(error);
    }
    let reason = match error {
        images::Error::NotLoaded(_) | images::Error::Registry { .. } => Lack::ImageMissing,
        error if error.is_clients() => Lack::ImageInvalid,
        _ => Lack::BuildFailed,
    };
    Missing::new(reason, chain(error))
}

async fn interpreter(
    catalogue: &Catalogue,
    template: &Template,
    code: PathBuf,
) -> Result<Option<Interpreter>, Missing> {
    let (catalogue, runtime, command) = (catalogue.clone(), template.runtime, template.command.clone());
    blocking(move || {
        interpreter_of(&catalogue, runtime, &command, &code)
            .map_err(|error| Missing::new(Lack::RuntimeMissing, error.to_string()))
    })
    .await
}

/// The interpreter that code needs, if it needs one: a runtime with a handler always, a program as it looks. Blocks.
///
/// # Errors
/// When it needs one that is not here.
pub fn interpreter_of(
    catalogue: &Catalogue,
    runtime: RuntimeName,
    command: &[String],
    code: &Path,
) -> Result<Option<Interpreter>, interpreters::Error> {
    if runtime.has_handler() {
        return catalogue.find(&runtime.to_string()).map(Some);
    }
    match named(command.first().map_or("", String::as_str)) {
        // One that is too old for a handler may do for a program, as long as nothing is to be installed for it.
        Some(runtime) => match catalogue.find(&runtime) {
            Ok(found) => Ok(Some(found)),
            Err(error) if wants(code).is_some() => Err(error),
            Err(_) => Ok(None),
        },
        // Without one it is tried as it is: what the bundle holds may be for somebody else.
        None => Ok(wants(code).and_then(|runtime| catalogue.find(runtime).ok())),
    }
}

/// The runtime whose interpreter a command names, as in `python3.12` and `/usr/bin/node`.
fn named(command: &str) -> Option<String> {
    let name = command.rsplit('/').next().unwrap_or_default();
    let is_version = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    match name {
        "node" | "nodejs" | "npm" | "npx" => Some("nodejs".to_owned()),
        _ => name.strip_prefix("python").filter(|rest| is_version(rest)).map(|_| name.to_owned()),
    }
}

/// For which runtime a bundle may ask for dependencies, where the command does not tell (`gunicorn`, `sh start.sh`). A server in Python
/// may hold a `package.json` for what it serves; one in Node holds no `requirements.txt`.
fn wants(code: &Path) -> Option<&'static str> {
    let holds = |name: &str| code.join(name).is_file();
    if holds("requirements.txt") {
        Some("python")
    } else if holds("package.json") {
        Some("nodejs")
    } else {
        None
    }
}

/// The outcome of `work`; `tell` hears every update meanwhile but those that were too many at once.
async fn follow<T, U: Clone>(
    mut updates: broadcast::Receiver<U>,
    work: impl Future<Output = T>,
    mut tell: impl FnMut(U),
) -> T {
    let mut work = std::pin::pin!(work);
    let mut open = true;
    let outcome = loop {
        tokio::select! {
            outcome = &mut work => break outcome,
            update = updates.recv(), if open => match update {
                Ok(update) => tell(update),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => open = false,
            },
        }
    };
    // The last lines are on their way when the end is known.
    loop {
        match updates.try_recv() {
            Ok(update) => tell(update),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return outcome,
        }
    }
}

/// What the condition and the log say of an installation.
fn said(progress: &build::Progress) -> Vec<Told> {
    let both = |text: String| vec![Told::Progress(text.clone()), Told::Line(text)];
    match progress {
        build::Progress::Queued => vec![Told::Progress("waits for another installation".to_owned())],
        build::Progress::Started { tool } => both(format!("{tool} runs")),
        build::Progress::Note(note) => both(note.clone()),
        build::Progress::Fetched { name } => vec![Told::Progress(format!("fetched {name}"))],
        build::Progress::Line(line) => vec![Told::Line(line.clone())],
        build::Progress::Finished { .. } => vec![Told::Line("the dependencies are installed".to_owned())],
        // Its last lines were told already.
        build::Progress::Failed { message } => {
            vec![Told::Line(message.lines().next().unwrap_or_default().to_owned())]
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Missing> + Send + 'static,
) -> Result<T, Missing> {
    let ended = |_| Missing::new(Lack::BuildFailed, "the work was cut off: Hearth is shutting down");
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_its_interpreter() {
        for (command, runtime) in [
            ("node", Some("nodejs")),
            ("/usr/local/bin/node", Some("nodejs")),
            ("npm", Some("nodejs")),
            ("python3", Some("python3")),
            ("/usr/bin/python3.12", Some("python3.12")),
            ("./node-server", None),
            ("python-app", None),
            ("gunicorn", None),
            ("", None),
        ] {
            assert_eq!(named(command).as_deref(), runtime, "{command}");
        }
    }

    #[test]
    fn what_npm_and_pip_print_goes_into_the_log_and_how_far_they_are_into_the_condition() {
        let line = |text: &str| Told::Line(text.to_owned());
        let progress = |text: &str| Told::Progress(text.to_owned());
        let printed = build::Progress::Line("npm error code E404".to_owned());
        assert_eq!(said(&printed), [line("npm error code E404")]);
        let note = build::Progress::Note("yarn.lock is not read".to_owned());
        assert_eq!(said(&note), [progress("yarn.lock is not read"), line("yarn.lock is not read")]);
        let fetched = build::Progress::Fetched { name: "left-pad".to_owned() };
        assert_eq!(said(&fetched), [progress("fetched left-pad")]);
    }

    #[tokio::test]
    async fn updates_are_heard_after_some_were_lost() {
        let (updates, heard) = broadcast::channel(1);
        let (done, end) = tokio::sync::oneshot::channel();
        let mut done = Some(done);
        for number in 0..3 {
            updates.send(number).unwrap();
        }
        let mut told = Vec::new();
        let tell = |number| {
            told.push(number);
            // As the work ends some more are lost.
            if let Some(done) = done.take() {
                updates.send(3).unwrap();
                updates.send(4).unwrap();
                done.send(()).unwrap();
            }
        };
        let work = follow(heard, end, tell);
        tokio::time::timeout(std::time::Duration::from_secs(10), work).await.unwrap().unwrap();
        assert_eq!(told, [2, 4]);
    }

    #[test]
    fn a_bundle_tells_what_the_command_does_not() {
        let code = tempfile::tempdir().unwrap();
        assert_eq!(wants(code.path()), None);
        std::fs::write(code.path().join("package.json"), "{}").unwrap();
        assert_eq!(wants(code.path()), Some("nodejs"));
        std::fs::write(code.path().join("requirements.txt"), "").unwrap();
        assert_eq!(wants(code.path()), Some("python"));
    }
}
