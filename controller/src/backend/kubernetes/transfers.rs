//! Blobs on their way to instances. Each takes a thread as long as its reader takes: so many at once and no more, and none for longer than its
//! size can explain.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::report::ToShim;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::blobs::{self, Blob};
use super::reports::Line;

/// Transfers at once: a quarter of the threads that may block, which everything else needs too.
const AT_ONCE: usize = 128;

/// How long one waits for its turn. A shim gives up after 20 s, and comes again for a minute.
const TURN: Duration = Duration::from_secs(15);

/// How long one that fetches may not read.
const SILENCE: Duration = Duration::from_secs(30);

/// Bytes per second that a transfer has at least, as a whole.
const LEAST_RATE: u64 = 1 << 20;

/// What each may take, however small it is.
const LEAST: Duration = Duration::from_secs(60);

/// How long a transfer of so many bytes may take.
pub(super) fn allowed(bytes: u64) -> Duration {
    LEAST + Duration::from_secs(bytes / LEAST_RATE)
}

/// The turns. A cheap handle.
#[derive(Debug, Clone)]
pub(super) struct Transfers(Arc<Semaphore>);

impl Transfers {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }

    /// Sends the blob. Where it finds no turn the connection closes without a word: its shim tries again.
    pub(super) async fn send(&self, mut line: Line, blob: Arc<Blob>) -> io::Result<()> {
        let turn = timeout(TURN, Arc::clone(&self.0).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            tracing::warn!(digest = blob.digest, "too many instances fetch at once: one was put off");
            return Ok(());
        };
        line.send(&ToShim::Blob { bytes: blob.bytes }).await?;
        let stream = line.stream.into_std()?;
        let until = Instant::now() + allowed(blob.bytes);
        let sending = move || {
            let _turn = turn;
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(SILENCE))?;
            blobs::write(&blob.path, io::BufWriter::with_capacity(1 << 18, Paced { inner: stream, until }))
        };
        tokio::task::spawn_blocking(sending).await?
    }
}

/// Refuses to write once its time is over: each write has a limit of its own, and there may be any number of them.
struct Paced<W> {
    inner: W,
    until: Instant,
}

impl<W: Write> Write for Paced<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if Instant::now() >= self.until {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it is read too slowly"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_large_may_take_longer() {
        assert_eq!(allowed(0), Duration::from_secs(60));
        assert_eq!(allowed(1 << 30), Duration::from_secs(60 + 1024));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_a_little_now_and_then_is_cut_off() {
        let mut paced = Paced { inner: Vec::new(), until: Instant::now() + Duration::from_secs(60) };
        for _ in 0..6 {
            paced.write_all(b"a").unwrap();
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        assert_eq!(paced.write_all(b"a").unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
