//! An image of this machine's disk into a registry: what the registry has already is not sent again.

use std::io::Read as _;

use bytes::Bytes;
use oci_client::errors::OciDistributionError;

use super::local::{Blob, Local};
use super::{Error, Remote};

/// Bytes of one piece of an upload: registries take a few mebibytes at once well, and a slow line shows progress.
const PIECE: usize = 1 << 20;

/// Pieces that are read ahead of the upload.
const AHEAD: usize = 4;

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Blobs that the registry lacked.
    pub blobs: usize,
    /// Bytes of them.
    pub bytes: u64,
}

impl Remote {
    /// Sends the blobs that the registry lacks, and the manifest last, under the reference's tag or digest. `missing` hears how many bytes
    /// there are to be sent, `sent` of each that were.
    ///
    /// # Errors
    /// When the registry refuses, cannot be reached or breaks off; what it took is not sent again the next time.
    pub async fn push(
        &self,
        local: &Local,
        missing: impl FnOnce(u64),
        sent: impl Fn(u64) + Clone + Send + 'static,
    ) -> Result<Sent, Error> {
        // The token must be one for pushing; one that is asked for later, to look, would not do.
        self.authorise().await?;
        let mut lacking: Vec<&Blob> = Vec::new();
        for blob in local.blobs() {
            let known = lacking.iter().any(|other| other.digest == blob.digest);
            if !known && !self.has(blob).await? {
                lacking.push(blob);
            }
        }
        let bytes = lacking.iter().map(|blob| blob.size).sum();
        missing(bytes);
        for blob in &lacking {
            self.push_blob(local, blob, sent.clone()).await?;
        }
        let kind = oci_client::manifest::OCI_IMAGE_MEDIA_TYPE.parse().map_err(|_| Error::CutOff)?;
        let pushed = self.client().push_manifest_raw(self.reference(), local.manifest().to_vec(), kind).await;
        pushed.map_err(|error| self.explain(error))?;
        Ok(Sent { blobs: lacking.len(), bytes })
    }

    async fn has(&self, blob: &Blob) -> Result<bool, Error> {
        match self.client().blob_exists(self.reference(), blob.digest.as_str()).await {
            // Some registries do not even say of a repository that it is not there yet: the push itself shows whether it is allowed.
            Err(OciDistributionError::RequestError(error))
                if error.status().is_some_and(|status| [401, 403, 404].contains(&status.as_u16())) =>
            {
                Ok(false)
            }
            there => there.map_err(|error| self.explain(error)),
        }
    }

    async fn push_blob(
        &self,
        local: &Local,
        blob: &Blob,
        sent: impl Fn(u64) + Send + 'static,
    ) -> Result<(), Error> {
        let mut reader = local.read(blob)?;
        let (full, mut pieces) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(AHEAD);
        let reading = tokio::task::spawn_blocking(move || {
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                let read = reader.by_ref().take(PIECE as u64).read_to_end(&mut piece);
                let end = matches!(read, Ok(0));
                let failed = read.is_err();
                if end || full.blocking_send(read.map(|_| Bytes::from(piece))).is_err() || failed {
                    return;
                }
            }
        });
        let stream = futures_util::stream::poll_fn(move |context| {
            let piece = std::task::ready!(pieces.poll_recv(context));
            if let Some(Ok(piece)) = &piece {
                sent(piece.len() as u64);
            }
            std::task::Poll::Ready(piece.map(|piece| piece.map_err(OciDistributionError::IoError)))
        });
        let digest = blob.digest.as_str();
        let pushed = self.client().push_blob_stream(self.reference(), stream, digest, Some(blob.size)).await;
        pushed.map_err(|error| self.explain(error))?;
        reading.await.map_err(|_| Error::CutOff)
    }
}
