//! The ends of instances, on their way to the one who wants to know.

use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use super::Ended;

/// Ends that nobody has taken yet. The tasks that tell of them wait when it is full.
const ENDS: usize = 256;

/// The receiving end, until somebody takes it.
#[derive(Debug)]
pub(super) struct Ends(Mutex<Option<mpsc::Receiver<Ended>>>);

impl Ends {
    /// The way that ends go, with the usual room.
    pub(super) fn channel() -> (mpsc::Sender<Ended>, Self) {
        Self::with_room(ENDS)
    }

    /// The same with room for so many.
    pub(super) fn with_room(room: usize) -> (mpsc::Sender<Ended>, Self) {
        let (sender, receiver) = mpsc::channel(room);
        (sender, Self(Mutex::new(Some(receiver))))
    }

    /// See [`super::Backend::exits`]. A second subscriber gets a channel that is closed: one, once.
    pub(super) fn take(&self) -> mpsc::Receiver<Ended> {
        let receiver = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        receiver.unwrap_or_else(|| mpsc::channel(1).1)
    }
}
