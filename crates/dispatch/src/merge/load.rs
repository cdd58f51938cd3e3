//! The load of one Revision over several gateways.

use std::collections::BTreeMap;
use std::time::Duration;

use hearth_function::{InstanceId, RevisionId};

use super::GatewayId;
use crate::messages::LoadReport;

/// The time that a report covers which only says that a gateway has gone.
const MOMENT: Duration = Duration::from_millis(200);

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Loads {
    gateways: BTreeMap<GatewayId, Load>,
    /// Somebody has gone since the last report.
    left: bool,
}

#[derive(Debug, Default)]
struct Load {
    waiting: u32,
    in_flight: u32,
    busy: Vec<(InstanceId, u32)>,
    /// What it has reported since the last report to the scaler.
    fresh: Option<LoadReport>,
}

impl Loads {
    pub(super) fn wanted(&mut self, gateway: GatewayId, waiting: u32, in_flight: u32) {
        let load = self.gateways.entry(gateway).or_default();
        (load.waiting, load.in_flight) = (waiting, in_flight);
    }

    pub(super) fn report(&mut self, gateway: GatewayId, report: LoadReport) {
        let load = self.gateways.entry(gateway).or_default();
        (load.waiting, load.in_flight) = (report.waiting, report.in_flight);
        load.busy.clone_from(&report.busy);
        match &mut load.fresh {
            Some(fresh) => fresh.merge(report),
            None => load.fresh = Some(report),
        }
    }

    pub(super) fn leave(&mut self, gateway: GatewayId) {
        self.left |= self.gateways.remove(&gateway).is_some();
    }

    /// Requests that wait and calls that run.
    pub(super) fn level(&self) -> (u32, u32) {
        self.gateways
            .values()
            .fold((0, 0), |(waiting, running), load| (waiting + load.waiting, running + load.in_flight))
    }

    pub(super) fn is_idle(&self) -> bool {
        let idle = |load: &Load| load.waiting + load.in_flight == 0 && load.fresh.is_none();
        !self.left && self.gateways.values().all(idle)
    }

    /// One report of all; `None` when nobody has reported anything.
    pub(super) fn take(&mut self, revision: &RevisionId) -> Option<LoadReport> {
        let fresh = self.gateways.values().filter_map(|load| load.fresh.as_ref());
        let over = fresh.map(|report| report.over).max().or_else(|| self.left.then_some(MOMENT))?;
        let (waiting, in_flight) = self.level();
        let mut all = LoadReport {
            revision: revision.clone(),
            in_flight,
            waiting,
            over,
            average_concurrency: 0.0,
            busy: Vec::new(),
            completed: 0,
            arrived: 0,
            service_time: Duration::ZERO,
            refused: 0,
        };
        let mut busy: BTreeMap<InstanceId, u32> = BTreeMap::new();
        for load in self.gateways.values_mut() {
            for (instance, calls) in &load.busy {
                *busy.entry(instance.clone()).or_default() += calls;
            }
            // Of one that has not reported this time, what it said last.
            let level = f64::from(load.waiting) + f64::from(load.in_flight);
            let Some(report) = load.fresh.take() else {
                all.average_concurrency += level;
                continue;
            };
            // Those that came to life later, or report a little earlier, were idle or as they are now for the rest of it.
            let part = if over.is_zero() { 1.0 } else { report.over.as_secs_f64() / over.as_secs_f64() };
            all.average_concurrency += report.average_concurrency * part;
            all.completed += report.completed;
            all.arrived += report.arrived;
            all.service_time += report.service_time;
            all.refused += report.refused;
        }
        all.busy = busy.into_iter().collect();
        self.left = false;
        // Who is idle and has said so has nothing more to say.
        self.gateways.retain(|_, load| load.waiting + load.in_flight > 0);
        Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(in_flight: u32, average: f64, seconds: u64, busy: &[(&str, u32)]) -> LoadReport {
        LoadReport {
            revision: revision(),
            in_flight,
            waiting: 1,
            over: Duration::from_secs(seconds),
            average_concurrency: average,
            busy: busy.iter().map(|(id, calls)| (InstanceId::parse(id).unwrap(), *calls)).collect(),
            completed: 2,
            arrived: 3,
            service_time: Duration::from_secs(1),
            refused: 0,
        }
    }

    fn revision() -> RevisionId {
        RevisionId::parse("default/a-00001").unwrap()
    }

    #[test]
    fn two_gateways_report_as_one() {
        let mut loads = Loads::default();
        loads.report(GatewayId(1), report(2, 4.0, 2, &[("x", 1), ("y", 1)]));
        loads.report(GatewayId(2), report(3, 2.0, 1, &[("x", 3)]));
        let all = loads.take(&revision()).unwrap();
        // 4 calls for two seconds and 2 for one: 10 call-seconds in two.
        assert_eq!((all.in_flight, all.waiting, all.average_concurrency), (5, 2, 5.0));
        assert_eq!((all.over, all.completed, all.arrived), (Duration::from_secs(2), 4, 6));
        let busy: Vec<(&str, u32)> = all.busy.iter().map(|(id, calls)| (id.as_str(), *calls)).collect();
        assert_eq!(busy, [("x", 4), ("y", 1)]);
        assert_eq!(loads.take(&revision()), None, "nothing new");
    }

    #[test]
    fn a_gateway_that_is_late_counts_as_it_was_and_one_that_has_gone_does_not() {
        let mut loads = Loads::default();
        loads.report(GatewayId(1), report(2, 2.0, 1, &[]));
        loads.wanted(GatewayId(2), 4, 0);
        let all = loads.take(&revision()).unwrap();
        assert_eq!((all.waiting, all.in_flight, all.average_concurrency), (5, 2, 6.0));
        loads.leave(GatewayId(2));
        let all = loads.take(&revision()).unwrap();
        assert_eq!((all.waiting, all.in_flight, all.average_concurrency), (1, 2, 3.0));
        assert!(!loads.is_idle());
        loads.leave(GatewayId(1));
        assert_eq!(loads.take(&revision()).map(|all| (all.waiting, all.in_flight)), Some((0, 0)));
        assert!(loads.is_idle());
    }
}
