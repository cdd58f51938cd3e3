//! `hearth build`: packs what a manifest names, has the image built, and brings it to where it is to go.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use indicatif::{ProgressBar, ProgressStyle};
use kube::ResourceExt;

use super::args::{Build, Destination};
use super::error::Error;
use super::manifest::{self, Manifest};
use super::{apply, image, out};
use crate::build::compose::{Image, docker_archive};
use crate::build::images::local::Local;
use crate::build::images::{Access, Remote};
use crate::build::{self, Packed};
use crate::serve::builder;

/// Engines whose command takes an archive, the first that is here.
const ENGINES: [&str; 2] = ["docker", "podman"];

/// Runs the command.
pub(super) async fn run(arguments: Build) -> Result<(), Error> {
    let manifest = one(&arguments)?;
    let name = manifest.function.name_any();
    let cache = arguments.destination.cache()?;
    let packed = packed(&manifest).await?;
    let spec = &manifest.function.spec;
    let base = match &arguments.base {
        Some(base) => Some(base_image(base, &cache, arguments.destination.plain_http).await?),
        None => None,
    };
    let request = builder::Request {
        code: packed,
        runtime: spec.runtime,
        command: spec.command.clone(),
        handler: spec.handler.as_ref().map(ToString::to_string),
        base,
    };
    let spinner = spinner(&name);
    let say = |text: String| spinner.set_message(format!("{name}: {text}"));
    let built = builder::build(request, &cache, say).await;
    spinner.finish_and_clear();
    let built = built
        .map_err(|error| Error::failed(format!("function {name}: {}", crate::telemetry::chain(&error))))?;
    for (what, layer, known) in &built.parts {
        let state = if *known { "kept" } else { "new" };
        out::note(&format!(
            "{what:<12}  {state:<4}  {:>8}  {}",
            out::bytes_for_people(layer.size),
            layer.digest
        ));
    }
    if !built.left_out.is_empty() {
        out::note(&format!(
            "left out, for their names say that they are secret: {}",
            built.left_out.join(", ")
        ));
    }
    arguments.destination.bring(&name, &built.image, &cache).await
}

/// The one function that is meant.
fn one(arguments: &Build) -> Result<Manifest, Error> {
    let manifests = manifest::read_all(std::slice::from_ref(&arguments.path), manifest::Sources::Needed)?;
    let names: Vec<String> = manifests.iter().map(|manifest| manifest.function.name_any()).collect();
    let mut fitting = manifests.into_iter().filter(|manifest| {
        arguments.function.as_ref().is_none_or(|name| *name == manifest.function.name_any())
    });
    match (fitting.next(), fitting.next()) {
        (Some(manifest), None) => Ok(manifest),
        (None, _) => Err(Error::fixable(
            format!("{} declares no such function", arguments.path.display()),
            format!("it declares: {}", names.join(", ")),
        )),
        (Some(_), Some(_)) => Err(Error::fixable(
            format!("{} declares several functions", arguments.path.display()),
            format!("name one with --function: {}", names.join(", ")),
        )),
    }
}

async fn packed(manifest: &Manifest) -> Result<Packed, Error> {
    if let Some(packed) = apply::packed(manifest).await? {
        return Ok(packed);
    }
    match &manifest.function.spec.source.inline {
        Some(files) => build::pack_inline(files, &build::Limits::default())
            .map_err(|error| Error::failed(crate::telemetry::chain(&error))),
        None => Err(Error::fixable(
            "only code of this machine is built: source.path or source.inline",
            "fetch what source names, and name its directory as source.path",
        )),
    }
}

async fn base_image(base: &str, cache: &Path, plain_http: bool) -> Result<Local, Error> {
    let failed = |error: build::images::Error| Error::failed(crate::telemetry::chain(&error));
    if let Some(directory) = base.strip_prefix("oci:") {
        return image::open(PathBuf::from(directory)).await;
    }
    if Path::new(base).is_file() {
        return image::open(PathBuf::from(base)).await;
    }
    let registry = build::images::reference(base).map_err(failed)?.resolve_registry().to_owned();
    let access = Access { plain: plain_http.then_some(registry).into_iter().collect() };
    let remote = Remote::open(base, &access).await.map_err(failed)?;
    let bar = image::transfer_bar(0, "pulling");
    let (whole, moving) = (bar.clone(), bar.clone());
    let saved = remote
        .save(&cache.join("bases"), move |bytes| whole.set_length(bytes), move |bytes| moving.inc(bytes))
        .await;
    bar.finish_and_clear();
    image::open(saved.map_err(failed)?).await
}

fn spinner(name: &str) -> ProgressBar {
    // Hidden by itself where standard error is no terminal.
    let spinner = ProgressBar::new_spinner().with_message(name.to_owned());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    spinner
}

impl Destination {
    /// Where things are kept for the next time.
    pub(super) fn cache(&self) -> Result<PathBuf, Error> {
        if let Some(directory) = &self.cache_dir {
            return Ok(directory.clone());
        }
        let home = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = home("XDG_CACHE_HOME").or_else(|| home("HOME").map(|home| home.join(".cache")));
        cache.map(|cache| cache.join("hearth")).ok_or_else(|| {
            Error::fixable("it is not known where layers are to be kept", "give --cache-dir DIR")
        })
    }

    /// Brings an image to wherever it is to go, and prints its digest.
    pub(super) async fn bring(&self, name: &str, image: &Image, cache: &Path) -> Result<(), Error> {
        let failed = |error: builder::Error| Error::failed(crate::telemetry::chain(&error));
        let of_its_own = cache.join(format!("out-{}", std::process::id()));
        let directory = self.output.clone().unwrap_or_else(|| of_its_own.clone());
        let written = builder::write(&directory, image).map_err(failed);
        let brought = match written {
            Ok(digest) => self.send(name, &directory).await.map(|()| digest),
            Err(error) => Err(error),
        };
        // Nobody has named it.
        let _gone = std::fs::remove_dir_all(&of_its_own).is_err();
        out::line(brought?.as_str())
    }

    async fn send(&self, name: &str, directory: &Path) -> Result<(), Error> {
        if self.push.is_none() && self.load.is_none() {
            return Ok(());
        }
        let local = image::open(directory.to_owned()).await?;
        if let Some(reference) = &self.push {
            image::push(&local, reference, self.plain_http).await?;
        }
        match &self.load {
            Some(given) => {
                let name = if given.is_empty() { name } else { given };
                let name = if name.contains(':') { name.to_owned() } else { format!("{name}:latest") };
                let loading = tokio::task::spawn_blocking(move || load(&local, &name)).await;
                loading.map_err(|error| Error::failed(format!("loading the image: {error}")))?
            }
            None => Ok(()),
        }
    }
}

/// Hands an image to the local engine, by its own command: that knows where the engine is.
fn load(local: &Local, name: &str) -> Result<(), Error> {
    for engine in ENGINES {
        let command = Command::new(engine).arg("load").stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut child = match command {
            Ok(child) => child,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::failed(format!("{engine} cannot be run: {error}"))),
        };
        let written = match child.stdin.take() {
            Some(stdin) => docker_archive(local, name, std::io::BufWriter::with_capacity(256 * 1024, stdin)),
            None => Ok(()),
        };
        let status = child.wait().map_err(|error| Error::failed(format!("{engine} load: {error}")))?;
        if !status.success() {
            return Err(Error::fixable(
                format!("{engine} load did not take the image"),
                "see what it said above",
            ));
        }
        written.map_err(|error| Error::failed(format!("{engine} load: {error}")))?;
        out::note(&format!("loaded into {engine} as {name}"));
        return Ok(());
    }
    Err(Error::fixable(
        "there is neither docker nor podman here to load the image into",
        "write it with --output oci:DIR, or push it with --push REFERENCE",
    ))
}
