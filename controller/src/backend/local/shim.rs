//! What the shim of an instance is told.

use hearth_protocol::config::{ShimConfig, ShimProcess};

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
    Ok(config)
}

/// The interpreter as the instance sees it.
fn interpreter(root: &Root, program: &str) -> Result<String, Error> {
    let found = match root {
        Root::Host { interpreter } => interpreter.as_ref().map(|path| path.to_string_lossy().into_owned()),
        Root::Directory(path) => ["usr/local/bin", "usr/bin", "bin"]
            .iter()
            .map(|place| format!("{place}/{program}"))
            .find(|place| path.join(place).exists())
            .map(|place| format!("/{place}")),
    };
    found.ok_or_else(|| Error::Invalid {
        what: format!("the instance's root has no {program}"),
        remedy: format!("use a root with {program} in /usr/local/bin or /usr/bin"),
    })
}
