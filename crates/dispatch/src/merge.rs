//! One gateway made of several: what the scaler says goes to those that it concerns, and what they say reaches it as if there were one.
//!
//! ```text
//!             Grant, Revoke, Gone, StartFailed
//!   scaler ────────────────────────────────────▶ ┌───────┐ ── Grant, Share, Revoke, Gone, StartFailed ──▶ gateways
//!          ◀──────────────────────────────────── │ Merge │ ◀── CapacityWanted, Load, Holds, Drained, … ──
//!             CapacityWanted, Load, Drained, …   └───────┘
//! ```
//!
//! - **Slots** of an instance are divided (shares.rs).
//! - **Nobody waits beside an idle slot** of another for long: while requests wait somewhere, the others are told so
//!   ([`ToGateway::Scarce`]), and say at once when a slot lies idle. Where it lies is known, at the latest, by the next report.
//! - **Wishes and loads** are added up. A gateway that goes takes its part with it.
//! - **Drained** is told when the last that knew the instance has nothing more to do with it, or has gone.
//! - **Lost, Unresponsive**: the scaler kills such an instance, for all. It is told at once, as long as a gateway accuses few: one that
//!   cannot reach the network must not have everything killed that others use. Beyond three, and one more every three seconds,
//!   what others hold too is told when a second gateway says the same, or when it is that gateway's turn again. Whoever gave an
//!   instance up gets it no more. Gateways are known by their names for that, and not by their connections (trust.rs).
//! - **Stuck calls** are added up: an instance whose slots are all held by calls that do not end, at whichever gateways, is told to be
//!   unresponsive (INV-20). No gateway accuses it by that: there is nothing left that another could use.
//! - **Spent** is told as it comes: only one gateway had it. One for a single call whose gateway goes is nobody else's: it may have been used,
//!   or be in use by one that is only cut off. If that one does not come back with it within `settle`, the scaler is told
//!   ([`ToScaler::Orphaned`]), and its call, if there is one, has its time (INV-22).
//! - **Pause** is answered with no: whoever is to thaw must be on the instance's machine, and alone. **Wake** has nothing to do then.
//!
//! A gateway that comes says what it holds ([`Resume`]), from an earlier connection or of an earlier controller; that counts as granted.
//! Instances that were there before this controller are therefore not dealt with until gateways have had time to come (`settle`), and
//! one that gateways know and the scaler does not is drained after a minute.

mod load;
mod trust;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hearth_function::{InstanceId, RevisionId};

use crate::messages::{Demand, Endpoint, Held, Resume, Share, StartKind, ToGateway, ToScaler};
use crate::shares::Shares;
use load::Loads;
use trust::Trust;

/// An instance that the scaler does not know after this is not one that it will adopt.
const UNKNOWN: Duration = Duration::from_secs(60);

/// Names a connection of a gateway: never the same again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GatewayId(pub u64);

/// What is to be said.
#[derive(Debug, Default, PartialEq)]
pub struct Out {
    /// To gateways, in this order.
    pub down: Vec<(GatewayId, ToGateway)>,
    /// To the scaler, in this order.
    pub up: Vec<ToScaler>,
}

/// See the module's page.
#[derive(Debug)]
pub struct Merge {
    /// How long a gateway takes to come, or to come back.
    settle: Duration,
    /// Until then gateways come that know instances from before.
    settled: Instant,
    serial: u64,
    /// Their names.
    gateways: BTreeMap<GatewayId, String>,
    revisions: BTreeMap<RevisionId, Revision>,
    /// What the scaler has granted.
    instances: BTreeMap<InstanceId, Granted>,
    /// What only gateways know: of which Revision, and since when.
    unknown: BTreeMap<InstanceId, (RevisionId, Instant)>,
    trust: Trust,
    /// Calls that do not end, by who has them; of what only gateways know too.
    stuck: BTreeMap<InstanceId, BTreeMap<GatewayId, u32>>,
}

#[derive(Debug, Default)]
struct Revision {
    shares: Shares,
    loads: Loads,
}

#[derive(Debug)]
struct Granted {
    revision: RevisionId,
    endpoint: Endpoint,
    /// Calls that it takes.
    slots: u32,
    revoked: bool,
    /// The scaler was told that all of them are stuck.
    condemned: bool,
}

/// Who loses something when an instance is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Those that hold it, if there are any.
    OfOthers,
    /// Nobody: whoever holds it cannot use it either.
    Nobodys,
}

impl Merge {
    /// Without gateways. `settle`: how long those of an earlier controller may take to come, and any to come back. `first`: the number of the first share,
    /// larger than any that an earlier controller has given out.
    #[must_use]
    pub fn new(now: Instant, settle: Duration, first: u64) -> Self {
        Self {
            settle,
            settled: now + settle,
            serial: first,
            gateways: BTreeMap::new(),
            revisions: BTreeMap::new(),
            instances: BTreeMap::new(),
            unknown: BTreeMap::new(),
            trust: Trust::default(),
            stuck: BTreeMap::new(),
        }
    }

    /// The gateways that are there.
    #[must_use]
    pub fn gateways(&self) -> usize {
        self.gateways.len()
    }

    /// A gateway has come. `name`: the same for all connections of one.
    pub fn join(&mut self, now: Instant, gateway: GatewayId, name: &str, resume: Resume, out: &mut Out) {
        self.gateways.insert(gateway, name.to_owned());
        for revision in self.revisions.values_mut() {
            revision.shares.join(gateway);
        }
        for instance in self.trust.join(now, name) {
            if let Some(id) = self.revision_of(&instance) {
                self.revision(&id).shares.bar(gateway, &instance);
            }
        }
        for Held { instance, revision, slots, stuck, draining } in resume.held {
            self.stuck(gateway, &instance, stuck, out);
            if !self.instances.contains_key(&instance) {
                self.unknown.entry(instance.clone()).or_insert_with(|| (revision.clone(), now));
            }
            let shares = &mut self.revision(&revision).shares;
            shares.resume(gateway, &instance, slots, draining);
            if self.instances.get(&instance).is_some_and(|known| known.revoked) {
                out.down.push((gateway, ToGateway::Revoke { instance }));
            }
        }
        for Demand { revision, waiting, in_flight } in resume.demand {
            self.wanted(gateway, &revision, waiting, in_flight, out);
        }
        for revision in resume.scarce {
            self.revision(&revision).shares.unsure(gateway);
        }
        self.settle_all(now, out);
    }

    /// A gateway has gone. What it used is free, but of instances for a single call.
    pub fn leave(&mut self, now: Instant, gateway: GatewayId, out: &mut Out) {
        if let Some(name) = self.gateways.remove(&gateway) {
            self.trust.leave(&name);
        }
        for revision in self.revisions.values_mut() {
            revision.shares.leave(gateway, now + self.settle);
            revision.loads.leave(gateway);
        }
        let all: Vec<InstanceId> = self.stuck.keys().cloned().collect();
        all.iter().for_each(|instance| self.unstuck(gateway, instance));
        let revoked = self.instances.iter().filter(|(_, granted)| granted.revoked);
        for instance in revoked.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.drained_if_done(&instance, out);
        }
        self.forget_unknown();
        self.settle_all(now, out);
    }

    /// A message of the scaler.
    pub fn on_scaler(&mut self, now: Instant, message: ToGateway, out: &mut Out) {
        match message {
            ToGateway::Grant { revision, endpoint, slots } => self.grant(now, revision, endpoint, slots, out),
            ToGateway::Revoke { instance } => {
                let Some(granted) = self.instances.get_mut(&instance) else {
                    return out.up.push(ToScaler::Drained { instance });
                };
                granted.revoked = true;
                let revision = granted.revision.clone();
                for gateway in self.revision(&revision).shares.revoke(&instance) {
                    out.down.push((gateway, ToGateway::Revoke { instance: instance.clone() }));
                }
                self.drained_if_done(&instance, out);
                self.settle(now, &revision, out);
            }
            ToGateway::Gone { instance, reason } => {
                if let Some((revision, holders)) = self.remove(&instance) {
                    let gone =
                        |id| (id, ToGateway::Gone { instance: instance.clone(), reason: reason.clone() });
                    out.down.extend(holders.into_iter().map(gone));
                    self.settle(now, &revision, out);
                }
            }
            ToGateway::StartFailed { .. } => {
                out.down.extend(self.gateways.keys().map(|id| (*id, message.clone())));
            }
            ToGateway::Pause { instance, idle } => out.up.push(ToScaler::InUse { instance, idle }),
            // The scaler deals with none but whole instances, and none is paused.
            ToGateway::Wake { .. } | ToGateway::Share(_) | ToGateway::Scarce { .. } => {}
        }
    }

    /// A message of a gateway that is there.
    pub fn on_gateway(&mut self, now: Instant, gateway: GatewayId, message: ToScaler, out: &mut Out) {
        match message {
            ToScaler::CapacityWanted { revision, waiting, in_flight } => {
                self.wanted(gateway, &revision, waiting, in_flight, out);
                self.settle(now, &revision, out);
            }
            ToScaler::Load(report) => {
                let id = report.revision.clone();
                let revision = self.revision(&id);
                revision.shares.busy(gateway, &report.busy);
                revision.shares.demand(gateway, report.waiting, report.in_flight);
                revision.loads.report(gateway, report);
                self.settle(now, &id, out);
            }
            ToScaler::Holds { instance, slots, stuck, serial } => {
                let Some(id) = self.revision_of(&instance) else { return };
                self.stuck(gateway, &instance, stuck, out);
                self.revision(&id).shares.holds(gateway, &instance, slots, serial);
                self.settle(now, &id, out);
            }
            ToScaler::Drained { instance } => {
                let Some(id) = self.revision_of(&instance) else { return };
                if self.revision(&id).shares.drained(gateway, &instance) {
                    self.unstuck(gateway, &instance);
                    self.forget_unknown();
                    self.drained_if_done(&instance, out);
                    self.settle(now, &id, out);
                }
            }
            ToScaler::Spent { instance } => {
                if self.instances.contains_key(&instance) {
                    out.up.push(ToScaler::Spent { instance: instance.clone() });
                }
                self.used_up(now, instance, Some(gateway), out);
            }
            ToScaler::Lost { ref instance, .. } | ToScaler::Unresponsive { ref instance } => {
                let instance = instance.clone();
                self.accuse(now, gateway, instance, message, out);
            }
            // Nobody is asked to pause, and who has gone says nothing.
            ToScaler::Quiet { .. }
            | ToScaler::InUse { .. }
            | ToScaler::Resumed { .. }
            | ToScaler::Orphaned { .. } => {}
        }
    }

    /// Time has passed: to be called every few ten milliseconds, for those that wait for their turn.
    pub fn on_tick(&mut self, now: Instant, out: &mut Out) {
        self.trust.on_tick(now);
        for instance in self.trust.accused() {
            self.judge(now, &instance, Loss::OfOthers, out);
        }
        let orphaned = self.revisions.values().flat_map(|revision| revision.shares.orphaned(now));
        for instance in orphaned.cloned().collect::<Vec<_>>() {
            out.up.push(ToScaler::Orphaned { instance: instance.clone() });
            self.used_up(now, instance, None, out);
        }
        let overdue = |since: &Instant| now.saturating_duration_since(*since) >= UNKNOWN;
        let mut drain = Vec::new();
        for (instance, (revision, since)) in &mut self.unknown {
            if overdue(since) {
                *since = now;
                drain.push((instance.clone(), revision.clone()));
            }
        }
        for (instance, revision) in drain {
            for gateway in self.revision(&revision).shares.revoke(&instance) {
                out.down.push((gateway, ToGateway::Revoke { instance: instance.clone() }));
            }
        }
        let due = self.revisions.iter().filter(|(_, revision)| revision.shares.is_due());
        for id in due.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.settle(now, &id, out);
        }
        self.revisions.retain(|_, revision| !(revision.shares.is_idle() && revision.loads.is_idle()));
    }

    /// What all gateways together have reported since it was asked last, one report for each Revision.
    pub fn take_loads(&mut self) -> Vec<ToScaler> {
        let reports = self.revisions.iter_mut().filter_map(|(id, revision)| revision.loads.take(id));
        reports.map(ToScaler::Load).collect()
    }

    fn grant(&mut self, now: Instant, revision: RevisionId, endpoint: Endpoint, slots: u32, out: &mut Out) {
        let instance = endpoint.instance.clone();
        // One that was made just now nobody can know from before.
        let opens = (endpoint.start == StartKind::Warm && now < self.settled).then_some(self.settled);
        self.unknown.remove(&instance);
        self.trust.forget(&instance);
        let perhaps_used = (endpoint.start == StartKind::Warm).then_some(self.settled.max(now));
        let single_use = endpoint.single_use;
        let shares = &mut self.revision(&revision).shares;
        shares.grant(&instance, slots, opens);
        if single_use {
            shares.single_use(&instance, perhaps_used);
        }
        let granted =
            Granted { revision: revision.clone(), endpoint, slots, revoked: false, condemned: false };
        self.instances.insert(instance.clone(), granted);
        self.condemn(&instance, out);
        self.settle(now, &revision, out);
    }

    fn wanted(&mut self, gateway: GatewayId, id: &RevisionId, waiting: u32, in_flight: u32, out: &mut Out) {
        let revision = self.revision(id);
        revision.shares.demand(gateway, waiting, in_flight);
        revision.loads.wanted(gateway, waiting, in_flight);
        // Else it is the news that a slot lies idle, which is not the scaler's.
        let grown = waiting > 0;
        let (waiting, in_flight) = revision.loads.level();
        if grown && waiting > 0 {
            out.up.push(ToScaler::CapacityWanted { revision: id.clone(), waiting, in_flight });
        }
    }

    /// A gateway has given an instance up.
    fn accuse(
        &mut self,
        now: Instant,
        by: GatewayId,
        instance: InstanceId,
        message: ToScaler,
        out: &mut Out,
    ) {
        let Some(id) = self.revision_of(&instance) else { return };
        let useless = self.revision(&id).shares.give_up(by, &instance);
        self.unstuck(by, &instance);
        self.forget_unknown();
        // What is to go anyway goes when the others have done with it.
        if self.instances.get(&instance).is_some_and(|granted| !granted.revoked) {
            let name = self.gateways.get(&by).cloned().unwrap_or_default();
            self.trust.accuse(&instance, name, message);
            self.judge(now, &instance, if useless { Loss::Nobodys } else { Loss::OfOthers }, out);
        }
        self.drained_if_done(&instance, out);
        self.settle(now, &id, out);
    }

    fn judge(&mut self, now: Instant, instance: &InstanceId, loss: Loss, out: &mut Out) {
        let alone = loss == Loss::Nobodys || self.holders(instance).is_empty();
        out.up.extend(self.trust.judge(now, instance, alone));
    }

    /// One for a single call is of use to nobody any more: whoever else knows it forgets it.
    fn used_up(&mut self, now: Instant, instance: InstanceId, by: Option<GatewayId>, out: &mut Out) {
        let Some((revision, holders)) = self.remove(&instance) else { return };
        for gateway in holders.into_iter().filter(|holder| Some(*holder) != by) {
            out.down.push((gateway, ToGateway::Revoke { instance: instance.clone() }));
        }
        self.settle(now, &revision, out);
    }

    /// So many of a gateway's calls on an instance do not end.
    fn stuck(&mut self, gateway: GatewayId, instance: &InstanceId, calls: u32, out: &mut Out) {
        if calls == 0 {
            return self.unstuck(gateway, instance);
        }
        self.stuck.entry(instance.clone()).or_default().insert(gateway, calls);
        self.condemn(instance, out);
    }

    fn unstuck(&mut self, gateway: GatewayId, instance: &InstanceId) {
        if let Some(calls) = self.stuck.get_mut(instance) {
            calls.remove(&gateway);
            if calls.is_empty() {
                self.stuck.remove(instance);
            }
        }
    }

    /// Has an instance killed that is of no use to anybody; one that is to go anyway has its time for that.
    fn condemn(&mut self, instance: &InstanceId, out: &mut Out) {
        let Some(granted) = self.instances.get_mut(instance) else { return };
        let stuck: u32 = self.stuck.get(instance).map_or(0, |calls| calls.values().sum());
        if stuck >= granted.slots.max(1) && !granted.revoked && !granted.condemned {
            granted.condemned = true;
            out.up.push(ToScaler::Unresponsive { instance: instance.clone() });
        }
    }

    fn holders(&mut self, instance: &InstanceId) -> Vec<GatewayId> {
        let Some(id) = self.revision_of(instance) else { return Vec::new() };
        self.revision(&id).shares.holders(instance)
    }

    fn drained_if_done(&mut self, instance: &InstanceId, out: &mut Out) {
        let Some(granted) = self.instances.get(instance).filter(|granted| granted.revoked) else { return };
        let id = granted.revision.clone();
        let shares = &self.revision(&id).shares;
        if shares.holders(instance).is_empty() && !shares.is_awaited(instance) {
            self.remove(instance);
            out.up.push(ToScaler::Drained { instance: instance.clone() });
        }
    }

    /// Forgets an instance; its Revision, and who knew it.
    fn remove(&mut self, instance: &InstanceId) -> Option<(RevisionId, Vec<GatewayId>)> {
        let id = self.revision_of(instance)?;
        self.instances.remove(instance);
        self.unknown.remove(instance);
        self.trust.forget(instance);
        self.stuck.remove(instance);
        let holders = self.revision(&id).shares.remove(instance);
        Some((id, holders))
    }

    fn forget_unknown(&mut self) {
        let revisions = &self.revisions;
        self.unknown.retain(|instance, (id, _)| {
            revisions.get(id).is_some_and(|revision| !revision.shares.holders(instance).is_empty())
        });
    }

    fn revision_of(&self, instance: &InstanceId) -> Option<RevisionId> {
        let granted = self.instances.get(instance).map(|granted| &granted.revision);
        granted.or_else(|| self.unknown.get(instance).map(|(revision, _)| revision)).cloned()
    }

    fn revision(&mut self, id: &RevisionId) -> &mut Revision {
        let gateways = &self.gateways;
        self.revisions.entry(id.clone()).or_insert_with(|| {
            let mut revision = Revision::default();
            gateways.keys().for_each(|gateway| revision.shares.join(*gateway));
            revision
        })
    }

    fn settle_all(&mut self, now: Instant, out: &mut Out) {
        let ids: Vec<RevisionId> = self.revisions.keys().cloned().collect();
        ids.iter().for_each(|id| self.settle(now, id, out));
    }

    fn settle(&mut self, now: Instant, id: &RevisionId, out: &mut Out) {
        let Some(revision) = self.revisions.get_mut(id) else { return };
        for told in revision.shares.settle(now, &mut self.serial) {
            let Some(granted) = self.instances.get(&told.instance) else { continue };
            if told.anew {
                // Known first, without a slot; how many follows, with a number.
                let endpoint = granted.endpoint.clone();
                let grant = ToGateway::Grant { revision: id.clone(), endpoint, slots: 0 };
                out.down.push((told.gateway, grant));
            }
            let share =
                Share { instance: told.instance, slots: told.slots, of: told.of, serial: told.serial };
            out.down.push((told.gateway, ToGateway::Share(share)));
        }
        let scarce = revision.shares.scarce().into_iter();
        out.down.extend(
            scarce.map(|(gateway, scarce)| (gateway, ToGateway::Scarce { revision: id.clone(), scarce })),
        );
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod tests;

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an arbitrary beginning: no test waits")]
mod model;
