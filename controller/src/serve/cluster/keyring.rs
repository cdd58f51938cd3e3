//! The pull secrets of Functions, read when a registry is asked what an image is. The kubelet reads them itself.

use std::time::Duration;

use async_trait::async_trait;
use hearth_function::spec::SecretName;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::time::timeout;

use crate::build::images::Keys;
use crate::deploy;
use crate::telemetry::chain;

/// Where such a Secret has it.
const ENTRY: &str = ".dockerconfigjson";

/// One request.
const REQUEST: Duration = Duration::from_secs(5);

/// Reads Secrets.
#[derive(Clone)]
pub(super) struct Keyring(pub(super) Client);

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

#[async_trait]
impl deploy::Keyring for Keyring {
    async fn keys(&self, namespace: &str, secrets: &[SecretName]) -> (Keys, Vec<String>) {
        let api: Api<Secret> = Api::namespaced(self.0.clone(), namespace);
        let (mut keys, mut unread) = (Keys::default(), Vec::new());
        for SecretName { name } in secrets {
            if let Err(why) = read(&api, name, &mut keys).await {
                unread.push(why);
            }
        }
        (keys, unread)
    }
}

/// Adds what one Secret has.
async fn read(api: &Api<Secret>, name: &str, keys: &mut Keys) -> Result<(), String> {
    let found = match timeout(REQUEST, api.get(name)).await {
        Ok(Ok(found)) => found,
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            return Err(format!(
                "Hearth may not read the secret {name}: {} (the chart's functionPullSecrets lets it)",
                status.message
            ));
        }
        Ok(Err(kube::Error::Api(status))) => return Err(status.message.clone()),
        Ok(Err(error)) => return Err(chain(&error)),
        Err(late) => return Err(format!("the secret {name} cannot be read: {late}")),
    };
    let document = found.data.as_ref().and_then(|data| data.get(ENTRY));
    let document = document.ok_or_else(|| format!("the secret {name} has no {ENTRY}"))?;
    keys.add(&document.0).map_err(|why| format!("the secret {name} {why}"))
}
