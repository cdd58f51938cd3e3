//! Images of registries: which manifest a reference means, and the blobs of it.

use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use hearth_function::Digest;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
    OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use oci_spec::image::ImageIndex;
use tokio::io::AsyncWriteExt as _;

use super::credentials::{self, Registry};
use super::identity::Purpose;
use super::keys::Keys;
use super::{Error, config};
use crate::backend::Credentials;

/// How long a registry may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a registry may be silent in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(30);

/// Largest manifest and configuration of an image. What registries allow is 4 MiB.
pub(super) const LARGEST_DOCUMENT: u64 = 4 << 20;

/// How a registry is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Registries, as `host` or `host:port`, that speak plain HTTP, beside those of this machine's own loopback.
    pub plain: Vec<String>,
}

/// An image in a registry.
pub struct Remote {
    client: Client,
    credentials: Credentials,
    auth: RegistryAuth,
    plain: bool,
    /// Whether whoever names the image may bring credentials along.
    nameable: bool,
    /// Whether those that are used were.
    brought: bool,
    reference: Reference,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("reference", &self.reference).finish_non_exhaustive()
    }
}

/// The documents of an image.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    pub(super) digest: Digest,
    pub(super) manifest: Vec<u8>,
    pub(super) config: Vec<u8>,
}

/// What may be told of a registry's own words.
fn said(error: &OciDistributionError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Reads a reference.
///
/// # Errors
/// When it is none.
pub fn reference(text: &str) -> Result<Reference, Error> {
    text.parse().map_err(|error| {
        Error::Invalid(format!(
            "{text:?} is no reference of an image ({error}): write it as in example.com/app:1"
        ))
    })
}

impl Remote {
    /// The image of this reference, with the credentials that Docker's configuration has for its registry.
    ///
    /// # Errors
    /// When the reference is none, or the configuration cannot be read.
    pub async fn open(text: &str, access: &Access) -> Result<Self, Error> {
        Self::open_with(text, access, None).await
    }

    /// The same with the credentials that `keys` has for it, if it has any.
    ///
    /// # Errors
    /// As [`Remote::open`].
    pub(super) async fn open_with(text: &str, access: &Access, keys: Option<&Keys>) -> Result<Self, Error> {
        let reference = reference(text)?;
        let registry = reference.resolve_registry().to_owned();
        let plain = is_loopback(&registry) || access.plain.contains(&registry);
        let proxy = |name: &str| {
            let named = std::env::var(name).or_else(|_| std::env::var(name.to_lowercase()));
            named.ok().filter(|value| !value.is_empty() && !plain)
        };
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: concat!("hearth/", env!("CARGO_PKG_VERSION")),
            https_proxy: proxy("HTTPS_PROXY"),
            no_proxy: proxy("NO_PROXY"),
            ..ClientConfig::default()
        };
        let found = keys.and_then(|keys| keys.of(&registry, reference.repository()));
        let (nameable, brought) = (keys.is_some(), found.is_some());
        let credentials = match found {
            Some(found) => found.clone(),
            None => credentials::of(&registry).await?,
        };
        let spoken = Registry { host: &registry, plain, repository: reference.repository() };
        let auth = credentials::auth(&credentials, &spoken, Purpose::Pull).await?;
        let client = Client::new(config);
        client.store_auth_if_needed(&registry, &auth).await;
        Ok(Self { client, credentials, auth, plain, nameable, brought, reference })
    }

    /// The same image by the digest of its manifest.
    #[must_use]
    pub(super) fn at(mut self, digest: &Digest) -> Self {
        self.reference = self.reference.clone_with_digest(digest.to_string());
        self
    }

    /// The reference.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    /// Has a token for pushing, where the registry gives tokens.
    pub(super) async fn authorise(&self) -> Result<(), Error> {
        let host = self.reference.resolve_registry();
        let registry = Registry { host, plain: self.plain, repository: self.reference.repository() };
        let auth = credentials::auth(&self.credentials, &registry, Purpose::Push).await?;
        let authorised = self.client.auth(&self.reference, &auth, RegistryOperation::Push).await;
        authorised.map(drop).map_err(|error| self.explain(error))
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Its manifest, that of this machine's architecture when it has several, and its configuration.
    pub(super) async fn documents(&self) -> Result<Documents, Error> {
        let (mut manifest, mut digest) = self.manifest(&self.reference).await?;
        if let Ok(index) = serde_json::from_slice::<ImageIndex>(&manifest)
            && !index.manifests().is_empty()
        {
            let fits = |entry: &&oci_spec::image::Descriptor| {
                entry.platform().as_ref().is_some_and(|platform| {
                    platform.os().to_string() == "linux"
                        && platform.architecture().to_string() == config::architecture()
                })
            };
            let entry = index.manifests().iter().find(fits).ok_or_else(|| {
                Error::Invalid(format!(
                    "{} has no image for linux/{}: use one that does",
                    self.reference,
                    config::architecture()
                ))
            })?;
            let one = self.reference.clone_with_digest(entry.digest().to_string());
            (manifest, digest) = self.manifest(&one).await?;
        }
        let parsed = config::manifest(&manifest)?;
        let descriptor = parsed.config();
        if descriptor.size() > LARGEST_DOCUMENT {
            return Err(Error::Invalid(format!("{}: its configuration is too large", self.reference)));
        }
        let mut config = Vec::new();
        self.client
            .pull_blob(
                &self.reference,
                &self::descriptor(descriptor.digest().as_ref(), descriptor.size()),
                &mut config,
            )
            .await
            .map_err(|error| self.explain(error))?;
        Ok(Documents { digest, manifest, config })
    }

    async fn manifest(&self, reference: &Reference) -> Result<(Vec<u8>, Digest), Error> {
        let kinds = [
            IMAGE_MANIFEST_MEDIA_TYPE,
            IMAGE_MANIFEST_LIST_MEDIA_TYPE,
            OCI_IMAGE_MEDIA_TYPE,
            OCI_IMAGE_INDEX_MEDIA_TYPE,
        ];
        let pulled = self.client.pull_manifest_raw(reference, &self.auth, &kinds).await;
        let (bytes, _) = pulled.map_err(|error| self.explain(error))?;
        // What came, whatever the registry says that it is; asked for by digest, the client has compared it.
        let digest = Digest::of(&bytes);
        Ok((bytes.to_vec(), digest))
    }

    /// Fetches a blob into a file; `came` hears of bytes.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        file: tokio::fs::File,
        mut came: impl FnMut(u64) + Send,
    ) -> Result<(), Error> {
        let descriptor = descriptor(digest.as_str(), size);
        let opened = self.client.pull_blob_stream(&self.reference, &descriptor).await;
        let mut stream = opened.map_err(|error| self.explain(error))?;
        let mut file = tokio::io::BufWriter::with_capacity(256 * 1024, file);
        let mut length = 0;
        while let Some(chunk) = stream.stream.next().await {
            let chunk = chunk.map_err(|error| self.broken(error))?;
            length += chunk.len() as u64;
            if length > size {
                return Err(Error::Invalid(format!(
                    "{}: a layer is longer than its manifest says",
                    self.reference
                )));
            }
            file.write_all(&chunk).await.map_err(Error::Store)?;
            came(chunk.len() as u64);
        }
        file.flush().await.map_err(Error::Store)
    }

    /// Saves the image into a directory below `parent`, an OCI layout named by its digest; one that is there is not fetched again. `missing`
    /// hears how many bytes are to come, `came` of each that did.
    ///
    /// # Errors
    /// As [`Error`] says; what came whole is not fetched again.
    pub async fn save(
        &self,
        parent: &Path,
        missing: impl FnOnce(u64),
        came: impl Fn(u64) + Send + std::marker::Sync,
    ) -> Result<PathBuf, Error> {
        let documents = self.documents().await?;
        let directory = parent.join(documents.digest.hex());
        if directory.join("index.json").is_file() {
            return Ok(directory);
        }
        let layers = config::layers(&config::manifest(&documents.manifest)?, &documents.config)?;
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).map_err(Error::Store)?;
        let lacking: Vec<_> =
            layers.iter().filter(|layer| !blobs.join(layer.digest.hex()).is_file()).collect();
        missing(lacking.iter().map(|layer| layer.size).sum());
        for layer in lacking {
            let half = blobs.join(format!("{}.half", layer.digest.hex()));
            let file = tokio::fs::File::create(&half).await.map_err(Error::Store)?;
            self.blob(&layer.digest, layer.size, file, &came).await?;
            std::fs::rename(&half, blobs.join(layer.digest.hex())).map_err(Error::Store)?;
        }
        let config = Digest::of(&documents.config);
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": documents.digest, "size": documents.manifest.len(),
        }] });
        for (path, bytes) in [
            (blobs.join(config.hex()), documents.config),
            (blobs.join(documents.digest.hex()), documents.manifest),
            (directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            // Last: with it the layout is whole.
            (directory.join("index.json"), index.to_string().into_bytes()),
        ] {
            std::fs::write(path, bytes).map_err(Error::Store)?;
        }
        Ok(directory)
    }

    /// What it means that an answer broke off.
    fn broken(&self, error: std::io::Error) -> Error {
        let registry = self.reference.resolve_registry();
        // The client compares what came with what it asked for when the last byte is there.
        if let Some(DigestError::VerificationError { expected, actual }) =
            error.get_ref().and_then(|inner| inner.downcast_ref::<DigestError>())
            && let (Ok(expected), Ok(actual)) = (expected.parse(), actual.parse())
        {
            return Error::WrongDigest { what: "layer", expected, actual };
        }
        Error::Registry {
            what: format!("{registry} stopped in the middle of {}", self.reference),
            fix: "try again; what came whole is kept",
            source: Some(Box::new(error)),
        }
    }

    /// What an error means for people.
    pub(super) fn explain(&self, error: OciDistributionError) -> Error {
        let registry = self.reference.resolve_registry();
        let told = |what: String, fix: &'static str, error: OciDistributionError| Error::Registry {
            what,
            fix,
            source: Some(said(&error).into()),
        };
        let unknown = |code: &OciErrorCode| {
            matches!(code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound)
        };
        let denied = |code: &OciErrorCode| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied);
        match &error {
            OciDistributionError::ImageManifestNotFoundError(_)
            | OciDistributionError::ServerError { code: 404, .. } => {
                told(format!("{registry} has no image {}", self.reference), "check its name and tag", error)
            }
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|error| unknown(&error.code)) =>
            {
                told(format!("{registry} has no image {}", self.reference), "check its name and tag", error)
            }
            OciDistributionError::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|error| denied(&error.code)) =>
            {
                self.denied(error)
            }
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => self.denied(error),
            OciDistributionError::ServerError { code: 400..=499, .. } => {
                told(format!("{registry} refuses {}", self.reference), "see what it says", error)
            }
            OciDistributionError::RequestError(request) if request.is_timeout() => told(
                format!("{registry} does not answer in time"),
                "try again, or use another registry",
                error,
            ),
            OciDistributionError::RequestError(request) if request.is_connect() => told(
                format!("{registry} cannot be reached"),
                "check its name and that it runs; one that speaks plain HTTP stands in images.plain_http",
                error,
            ),
            OciDistributionError::DigestError(DigestError::VerificationError { expected, actual }) => {
                match (expected.parse(), actual.parse()) {
                    (Ok(expected), Ok(actual)) => Error::WrongDigest { what: "blob", expected, actual },
                    _ => told(format!("{registry} sent another blob than was asked for"), "try again", error),
                }
            }
            _ => told(format!("{registry} failed with {}", self.reference), "try again", error),
        }
    }

    fn denied(&self, error: OciDistributionError) -> Error {
        let registry = self.reference.resolve_registry();
        let (what, fix) = match self.auth {
            RegistryAuth::Anonymous => (
                format!("{registry} gives {} to nobody without credentials", self.reference),
                if self.nameable {
                    "name a secret with them in spec.kubernetes.imagePullSecrets"
                } else {
                    "give them to the user that Hearth runs as: `docker login`, or the file ~/.docker/config.json"
                },
            ),
            _ if self.brought => (
                format!("{registry} refuses the credentials for {}", self.reference),
                "renew those in the secrets of spec.kubernetes.imagePullSecrets",
            ),
            _ => (
                format!("{registry} refuses the credentials for {}", self.reference),
                "renew those in ~/.docker/config.json with `docker login`",
            ),
        };
        Error::Registry { what, fix, source: Some(said(&error).into()) }
    }
}

pub(super) fn descriptor(digest: &str, size: u64) -> OciDescriptor {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    OciDescriptor { digest: digest.to_owned(), size, ..OciDescriptor::default() }
}

/// Whether a registry is one of this machine's own, which Docker, too, speaks plain HTTP with.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_registries_are_spoken_to_in_the_clear() {
        for (registry, plain) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("localhost", true),
            ("docker.io", false),
            ("localhost.example.com", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(is_loopback(registry), plain, "{registry}");
        }
        assert!(reference("not an image").is_err());
    }
}
