//! Networks of instances.
//!
//! `none` is a namespace with nothing but its own loopback. `outbound` has a link to Hearth's bridge, whose ports are isolated from
//! each other; what may pass is [`filter`]'s. Both kinds are made ahead by a thread and held by descriptor, so that a start takes one and
//! a controller that is killed leaves none behind. A namespace serves one instance and is never used again.
//!
//! The bridge, the table of rules and the sysctl outlive a controller that is killed: instances may still run. The next one of the same
//! data directory takes them over, by their names, or takes them away.

mod addresses;
mod filter;
mod foreign;
mod link;
mod namespace;
mod netlink;

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use self::addresses::{Addresses, PREFIX};
use self::namespace::Uplink;
use self::netlink::Socket;
use super::Config;
use crate::backend::Network;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// How often firewalls of others and the host's ways out are looked at again: Docker may have been started since, or a VPN.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

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

/// Hearth's bridge.
#[derive(Debug)]
struct Bridge {
    name: String,
    index: u32,
    gateway: Ipv4Addr,
    mtu: u32,
    rules: filter::Rules,
    exception: foreign::Exception,
    /// What the two above were last made with: a laptop changes its way out, and a VPN comes and goes.
    ways_out: Mutex<Vec<String>>,
    /// Further ways out, as configured.
    listed: Vec<String>,
    addresses: Mutex<Addresses>,
    links: AtomicU32,
    tag: String,
    /// There when forwarding was off before the first of the Hearths of this machine; the last one switches it off again, even one that
    /// was killed and started again.
    forwarding_was_off: PathBuf,
}

impl Networks {
    /// Makes the bridge and the firewall's rules, or takes them over. `taken` are the addresses of instances that run already.
    pub(super) fn open(config: &Config, tag: &str, taken: Vec<Ipv4Addr>) -> Self {
        let bridge = Bridge::open(config, tag, taken).map_err(|error| error.to_string());
        if let Err(error) = &bridge {
            tracing::warn!(%error, "no networks here: instances with network outbound will be refused");
        }
        let shared = Arc::new(Shared { bridge, spares: Mutex::default(), wanted: config.spare_networks });
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
        let address = bridge.addresses.lock().unwrap_or_else(PoisonError::into_inner).take();
        let address = address.ok_or_else(|| io::Error::other("every address of the subnet is in use"))?;
        let number = bridge.links.fetch_add(1, Ordering::Relaxed) & 0xff_ffff;
        let uplink = Uplink {
            bridge: bridge.index,
            gateway: bridge.gateway,
            prefix: PREFIX,
            mtu: bridge.mtu,
            name: format!("hv{}{number:06x}", bridge.tag.get(..4).unwrap_or_default()),
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
        if let Ok(bridge) = &self.bridge {
            bridge.addresses.lock().unwrap_or_else(PoisonError::into_inner).release(address);
        }
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
        let Ok(bridge) = &self.bridge else { return };
        if let Err(error) = bridge.follow_ways_out() {
            tracing::warn!(%error, "instances may not reach the outside");
        }
        if let Err(error) = bridge.exception().make() {
            tracing::warn!(%error, "another firewall may drop what instances send");
        }
    }
}

impl Bridge {
    fn open(config: &Config, tag: &str, taken: Vec<Ipv4Addr>) -> io::Result<Self> {
        let mut socket = Socket::route()?;
        let name = format!("hearth{tag}");
        let said = |what: &'static str| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        filter::available().map_err(said("nf_tables"))?;
        let routes = link::routes(&mut socket)?;
        let way_out = routes.iter().find(|route| route.prefix == 0).and_then(|route| route.link);
        let mtu = way_out.and_then(|link| link::mtu(&mut socket, link).ok()).unwrap_or(1500);
        let existing = link::index(&mut socket, &name).ok();
        let own = existing.and_then(|index| link::addresses(&mut socket, index).ok()?.first().copied());
        // A bridge with its address is one of before, with instances on it perhaps; one without is half made.
        let (index, gateway) = if let (Some(index), Some(gateway)) = (existing, own) {
            (index, gateway)
        } else {
            link::delete(&mut socket, &name)?;
            let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let gateway = addresses::choose(&routes, &resolvers).ok_or_else(|| {
                io::Error::other("every private subnet that Hearth tries is in use on this machine")
            })?;
            link::create_bridge(&mut socket, &name, mtu, hardware_address(tag))
                .map_err(said("make a bridge"))?;
            let index = link::index(&mut socket, &name)?;
            fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").ok();
            link::add_address(&mut socket, index, gateway, PREFIX)?;
            link::up(&mut socket, index)?;
            (index, gateway)
        };
        let mut ports = vec![config.gateway_port];
        ports.extend(&config.host_ports);
        let ways_out = ways_out(&mut socket, &routes, &name, &config.interfaces)?;
        let bridge = Self {
            index,
            gateway,
            mtu,
            rules: filter::Rules {
                table: name.clone(),
                bridge: name.clone(),
                gateway,
                prefix: PREFIX,
                ports: ports.clone(),
                ways_out: Vec::new(),
            },
            exception: foreign::Exception { bridge: name.clone(), gateway, ports, ways_out: Vec::new() },
            ways_out: Mutex::new(ways_out),
            listed: config.interfaces.clone(),
            addresses: Mutex::new(Addresses::new(gateway, taken)),
            // Names of links that a killed controller left may linger; the process id makes it unlikely to meet one.
            links: AtomicU32::new(std::process::id().wrapping_mul(4099)),
            tag: tag.to_owned(),
            forwarding_was_off: config.run_dir.join("forwarding.was.off"),
            name,
        };
        bridge.open_ways().inspect_err(|_| {
            bridge.close().ok();
        })?;
        Ok(bridge)
    }

    fn open_ways(&self) -> io::Result<()> {
        self.install()?;
        // Of an earlier run, which may have had other ways out.
        self.exception.remove();
        self.exception().make()?;
        if fs::read_to_string(IP_FORWARD)?.trim() == "0" {
            fs::write(&self.forwarding_was_off, "")?;
            fs::write(IP_FORWARD, "1")?;
        }
        Ok(())
    }

    fn install(&self) -> io::Result<()> {
        filter::install(&filter::Rules { ways_out: self.ways_out(), ..self.rules.clone() })
            .map_err(|error| io::Error::new(error.kind(), format!("nf_tables rules: {error}")))
    }

    fn exception(&self) -> foreign::Exception {
        foreign::Exception { ways_out: self.ways_out(), ..self.exception.clone() }
    }

    fn ways_out(&self) -> Vec<String> {
        self.ways_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the rules anew when the host's ways out are others than before.
    fn follow_ways_out(&self) -> io::Result<()> {
        let mut socket = Socket::route()?;
        let routes = link::routes(&mut socket)?;
        let now = ways_out(&mut socket, &routes, &self.name, &self.listed)?;
        if now == self.ways_out() {
            return Ok(());
        }
        tracing::info!(ways_out = ?now, "the host's ways out have changed");
        *self.ways_out.lock().unwrap_or_else(PoisonError::into_inner) = now;
        self.exception.remove();
        self.install()
    }

    fn close(&self) -> io::Result<()> {
        let mut socket = Socket::route()?;
        self.exception.remove();
        filter::remove(&self.rules.table)?;
        link::delete(&mut socket, &self.name)?;
        if self.forwarding_was_off.exists() && !needs_forwarding(&link::names(&mut socket)?) {
            fs::remove_file(&self.forwarding_was_off)?;
            fs::write(IP_FORWARD, "0")?;
        }
        Ok(())
    }
}

/// Interfaces by which instances reach the outside: those that a default route of the host leads to, in whatever table, and those listed.
/// Half of all addresses counts as everything: that is how VPNs take over without touching the default route.
fn ways_out(
    socket: &mut Socket,
    routes: &[link::Route],
    bridge: &str,
    listed: &[String],
) -> io::Result<Vec<String>> {
    let mut names: BTreeSet<String> = listed.iter().cloned().collect();
    for index in routes.iter().filter(|route| route.prefix <= 1).filter_map(|route| route.link) {
        if index == link::LOOPBACK {
            continue;
        }
        match link::name(socket, index) {
            Ok(name) => names.extend([name]),
            // It has just gone.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => return Err(error),
        }
    }
    names.remove(bridge);
    Ok(names.into_iter().collect())
}

/// Whether somebody who is still here relies on forwarding: another Hearth, or Docker, which finds it on and does not switch it on itself.
fn needs_forwarding(links: &[String]) -> bool {
    links.iter().any(|link| link.starts_with("hearth") || link == "docker0" || link.starts_with("br-"))
}

/// The bridge's own hardware address. Without one it takes its lowest port's, and changes with the ports.
fn hardware_address(tag: &str) -> [u8; 6] {
    let number = u32::from_str_radix(tag, 16).unwrap_or(1);
    let [a, b, c, d] = number.to_be_bytes();
    // Locally administered, one station.
    [0x02, 0x68, a, b, c, d]
}

fn netmask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// Whether this machine can do networks, for `hearth doctor`: nothing is changed.
///
/// # Errors
/// What stands in the way.
pub(super) fn check() -> io::Result<String> {
    let mut socket = Socket::route()?;
    let routes = link::routes(&mut socket)?;
    filter::available().map_err(|error| io::Error::new(error.kind(), format!("nf_tables: {error}")))?;
    namespace::make(None)
        .map_err(|error| io::Error::new(error.kind(), format!("network namespaces: {error}")))?;
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let subnet = addresses::choose(&routes, &resolvers)
        .ok_or_else(|| io::Error::other("no private subnet is free"))?;
    let ways_out = ways_out(&mut socket, &routes, "", &[])?;
    let way_out = if ways_out.is_empty() {
        "without a way out: no default route".to_owned()
    } else {
        format!("with a way out by {}", ways_out.join(", "))
    };
    let bridging = Path::new("/sys/module/bridge").exists();
    Ok(format!(
        "{subnet}/{PREFIX} is free, {way_out}{}",
        if bridging { "" } else { "; the bridge module is loaded when needed" }
    ))
}
