//! The connection to the engine: which socket, what answers there, and what its errors mean.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bollard::models::SystemInfo;
use bollard::{API_DEFAULT_VERSION, Docker};
use hearth_function::InstanceId;

use crate::backend::{Error, OpenError};

/// Sockets that are tried when none is named: Docker's, then Podman's.
pub(super) const USUAL: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];

/// The name of the engine that is not Docker.
const PODMAN: &str = "Podman";

/// How long the engine may take to answer, in seconds: to start a container on a machine under load, not to be broken.
const PATIENCE_SECONDS: u64 = 60;

/// An engine that has answered.
#[derive(Debug)]
pub(super) struct Engine {
    /// The client.
    pub(super) api: Docker,
    /// Its socket.
    pub(super) socket: PathBuf,
    /// What it says of itself.
    pub(super) about: About,
    /// Why it does not answer now, for messages; `None` while it does.
    away: Mutex<Option<String>>,
}

/// What matters of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    /// `Docker` or `Podman`.
    pub(super) name: &'static str,
    /// Its version.
    pub(super) version: String,
    /// Runs without root's rights.
    pub(super) rootless: bool,
    /// The host's user and group that are root in containers, when users are remapped.
    pub(super) remapped: Option<(u32, u32)>,
    /// Storage driver.
    pub(super) storage: String,
    /// Version of the control groups.
    pub(super) cgroups: String,
    /// Keeps containers running while it is restarted.
    pub(super) live_restore: bool,
}

impl Engine {
    /// Connects to the named socket, or the first of the usual ones that answers.
    ///
    /// # Errors
    /// When none answers, or its address is not a socket of this machine.
    pub(super) async fn connect(host: Option<&str>) -> Result<Self, OpenError> {
        let sockets = match host {
            Some(host) => vec![socket(host)?],
            None => USUAL.map(PathBuf::from).to_vec(),
        };
        let mut reasons = Vec::new();
        for socket in sockets {
            match Self::at(&socket).await {
                Ok(engine) => return Ok(engine),
                Err(error) => reasons.push(format!("unix://{}: {}", socket.display(), plain(&error))),
            }
        }
        Err(OpenError::Unsupported {
            what: format!("reach a container engine ({})", reasons.join("; ")),
            remedy: "start it (systemctl start docker, or systemctl start podman.socket), or name its socket in DOCKER_HOST or with \
                     --set docker.host=unix:///PATH"
                .to_owned(),
        })
    }

    async fn at(socket: &Path) -> Result<Self, bollard::errors::Error> {
        let path = socket.to_string_lossy();
        let api = Docker::connect_with_unix(&path, PATIENCE_SECONDS, API_DEFAULT_VERSION)?
            .negotiate_version()
            .await?;
        let (version, info) = tokio::try_join!(api.version(), api.info())?;
        let podman = version
            .components
            .iter()
            .flatten()
            .any(|component| component.name.to_ascii_lowercase().contains("podman"));
        let about = About::of(if podman { PODMAN } else { "Docker" }, &info);
        let about = About { version: version.version.unwrap_or(about.version), ..about };
        Ok(Self { api, socket: socket.to_owned(), about, away: Mutex::new(None) })
    }

    /// Whether it answers, as was last seen; and why not.
    pub(super) fn set_away(&self, reason: Option<String>) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Why it does not answer.
    pub(super) fn away(&self) -> Option<String> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error of a request about an instance.
    pub(super) fn step(
        &self,
        step: &'static str,
        instance: &InstanceId,
        error: &bollard::errors::Error,
    ) -> Error {
        if status(error) == Some(404) && step != "create the container" {
            return Error::NotFound(instance.clone());
        }
        let said = if is_away(error) {
            format!(
                "{} does not answer at unix://{} ({}): start it; functions come back by themselves",
                self.about.name,
                self.socket.display(),
                plain(error)
            )
        } else {
            plain(error)
        };
        Error::Step { step, instance: instance.clone(), source: io::Error::other(said) }
    }
}

impl About {
    /// Whether it is Podman, which differs in small things.
    pub(super) fn is_podman(&self) -> bool {
        self.name == PODMAN
    }

    fn of(name: &'static str, info: &SystemInfo) -> Self {
        let options = info.security_options.as_deref().unwrap_or_default();
        let has = |option: &str| options.iter().any(|one| one.contains(&format!("name={option}")));
        Self {
            name,
            version: info.server_version.clone().unwrap_or_default(),
            rootless: has("rootless"),
            remapped: has("userns").then(|| remapped(info.docker_root_dir.as_deref()?)).flatten(),
            storage: info.driver.clone().unwrap_or_default(),
            cgroups: info.cgroup_version.map(|version| version.to_string()).unwrap_or_default(),
            live_restore: info.live_restore_enabled.unwrap_or(false),
        }
    }
}

/// User and group in `/var/lib/docker/100000.100000`, where a remapping engine keeps its containers: it says them nowhere else.
fn remapped(root: &str) -> Option<(u32, u32)> {
    let (user, group) = root.rsplit('/').next()?.split_once('.')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// The path in `unix:///var/run/docker.sock`, or a bare one.
fn socket(host: &str) -> Result<PathBuf, OpenError> {
    let path = host.strip_prefix("unix://").unwrap_or(host);
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    Err(OpenError::Unsupported {
        what: format!("use the engine at {host:?}"),
        remedy: "give the socket of an engine on this machine (unix:///var/run/docker.sock): code is mounted into its containers".to_owned(),
    })
}

/// The status of an answer that was an error.
pub(super) fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Whether the engine did not answer at all.
pub(super) fn is_away(error: &bollard::errors::Error) -> bool {
    use bollard::errors::Error as E;
    matches!(
        error,
        E::IOError { .. }
            | E::HyperResponseError { .. }
            | E::HyperLegacyError { .. }
            | E::SocketNotFoundError(_)
            | E::RequestTimeoutError
    )
}

/// What an error says, without the library's own words around it.
pub(super) fn plain(error: &bollard::errors::Error) -> String {
    use bollard::errors::Error as E;
    match error {
        E::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        E::DockerStreamError { error } => error.trim().to_owned(),
        E::SocketNotFoundError(_) => "no such socket".to_owned(),
        E::RequestTimeoutError => format!("no answer in {PATIENCE_SECONDS} s"),
        other => {
            let mut said: &dyn std::error::Error = other;
            while let Some(source) = said.source() {
                said = source;
            }
            said.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sockets_of_this_machine_are_engines() {
        assert_eq!(socket("unix:///var/run/docker.sock").unwrap(), Path::new("/var/run/docker.sock"));
        assert_eq!(socket("/run/x.sock").unwrap(), Path::new("/run/x.sock"));
        for host in ["tcp://10.0.0.1:2375", "ssh://root@there", "docker.sock"] {
            let refused = socket(host).unwrap_err().to_string();
            assert!(refused.contains(host) && refused.contains("unix:///"), "{refused}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named_with_the_fix() {
        let directory = tempfile::tempdir().unwrap();
        let host = format!("unix://{}/no.sock", directory.path().display());
        let error = Engine::connect(Some(&host)).await.unwrap_err().to_string();
        assert!(error.contains(&host) && error.contains("systemctl start docker"), "{error}");
    }

    #[test]
    fn what_an_engine_says_of_itself_is_understood() {
        let info = SystemInfo {
            security_options: Some(vec!["name=seccomp,profile=default".into(), "name=userns".into()]),
            driver: Some("overlay2".into()),
            docker_root_dir: Some("/var/lib/docker/100000.200000".into()),
            ..SystemInfo::default()
        };
        let about = About::of("Docker", &info);
        assert_eq!(about.remapped, Some((100_000, 200_000)));
        assert!(!about.rootless);
        assert_eq!(about.storage, "overlay2");
    }
}
