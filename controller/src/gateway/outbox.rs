//! Messages to the scaler, from any thread, without waiting.
//!
//! They go straight into the channel. While it is full they are held here, in order, and the control thread sends them on; wishes for
//! capacity of one Revision are merged, and everything else is said at most once for each instance, so what is held is bounded.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use hearth_dispatch::ToScaler;
use tokio::sync::{Notify, mpsc};

/// See the module's page.
#[derive(Debug)]
pub(super) struct Outbox {
    channel: mpsc::Sender<ToScaler>,
    held: Mutex<VecDeque<ToScaler>>,
    /// Something is held.
    filled: Notify,
}

impl Outbox {
    pub(super) fn new(channel: mpsc::Sender<ToScaler>) -> Self {
        Self { channel, held: Mutex::default(), filled: Notify::new() }
    }

    /// Sends `message`, or holds it until there is room. A scaler that has ended hears nothing more.
    pub(super) fn tell(&self, message: ToScaler) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let message = if held.is_empty() {
            match self.channel.try_send(message) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
                Err(mpsc::error::TrySendError::Full(message)) => message,
            }
        } else {
            message
        };
        match subject(&message).and_then(|of| held.iter_mut().find(|other| subject(other) == Some(of))) {
            Some(older) => *older = message,
            None => held.push_back(message),
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
            let next = self.held.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match next {
                Some(message) => {
                    if self.channel.send(message).await.is_err() {
                        return;
                    }
                }
                None => self.filled.notified().await,
            }
        }
    }
}

/// Of which Revision this is the newest word, which makes older ones worthless.
fn subject(message: &ToScaler) -> Option<&hearth_function::RevisionId> {
    match message {
        ToScaler::CapacityWanted { revision, .. } => Some(revision),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hearth_function::{InstanceId, RevisionId};

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_while_the_channel_is_full() {
        let (sender, mut receiver) = mpsc::channel(1);
        let outbox = Outbox::new(sender);
        let wanted = |waiting| ToScaler::CapacityWanted {
            revision: RevisionId::parse("default/a-00001").unwrap(),
            waiting,
            in_flight: 0,
        };
        let drained = || ToScaler::Drained { instance: InstanceId::parse("i1").unwrap() };
        for message in [drained(), wanted(1), wanted(2), drained(), wanted(3)] {
            outbox.tell(message);
        }
        let mut got = Vec::new();
        tokio::select! {
            () = outbox.run() => panic!("ends only with the scaler"),
            () = async { while got.len() < 3 { got.push(receiver.recv().await.unwrap()); } } => {}
        }
        assert_eq!(got, [drained(), wanted(3), drained()]);
    }
}
