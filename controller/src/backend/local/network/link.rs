//! Links, addresses and routes: the handful of `rtnetlink(7)` messages that a bridge with instances on it needs.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;

use super::netlink::{CREATE, EXCLUSIVE, Message, Socket, attributes, u16_at, u32_at};

/// The loopback interface's index in every namespace.
pub(in crate::backend) const LOOPBACK: u32 = 1;
/// The name of the link in an instance.
pub(in crate::backend) const INSIDE: &str = "eth0";

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_BRPORT_ISOLATED: u16 = 33;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_MULTIPATH: u16 = 9;

const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const IFF_UP: u32 = 1;

/// `struct ifinfomsg`.
fn link_head(family: u8, index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut head = vec![family, 0, 0, 0];
    head.extend_from_slice(&index.to_ne_bytes());
    head.extend_from_slice(&flags.to_ne_bytes());
    head.extend_from_slice(&change.to_ne_bytes());
    head
}

/// Switches a link on.
pub(in crate::backend) fn up(socket: &mut Socket, index: u32) -> io::Result<()> {
    socket.request(Message::new(RTM_NEWLINK, 0, &link_head(0, index, IFF_UP, IFF_UP)))
}

/// The index of the link of that name.
pub(in crate::backend) fn index(socket: &mut Socket, name: &str) -> io::Result<u32> {
    let (_, payload) =
        socket.get(Message::new(RTM_GETLINK, 0, &link_head(0, 0, 0, 0)).text(IFLA_IFNAME, name))?;
    u32_at(&payload, 4).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Makes a pair of links: `name`, up, on the bridge; and [`INSIDE`] in the namespace that `namespace` is a descriptor of.
pub(in crate::backend) fn create_pair(
    socket: &mut Socket,
    name: &str,
    bridge: u32,
    mtu: u32,
    namespace: RawFd,
) -> io::Result<()> {
    let namespace = u32::try_from(namespace).map_err(io::Error::other)?;
    let message = Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_head(0, 0, IFF_UP, IFF_UP))
        .text(IFLA_IFNAME, name)
        .number(IFLA_MTU, mtu)
        .number(IFLA_MASTER, bridge)
        .nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth").nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    peer.raw(&link_head(0, 0, 0, 0))
                        .text(IFLA_IFNAME, INSIDE)
                        .number(IFLA_MTU, mtu)
                        .number(IFLA_NET_NS_FD, namespace)
                })
            })
        });
    socket.request(message)
}

/// Keeps a port of the bridge from talking to the other isolated ports.
pub(in crate::backend) fn isolate(socket: &mut Socket, index: u32) -> io::Result<()> {
    let message = Message::new(RTM_SETLINK, 0, &link_head(AF_BRIDGE, index, 0, 0))
        .nested(IFLA_PROTINFO, |port| port.attribute(IFLA_BRPORT_ISOLATED, &[1]));
    socket.request(message)
}

/// Makes a bridge with that hardware address.
pub(in crate::backend) fn create_bridge(
    socket: &mut Socket,
    name: &str,
    mtu: u32,
    address: [u8; 6],
) -> io::Result<()> {
    let message = Message::new(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_head(0, 0, 0, 0))
        .text(IFLA_IFNAME, name)
        .number(IFLA_MTU, mtu)
        .attribute(IFLA_ADDRESS, &address)
        .nested(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
    socket.request(message)
}

/// Takes a link away; one that is gone is no error.
pub(in crate::backend) fn delete(socket: &mut Socket, name: &str) -> io::Result<()> {
    match socket.request(Message::new(RTM_DELLINK, 0, &link_head(0, 0, 0, 0)).text(IFLA_IFNAME, name)) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

/// Names of all links.
pub(in crate::backend) fn names(socket: &mut Socket) -> io::Result<Vec<String>> {
    let links = socket.dump(RTM_GETLINK, &link_head(0, 0, 0, 0))?;
    Ok(links.iter().filter_map(|(_, payload)| name_in(payload)).collect())
}

/// The name of the link of that index.
pub(in crate::backend) fn name(socket: &mut Socket, index: u32) -> io::Result<String> {
    let (_, payload) = socket.get(Message::new(RTM_GETLINK, 0, &link_head(0, index, 0, 0)))?;
    name_in(&payload).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

fn name_in(link: &[u8]) -> Option<String> {
    let list = attributes(link, 16);
    let (_, value) = list.into_iter().find(|(kind, _)| *kind == IFLA_IFNAME)?;
    Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned())
}

/// Gives a link an address.
pub(in crate::backend) fn add_address(
    socket: &mut Socket,
    index: u32,
    address: Ipv4Addr,
    prefix: u8,
) -> io::Result<()> {
    // `struct ifaddrmsg`.
    let mut head = vec![AF_INET, prefix, 0, 0];
    head.extend_from_slice(&index.to_ne_bytes());
    let message = Message::new(RTM_NEWADDR, CREATE | EXCLUSIVE, &head)
        .attribute(IFA_LOCAL, &address.octets())
        .attribute(IFA_ADDRESS, &address.octets());
    socket.request(message)
}

/// The IPv4 addresses of a link.
pub(in crate::backend) fn addresses(socket: &mut Socket, index: u32) -> io::Result<Vec<Ipv4Addr>> {
    let list = socket.dump(RTM_GETADDR, &[AF_INET, 0, 0, 0, 0, 0, 0, 0])?;
    let own = list.iter().filter(|(_, payload)| u32_at(payload, 4) == Some(index));
    Ok(own
        .flat_map(|(_, payload)| attributes(payload, 8))
        .filter(|(kind, _)| *kind == IFA_LOCAL)
        .filter_map(|(_, value)| <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from))
        .collect())
}

/// `struct rtmsg` for the main table: unicast, from the machine's boot as an administrator would.
fn route_head(destination_bits: u8) -> [u8; 12] {
    const TABLE_MAIN: u8 = 254;
    const PROTOCOL_BOOT: u8 = 3;
    const UNICAST: u8 = 1;
    [AF_INET, destination_bits, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, 0, UNICAST, 0, 0, 0, 0]
}

/// Sends everything by `gateway`.
pub(in crate::backend) fn default_route(socket: &mut Socket, gateway: Ipv4Addr) -> io::Result<()> {
    let message = Message::new(RTM_NEWROUTE, CREATE | EXCLUSIVE, &route_head(0))
        .attribute(RTA_GATEWAY, &gateway.octets());
    socket.request(message)
}

/// A route of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::backend) struct Route {
    /// Where to.
    pub(in crate::backend) destination: Ipv4Addr,
    /// How many bits of it count; 0: the way out.
    pub(in crate::backend) prefix: u8,
    /// By which link.
    pub(in crate::backend) link: Option<u32>,
}

/// All IPv4 routes of the host, in every table.
pub(in crate::backend) fn routes(socket: &mut Socket) -> io::Result<Vec<Route>> {
    let list = socket.dump(RTM_GETROUTE, &[AF_INET, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    Ok(list.iter().filter_map(|(_, payload)| read_route(payload)).flatten().collect())
}

/// A route; one for each of its links when it has several.
fn read_route(payload: &[u8]) -> Option<Vec<Route>> {
    let mut route = Route { destination: Ipv4Addr::UNSPECIFIED, prefix: *payload.get(1)?, link: None };
    let mut hops = Vec::new();
    for (kind, value) in attributes(payload, 12) {
        match kind {
            RTA_DST => route.destination = <[u8; 4]>::try_from(value).ok()?.into(),
            RTA_OIF => route.link = u32_at(value, 0),
            RTA_MULTIPATH => hops = links_of_hops(value),
            _ => {}
        }
    }
    if hops.is_empty() {
        return Some(vec![route]);
    }
    Some(hops.into_iter().map(|link| Route { link: Some(link), ..route }).collect())
}

/// `struct rtnexthop`, one after the other: its length, two bytes, its link, and attributes.
fn links_of_hops(mut bytes: &[u8]) -> Vec<u32> {
    let mut links = Vec::new();
    while let (Some(length), Some(link)) = (u16_at(bytes, 0), u32_at(bytes, 4)) {
        links.push(link);
        bytes = bytes.get(usize::from(length.max(8)).next_multiple_of(4)..).unwrap_or_default();
    }
    links
}

/// The packet size of a link.
pub(in crate::backend) fn mtu(socket: &mut Socket, index: u32) -> io::Result<u32> {
    let (_, payload) = socket.get(Message::new(RTM_GETLINK, 0, &link_head(0, index, 0, 0)))?;
    let list = attributes(&payload, 16);
    let value = list.into_iter().find(|(kind, _)| *kind == IFLA_MTU).and_then(|(_, value)| u32_at(value, 0));
    value.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_with_several_links_is_one_by_each() {
        let hop = |link: u32| [&[16, 0, 0, 0][..], &link.to_ne_bytes(), &[8, 0, 5, 0, 10, 0, 0, 1]].concat();
        let hops = [hop(2), hop(3)].concat();
        let mut payload = route_head(0).to_vec();
        payload.extend_from_slice(&[20 + 16, 0, 9, 0]);
        payload.extend_from_slice(&hops);
        let links: Vec<_> =
            read_route(&payload).unwrap().into_iter().map(|route| (route.prefix, route.link)).collect();
        assert_eq!(links, [(0, Some(2)), (0, Some(3))]);
        assert!(links_of_hops(&[0, 0, 0]).is_empty());
        assert_eq!(links_of_hops(&[0; 16]), [0, 0], "a length of nothing does not hold it up");
    }
}
