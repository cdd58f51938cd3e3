//! What the service makes of what it hears: from the gateway, and from the pool.

use std::time::Duration;

use hearth_dispatch::{StartKind, ToGateway, ToScaler};
use hearth_function::{InstanceId, RevisionId};
use hearth_scaler::{AfterFailure, Fault};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Service, holder, jitter};
use crate::autoscale::ladder::Rung;
use crate::autoscale::snapshot::Start;
use crate::autoscale::{About, TrialError};
use crate::pool::{self, Event, Happened, STOP_GRACE};
use crate::telemetry::tracing::TOLD;

/// An instance that a gateway lost has mostly ended, and the backend is about to say how. After this it is killed.
const SUSPICION: Duration = Duration::from_millis(200);

impl Service {
    /// Says to the gateway what fits into its channel, before anything else is done: a request waits for a grant.
    pub(super) fn tell_gateway(&mut self) {
        while !self.outbox.is_empty()
            && let Ok(place) = self.channels.to_gateway.try_reserve()
            && let Some(message) = self.outbox.pop_front()
        {
            place.send(message);
        }
    }

    /// Takes a gateway's message.
    pub(super) fn hear(&mut self, message: ToScaler) {
        let now = Instant::now();
        match message {
            ToScaler::CapacityWanted { revision, waiting, in_flight } => {
                if let Some(record) = self.records.get_mut(&revision) {
                    record.wanted(waiting, in_flight, now);
                    self.dirty.insert(revision);
                }
            }
            ToScaler::Load(report) => {
                if let Some(record) = self.records.get_mut(&report.revision) {
                    record.load(&report, self.clock, now);
                    self.dirty.insert(report.revision);
                }
            }
            ToScaler::Drained { instance } => self.pool.stop(&instance, "its calls have ended", STOP_GRACE),
            ToScaler::Spent { instance } => {
                if let Some((revision, record)) = holder(&mut self.records, &instance) {
                    record.spent(now);
                    self.dirty.insert(revision.clone());
                }
                self.leave(&instance);
                self.turns.done(&instance, now);
                self.spent.push_back(instance);
            }
            ToScaler::Orphaned { instance } => {
                // A gateway that is only cut off may have its call there still: it takes no other, and ends by itself after it.
                let time = self.time_for_calls(&instance);
                self.dirty.extend(holder(&mut self.records, &instance).map(|(revision, _)| revision.clone()));
                self.leave(&instance);
                self.turns.done(&instance, now);
                self.pool.stop(&instance, "its gateway has gone, and it may have had its call", time);
            }
            ToScaler::Lost { instance, reason } => {
                if self.granted.contains(&instance) && self.serves(&instance) {
                    self.suspects.entry(instance).or_insert((now + SUSPICION, reason));
                }
            }
            ToScaler::Quiet { instance } => self.note_quiet(&instance),
            ToScaler::InUse { instance, idle } => self.note_in_use(&instance, idle, now),
            ToScaler::Resumed { instance, took } => self.note_resumed(&instance, took, now),
            ToScaler::Unresponsive { instance } => self.kill_stuck(&instance),
            // Between gateways that share instances and what makes one of them: the service grants whole instances.
            ToScaler::Holds { .. } => {}
        }
    }

    /// Ends an instance that answers nothing any more, and says so where its owner looks.
    fn kill_stuck(&mut self, instance: &InstanceId) {
        const WHY: &str = "killed: it did not answer (an endless loop, or work that blocks)";
        if let Some((revision, record)) = holder(&mut self.records, instance) {
            tracing::warn!(target: TOLD, %revision, %instance, WHY, "instance killed");
            record.note_event(About::Killed, format!("{instance} {WHY}"), Timestamp::now());
            self.dirty.insert(revision.clone());
            self.logs.remark(
                record.target.template.function(),
                Some(instance),
                format!("the instance was {WHY}"),
            );
        }
        self.kill(instance, "killed: it did not answer");
    }

    /// Takes what became of an instance.
    pub(super) fn note(&mut self, event: Event) {
        let Event { instance, revision, what } = event;
        let now = Instant::now();
        let Some(revision) = revision else { return self.note_in_pool(&instance, what, now) };
        self.dirty.insert(revision.clone());
        match what {
            // It was given to the Revision in the moment that it was pooled, and is told of again when it is Ready.
            Happened::Pooled { .. } => {}
            Happened::Ready { mut endpoint, phases, .. } => {
                self.turns.ready(&instance, now);
                let Some(record) = self.records.get_mut(&revision) else { return };
                let Some(member) = record.instances.get_mut(&instance) else { return };
                (member.ready, member.idle_since) = (Some(now), Some(now));
                member.waits = None;
                member.used_at = self.clock.now();
                let slots = record.target.template.slots();
                let adopted = endpoint.start == StartKind::Warm;
                let took = (!adopted).then(|| phases.total().saturating_sub(phases.schedule));
                // An adoption is no start, and is not told as one.
                if took.is_some() {
                    let start =
                        Start { time: Timestamp::now(), instance: instance.clone(), phases, failure: None };
                    record.note_start(start, took);
                }
                self.over.extend(record.note_ready());
                // Nobody asked for it but the minimum.
                endpoint.reserved =
                    record.waiting == 0 && record.ready() <= record.reserved(Timestamp::now());
                if let Some(took) = took {
                    let from =
                        if endpoint.start == StartKind::Prewarmed { Rung::Pooled } else { Rung::Built };
                    self.ladder.restored(from, took);
                    self.metrics.restored(from, took);
                }
                if !adopted {
                    self.metrics.came_up(record.target.template.as_ref(), &phases);
                }
                record.filled(now);
                tracing::info!(%revision, %instance, took = ?phases.total(), "instance ready");
                self.granted.insert(instance);
                self.outbox.push_back(ToGateway::Grant { revision, endpoint: *endpoint, slots });
            }
            Happened::Paused { round, frozen } => self.note_frozen(&instance, round, frozen, now),
            Happened::NotThawed => self.kill(&instance, "killed: it was paused and could not be resumed"),
            Happened::Hindered(why) => self.note_hindered(&instance, &revision, why, now),
            Happened::Slow => self.note_slow(&instance, &revision),
            Happened::TakenAway { why, left } => self.note_taken_away(&instance, &why, left, now),
            Happened::Failed(failure) => self.note_failed(instance, revision, failure, now),
            Happened::Ended { how, as_told } => {
                if as_told {
                    tracing::info!(%revision, %instance, how, "instance ended");
                } else {
                    tracing::warn!(target: TOLD, %revision, %instance, how, "instance ended");
                }
                self.suspects.remove(&instance);
                self.turns.done(&instance, now);
                self.gone(&instance, &how);
                if let Some(record) = self.records.get_mut(&revision) {
                    record.note_loss(&instance, now);
                }
                self.leave(&instance);
                if let Some(record) = self.records.get_mut(&revision).filter(|_| !as_told) {
                    let function = record.target.template.function();
                    self.logs.remark(function, Some(&instance), format!("the instance ended: {how}"));
                }
            }
            Happened::Overdue => {
                tracing::warn!(%revision, %instance, "calls cut: they did not end in time");
                if let Some(shutdown) = &mut self.shutdown {
                    shutdown.cut_off.insert(instance);
                }
            }
            Happened::Removed => {
                self.gone(&instance, "stopped");
                self.turns.done(&instance, now);
                self.suspects.remove(&instance);
                self.leave(&instance);
                if let Some(record) = self.records.get_mut(&revision) {
                    record.leaving = record.leaving.saturating_sub(1);
                }
                self.forget_if_gone(&revision);
            }
        }
    }

    /// The same for an instance that has no function.
    fn note_in_pool(&mut self, instance: &InstanceId, what: Happened, now: Instant) {
        match what {
            Happened::Pooled { phases, memory_bytes } => {
                self.note_pooled(instance, &phases, memory_bytes, now);
            }
            Happened::Failed(failure) => self.note_pooling_failed(instance, &failure, now),
            Happened::TakenAway { why, left } => {
                tracing::info!(%instance, why, "a pooled instance is taken away");
                self.prewarm.lost(instance);
                self.pool.stop(instance, &why, STOP_GRACE.min(left));
            }
            Happened::Ended { how, .. } => {
                tracing::warn!(%instance, how, "a pooled instance ended");
                self.prewarm.lost(instance);
            }
            // Nobody waits for it, and no node is to be made for it: another is tried later.
            Happened::Hindered(Some(why)) => {
                tracing::warn!(%instance, message = why.message, "a start for the pool would have to wait");
                self.prewarm.failed(instance, now);
                self.pool.stop(instance, "no node takes it for the pool", STOP_GRACE);
            }
            Happened::Hindered(None) => self.prewarm.note_slow(instance, false),
            Happened::Slow => self.prewarm.note_slow(instance, true),
            Happened::Removed
            | Happened::Overdue
            | Happened::NotThawed
            | Happened::Ready { .. }
            | Happened::Paused { .. } => self.prewarm.lost(instance),
        }
    }

    fn note_failed(
        &mut self,
        instance: InstanceId,
        revision: RevisionId,
        failure: pool::Failure,
        now: Instant,
    ) {
        self.turns.done(&instance, now);
        let member = self.leave(&instance);
        if member.is_some_and(|member| member.adopted) {
            // The end of its earlier controller may have caught it half made or half taken away: that says nothing of the Function. Who
            // waits gets a new one.
            let message = failure.told.message;
            tracing::info!(%revision, %instance, message, "an instance of an earlier run does not answer and is taken away");
            return;
        }
        let Some(record) = self.records.get_mut(&revision) else { return };
        tracing::warn!(target: TOLD, %revision, %instance, code = %failure.told.code, message = failure.told.message, "start failed");
        let start = Start {
            time: Timestamp::now(),
            instance,
            phases: failure.phases,
            failure: Some(failure.told.message.clone()),
        };
        // Beside what it printed itself: whoever reads the function's log looks for it there.
        let about = Some(&start.instance);
        let function = record.target.template.function();
        self.logs.remark(function, about, format!("the instance did not start: {}", failure.told.message));
        if let Some(stack) = &failure.stack {
            // One entry, however many lines: a function must not fill the queue that others' entries wait in.
            let lines: Vec<&str> = stack.lines().filter(|line| !line.trim().is_empty()).collect();
            self.logs.remark(function, about, lines.join("\n"));
        }
        record.note_start(start, None);
        self.metrics.failed(record.target.template.as_ref());
        if member.is_some_and(|member| record.is_before_trial(&member)) {
            return;
        }
        record.note_failure(&failure.told, now);
        let others = record.ready() + record.starting();
        let verdict = record.backoff.failed(failure.fault, others, jitter(), now.into_std());
        if failure.fault == Fault::Function || matches!(verdict, AfterFailure::FailWaiting { .. }) {
            self.over.extend(record.end_trials(&Err(TrialError::Failed(failure.told.clone()))));
        }
        if let AfterFailure::FailWaiting { retry_after } = verdict {
            self.outbox.push_back(ToGateway::StartFailed { revision, failure: failure.told, retry_after });
        }
    }
}
