//! What the function prints, on its way to the controller.
//!
//! ```text
//!  stdout, stderr (pipes) ── lines ──┐
//!                                    ├──► ring ──► control connections, each at its own place
//!  descriptor 4 (records) ───────────┘        └──► in a Pod, the container's own streams (`print`)
//! ```
//!
//! The pipes are read whatever happens, so that printing never waits for a controller: what nobody fetches in time is lost from the ring's
//! old end, and counted. Only a flood waits: there is a bound to how fast they are read (`pace`). Which call a line belongs to is said only where it is certain:
//! - records on descriptor 4 carry their request id: the bootstrap knows the caller of `console.log` and `print`;
//! - lines on the raw descriptors (child processes, native code) belong to the one call that runs, where only one may. The bootstrap then
//!   writes a marker into both pipes when the call begins and when it ends: in the pipe, and not beside it, the order is exact;
//! - where several calls may run, raw lines are flagged shared.

mod lines;
mod pace;
mod print;
mod records;
mod ring;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::SystemTime;

use bytes::BytesMut;
use hearth_protocol::{LogStream, RequestId};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

pub(crate) use print::Printer;

use lines::{Item, Lines};
use pace::Pace;
use ring::Ring;

/// Longest line that is kept whole, in bytes; of a longer one the beginning. Docker's own limit.
pub(crate) const MAX_LINE: usize = 16 * 1024;

/// Bytes per read of a log pipe.
const READ_BYTES: usize = 64 * 1024;

/// Lines that [`Logs::last_lines`] gives: what a person looks at first.
const LAST_LINES: usize = 20;

/// Whose the lines of a raw pipe are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Of no call.
    Nobody,
    /// Of this call.
    Call(RequestId),
    /// Of one of several.
    Shared,
}

/// A handle on the instance's logs.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    ring: Rc<RefCell<Ring>>,
    grown: Rc<Notify>,
    /// Of all pipes together.
    pace: Rc<RefCell<Pace>>,
}

impl Logs {
    /// An empty ring of this many bytes.
    pub(crate) fn new(ring_bytes: usize) -> Self {
        Self { ring: Rc::new(RefCell::new(Ring::new(ring_bytes))), grown: Rc::default(), pace: Rc::default() }
    }

    /// Keeps one line.
    pub(crate) fn add(&self, stream: LogStream, owner: &Owner, line: &[u8], truncated: bool) {
        self.ring.borrow_mut().push(unix_micros(), stream, owner, line, truncated);
        self.grown.notify_waiters();
    }

    /// Keeps a line of the shim's own.
    pub(crate) fn say(&self, line: &str) {
        self.add(LogStream::Platform, &Owner::Nobody, line.as_bytes(), false);
    }

    /// Appends the frames of records after `after` to `out`, about `limit` bytes of them; returns the sequence number of the last.
    pub(crate) fn fetch(&self, after: u64, limit: usize, out: &mut BytesMut) -> u64 {
        self.ring.borrow().fetch(after, limit, out)
    }

    /// Sequence number of the newest record; 0: there was none.
    fn newest(&self) -> u64 {
        self.ring.borrow().newest()
    }

    /// Waits until there is a record after `after`.
    pub(crate) async fn after(&self, after: u64) {
        loop {
            let grown = self.grown.notified();
            if self.newest() > after {
                return;
            }
            grown.await;
        }
    }

    /// The last lines that are still kept, of one call or of all, as text.
    pub(crate) fn last_lines(&self, call: Option<&RequestId>) -> Vec<String> {
        self.ring.borrow().last_lines(LAST_LINES, call)
    }

    /// Reads a raw pipe to its end. `owner` is whose the lines are until a marker with this nonce says otherwise.
    pub(crate) async fn pump_lines(
        self,
        pipe: pipe::Receiver,
        stream: LogStream,
        mut owner: Owner,
        nonce: Option<Rc<str>>,
    ) {
        let mut lines = Lines::new(nonce);
        let keep = |owner: &mut Owner, item: Item<'_>| match item {
            Item::Line { text, truncated } => self.add(stream, owner, text, truncated),
            Item::Owner(now) => *owner = now,
        };
        self.read_to_end(pipe, |bytes| lines.take(bytes, |item| keep(&mut owner, item))).await;
        lines.finish(|item| keep(&mut owner, item));
    }

    /// Reads the records of a bootstrap to their end.
    pub(crate) async fn pump_records(self, pipe: pipe::Receiver) {
        let mut records = records::Records::default();
        self.read_to_end(pipe, |bytes| {
            records.take(bytes, |stream, owner, line, truncated| self.add(stream, owner, line, truncated));
        })
        .await;
        if records.broken() {
            self.say(
                "the runtime wrote something else than records to the log descriptor; what followed is lost",
            );
        }
    }

    /// Feeds everything that comes out of `pipe` to `take`, at the instance's pace.
    async fn read_to_end(&self, pipe: pipe::Receiver, mut take: impl FnMut(&[u8])) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            // A pipe that fails is at its end.
            if pipe.readable().await.is_err() {
                return;
            }
            let read = match pipe.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            };
            take(&buffer[..read]);
            let pause = self.pace.borrow_mut().read(read, Instant::now());
            if pause.is_zero() {
                // What comes at once must not keep everything else from running.
                tokio::task::yield_now().await;
            } else {
                sleep(pause).await;
            }
        }
    }
}

fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
