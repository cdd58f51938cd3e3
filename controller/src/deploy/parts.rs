//! Where the parts of a Revision are on this machine: its code, its dependencies, its interpreter.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hearth_function::spec::SourceKind;
use hearth_function::{Digest, FunctionSpec, RuntimeName, Template};

use crate::backend::interpreters::{self, Interpreter};
use crate::build::{self, Bundles, Dependencies, Toolchain};
use crate::telemetry::chain;

/// Code and dependencies. Clones share both stores.
#[derive(Debug, Clone)]
pub struct Sources {
    /// The unpacked bundles.
    pub bundles: Bundles,
    /// The installed dependencies.
    pub dependencies: Arc<Dependencies>,
}

/// Why code or dependencies are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    /// A word for programs, as in `BundleMissing`.
    pub(super) reason: &'static str,
    /// A sentence for people, with the fix where there is one.
    pub(super) message: String,
}

impl Missing {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Where the parts are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) code: PathBuf,
    pub(super) dependencies: Option<PathBuf>,
    pub(super) interpreter: Option<PathBuf>,
    /// Under which the dependencies are kept.
    pub(super) key: Option<String>,
}

impl Sources {
    /// The digest of a Function's code. Files in the manifest become a bundle here.
    pub(super) async fn resolve(&self, spec: &FunctionSpec) -> Result<Digest, Missing> {
        match spec.source.kind() {
            Some(SourceKind::Bundle(digest)) => Ok(digest.clone()),
            Some(SourceKind::Inline(files)) => {
                let (bundles, files) = (self.bundles.clone(), files.clone());
                let packing = move || {
                    let packed = build::pack_inline(&files, &build::Limits::default())
                        .map_err(|error| Missing::new("SourceInvalid", chain(&error)))?;
                    if !bundles.has(&packed.digest) {
                        bundles
                            .put_blocking(&packed.digest, packed.bytes.as_slice())
                            .map_err(|error| Missing::new("SourceInvalid", chain(&error)))?;
                    }
                    Ok(packed.digest)
                };
                blocking(packing).await
            }
            Some(kind) => {
                let field = kind.field();
                Err(Missing::new("SourceInvalid", format!("source.{field} cannot be used by this server")))
            }
            None => Err(Missing::new("SourceInvalid", "spec.source has no field, or more than one")),
        }
    }

    /// Where the parts of `template` are; installs dependencies that are not there. `progress` is told what an installation does.
    pub(super) async fn ensure(
        &self,
        template: &Template,
        mut progress: impl FnMut(String),
    ) -> Result<Found, Missing> {
        let digest = &template.bundle;
        let missing = || {
            let message = format!("the bundle {digest} is not on this server: upload it (hearth apply does)");
            Missing::new("BundleMissing", message)
        };
        if !self.bundles.has(digest) {
            return Err(missing());
        }
        let code = self.bundles.path(digest).ok_or_else(missing)?;
        let Some(interpreter) = interpreter(template.runtime).await? else {
            return Ok(Found { code, ..Found::default() });
        };
        let toolchain = Toolchain::host(interpreter.clone());
        let at = code.clone();
        let planned = blocking(move || {
            build::plan(&at, &toolchain).map_err(|error| Missing::new("BuildFailed", chain(&error)))
        });
        let found = Found { code, interpreter: Some(interpreter.path), ..Found::default() };
        let Some(plan) = planned.await? else { return Ok(found) };
        let key = plan.key.clone();
        let mut updates = self.dependencies.updates();
        let mut ensuring = std::pin::pin!(self.dependencies.ensure(&plan));
        let path = loop {
            tokio::select! {
                path = &mut ensuring => break path,
                Ok(update) = updates.recv() => {
                    if update.key == key
                        && let Some(text) = said(&update.progress)
                    {
                        progress(text);
                    }
                }
            }
        };
        let path = path.map_err(|error| Missing::new("BuildFailed", chain(error.as_ref())))?;
        Ok(Found { dependencies: Some(path), key: Some(key.as_str().to_owned()), ..found })
    }

    /// Removes what nobody names and nobody has asked for in the last `keep`; how much. Blocks.
    pub(super) fn collect(
        &self,
        bundles: &HashSet<Digest>,
        keys: &HashSet<String>,
        keep: Duration,
        now: SystemTime,
    ) -> Result<usize, String> {
        let removed = self.bundles.collect(bundles, keep, now).map_err(|error| chain(&error))?.len();
        let live = self.dependencies.list().map_err(|error| chain(&error))?;
        let live = live.into_iter().filter(|key| keys.contains(key.as_str())).collect();
        let installed = self.dependencies.collect(&live, keep, now).map_err(|error| chain(&error))?.len();
        Ok(removed + installed)
    }
}

/// The interpreter that a runtime needs, if it needs one.
async fn interpreter(runtime: RuntimeName) -> Result<Option<Interpreter>, Missing> {
    if !runtime.has_handler() {
        return Ok(None);
    }
    blocking(move || {
        interpreters::find(&runtime.to_string())
            .map(Some)
            .map_err(|error| Missing::new("RuntimeMissing", error.to_string()))
    })
    .await
}

/// What a condition says of an installation that goes on.
fn said(progress: &build::Progress) -> Option<String> {
    match progress {
        build::Progress::Queued => Some("waits for another installation".to_owned()),
        build::Progress::Started { tool } => Some(format!("{tool} runs")),
        build::Progress::Note(note) => Some(note.clone()),
        build::Progress::Fetched { name } => Some(format!("fetched {name}")),
        build::Progress::Line(_) | build::Progress::Finished { .. } | build::Progress::Failed { .. } => None,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Missing> + Send + 'static,
) -> Result<T, Missing> {
    let ended = |_| Missing::new("BuildFailed", "the work was cut off: Hearth is shutting down");
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}
