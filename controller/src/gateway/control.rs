//! The control thread: the scaler's messages in, load and wishes for capacity out. And the end of all threads.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hearth_dispatch::ToGateway;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::outbox::Outbox;
use super::revisions::{GROWTH_DELAY, Revisions, TICK};
use super::{Channels, Error, Handle};

/// The gateway's threads.
#[derive(Debug)]
pub(super) struct Threads {
    stop: CancellationToken,
    control: Option<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Threads {
    pub(super) async fn shutdown(mut self, _grace: Duration) -> usize {
        self.stop.cancel();
        if let Some(control) = self.control.take() {
            join(control).await;
        }
        0
    }
}

/// Waits for a thread without blocking the runtime. A panic of it was reported when it happened.
async fn join(thread: JoinHandle<()>) {
    drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
}

pub(super) fn start(config: Config, channels: Channels) -> Result<Handle, Error> {
    let Channels { to_scaler, from_scaler, calls: _ } = channels;
    let outbox = Arc::new(Outbox::new(to_scaler));
    let shared = Arc::new(Revisions::new(config.limits.queue_length, Arc::clone(&outbox)));
    let stop = CancellationToken::new();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(Error::Thread)?;
    let (parts, until) = (Arc::clone(&shared), stop.clone());
    let control = std::thread::Builder::new()
        .name("gateway-control".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = until.cancelled() => {}
                    () = outbox.run() => {}
                    () = run(&parts, from_scaler) => {}
                    () = tell_growth(&parts) => {}
                }
            });
        })
        .map_err(Error::Thread)?;
    Ok(Handle { shared, addresses: config.listen, threads: Threads { stop, control: Some(control) } })
}

/// Ends with the scaler.
async fn run(parts: &Revisions, mut messages: mpsc::Receiver<ToGateway>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => parts.on_message(message),
                None => return,
            },
            _ = tick.tick() => parts.report(),
        }
    }
}

/// Tells the scaler of queues that have grown, for ever; apart from [`run`], which must not wait.
async fn tell_growth(parts: &Revisions) {
    loop {
        parts.growth.some.notified().await;
        tokio::time::sleep(GROWTH_DELAY).await;
        for revision in parts.growth.take() {
            revision.tell_wanted();
        }
    }
}
