//! The gateway's threads, their start and their end; and the control thread: the scaler's messages in, load and wishes for capacity out.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use hearth_dispatch::ToGateway;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, LocalSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::config::Config;
use super::lane::{Lane, Shared};
use super::outbox::Outbox;
use super::revisions::{GROWTH_DELAY, Revisions, TICK};
use super::stats::Stats;
use super::{Channels, Error, Handle, listener};
use crate::telemetry::metrics::Registry;

/// The gateway's threads.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) shared: Arc<Shared>,
    lanes: Vec<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.leaving.cancel();
        self.shared.drain.cancel();
        self.shared.cut.cancel();
    }
}

impl Threads {
    /// See [`Handle::leave`].
    pub(super) fn leave(&self) {
        self.shared.leaving.cancel();
    }

    /// Drains, then cuts. Returns how many connections were cut, those among them that still waited for a place.
    pub(super) async fn shutdown(mut self, grace: Duration) -> usize {
        let connections = self.shared.config.limits.connections;
        let open = || connections.saturating_sub(self.shared.connections.available_permits());
        self.leave();
        self.shared.drain.cancel();
        self.shared.listeners.close();
        let permits = u32::try_from(connections).unwrap_or(u32::MAX);
        let all = async {
            // Who asks for a place after this would never get one: first everybody has one who waits for it.
            self.shared.listeners.wait().await;
            self.shared.connections.acquire_many(permits).await
        };
        let all = tokio::time::timeout(grace, all).await;
        let cut = if all.is_ok() { 0 } else { open() + self.shared.unplaced.load(Ordering::Relaxed) };
        drop(all);
        self.shared.cut.cancel();
        for thread in self.lanes.drain(..).chain(self.control.take()) {
            join(thread).await;
        }
        cut
    }
}

/// Waits for a thread without blocking the runtime. A panic of it was reported when it happened.
async fn join(thread: JoinHandle<()>) {
    drop(tokio::task::spawn_blocking(move || drop(thread.join())).await);
}

/// See [`super::Gateway::start`].
pub(super) fn start(config: Config, channels: Channels, metrics: &Registry) -> Result<Handle, Error> {
    let Channels { to_scaler, from_scaler, calls, freezer, strain } = channels;
    let stats = Arc::new(Stats::new(metrics));
    let outbox = Arc::new(Outbox::new(to_scaler, stats.messages_dropped.clone()));
    let queue_length = config.limits.queue_length;
    let revisions = Arc::new(Revisions::new(queue_length, Arc::clone(&outbox), Arc::clone(&stats), freezer));
    let (addresses, mut listeners) = listen(&config)?;
    let connections = config.limits.connections.min(Semaphore::MAX_PERMITS);
    let shared = Arc::new(Shared {
        config,
        revisions: Arc::clone(&revisions),
        stats,
        calls,
        strain,
        connections: Arc::new(Semaphore::new(connections)),
        listeners: TaskTracker::new(),
        unplaced: AtomicUsize::new(0),
        leaving: CancellationToken::new(),
        drain: CancellationToken::new(),
        cut: CancellationToken::new(),
    });
    // From here on, an error drops this, which ends the threads that run already.
    let mut threads = Threads { shared: Arc::clone(&shared), lanes: Vec::new(), control: None };
    for (number, sockets) in listeners.drain(..).enumerate() {
        let shared = Arc::clone(&shared);
        let sockets: Vec<_> = sockets.into_iter().map(|socket| (socket, shared.listeners.token())).collect();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Thread)?;
        let thread = std::thread::Builder::new()
            .name(format!("gateway-{number}"))
            .spawn(move || runtime.block_on(lane(shared, sockets)))
            .map_err(Error::Thread)?;
        threads.lanes.push(thread);
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(Error::Thread)?;
    let cut = shared.cut.clone();
    let control = std::thread::Builder::new()
        .name("gateway-control".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = cut.cancelled() => {}
                    () = outbox.run() => {}
                    () = run(&shared.revisions, from_scaler) => {}
                    () = tell_growth(&shared.revisions) => {}
                }
            });
        })
        .map_err(Error::Thread)?;
    threads.control = Some(control);
    Ok(Handle { revisions, addresses, threads })
}

/// The listeners of each thread, and the addresses they share.
fn listen(config: &Config) -> Result<(Vec<SocketAddr>, Vec<Vec<std::net::TcpListener>>), Error> {
    let mut addresses: Vec<(SocketAddr, bool)> =
        config.listen.iter().map(|&address| (address, false)).collect();
    addresses.extend(config.bridge.map(|address| (address, true)));
    let mut threads = Vec::new();
    for _ in 0..config.threads.get() {
        let mut sockets = Vec::new();
        for (address, free_bind) in &mut addresses {
            let failed = |source| Error::Listen { address: *address, source };
            let socket = listener::listen(*address, *free_bind).map_err(failed)?;
            // A port that was left open is the same for the next thread.
            *address = socket.local_addr().map_err(failed)?;
            sockets.push(socket);
        }
        threads.push(sockets);
    }
    Ok((addresses.into_iter().map(|(address, _)| address).collect(), threads))
}

/// A socket that listens, and the word that it may still bring connections.
type Listening = (std::net::TcpListener, TaskTrackerToken);

/// A gateway thread, until all its connections have ended or are cut.
async fn lane(shared: Arc<Shared>, sockets: Vec<Listening>) {
    let lane = Lane::new(shared);
    let tasks = LocalSet::new();
    tasks.run_until(serve(&lane, sockets)).await;
    // Calls that were cut say so as their tasks are dropped: their records are the last.
    drop(tasks);
    lane.flush_records();
}

async fn serve(lane: &Rc<Lane>, sockets: Vec<Listening>) {
    let mut accepting = JoinSet::new();
    for (socket, token) in sockets {
        match TcpListener::from_std(socket) {
            Ok(listener) => {
                let lane = Rc::clone(lane);
                accepting.spawn_local(async move {
                    listener::accept(lane, listener).await;
                    drop(token);
                });
            }
            Err(error) => tracing::error!(%error, "a listener of the gateway cannot be used"),
        }
    }
    tokio::select! {
        () = lane.shared.cut.cancelled() => {}
        () = lane.run_records() => {}
    }
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
