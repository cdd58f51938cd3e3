//! The one thread that writes.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hearth_function::FunctionId;
use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::telemetry::Seldom;

use super::calls::{self, Calls};
use super::segments::{self, Appender, Place};
use super::{Entry, Error, Limits, Note};

/// Commands taken from the queue at once, so that a function's lines go to its file in one write.
const BATCH: usize = 256;

/// Functions whose files are kept open.
const OPEN_FILES: usize = 256;

/// Entries that a slow follower may be behind before it misses some.
const FOLLOWER: usize = 1024;

/// Calls whose bytes are counted in each function, so that a call that never ends does not stay for ever.
const COUNTED_CALLS: usize = 4096;

/// Functions that were removed lately and may still be spoken of.
const REMOVED: usize = 256;

#[derive(Debug)]
pub(super) enum Command {
    Write { function: FunctionId, entry: Arc<Entry> },
    Calls(Calls),
    Subscribe { function: FunctionId, reply: oneshot::Sender<Subscription> },
    Remove { function: FunctionId, reply: oneshot::Sender<Result<(), Error>> },
    Flush { reply: oneshot::Sender<()> },
    Close { reply: oneshot::Sender<()> },
}

#[derive(Debug)]
pub(super) struct Subscription {
    /// Everything before this place was written before the subscription.
    pub(super) written: Place,
    pub(super) live: broadcast::Receiver<Arc<Entry>>,
}

/// Writes what [`super::Logs`] hands over. Run it on a thread of its own.
#[derive(Debug)]
pub struct Writer {
    directory: PathBuf,
    limits: Limits,
    inbox: mpsc::Receiver<Command>,
    functions: HashMap<FunctionId, Function>,
    /// When a function's logs were removed: records of its last calls may come after that and must not bring them back.
    removed: HashMap<FunctionId, Timestamp>,
    complained: Seldom<()>,
}

/// What the writer holds of one function.
#[derive(Debug, Default)]
struct Function {
    appender: Option<Appender>,
    buffer: Vec<u8>,
    live: Option<broadcast::Sender<Arc<Entry>>>,
    bytes_by_call: HashMap<String, u64>,
    used: u64,
}

impl Writer {
    pub(super) fn new(directory: PathBuf, limits: Limits, inbox: mpsc::Receiver<Command>) -> Self {
        Self {
            directory,
            limits,
            inbox,
            functions: HashMap::new(),
            removed: HashMap::new(),
            complained: Seldom::new(),
        }
    }

    /// Writes until [`super::Logs::close`], or until the last [`super::Logs`] is gone. Blocks the thread.
    pub fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut round = 0;
        while self.inbox.blocking_recv_many(&mut batch, BATCH) > 0 {
            round += 1;
            for command in batch.drain(..) {
                match command {
                    Command::Write { function, entry } => self.take(&function, entry, round),
                    Command::Calls(calls) => self.take_calls(&calls, round),
                    Command::Subscribe { function, reply } => {
                        self.write_out();
                        self.subscribe(function, reply, round);
                    }
                    Command::Remove { function, reply } => {
                        // The one who asked may have gone; the logs go all the same.
                        let _gone = reply.send(self.remove(&function)).is_err();
                    }
                    Command::Flush { reply } => {
                        self.write_out();
                        let _gone = reply.send(()).is_err();
                    }
                    Command::Close { reply } => {
                        self.write_out();
                        let _gone = reply.send(()).is_err();
                        return;
                    }
                }
            }
            self.write_out();
            self.close_files();
        }
    }

    /// Lines that are written already go to the file as they are, unless somebody has to look at each.
    fn take_calls(&mut self, calls: &Calls, round: u64) {
        for (function, lines) in calls.runs() {
            if !self.removed.contains_key(function) {
                let state = self.state(function);
                if state.live.is_none() && state.bytes_by_call.is_empty() {
                    state.used = round;
                    state.buffer.extend_from_slice(lines);
                    continue;
                }
            }
            for entry in calls::entries(lines) {
                self.take(function, Arc::new(entry), round);
            }
        }
    }

    /// What is held of a function.
    fn state(&mut self, function: &FunctionId) -> &mut Function {
        if !self.functions.contains_key(function) {
            self.functions.insert(function.clone(), Function::default());
        }
        self.functions.get_mut(function).expect("it was just put there")
    }

    fn take(&mut self, function: &FunctionId, entry: Arc<Entry>, round: u64) {
        if self.removed.get(function).is_some_and(|at| entry.time() <= *at) {
            return;
        }
        let limit = self.limits.per_call;
        let state = self.state(function);
        state.used = round;
        let Some(entry) = state.count(entry, limit) else { return };
        // An entry is numbers and strings: it has a JSON form.
        serde_json::to_writer(&mut state.buffer, entry.as_ref()).expect("an entry has a JSON form");
        state.buffer.push(b'\n');
        if let Some(live) = &state.live
            && live.send(entry).is_err()
        {
            state.live = None;
        }
    }

    fn subscribe(&mut self, function: FunctionId, reply: oneshot::Sender<Subscription>, round: u64) {
        let directory = segments::directory(&self.directory, &function);
        let state = self.functions.entry(function).or_default();
        state.used = round;
        let written = match &state.appender {
            Some(appender) => appender.place(),
            // A directory that cannot be read is the reader's to report.
            None => segments::end(&directory).unwrap_or(Place { segment: 1, byte: 0 }),
        };
        let live = state.live.get_or_insert_with(|| broadcast::channel(FOLLOWER).0).subscribe();
        let _gone = reply.send(Subscription { written, live }).is_err();
    }

    fn remove(&mut self, function: &FunctionId) -> Result<(), Error> {
        self.functions.remove(function);
        if self.removed.len() >= REMOVED
            && let Some(oldest) = self.removed.iter().min_by_key(|(_, at)| **at).map(|(id, _)| id.clone())
        {
            self.removed.remove(&oldest);
        }
        self.removed.insert(function.clone(), Timestamp::now());
        let directory = segments::directory(&self.directory, function);
        match fs::remove_dir_all(&directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::File { action: "remove", path: directory, source })
            }
            _ => Ok(()),
        }
    }

    fn write_out(&mut self) {
        let mut failure = None;
        for (function, state) in self.functions.iter_mut().filter(|(_, state)| !state.buffer.is_empty()) {
            if let Err(error) = state.write_out(&self.directory, function, self.limits.per_function) {
                failure = Some((function.clone(), error));
            }
        }
        if let Some((function, error)) = failure
            && self.complained.is_news(())
        {
            tracing::error!(%function, %error, "logs are not written");
        }
    }

    /// Closes the files of the functions that were silent longest.
    fn close_files(&mut self) {
        if self.functions.len() <= OPEN_FILES {
            return;
        }
        let mut rounds: Vec<u64> = self.functions.values().map(|state| state.used).collect();
        rounds.sort_unstable();
        let oldest_kept = rounds[rounds.len() - OPEN_FILES / 2];
        self.functions.retain(|_, state| state.used >= oldest_kept || state.live.is_some());
    }
}

impl Function {
    /// Counts a line towards its call's limit. `None`: it is over, and that was noted before.
    fn count(&mut self, entry: Arc<Entry>, limit: u64) -> Option<Arc<Entry>> {
        match entry.as_ref() {
            Entry::Call(call) => {
                self.bytes_by_call.remove(&call.request);
            }
            Entry::Line(line) => {
                if let Some(request) = &line.request {
                    if self.bytes_by_call.len() >= COUNTED_CALLS {
                        self.bytes_by_call.retain(|_, bytes| *bytes > limit / 2);
                    }
                    let bytes = self.bytes_by_call.entry(request.clone()).or_default();
                    let before = *bytes;
                    *bytes += line.text.len() as u64 + 1;
                    if before > limit {
                        return None;
                    }
                    if *bytes > limit {
                        return Some(Arc::new(Entry::Note(Note::cut(line.time, request.clone(), limit))));
                    }
                }
            }
            Entry::Note(_) => {}
        }
        Some(entry)
    }

    fn write_out(&mut self, root: &std::path::Path, function: &FunctionId, limit: u64) -> io::Result<()> {
        // Cleared whether or not it could be written: a full disk must not fill the memory too.
        let lines = std::mem::take(&mut self.buffer);
        let appender = match &mut self.appender {
            Some(appender) => appender,
            None => self.appender.insert(Appender::open(segments::directory(root, function), limit)?),
        };
        let result = appender.append(&lines);
        if result.is_err() {
            // The file may end in the middle of a line: the next one starts a segment.
            self.appender = None;
        }
        self.buffer = lines;
        self.buffer.clear();
        result
    }
}
