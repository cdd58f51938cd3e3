//! Networks of instances.
//!
//! `none` is a namespace with nothing but its own loopback. `outbound` has a link to Hearth's bridge, whose ports are isolated from
//! each other; what may pass is the bridge's to say. Both kinds are made ahead by a thread and held by descriptor, so that a start takes
//! one and a controller that is killed leaves none behind. A namespace serves one instance and is never used again.

mod namespace;

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use self::namespace::Uplink;
use super::Config;
use crate::backend::Network;
use crate::backend::local::network::addresses::{Addresses, PREFIX};
use crate::backend::local::network::{Bridge, LOOK_AGAIN, Separation, Setup};

/// A network namespace for one instance.
#[derive(Debug)]
pub(super) struct Namespace {
    /// Holds it.
    pub(super) descriptor: OwnedFd,
    /// Its address on the bridge, if it is on the bridge.
    pub(super) address: Option<Ipv4Addr>,
}

/// The networks of this controller.
#[derive(Debug)]
pub(super) struct Networks {
    shared: Arc<Shared>,
    /// Wakes the maker; gone when closed.
    wake: Mutex<Option<SyncSender<()>>>,
    maker: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    /// The bridge, or why there is none.
    bridge: Result<Bridge, String>,
    /// Of the bridge.
    addresses: Mutex<Addresses>,
    /// Links made so far.
    links: AtomicU32,
    tag: String,
    spares: Mutex<Spares>,
    wanted: usize,
}

#[derive(Debug, Default)]
struct Spares {
    none: VecDeque<Namespace>,
    outbound: VecDeque<Namespace>,
}

impl Spares {
    fn of(&mut self, network: Network) -> &mut VecDeque<Namespace> {
        match network {
            Network::None => &mut self.none,
            Network::Outbound => &mut self.outbound,
        }
    }
}

impl Networks {
    /// Makes the bridge and the firewall's rules, or takes them over. `taken` are the addresses of instances that run already.
    pub(super) fn open(config: &Config, tag: &str, taken: Vec<Ipv4Addr>) -> Self {
        let mut ports = vec![config.gateway_port];
        ports.extend(&config.host_ports);
        let bridge = Bridge::open(Setup {
            name: format!("hearth{tag}"),
            tag: tag.to_owned(),
            run_dir: config.run_dir.clone(),
            ports,
            interfaces: config.interfaces.clone(),
            separation: Separation::ByPort,
            gateway: None,
        });
        let bridge = bridge.map_err(|error| error.to_string());
        if let Err(error) = &bridge {
            tracing::warn!(%error, "no networks here: instances with network outbound will be refused");
        }
        let gateway = bridge.as_ref().map_or(Ipv4Addr::UNSPECIFIED, |bridge| bridge.gateway);
        let shared = Arc::new(Shared {
            bridge,
            addresses: Mutex::new(Addresses::new(gateway, taken)),
            // Names of links that a killed controller left may linger; the process id makes it unlikely to meet one.
            links: AtomicU32::new(std::process::id().wrapping_mul(4099)),
            tag: tag.to_owned(),
            spares: Mutex::default(),
            wanted: config.spare_networks,
        });
        let (wake, woken) = sync_channel(1);
        let making = Arc::clone(&shared);
        let maker = std::thread::Builder::new().name("hearth-networks".to_owned()).spawn(move || {
            let mut looked = Instant::now();
            loop {
                making.refill();
                match woken.recv_timeout(LOOK_AGAIN.saturating_sub(looked.elapsed())) {
                    Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if looked.elapsed() >= LOOK_AGAIN {
                    making.look_at_others();
                    looked = Instant::now();
                }
            }
        });
        // Without the thread every start makes its own.
        Self { shared, wake: Mutex::new(Some(wake)), maker: Mutex::new(maker.ok()) }
    }

    /// The bridge's address.
    pub(super) fn gateway(&self) -> Option<Ipv4Addr> {
        self.shared.bridge.as_ref().ok().map(|bridge| bridge.gateway)
    }

    /// Why there are no networks, when there are none.
    pub(super) fn unavailable(&self) -> Option<String> {
        self.shared.bridge.as_ref().err().cloned()
    }

    /// A namespace of the kind; from the spares if there is one.
    ///
    /// # Errors
    /// What the kernel says; and for `outbound` when this machine has no networks.
    pub(super) fn take(&self, network: Network) -> io::Result<Namespace> {
        let spare = self.shared.spares.lock().unwrap_or_else(PoisonError::into_inner).of(network).pop_front();
        if let Some(wake) = self.wake.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // Full: it is awake.
            wake.try_send(()).ok();
        }
        match spare {
            Some(namespace) => Ok(namespace),
            None => self.shared.make(network),
        }
    }

    /// The address is free again.
    pub(super) fn release(&self, address: Ipv4Addr) {
        self.shared.release(address);
    }

    /// Takes everything away.
    pub(super) fn close(&self) {
        drop(self.wake.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(maker) = self.maker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A maker that panicked has nothing more to give back.
            maker.join().ok();
        }
        *self.shared.spares.lock().unwrap_or_else(PoisonError::into_inner) = Spares::default();
        if let Ok(bridge) = &self.shared.bridge
            && let Err(error) = bridge.close()
        {
            tracing::warn!(%error, bridge = bridge.name, "cannot take the network away");
        }
    }
}

impl Drop for Networks {
    fn drop(&mut self) {
        // Only the thread: what is on the machine stays for the next controller unless `close` was called.
        drop(self.wake.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Shared {
    fn make(&self, network: Network) -> io::Result<Namespace> {
        if network == Network::None {
            return Ok(Namespace { descriptor: namespace::make(None)?, address: None });
        }
        let bridge = self
            .bridge
            .as_ref()
            .map_err(|reason| io::Error::new(io::ErrorKind::Unsupported, reason.clone()))?;
        let address = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).take();
        let address = address.ok_or_else(|| io::Error::other("every address of the subnet is in use"))?;
        let number = self.links.fetch_add(1, Ordering::Relaxed) & 0xff_ffff;
        let uplink = Uplink {
            bridge: bridge.index,
            gateway: bridge.gateway,
            prefix: PREFIX,
            mtu: bridge.mtu,
            name: format!("hv{}{number:06x}", self.tag.get(..4).unwrap_or_default()),
            address,
        };
        match namespace::make(Some(uplink)) {
            Ok(descriptor) => Ok(Namespace { descriptor, address: Some(address) }),
            Err(error) => {
                self.release(address);
                Err(error)
            }
        }
    }

    fn release(&self, address: Ipv4Addr) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).release(address);
    }

    fn refill(&self) {
        for network in [Network::None, Network::Outbound] {
            if network == Network::Outbound && self.bridge.is_err() {
                continue;
            }
            loop {
                if self.spares.lock().unwrap_or_else(PoisonError::into_inner).of(network).len() >= self.wanted
                {
                    break;
                }
                match self.make(network) {
                    Ok(namespace) => {
                        self.spares
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .of(network)
                            .push_back(namespace);
                    }
                    Err(error) => {
                        tracing::warn!(%error, ?network, "cannot make a spare network namespace");
                        break;
                    }
                }
            }
        }
    }

    fn look_at_others(&self) {
        if let Ok(bridge) = &self.bridge {
            bridge.look_at_others();
        }
    }
}

/// Whether this machine can do networks, for `hearth doctor`: nothing is changed.
///
/// # Errors
/// What stands in the way.
pub(super) fn check() -> io::Result<String> {
    namespace::make(None)
        .map_err(|error| io::Error::new(error.kind(), format!("network namespaces: {error}")))?;
    crate::backend::local::network::check()
}
