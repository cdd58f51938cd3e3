//! The task of one instance, from its start (or adoption) until nothing of it is left.
//!
//! Two things run side by side in it: the life itself ([`Task::live`]), and the pump that carries what the instance prints into the logs
//! for as long as its control connection lasts. Orders come as the latest value of a `watch` and never queue.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hearth_dispatch::{Endpoint, EndpointAddress, Forwarding, StartKind};
use hearth_function::InstanceId;
use hearth_protocol::{LogRecord, LogStream, Signature};
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::failure::Failure;
use super::template::Template;
use crate::backend::{self, Address, Backend, Exit, InstanceSpec, Started, control};
use crate::telemetry::chain;
use crate::telemetry::logs::{Entry, Line, Logs, Note, Stream};

/// Lines kept of each instance to be shown when its start fails.
const LAST_LINES: usize = 20;

/// How long the lines of an instance that has failed or ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// How long an instance that is adopted may take to answer: it runs already.
const ADOPTION: Duration = Duration::from_secs(5);

/// Time between SIGTERM and SIGKILL for an instance that did not come up: nobody's call is in it.
const FAILED_GRACE: Duration = Duration::from_millis(200);

/// How far apart the backend is asked to take an instance away: twice as long each time, up to the most.
const STOP_PAUSE: Duration = Duration::from_millis(200);
const STOP_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What an instance is told. Each may follow the ones before it, and none goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wish {
    /// Come up and serve.
    Run,
    /// End what runs until then; then end in any case.
    Drain { until: Instant },
    /// End: SIGTERM, and SIGKILL after `grace`.
    Stop { grace: Duration },
}

/// What a task is told: the wish, and what the backend saw of its process.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    pub(super) wish: Wish,
    pub(super) exit: Option<Exit>,
}

/// What a task reports.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) instance: InstanceId,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Created,
    Booted,
    Ready {
        endpoint: Box<Endpoint>,
        phases: Phases,
        served: u64,
    },
    StartFailed(Failure),
    Ended {
        how: String,
    },
    /// Its calls did not end in time.
    Overdue,
    /// The backend could not take it away, and is asked again.
    NotRemoved,
}

/// How long the parts of a start took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    /// From the request that wanted it to the begin of the start.
    pub schedule: Duration,
    /// The container.
    pub create: Duration,
    /// The shim and the runtime.
    pub boot: Duration,
    /// The code.
    pub load: Duration,
}

impl Phases {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.schedule + self.create + self.boot + self.load
    }
}

/// Where an instance comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    /// It is to be made; so long was waited for its turn.
    New { waited: Duration },
    /// An earlier controller has started it, and its lines up to this number are kept.
    Adopted { started: Started, logs_after: u64 },
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) logs: Logs,
    pub(super) template: Arc<Template>,
    pub(super) spec: InstanceSpec,
    pub(super) origin: Origin,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) reports: mpsc::Sender<Report>,
}

/// Why a life ended before the instance was Ready.
enum NotReady {
    Failed(Failure),
    /// It was told to end.
    Told {
        grace: Duration,
    },
}

impl Task {
    /// Runs until nothing of the instance is left.
    pub(super) async fn run(mut self) {
        let began = Instant::now();
        let deadline = began + self.template.start_timeout;
        let lines = LastLines::default();
        let (started, logs_after, waited, deadline) = match self.origin.clone() {
            Origin::Adopted { started, logs_after } => {
                (started, logs_after, Duration::ZERO, Instant::now() + ADOPTION)
            }
            Origin::New { waited } => match self.create(deadline).await {
                Ok(started) => (started, 0, waited, deadline),
                Err(NotReady::Failed(failure)) => {
                    self.report(What::StartFailed(failure)).await;
                    return self.remove(Duration::ZERO).await;
                }
                Err(NotReady::Told { .. }) => return self.remove(Duration::ZERO).await,
            },
        };
        let phases = Phases { schedule: waited, create: started.create, ..Phases::default() };
        let pump = Pump {
            logs: self.logs.clone(),
            template: Arc::clone(&self.template),
            instance: self.spec.id.clone(),
            lines: lines.clone(),
        };
        let pump = pump.run(started.control.clone(), self.spec.secret.clone(), logs_after, deadline);
        let mut pump = std::pin::pin!(pump);
        let mut pumping = true;
        let mut life = std::pin::pin!(self.live(&started, phases, began, deadline, &lines));
        loop {
            tokio::select! {
                () = &mut life => break,
                () = &mut pump, if pumping => pumping = false,
            }
        }
        if pumping {
            // The shim is gone; what it has written is still in the socket.
            let _cut = timeout(LAST_WORDS, pump).await.is_err();
        }
    }

    async fn create(&mut self, deadline: Instant) -> Result<Started, NotReady> {
        let backend = Arc::clone(&self.backend);
        let limit = self.template.start_timeout;
        tokio::select! {
            // When both are there, the order to stop wins.
            biased;
            grace = told_to_stop(&mut self.orders) => Err(NotReady::Told { grace }),
            started = timeout_at(deadline, backend.start(&self.spec)) => match started {
                Ok(Ok(started)) => {
                    self.report(What::Created).await;
                    Ok(started)
                }
                Ok(Err(error)) => Err(NotReady::Failed(Failure::backend(&error))),
                Err(_) => Err(NotReady::Failed(Failure::timeout("come into being", limit))),
            },
        }
    }

    /// From a running process until it is taken away.
    async fn live(
        &mut self,
        started: &Started,
        mut phases: Phases,
        began: Instant,
        deadline: Instant,
        lines: &LastLines,
    ) {
        match self.come_up(started, &mut phases, deadline).await {
            Ok((signature, served)) => {
                let endpoint = self.endpoint(started, signature, phases.schedule + began.elapsed());
                self.report(What::Ready { endpoint: Box::new(endpoint), phases, served }).await;
                let grace = self.serve().await;
                self.remove(grace).await;
            }
            Err(NotReady::Failed(mut failure)) => {
                lines.settle().await;
                if failure.told.last_lines.is_empty() {
                    failure.told.last_lines = lines.take();
                }
                self.report(What::StartFailed(failure)).await;
                self.remove(FAILED_GRACE).await;
            }
            Err(NotReady::Told { grace }) => self.remove(grace).await,
        }
    }

    async fn come_up(
        &mut self,
        started: &Started,
        phases: &mut Phases,
        deadline: Instant,
    ) -> Result<(Signature, u64), NotReady> {
        let limit = self.template.start_timeout;
        let (mut orders, mut exit) = (self.orders.clone(), self.orders.clone());
        let coming_up = async {
            let pending = control::Pending::connect(&started.invoke, &self.spec.secret, deadline).await?;
            let times = pending.times();
            phases.boot = times.connect + times.boot;
            self.report(What::Booted).await;
            let served = pending.welcome().served;
            if let Some(signature) = pending.welcome().signature {
                return Ok((signature, served));
            }
            let loaded = pending.load(self.template.load.clone(), deadline).await?;
            phases.load = loaded.load;
            Ok::<_, control::Error>((loaded.signature, served))
        };
        let loaded = tokio::select! {
            // When several are there, what the code says of its own end says more than that it ended.
            biased;
            grace = told_to_stop(&mut orders) => return Err(NotReady::Told { grace }),
            loaded = coming_up => loaded,
            exit = ended(&mut exit) => return Err(NotReady::Failed(Failure::ended(&exit))),
        };
        let ready = match loaded {
            Ok(ready) => ready,
            Err(error) => {
                let closed = matches!(error, control::Error::Closed { .. } | control::Error::Io { .. });
                let mut failure = Failure::control(error, limit);
                if closed && let Ok(exit) = timeout(LAST_WORDS, ended(&mut exit)).await {
                    failure = Failure::ended(&exit);
                }
                return Err(NotReady::Failed(failure));
            }
        };
        let limited = self.backend.limit(&self.spec.id, &self.template.limits).await;
        match limited {
            Ok(()) => Ok(ready),
            Err(error) => Err(NotReady::Failed(Failure::backend(&error))),
        }
    }

    /// Until it is to be taken away: the grace that it has then.
    async fn serve(&mut self) -> Duration {
        loop {
            let now = self.orders.borrow_and_update().clone();
            if let Some(exit) = now.exit {
                self.report(What::Ended { how: exit.to_string() }).await;
                return Duration::ZERO;
            }
            let drain_until = match now.wish {
                Wish::Run => None,
                Wish::Drain { until } => Some(until),
                Wish::Stop { grace } => return grace,
            };
            let overdue = async {
                match drain_until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.orders.changed() => {
                    // The pool is gone without having waited: the next controller adopts the instance.
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
                () = overdue => {
                    self.report(What::Overdue).await;
                    return super::STOP_GRACE;
                }
            }
        }
    }

    async fn remove(&self, grace: Duration) {
        take_away(&self.backend, &self.spec.id, grace, &self.reports).await;
    }

    async fn report(&self, what: What) {
        let report = Report { instance: self.spec.id.clone(), what };
        // Without a pool nobody wants to know.
        let _nobody = self.reports.send(report).await.is_err();
    }

    fn endpoint(&self, started: &Started, signature: Signature, start_time: Duration) -> Endpoint {
        Endpoint {
            instance: self.spec.id.clone(),
            address: match &started.invoke {
                Address::Unix(path) => EndpointAddress::Unix(path.clone()),
                Address::Tcp(address) => EndpointAddress::Tcp(*address),
            },
            secret: self.spec.secret.clone(),
            forwarding: match signature {
                Signature::Event => Forwarding::Event,
                Signature::Http => Forwarding::Attach,
                // `auto` never comes back from a load; frames are what every bootstrap speaks.
                Signature::Fetch | Signature::Asgi | Signature::Wsgi | Signature::Exec | Signature::Auto => {
                    Forwarding::Frames
                }
            },
            start: match self.origin {
                Origin::New { .. } => StartKind::Cold,
                Origin::Adopted { .. } => StartKind::Warm,
            },
            start_time,
            single_use: self.template.single_use,
        }
    }
}

/// Waits until the instance is to stop before it is Ready. (A drain is a stop then: it has no calls.)
async fn told_to_stop(orders: &mut watch::Receiver<Orders>) -> Duration {
    let told = orders.wait_for(|orders| orders.wish != Wish::Run).await.map(|orders| orders.wish);
    match told {
        Ok(Wish::Stop { grace }) => grace,
        Ok(_) => FAILED_GRACE,
        Err(_) => std::future::pending().await,
    }
}

/// Waits until the backend has seen the end of the process.
async fn ended(orders: &mut watch::Receiver<Orders>) -> Exit {
    match orders.wait_for(|orders| orders.exit.is_some()).await.map(|orders| orders.exit) {
        Ok(Some(exit)) => exit,
        _ => std::future::pending().await,
    }
}

/// Carries what an instance prints into the logs.
struct Pump {
    logs: Logs,
    template: Arc<Template>,
    instance: InstanceId,
    lines: LastLines,
}

impl Pump {
    /// Until the shim closes the connection. One that breaks is no reason to end the instance: it prints into its ring.
    async fn run(self, address: Address, secret: String, logs_after: u64, deadline: Instant) {
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
            deadline = Instant::now() + ADOPTION;
            sleep(STOP_PAUSE).await;
        }
    }

    async fn take(&self, record: LogRecord) {
        let micros = i64::try_from(record.unix_micros).unwrap_or(i64::MAX);
        let time = Timestamp::from_microsecond(micros).unwrap_or_else(|_| Timestamp::now());
        if record.dropped > 0 {
            let note = Note::lost(time, self.instance.clone(), record.dropped.into());
            self.logs.write(self.template.function(), Entry::Note(note)).await;
        }
        let text = String::from_utf8_lossy(&record.line).into_owned();
        self.lines.push(&text);
        let line = Line {
            time,
            request: record.request_id.map(|id| id.as_str().to_owned()),
            instance: self.instance.clone(),
            revision: self.template.revision().clone(),
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
        self.logs.write(self.template.function(), Entry::Line(line)).await;
    }
}

/// The last lines that an instance printed, shared by the pump that takes them and the life that may have to show them.
#[derive(Clone)]
struct LastLines {
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
    async fn settle(&self) {
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

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

/// Takes away what is left of an instance, or all of it when it still runs. One that the backend cannot take away is not forgotten: its
/// memory and its processor time are still gone, so it counts, and the backend is asked until it can.
pub(super) async fn take_away(
    backend: &Arc<dyn Backend>,
    instance: &InstanceId,
    grace: Duration,
    reports: &mpsc::Sender<Report>,
) {
    let mut pause = STOP_PAUSE;
    while let Err(error) = backend.stop(instance, grace).await {
        if pause >= STOP_PAUSE * 8 {
            let (error, again) = (chain(&error as &backend::Error), humantime::format_duration(pause));
            tracing::error!(%instance, error, %again, "an instance cannot be taken away");
        }
        let _nobody =
            reports.send(Report { instance: instance.clone(), what: What::NotRemoved }).await.is_err();
        sleep(pause).await;
        pause = (pause * 2).min(STOP_PAUSE_MAX);
    }
}
