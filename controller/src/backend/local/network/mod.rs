//! The bridge of a controller's instances, and what may pass it.
//!
//! The bridge, the tables of rules and the sysctl outlive a controller that is killed: instances may still run. The next one of the same
//! data directory takes them over, by their names, or takes them away.

pub(in crate::backend) mod addresses;
mod filter;
mod foreign;
pub(in crate::backend) mod link;
pub(in crate::backend) mod netlink;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use self::addresses::PREFIX;
use self::netlink::Socket;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Where nothing else is known.
const ETHERNET_MTU: u32 = 1500;

/// How often firewalls of others and the host's ways out are looked at again: Docker may have been started since, or a VPN.
pub(in crate::backend) const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What keeps instances on one bridge from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) enum Separation {
    /// Whoever connects a port isolates it.
    ByPort,
    /// A rule: somebody else connects the ports.
    ByRule,
}

/// What a bridge is made of.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Setup {
    /// The bridge's name, and that of its tables: at most 15 characters.
    pub(in crate::backend) name: String,
    /// The data directory's tag.
    pub(in crate::backend) tag: String,
    /// Where all Hearths of the machine keep what they must know of each other.
    pub(in crate::backend) run_dir: PathBuf,
    /// Ports that instances reach at the bridge's address.
    pub(in crate::backend) ports: Vec<u16>,
    /// Further ways out.
    pub(in crate::backend) interfaces: Vec<String>,
    /// How ports are kept apart.
    pub(in crate::backend) separation: Separation,
    /// Its address; `None` to choose one.
    pub(in crate::backend) gateway: Option<Ipv4Addr>,
}

/// The first address of a private subnet that nothing on this machine meets.
///
/// # Errors
/// When there is none, or the kernel does not tell.
pub(in crate::backend) fn choose() -> io::Result<Ipv4Addr> {
    let routes = link::routes(&mut Socket::route()?)?;
    free(&routes)
}

fn free(routes: &[link::Route]) -> io::Result<Ipv4Addr> {
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    addresses::choose(routes, &resolvers)
        .ok_or_else(|| io::Error::other("every private subnet that Hearth tries is in use on this machine"))
}

/// The packet size of the host's way out.
pub(in crate::backend) fn way_out_mtu() -> u32 {
    let mtu = || {
        let mut socket = Socket::route().ok()?;
        let routes = link::routes(&mut socket).ok()?;
        let way_out = routes.iter().find(|route| route.prefix == 0)?.link?;
        link::mtu(&mut socket, way_out).ok()
    };
    mtu().unwrap_or(ETHERNET_MTU)
}

/// Hearth's bridge.
#[derive(Debug)]
pub(in crate::backend) struct Bridge {
    pub(in crate::backend) name: String,
    pub(in crate::backend) index: u32,
    pub(in crate::backend) gateway: Ipv4Addr,
    pub(in crate::backend) mtu: u32,
    rules: filter::Rules,
    exception: foreign::Exception,
    separation: Separation,
    /// What the rules were last made with: a laptop changes its way out, and a VPN comes and goes.
    ways_out: Mutex<Vec<String>>,
    /// Further ways out, as configured.
    listed: Vec<String>,
    /// There when forwarding was off before the first of the Hearths of this machine; the last one switches it off again, even one that
    /// was killed and started again.
    forwarding_was_off: PathBuf,
}

impl Bridge {
    /// Makes the bridge and the firewall's rules, or takes them over.
    ///
    /// # Errors
    /// What the machine cannot do, or what the kernel says; nothing is left then.
    pub(in crate::backend) fn open(setup: Setup) -> io::Result<Self> {
        let mut socket = Socket::route()?;
        let Setup { name, tag, run_dir, ports, interfaces, separation, gateway } = setup;
        let said = |what: &'static str| {
            move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"))
        };
        filter::available().map_err(said("nf_tables"))?;
        let routes = link::routes(&mut socket)?;
        let mtu = way_out_mtu();
        let existing = link::index(&mut socket, &name).ok();
        let own = existing.and_then(|index| link::addresses(&mut socket, index).ok()?.first().copied());
        let own = own.filter(|own| gateway.is_none_or(|gateway| gateway == *own));
        // A bridge with its address is one of before, with instances on it perhaps; one without is half made.
        let (index, gateway) = if let (Some(index), Some(gateway)) = (existing, own) {
            (index, gateway)
        } else {
            link::delete(&mut socket, &name)?;
            let gateway = gateway.map_or_else(|| free(&routes), Ok)?;
            link::create_bridge(&mut socket, &name, mtu, hardware_address(&tag))
                .map_err(said("make a bridge"))?;
            let index = link::index(&mut socket, &name)?;
            fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").ok();
            link::add_address(&mut socket, index, gateway, PREFIX)?;
            link::up(&mut socket, index)?;
            (index, gateway)
        };
        let ways_out = ways_out(&mut socket, &routes, &name, &interfaces)?;
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
            separation,
            ways_out: Mutex::new(ways_out),
            listed: interfaces,
            forwarding_was_off: run_dir.join("forwarding.was.off"),
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
        let said = |error: io::Error| io::Error::new(error.kind(), format!("nf_tables rules: {error}"));
        filter::install(&filter::Rules { ways_out: self.ways_out(), ..self.rules.clone() }).map_err(said)?;
        match self.separation {
            Separation::ByPort => Ok(()),
            Separation::ByRule => filter::separate(&self.rules).map_err(said),
        }
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

    /// Looks whether somebody else's firewall or the host's ways out have changed, and follows them.
    pub(in crate::backend) fn look_at_others(&self) {
        if let Err(error) = self.follow_ways_out() {
            tracing::warn!(%error, "instances may not reach the outside");
        }
        if let Err(error) = self.exception().make() {
            tracing::warn!(%error, "another firewall may drop what instances send");
        }
    }

    /// Takes everything away.
    ///
    /// # Errors
    /// What the kernel says.
    pub(in crate::backend) fn close(&self) -> io::Result<()> {
        let mut socket = Socket::route()?;
        self.exception.remove();
        filter::remove(&self.rules.table)?;
        if self.separation == Separation::ByRule {
            self.exception.remove_of_others();
            filter::join(&self.rules.table)?;
        }
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

pub(in crate::backend) fn netmask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// Whether this machine can do networks, for `hearth doctor`: nothing is changed.
///
/// # Errors
/// What stands in the way.
pub(in crate::backend) fn check() -> io::Result<String> {
    let mut socket = Socket::route()?;
    let routes = link::routes(&mut socket)?;
    filter::available().map_err(|error| io::Error::new(error.kind(), format!("nf_tables: {error}")))?;
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
