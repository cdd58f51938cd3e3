//! What a backend writes for the shim before it starts it: `config.json` in the instance's socket directory, readable by root alone.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Name of the file, in the directory that the shim is given as its only argument (default [`DIRECTORY`]).
pub const FILE: &str = "config.json";

/// Where the directory is in the container.
pub const DIRECTORY: &str = "/run/hearth";

/// The socket of the invocation protocol, in the directory.
pub const INVOKE_SOCKET: &str = "invoke.sock";

/// The shim's own socket, in the directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Where the shim writes how the runtime ended ([`crate::Exit`] as JSON), in the directory.
pub const EXIT_FILE: &str = "exit.json";

/// Where shim and bootstraps are in the container.
pub const PROGRAMS: &str = "/hearth";

/// The user and the group that user code runs as.
pub const USER: u32 = 65532;

/// Default of [`ShimConfig::log_ring_bytes`]: some ten thousand lines, and little beside the smallest memory limit.
pub const LOG_RING_BYTES: u32 = 1 << 20;

/// Default of [`ShimConfig::controller_absence_ms`]: a controller that is being replaced is back in seconds; one that is
/// gone must not leave instances running for long.
pub const CONTROLLER_ABSENCE_MS: u64 = 120_000;

/// Everything the shim needs to know.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ShimConfig {
    /// The instance's name.
    pub instance: String,
    /// Whoever opens a connection must know this: 64 hex digits.
    pub secret: String,
    /// What to run.
    pub process: ShimProcess,
    /// The environment of the user's process, complete but for [`ShimConfig::inherit`].
    pub env: BTreeMap<String, String>,
    /// Variables of the shim's own environment that are handed on, by name: whoever starts the container resolved them, and their values
    /// are known to nobody else. One that is not there is left out; one that `env` has too is what `env` says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inherit: Vec<String>,
    /// User that the runtime runs as.
    #[serde(default = "default_user")]
    pub uid: u32,
    /// Group that it runs as.
    #[serde(default = "default_user")]
    pub gid: u32,
    /// Calls it may run at once. `load` says it again, for a pooled instance.
    pub concurrency: u32,
    /// The instance's memory limit in bytes: Node's heap is fitted to it.
    pub memory_bytes: u64,
    /// Where the runtime starts.
    #[serde(default = "default_working_directory")]
    pub working_directory: String,
    /// Where shim and bootstraps are, as the shim sees it.
    #[serde(default = "default_programs")]
    pub programs: String,
    /// How many bytes of log lines are kept for a controller that is not there.
    #[serde(default = "default_log_ring_bytes")]
    pub log_ring_bytes: u32,
    /// Milliseconds without a control connection after which the shim ends the instance. 0: never.
    #[serde(default = "default_controller_absence_ms")]
    pub controller_absence_ms: u64,
    /// Whether the shim locks itself and the runtime in.
    #[serde(default)]
    pub confinement: Confinement,
    /// Ports by which the sockets are reached too, where the host cannot connect to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
}

/// TCP ports of the instance that lead to its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// To [`INVOKE_SOCKET`].
    pub invoke: u16,
    /// To [`CONTROL_SOCKET`].
    pub control: u16,
}

/// What the shim runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum ShimProcess {
    /// The Node bootstrap.
    Nodejs {
        /// The interpreter as seen in the container.
        interpreter: String,
    },
    /// The Python bootstrap.
    Python {
        /// The interpreter as seen in the container.
        interpreter: String,
    },
    /// The user's own HTTP server, on `$PORT`.
    Http {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// A process for each call.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// One command that runs to its end.
    Job {
        /// Program and arguments.
        command: Vec<String>,
    },
}

/// Whether the shim locks itself and the runtime in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Confinement {
    /// Another user, no capabilities, seccomp, non-dumpable: what a container asks for.
    #[default]
    Full,
    /// Nothing of it, for tests without a container.
    None,
}

impl fmt::Debug for ShimConfig {
    /// Without the secret and the environment's values.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShimConfig")
            .field("instance", &self.instance)
            .field("process", &self.process)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("uid", &self.uid)
            .field("concurrency", &self.concurrency)
            .field("memory_bytes", &self.memory_bytes)
            .finish_non_exhaustive()
    }
}

impl ShimConfig {
    /// A configuration with every default.
    #[must_use]
    pub fn new(
        instance: impl Into<String>,
        secret: impl Into<String>,
        process: ShimProcess,
        concurrency: u32,
        memory_bytes: u64,
    ) -> Self {
        Self {
            instance: instance.into(),
            secret: secret.into(),
            process,
            env: BTreeMap::new(),
            inherit: Vec::new(),
            uid: default_user(),
            gid: default_user(),
            concurrency,
            memory_bytes,
            working_directory: default_working_directory(),
            programs: default_programs(),
            log_ring_bytes: default_log_ring_bytes(),
            controller_absence_ms: default_controller_absence_ms(),
            confinement: Confinement::default(),
            relay: None,
        }
    }
}

fn default_user() -> u32 {
    USER
}

fn default_working_directory() -> String {
    "/code".to_owned()
}

fn default_programs() -> String {
    PROGRAMS.to_owned()
}

fn default_log_ring_bytes() -> u32 {
    LOG_RING_BYTES
}

fn default_controller_absence_ms() -> u64 {
    CONTROLLER_ABSENCE_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default() {
        let json = r#"{"instance":"i","secret":"s","process":{"kind":"nodejs","interpreter":"/usr/bin/node"},
            "env":{},"concurrency":1,"memoryBytes":134217728}"#;
        let process = ShimProcess::Nodejs { interpreter: "/usr/bin/node".to_owned() };
        let config: ShimConfig = serde_json::from_str(json).unwrap();
        assert_eq!(config, ShimConfig::new("i", "s", process, 1, 128 << 20));
        assert_eq!(config.confinement, Confinement::Full);
    }
}
