//! What an image says of how it is run, and what becomes of it here. Pure.

use std::collections::BTreeMap;

use hearth_function::{Digest, ImageTemplate};
use oci_spec::image::{ImageConfiguration, ImageManifest};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::backend::User;

/// The parts of an image's configuration that say how it is run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Entry point and arguments, as one command.
    pub command: Vec<String>,
    /// Its variables.
    pub env: BTreeMap<String, String>,
    /// Its user as the image names it: empty, a name or a number, with or without a group.
    pub user: String,
    /// Where its command starts; empty: at the root.
    pub working_directory: String,
    /// The TCP ports that it says it listens on.
    pub ports: Vec<u16>,
}

impl Settings {
    /// Reads them off an image's configuration.
    ///
    /// # Errors
    /// When it is for another architecture or system than this machine's, or is none.
    pub fn read(config: &[u8]) -> Result<Self, Error> {
        let config: ImageConfiguration = serde_json::from_slice(config)
            .map_err(|error| Error::Invalid(format!("the image's configuration cannot be read: {error}")))?;
        let (os, arch) = (config.os().to_string(), config.architecture().to_string());
        if os != "linux" || arch != architecture() {
            return Err(Error::Invalid(format!(
                "the image is for {os}/{arch}, and this machine is linux/{}: use an image for that",
                architecture()
            )));
        }
        let Some(run) = config.config() else { return Ok(Self::default()) };
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        let mut command = list(run.entrypoint());
        command.extend(list(run.cmd()));
        let pairs = list(run.env());
        let env = pairs.iter().filter_map(|pair| pair.split_once('='));
        let port = |port: &String| match port.split_once('/') {
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
            None => port.parse().ok(),
        };
        let mut ports: Vec<u16> = list(run.exposed_ports()).iter().filter_map(port).collect();
        ports.sort_unstable();
        Ok(Self {
            command,
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            user: run.user().clone().unwrap_or_default(),
            working_directory: run.working_dir().clone().unwrap_or_default(),
            ports,
        })
    }

    /// What a Revision keeps of it.
    #[must_use]
    pub fn template(&self, reference: &str, digest: Digest) -> ImageTemplate {
        ImageTemplate {
            reference: reference.to_owned(),
            digest,
            command: self.command.clone(),
            env: self.env.clone(),
            user: Some(self.user.trim().to_owned()).filter(|user| !user.is_empty()),
            working_directory: if self.working_directory.starts_with('/') {
                self.working_directory.clone()
            } else {
                format!("/{}", self.working_directory)
            },
            port: self.port(),
        }
    }

    /// Where its server listens: what its `PORT` says, or the only port that it exposes.
    fn port(&self) -> Option<u16> {
        let said = self.env.get("PORT").and_then(|port| port.parse().ok());
        said.or(match self.ports.as_slice() {
            [port] => Some(*port),
            _ => None,
        })
    }
}

/// This machine's architecture as images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The layers of a manifest, from the bottom: each with its digest, its size, and the digest of it when it is not compressed, as the
/// configuration gives it.
pub(super) fn layers(manifest: &ImageManifest, config: &[u8]) -> Result<Vec<Layer>, Error> {
    let invalid = |what: &str| Error::Invalid(what.to_owned());
    let config: ImageConfiguration = serde_json::from_slice(config)
        .map_err(|error| Error::Invalid(format!("the image's configuration cannot be read: {error}")))?;
    let plain = config.rootfs().diff_ids();
    if plain.len() != manifest.layers().len() {
        return Err(invalid("the image's configuration and its manifest tell of different layers"));
    }
    let digest =
        |text: &str| text.parse().map_err(|_| invalid("the image has a layer without a sha256 digest"));
    let pair = |(layer, plain): (&oci_spec::image::Descriptor, &String)| {
        Ok(Layer { digest: digest(layer.digest().as_ref())?, size: layer.size(), plain: digest(plain)? })
    };
    manifest.layers().iter().zip(plain).map(pair).collect()
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layer {
    /// Of what is stored and sent.
    pub(super) digest: Digest,
    /// Bytes of that.
    pub(super) size: u64,
    /// Of the archive when it is not compressed.
    pub(super) plain: Digest,
}

/// Reads a manifest.
pub(super) fn manifest(bytes: &[u8]) -> Result<ImageManifest, Error> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Invalid(format!("the image's manifest cannot be read: {error}")))
}

/// The user that an image is run as, by its `passwd` and `group` files where it gives names; `None`: Hearth's own. Root in a container is root
/// of the machine but for what is taken from it: nobody gets it by an image.
///
/// # Errors
/// When the image gives a name that it does not know itself.
pub(super) fn user(text: &str, passwd: &str, group: &str) -> Result<Option<User>, Error> {
    let (user, of_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<String>>();
    let number = |fields: &[String], at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
    let entry = passwd.lines().map(fields).find(|fields| {
        fields.first().is_some_and(|name| name == user) || fields.get(2).is_some_and(|uid| uid == user)
    });
    let known = if user == "root" { Some(0) } else { None };
    let uid = user.parse().ok().or_else(|| entry.as_deref().and_then(|entry| number(entry, 2))).or(known);
    let gid = match of_group {
        Some(name) => name.parse().ok().or_else(|| {
            let found =
                group.lines().map(fields).find(|fields| fields.first().is_some_and(|known| known == name));
            found.as_deref().and_then(|entry| number(entry, 2))
        }),
        None => entry.as_deref().and_then(|entry| number(entry, 3)).or(uid),
    };
    match (uid, gid) {
        (Some(0), _) => Ok(None),
        (Some(uid), Some(gid)) => Ok(Some(User { uid, gid })),
        _ => Err(Error::Invalid(format!(
            "the image runs as {text:?}, whom its own /etc/passwd and /etc/group do not know: give numbers in its USER"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(run: serde_json::Value) -> Vec<u8> {
        let config = serde_json::json!({
            "architecture": architecture(), "os": "linux", "config": run,
            "rootfs": { "type": "layers", "diff_ids": [] },
        });
        serde_json::to_vec(&config).unwrap()
    }

    #[test]
    fn an_image_says_how_it_is_run() {
        let run = serde_json::json!({
            "Entrypoint": ["/server"], "Cmd": ["--fast"], "Env": ["A=1", "B=x=y"], "User": "1000:1001", "WorkingDir": "/srv",
            "ExposedPorts": { "3000/tcp": {}, "53/udp": {} },
        });
        let settings = Settings::read(&config(run)).unwrap();
        let template = settings.template("app:1", Digest::of(b"x"));
        assert_eq!(template.command, ["/server", "--fast"]);
        assert_eq!(template.env["B"], "x=y");
        assert_eq!(template.user.as_deref(), Some("1000:1001"));
        assert_eq!((template.working_directory.as_str(), template.port), ("/srv", Some(3000)));
    }

    #[test]
    fn a_port_is_what_the_image_says_of_itself() {
        let port = |run| Settings::read(&config(run)).unwrap().template("app:1", Digest::of(b"x")).port;
        let exposed = |ports: serde_json::Value| serde_json::json!({ "Env": ["A=1"], "ExposedPorts": ports });
        assert_eq!(port(exposed(serde_json::json!({ "80/tcp": {}, "443/tcp": {} }))), None);
        assert_eq!(port(exposed(serde_json::json!({ "80/tcp": {} }))), Some(80));
        assert_eq!(
            port(serde_json::json!({ "Env": ["PORT=81"], "ExposedPorts": { "80/tcp": {} } })),
            Some(81)
        );
    }

    #[test]
    fn an_image_for_another_machine_is_refused_by_name() {
        let config = br#"{"architecture":"mips64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}"#;
        assert!(Settings::read(config).unwrap_err().to_string().contains("linux/mips64"));
    }

    #[test]
    fn a_users_name_is_the_images_own() {
        let passwd = "root:x:0:0:root:/:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\n";
        let group = "root:x:0:\nweb:x:33:\n";
        let numbers =
            |text: &str| user(text, passwd, group).map(|user| user.map(|user| (user.uid, user.gid)));
        assert_eq!(numbers("node").unwrap(), Some((1000, 1001)));
        assert_eq!(numbers("1000").unwrap(), Some((1000, 1001)));
        assert_eq!(numbers("node:web").unwrap(), Some((1000, 33)));
        assert_eq!(numbers("7:web").unwrap(), Some((7, 33)));
        assert_eq!(numbers("7:8").unwrap(), Some((7, 8)));
        assert!(numbers("nobody").is_err());
        for root in ["0", "0:0", "root", "root:web"] {
            assert_eq!(numbers(root).unwrap(), None, "nobody becomes root by an image");
        }
    }
}
