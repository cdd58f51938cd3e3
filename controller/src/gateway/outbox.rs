//! Messages to the scaler, from any thread, without waiting.
//!
//! They go straight into the channel. While it is full they are held here, in order, and the control thread sends them on. What is held is
//! bounded: of each Revision there is one wish for capacity, the newest, and one report of its load, over all the time that it was held; of
//! each instance what is held of its slots, the newest; everything else is said at most once for each instance. Beyond [`MOST_HELD`] messages, reports of further Revisions are dropped and counted.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use hearth_dispatch::ToScaler;
use hearth_function::{InstanceId, RevisionId};
use tokio::sync::{Notify, mpsc};

use crate::telemetry::metrics::Counter;

/// Messages held beyond which no further report is taken: thousands of Revisions, some megabytes.
const MOST_HELD: usize = 8192;

/// See the module's page.
#[derive(Debug)]
pub(super) struct Outbox {
    channel: mpsc::Sender<ToScaler>,
    held: Mutex<Held>,
    /// Something is held.
    filled: Notify,
    dropped: Counter,
}

#[derive(Debug, Default)]
struct Held {
    messages: VecDeque<ToScaler>,
    /// How many have left already: the place of a message is its number less this.
    left: usize,
    /// The numbers of those that a newer message is merged into.
    newest: HashMap<Subject, usize>,
}

/// What there is one message of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Subject {
    Wanted(RevisionId),
    Load(RevisionId),
    Holds(InstanceId),
}

impl Subject {
    fn of(message: &ToScaler) -> Option<Self> {
        match message {
            ToScaler::CapacityWanted { revision, .. } => Some(Self::Wanted(revision.clone())),
            ToScaler::Load(report) => Some(Self::Load(report.revision.clone())),
            ToScaler::Holds { instance, .. } => Some(Self::Holds(instance.clone())),
            _ => None,
        }
    }
}

impl Held {
    /// Holds `message`, or gives it back when there is no room for it.
    fn put(&mut self, message: ToScaler) -> Result<(), ToScaler> {
        let subject = Subject::of(&message);
        let older = subject.as_ref().and_then(|subject| self.newest.get(subject));
        if let Some(older) = older.and_then(|number| self.messages.get_mut(number - self.left)) {
            match (older, message) {
                (ToScaler::Load(older), ToScaler::Load(newer)) => older.merge(newer),
                (older, newer) => *older = newer,
            }
            return Ok(());
        }
        if self.messages.len() >= MOST_HELD && matches!(message, ToScaler::Load(_)) {
            return Err(message);
        }
        if let Some(subject) = subject {
            self.newest.insert(subject, self.left + self.messages.len());
        }
        self.messages.push_back(message);
        Ok(())
    }

    fn take(&mut self) -> Option<ToScaler> {
        let message = self.messages.pop_front()?;
        self.left += 1;
        if let Some(subject) = Subject::of(&message) {
            self.newest.remove(&subject);
        }
        Some(message)
    }
}

impl Outbox {
    /// `dropped` counts what found no room.
    pub(super) fn new(channel: mpsc::Sender<ToScaler>, dropped: Counter) -> Self {
        Self { channel, held: Mutex::default(), filled: Notify::new(), dropped }
    }

    /// Sends `message`, or holds it until there is room. A scaler that has ended hears nothing more.
    pub(super) fn tell(&self, message: ToScaler) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let message = if held.messages.is_empty() {
            match self.channel.try_send(message) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
                Err(mpsc::error::TrySendError::Full(message)) => message,
            }
        } else {
            message
        };
        if held.put(message).is_err() {
            self.dropped.inc();
        }
        drop(held);
        self.filled.notify_one();
    }

    /// Sends what is held, for ever.
    ///
    /// # Cancel safety
    /// A message that waits for room when the future is dropped is lost; it is dropped only with the gateway.
    pub(super) async fn run(&self) {
        loop {
            // Only when there is room, so that what comes until then is merged and not queued behind it.
            let Ok(room) = self.channel.reserve().await else { return };
            let next = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
            match next {
                Some(message) => room.send(message),
                None => {
                    drop(room);
                    self.filled.notified().await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hearth_dispatch::LoadReport;

    use super::*;

    fn dropped() -> Counter {
        Counter::new("dropped", "dropped").unwrap()
    }

    fn wanted(waiting: u32) -> ToScaler {
        let revision = RevisionId::parse("default/a-00001").unwrap();
        ToScaler::CapacityWanted { revision, waiting, in_flight: 0 }
    }

    fn drained() -> ToScaler {
        ToScaler::Drained { instance: InstanceId::parse("i1").unwrap() }
    }

    fn load(revision: usize, arrived: u64) -> ToScaler {
        ToScaler::Load(LoadReport {
            revision: RevisionId::parse(&format!("default/a-{revision:05}")).unwrap(),
            in_flight: 0,
            waiting: 0,
            over: Duration::from_millis(200),
            average_concurrency: 0.0,
            busy: Vec::new(),
            completed: 0,
            arrived,
            service_time: Duration::ZERO,
            refused: 0,
        })
    }

    /// The next `count` messages that the scaler gets.
    async fn get(outbox: &Outbox, receiver: &mut mpsc::Receiver<ToScaler>, count: usize) -> Vec<ToScaler> {
        let mut got = Vec::new();
        tokio::select! {
            () = outbox.run() => panic!("ends only with the scaler"),
            () = async { while got.len() < count { got.push(receiver.recv().await.unwrap()); } } => {}
        }
        got
    }

    #[tokio::test]
    async fn nothing_is_lost_while_the_channel_is_full() {
        let (sender, mut receiver) = mpsc::channel(1);
        let outbox = Outbox::new(sender, dropped());
        for message in [drained(), wanted(1), wanted(2), drained(), wanted(3)] {
            outbox.tell(message);
        }
        assert_eq!(get(&outbox, &mut receiver, 3).await, [drained(), wanted(3), drained()]);
    }

    #[tokio::test]
    async fn a_slow_scaler_gets_one_report_for_each_revision() {
        let (sender, mut receiver) = mpsc::channel(1);
        let outbox = Outbox::new(sender, dropped());
        for message in [load(1, 1), load(1, 2), load(2, 7), load(1, 3), drained()] {
            outbox.tell(message);
        }
        let got = get(&outbox, &mut receiver, 4).await;
        let arrived = |message: &ToScaler| match message {
            ToScaler::Load(report) => (report.arrived, report.over),
            other => panic!("{other:?}"),
        };
        let tick = Duration::from_millis(200);
        assert_eq!(got[..3].iter().map(arrived).collect::<Vec<_>>(), [(1, tick), (5, 2 * tick), (7, tick)]);
        assert_eq!(got[3], drained());
        // What was sent is not merged into any more.
        outbox.tell(load(1, 4));
        assert_eq!(get(&outbox, &mut receiver, 1).await, [load(1, 4)]);
    }

    #[tokio::test]
    async fn what_is_held_is_bounded_and_only_reports_are_dropped() {
        let (sender, mut receiver) = mpsc::channel(1);
        let outbox = Outbox::new(sender, dropped());
        for revision in 0..MOST_HELD + 3 {
            outbox.tell(load(revision + 1, 1));
        }
        assert_eq!(outbox.dropped.get(), 2, "one is in the channel");
        outbox.tell(drained());
        let got = get(&outbox, &mut receiver, MOST_HELD + 2).await;
        assert_eq!(got.last(), Some(&drained()));
    }
}
