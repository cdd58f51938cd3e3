//! What a controller keeps on its machine, standalone or in a cluster, beside the objects: logs, bundles, images, dependencies.

use std::sync::Arc;
use std::time::Duration;

use hearth_function::Revision;

use super::config::Config;
use super::running::Tasks;
use crate::autoscale::Adoptable;
use crate::backend::interpreters::Catalogue;
use crate::backend::{self, Backend, Found, ImageForm};
use crate::build::{self, Bundles, Dependencies, Fetcher, Images};
use crate::deploy;
use crate::store::Store;
use crate::telemetry::logs::{self, Logs};

/// What cannot be opened, or looked at.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The logs of functions.
    #[error(transparent)]
    Logs(#[from] logs::Error),
    /// What an earlier controller left.
    #[error("cannot look for instances of an earlier controller")]
    Backend(#[from] backend::Error),
    /// Bundles.
    #[error(transparent)]
    Bundles(#[from] build::bundles::Error),
    /// Sources that lie elsewhere.
    #[error(transparent)]
    Fetch(#[from] build::fetch::Error),
    /// Images.
    #[error(transparent)]
    Images(#[from] build::images::Error),
    /// Dependencies.
    #[error(transparent)]
    Dependencies(#[from] build::dependencies::Error),
}

/// What code is made of, as it is kept in the data directory.
#[derive(Debug)]
pub(super) struct Stores {
    pub(super) bundles: Bundles,
    pub(super) images: Images,
    pub(super) dependencies: Arc<Dependencies>,
    fetcher: Fetcher,
}

impl Stores {
    /// Opens them; dependencies are installed in instances of `backend`.
    ///
    /// # Errors
    /// When the data directory is not as it must be.
    pub(super) fn open(config: &Config, backend: &Arc<dyn Backend>) -> Result<Self, Error> {
        let data = &config.main.data_dir;
        let limits = bundle_limits(config);
        let bundles = Bundles::open(data, limits)?;
        let fetching = build::fetch::Config { limits, timeout: config.build.timeout };
        let fetcher = Fetcher::open(data, bundles.clone(), fetching)?;
        let images = Images::open(data, images_config(config))?;
        let dependencies = Dependencies::open(data, Arc::clone(backend), build_config(config))?;
        Ok(Self { bundles, images, dependencies: Arc::new(dependencies), fetcher })
    }

    /// Where the deployer takes code from, with the interpreters of this machine and no other place to look for bundles.
    pub(super) fn sources(&self, backend: &Arc<dyn Backend>) -> deploy::Sources {
        deploy::Sources {
            bundles: self.bundles.clone(),
            dependencies: Arc::clone(&self.dependencies),
            fetcher: self.fetcher.clone(),
            images: self.images.clone(),
            engine: (backend.image_form() == ImageForm::Reference).then(|| Arc::clone(backend)),
            fixity: backend.fixity(),
            program_image: None,
            interpreters: Catalogue::Machine,
            depot: None,
            keyring: None,
        }
    }
}

/// Opens the logs, which are written in a task of their own.
///
/// # Errors
/// When the data directory is not as it must be.
pub(super) fn open_logs(config: &Config, tasks: &mut Tasks) -> Result<Logs, Error> {
    let limits = logs::Limits {
        per_function: config.logs.per_function.as_bytes(),
        per_call: config.logs.per_call.as_bytes(),
    };
    let (logs, writer) = Logs::open(config.main.data_dir.join("logs"), limits)?;
    tasks.spawn_blocking("log writer", move || writer.run());
    Ok(logs)
}

/// What an earlier controller left, as the backend has found it, each instance with the last line of it that is kept here; in a cluster that
/// other one had the lines before.
///
/// # Errors
/// When the logs cannot be read.
pub(super) async fn adoptable(all: Vec<Found>, store: &Store, logs: &Logs) -> Result<Vec<Adoptable>, Error> {
    let mut adoptable = Vec::new();
    for found in all {
        let logs_after = match &found.spec.owner {
            Some(owner) if found.ended.is_none() => {
                logs.last_sequence(&owner.function, &found.spec.id).await?
            }
            _ => 0,
        };
        let revision = found.spec.owner.as_ref().map(|owner| &owner.revision);
        let revision = revision.and_then(|id| store.get::<Revision>(id.namespace(), id.name()).ok());
        let execute = revision.map_or(Duration::ZERO, |one| one.spec.template.timeouts.execute.get());
        adoptable.push(Adoptable { found, logs_after, execute });
    }
    Ok(adoptable)
}

/// What of them is kept that nobody uses.
pub(super) fn keeping(config: &Config) -> deploy::Keeping {
    deploy::Keeping { age: config.cache.keep, unused_bytes: config.cache.max_unused.as_bytes() }
}

fn bundle_limits(config: &Config) -> build::Limits {
    let packed_bytes = config.build.max_bundle.as_bytes();
    build::Limits { packed_bytes, unpacked_bytes: packed_bytes.saturating_mul(4), ..build::Limits::default() }
}

/// What Pods may hold of it. A disk gives whole blocks, also for a small file.
pub(super) fn pod_sizes(config: &Config) -> backend::kubernetes::Sizes {
    const BLOCK: u64 = 4096;
    let code = bundle_limits(config);
    let installing = config.build.max_installed.as_bytes().saturating_mul(2);
    backend::kubernetes::Sizes {
        code_bytes: code.unpacked_bytes.saturating_add(code.entries * BLOCK),
        // What was installed within the limit takes no more of a disk than it may have taken while it was.
        dependencies_bytes: installing,
        build_bytes: installing,
    }
}

fn images_config(config: &Config) -> build::images::Config {
    build::images::Config {
        unpacked_bytes: config.images.max_unpacked.as_bytes(),
        timeout: config.images.timeout,
        access: build::images::Access { plain: config.images.plain_http.clone() },
        ..build::images::Config::default()
    }
}

fn build_config(config: &Config) -> build::dependencies::Config {
    let mut install_env = build::dependencies::select_environment(std::env::vars());
    for variable in &config.build.env {
        if let Some((name, value)) = variable.reveal().split_once('=') {
            install_env.insert(name.to_owned(), value.to_owned());
        }
    }
    build::dependencies::Config {
        timeout: config.build.timeout,
        memory_bytes: config.build.memory.as_bytes(),
        installed_bytes: config.build.max_installed.as_bytes(),
        free_bytes: config.build.min_free.as_bytes(),
        install_env,
        ..build::dependencies::Config::default()
    }
}
