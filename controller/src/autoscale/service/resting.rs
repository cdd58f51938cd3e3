//! What the service does about idle instances: has the gateway let go of them, and the pool freeze them.

use std::time::Duration;

use hearth_dispatch::ToGateway;
use hearth_function::InstanceId;
use hearth_scaler::Reach;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Service;
use crate::autoscale::ladder::Rung;
use crate::autoscale::record::{Member, Record};
use crate::autoscale::rest::{self, Rest};

impl Service {
    /// Asks the gateway about every instance that looks idle for long enough: only the gateway knows.
    pub(super) fn rest(&mut self, now: Instant) {
        if self.shutdown.is_some() {
            return;
        }
        let serves = |record: &Record| {
            record.target.reach == Reach::Routed
                && record.removing.is_none()
                && !record.target.template.is_single_use()
        };
        let time = Timestamp::now();
        for record in self.records.values_mut().filter(|record| serves(record)) {
            // A window may begin while they stand still.
            for instance in rest::to_wake(&record.sleepers(), record.reserved(time)) {
                if let Some(member) = record.instances.get_mut(&instance) {
                    member.rest = Rest::Waking;
                    self.outbox.push_back(ToGateway::Wake { instance });
                }
            }
            let Some(after) = record.target.pause else { continue };
            for instance in rest::due(&record.sleepers(), after, record.reserved(time), now) {
                if let Some(member) = record.instances.get_mut(&instance) {
                    let round = self.pool.freezer().want(&instance);
                    member.rest = Rest::Asked { round };
                    self.outbox.push_back(ToGateway::Pause { instance, idle: after });
                }
            }
        }
    }

    /// The gateway has let go of an instance.
    pub(super) fn note_quiet(&mut self, instance: &InstanceId) {
        if let Some(member) = self.member(instance)
            && let Rest::Asked { round } = member.rest
        {
            member.rest = Rest::Freezing { round };
            self.pool.freeze(instance, round);
        }
    }

    /// It was used a moment ago.
    pub(super) fn note_in_use(&mut self, instance: &InstanceId, idle: Duration, now: Instant) {
        if let Some(member) = self.member(instance) {
            member.rest = Rest::Awake;
            member.idle_since = Some(now.checked_sub(idle).unwrap_or(now));
        }
    }

    /// What came of a freeze. It is late when a request has thawed the instance meanwhile: then it runs, whatever is said here.
    pub(super) fn note_frozen(&mut self, instance: &InstanceId, round: u64, frozen: bool, now: Instant) {
        if let Some(member) = self.member(instance)
            && member.rest == (Rest::Freezing { round })
        {
            member.rest = if frozen { Rest::Paused } else { Rest::Awake };
            // One that could not be frozen is not tried again at once.
            member.idle_since = Some(now);
            if frozen {
                self.pool.paused(instance);
            }
        }
    }

    /// It was thawed: by a request, or because it is reserved from now on.
    pub(super) fn note_resumed(&mut self, instance: &InstanceId, took: Duration, now: Instant) {
        self.ladder.restored(Rung::Paused, took);
        self.metrics.restored(Rung::Paused, took);
        if let Some(member) = self.member(instance) {
            member.rest = Rest::Awake;
            member.idle_since = Some(now);
        }
        self.pool.resumed(instance);
    }

    fn member(&mut self, instance: &InstanceId) -> Option<&mut Member> {
        self.records.values_mut().find_map(|record| record.instances.get_mut(instance))
    }
}
