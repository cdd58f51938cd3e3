//! What the shim of an instance is told.

use std::path::Path;

use hearth_protocol::config::{ShimConfig, ShimProcess};

use crate::backend::rooted::Rooted;
use crate::backend::{Error, InstanceSpec, Process, Root};

/// What the shim is told. `interpreter` is where the root has it.
///
/// # Errors
/// When one is needed and there is none.
pub(in crate::backend) fn config(
    spec: &InstanceSpec,
    interpreter: Option<String>,
) -> Result<ShimConfig, Error> {
    let process = match &spec.process {
        Process::Nodejs => ShimProcess::Nodejs { interpreter: found(interpreter, "node")? },
        Process::Python => ShimProcess::Python { interpreter: found(interpreter, "python3")? },
        Process::Http { command } => ShimProcess::Http { command: command.clone() },
        Process::Exec { command } => ShimProcess::Exec { command: command.clone() },
        Process::Job { command } => ShimProcess::Job { command: command.clone() },
    };
    let mut config = ShimConfig::new(
        spec.id.as_str(),
        spec.secret.as_str(),
        process,
        spec.concurrency,
        spec.limits.memory_bytes,
    );
    config.env = spec.env.clone();
    if spec.build_dir.is_some() {
        "/build".clone_into(&mut config.working_directory);
    }
    if let Some(directory) = &spec.working_directory {
        config.working_directory.clone_from(directory);
    }
    if let Some(user) = spec.user {
        (config.uid, config.gid) = (user.uid, user.gid);
    }
    Ok(config)
}

/// Whether an image's root has a file there, its links taken as its own.
fn is_there(root: &Path, place: &str) -> bool {
    Rooted::open(root).is_ok_and(|root| root.file(Path::new(place)).is_ok())
}

/// The interpreter that a start has found.
fn found(interpreter: Option<String>, program: &str) -> Result<String, Error> {
    interpreter.ok_or_else(|| Error::Invalid {
        what: format!("the instance's root has no {program}"),
        remedy: format!("use a root with {program} in /usr/local/bin or /usr/bin"),
    })
}

/// The interpreter as the instance sees it, where the root is the host's own or a directory.
pub(in crate::backend) fn interpreter(spec: &InstanceSpec) -> Option<String> {
    let program = match spec.process {
        Process::Nodejs => "node",
        Process::Python => "python3",
        Process::Http { .. } | Process::Exec { .. } | Process::Job { .. } => return None,
    };
    match &spec.root {
        Root::Host { interpreter } => interpreter.as_ref().map(|path| path.to_string_lossy().into_owned()),
        Root::Directory(path) => ["usr/local/bin", "usr/bin", "bin"]
            .iter()
            .map(|place| format!("{place}/{program}"))
            .find(|place| is_there(path, place))
            .map(|place| format!("/{place}")),
        Root::Runtime { interpreter, .. } => {
            interpreter.as_ref().map(|path| path.to_string_lossy().into_owned())
        }
        Root::Image(_) => None,
    }
}
