//! A request to the management API by a name of one's own choosing.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::PATIENCE;

/// What the API answers to a GET whose `Host` is `name`, with the identity in `data_dir`; an error when its certificate is not for that name.
pub(crate) fn get(address: SocketAddr, name: &str, target: &str, data_dir: &Path) -> io::Result<String> {
    let identity = data_dir.join("tls");
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(identity.join("ca.crt")).map_err(io::Error::other)?;
    roots.add(authority).map_err(io::Error::other)?;
    let token = std::fs::read_to_string(identity.join("token"))?;
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let connection = ClientConnection::new(Arc::new(config), server).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut stream = StreamOwned::new(connection, stream);
    write!(
        stream,
        "GET {target} HTTP/1.1\r\nhost: {name}:{}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n",
        address.port(),
        token.trim()
    )?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        // Some servers close without saying so in TLS; the answer is whole.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(answer),
    }
}
