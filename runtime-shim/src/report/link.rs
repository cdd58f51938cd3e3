//! One report connection.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hearth_protocol::report::{FromShim, Purpose, ToShim, decode, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{sleep, timeout};

use super::{Caller, Trouble};
use crate::socket;

/// How long a connection may take to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(5);

/// How long a controller may take to read the last message.
const LAST_WORD: Duration = Duration::from_secs(1);

/// How long a controller may take to remember an instance that runs.
const RECOGNITION: Duration = Duration::from_secs(10);

/// Bytes made ready for one read.
const READ_BYTES: usize = 4 * 1024;

/// A connection whose first message is sent.
#[derive(Debug)]
pub(super) struct Link {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    buffer: BytesMut,
}

impl Link {
    /// Reports; the controller's answer.
    pub(super) async fn report(
        caller: &Arc<Caller>,
        (invoke, control): (u16, u16),
        running: bool,
    ) -> Result<(Self, ToShim), Trouble> {
        let mut link = timeout(CONNECT, Self::connect(Arc::clone(caller))).await.map_err(too_slow)??;
        link.send(&caller.hello(Purpose::Report { running, invoke, control })).await?;
        let answer = if running {
            timeout(RECOGNITION, link.next()).await.map_err(too_slow)??
        } else {
            // The caller has the whole wait bounded.
            link.next().await?
        };
        answer.map(|answer| (link, answer)).ok_or_else(|| Trouble::of(None))
    }

    async fn connect(caller: Arc<Caller>) -> io::Result<Self> {
        let address = match caller.controller.parse() {
            Ok(address) => address,
            Err(_) => {
                tokio::task::spawn_blocking(move || caller.resolve()).await.map_err(io::Error::other)??
            }
        };
        let stream = TcpStream::connect(address).await?;
        socket::tune(&stream)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader, writer, buffer: BytesMut::new() })
    }

    /// The next message; `None` at the end.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> io::Result<Option<ToShim>> {
        loop {
            if let Some(message) = decode(&mut self.buffer).map_err(io::Error::other)? {
                if self.buffer.is_empty() {
                    // The first orders were long, and what comes later is short.
                    self.buffer = BytesMut::new();
                }
                return Ok(Some(message));
            }
            self.buffer.reserve(READ_BYTES);
            if self.reader.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// Says something.
    pub(super) async fn send(&mut self, message: &FromShim) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        encode(message, &mut bytes).map_err(io::Error::other)?;
        self.writer.write_all(&bytes).await
    }

    /// Waits until the controller has read everything. Closed earlier, what it has sent meanwhile would take our last words along.
    pub(super) async fn close(mut self) {
        let closed = async {
            self.writer.shutdown().await?;
            while self.next().await?.is_some() {}
            io::Result::Ok(())
        };
        // Who is slower than that is told by the container's end.
        timeout(LAST_WORD, closed).await.ok();
    }
}

fn too_slow(_: tokio::time::error::Elapsed) -> Trouble {
    Trouble::Again("the controller does not answer".to_owned())
}

/// Pauses between attempts: longer each time, and different from what other instances make.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    made: u32,
}

impl Pauses {
    /// The first pause: of two controllers the one that is not the leader answers every other time.
    const FIRST: Duration = Duration::from_millis(20);

    /// The longest.
    const LONGEST: Duration = Duration::from_secs(2);

    /// One pause.
    pub(super) async fn wait(&mut self) {
        // Nothing here is worth a generator: the keys of a hash map are drawn at random.
        sleep(self.next(RandomState::new().hash_one(self.made))).await;
    }

    /// Between half of it and the whole.
    fn next(&mut self, random: u64) -> Duration {
        let whole = Self::FIRST.saturating_mul(1 << self.made.min(10)).min(Self::LONGEST);
        self.made += 1;
        let half = whole / 2;
        half + half.mul_f64((random >> 32) as f64 / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let mut pauses = Pauses::default();
        let made: Vec<Duration> =
            (0..40).map(|n| pauses.next(if n % 2 == 0 { 0 } else { u64::MAX })).collect();
        assert_eq!(made[..3], [10, 40, 40].map(Duration::from_millis));
        assert_eq!(made[38..], [1000, 2000].map(Duration::from_millis));
    }
}
