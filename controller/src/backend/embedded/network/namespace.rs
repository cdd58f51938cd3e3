//! Network namespaces, each made by a thread that moves into a new one and ends there.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use crate::backend::local::network::link;
use crate::backend::local::network::netlink::Socket;

/// How a namespace reaches the bridge.
#[derive(Debug, Clone)]
pub(super) struct Uplink {
    /// The bridge.
    pub(super) bridge: u32,
    /// Its address: the way out.
    pub(super) gateway: Ipv4Addr,
    /// Bits of the subnet.
    pub(super) prefix: u8,
    /// Packet size of the way out.
    pub(super) mtu: u32,
    /// The name of the link's end on the host.
    pub(super) name: String,
    /// The address inside.
    pub(super) address: Ipv4Addr,
}

/// Makes a namespace with a loopback interface that is up, and a link to the bridge if one is asked for. It lives as long as the
/// descriptor is open or a process is in it.
///
/// # Errors
/// What the kernel says; nothing is left then.
pub(super) fn make(uplink: Option<Uplink>) -> io::Result<OwnedFd> {
    let thread = std::thread::Builder::new()
        .name("hearth-network".to_owned())
        .spawn(move || in_new_namespace(uplink))?;
    thread
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("the thread that makes a network namespace panicked")))
}

fn in_new_namespace(uplink: Option<Uplink>) -> io::Result<OwnedFd> {
    let mut outside = uplink.as_ref().map(|_| Socket::route()).transpose()?;
    unshare_network()?;
    let namespace = OwnedFd::from(std::fs::File::open("/proc/thread-self/ns/net")?);
    let mut inside = Socket::route()?;
    link::up(&mut inside, link::LOOPBACK)?;
    // A server of an image may listen on port 80 as in any container; there is nobody here to be mistaken for.
    std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0").ok();
    if let (Some(uplink), Some(outside)) = (uplink, outside.as_mut()) {
        // Without IPv6 there is no link-local address by which an instance could reach the host's services.
        for which in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").ok();
        }
        link::create_pair(outside, &uplink.name, uplink.bridge, uplink.mtu, namespace.as_fd().as_raw_fd())?;
        let host_end = link::index(outside, &uplink.name)?;
        link::isolate(outside, host_end)?;
        let eth0 = link::index(&mut inside, link::INSIDE)?;
        link::add_address(&mut inside, eth0, uplink.address, uplink.prefix)?;
        link::up(&mut inside, eth0)?;
        link::default_route(&mut inside, uplink.gateway)?;
    }
    Ok(namespace)
}

#[expect(unsafe_code, reason = "rustix marks every unshare so, for the descriptor table's sake")]
fn unshare_network() -> io::Result<()> {
    // SAFETY: the descriptor table is not unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    Ok(())
}
