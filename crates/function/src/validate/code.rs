//! The code of a Function: where it comes from, how it is entered, what surrounds it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Problems, Side};
use crate::spec::{FunctionSpec, Signature, SourceKind};
use crate::values::RuntimeName;

/// Text of all inline files together; an object of Kubernetes holds 1.5 MiB and must hold the rest too.
const INLINE_BYTES: usize = 1024 * 1024;
/// Linux takes one text of an environment up to this (`MAX_ARG_STRLEN`), name and `=` included.
const ENV_ENTRY_BYTES: usize = 128 * 1024 - 1;
/// All of a function's environment, well below what a start of a process can carry.
const ENV_BYTES: usize = 512 * 1024;

pub(super) fn check(spec: &FunctionSpec, side: Side, found: &mut Problems) {
    source(spec, side, found);
    entry(spec, found);
    environment(spec, found);
}

fn source(spec: &FunctionSpec, side: Side, found: &mut Problems) {
    let kinds = spec.source.kinds();
    match kinds.as_slice() {
        [] => {
            let fix = "give path, inline, bundle, archive, git or image, as in `source: { path: . }`";
            found.add("spec.source", "it is not said where the code comes from", fix);
        }
        [_] => {}
        several => {
            let names: Vec<String> = several.iter().map(|kind| format!("`{}`", kind.field())).collect();
            let message = format!("{} are given, and code comes from one place", names.join(" and "));
            found.add("spec.source", message, format!("keep one of {}", names.join(", ")));
        }
    }
    for kind in kinds {
        match kind {
            SourceKind::Path(_) if side != Side::Client => {
                let fix = match side {
                    Side::Cluster => {
                        "use `hearth apply`, which uploads the directory, or give the files as `inline`"
                    }
                    Side::Client | Side::Server => {
                        "use `hearth apply` or `hearth up`, which upload the directory, or give the files as `inline`"
                    }
                };
                found.add("spec.source.path", "a server does not read directories of its clients", fix);
            }
            SourceKind::Path("") => {
                found.add("spec.source.path", "the path is empty", "write `.` for this directory")
            }
            SourceKind::Path(path) if path.contains('\0') => {
                found.add("spec.source.path", "no path has a NUL character", "take it out");
            }
            SourceKind::Inline(files) => inline(spec, files, found),
            SourceKind::Archive(archive) => {
                if !["http://", "https://"].iter().any(|scheme| archive.url.starts_with(scheme)) {
                    let message = format!("{:?} is not a web address", archive.url);
                    found.add("spec.source.archive.url", message, "begin it with https://");
                }
                let hex = archive.sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
                if archive.sha256.len() != 64 || !hex {
                    let fix = "write its 64 hex digits, as sha256sum prints them";
                    found.add("spec.source.archive.sha256", "this is not a sha256", fix);
                }
            }
            SourceKind::Git(git) => {
                if !["http://", "https://"].iter().any(|scheme| git.url.starts_with(scheme)) {
                    let message = format!("{:?} is not a web address", git.url);
                    found.add("spec.source.git.url", message, "begin it with https://");
                }
            }
            SourceKind::Image("") => {
                found.add(
                    "spec.source.image",
                    "the image is empty",
                    "write its reference, as in example.com/app:1",
                );
            }
            SourceKind::Path(_) | SourceKind::Bundle(_) | SourceKind::Image(_) => {}
        }
    }
}

fn inline(spec: &FunctionSpec, files: &BTreeMap<String, String>, found: &mut Problems) {
    const PATH: &str = "spec.source.inline";
    if files.is_empty() {
        found.add(PATH, "there are no files", "give at least one, as in `index.js: …`");
        return;
    }
    let bytes: usize = files.iter().map(|(name, text)| name.len() + text.len()).sum();
    if bytes > INLINE_BYTES {
        let message =
            format!("the files have {bytes} bytes together, and {INLINE_BYTES} fit into a manifest");
        found.add(PATH, message, "put them into a directory and name it as `path`");
    }
    for name in files.keys() {
        let whole = name.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !whole || name.contains(['\0', '\\']) || name.len() > 255 {
            let path = crate::check::join(PATH, name);
            found.add(
                path,
                format!("{name:?} cannot be the name of a file"),
                "name it from the root of the source, as in src/api.js",
            );
        }
    }
    // A file and a directory of one name.
    for name in files.keys() {
        if files
            .keys()
            .any(|other| other.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('/')))
        {
            let path = crate::check::join(PATH, name);
            found.add(path, format!("`{name}` is a file and a directory"), "rename one of them");
        }
    }
    // Where none is called, that is what is said.
    if let Some(handler) = &spec.handler
        && spec.runtime.has_handler()
        && !handler.files(spec.runtime).iter().any(|file| files.contains_key(file))
    {
        let names: Vec<String> = files.keys().take(5).map(|name| format!("`{name}`")).collect();
        let message = format!(
            "`{handler}` names the file `{}`, and inline has {}",
            handler.file_stem(),
            names.join(", ")
        );
        let fix = "name a file that is there, without its extension";
        found.add_from(&["spec.source", "spec.runtime"], "spec.handler", message, fix);
    }
}

fn entry(spec: &FunctionSpec, found: &mut Problems) {
    let runtime = spec.runtime;
    if runtime.has_handler() {
        if spec.handler.is_none() {
            let example =
                if matches!(runtime, RuntimeName::Python(_)) { "main.handler" } else { "index.handler" };
            let message = format!("{runtime} needs a handler: the file and its export that are called");
            found.add("spec.handler", message, format!("write it as in `handler: {example}`"));
        }
        if !spec.command.is_empty() {
            let message = format!("{runtime} calls a handler and runs no command");
            found.add("spec.command", message, "take it out, or use `runtime: http`");
        }
    } else {
        if spec.handler.is_some() {
            let message = format!("{runtime} runs a command and calls no handler");
            found.add("spec.handler", message, "take it out, or use `runtime: nodejs` or `runtime: python`");
        }
        let needs_command =
            matches!(runtime, RuntimeName::Http | RuntimeName::Exec) && spec.source.image.is_none();
        if needs_command && spec.command.is_empty() {
            let message = format!("{runtime} needs a command: the program and its arguments");
            found.add("spec.command", message, "write it as in `command: [ ./server ]`");
        }
    }
    if spec.command.first().is_some_and(String::is_empty) {
        found.add("spec.command[0]", "the program's name is empty", "write its name or path");
    }
    for (index, argument) in spec.command.iter().enumerate() {
        if argument.contains('\0') {
            found.add(format!("spec.command[{index}]"), "no argument has a NUL character", "take it out");
        }
    }
    let fits = match (spec.signature, runtime) {
        (Signature::Auto, _) => true,
        (Signature::Event, runtime) => runtime.has_handler(),
        (Signature::Http | Signature::Fetch, runtime) => matches!(runtime, RuntimeName::Nodejs(_)),
        (Signature::Asgi | Signature::Wsgi, runtime) => matches!(runtime, RuntimeName::Python(_)),
    };
    if !fits {
        let fix = match runtime {
            RuntimeName::Nodejs(_) => "use auto, event, http or fetch",
            RuntimeName::Python(_) => "use auto, event, asgi or wsgi",
            RuntimeName::Http | RuntimeName::Exec | RuntimeName::Provided => "take it out",
        };
        let message = format!("{runtime} has no handlers of the signature {}", spec.signature.as_str());
        found.add("spec.signature", message, fix);
    }
}

fn environment(spec: &FunctionSpec, found: &mut Problems) {
    let mut names = BTreeSet::new();
    let mut bytes = 0;
    for (index, variable) in spec.env.iter().enumerate() {
        let name = variable.name.as_str();
        let path = format!("spec.env[{index}].name");
        let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !first || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let fix = "use letters, digits and underscores, not a digit first";
            found.add(&path, format!("{name:?} is not the name of a variable"), fix);
        } else if name == "PORT" || name.starts_with("HEARTH_") {
            found.add(&path, format!("`{name}` is set by Hearth"), "use another name");
        }
        if !names.insert(name) {
            found.add(&path, format!("`{name}` is given twice"), "keep one of them");
        }
        if variable.value.is_some() && variable.value_from.is_some() {
            let path = format!("spec.env[{index}]");
            found.add(
                path,
                "there are a value and a place where the value is",
                "keep `value` or `valueFrom`",
            );
        }
        let value = variable.value.as_deref().unwrap_or_default();
        let path = format!("spec.env[{index}].value");
        if value.contains('\0') {
            found.add(&path, "no variable has a NUL character", "take it out");
        }
        let size = name.len() + 1 + value.len();
        if size > ENV_ENTRY_BYTES {
            found.add(
                &path,
                format!("the variable has {size} bytes"),
                format!("keep it below {ENV_ENTRY_BYTES}"),
            );
        }
        bytes += size;
    }
    if bytes > ENV_BYTES {
        let message = format!("the environment has {bytes} bytes");
        found.add("spec.env", message, format!("keep it below {ENV_BYTES}, or put the rest into a file"));
    }
}
