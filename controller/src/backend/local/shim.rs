//! What the shim of an instance is told.

use std::path::Path;

use hearth_protocol::config::{ShimConfig, ShimProcess};

use crate::backend::rooted::Rooted;
use crate::backend::{Error, InstanceSpec, Process, Root};

/// What the shim is told.
pub(in crate::backend) fn config(spec: &InstanceSpec) -> Result<ShimConfig, Error> {
    let process = match &spec.process {
        Process::Nodejs => ShimProcess::Nodejs { interpreter: interpreter(&spec.root, "node")? },
        Process::Python => ShimProcess::Python { interpreter: interpreter(&spec.root, "python3")? },
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

/// The interpreter as the instance sees it.
fn interpreter(root: &Root, program: &str) -> Result<String, Error> {
    let found = match root {
        Root::Host { interpreter } => interpreter.as_ref().map(|path| path.to_string_lossy().into_owned()),
        Root::Directory(path) => ["usr/local/bin", "usr/bin", "bin"]
            .iter()
            .map(|place| format!("{place}/{program}"))
            .find(|place| is_there(path, place))
            .map(|place| format!("/{place}")),
        // Its engine knows what is in it; what finds programs in it does, too.
        Root::Image(_) => Some(program.to_owned()),
    };
    found.ok_or_else(|| Error::Invalid {
        what: format!("the instance's root has no {program}"),
        remedy: format!("use a root with {program} in /usr/local/bin or /usr/bin"),
    })
}
