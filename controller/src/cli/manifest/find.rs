//! Finding manifests on the disk, and saying what to do where there is none.

use std::path::{Path, PathBuf};

use super::MAX_BYTES;
use crate::cli::error::Error;

/// Extensions of manifests in a directory.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// The text of a file that is named as a manifest.
///
/// # Errors
/// When it is not there, cannot be read, or is no text; with the fix.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::fixable(
            format!("there is no {}", path.display()),
            "name a manifest, or a directory that holds one",
        ),
        _ => Error::failed(format!("{} cannot be read: {error}", path.display())),
    };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_BYTES {
        return Err(Error::failed(format!(
            "{} has {length} bytes: a manifest has at most {MAX_BYTES}",
            path.display()
        )));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    text(bytes, &path.display().to_string())
}

/// These bytes as text.
///
/// # Errors
/// When they are none: where that begins, and the fix.
pub(super) fn text(bytes: Vec<u8>, name: &str) -> Result<String, Error> {
    // What no text has: an editor would not show it either.
    let binary = bytes.contains(&0) && !bytes.starts_with(b"\xff\xfe") && !bytes.starts_with(b"\xfe\xff");
    let error = match String::from_utf8(bytes) {
        Ok(text) if !binary => return Ok(text),
        Ok(_) => None,
        Err(error) => Some(error),
    };
    if binary {
        return Err(Error::fixable(format!("{name} is a binary file"), "name a manifest: YAML or JSON"));
    }
    let place = error.map_or((1, 1), |error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let good = String::from_utf8_lossy(good);
        let line = good.rsplit('\n').next().unwrap_or_default();
        (good.matches('\n').count() + 1, line.chars().count() + 1)
    });
    Err(Error::fixable(
        format!("{name}:{}:{}: this is not UTF-8", place.0, place.1),
        "save the file as UTF-8",
    ))
}

/// The manifests directly in a directory, by name.
///
/// # Errors
/// When there is none, with what to do.
pub(super) fn files_in(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(directory)
        .map_err(|error| Error::failed(format!("{} cannot be read: {error}", directory.display())))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|extension| EXTENSIONS.contains(&extension))
        })
        // Other tools keep files of these kinds beside ours. One that cannot be read is not passed over: it may be one of ours.
        .filter(|path| path.is_file())
        .filter(|path| match std::fs::metadata(path) {
            // It is told that it is too large when it is read.
            Ok(metadata) if metadata.len() > super::MAX_BYTES => true,
            _ => std::fs::read(path).map_or(true, |bytes| is_ours(&String::from_utf8_lossy(&bytes))),
        })
        .collect();
    files.sort();
    if files.is_empty() { Err(none_in(directory)) } else { Ok(files) }
}

/// What to say of a file that is code and no manifest; `None` when it may be one.
pub(super) fn code(path: &Path, text: &str) -> Option<Error> {
    const CODE: [&str; 9] = ["js", "mjs", "cjs", "ts", "py", "sh", "go", "rs", "toml"];
    let extension = path.extension()?.to_str()?;
    if !CODE.contains(&extension) || is_ours(text) {
        return None;
    }
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    Some(Error::fixable(
        format!("{} is no manifest", path.display()),
        format!(
            "name the manifest that declares the function, or the directory that holds it, as in {}",
            directory.display()
        ),
    ))
}

fn is_ours(text: &str) -> bool {
    let kind = |line: &str| {
        let line: String = line
            .chars()
            .filter(|character| !character.is_whitespace() && !matches!(character, '"' | '\'' | ','))
            .collect();
        line == "kind:Function"
    };
    // Services of Knative are taken as they are.
    ["hearth.dev/", "serving.knative.dev/"].iter().any(|group| text.contains(group)) || text.lines().any(kind)
}

/// What to add to a directory that has code and no manifest.
fn none_in(directory: &Path) -> Error {
    let what = format!("there is no manifest in {}", directory.display());
    let has = |name: &str| directory.join(name).is_file();
    let code = [
        ("index.js", "nodejs", "index.handler"),
        ("index.mjs", "nodejs", "index.handler"),
        ("index.cjs", "nodejs", "index.handler"),
        ("main.py", "python", "main.handler"),
        ("app.py", "python", "app.app"),
    ];
    if let Some((_, runtime, handler)) = code.iter().find(|(file, _, _)| has(file)) {
        let name = name_for(directory);
        let manifest = format!(
            "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n  runtime: {runtime}\n  source: {{ path: . }}\n  handler: {handler}\n  triggers:\n    - http: {{ path: /{name} }}"
        );
        return Error::Failed {
            what,
            details: manifest.lines().map(|line| format!("  {line}")).collect(),
            fix: Some(format!(
                "write the lines above to {} and name the handler that the code exports",
                directory.join("function.yaml").display()
            )),
        };
    }
    let below: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && files_in(path).is_ok())
        .take(5)
        .map(|path| path.display().to_string())
        .collect();
    match below.first() {
        Some(first) => Error::Failed {
            what,
            details: vec![format!("directories below have some: {}", below.join(", "))],
            fix: Some(format!("name them, as in {first}")),
        },
        None => Error::fixable(
            what,
            "a manifest is a .yaml, .yml or .json file of kind Function: see `hearth explain function`",
        ),
    }
}

/// A function's name out of a directory's.
fn name_for(directory: &Path) -> String {
    let full = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let name = full.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = name
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '-' })
        .take(40)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "hello".to_owned() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_functions_and_services_of_knative_and_other_files() {
        for ours in [
            "apiVersion: hearth.dev/v1\n",
            "{\n  \"kind\": \"Function\",\n}",
            "kind : Function\n",
            "apiVersion: serving.knative.dev/v1\nkind: Service\n",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for foreign in ["kind: Service\n", "services: {}\n", "# Function\n", ""] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }

    #[test]
    fn what_is_no_text_is_told_with_its_place() {
        assert_eq!(text("é\n".into(), "x").unwrap(), "é\n");
        for (bytes, said) in [
            (&b"a: b\n# caf\xe9\n"[..], "error: x:2:6: this is not UTF-8\n  fix: save the file as UTF-8\n"),
            (b"\xff\xfea\0", "error: x:1:1: this is not UTF-8\n  fix: save the file as UTF-8\n"),
            (b"\x7fELF\0\xff", "error: x is a binary file\n  fix: name a manifest: YAML or JSON\n"),
        ] {
            assert_eq!(text(bytes.to_vec(), "x").unwrap_err().text(), said);
        }
    }
}
