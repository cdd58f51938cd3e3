//! `hearth build`: from a Function's code to an image, with stores of its own and no server. Only an installation of dependencies needs more: an
//! instance of the embedded backend, which ends with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_function::{Digest, RuntimeName};

use super::lock;
use crate::backend::interpreters::{self, Catalogue, Interpreter};
use crate::backend::{self, Backend, embedded, shim_files};
use crate::build::compose::{self, Archive, Image, Kept, Layer, Run};
use crate::build::images::local::Local;
use crate::build::{self, Bundles, Dependencies, Packed, Plan, Progress, Toolchain};
use crate::deploy::interpreter_of;

/// What is to be built.
#[derive(Debug)]
pub struct Request {
    /// The packed code.
    pub code: Packed,
    /// What runs it.
    pub runtime: RuntimeName,
    /// Program and arguments, for `http` and `exec`.
    pub command: Vec<String>,
    /// The handler, for the image's labels.
    pub handler: Option<String>,
    /// The image to build upon; `None`: the host's own interpreter.
    pub base: Option<Local>,
}

/// An image that is ready to be written, and how it came about.
#[derive(Debug)]
pub struct Built {
    /// The image.
    pub image: Image,
    /// Its layers: what they are, and whether they were there already.
    pub parts: Vec<(&'static str, Layer, bool)>,
    /// Files that were left out because their names say that they are secret.
    pub left_out: Vec<String>,
}

/// Why it was not built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cache directory.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The code.
    #[error(transparent)]
    Bundle(#[from] build::bundles::Error),
    /// The interpreter.
    #[error(transparent)]
    Interpreter(#[from] interpreters::Error),
    /// The shim's files.
    #[error(transparent)]
    Shim(#[from] shim_files::Error),
    /// What is asked to be installed cannot be told.
    #[error(transparent)]
    Plan(#[from] build::dependencies::PlanError),
    /// The dependencies.
    #[error("{0}")]
    Dependencies(String),
    /// The image.
    #[error(transparent)]
    Compose(#[from] compose::Error),
    /// The backend that an installation needs.
    #[error(transparent)]
    Open(#[from] backend::OpenError),
    /// What cannot be built.
    #[error("{what}: {fix}")]
    Invalid {
        /// What.
        what: String,
        /// What to do.
        fix: String,
    },
    /// It was cut off.
    #[error("the build was cut off")]
    CutOff,
}

/// Builds an image; what it keeps for the next time is in `cache`. `progress` hears what is done.
///
/// # Errors
/// As [`Error`] says; what is kept is whole.
pub async fn build(request: Request, cache: &Path, progress: impl Fn(String)) -> Result<Built, Error> {
    let _lock = lock::lock(cache)?;
    let bundles = Bundles::open(cache, build::Limits::default())?;
    let Request { code, runtime, command, handler, base } = request;
    let put = bundles.put(&code.digest, std::io::Cursor::new(code.bytes));
    let code = put.await?;
    let (at, words) = (code.clone(), command.clone());
    let interpreter =
        blocking(move || Ok(interpreter_of(&Catalogue::Machine, runtime, &words, &at)?)).await?;
    let plan = match &interpreter {
        Some(interpreter) => build::plan(&code, &Toolchain::of(interpreter.clone()))?,
        None => None,
    };
    if base.is_some() && plan.is_some() {
        return Err(Error::Invalid {
            what: "dependencies are installed for this host's interpreter, and an image of your own has another".to_owned(),
            fix: "give no --base, or install them into the directory and take package.json or requirements.txt out"
                .to_owned(),
        });
    }
    let installed = match &plan {
        Some(plan) => Some((plan.key.as_str().to_owned(), dependencies(plan, cache, &progress).await?)),
        None => None,
    };
    progress("writes the layers".to_owned());
    let cache = cache.to_owned();
    blocking(move || {
        let kept = Kept::open(&cache)?;
        let mut run = Run::default();
        let mut parts = Vec::new();
        match (&base, interpreter) {
            (Some(_), _) => {}
            (None, Some(interpreter)) => {
                let (layer, known, of_host) = host_layer(&kept, &cache, interpreter)?;
                run = of_host;
                parts.push(("base", layer, known));
            }
            (None, None) => {
                return Err(Error::Invalid {
                    what: format!(
                        "it is not known upon what {:?} runs",
                        command.first().cloned().unwrap_or_default()
                    ),
                    fix: "name an image with --base".to_owned(),
                });
            }
        }
        if let Some((key, installed)) = installed {
            let (layer, known) =
                kept.layer(&format!("deps-{key}"), |archive| compose::dependencies(archive, &installed))?;
            parts.push(("dependencies", layer, known));
        }
        let mut left_out = Vec::new();
        let path = cache.join(format!("code-{}", std::process::id()));
        let layer = Archive::write(&path, |archive| {
            left_out = compose::code(archive, &code)?;
            Ok(())
        })?;
        parts.push(("code", layer, false));
        "/code".clone_into(&mut run.working_directory);
        run.command = command;
        run.labels.extend(handler.map(|handler| ("dev.hearth.handler".to_owned(), handler)));
        let layers = parts.iter().map(|(_, layer, _)| layer.clone()).collect();
        Ok(Built { image: Image { base, layers, run }, parts, left_out })
    })
    .await
}

/// The host's own interpreter as an image. Blocks.
///
/// # Errors
/// As [`Error`] says.
pub fn host_image(runtime: &str, cache: &Path) -> Result<Image, Error> {
    let _lock = lock::lock(cache)?;
    let interpreter = interpreters::find(runtime)?;
    let (layer, _, run) = host_layer(&Kept::open(cache)?, cache, interpreter)?;
    Ok(Image { base: None, layers: vec![layer], run })
}

fn host_layer(kept: &Kept, cache: &Path, interpreter: Interpreter) -> Result<(Layer, bool, Run), Error> {
    let host = compose::host::HostRuntime::new(interpreter, shim_files::install(cache)?);
    let (layer, known) = kept.layer(&host.key()?, |archive| host.fill(archive))?;
    Ok((layer, known, host.run()))
}

/// Where the dependencies are; installs them if they are not there, which needs root: in an instance of their own.
async fn dependencies(plan: &Plan, cache: &Path, progress: &impl Fn(String)) -> Result<PathBuf, Error> {
    if let Some(path) = Dependencies::installed(cache, &plan.key) {
        return Ok(path);
    }
    for note in &plan.notes {
        progress(note.clone());
    }
    let program = std::env::current_exe().map_err(|_| Error::CutOff)?;
    let settings = embedded::Config::new(program, cache.to_owned(), shim_files::install(cache)?);
    let backend = embedded::Embedded::open(settings).await?;
    let shared: Arc<dyn Backend> = backend.clone();
    let config = build::dependencies::Config {
        install_env: build::dependencies::select_environment(std::env::vars()),
        ..build::dependencies::Config::default()
    };
    let failed = |error: &dyn std::error::Error| Error::Dependencies(crate::telemetry::chain(error));
    let dependencies = Dependencies::open(cache, shared, config).map_err(|error| failed(&error))?;
    let mut updates = dependencies.updates();
    let installed = {
        let mut ensuring = std::pin::pin!(dependencies.ensure(plan));
        loop {
            tokio::select! {
                installed = &mut ensuring => break installed,
                Ok(update) = updates.recv() => match update.progress {
                    Progress::Started { tool } => progress(format!("{tool} runs")),
                    Progress::Fetched { name } => progress(format!("fetched {name}")),
                    _ => {}
                }
            }
        }
    };
    dependencies.close().await;
    if let Err(error) = backend.close().await {
        progress(format!("the installation left something behind: {error}"));
    }
    installed.map_err(|error| failed(error.as_ref()))
}

/// The digest of an image that is written into a directory. Blocks.
///
/// # Errors
/// As [`compose::write_layout`].
pub fn write(directory: &Path, image: &Image) -> Result<Digest, Error> {
    Ok(compose::write_layout(directory, image)?)
}

impl Drop for Built {
    /// The layer of the code is kept where the image was written.
    fn drop(&mut self) {
        if let Some((_, layer, _)) = self.parts.last() {
            let _gone = fs::remove_file(&layer.path).is_err();
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::CutOff)?
}
