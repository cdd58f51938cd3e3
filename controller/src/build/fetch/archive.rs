//! An archive on the web: downloaded within limits, and unpacked whatever form it has.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use hearth_function::Digest;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{Error, failed, redacted};
use crate::build::bundles::{self, Limits};
use crate::build::unpack;

/// How long a server may take to accept a connection, and how long it may be silent.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(30);

/// Redirects that are followed: from a release's page to where its files are.
const REDIRECTS: usize = 5;

/// Downloads into a file; the digest of what came.
pub(super) async fn download(url: &str, into: &Path, limit: u64) -> Result<Digest, Error> {
    let shown = redacted(url);
    let fetch = |what: String, error: reqwest::Error| Error::Fetch {
        what,
        fix: "check the address, and that this server reaches it",
        source: Some(Box::new(error.without_url())),
    };
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .redirect(reqwest::redirect::Policy::limited(REDIRECTS))
        .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| fetch("this server cannot make requests".to_owned(), error))?;
    let response = client.get(url).send().await;
    let response = response.map_err(|error| fetch(format!("{shown} cannot be reached"), error))?;
    if !response.status().is_success() {
        return Err(Error::Fetch {
            what: format!("{shown} answered {}", response.status()),
            fix: "check the address",
            source: None,
        });
    }
    let too_large = || Error::TooLarge { what: shown.clone(), limit };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let store =
        |error| failed(format!("{shown} could not be stored"), "see the disk of the data directory", error);
    let mut file = tokio::fs::File::create(into).await.map_err(store)?;
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| fetch(format!("{shown} broke off"), error))?;
        length += chunk.len() as u64;
        if length > limit {
            return Err(too_large());
        }
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(store)?;
    }
    file.flush().await.map_err(store)?;
    Ok(Digest::from_sha256(hash.finalize().into()))
}

/// Unpacks a tar, tar.gz or zip, as its first bytes say.
pub(super) fn unpack(file: &Path, into: &Path, limits: &Limits) -> Result<(), bundles::Error> {
    let mut packed = BufReader::new(File::open(file).map_err(bundles::Error::Read)?);
    let mut magic = [0; 4];
    let length = packed.read(&mut magic).map_err(bundles::Error::Read)?;
    packed.rewind().map_err(bundles::Error::Read)?;
    match magic.get(..length).unwrap_or_default() {
        [0x1f, 0x8b, ..] => unpack::plain(unpack::gunzip(packed), into, limits).map(drop),
        [b'P', b'K', 3 | 5, 4 | 6] => super::zip::unpack(packed, into, limits),
        _ => unpack::plain(packed, into, limits).map(drop),
    }
}
