//! Credentials for registries: those of Docker's own configuration (`~/.docker/config.json` or `DOCKER_CONFIG`, with its credential
//! helpers), of the user that Hearth runs as. An engine does not look for any: who asks it for a pull gives them along.

use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};

/// How long a credential helper may think; one that wants to talk to a person never ends.
const HELPER: Duration = Duration::from_secs(20);

/// What there is for a registry.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Nothing.
    None,
    /// User and password.
    Password(String, String),
    /// A token that is exchanged for one of the registry's.
    Identity(String),
}

/// What is there cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the credentials for {registry} cannot be read: {why}")]
pub(crate) struct Unreadable {
    registry: String,
    why: String,
}

impl Credentials {
    /// What Docker's configuration has for a registry (`host` or `host:port`); nothing is no error.
    ///
    /// # Errors
    /// When the configuration, or its helper, cannot be understood.
    pub(crate) async fn of(registry: &str) -> Result<Self, Unreadable> {
        let server = server(registry);
        let look = tokio::task::spawn_blocking(move || docker_credential::get_credential(&server));
        let unreadable = |why: String| Unreadable { registry: registry.to_owned(), why };
        let found = tokio::time::timeout(HELPER, look).await;
        let found = found.map_err(|_| unreadable("the credential helper does not answer".to_owned()))?;
        match found.map_err(|error| unreadable(error.to_string()))? {
            Ok(DockerCredential::UsernamePassword(user, password)) => Ok(Self::Password(user, password)),
            Ok(DockerCredential::IdentityToken(token)) => Ok(Self::Identity(token)),
            Err(
                CredentialRetrievalError::NoCredentialConfigured
                | CredentialRetrievalError::ConfigNotFound
                | CredentialRetrievalError::ConfigReadError,
            ) => Ok(Self::None),
            Err(error) => Err(unreadable(error.to_string())),
        }
    }
}

/// What Docker's configuration calls a registry: its hub has a name of its own there.
pub(crate) fn server(registry: &str) -> String {
    if matches!(registry, "docker.io" | "index.docker.io" | "registry-1.docker.io") {
        "https://index.docker.io/v1/".to_owned()
    } else {
        registry.to_owned()
    }
}
