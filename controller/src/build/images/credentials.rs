//! What a registry is told of who asks.

use oci_client::secrets::RegistryAuth;

use super::Error;
use super::identity::{self, Purpose};
use crate::backend::Credentials;

/// Which repository is spoken of, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Registry<'a> {
    /// `host` or `host:port`.
    pub(super) host: &'a str,
    /// Whether it is spoken to in the clear.
    pub(super) plain: bool,
    pub(super) repository: &'a str,
}

/// The credentials for a registry.
///
/// # Errors
/// When Docker's configuration, or its helper, cannot be understood.
pub(super) async fn of(registry: &str) -> Result<Credentials, Error> {
    Credentials::of(registry).await.map_err(|error| Error::Registry {
        what: error.to_string(),
        fix: "see ~/.docker/config.json and its credential helper",
        source: None,
    })
}

/// What the registry is told: an identity token is exchanged first.
///
/// # Errors
/// When the registry does not answer or does not take the token.
pub(super) async fn auth(
    credentials: &Credentials,
    registry: &Registry<'_>,
    purpose: Purpose,
) -> Result<RegistryAuth, Error> {
    match credentials {
        Credentials::None => Ok(RegistryAuth::Anonymous),
        Credentials::Password(user, password) => Ok(RegistryAuth::Basic(user.clone(), password.clone())),
        Credentials::Identity(token) => {
            let exchanged = identity::exchange(registry, purpose, token).await;
            exchanged.map(RegistryAuth::Bearer).map_err(|error| refused(registry.host, error))
        }
    }
}

/// What it means for people that there is no token.
fn refused(host: &str, error: identity::Error) -> Error {
    let (what, fix) = match &error {
        identity::Error::Away(_) => {
            (format!("{host} cannot be asked for a token"), "check the registry's name and that it runs")
        }
        identity::Error::Refused { .. } => (
            format!("{host} refuses the identity token that is kept for it"),
            "renew it: `docker logout` and `docker login`",
        ),
        _ => (
            format!("the identity token that is kept for {host} cannot be exchanged"),
            "keep user and password: `docker logout`, and `docker login --username NAME`",
        ),
    };
    Error::Registry { what, fix, source: Some(Box::new(error)) }
}
