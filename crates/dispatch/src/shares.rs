//! Who may use how many slots of which instance: the shares of several gateways in the instances of one Revision.
//!
//! An instance takes `limit` calls at once. What gateways may use of it is never more in sum (INV-18): a slot is given to one only after
//! the one that had it has said that it uses it no longer. So there are two numbers for each share: `granted`, what the gateway was told
//! last, and `outstanding`, what it may be using as far as is known, which follows when it has answered.
//!
//! ```text
//!  told more:  granted 3 → 5            outstanding 3 → 5 at once, taken out of what is free
//!  told less:  granted 5 → 2            outstanding stays 5
//!              Holds 4 (2 calls too many)   outstanding 4: one slot is free for others
//!              Holds 3, Holds 2         outstanding 3, 2
//! ```
//!
//! Slots are taken from a gateway only where another needs them: it has more demand than slots, or none at all. Then both get what
//! [`targets`] says, with part of what is idle, so that a load that shifts moves slots now and then and not with every request.
//!
//! An instance for a single call is another's only after the one that had it has said that it did not use it: of one that has gone nobody
//! knows (INV-22).

mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use hearth_function::InstanceId;

use crate::merge::GatewayId;
use target::{Claim, targets};

/// Who waits without any slot gets the turn of one that has had it for so long. Short beside what a client notices; long beside the
/// way of a slot from one gateway to another, which serves nobody.
const TURN: Duration = Duration::from_millis(50);

/// The shares in one Revision's instances.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    instances: BTreeMap<InstanceId, Instance>,
    gateways: BTreeMap<GatewayId, Gateway>,
}

#[derive(Debug, Default)]
struct Instance {
    /// Calls that it takes; `None` while only gateways know of it.
    limit: Option<u32>,
    /// Before then nobody gets more of it: gateways that have not come yet may be using it.
    opens: Option<Instant>,
    /// It is to go: it counts no more.
    leaving: bool,
    /// It is for one call.
    single_use: bool,
    /// Of one for a single call: whoever had it is not there, may have used it and may use it still. So long he may come back, and nobody else
    /// gets it.
    awaited: Option<Instant>,
    parts: BTreeMap<GatewayId, Part>,
    /// Who could not use it.
    barred: BTreeSet<GatewayId>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    granted: u32,
    told: Knows,
    outstanding: u32,
    /// The number of the last share that was told; 0 for none.
    serial: u64,
    /// Calls that it had running there when it reported last.
    calls: u32,
    /// An earlier controller had told it to drain.
    draining: bool,
}

/// What a gateway knows of its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Knows {
    /// Not even the instance, or it sends nothing there any more.
    #[default]
    Nothing,
    /// The instance, and a share of before: which, is not known here. It may be smaller than what its calls still use.
    Something,
    /// So many slots.
    Slots(u32),
}

#[derive(Debug, Default)]
struct Gateway {
    waiting: u32,
    in_flight: u32,
    /// Since when it waits without a slot.
    without: Option<Instant>,
    /// It was told that others wait.
    scarce: bool,
    /// What it was told of that before is not known.
    unsure: bool,
}

/// A gateway is to be told of its share.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) gateway: GatewayId,
    pub(crate) instance: InstanceId,
    pub(crate) slots: u32,
    pub(crate) of: u32,
    pub(crate) serial: u64,
    /// It does not know the instance, or sends nothing there any more: it has to be granted first.
    pub(crate) anew: bool,
}

impl Instance {
    fn outstanding(&self) -> u32 {
        self.parts.values().map(|part| part.outstanding).sum()
    }

    /// Slots that nobody can be using.
    fn free(&self) -> u32 {
        if !self.leaving && self.opens.is_none() && self.awaited.is_none() {
            self.limit.unwrap_or(0).saturating_sub(self.outstanding())
        } else {
            0
        }
    }

    /// Whether its slots are dealt with.
    fn counts(&self) -> bool {
        self.limit.is_some() && !self.leaving
    }
}

impl Part {
    /// Slots that are not in use, as far as is known.
    fn idle(&self) -> i64 {
        i64::from(self.granted) - i64::from(self.calls)
    }
}

impl Shares {
    pub(crate) fn join(&mut self, gateway: GatewayId) {
        self.gateways.entry(gateway).or_default();
    }

    /// Whether there is an instance, or a gateway that waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.instances.is_empty() && self.gateways.values().all(|gateway| gateway.waiting == 0)
    }

    /// It comes with what an earlier connection or controller has told it of those that wait elsewhere.
    pub(crate) fn unsure(&mut self, gateway: GatewayId) {
        if let Some(gateway) = self.gateways.get_mut(&gateway) {
            gateway.unsure = true;
        }
    }

    /// Whether time alone may change something: somebody waits for his turn, or an instance is not open yet.
    pub(crate) fn is_due(&self) -> bool {
        self.gateways.values().any(|gateway| gateway.without.is_some())
            || self.instances.values().any(|entry| entry.opens.is_some())
    }

    /// The scaler grants an instance, for the first time or again.
    pub(crate) fn grant(&mut self, instance: &InstanceId, limit: u32, opens: Option<Instant>) {
        let entry = self.instances.entry(instance.clone()).or_default();
        (entry.limit, entry.opens, entry.leaving) = (Some(limit), opens, false);
    }

    /// It is for one call. `perhaps_used`: somebody may have made it of whom nothing is known, unless he comes until then, or is there.
    pub(crate) fn single_use(&mut self, instance: &InstanceId, perhaps_used: Option<Instant>) {
        if let Some(entry) = self.instances.get_mut(instance) {
            entry.single_use = true;
            entry.awaited = perhaps_used.filter(|_| entry.outstanding() == 0);
        }
    }

    /// Whether somebody is waited for who may have used it, or use it still.
    pub(crate) fn is_awaited(&self, instance: &InstanceId) -> bool {
        self.instances.get(instance).is_some_and(|entry| entry.awaited.is_some())
    }

    /// Instances for a single call whose gateway has not come back in time.
    pub(crate) fn orphaned(&self, now: Instant) -> impl Iterator<Item = &InstanceId> {
        let overdue = move |entry: &Instance| entry.awaited.is_some_and(|until| until <= now);
        self.instances.iter().filter(move |(_, entry)| overdue(entry)).map(|(id, _)| id)
    }

    /// The scaler takes it back. Returns who has to be told; it is done when nobody is left ([`Self::holders`]).
    pub(crate) fn revoke(&mut self, instance: &InstanceId) -> Vec<GatewayId> {
        let Some(entry) = self.instances.get_mut(instance) else { return Vec::new() };
        entry.leaving = true;
        for part in entry.parts.values_mut() {
            // Should it be granted again, it is to be told anew.
            (part.draining, part.told) = (true, Knows::Nothing);
        }
        entry.parts.keys().copied().collect()
    }

    /// Who knows it.
    pub(crate) fn holders(&self, instance: &InstanceId) -> Vec<GatewayId> {
        self.instances.get(instance).map(|entry| entry.parts.keys().copied().collect()).unwrap_or_default()
    }

    /// It is no more. Returns who knew it.
    pub(crate) fn remove(&mut self, instance: &InstanceId) -> Vec<GatewayId> {
        self.instances.remove(instance).map(|entry| entry.parts.into_keys().collect()).unwrap_or_default()
    }

    /// A gateway that has come knows an instance already, and may be using so many of its slots.
    pub(crate) fn resume(&mut self, gateway: GatewayId, instance: &InstanceId, slots: u32, draining: bool) {
        let entry = self.instances.entry(instance.clone()).or_default();
        // One that drains is told all anew, should the instance serve on.
        let told = if draining { Knows::Nothing } else { Knows::Something };
        let part = Part { granted: slots, told, outstanding: slots, draining, ..Part::default() };
        entry.parts.insert(gateway, part);
        if slots > 0 {
            entry.awaited = None;
        }
    }

    /// A gateway has gone, with everything that it had. What it may have used up is kept for it for so long.
    pub(crate) fn leave(&mut self, gateway: GatewayId, back_until: Instant) {
        self.gateways.remove(&gateway);
        for entry in self.instances.values_mut() {
            let had = entry.parts.remove(&gateway).is_some_and(|part| part.outstanding > 0);
            entry.barred.remove(&gateway);
            // If another has it, that is the same one, which has come back before it was seen to go.
            if had && entry.single_use && entry.outstanding() == 0 {
                entry.awaited = Some(back_until);
            }
        }
        self.forget_unknown();
    }

    /// What runs and waits on a gateway.
    pub(crate) fn demand(&mut self, gateway: GatewayId, waiting: u32, in_flight: u32) {
        if let Some(entry) = self.gateways.get_mut(&gateway) {
            (entry.waiting, entry.in_flight) = (waiting, in_flight);
        }
    }

    /// On which instances its calls run.
    pub(crate) fn busy(&mut self, gateway: GatewayId, busy: &[(InstanceId, u32)]) {
        let busy: BTreeMap<&InstanceId, u32> = busy.iter().map(|(id, calls)| (id, *calls)).collect();
        for (id, entry) in &mut self.instances {
            if let Some(part) = entry.parts.get_mut(&gateway) {
                part.calls = busy.get(id).copied().unwrap_or(0);
            }
        }
    }

    /// A gateway says how many slots it uses at most. What is about an earlier share than the last is not looked at: the answer to the
    /// last is on its way.
    pub(crate) fn holds(&mut self, gateway: GatewayId, instance: &InstanceId, slots: u32, serial: u64) {
        let Some(entry) = self.instances.get_mut(instance) else { return };
        let leaving = entry.leaving;
        if let Some(part) = entry.parts.get_mut(&gateway).filter(|part| part.serial == serial) {
            part.outstanding = slots.max(part.granted);
            // So it says how many calls run there, too, or that they are no more than these.
            part.calls = if leaving || slots > part.granted { slots } else { part.calls.min(slots) };
        }
    }

    /// A gateway has nothing more to do with an instance, as it was told. `false`: it was not told so, or was granted it again since.
    pub(crate) fn drained(&mut self, gateway: GatewayId, instance: &InstanceId) -> bool {
        let Some(entry) = self.instances.get_mut(instance) else { return false };
        let asked = entry.leaving || entry.parts.get(&gateway).is_some_and(|part| part.draining);
        if asked {
            entry.parts.remove(&gateway);
            self.forget_unknown();
        }
        asked
    }

    /// A gateway has given an instance up, and gets it no more. `true`: nobody else can use it either.
    pub(crate) fn give_up(&mut self, gateway: GatewayId, instance: &InstanceId) -> bool {
        let mut useless = false;
        if let Some(entry) = self.instances.get_mut(instance) {
            let had = entry.parts.remove(&gateway).is_some_and(|part| part.outstanding > 0);
            entry.barred.insert(gateway);
            // Its only call may have been made.
            useless = had && entry.single_use;
            if useless {
                entry.limit = Some(0);
            }
        }
        self.forget_unknown();
        useless
    }

    /// A gateway that has come had given an instance up before.
    pub(crate) fn bar(&mut self, gateway: GatewayId, instance: &InstanceId) {
        if let Some(entry) = self.instances.get_mut(instance) {
            entry.barred.insert(gateway);
        }
    }

    /// Deals out what is free, and asks back what somebody needs. Returns who is to be told what.
    pub(crate) fn settle(&mut self, now: Instant, serial: &mut u64) -> Vec<Told> {
        for entry in self.instances.values_mut() {
            entry.opens = entry.opens.filter(|opens| *opens > now);
            // What was asked back and is in use comes late: it is asked for anew, where something lies idle now.
            for part in entry.parts.values_mut() {
                part.granted = part.granted.max(part.calls.min(part.outstanding));
            }
        }
        self.shrink();
        let ids: Vec<GatewayId> = self.gateways.keys().copied().collect();
        let claims = self.claims(now, &ids);
        let should = targets(self.capacity(), &claims);

        // What each needs: as much of its demand as is its due, and one slot if it has none at all.
        let needs = |claim: &Claim, target: u32| match claim.held {
            0 => claim.demand.min(target).max(target.min(1)),
            held => claim.demand.min(target).saturating_sub(held),
        };
        let due: Vec<(GatewayId, u32, u32)> = ids
            .iter()
            .zip(claims.iter().zip(&should))
            .map(|(id, (claim, target))| (*id, needs(claim, *target), target.saturating_sub(claim.held)))
            .collect();
        let short = self.deal(due.iter().map(|(id, needs, _)| (*id, *needs)).collect());
        if short.is_empty() {
            let rest = due.iter().map(|(id, needs, room)| (*id, room.saturating_sub(*needs)));
            self.deal(rest.collect());
        } else {
            let over = ids.iter().zip(claims.iter().zip(&should));
            let over = over.map(|(id, (claim, target))| (*id, claim.held.saturating_sub(*target))).collect();
            // While something moves, it may as well be enough for a while.
            let room = |(id, missing): &(GatewayId, u32)| {
                let of = due.iter().find(|(other, ..)| other == id);
                of.map_or(0, |(_, needs, room)| room.saturating_sub(*needs)) + missing
            };
            let wanted = short.iter().map(room).sum();
            let short: Vec<GatewayId> = short.into_iter().map(|(id, _)| id).collect();
            self.take(over, wanted, &short);
        }
        self.tell(serial)
    }

    /// Who is to be told that others wait, or that they do no more.
    pub(crate) fn scarce(&mut self) -> Vec<(GatewayId, bool)> {
        let held = |id: &GatewayId| -> u32 {
            let parts = self.instances.values().filter(|entry| entry.counts());
            parts.filter_map(|entry| entry.parts.get(id)).map(|part| part.granted).sum()
        };
        let wants = |(id, gateway): (&GatewayId, &Gateway)| {
            (gateway.waiting > 0 && gateway.waiting + gateway.in_flight > held(id)).then_some(*id)
        };
        let wanting: Vec<GatewayId> = self.gateways.iter().filter_map(wants).collect();
        let mut told = Vec::new();
        for (id, gateway) in &mut self.gateways {
            let scarce = wanting.iter().any(|other| other != id);
            let news = std::mem::replace(&mut gateway.scarce, scarce) != scarce;
            if std::mem::take(&mut gateway.unsure) || news {
                told.push((*id, scarce));
            }
        }
        told
    }

    /// Slots that are dealt with: of an instance that is not open yet, those that are in use.
    fn capacity(&self) -> u32 {
        let of =
            |entry: &Instance| entry.limit.map_or(0, |limit| entry.outstanding().min(limit)) + entry.free();
        self.instances.values().filter(|entry| entry.counts()).map(of).sum()
    }

    /// Asks back what is more than there is: gateways that come from elsewhere may have it.
    fn shrink(&mut self) {
        for entry in self.instances.values_mut().filter(|entry| entry.counts()) {
            let granted: u32 = entry.parts.values().map(|part| part.granted).sum();
            for _ in entry.limit.unwrap_or(granted)..granted {
                let parts = entry.parts.values_mut().filter(|part| part.granted > 0);
                if let Some(part) = parts.max_by_key(|part| part.idle()) {
                    part.granted -= 1;
                }
            }
        }
    }

    fn claims(&mut self, now: Instant, ids: &[GatewayId]) -> Vec<Claim> {
        let mut claims = Vec::new();
        for id in ids {
            let (mut held, mut elsewhere) = (0, 0);
            for entry in self.instances.values() {
                let Some(part) = entry.parts.get(id) else { continue };
                if entry.counts() { held += part.granted } else { elsewhere += part.calls }
            }
            let Some(gateway) = self.gateways.get_mut(id) else { continue };
            // Calls on instances that are to go need no slots here.
            let demand = gateway.waiting + gateway.in_flight.saturating_sub(elsewhere);
            gateway.without =
                if gateway.waiting > 0 && held == 0 { gateway.without.or(Some(now)) } else { None };
            let starved = gateway.without.is_some_and(|since| now.saturating_duration_since(since) >= TURN);
            claims.push(Claim { demand, held, starved });
        }
        claims
    }

    /// Gives what is free, one slot after the other, and each from the instance with the most. Returns who did not get all.
    fn deal(&mut self, mut due: Vec<(GatewayId, u32)>) -> Vec<(GatewayId, u32)> {
        let mut free: BTreeMap<InstanceId, u32> = self
            .instances
            .iter()
            .map(|(id, entry)| (id.clone(), entry.free()))
            .filter(|(_, free)| *free > 0)
            .collect();
        for (gateway, missing) in &mut due {
            self.keep(*gateway, missing);
        }
        loop {
            let mut gave = false;
            for (gateway, missing) in due.iter_mut().filter(|(_, missing)| *missing > 0) {
                let open = free.iter_mut().filter(|(id, free)| {
                    let barred = self.instances.get(*id).is_some_and(|entry| entry.barred.contains(gateway));
                    **free > 0 && !barred
                });
                let Some((id, left)) = open.max_by_key(|(_, free)| **free) else { continue };
                let Some(entry) = self.instances.get_mut(id) else { continue };
                let part = entry.parts.entry(*gateway).or_default();
                part.granted += 1;
                part.outstanding += 1;
                *left -= 1;
                *missing -= 1;
                gave = true;
            }
            if !gave {
                due.retain(|(_, missing)| *missing > 0);
                return due;
            }
        }
    }

    /// What a gateway was asked for and has not let go, it may have again.
    fn keep(&mut self, gateway: GatewayId, missing: &mut u32) {
        for entry in self.instances.values_mut().filter(|entry| entry.counts()) {
            let granted: u32 = entry.parts.values().map(|part| part.granted).sum();
            let room = entry.limit.unwrap_or(0).saturating_sub(granted);
            let Some(part) = entry.parts.get_mut(&gateway) else { continue };
            let back = (part.outstanding - part.granted).min(*missing).min(room);
            part.granted += back;
            *missing -= back;
        }
    }

    /// Asks `wanted` slots back, less those that are on their way, from those that have too many: first from whoever has the most of
    /// these, and there where the fewest of its calls run.
    fn take(&mut self, mut over: Vec<(GatewayId, u32)>, wanted: u32, by: &[GatewayId]) {
        let usable = |entry: &Instance| entry.counts() && by.iter().any(|id| !entry.barred.contains(id));
        let coming =
            self.instances.values().filter(|entry| usable(entry)).flat_map(|entry| entry.parts.values());
        for _ in coming.map(|part| part.outstanding - part.granted).sum()..wanted {
            let most = over.iter_mut().filter(|(_, over)| *over > 0).max_by_key(|(_, over)| *over);
            let Some((gateway, over)) = most else { return };
            let parts = self.instances.values_mut().filter(|entry| usable(entry));
            let parts =
                parts.filter_map(|entry| entry.parts.get_mut(gateway)).filter(|part| part.granted > 0);
            match parts.max_by_key(|part| part.idle()) {
                Some(part) => {
                    part.granted -= 1;
                    *over -= 1;
                }
                // What it has too much is of no use to who needs it.
                None => *over = 0,
            }
        }
    }

    fn tell(&mut self, serial: &mut u64) -> Vec<Told> {
        let mut told = Vec::new();
        for (id, entry) in self.instances.iter_mut().filter(|(_, entry)| entry.counts()) {
            let of = entry.limit.unwrap_or(0);
            for (gateway, part) in &mut entry.parts {
                let knows = Knows::Slots(part.granted);
                if part.told == knows {
                    continue;
                }
                *serial += 1;
                let anew = std::mem::replace(&mut part.told, knows) == Knows::Nothing;
                (part.serial, part.draining) = (*serial, false);
                let (gateway, instance, slots) = (*gateway, id.clone(), part.granted);
                told.push(Told { gateway, instance, slots, of, serial: *serial, anew });
            }
        }
        told
    }

    /// Instances that no gateway knows, and the scaler neither.
    fn forget_unknown(&mut self) {
        self.instances.retain(|_, entry| entry.limit.is_some() || !entry.parts.is_empty());
    }

    /// Slots that gateways may be using, for each instance that the scaler has granted; and how many it has.
    #[cfg(test)]
    pub(crate) fn used(&self) -> impl Iterator<Item = (&InstanceId, u32, u32)> {
        self.instances.iter().filter_map(|(id, entry)| Some((id, entry.outstanding(), entry.limit?)))
    }
}
