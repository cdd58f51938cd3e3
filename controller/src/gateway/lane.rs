//! What the tasks of one gateway thread share, beside what all threads share.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use hearth_function::{FunctionId, InstanceId};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::config::Config;
use super::forward::attach::Pool;
use super::forward::frames::Peer;
use super::revisions::{Instance, Revision, Revisions};
use super::stats::Stats;
use crate::pool::Strain;
use crate::telemetry::logs::{CallRecord, Calls};

/// What all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) revisions: Arc<Revisions>,
    pub(super) stats: Arc<Stats>,
    pub(super) calls: mpsc::Sender<Calls>,
    pub(super) strain: Option<Strain>,
    /// One permit for each client connection.
    pub(super) connections: Arc<Semaphore>,
    /// A token for each listener that may still bring connections.
    pub(super) listeners: TaskTracker,
    /// Connections that were taken from listeners which have closed, and have no place yet.
    pub(super) unplaced: AtomicUsize,
    /// The end is near: whoever is answered is told to go on elsewhere.
    pub(super) leaving: CancellationToken,
    /// No new connections, and those that are there end with the request that runs or comes now.
    pub(super) drain: CancellationToken,
    /// The end, whatever runs.
    pub(super) cut: CancellationToken,
}

/// How late a record may be.
const RECORDS_DELAY: Duration = Duration::from_millis(50);

/// Bytes of records in a batch: a batch is sent early when it has so many. Some 200 calls.
const RECORDS_BYTES: usize = 64 << 10;

/// What the tasks of one thread share.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    /// Owns every task of the thread.
    pub(super) tasks: TaskTracker,
    peers: RefCell<HashMap<InstanceId, Rc<Peer>>>,
    pools: RefCell<HashMap<InstanceId, Rc<Pool>>>,
    records: RefCell<Calls>,
    recorded: Notify,
    ids: Cell<u64>,
    salt: u64,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let random = || getrandom::u64().expect("the kernel gives random bytes");
        Rc::new(Self {
            shared,
            tasks: TaskTracker::new(),
            peers: RefCell::default(),
            pools: RefCell::default(),
            records: RefCell::default(),
            recorded: Notify::new(),
            ids: Cell::new(random()),
            salt: random(),
        })
    }

    /// The thread's connection to an instance, made when there is none.
    pub(super) fn peer(self: &Rc<Self>, instance: &Arc<Instance>, revision: &Arc<Revision>) -> Rc<Peer> {
        let id = &instance.endpoint.instance;
        if let Some(peer) = self.peers.borrow().get(id).filter(|peer| !peer.has_ended()) {
            return Rc::clone(peer);
        }
        let limits = self.shared.config.forwarding.clone();
        let peer = Peer::new(Arc::clone(instance), Arc::clone(revision), limits);
        self.peers.borrow_mut().insert(id.clone(), Rc::clone(&peer));
        let (lane, driven, id) = (Rc::clone(self), Rc::clone(&peer), id.clone());
        self.tasks.spawn_local(async move {
            Rc::clone(&driven).drive().await;
            let mut peers = lane.peers.borrow_mut();
            if peers.get(&id).is_some_and(|known| Rc::ptr_eq(known, &driven)) {
                peers.remove(&id);
            }
        });
        peer
    }

    /// The thread's dedicated connections to an instance.
    pub(super) fn pool(self: &Rc<Self>, instance: &Arc<Instance>) -> Rc<Pool> {
        let id = &instance.endpoint.instance;
        if let Some(pool) = self.pools.borrow().get(id) {
            return Rc::clone(pool);
        }
        let pool = Rc::new(Pool::new(Arc::clone(instance), self.shared.config.forwarding.clone()));
        self.pools.borrow_mut().insert(id.clone(), Rc::clone(&pool));
        let (lane, instance) = (Rc::clone(self), Arc::clone(instance));
        self.tasks.spawn_local(async move {
            // Idle connections go with the instance; those in use end by themselves.
            tokio::select! {
                () = instance.revoked.cancelled() => {}
                () = instance.gone.cancelled() => {}
            }
            lane.pools.borrow_mut().remove(&instance.endpoint.instance);
        });
        pool
    }

    /// A request id: 32 hex digits, unique for ever for all that matters.
    pub(super) fn request_id(&self) -> Bytes {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let count = self.ids.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.ids.set(count);
        // SplitMix64: neighbours look unrelated, and no two counts give the same.
        let mix = |mut z: u64| {
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let mut text = [0; 32];
        let bytes = mix(count).to_be_bytes().into_iter().chain(mix(count ^ self.salt).to_be_bytes());
        for (byte, pair) in bytes.zip(text.chunks_exact_mut(2)) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        Bytes::copy_from_slice(&text)
    }

    /// Takes a record for the logs.
    pub(super) fn record(&self, function: &FunctionId, record: &CallRecord<&str>) {
        let mut records = self.records.borrow_mut();
        records.push(function, record);
        if records.count() == 1 {
            self.recorded.notify_one();
        }
        if records.size() >= RECORDS_BYTES {
            drop(records);
            self.flush_records();
        }
    }

    pub(super) fn flush_records(&self) {
        let records = self.records.take();
        if records.count() == 0 {
            return;
        }
        if let Err(mpsc::error::TrySendError::Full(records) | mpsc::error::TrySendError::Closed(records)) =
            self.shared.calls.try_send(records)
        {
            self.shared.stats.records_dropped.inc_by(records.count());
        }
    }

    /// Hands over records in batches, for ever.
    pub(super) async fn run_records(&self) {
        loop {
            self.recorded.notified().await;
            tokio::time::sleep(RECORDS_DELAY).await;
            self.flush_records();
        }
    }
}
