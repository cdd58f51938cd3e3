//! What functions print, on disk, per invocation.
//!
//! Owns `<data-dir>/logs/<namespace>/<function>/`: segments named `00000001.jsonl` and on, one JSON object ([`Entry`]) on each line, written
//! only at their end. Two bounds hold (INV-15): a function keeps at most [`Limits::per_function`] bytes (the oldest segment goes), and one call
//! at most [`Limits::per_call`] (an entry says where it was cut).
//!
//! One thread writes ([`Writer`]); everybody else holds a [`Logs`]. Instances wait for room in its queue, so that a flood stays in the
//! instance's own ring, where the lines that are lost are counted; gateways do not wait, and what they could not hand over is counted.
//!
//! A controller that is killed leaves at most a torn last line: readers skip what is not JSON, and a new writer starts a new segment.

mod calls;
mod entry;
mod reader;
mod segments;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hearth_function::{FunctionId, InstanceId};
use jiff::Timestamp;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

pub use calls::Calls;
pub use entry::{CallRecord, Entry, Line, Note, Stream};
pub use reader::Query;
pub use writer::Writer;

use writer::Command;

/// Entries that wait for the writer. At 200 bytes each this is under 1 MiB; longer lines make it more, up to 64 KiB each.
const QUEUE: usize = 4096;

/// A call's record is in the log so long after its end: gateways hand over what they have every 50 ms.
const RECORD_WITHIN: Duration = Duration::from_millis(150);

/// How long after the record of a call lines of it may come that were printed before its end. One that prints faster than it is read has
/// lines that come later still.
const LINES_WITHIN: Duration = Duration::from_millis(500);

/// How long who looks for a request among all functions waits for one that does already.
const LOOKED_WITHIN: Duration = Duration::from_secs(2);

/// How much of logs is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes on disk for each function. Default: 16 MiB, the ring buffer that `docker`'s `local` driver keeps, rounded down.
    pub per_function: u64,
    /// Bytes for each call. Default: 10 MiB, OpenWhisk's limit for one activation.
    pub per_call: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_function: 16 << 20, per_call: 10 << 20 }
    }
}

/// Why logs could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("{action} {}", path.display())]
    File {
        /// What was being done, as in `read`.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Others look for requests, and each reads whole logs through.
    #[error("other requests are being looked for in the logs")]
    Busy,
    /// The writer has ended.
    #[error("the log writer has ended")]
    Closed,
}

/// Writes and reads logs. Clones share one writer.
#[derive(Debug, Clone)]
pub struct Logs {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    dropped: AtomicU64,
    /// Held by who looks for a request among functions: one at a time.
    looking: Arc<Semaphore>,
}

impl Logs {
    /// Opens the logs under `directory`, which is made when it is not there. The caller runs the [`Writer`] on a thread of its own.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(directory: PathBuf, limits: Limits) -> Result<(Self, Writer), Error> {
        std::fs::create_dir_all(&directory).map_err(|source| Error::File {
            action: "create",
            path: directory.clone(),
            source,
        })?;
        let (commands, inbox) = mpsc::channel(QUEUE);
        let writer = Writer::new(directory.clone(), limits, inbox);
        let looking = Arc::new(Semaphore::new(1));
        let shared = Arc::new(Shared { directory, dropped: AtomicU64::new(0), looking });
        Ok((Self { commands, shared }, writer))
    }

    /// Takes one entry of a function and waits while the queue is full. After [`Logs::close`] the entry is dropped.
    pub async fn write(&self, function: &FunctionId, entry: Entry) {
        if self
            .commands
            .send(Command::Write { function: function.clone(), entry: Arc::new(entry) })
            .await
            .is_err()
        {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes one entry of a function without waiting: for the request path. What finds no room is counted in [`Logs::dropped`].
    pub fn offer(&self, function: &FunctionId, entry: Entry) {
        if self
            .commands
            .try_send(Command::Write { function: function.clone(), entry: Arc::new(entry) })
            .is_err()
        {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes a line of Hearth's own, of now, about this instance or none. Does not wait, as [`Logs::offer`].
    pub fn remark(&self, function: &FunctionId, instance: Option<&InstanceId>, text: String) {
        let note = Note { time: Timestamp::now(), request: None, instance: instance.cloned(), text };
        self.offer(function, Entry::Note(note));
    }

    /// Takes the records of many calls without waiting. What finds no room is counted in [`Logs::dropped`].
    pub fn offer_calls(&self, calls: Calls) {
        let count = calls.count();
        if self.commands.try_send(Command::Calls(calls)).is_err() {
            self.shared.dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Entries that found no room since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// The entries of a function that `query` asks for, oldest first; of a request, its call is the last. A function without logs has none.
    ///
    /// What an answer's reader asks for at once may be on the way still: of a request whose end is not told yet, that is waited for a moment.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub async fn read(&self, function: &FunctionId, query: Query) -> Result<Vec<Entry>, Error> {
        let found = self.read_now(function, &query).await?;
        if query.request.is_none() || found.iter().any(|entry| matches!(entry, Entry::Call(_))) {
            return Ok(found);
        }
        tokio::time::sleep(RECORD_WITHIN).await;
        self.read_now(function, &query).await
    }

    async fn read_now(&self, function: &FunctionId, query: &Query) -> Result<Vec<Entry>, Error> {
        self.flush().await;
        let (directory, query) = (segments::directory(&self.shared.directory, function), query.clone());
        blocking(move || reader::read(&directory, &query)).await
    }

    /// Which of `functions` know a request: those that printed lines for it, or were called by its id.
    ///
    /// That reads their logs through, so it is done for one request at a time.
    ///
    /// # Errors
    /// When a log cannot be read; [`Error::Busy`] when others looked for too long.
    pub async fn of_request(
        &self,
        functions: Vec<FunctionId>,
        request: &str,
    ) -> Result<Vec<FunctionId>, Error> {
        // What an answer's reader asks for at once may be on the way still, and looking twice is dear.
        tokio::time::sleep(RECORD_WITHIN).await;
        let turn = timeout(LOOKED_WITHIN, Arc::clone(&self.shared.looking).acquire_owned());
        let turn = turn.await.map_err(|_| Error::Busy)?.map_err(|_| Error::Closed)?;
        self.flush().await;
        let (shared, request) = (Arc::clone(&self.shared), request.to_owned());
        blocking(move || {
            // Here: the reading goes on though nobody waits for it any more.
            let _turn = turn;
            let mut found = Vec::new();
            for function in functions {
                if reader::knows(&segments::directory(&shared.directory, &function), &request)? {
                    found.push(function);
                }
            }
            Ok(found)
        })
        .await
    }

    /// What [`Logs::read`] gives and then whatever is written, as it comes.
    ///
    /// # Errors
    /// As for [`Logs::read`]; [`Error::Closed`] after [`Logs::close`].
    pub async fn follow(&self, function: &FunctionId, query: Query) -> Result<Follow, Error> {
        // Subscribed before reading: nothing falls between the two. What is in both is told apart by its place.
        let (reply, answer) = oneshot::channel();
        let command = Command::Subscribe { function: function.clone(), reply };
        self.commands.send(command).await.map_err(|_| Error::Closed)?;
        let subscription = answer.await.map_err(|_| Error::Closed)?;
        let directory = segments::directory(&self.shared.directory, function);
        let before = subscription.written;
        let backlog_query = query.clone();
        let backlog = blocking(move || reader::read_until(&directory, &backlog_query, before)).await?;
        Ok(Follow { backlog: backlog.into_iter(), live: subscription.live, query, held: None })
    }

    /// The highest sequence number that is kept of an instance's lines; 0 without any.
    ///
    /// # Errors
    /// When a segment cannot be read.
    pub async fn last_sequence(&self, function: &FunctionId, instance: &InstanceId) -> Result<u64, Error> {
        self.flush().await;
        let directory = segments::directory(&self.shared.directory, function);
        let instance = instance.clone();
        blocking(move || reader::last_sequence(&directory, &instance)).await
    }

    /// Every function that has logs.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn functions(&self) -> Result<Vec<FunctionId>, Error> {
        let shared = Arc::clone(&self.shared);
        blocking(move || {
            segments::functions(&shared.directory).map_err(|source| Error::File {
                action: "list",
                path: shared.directory.clone(),
                source,
            })
        })
        .await
    }

    /// Deletes everything that a function has printed.
    ///
    /// # Errors
    /// [`Error::Closed`] after [`Logs::close`], or when the file system refuses.
    pub async fn remove(&self, function: &FunctionId) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Remove { function: function.clone(), reply })
            .await
            .map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Waits until everything that was handed over before is in the files (not: on the disk).
    pub async fn flush(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Flush { reply }).await.is_ok() {
            // An error means that the writer ended; then there is nothing left to wait for.
            let _ended = answer.await.is_err();
        }
    }

    /// Writes what was handed over and ends the writer.
    pub async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Close { reply }).await.is_ok() {
            let _ended = answer.await.is_err();
        }
    }
}

/// The entries of a function, from the past into the future.
#[derive(Debug)]
pub struct Follow {
    backlog: std::vec::IntoIter<Entry>,
    live: broadcast::Receiver<Arc<Entry>>,
    query: Query,
    /// The call of the request that is followed, and when it is shown at the latest: lines of it may still come.
    held: Option<(Entry, Instant)>,
}

impl Follow {
    /// The next entry; `None` when Hearth shuts down. A reader that is too slow misses entries and is told by a [`Note`].
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Entry> {
        loop {
            let next = match self.backlog.next() {
                Some(entry) => Some(entry),
                None => self.receive().await,
            };
            // Nothing more of the call, or the end: what is held goes before it.
            let Some(entry) = next else { return self.held.take().map(|(call, _)| call) };
            if self.query.request.is_none() || !matches!(entry, Entry::Call(_)) {
                return Some(entry);
            }
            // An id that a client used twice has two calls.
            if let Some((earlier, _)) = self.held.replace((entry, Instant::now() + LINES_WITHIN)) {
                return Some(earlier);
            }
        }
    }

    /// What is written next for this reader; `None` when no more comes, or not within the time of what is held.
    async fn receive(&mut self) -> Option<Entry> {
        loop {
            let received = match &self.held {
                Some((_, until)) => timeout_at(*until, self.live.recv()).await.ok()?,
                None => self.live.recv().await,
            };
            match received {
                Ok(entry) if self.query.matches(&entry) => return Some(entry.as_ref().clone()),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    return Some(Entry::Note(Note::missed(missed)));
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Closed)?
}
