//! An instance in the books: what it was started as, where it listens, how it ended.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hearth_function::InstanceId;
use hearth_protocol::Exit;
use hearth_protocol::report::Mount;
use tokio::sync::{mpsc, oneshot, watch};

use super::blobs::Blob;
use super::results::Intake;
use super::whereabouts::Whereabouts;
use super::why::Obstacle;
use crate::backend::InstanceSpec;
use crate::backend::code_place::CodePlace;

/// Orders that wait for a shim; more than one at a time nobody gives.
const ORDERS: usize = 4;

/// Where an instance listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) invoke: SocketAddr,
    pub(super) control: SocketAddr,
}

impl Reported {
    pub(super) fn at(address: IpAddr, invoke: u16, control: u16) -> Self {
        Self { invoke: SocketAddr::new(address, invoke), control: SocketAddr::new(address, control) }
    }
}

/// Something that a running shim is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Unpack this.
    Mount { mounts: Vec<Mount>, reply: oneshot::Sender<Result<(), String>> },
    /// End, as by SIGTERM.
    End,
}

/// One instance.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) namespace: String,
    /// Changes when a pooled one gets its function.
    pub(super) spec: Mutex<InstanceSpec>,
    pub(super) reported: watch::Sender<Option<Reported>>,
    /// From where the last report came that was believed: known before the shim is answered, which fetches at once then.
    pub(super) believed: Mutex<Option<IpAddr>>,
    /// Where its Pod is.
    pub(super) whereabouts: watch::Sender<Whereabouts>,
    /// Why somebody who reported was not believed to be it.
    pub(super) turned_away: OnceLock<String>,
    pub(super) obstacle: watch::Sender<Option<Obstacle>>,
    pub(super) end: watch::Sender<Option<Exit>>,
    /// Held while its Pod is being made.
    pub(super) making: Arc<tokio::sync::Mutex<()>>,
    /// Nothing of its Pod is left.
    pub(super) gone: watch::Sender<bool>,
    /// What it may fetch.
    pub(super) blobs: Mutex<Vec<Arc<Blob>>>,
    pub(super) code_place: CodePlace,
    /// By which its result comes, if it has one.
    pub(super) intake: Intake,
    /// How long its start took, where it was this process that started it.
    create: OnceLock<Duration>,
    /// The API server has said that it has a Pod.
    made: AtomicBool,
    /// Its start is over: from then on its end is told.
    started: AtomicBool,
    told: AtomicBool,
    /// Its Pod is being deleted, by us or by others.
    leaves: AtomicBool,
    orders: Mutex<Option<mpsc::Sender<Order>>>,
}

impl Instance {
    pub(super) fn new(spec: InstanceSpec, namespace: &str) -> Self {
        Self {
            id: spec.id.clone(),
            namespace: namespace.to_owned(),
            code_place: CodePlace::new(spec.code.is_some()),
            spec: Mutex::new(spec),
            reported: watch::Sender::new(None),
            believed: Mutex::default(),
            whereabouts: watch::Sender::default(),
            turned_away: OnceLock::new(),
            obstacle: watch::Sender::new(None),
            end: watch::Sender::new(None),
            making: Arc::default(),
            gone: watch::Sender::new(false),
            blobs: Mutex::default(),
            intake: Intake::new(),
            create: OnceLock::new(),
            made: AtomicBool::new(false),
            started: AtomicBool::new(false),
            told: AtomicBool::new(false),
            leaves: AtomicBool::new(false),
            orders: Mutex::new(None),
        }
    }

    pub(super) fn spec(&self) -> InstanceSpec {
        self.spec.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }

    pub(super) fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Whether it has a Pod, or had one.
    pub(super) fn is_made(&self) -> bool {
        self.made.load(Ordering::Acquire) || self.is_started()
    }

    /// The API server has its Pod.
    pub(super) fn was_made(&self) {
        self.made.store(true, Ordering::Release);
    }

    /// It is up, after so long. The first word counts.
    pub(super) fn took(&self, create: Duration) -> Duration {
        *self.create.get_or_init(|| create)
    }

    /// Its start is over.
    pub(super) fn start_is_over(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Notes how it ended; the first word counts.
    pub(super) fn note_end(&self, exit: Exit) {
        self.end.send_if_modified(|end| end.is_none() && end.insert(exit) == &exit);
    }

    /// Its end, if it is to be told now: once, and not before its start is over.
    pub(super) fn untold_end(&self) -> Option<Exit> {
        let exit = (*self.end.borrow())?;
        (self.is_started() && !self.told.swap(true, Ordering::AcqRel)).then_some(exit)
    }

    /// Its Pod is being deleted from now on; whether that is news.
    pub(super) fn leaves(&self) -> bool {
        !self.leaves.swap(true, Ordering::AcqRel)
    }

    /// What may be fetched from now on, too.
    pub(super) fn may_fetch(&self, blobs: impl IntoIterator<Item = Arc<Blob>>) {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner).extend(blobs);
    }

    pub(super) fn blob(&self, digest: &str) -> Option<Arc<Blob>> {
        let blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.iter().find(|blob| blob.digest == digest).cloned()
    }

    /// A connection of its shim takes orders from now on; that of an earlier one gets none any more.
    pub(super) fn connected(&self) -> mpsc::Receiver<Order> {
        let (sender, receiver) = mpsc::channel(ORDERS);
        *self.orders.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }

    /// Who takes orders, if the shim is connected.
    pub(super) fn orders(&self) -> Option<mpsc::Sender<Order>> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone();
        orders.filter(|orders| !orders.is_closed())
    }
}
