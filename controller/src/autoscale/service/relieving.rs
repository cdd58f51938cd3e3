//! What the service does when the machine's memory is short: the warmth goes first whose loss costs least.

use std::time::Duration;

use hearth_function::InstanceId;
use hearth_scaler::evict::{Warm, order};
use jiff::Timestamp;
use tokio::time::Instant;

use super::{Service, holder};
use crate::autoscale::About;
use crate::autoscale::ladder::Rung;
use crate::pool::Measured;

/// What a start is taken to cost until one was seen: from nothing, and from a pool.
const ASSUMED_BUILT: Duration = Duration::from_millis(100);
const ASSUMED_POOLED: Duration = Duration::from_millis(5);

impl Service {
    /// Puts out idle, paused and pooled instances, until so much is free again as is to be kept. Looks once at each measurement: what was
    /// put out shows in the next. What runs calls or is reserved stays. Where nothing is to be kept free, it is not looked at what there is:
    /// instances may be on other machines.
    pub(super) fn relieve(&mut self, measured: &Measured, now: Instant) {
        let Some(machine) = measured.machine else { return };
        let keep = self.config.keep_free_bytes.unwrap_or(machine.total / 20);
        if keep == 0 {
            return;
        }
        let lacks = machine.lacks(keep);
        self.prewarm.memory_left(machine.available.saturating_sub(keep));
        if lacks == 0 || self.shutdown.is_some() {
            return;
        }
        let warm = self.warm(&measured.held, now);
        let mut freed = 0;
        for instance in order(&warm) {
            if freed >= lacks {
                break;
            }
            let Some(one) = warm.iter().find(|warm| warm.id == instance) else { continue };
            freed += one.size;
            self.clock.evicted(one.worth());
            tracing::info!(%instance, lacks, holds = one.size, "put out: memory is short");
            if self.prewarm.knows(&instance) {
                self.prewarm.lost(&instance);
                self.pool.stop(&instance, "memory is short", crate::pool::STOP_GRACE);
            } else {
                if let Some((_, record)) = holder(&mut self.records, &instance) {
                    record.note_event(
                        About::MemoryShort,
                        format!("{instance} put out: the machine's memory is short"),
                        Timestamp::now(),
                    );
                }
                self.drain(&instance, "memory is short");
            }
        }
    }

    /// What could go, and what its loss would cost.
    fn warm(
        &mut self,
        held: &std::collections::BTreeMap<InstanceId, u64>,
        now: Instant,
    ) -> Vec<Warm<InstanceId>> {
        let built = self.ladder.usual(Rung::Built).unwrap_or(ASSUMED_BUILT);
        let pooled = self.ladder.usual(Rung::Pooled).unwrap_or(ASSUMED_POOLED);
        let size = |instance: &InstanceId| held.get(instance).copied().unwrap_or(0);
        let (mut warm, time) = (Vec::new(), Timestamp::now());
        for record in self.records.values_mut() {
            let kept = usize::try_from(record.reserved(time)).unwrap_or(usize::MAX);
            let per_minute = record.rate.per_minute(now) / f64::from(record.ready().max(1));
            let falls_to = if record.target.template.class().is_some_and(|class| self.prewarm.has(class)) {
                pooled
            } else {
                built
            };
            let mut idle: Vec<_> = record
                .instances
                .iter()
                .filter(|(_, member)| member.ready.is_some() && member.calls == 0)
                .collect();
            idle.sort_by_key(|(id, member)| (member.began, (*id).clone()));
            warm.extend(idle.into_iter().skip(kept).map(|(id, member)| Warm {
                id: id.clone(),
                start_cost: falls_to,
                frequency: per_minute,
                size: size(id),
                used_at: member.used_at,
            }));
        }
        for (instance, per_minute) in self.prewarm.ready(now) {
            let start_cost = built.saturating_sub(pooled);
            let size = size(&instance);
            warm.push(Warm {
                id: instance,
                start_cost,
                frequency: per_minute,
                size,
                used_at: self.clock.now(),
            });
        }
        // What holds nothing that is known frees nothing.
        warm.retain(|one| one.size > 0);
        warm
    }
}
