//! Fetches the layers of an image from its registry, several at once, and only those that are not here.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use hearth_function::{ByteSize, ImageTemplate};

use super::files::blocking;
use super::{Error, Images, Remote, config};
use crate::build::shelf::At as _;

/// Layers that are fetched at once of one image.
const LAYERS: usize = 3;

impl Images {
    pub(super) async fn pull(
        &self,
        image: &ImageTemplate,
        progress: &mut impl FnMut(String),
    ) -> Result<(), Error> {
        let remote = Remote::open(&image.reference, &self.inner.config.access).await?.at(&image.digest);
        let fetched = self.in_time(&image.reference, async {
            progress(format!("looks for {}", image.reference));
            let documents = remote.documents().await?;
            let layers = config::layers(&config::manifest(&documents.manifest)?, &documents.config)?;
            self.fetch(&remote, &layers, progress).await?;
            Ok::<_, Error>((documents, layers))
        });
        let (documents, layers) = fetched.await?;
        progress("puts the layers together".to_owned());
        let (this, digest) = (self.clone(), image.digest.clone());
        blocking(move || this.put_together(&digest, &documents.config, &layers)).await
    }

    /// What is done with a registry, for so long as it may take.
    pub(super) async fn in_time<T>(
        &self,
        reference: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let timeout = self.inner.config.timeout;
        tokio::time::timeout(timeout, work).await.map_err(|_| Error::Registry {
            what: format!("{reference} was not fetched within {}", humantime::format_duration(timeout)),
            fix: "try again: the layers that came are kept; images.timeout is how long it may take",
            source: None,
        })?
    }

    /// Has every layer unpacked that is not here.
    async fn fetch(
        &self,
        remote: &Remote,
        layers: &[config::Layer],
        progress: &mut impl FnMut(String),
    ) -> Result<(), Error> {
        let missing = self.missing(layers)?;
        let total: u64 = missing.iter().map(|layer| layer.size).sum();
        let came = AtomicU64::new(0);
        let (told, mut hears) = tokio::sync::mpsc::channel(1);
        let (came, told) = (&came, &told);
        let count = missing.len();
        let mut each: Vec<BoxFuture<'_, Result<(), Error>>> = Vec::with_capacity(count);
        for layer in missing {
            let more = |bytes| {
                came.fetch_add(bytes, Ordering::Relaxed);
                // Somebody hears of it already, and will of this too.
                let _full = told.try_send(()).is_err();
            };
            each.push(self.fetch_layer(remote, layer, more).boxed());
        }
        let fetching = stream::iter(each).buffer_unordered(LAYERS).try_collect::<Vec<()>>();
        let mut fetching = std::pin::pin!(fetching);
        loop {
            tokio::select! {
                done = &mut fetching => return done.map(drop),
                Some(()) = hears.recv() => {
                    let size = |bytes| ByteSize::from_bytes(bytes >> 20 << 20);
                    progress(format!(
                        "fetches {count} layers, {} of {}", size(came.load(Ordering::Relaxed)), size(total + (1 << 20) - 1)
                    ));
                }
            }
        }
    }

    async fn fetch_layer(
        &self,
        remote: &Remote,
        layer: config::Layer,
        came: impl FnMut(u64) + Send,
    ) -> Result<(), Error> {
        let packed = self.incoming();
        let file = tokio::fs::File::create(&packed.0).await.map_err(Error::Store)?;
        remote.blob(&layer.digest, layer.size, file, came).await?;
        let this = self.clone();
        blocking(move || {
            let file = fs::File::open(&packed.0).at("open", &packed.0)?;
            this.unpack(&layer, file)
        })
        .await
    }
}
