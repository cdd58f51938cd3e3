//! `hearth runtimes` and `hearth runtime`: what runs functions on this machine, and images of it.

use std::fs;
use std::io;
use std::path::Path;

use serde::Serialize;

use super::args::{FromHost, Runtime, Runtimes};
use super::error::Error;
use super::out::{self, Paint};
use crate::backend::interpreters::{self, Interpreter, Language};
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
            let used = interpreters::find(&runtime).ok();
            let (usable, detail) = told(&one, interpreters::oldest(language), used.as_ref());
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

/// Whether an interpreter is usable; and where it is, or why not. `used` is the one that runs functions of its version.
fn told(one: &Interpreter, oldest: [u32; 2], used: Option<&Interpreter>) -> (bool, String) {
    let (path, [major, minor, _]) = (one.path.display(), one.version);
    match used {
        _ if [major, minor] < oldest => {
            (false, format!("{path}: Hearth needs {}.{} or later", oldest[0], oldest[1]))
        }
        Some(used) if used.path != one.path => (true, format!("{path} ({} is used)", used.path.display())),
        _ => (true, path.to_string()),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_that_is_too_old_is_told_in_a_few_words() {
        let at = |path: &str, version| Interpreter {
            language: Language::Python,
            path: path.into(),
            version,
            prefix: "/opt".into(),
            image: None,
        };
        let (old, own, systems) =
            (at("/opt/3.9", [3, 9, 1]), at("/opt/3.12", [3, 12, 1]), at("/usr/bin/python3.12", [3, 12, 7]));
        let told = |one, used| told(one, [3, 11], used);
        assert_eq!(told(&old, None), (false, "/opt/3.9: Hearth needs 3.11 or later".to_owned()));
        assert_eq!(told(&systems, Some(&systems)), (true, "/usr/bin/python3.12".to_owned()));
        assert_eq!(told(&own, Some(&systems)), (true, "/opt/3.12 (/usr/bin/python3.12 is used)".to_owned()));
    }
}
