//! Revisions that are being taken away: begun by a step, and over when nothing of them is left. That takes as long as the calls that they run;
//! whatever else there is to do for their Function is done meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::super::plan::Number;
use super::Task;

/// Those that are not over, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Removals(BTreeMap<Number, oneshot::Receiver<()>>);

impl Removals {
    pub(super) fn numbers(&self) -> BTreeSet<Number> {
        self.0.keys().copied().collect()
    }

    /// The Revision is wanted again.
    pub(super) fn forget(&mut self, number: Number) {
        self.0.remove(&number);
    }

    /// Forgets those that are over. One that nothing is heard of any more is: an autoscaler that has ended has taken its instances away.
    fn hear(&mut self) {
        self.0.retain(|_, over| over.try_recv() == Err(TryRecvError::Empty));
    }

    /// Waits until one is over; for ever, when there is none.
    ///
    /// # Cancel safety
    /// It can be dropped and called again; which are over is forgotten with the call that ends.
    pub(super) async fn any_over(&mut self) {
        poll_fn(|context| {
            let before = self.0.len();
            self.0.retain(|_, over| Pin::new(over).poll(context).is_pending());
            if self.0.len() < before { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Task {
    pub(super) async fn begin_removal(&mut self, number: Number) {
        // An autoscaler that has ended has taken its instances away: there is nothing to hear of.
        if let Ok(over) = self.shared.parts.autoscaler.begin_removal(self.revision_id(number)).await {
            self.memory.removals.0.insert(number, over);
        }
        self.memory.targets.remove(&number);
        self.end_trial(number);
    }

    /// What has come of removals since the last look.
    pub(super) fn hear_of_removals(&mut self) {
        self.memory.removals.hear();
    }

    /// Waits for one that is not over, if there is any.
    pub(super) async fn await_removal(&mut self) -> bool {
        let is_any = !self.memory.removals.0.is_empty();
        if is_any {
            // Nobody waits for it.
            self.settle();
            self.memory.removals.any_over().await;
        }
        is_any
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn each_is_heard_of_once_whether_it_is_answered_or_given_up() {
        let mut removals = Removals::default();
        assert_eq!(removals.any_over().now_or_never(), None, "there is none");
        let (first, over) = oneshot::channel();
        removals.0.insert(1, over);
        let (second, over) = oneshot::channel::<()>();
        removals.0.insert(2, over);
        assert_eq!(removals.any_over().now_or_never(), None);
        first.send(()).unwrap();
        removals.any_over().await;
        assert_eq!((removals.numbers(), removals.any_over().now_or_never()), (BTreeSet::from([2]), None));
        drop(second);
        removals.hear();
        assert_eq!(removals.numbers(), BTreeSet::new());
    }
}
