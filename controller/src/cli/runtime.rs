//! `hearth runtimes` and `hearth runtime`: what runs functions on this machine, and images of it.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::args::{FromHost, Runtime, Runtimes};
use super::error::Error;
use super::out::{self, Paint};
use crate::backend::interpreters::{self, Language};
use crate::backend::shim_files;
use crate::serve::builder;

/// One runtime of this machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    runtime: String,
    usable: bool,
    version: String,
    /// Where it is, or why it is not usable.
    detail: String,
}

/// Lists the runtimes.
pub(super) fn list(arguments: &Runtimes) -> Result<(), Error> {
    let mut listed = Vec::new();
    for (language, name) in [(Language::Nodejs, "nodejs"), (Language::Python, "python")] {
        if let Err(error) = interpreters::find(name) {
            listed.push(Listed {
                runtime: name.to_owned(),
                usable: false,
                version: String::new(),
                detail: error.to_string(),
            });
        }
        for one in interpreters::all(language) {
            let [major, minor, patch] = one.version;
            let pinned =
                if language == Language::Nodejs { major.to_string() } else { format!("{major}.{minor}") };
            let runtime = format!("{name}{pinned}");
            let (usable, detail) = match interpreters::find(&runtime) {
                Ok(found) if found.path == one.path => (true, one.path.display().to_string()),
                Ok(found) => (true, format!("{} ({} is used)", one.path.display(), found.path.display())),
                Err(error) => (false, error.to_string()),
            };
            listed.push(Listed { runtime, usable, version: format!("{major}.{minor}.{patch}"), detail });
        }
        for one in interpreters::refused(language) {
            let detail = format!("{}: {}", one.path.display(), one.why);
            listed.push(Listed { runtime: name.to_owned(), usable: false, version: String::new(), detail });
        }
    }
    let always = |runtime: &str, detail: &str| Listed {
        runtime: runtime.to_owned(),
        usable: true,
        version: String::new(),
        detail: detail.to_owned(),
    };
    listed.push(always("http", "any server that listens on $PORT, any image"));
    listed.push(always("exec", "any program, one process for each call"));
    listed.push(Listed {
        usable: false,
        ..always("provided", "not built yet: use nodejs, python, http or exec")
    });
    if let Some(form) = arguments.output.form {
        return out::object(&listed, form);
    }
    let row = |one: &Listed| {
        let mark = if one.usable { out::paint("yes", Paint::Good) } else { out::paint("no", Paint::Bad) };
        vec![one.runtime.clone(), mark, one.version.clone(), one.detail.clone()]
    };
    let rows: Vec<Vec<String>> = listed.iter().map(row).collect();
    out::text(&out::table(&["RUNTIME", "USABLE", "VERSION", "WHERE, OR WHY NOT"], &rows))
}

/// Writes what a runtime image needs beside an interpreter.
fn files(directory: &Path) -> Result<(), Error> {
    let failed = |error: &dyn std::error::Error| {
        Error::failed(format!("cannot write {}: {}", directory.display(), crate::telemetry::chain(error)))
    };
    if directory.exists() {
        return Err(Error::fixable(
            format!("{} is there already", directory.display()),
            "name another directory",
        ));
    }
    let installed = shim_files::install(directory).map_err(|error| failed(&error))?;
    let write = || {
        fs::rename(&installed, directory.join("hearth"))?;
        fs::remove_dir(directory.join("shim"))?;
        for mount_point in ["code", "deps", "run/hearth"] {
            fs::create_dir_all(directory.join(mount_point))?;
        }
        std::os::unix::fs::symlink("/deps/node_modules", directory.join("node_modules"))
    };
    write().map_err(|error: io::Error| failed(&error))
}

/// Runs `hearth runtime`.
pub(super) async fn run(arguments: Runtime) -> Result<(), Error> {
    let FromHost { runtime, destination } = match arguments {
        Runtime::FromHost(arguments) => arguments,
        Runtime::Files(arguments) => return files(&arguments.directory),
    };
    if destination.output.is_none() && destination.push.is_none() && destination.load.is_none() {
        return Err(Error::Usage {
            what: "it is not said where the image is to go".to_owned(),
            fix: format!("hearth runtime from-host {runtime} --output oci:DIR, --push REFERENCE or --load"),
        });
    }
    let cache = destination.cache()?;
    let (of, at) = (runtime.clone(), cache.clone());
    let making = tokio::task::spawn_blocking(move || builder::host_image(&of, &at)).await;
    let made = making.map_err(|error| Error::failed(format!("making the image: {error}")))?;
    let image = made.map_err(|error| Error::failed(crate::telemetry::chain(&error)))?;
    destination.bring(&runtime, &image, &cache).await
}
