//! What the function prints, on the container's own streams too: that is where `kubectl logs` and whatever collects the logs of a node look.
//!
//! A reader of the ring like any other, so that nothing waits for it: when the streams are slow, or the function prints faster than the pace,
//! lines are missing here, and their number is said.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use bytes::BytesMut;
use hearth_protocol::{Frame, LogRecord, LogStream, decode};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe::Sender;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::Logs;
use super::pace::Pace;

/// Bytes of lines a second: 1 MiB. What collects logs, and the disk of the node, are everybody's.
const BYTES_PER_SECOND: u32 = 1 << 20;

/// Bytes of records that are taken out of the ring at once.
const STEP: usize = 32 * 1024;

/// Before a line of the platform's own.
const PLATFORM: &[u8] = b"hearth: ";

/// Writes the lines of an instance.
#[derive(Debug)]
pub(crate) struct Printer {
    logs: Logs,
    /// Standard output and standard error; each until it fails.
    streams: RefCell<[Option<Sender>; 2]>,
    /// Sequence number of the last record that was written.
    at: Cell<u64>,
    moved: Notify,
}

impl Printer {
    /// On this process's own streams, as far as they are pipes.
    pub(crate) fn on_own_streams(logs: Logs) -> Self {
        Self::new(logs, [own(io::stdout().as_fd()), own(io::stderr().as_fd())])
    }

    fn new(logs: Logs, streams: [Option<Sender>; 2]) -> Self {
        Self { logs, streams: RefCell::new(streams), at: Cell::new(0), moved: Notify::new() }
    }

    /// Writes until there is nothing to write on. One call at a time.
    ///
    /// # Cancel safety
    /// A line may be cut off.
    pub(crate) async fn run(&self) {
        let mut pace = Pace::of(BYTES_PER_SECOND);
        let mut streams = self.streams.take();
        let mut frames = BytesMut::new();
        while streams.iter().any(Option::is_some) {
            self.logs.after(self.at.get()).await;
            let last = self.logs.fetch(self.at.get(), STEP, &mut frames);
            let texts = texts(&mut frames);
            for (text, stream) in texts.iter().zip(&mut streams) {
                if let Some(sender) = stream
                    && sender.write_all(text).await.is_err()
                {
                    // Nobody reads it any more.
                    *stream = None;
                }
            }
            self.at.set(last);
            self.moved.notify_waiters();
            sleep(pace.read(texts.iter().map(Vec::len).sum(), Instant::now())).await;
        }
        self.at.set(u64::MAX);
        self.moved.notify_waiters();
    }

    /// Waits until all that there is now has been written.
    pub(crate) async fn caught_up(&self) {
        let newest = self.logs.newest();
        loop {
            let moved = self.moved.notified();
            if self.at.get() >= newest {
                return;
            }
            moved.await;
        }
    }
}

/// A handle of our own on a pipe that was given to this process; it does not block from then on.
fn own(stream: BorrowedFd<'_>) -> Option<Sender> {
    Sender::from_owned_fd(stream.try_clone_to_owned().ok()?).ok()
}

/// What is written for these records, of each stream.
fn texts(frames: &mut BytesMut) -> [Vec<u8>; 2] {
    let [mut out, mut err] = [Vec::new(), Vec::new()];
    while let Ok(Some(Frame::Log(LogRecord { stream, dropped, line, .. }))) = decode(frames) {
        if dropped > 0 {
            err.extend_from_slice(PLATFORM);
            err.extend_from_slice(format!("{dropped} lines are missing here\n").as_bytes());
        }
        let into = if stream == LogStream::Stdout { &mut out } else { &mut err };
        if stream == LogStream::Platform {
            into.extend_from_slice(PLATFORM);
        }
        into.extend_from_slice(&line);
        into.push(b'\n');
    }
    [out, err]
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::unix::pipe::{self, Receiver};

    use super::super::Owner;
    use super::*;

    fn printer(logs: &Logs) -> (Printer, [Receiver; 2]) {
        let ((out, read_out), (err, read_err)) = (pipe::pipe().unwrap(), pipe::pipe().unwrap());
        (Printer::new(logs.clone(), [Some(out), Some(err)]), [read_out, read_err])
    }

    async fn read(pipe: &mut Receiver) -> String {
        let mut bytes = vec![0; 64 * 1024];
        let read = pipe.read(&mut bytes).await.unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    #[tokio::test]
    async fn lines_go_to_the_stream_that_they_were_printed_on() {
        let logs = Logs::new(1 << 20);
        let (printer, [mut out, mut err]) = printer(&logs);
        logs.add(LogStream::Stdout, &Owner::Nobody, b"one", false);
        logs.add(LogStream::Stderr, &Owner::Shared, b"two", false);
        logs.say("three");
        tokio::select! {
            () = printer.run() => panic!("its streams are there"),
            () = printer.caught_up() => {}
        }
        assert_eq!(
            (read(&mut out).await, read(&mut err).await),
            ("one\n".into(), "two\nhearth: three\n".into())
        );
    }

    #[tokio::test]
    async fn streams_that_nobody_reads_keep_nobody_waiting_and_what_is_lost_is_said() {
        let logs = Logs::new(16 * 1024);
        let (printer, [mut out, mut err]) = printer(&logs);
        let line = [b'x'; 1000];
        let mut printed = std::pin::pin!(printer.run());
        for _ in 0..1000 {
            logs.add(LogStream::Stdout, &Owner::Nobody, &line, false);
            tokio::select! {
                biased;
                () = printed.as_mut() => panic!("its streams are there"),
                () = tokio::task::yield_now() => {}
            }
        }
        let read = async {
            let mut all = 0;
            loop {
                tokio::select! {
                    biased;
                    text = read(&mut out) => all += text.lines().count(),
                    text = read(&mut err) => break (all, text),
                }
            }
        };
        let (all, said) = tokio::select! {
            () = printed => panic!("its streams are there"),
            read = read => read,
        };
        assert!((1..1000).contains(&all) && said.ends_with(" lines are missing here\n"), "{all} {said}");
    }

    #[tokio::test]
    async fn with_nobody_there_any_more_it_ends() {
        let logs = Logs::new(1 << 20);
        let (printer, pipes) = printer(&logs);
        drop(pipes);
        logs.add(LogStream::Stdout, &Owner::Nobody, b"one", false);
        logs.say("two");
        tokio::join!(printer.run(), printer.caught_up());
    }
}
