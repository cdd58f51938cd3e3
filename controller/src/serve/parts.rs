//! The running parts as the management API sees them.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use axum::body::Body;
use futures_util::stream::{self, BoxStream, StreamExt};
use hearth_function::{Digest, FunctionId, InstanceId, RevisionId, revision_number};
use jiff::Timestamp;

use crate::api::ports::{
    Activity, Error, Image, Instance, Ladder, LogLine, LogQuery, LoggedCall, Occurrence, Parts, PoolSize,
    Rung, StartRecord,
};
use crate::autoscale;
use crate::backend::{Ability, Backend, Capability};
use crate::build::images;
use crate::build::{Bundles, Images};
use crate::pool::life::State;
use crate::telemetry::logs::{self, Entry, Logs, Query};
use crate::telemetry::metrics::Label as _;
use crate::telemetry::metrics::Registry;

/// What [`Parts`] is made of here.
#[derive(Debug)]
pub(super) struct Wired {
    pub(super) autoscaler: autoscale::Handle,
    pub(super) backend: Arc<dyn Backend>,
    pub(super) bundles: Bundles,
    pub(super) images: Images,
    pub(super) logs: Logs,
    pub(super) metrics: Registry,
    /// Host and port of the gateway.
    pub(super) gateway: String,
    pub(super) health: Arc<Health>,
    /// Where the next controller of a cluster finds what is uploaded here.
    pub(super) depot: Option<Arc<super::cluster::Depot>>,
}

/// Whether the server serves: from the moment that the API listens, which is the last to start, until it is told to stop.
#[derive(Debug, Default)]
pub(super) struct Health {
    stopping: AtomicBool,
}

impl Health {
    pub(super) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

impl Wired {
    /// Whether the backend tells what instances use; what they were promised is no answer to that.
    fn measures(&self) -> bool {
        !self.backend.lacks().iter().any(|(ability, _)| *ability == Ability::Measure)
    }
}

#[async_trait]
impl Parts for Wired {
    async fn instances(&self) -> Vec<Instance> {
        let snapshot = self.autoscaler.snapshot();
        let mut instances = Vec::with_capacity(snapshot.instances.len());
        for view in &snapshot.instances {
            let runs =
                matches!(view.state, State::Pooled | State::Ready | State::Paused | State::Draining { .. });
            let revision = view.revision.as_ref().and_then(|revision| snapshot.revisions.get(revision));
            let calls = revision.and_then(|revision| revision.calls.get(&view.id));
            let stats = if runs && self.measures() { self.backend.stats(&view.id).await.ok() } else { None };
            instances.push(Instance {
                name: view.id.clone(),
                function: view.function.clone(),
                revision: view.revision.clone(),
                state: view.state.to_string(),
                rung: snapshot.rungs.get(&view.id).map(|rung| rung.as_str().to_owned()),
                reason: view.state.reason().map(str::to_owned),
                in_flight: calls.copied().unwrap_or(0),
                slots: view.slots,
                started: view.started.to_string(),
                memory_bytes: stats.map(|stats| stats.memory_bytes),
                cpu_seconds: stats.map(|stats| stats.cpu.as_secs_f64()),
            });
        }
        instances
    }

    async fn ladder(&self) -> Ladder {
        let snapshot = self.autoscaler.snapshot();
        let rung = |&rung: &autoscale::Rung| {
            let standing =
                || snapshot.instances.iter().filter(|view| snapshot.rungs.get(&view.id) == Some(&rung));
            let restored = snapshot.restored.iter().find(|restored| restored.rung == rung);
            Rung {
                rung: rung.as_str().to_owned(),
                instances: u32::try_from(standing().count()).unwrap_or(u32::MAX),
                held_bytes: self.measures().then(|| standing().filter_map(|view| view.memory_bytes).sum()),
                restored: restored.map_or(0, |restored| restored.count as u64),
                restore_p50_ms: restored.map(|restored| restored.p50.as_secs_f64() * 1e3),
                restore_p99_ms: restored.map(|restored| restored.p99.as_secs_f64() * 1e3),
            }
        };
        let pool = |pool: &autoscale::PoolView| PoolSize {
            class: pool.class.clone(),
            ready: pool.ready,
            starting: pool.starting,
            target: pool.target,
            why: pool.why.clone(),
            bytes_each: self.measures().then_some(pool.bytes_each),
        };
        Ladder {
            rungs: autoscale::Rung::ALL.iter().map(rung).collect(),
            pools: snapshot.pools.iter().map(pool).collect(),
        }
    }

    async fn activity(&self, function: &FunctionId) -> Activity {
        let snapshot = self.autoscaler.snapshot();
        let own = |revision: &RevisionId| {
            revision.namespace() == function.namespace()
                && revision_number(function.name(), revision.name()).is_some()
        };
        let mut activity = Activity::default();
        let mut decisions = Vec::new();
        let mut starts = Vec::new();
        for (revision, view) in snapshot.revisions.iter().filter(|(revision, _)| own(revision)) {
            activity.waiting += view.waiting;
            activity.in_flight += view.in_flight;
            for decided in &view.decisions {
                let message = format!("{}: {}", revision.name(), decided.text);
                decisions.push((decided.time, decided.about, message));
            }
            starts.extend(view.starts.iter().map(|start| (start.time, start_record(revision, start))));
        }
        decisions.sort();
        starts.sort_by_key(|(time, _)| *time);
        activity.decisions = decisions
            .into_iter()
            .map(|(time, about, message)| Occurrence {
                time: time.to_string(),
                reason: about.reason().to_owned(),
                warning: about.is_wrong(),
                message,
            })
            .collect();
        activity.starts = starts.into_iter().map(|(_, record)| record).collect();
        activity
    }

    async fn invoke(
        &self,
        function: &FunctionId,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Error> {
        super::invoke::invoke(&self.gateway, function, request).await
    }

    async fn logs(&self, query: LogQuery) -> Result<BoxStream<'static, LogLine>, Error> {
        let LogQuery { function, request, tail, since, follow, calls } = query;
        let since = since.and_then(|since| Timestamp::try_from(since).ok());
        let query = Query { tail, since, request, calls };
        if follow {
            let following = self.logs.follow(&function, query).await.map_err(unreadable)?;
            let lines = stream::unfold(following, |mut following| async move {
                let entry = following.next().await?;
                Some((line(entry), following))
            });
            Ok(lines.boxed())
        } else {
            let entries: VecDeque<Entry> = self.logs.read(&function, query).await.map_err(unreadable)?.into();
            Ok(stream::iter(entries.into_iter().map(line)).boxed())
        }
    }

    async fn of_request(&self, functions: Vec<FunctionId>, request: &str) -> Result<Vec<FunctionId>, Error> {
        self.logs.of_request(functions, request).await.map_err(unreadable)
    }

    async fn has_bundle(&self, digest: &str) -> Result<bool, Error> {
        let digest = parse(digest)?;
        let bundles = self.bundles.clone();
        let wanted = digest.clone();
        let look = tokio::task::spawn_blocking(move || bundles.has(&wanted));
        let here = look.await.map_err(|error| internal("look for the bundle", error))?;
        Ok(match &self.depot {
            Some(depot) if here => !depot.wants(&digest).await,
            _ => here,
        })
    }

    async fn put_bundle(&self, digest: &str, file: &Path) -> Result<(), Error> {
        let digest = parse(digest)?;
        let packed =
            std::fs::File::open(file).map_err(|error| internal("open the received bundle", error))?;
        match self.bundles.put(&digest, std::io::BufReader::new(packed)).await {
            Ok(_) => {
                if let Some(depot) = &self.depot {
                    depot.store(&digest, file).await;
                }
                Ok(())
            }
            Err(error) if error.is_clients() => Err(Error::Invalid(crate::telemetry::chain(&error))),
            Err(error) => Err(internal("unpack the bundle", error)),
        }
    }

    async fn has_blob(&self, digest: &str) -> Result<bool, Error> {
        let digest = parse(digest)?;
        let images = self.images.clone();
        let look = tokio::task::spawn_blocking(move || images.has_blob(&digest));
        look.await.map_err(|error| internal("look for the blob", error))
    }

    async fn put_blob(&self, digest: &str, file: &Path) -> Result<(), Error> {
        let digest = parse(digest)?;
        let (images, file) = (self.images.clone(), file.to_owned());
        let putting = tokio::task::spawn_blocking(move || images.put_blob(&digest, &file));
        putting.await.map_err(|error| internal("store the blob", error))?.map_err(of_image)
    }

    async fn has_image(&self, digest: &str) -> Result<bool, Error> {
        let digest = parse(digest)?;
        let images = self.images.clone();
        let look = tokio::task::spawn_blocking(move || images.has(&digest));
        look.await.map_err(|error| internal("look for the image", error))
    }

    async fn put_image(&self, digest: &str, manifest: Vec<u8>) -> Result<(), Error> {
        self.images.put(&parse(digest)?, &manifest).await.map_err(of_image)
    }

    async fn images(&self) -> Result<Vec<Image>, Error> {
        let images = self.images.clone();
        let listing = tokio::task::spawn_blocking(move || images.list());
        let listed = listing.await.map_err(|error| internal("list the images", error))?.map_err(of_image)?;
        let image = |one: images::Listed| Image {
            digest: one.digest.to_string(),
            bytes: one.bytes,
            layers: one.layers,
            command: one.command,
        };
        Ok(listed.into_iter().map(image).collect())
    }

    async fn capabilities(&self) -> Vec<Capability> {
        self.backend.probe().await
    }

    fn metrics(&self) -> String {
        self.metrics.render()
    }

    fn health(&self) -> Result<(), String> {
        if self.health.stopping.load(Ordering::Relaxed) {
            return Err("shutting down".to_owned());
        }
        Ok(())
    }
}

fn start_record(revision: &RevisionId, start: &autoscale::Start) -> StartRecord {
    let phases = &start.phases;
    let millis = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    StartRecord {
        time: start.time.to_string(),
        instance: start.instance.clone(),
        revision: revision.clone(),
        phases_ms: BTreeMap::from([
            ("schedule".to_owned(), millis(phases.schedule)),
            ("create".to_owned(), millis(phases.create)),
            ("boot".to_owned(), millis(phases.boot)),
            ("load".to_owned(), millis(phases.load)),
        ]),
        failure: start.failure.clone(),
    }
}

/// An entry as a line; a call and a note are Hearth's own remarks.
fn line(entry: Entry) -> LogLine {
    let time = entry.time().to_string();
    let nobody = || InstanceId::parse("none").expect("a label");
    match entry {
        Entry::Line(line) => LogLine {
            time,
            instance: line.instance,
            revision: line.revision,
            stream: match line.stream {
                logs::Stream::Stdout => "stdout",
                logs::Stream::Stderr => "stderr",
                logs::Stream::Platform => "hearth",
            }
            .to_owned(),
            request: line.request,
            sequence: Some(line.sequence),
            shared: line.shared,
            text: line.text,
            call: None,
        },
        Entry::Call(call) => {
            let code = call.code.map(|code| format!(" {code}")).unwrap_or_default();
            let start =
                call.start.map(|start| format!(", {start:?} start")).unwrap_or_default().to_lowercase();
            let millis = |time: std::time::Duration| time.as_secs_f64() * 1e3;
            let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
            let text = format!(
                "{} {} → {}{code}{start}, queue {:.1} ms, init {:.1} ms, exec {:.1} ms",
                call.method,
                call.path,
                call.status,
                millis(call.queue),
                millis(call.init),
                millis(call.exec),
            );
            LogLine {
                time,
                instance: call.instance.unwrap_or_else(nobody),
                revision: call.revision,
                stream: "hearth".to_owned(),
                request: Some(call.request),
                sequence: None,
                shared: false,
                text,
                call: Some(LoggedCall { queue_us: micros(call.queue), exec_us: micros(call.exec) }),
            }
        }
        Entry::Note(note) => LogLine {
            time,
            instance: note.instance.unwrap_or_else(nobody),
            revision: RevisionId::parse("none/none").expect("two labels"),
            stream: "hearth".to_owned(),
            request: note.request,
            sequence: None,
            shared: false,
            text: note.text,
            call: None,
        },
    }
}

fn parse(digest: &str) -> Result<Digest, Error> {
    digest.parse().map_err(|error| Error::Invalid(format!("{error}")))
}

fn of_image(error: images::Error) -> Error {
    if error.is_clients() {
        Error::Invalid(crate::telemetry::chain(&error))
    } else {
        internal("take in the image", error)
    }
}

fn unreadable(error: logs::Error) -> Error {
    match error {
        logs::Error::Busy => Error::Unavailable(format!("{error}; try again, or name the function")),
        error => internal("read the logs", error),
    }
}

fn internal(what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Internal { what: what.to_owned(), source: Box::new(source) }
}
