//! The gateway's metrics. What is counted for each request is a plain atomic, found once for each Revision.

use std::time::Duration;

use hearth_dispatch::{LoadReport, StartKind};
use hearth_function::{FunctionId, RevisionId};

use super::answer::Timing;
use super::errors::Code;
use crate::label_set;
use crate::telemetry::metrics::{
    Counter, Counters, Gauge, Histogram, Histograms, LATENCY_SECONDS, OfRevision, Plain, Registry,
    RevisionCounters, RevisionGauges, RevisionHistograms, SIZE_BYTES,
};

label_set! {
    /// The first digit of the status.
    pub(super) enum Class("class") {
        /// Success.
        Success = "2xx",
        /// Elsewhere.
        Redirect = "3xx",
        /// The client's fault.
        Client = "4xx",
        /// The function's or Hearth's.
        Server = "5xx",
    }
}

label_set! {
    /// What a request met.
    pub(super) enum Start("start") {
        /// See [`StartKind::Cold`].
        Cold = "cold",
        /// See [`StartKind::Prewarmed`].
        Prewarmed = "prewarmed",
        /// See [`StartKind::Paused`].
        Paused = "paused",
        /// See [`StartKind::Reserved`].
        Reserved = "reserved",
        /// See [`StartKind::Warm`].
        Warm = "warm",
    }
}

label_set! {
    /// Where a request is.
    pub(super) enum State("state") {
        /// It has a slot.
        Running = "running",
        /// It is in the queue.
        Waiting = "waiting",
    }
}

label_set! {
    /// A part of a request's time.
    pub(super) enum Phase("phase") {
        /// It waited for a slot, beside what it waited for a start.
        Queue = "queue",
        /// It waited for an instance to start. Only those that did are counted.
        Init = "init",
        /// From the instance's being sent the call to the head of its answer.
        Execute = "execute",
        /// From the head of the answer to its end.
        Stream = "stream",
    }
}

impl From<StartKind> for Start {
    fn from(kind: StartKind) -> Self {
        match kind {
            StartKind::Cold => Self::Cold,
            StartKind::Prewarmed => Self::Prewarmed,
            StartKind::Paused => Self::Paused,
            StartKind::Reserved => Self::Reserved,
            StartKind::Warm => Self::Warm,
        }
    }
}

impl From<http::StatusCode> for Class {
    fn from(status: http::StatusCode) -> Self {
        match status.as_u16() {
            ..300 => Self::Success,
            300..400 => Self::Redirect,
            400..500 => Self::Client,
            _ => Self::Server,
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Stats {
    requests: RevisionCounters<Class>,
    starts: RevisionCounters<Start>,
    duration: RevisionHistograms<Plain>,
    answer_bytes: RevisionHistograms<Plain>,
    request_bytes: RevisionCounters<Plain>,
    load: RevisionGauges<State>,
    wait: Histograms<Start>,
    phases: Histograms<Phase>,
    pub(super) errors: Counters<Code>,
    pub(super) retries: Counter,
    pub(super) clients_gone: Counter,
    pub(super) accepted: Counter,
    pub(super) connections: Gauge,
    pub(super) records_dropped: Counter,
    pub(super) messages_dropped: Counter,
}

/// Those of one Revision.
#[derive(Debug)]
pub(super) struct RevisionStats {
    requests: OfRevision<Class, Counter>,
    starts: OfRevision<Start, Counter>,
    duration: OfRevision<Plain, Histogram>,
    answer_bytes: OfRevision<Plain, Histogram>,
    request_bytes: OfRevision<Plain, Counter>,
}

impl Stats {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            requests: registry.revision_counters(
                "hearth_gateway_requests_total",
                "Requests answered, by the first digit of the status.",
            ),
            starts: registry.revision_counters("hearth_gateway_starts_total", "Requests by what they met."),
            duration: registry.revision_histograms(
                "hearth_gateway_request_duration_seconds",
                "From the head of a request to the last byte of its answer.",
                LATENCY_SECONDS,
            ),
            answer_bytes: registry.revision_histograms(
                "hearth_gateway_answer_size_bytes",
                "Bodies of answers.",
                SIZE_BYTES,
            ),
            request_bytes: registry.revision_counters(
                "hearth_gateway_request_body_bytes_total",
                "Bytes of request bodies taken.",
            ),
            load: registry.revision_gauges(
                "hearth_gateway_requests",
                "Requests that run or wait, as last reported to the scaler.",
            ),
            wait: registry.histograms(
                "hearth_gateway_wait_seconds",
                "From the head of a request to the slot that it ran in, by what it met; of those that got one, once each.",
                LATENCY_SECONDS,
            ),
            phases: registry.histograms(
                "hearth_gateway_phase_seconds",
                "The parts of a request's time: in the queue, for a start, to the head of the answer, to its end.",
                LATENCY_SECONDS,
            ),
            errors: registry.counters(
                "hearth_gateway_errors_total",
                "Requests that Hearth itself refused, failed or cut.",
            ),
            retries: registry
                .counter("hearth_gateway_retries_total", "Calls sent again because their instance failed or refused them."),
            clients_gone: registry
                .counter("hearth_gateway_clients_gone_total", "Requests whose client left before the end."),
            accepted: registry.counter("hearth_gateway_connections_total", "Client connections accepted."),
            connections: registry.gauge("hearth_gateway_connections", "Client connections open."),
            records_dropped: registry.counter(
                "hearth_gateway_records_dropped_total",
                "Records of calls that the logs had no room for.",
            ),
            messages_dropped: registry.counter(
                "hearth_gateway_messages_dropped_total",
                "Reports of load that a scaler which lags behind never gets.",
            ),
        }
    }

    pub(super) fn of(&self, function: &FunctionId, revision: &RevisionId) -> RevisionStats {
        RevisionStats {
            requests: self.requests.of(function, revision),
            starts: self.starts.of(function, revision),
            duration: self.duration.of(function, revision),
            answer_bytes: self.answer_bytes.of(function, revision),
            request_bytes: self.request_bytes.of(function, revision),
        }
    }

    /// The parts of a request that has ended. `start`: what one met that got a slot, the first or after refusals and failures another.
    /// `run`: of one that was sent to an instance, the time from there to the end.
    pub(super) fn phases(&self, timing: &Timing, start: Option<StartKind>, run: Option<Duration>) {
        if let Some(start) = start {
            let waited = timing.queue + timing.init;
            self.wait.get(start.into()).observe(waited.as_secs_f64());
        }
        self.phases.get(Phase::Queue).observe(timing.queue.as_secs_f64());
        if !timing.init.is_zero() {
            self.phases.get(Phase::Init).observe(timing.init.as_secs_f64());
        }
        if let Some(run) = run {
            let stream = run.saturating_sub(timing.execute);
            self.phases.get(Phase::Execute).observe(timing.execute.as_secs_f64());
            self.phases.get(Phase::Stream).observe(stream.as_secs_f64());
        }
    }

    /// Sampled with each load report: too fast-moving to be kept exact.
    pub(super) fn loaded(&self, function: &FunctionId, report: &LoadReport) {
        let load = self.load.of(function, &report.revision);
        load.set(State::Running, i64::from(report.in_flight));
        load.set(State::Waiting, i64::from(report.waiting));
    }

    pub(super) fn remove(&self, revision: &RevisionId) {
        self.load.remove(revision);
        self.requests.remove(revision);
        self.starts.remove(revision);
        self.duration.remove(revision);
        self.answer_bytes.remove(revision);
        self.request_bytes.remove(revision);
    }
}

impl RevisionStats {
    pub(super) fn ended(
        &self,
        status: http::StatusCode,
        start: Option<StartKind>,
        took: Duration,
        bytes: (u64, u64),
    ) {
        self.requests.inc(Class::from(status));
        if let Some(start) = start {
            self.starts.inc(start.into());
        }
        self.duration.observe(Plain, took.as_secs_f64());
        self.request_bytes.inc_by(Plain, bytes.0);
        #[expect(clippy::cast_precision_loss, reason = "sizes beyond 2^53 bytes do not occur")]
        self.answer_bytes.observe(Plain, bytes.1 as f64);
    }
}
