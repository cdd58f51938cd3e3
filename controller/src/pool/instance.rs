//! The task of one instance, from its start (or adoption) until nothing of it is left.
//!
//! Two things run side by side in it: the life itself ([`Task::live`], or for a pooled one [`Task::stand_by`] first), and the pump that
//! carries what the instance prints into the logs for as long as its control connection lasts. Orders come as the latest value of a
//! `watch` and never queue.

mod create;
mod pooled;
mod taking_away;

use std::sync::Arc;
use std::time::Duration;

use hearth_dispatch::{Endpoint, EndpointAddress, Forwarding, StartKind};
use hearth_function::InstanceId;
use hearth_protocol::Signature;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::class::Class;
use super::failure::Failure;
use super::pump::{Assigned, LAST_WORDS, LastLines, Pump};
use super::template::Template;
use crate::backend::{Address, Backend, Exit, InstanceSpec, Limits, Process, Started, control};
use crate::telemetry::logs::Logs;
use pooled::STAND_BY;
pub(super) use taking_away::take_away;

/// How long an instance that is adopted may take to answer: it runs already.
const ADOPTION: Duration = Duration::from_secs(5);

/// Time between SIGTERM and SIGKILL for an instance that did not come up: nobody's call is in it.
const FAILED_GRACE: Duration = Duration::from_millis(200);

/// What an instance is told ([`Wish::goes_beyond`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Come up and serve.
    Run,
    /// End what runs until then; then end in any case.
    Drain { until: Instant },
    /// End: SIGTERM, and SIGKILL after `grace`.
    Stop { grace: Duration },
}

impl Wish {
    /// Whether it changes something for one that was told `before`: none goes back, and of two alike the one that ends sooner counts.
    pub(super) fn goes_beyond(self, before: Self) -> bool {
        match (before, self) {
            (_, Self::Run) | (Self::Stop { .. }, Self::Drain { .. }) => false,
            (Self::Run, _) | (Self::Drain { .. }, Self::Stop { .. }) => true,
            (Self::Drain { until: before }, Self::Drain { until }) => until < before,
            (Self::Stop { grace: before }, Self::Stop { grace }) => grace < before,
        }
    }
}

/// What a task is told: the wish, and what the backend saw of its process.
#[derive(Debug, Clone)]
pub(super) struct Orders {
    pub(super) wish: Wish,
    pub(super) exit: Option<Exit>,
    /// Its start waits for something outside: no limit counts meanwhile.
    pub(super) hindered: bool,
    /// For a pooled instance: the function that it is to run. Given once.
    pub(super) assignment: Option<Assignment>,
}

impl Orders {
    /// Of one that nothing was said of yet.
    pub(super) const NONE: Self = Self { wish: Wish::Run, exit: None, hindered: false, assignment: None };

    /// Takes a wish, if it changes something; whether it does.
    pub(super) fn go_on_to(&mut self, wish: Wish) -> bool {
        let further = wish.goes_beyond(self.wish);
        if further {
            self.wish = wish;
        }
        further
    }
}

/// The function that a pooled instance is to run.
#[derive(Debug, Clone)]
pub(super) struct Assignment {
    pub(super) template: Arc<Template>,
    /// How long its turn took, for the phases.
    pub(super) waited: Duration,
    /// When it was given.
    pub(super) at: Instant,
    /// The same by the calendar.
    pub(super) since: jiff::Timestamp,
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
    /// It is up, exercised, and knows no function.
    Pooled {
        phases: Phases,
        memory_bytes: u64,
    },
    Ready {
        endpoint: Box<Endpoint>,
        phases: Phases,
        served: u64,
    },
    /// It was to be frozen.
    Paused {
        round: u64,
        frozen: bool,
    },
    StartFailed(Failure),
    Ended {
        exit: Exit,
    },
    /// It is to end by another's word, and takes no more calls.
    Leaves,
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
    /// It is to be made for its function; so long was waited for its turn.
    New { waited: Duration },
    /// It is to be made for a function that comes later.
    Pooled(Arc<Class>),
    /// An earlier controller has started it, and its lines up to this number are kept.
    Adopted { started: Started, logs_after: u64 },
}

/// A runtime that has loaded its function.
struct Up {
    signature: Signature,
    served: u64,
    connection: control::Pending,
}

/// An instance that can take calls.
struct Serving {
    endpoint: Endpoint,
    served: u64,
    /// Kept for as long as it is there ([`control::Pending::load`]), and the first to hear that it is to end.
    connection: control::Pending,
}

#[derive(Debug)]
pub(super) struct Task {
    pub(super) backend: Arc<dyn Backend>,
    pub(super) logs: Logs,
    /// Its function; a pooled one learns it later.
    pub(super) template: Assigned,
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
        let origin = std::mem::replace(&mut self.origin, Origin::New { waited: Duration::ZERO });
        let class = if let Origin::Pooled(class) = &origin { Some(Arc::clone(class)) } else { None };
        // Whoever waits for one that is adopted meets what was there.
        let start = if matches!(origin, Origin::Adopted { .. }) { StartKind::Warm } else { StartKind::Cold };
        let limit = self.template.get().map_or(STAND_BY, |template| template.start_timeout);
        let deadline = began + limit;
        let lines = LastLines::default();
        let (started, logs_after, waited, deadline) = match origin {
            Origin::Adopted { started, logs_after } => {
                // An earlier controller may have frozen it. One that has ended is found out about in what follows.
                let _ended = self.backend.resume(&self.spec.id).await.is_err();
                (started, logs_after, Duration::ZERO, Instant::now() + ADOPTION)
            }
            Origin::New { .. } | Origin::Pooled(_) => match self.create(deadline, limit).await {
                Ok((started, deadline)) => {
                    let waited = if let Origin::New { waited } = origin { waited } else { Duration::ZERO };
                    (started, 0, waited, deadline)
                }
                Err(NotReady::Failed(failure)) => {
                    let schedule = if let Origin::New { waited } = origin { waited } else { Duration::ZERO };
                    let phases = Phases { schedule, ..Phases::default() };
                    self.report(What::StartFailed(failure.after(phases, began.elapsed()))).await;
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
        let life = async {
            match class {
                Some(class) => self.stand_by(&class, &started, phases, deadline, &lines).await,
                None => self.live(&started, start, (began, deadline), phases, &lines).await,
            }
        };
        let mut life = std::pin::pin!(life);
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

    /// From a running process until it is taken away.
    async fn live(
        &mut self,
        started: &Started,
        start: StartKind,
        (began, deadline): (Instant, Instant),
        mut phases: Phases,
        lines: &LastLines,
    ) {
        let Some(template) = self.template.get().cloned() else { return };
        let up = self.come_up(started, &template, &mut phases, deadline).await;
        let up = match up {
            Ok(up) => self.limit(&template.limits).await.map(|()| up),
            Err(error) => Err(error),
        };
        let ready = up.map(|Up { signature, served, connection }| {
            let time = phases.schedule + began.elapsed();
            let endpoint = self.endpoint(started, &template, signature, start, time);
            Serving { endpoint, served, connection }
        });
        self.go_on(ready, phases, began.elapsed(), lines).await;
    }

    /// Serves when it is Ready, and in any case until it is taken away. `total` is the time of its start but for its turn.
    async fn go_on(
        &mut self,
        ready: Result<Serving, NotReady>,
        phases: Phases,
        total: Duration,
        lines: &LastLines,
    ) {
        match ready {
            Ok(Serving { endpoint, served, mut connection }) => {
                self.report(What::Ready { endpoint: Box::new(endpoint), phases, served }).await;
                let grace = self.serve(&mut connection).await;
                self.remove(grace).await;
            }
            Err(NotReady::Failed(mut failure)) => {
                lines.settle().await;
                if failure.told.last_lines.is_empty() {
                    failure.told.last_lines = lines.take();
                }
                self.report(What::StartFailed(failure.after(phases, total))).await;
                self.remove(FAILED_GRACE).await;
            }
            Err(NotReady::Told { grace }) => self.remove(grace).await,
        }
    }

    async fn come_up(
        &self,
        started: &Started,
        template: &Template,
        phases: &mut Phases,
        deadline: Instant,
    ) -> Result<Up, NotReady> {
        let coming_up = async {
            let mut pending = control::Pending::connect(&started.invoke, &self.spec.secret, deadline).await?;
            let times = pending.times();
            phases.boot = times.connect + times.boot;
            self.report(What::Booted).await;
            let served = pending.welcome().served;
            if let Some(signature) = pending.welcome().signature {
                return Ok(Up { signature, served, connection: pending });
            }
            let loaded = pending.load(template.load.clone(), deadline).await?;
            phases.load = loaded.load;
            Ok::<_, control::Error>(Up { signature: loaded.signature, served, connection: pending })
        };
        self.unless_it_ends(coming_up, template.start_timeout).await
    }

    async fn limit(&self, limits: &Limits) -> Result<(), NotReady> {
        let limited = self.backend.limit(&self.spec.id, limits).await;
        limited.map_err(|error| NotReady::Failed(Failure::backend(&error)))
    }

    /// Carries out a part of a start, unless the instance ends meanwhile or is told to.
    async fn unless_it_ends<T>(
        &self,
        part: impl Future<Output = Result<T, control::Error>>,
        limit: Duration,
    ) -> Result<T, NotReady> {
        let (mut orders, mut exit) = (self.orders.clone(), self.orders.clone());
        let done = tokio::select! {
            // When several are there, what the code says of its own end says more than that it ended.
            biased;
            grace = told_to_stop(&mut orders) => return Err(NotReady::Told { grace }),
            done = part => done,
            exit = ended(&mut exit) => return Err(NotReady::Failed(Failure::ended(&exit))),
        };
        match done {
            Ok(done) => Ok(done),
            Err(error) => {
                let error = self.in_its_words(error);
                let closed = matches!(error, control::Error::Closed { .. } | control::Error::Io { .. });
                let mut failure = Failure::control(error, limit);
                if closed && let Ok(exit) = timeout(LAST_WORDS, ended(&mut exit)).await {
                    failure = Failure::ended(&exit);
                }
                Err(NotReady::Failed(failure))
            }
        }
    }

    /// A server of the user's own has no code that is loaded: what is waited for is its port.
    fn in_its_words(&self, error: control::Error) -> control::Error {
        match (error, &self.spec.process) {
            (control::Error::Timeout { phase: control::LOADS }, Process::Http { .. }) => {
                control::Error::Timeout { phase: "accept connections on its port ($PORT)" }
            }
            (error, _) => error,
        }
    }

    /// Until it is to be taken away: the grace that it has then.
    async fn serve(&mut self, connection: &mut control::Pending) -> Duration {
        let mut leaves = false;
        loop {
            let now = self.orders.borrow_and_update().clone();
            if let Some(exit) = now.exit {
                self.report(What::Ended { exit }).await;
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
            // What was told already is no news from it.
            let listens = now.wish == Wish::Run && !leaves;
            let why_comes = self.backend.tells_why_within();
            let told_to_end = async {
                connection.ends().await;
                sleep(why_comes).await;
            };
            tokio::select! {
                changed = self.orders.changed() => {
                    // The pool is gone without having waited: the next controller adopts the instance.
                    if changed.is_err() {
                        return std::future::pending().await;
                    }
                }
                () = told_to_end, if listens => {
                    leaves = true;
                    self.report(What::Leaves).await;
                }
                () = overdue => {
                    self.report(What::Overdue).await;
                    return super::STOP_GRACE;
                }
            }
        }
    }

    async fn remove(&self, grace: Duration) {
        take_away(&self.backend, &self.spec.id, grace, self.orders.clone(), &self.reports).await;
    }

    async fn report(&self, what: What) {
        let report = Report { instance: self.spec.id.clone(), what };
        // Without a pool nobody wants to know.
        let _nobody = self.reports.send(report).await.is_err();
    }

    fn endpoint(
        &self,
        started: &Started,
        template: &Template,
        signature: Signature,
        start: StartKind,
        start_time: Duration,
    ) -> Endpoint {
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
            start,
            start_time,
            single_use: template.single_use,
            // The autoscaler knows what it was started for.
            reserved: false,
            own_server: matches!(self.spec.process, Process::Http { .. }),
        }
    }
}

/// When the shim of an instance that was found made its socket, a moment after its start began.
pub(super) fn made_at(socket: &Address) -> Option<jiff::Timestamp> {
    let Address::Unix(path) = socket else { return None };
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    jiff::Timestamp::try_from(modified).ok()
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
