//! Who the server is and who may talk to it: a certificate authority and a token of its own, made once and kept in the data directory
//! where only root reads; and the kubeconfig that hands both to clients.
//!
//! The server's own certificate is issued anew at each start, because the addresses it stands for are configuration; its key is never
//! on disk. Clients trust the authority, so they notice nothing.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use subtle::ConstantTimeEq;

/// 256 bits, beyond guessing.
const TOKEN_BYTES: usize = 32;

/// Why the identity could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was being done.
        step: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what we once wrote into it.
    #[error("{} is damaged; remove the directory it is in and start again (clients then need the new kubeconfig)", .0.display())]
    Damaged(PathBuf),
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[source] rcgen::Error),
    /// TLS refuses the certificate.
    #[error("cannot set TLS up")]
    Tls(#[source] rustls::Error),
}

/// What clients must send.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// One that was made elsewhere.
    #[must_use]
    pub fn given(text: &str) -> Self {
        Self(Arc::from(text.trim()))
    }

    /// Whether `offered` is the token. Takes as long for a wrong one whichever character is wrong.
    #[must_use]
    pub fn admits(&self, offered: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(offered).into()
    }
}

/// The server's identity.
#[derive(Debug)]
pub struct Identity {
    /// What clients must send.
    pub token: Token,
    authority_pem: String,
    authority_key: KeyPair,
}

impl Identity {
    /// Reads the identity in `directory`, or makes it there.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is damaged.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let failed = |step, source| Error::File { step, path: directory.to_owned(), source };
        std::fs::create_dir_all(directory).map_err(|error| failed("create", error))?;
        std::fs::set_permissions(directory, Permissions::from_mode(0o700))
            .map_err(|error| failed("protect", error))?;
        let key_path = directory.join("ca.key");
        let authority_key = match read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(|_| Error::Damaged(key_path))?,
            None => {
                let key = KeyPair::generate().map_err(Error::Certificate)?;
                write_private(&key_path, key.serialize_pem().as_bytes())?;
                key
            }
        };
        let authority_path = directory.join("ca.crt");
        let authority_pem = match read(&authority_path)? {
            Some(pem) => pem,
            None => {
                let pem = authority().self_signed(&authority_key).map_err(Error::Certificate)?.pem();
                write_private(&authority_path, pem.as_bytes())?;
                pem
            }
        };
        let token_path = directory.join("token");
        let token = match read(&token_path)? {
            Some(text) if text.trim().len() == TOKEN_BYTES * 2 => text.trim().to_owned(),
            Some(_) => return Err(Error::Damaged(token_path)),
            None => {
                let token = random_token().map_err(|source| Error::File {
                    step: "make",
                    path: token_path.clone(),
                    source,
                })?;
                write_private(&token_path, token.as_bytes())?;
                token
            }
        };
        Ok(Self { token: Token(Arc::from(token)), authority_pem, authority_key })
    }

    /// TLS for a server that is reached by `names` (host names and addresses).
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub fn server_tls(&self, names: &[String]) -> Result<Arc<rustls::ServerConfig>, Error> {
        let mut params = CertificateParams::new(names).map_err(Error::Certificate)?;
        params.distinguished_name.push(DnType::CommonName, "hearth");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(Error::Certificate)?;
        let issuer = Issuer::new(authority(), &self.authority_key);
        let certificate = params.signed_by(&key, &issuer).map_err(Error::Certificate)?;
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(Error::Tls)?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(Error::Tls)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// A kubeconfig for the server at `address`: what `kubectl`, any other kube client and our own command line need.
    #[must_use]
    pub fn kubeconfig(&self, address: SocketAddr) -> String {
        let mut reached = address;
        if reached.ip().is_unspecified() {
            reached.set_ip(if reached.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        let authority = BASE64_STANDARD.encode(&self.authority_pem);
        let token = &self.token.0;
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: hearth\n  cluster:\n    server: https://{reached}\n    certificate-authority-data: {authority}\n\
             users:\n\
             - name: hearth\n  user:\n    token: {token}\n\
             contexts:\n\
             - name: hearth\n  context:\n    cluster: hearth\n    user: hearth\n    namespace: default\n\
             current-context: hearth\n"
        )
    }

    /// Writes the kubeconfig for `address` to `path`, readable by its owner alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, address: SocketAddr) -> Result<(), Error> {
        write_private(path, self.kubeconfig(address).as_bytes())
    }
}

/// The authority's certificate but for its key. The same text each time: the issuer of a server certificate is made from it.
///
/// Its dates are rcgen's defaults and mean "always": it is trusted because of the file it is read from, and a clock that is wrong must not
/// lock an operator out.
fn authority() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "hearth authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    params
}

fn random_token() -> io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(hearth_function::hex(&bytes))
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { step: "read", path: path.to_owned(), source }),
    }
}

/// Writes beside and renames, so that nobody ever reads half a file, and with 0600 from its first moment on.
fn write_private(path: &Path, content: &[u8]) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file: File =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        // An older file of that name may have had another mode.
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| Error::File { step: "write", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_made_once_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let first = Identity::open(directory.path()).unwrap();
        let second = Identity::open(directory.path()).unwrap();
        let address = "127.0.0.1:7070".parse().unwrap();
        assert_eq!(first.kubeconfig(address), second.kubeconfig(address));
        for name in ["ca.key", "ca.crt", "token"] {
            let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn only_the_whole_token_is_admitted() {
        let token = Token(Arc::from("abcd"));
        assert!(token.admits(b"abcd"));
        for wrong in [&b"abce"[..], b"abc", b"abcde", b""] {
            assert!(!token.admits(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn a_damaged_token_is_named() {
        let directory = tempfile::tempdir().unwrap();
        Identity::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("token"), "short").unwrap();
        let error = Identity::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("token is damaged"), "{error}");
    }

    #[test]
    fn a_kubeconfig_for_any_address_names_loopback() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::open(directory.path()).unwrap();
        assert!(
            identity.kubeconfig("0.0.0.0:7070".parse().unwrap()).contains("server: https://127.0.0.1:7070\n")
        );
    }
}
