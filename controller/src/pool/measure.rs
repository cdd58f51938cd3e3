//! What instances hold, and what the machine has left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hearth_function::InstanceId;
use tokio::time::{Instant, timeout};

use super::Pool;
use super::life::State;
use crate::backend::Backend;

/// How often it is measured what instances hold: a few small files each.
pub(super) const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// What does not say so soon what it holds is left out: it is a few small files, or a request to an engine.
const ASKED_WITHIN: Duration = Duration::from_secs(2);

/// Measures these instances, one after the other, and the machine.
async fn measured(backend: &dyn Backend, instances: Vec<InstanceId>) -> Measured {
    let (mut held, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for id in instances {
        // One that has ended holds nothing.
        if let Ok(Ok(stats)) = timeout(ASKED_WITHIN, backend.stats(&id)).await {
            if stats.pids_refused > 0 {
                refused.insert(id.clone(), stats.pids_refused);
            }
            held.insert(id, stats.memory_bytes);
        }
    }
    let machine = tokio::fs::read_to_string("/proc/meminfo").await.ok();
    Measured { held, refused, machine: machine.as_deref().and_then(Machine::parse) }
}

/// A measurement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// What each instance holds, in bytes.
    pub held: BTreeMap<InstanceId, u64>,
    /// How many processes and threads each could not make since its start, of one that was adopted since the first look at it; those without
    /// any are left out.
    pub refused: BTreeMap<InstanceId, u64>,
    /// The machine, where the kernel tells.
    pub machine: Option<Machine>,
}

impl Measured {
    /// Leaves out what an instance was refused up to `before`. Of one that is looked at for the first time (`None`) that is all of it: a
    /// controller before this one has told it.
    pub(super) fn leave_out_refused(&mut self, instance: &InstanceId, before: &mut Option<u64>) {
        if !self.held.contains_key(instance) {
            return;
        }
        let times = self.refused.remove(instance).unwrap_or(0);
        let since = times.saturating_sub(*before.get_or_insert(times));
        if since > 0 {
            self.refused.insert(instance.clone(), since);
        }
    }
}

impl Pool {
    /// Measures what instances hold, from time to time and one time after the other; [`View::memory_bytes`](super::View::memory_bytes) says it.
    pub fn measure(&mut self) {
        let due = self.measured_at.is_none_or(|at| at.elapsed() >= MEASURE_EVERY);
        let under_way = self.measuring.as_ref().is_some_and(|measuring| !measuring.is_finished());
        if !due || under_way || self.instances.is_empty() {
            return;
        }
        self.measured_at = Some(Instant::now());
        let up = self.instances.iter().filter(|(_, entry)| !matches!(entry.state, State::Starting(_)));
        let ids: Vec<InstanceId> = up.map(|(id, _)| id.clone()).collect();
        let (backend, told) = (Arc::clone(&self.backend), self.measured.clone());
        let measuring = async move { drop(told.send_replace(measured(backend.as_ref(), ids).await)) };
        self.measuring = Some(self.chores.spawn(measuring));
    }

    /// The last measurement; once.
    pub fn take_measurement(&mut self) -> Option<Measured> {
        let news = self.unseen.has_changed().unwrap_or(false);
        let mut measured = news.then(|| self.unseen.borrow_and_update().clone())?;
        for (instance, entry) in &mut self.instances {
            measured.leave_out_refused(instance, &mut entry.refused_before);
        }
        Some(measured)
    }
}

/// Memory of the machine, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// All of it.
    pub total: u64,
    /// What could be given out without swapping.
    pub available: u64,
}

impl Machine {
    /// Reads what the kernel says (`/proc/meminfo`).
    #[must_use]
    pub fn parse(meminfo: &str) -> Option<Self> {
        let kibibytes = |key: &str| -> Option<u64> {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        let bytes = |key| kibibytes(key).map(|count| count * 1024);
        Some(Self { total: bytes("MemTotal:")?, available: bytes("MemAvailable:")? })
    }

    /// What is missing to `keep` being free.
    #[must_use]
    pub fn lacks(self, keep: u64) -> u64 {
        keep.saturating_sub(self.available)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let machine =
            Machine::parse("MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    100 kB\n").unwrap();
        assert_eq!(machine, Machine { total: 1000 * 1024, available: 100 * 1024 });
        assert_eq!((machine.lacks(50 * 1024), machine.lacks(150 * 1024)), (0, 50 * 1024));
        assert_eq!(Machine::parse("MemTotal: x"), None);
    }
}
