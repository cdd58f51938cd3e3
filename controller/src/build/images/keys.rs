//! Credentials of registries that whoever names an image brings along, as Kubernetes keeps them in Secrets (`kubernetes.io/dockerconfigjson`): a
//! map of registries, as in Docker's own configuration. Helpers that it may name are programs, and are not run.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::backend::Credentials;

/// Docker's hub, under the name that references of its images resolve to.
const HUB: &str = "index.docker.io";

/// Credentials, each for a registry or for a part of it. Never printed.
#[derive(Clone, Default)]
pub struct Keys(Vec<(String, Credentials)>);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(place, _)| place)).finish()
    }
}

#[derive(Deserialize)]
struct Document {
    auths: std::collections::BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    #[serde(rename = "identitytoken")]
    identity_token: String,
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        if !self.identity_token.is_empty() {
            return Some(Credentials::Identity(self.identity_token.clone()));
        }
        if !self.username.is_empty() {
            return Some(Credentials::Password(self.username.clone(), self.password.clone()));
        }
        let decoded = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        Some(Credentials::Password(user.to_owned(), password.to_owned()))
    }
}

impl Keys {
    /// Takes what a Secret has under `.dockerconfigjson`.
    ///
    /// # Errors
    /// What is wrong with it; nothing of what it holds.
    pub fn add(&mut self, json: &[u8]) -> Result<(), String> {
        // What the parser quotes may be a password.
        let document: Document =
            serde_json::from_slice(json).map_err(|_| "is not the JSON of Docker's configuration")?;
        // Docker leaves an empty entry where a helper has the credentials.
        for (place, entry) in document.auths.into_iter().filter(|(_, entry)| *entry != Entry::default()) {
            let credentials =
                entry.credentials().ok_or_else(|| format!("has no user and password for {place}"))?;
            self.0.push((normal(&place), credentials));
        }
        Ok(())
    }

    /// Those for a repository of a registry (`host` or `host:port`): the most exact, and of equals the first.
    pub(super) fn of(&self, registry: &str, repository: &str) -> Option<&Credentials> {
        let whole = format!("{}/{repository}/", normal(registry));
        let fits = |(place, _): &&(String, Credentials)| whole.starts_with(&format!("{place}/"));
        let fitting = self.0.iter().rev().filter(fits);
        fitting.max_by_key(|(place, _)| place.len()).map(|(_, credentials)| credentials)
    }
}

/// A registry, or a part of one, without what some write around it.
fn normal(place: &str) -> String {
    let place = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://")).unwrap_or(place);
    let place = place.trim_end_matches('/');
    let place = place.strip_suffix("/v1").or_else(|| place.strip_suffix("/v2")).unwrap_or(place);
    match place.split_once('/').map_or((place, None), |(host, path)| (host, Some(path))) {
        ("docker.io" | "registry-1.docker.io", None) => HUB.to_owned(),
        ("docker.io" | "registry-1.docker.io", Some(path)) => format!("{HUB}/{path}"),
        _ => place.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn password(user: &str) -> Credentials {
        Credentials::Password(user.to_owned(), "p:1".to_owned())
    }

    #[test]
    fn the_most_exact_place_counts_however_it_is_written() {
        let mut keys = Keys::default();
        let entry = |user: &str| json!({ "auth": STANDARD.encode(format!("{user}:p:1")) });
        let all = json!({ "auths": {
            "https://index.docker.io/v1/": entry("hub"),
            "registry.example.com:5000": entry("all"),
            "registry.example.com:5000/team/app": entry("app"),
            "plain": { "username": "plain", "password": "p:1" },
            "helped": {},
        } });
        keys.add(all.to_string().as_bytes()).unwrap();
        for (registry, repository, expected) in [
            ("index.docker.io", "library/nginx", Some("hub")),
            ("docker.io", "library/nginx", Some("hub")),
            ("registry.example.com:5000", "other", Some("all")),
            ("registry.example.com:5000", "team/app", Some("app")),
            ("registry.example.com:5000", "team/application", Some("all")),
            ("registry.example.com", "other", None),
            ("plain", "x", Some("plain")),
            ("helped", "x", None),
        ] {
            let found = keys.of(registry, repository);
            assert!(found == expected.map(password).as_ref(), "{registry}/{repository}");
        }
    }

    #[test]
    fn a_token_is_one_and_what_is_wrong_is_said_without_what_it_holds() {
        let mut keys = Keys::default();
        keys.add(br#"{"auths":{"r":{"identitytoken":"t"}}}"#).unwrap();
        assert!(keys.of("r", "x") == Some(&Credentials::Identity("t".to_owned())));
        for wrong in [r#"{"auths":{"r":{"auth":"c2VjcmV0"}}}"#, r#"{"auths":"secret"}"#, "secret"] {
            let said = Keys::default().add(wrong.as_bytes()).unwrap_err();
            assert!(!said.contains("secret") && !said.contains("c2Vj"), "{said}");
        }
    }
}
