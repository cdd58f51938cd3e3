//! What an instance prints, from its control connection into the logs of its function.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hearth_function::InstanceId;
use hearth_protocol::{LogRecord, LogStream};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::template::Template;
use crate::backend::{Address, control};
use crate::telemetry::chain;
use crate::telemetry::logs::{Entry, Line, Logs, Note, Stream};

/// Lines kept of each instance to be shown when its start fails.
const LAST_LINES: usize = 20;

/// How long the lines of an instance that has failed or ended may take to arrive.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(250);

/// How long a shim that runs already may take to answer.
const RECONNECT: Duration = Duration::from_secs(5);

/// Pause before a connection that broke is made anew.
const PAUSE: Duration = Duration::from_millis(200);

/// For which function an instance runs, once that is settled.
pub(super) type Assigned = Arc<OnceLock<Arc<Template>>>;

/// Carries what an instance prints into the logs.
pub(super) struct Pump {
    pub(super) logs: Logs,
    pub(super) template: Assigned,
    pub(super) instance: InstanceId,
    pub(super) lines: LastLines,
}

impl Pump {
    /// Until the shim closes the connection. One that breaks is no reason to end the instance: it prints into its ring.
    pub(super) async fn run(self, address: Address, secret: String, logs_after: u64, deadline: Instant) {
        let mut last = logs_after;
        let mut deadline = deadline;
        loop {
            let connected = control::connect_control(&address, &secret, last, deadline).await;
            let (mut events, _commands) = match connected {
                Ok(connection) => connection,
                // Either it never came up, and its start says why, or it is gone.
                Err(error) => {
                    tracing::debug!(instance = %self.instance, %error, "no control connection");
                    return;
                }
            };
            loop {
                match events.next().await {
                    Ok(Some(control::Event::Log(record))) => {
                        last = last.max(record.sequence);
                        self.take(record).await;
                    }
                    // The backend tells of the end of the process too, and whoever reads further gets the last lines.
                    Ok(Some(control::Event::Exit(_))) => {}
                    Ok(None) => {
                        self.lines.end();
                        return;
                    }
                    Err(error) => {
                        let error = chain(&error);
                        tracing::warn!(instance = %self.instance, error, "control connection lost");
                        break;
                    }
                }
            }
            deadline = Instant::now() + RECONNECT;
            sleep(PAUSE).await;
        }
    }

    async fn take(&self, record: LogRecord) {
        let text = String::from_utf8_lossy(&record.line).into_owned();
        self.lines.push(&text);
        let Some(template) = self.template.get() else {
            // Of a pooled instance: the runtime's own, and nobody's.
            tracing::debug!(instance = %self.instance, text, "a pooled instance printed");
            return;
        };
        let micros = i64::try_from(record.unix_micros).unwrap_or(i64::MAX);
        let time = Timestamp::from_microsecond(micros).unwrap_or_else(|_| Timestamp::now());
        if record.dropped > 0 {
            let request = record.request_id.as_ref().map(|id| id.as_str().to_owned());
            let note = Note::lost(time, request, self.instance.clone(), record.dropped.into());
            self.logs.write(template.function(), Entry::Note(note)).await;
        }
        let line = Line {
            time,
            request: record.request_id.map(|id| id.as_str().to_owned()),
            instance: self.instance.clone(),
            revision: template.revision().clone(),
            sequence: record.sequence,
            stream: match record.stream {
                LogStream::Stdout => Stream::Stdout,
                LogStream::Stderr => Stream::Stderr,
                LogStream::Platform => Stream::Platform,
            },
            shared: record.shared,
            truncated: record.truncated,
            text,
        };
        self.logs.write(template.function(), Entry::Line(line)).await;
    }
}

/// The last lines that an instance printed, shared by the pump that takes them and the life that may have to show them.
#[derive(Clone)]
pub(super) struct LastLines {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// How many came, and whether more can.
    seen: watch::Sender<(u64, bool)>,
}

impl Default for LastLines {
    fn default() -> Self {
        Self { lines: Arc::default(), seen: watch::Sender::new((0, false)) }
    }
}

impl LastLines {
    /// The longest piece of a line that is shown, in characters.
    const SHOWN: usize = 500;
    /// No line for so long: there is none on the way.
    const QUIET: Duration = Duration::from_millis(30);

    fn push(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(line.chars().take(Self::SHOWN).collect());
        self.seen.send_modify(|(count, _)| *count += 1);
    }

    fn end(&self) {
        self.seen.send_modify(|(_, ended)| *ended = true);
    }

    /// Waits for lines that are still on the way: until none can come, or none did for a moment.
    pub(super) async fn settle(&self) {
        let mut seen = self.seen.subscribe();
        let quiet = async {
            while !seen.borrow_and_update().1 {
                if timeout(Self::QUIET, seen.changed()).await.is_err() {
                    return;
                }
            }
        };
        let _cut = timeout(LAST_WORDS, quiet).await.is_err();
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}
