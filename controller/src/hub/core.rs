//! The one task that owns the merge, and carries out what it says.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use hearth_dispatch::{GatewayId, Merge, Out, Resume, ToGateway, ToScaler};
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Stats;

/// What gateways say that waits for the core; their connections wait then.
const EVENTS: usize = 1024;

/// What a gateway is told that it has not read; it is cut off then. With ten thousand instances a change of leader is twenty thousand.
pub(super) const TOLD: usize = 1 << 16;

/// How often it is looked whether somebody's turn has come.
const TICK: Duration = Duration::from_millis(25);

/// Ticks between two reports of the load, which gateways send as often.
const TICKS_PER_REPORT: u32 = 8;

/// From the connections.
#[derive(Debug)]
pub(super) enum Event {
    Came { gateway: GatewayId, name: String, resume: Resume, to: mpsc::Sender<ToGateway> },
    Said { gateway: GatewayId, message: ToScaler },
    Left { gateway: GatewayId },
}

#[derive(Debug)]
struct Gateway {
    name: String,
    /// Dropping it ends the connection.
    to: mpsc::Sender<ToGateway>,
}

/// See the module's page.
#[derive(Debug)]
pub(super) struct Core {
    merge: Merge,
    gateways: BTreeMap<GatewayId, Gateway>,
    events: mpsc::Receiver<Event>,
    from_scaler: mpsc::Receiver<ToGateway>,
    to_scaler: mpsc::Sender<ToScaler>,
    /// What found no room in the channel: of each Revision one wish and one report, and else a few messages for each instance.
    held: VecDeque<ToScaler>,
    stats: Stats,
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl Core {
    pub(super) fn new(
        settle: Duration,
        from_scaler: mpsc::Receiver<ToGateway>,
        to_scaler: mpsc::Sender<ToScaler>,
        stats: Stats,
    ) -> (Self, mpsc::Sender<Event>) {
        let (sender, events) = mpsc::channel(EVENTS);
        // Larger than any number of an earlier hub, which counted on by less than one for each microsecond.
        let first = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or_default();
        let core = Self {
            merge: Merge::new(now(), settle, first),
            gateways: BTreeMap::new(),
            events,
            from_scaler,
            to_scaler,
            held: VecDeque::new(),
            stats,
        };
        (core, sender)
    }

    /// Ends with the autoscaler.
    pub(super) async fn run(mut self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks = 0;
        let to_scaler = self.to_scaler.clone();
        loop {
            let mut out = Out::default();
            // All arms are cancel-safe. Biased: what the autoscaler says is fewest, and what gateways say comes in bursts.
            tokio::select! {
                biased;
                place = to_scaler.reserve(), if !self.held.is_empty() => {
                    let Ok(place) = place else { return };
                    if let Some(message) = self.held.pop_front() {
                        place.send(message);
                    }
                    continue;
                }
                message = self.from_scaler.recv() => {
                    let Some(message) = message else { return };
                    self.merge.on_scaler(now(), message, &mut out);
                }
                _ = tick.tick() => {
                    self.merge.on_tick(now(), &mut out);
                    ticks = (ticks + 1) % TICKS_PER_REPORT;
                    // A slow autoscaler gets fewer reports, over longer times.
                    if ticks == 0 && self.held.is_empty() {
                        out.up.extend(self.merge.take_loads());
                    }
                }
                event = self.events.recv() => {
                    let Some(event) = event else { return };
                    self.happens(event, &mut out);
                }
            }
            self.carry_out(out);
        }
    }

    fn happens(&mut self, event: Event, out: &mut Out) {
        match event {
            Event::Came { gateway, name, resume, to } => {
                self.merge.join(now(), gateway, &name, resume, out);
                self.gateways.insert(gateway, Gateway { name, to });
            }
            Event::Said { gateway, message } if self.gateways.contains_key(&gateway) => {
                self.merge.on_gateway(now(), gateway, message, out);
            }
            // It was cut off.
            Event::Said { .. } => {}
            Event::Left { gateway } => self.leave(gateway, out),
        }
        self.count();
    }

    fn leave(&mut self, gateway: GatewayId, out: &mut Out) {
        if self.gateways.remove(&gateway).is_some() {
            self.merge.leave(now(), gateway, out);
        }
    }

    fn count(&self) {
        self.stats.gateways.set(i64::try_from(self.gateways.len()).unwrap_or(i64::MAX));
    }

    fn carry_out(&mut self, mut out: Out) {
        // Who is cut off leaves something to the others, who are told then.
        while !out.down.is_empty() || !out.up.is_empty() {
            let mut next = Out::default();
            for (gateway, message) in out.down {
                let Some(Gateway { to, name }) = self.gateways.get(&gateway) else { continue };
                if to.try_send(message).is_err() {
                    tracing::warn!(gateway = name, "gateway cut off: it does not read what it is told");
                    self.stats.cut.inc();
                    self.leave(gateway, &mut next);
                    self.count();
                }
            }
            out.up.into_iter().for_each(|message| self.hold(message));
            out = next;
        }
    }

    fn hold(&mut self, message: ToScaler) {
        if let ToScaler::CapacityWanted { revision, .. } = &message {
            let same = |held: &&mut ToScaler| matches!(held, ToScaler::CapacityWanted { revision: other, .. } if other == revision);
            if let Some(held) = self.held.iter_mut().find(same) {
                *held = message;
                return;
            }
        }
        self.held.push_back(message);
    }
}
