//! What hub and gateway say to each other, as frames: four bytes of length, and JSON.
//!
//! ```text
//!  hub      Challenge { version, nonce }
//!  gateway  Hello { version, name, nonce, proof }
//!  hub      Welcome { proof }              or Refused { reason }, and it closes
//!  gateway  Resume                         what it holds
//!  both     Tell …, and Beat while there is nothing to tell
//! ```

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use hearth_dispatch::{Resume, ToGateway, ToScaler};
use hearth_function::FunctionId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

use super::proof::Nonce;
use crate::telemetry::logs::Calls;

/// What both must speak.
pub(crate) const VERSION: u32 = 1;

/// Who has nothing to say says so after this.
pub(crate) const BEAT: Duration = Duration::from_secs(2);

/// Who says nothing for so long is not there any more; and who does not take what is sent.
pub(crate) const SILENCE: Duration = Duration::from_secs(8);

/// The greeting must not take longer.
pub(crate) const GREETING: Duration = Duration::from_secs(5);

/// Largest frame: a gateway that holds tens of thousands of instances says so in one.
const FRAME_BYTES: usize = 16 << 20;

/// Largest frame before somebody has proved who he is.
const GREETING_BYTES: usize = 4 << 10;

/// From the hub.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromHub {
    /// Prove who you are.
    Challenge { version: u32, nonce: Nonce },
    /// Come in. And this is who I am.
    Welcome { proof: [u8; 32] },
    /// Why not.
    Refused { reason: String },
    /// Of the autoscaler.
    Tell(ToGateway),
    /// I am there.
    Beat,
}

/// From a gateway.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromGateway {
    /// Who it is.
    Hello { version: u32, name: String, nonce: Nonce, proof: [u8; 32] },
    /// What it holds.
    Resume(Resume),
    /// For the autoscaler.
    Tell(ToScaler),
    /// Records of calls that have ended.
    Calls(Vec<Run>),
    /// I am there.
    Beat,
}

/// Records of calls of one Function, as lines.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    function: FunctionId,
    lines: String,
}

/// Records as they go over the wire; a run of more than a quarter of a frame is left out, with how many records that is at the least.
pub(crate) fn runs(calls: &Calls) -> Vec<Run> {
    calls
        .runs()
        .filter(|(_, lines)| lines.len() < FRAME_BYTES / 4)
        .filter_map(|(function, lines)| {
            Some(Run { function: function.clone(), lines: std::str::from_utf8(lines).ok()?.to_owned() })
        })
        .collect()
}

/// And back.
pub(crate) fn calls(runs: &[Run]) -> Calls {
    let mut calls = Calls::default();
    for run in runs {
        calls.append(&run.function, run.lines.as_bytes());
    }
    calls
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("it was closed")]
    Closed,
    #[error("nothing came for {SILENCE:?}")]
    Silent,
    #[error("what came is not what is spoken here")]
    Malformed(#[source] serde_json::Error),
    #[error("it was not its turn to say that")]
    Turn,
    #[error("it speaks version {0}, and this is {VERSION}")]
    Version(u32),
    #[error("it does not know the cluster key")]
    Key,
    #[error("refused: {0}")]
    Refused(String),
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct Reader<R>(FramedRead<R, LengthDelimitedCodec>);

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(stream: R) -> Self {
        let codec = LengthDelimitedCodec::builder().max_frame_length(GREETING_BYTES).new_codec();
        Self(FramedRead::new(stream, codec))
    }

    /// Whoever sends is known by now.
    pub(crate) fn trust(&mut self) {
        self.0.decoder_mut().set_max_frame_length(FRAME_BYTES);
    }

    /// The next frame.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; the silence is counted anew.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, Error> {
        let frame = timeout(SILENCE, self.0.next()).await.map_err(|_| Error::Silent)?;
        let frame = frame.ok_or(Error::Closed)??;
        serde_json::from_slice(&frame).map_err(Error::Malformed)
    }
}

/// The sending end.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    sink: FramedWrite<W, LengthDelimitedCodec>,
    frame: BytesMut,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(crate) fn new(stream: W) -> Self {
        let codec = LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES).new_codec();
        Self { sink: FramedWrite::new(stream, codec), frame: BytesMut::new() }
    }

    /// Puts a frame behind those that are to be written.
    pub(crate) async fn feed<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        serde_json::to_writer((&mut self.frame).writer(), message).map_err(Error::Malformed)?;
        let frame: Bytes = self.frame.split().freeze();
        timeout(SILENCE, self.sink.feed(frame)).await.map_err(|_| Error::Silent)?.map_err(Error::Io)
    }

    /// Writes them.
    pub(crate) async fn flush(&mut self) -> Result<(), Error> {
        let flushed = timeout(SILENCE, SinkExt::<Bytes>::flush(&mut self.sink)).await;
        flushed.map_err(|_| Error::Silent)?.map_err(Error::Io)
    }

    /// Both.
    pub(crate) async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), Error> {
        self.feed(message).await?;
        self.flush().await
    }
}
