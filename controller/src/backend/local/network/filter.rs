//! The packet filter's rules, spoken to nf_tables directly: no `nft` or `iptables` need be installed.
//!
//! One table of our own, replaced whole in one transaction:
//! ```text
//! prerouting   not from the bridge                       accept
//!              not IPv4, or not from the subnet          drop
//!              to 169.254.0.0/16, but port 53            drop
//! input        not from the bridge                       accept
//!              to the bridge's address, gateway's port   accept
//!              to it, a port that the operator listed    accept
//!              an answer                                 accept
//!              anything else of the host                 drop
//! forward      from the bridge to the bridge             drop
//!              to the bridge and not an answer           drop
//!              from it, its destination was translated   drop
//!              from it by a way out                      accept
//!              from it anywhere else                     drop
//! postrouting  from the subnet to elsewhere              masquerade
//! ```
//! The first two chains see every packet that this machine takes in, those of its clients among them: what is not from the bridge leaves
//! them by their first rule.
//!
//! Link-local addresses are where clouds keep a machine's credentials, and on some of them its resolver. A translated destination is how
//! a published port of a container looks, which would never come to the input chain; a container's own address is on no way out.
//!
//! An `accept` ends only our own chain: other tables, Docker's among them, still have their say ([`super::foreign`]).

use std::io;
use std::net::Ipv4Addr;

use super::netlink::{APPEND, CREATE, Message, Socket};

const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const GET_TABLE: u16 = SUBSYSTEM | 1;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// `NFPROTO_INET`: both IPv4 and IPv6.
const INET: u8 = 1;
/// `NFPROTO_BRIDGE`.
const BRIDGE: u8 = 7;
/// `NFPROTO_IPV4`.
const IPV4: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DNS: u16 = 53;
/// RFC 3927.
const LINK_LOCAL: (Ipv4Addr, u8) = (Ipv4Addr::new(169, 254, 0, 0), 16);

const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// Connection states "established" and "related": an answer.
const ANSWER: u32 = 2 | 4;
/// `IPS_DST_NAT`: the connection goes elsewhere than its first packet said.
const TRANSLATED: u32 = 1 << 5;

const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_PROTOCOL: u32 = 1;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];

/// What the rules are about.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Rules {
    /// The table's name.
    pub(in crate::backend) table: String,
    /// The bridge's name.
    pub(in crate::backend) bridge: String,
    /// The bridge's address.
    pub(in crate::backend) gateway: Ipv4Addr,
    /// Bits of the subnet.
    pub(in crate::backend) prefix: u8,
    /// Ports of the host that instances may reach at the bridge's address: the gateway's, and what the operator lists.
    pub(in crate::backend) ports: Vec<u16>,
    /// Interfaces by which instances reach the outside.
    pub(in crate::backend) ways_out: Vec<String>,
}

/// Puts the rules in force, instead of any of the same name.
///
/// # Errors
/// What the kernel says; nothing is changed then.
pub(in crate::backend) fn install(rules: &Rules) -> io::Result<()> {
    let mut messages =
        vec![new_table(INET, &rules.table), delete_table(INET, &rules.table), new_table(INET, &rules.table)];
    let from = || meta_is(META_IIFNAME, &interface(&rules.bridge));
    let to = || meta_is(META_OIFNAME, &interface(&rules.bridge));
    let foreign = || [meta_is_not(META_IIFNAME, &interface(&rules.bridge)), vec![verdict(NF_ACCEPT)]];

    messages.push(chain(INET, rules, "prerouting", "filter", 0, -300));
    messages.push(rule(INET, rules, "prerouting", foreign()));
    messages.push(rule(
        INET,
        rules,
        "prerouting",
        [meta_is_not(META_NFPROTO, &[IPV4]), vec![verdict(NF_DROP)]],
    ));
    messages.push(rule(
        INET,
        rules,
        "prerouting",
        [ipv4(), source_in_subnet(rules, Is::Not), vec![verdict(NF_DROP)]],
    ));
    let link_local = || {
        let (network, prefix) = LINK_LOCAL;
        [ipv4(), in_subnet(DESTINATION, network, prefix, Is::Equal)].into_iter().flatten().collect()
    };
    for protocol in [TCP, UDP] {
        let protocol = meta_is(META_L4PROTO, &[protocol]);
        messages.push(rule(
            INET,
            rules,
            "prerouting",
            [link_local(), protocol, to_port(DNS), vec![verdict(NF_ACCEPT)]],
        ));
    }
    messages.push(rule(INET, rules, "prerouting", [link_local(), vec![verdict(NF_DROP)]]));

    messages.push(chain(INET, rules, "input", "filter", 1, 0));
    messages.push(rule(INET, rules, "input", foreign()));
    for port in &rules.ports {
        let tcp = meta_is(META_L4PROTO, &[TCP]);
        let port = to_port(*port);
        let gateway = load_and_compare(payload(1, DESTINATION, 4), Is::Equal, &rules.gateway.octets());
        messages.push(rule(INET, rules, "input", [ipv4(), gateway, tcp, port, vec![verdict(NF_ACCEPT)]]));
    }
    messages.push(rule(INET, rules, "input", [answer(Is::Not), vec![verdict(NF_ACCEPT)]]));
    messages.push(rule(INET, rules, "input", [vec![verdict(NF_DROP)]]));

    messages.push(chain(INET, rules, "forward", "filter", 2, 0));
    messages.push(rule(INET, rules, "forward", [from(), to(), vec![verdict(NF_DROP)]]));
    messages.push(rule(INET, rules, "forward", [to(), answer(Is::Equal), vec![verdict(NF_DROP)]]));
    let translated = connection(CT_STATUS, TRANSLATED, Is::Not);
    messages.push(rule(INET, rules, "forward", [from(), translated, vec![verdict(NF_DROP)]]));
    for way in &rules.ways_out {
        let by = meta_is(META_OIFNAME, &interface(way));
        messages.push(rule(INET, rules, "forward", [from(), by, vec![verdict(NF_ACCEPT)]]));
    }
    messages.push(rule(INET, rules, "forward", [from(), vec![verdict(NF_DROP)]]));

    messages.push(chain(INET, rules, "postrouting", "nat", 4, 100));
    let elsewhere = meta_is_not(META_OIFNAME, &interface(&rules.bridge));
    messages.push(rule(
        INET,
        rules,
        "postrouting",
        [ipv4(), source_in_subnet(rules, Is::Equal), elsewhere, vec![expression("masq", |data| data)]],
    ));
    transaction(messages)
}

/// Keeps the bridge's ports apart: what comes from one goes to the host, never to another. A table of the bridge's own family, since the
/// others do not see what a bridge passes on by itself. By address, for not every kernel can tell the bridges apart there: instances have
/// no address but their own, and may not make packets by hand.
///
/// # Errors
/// What the kernel says, which may lack this family; nothing is changed then.
pub(in crate::backend) fn separate(rules: &Rules) -> io::Result<()> {
    let table = &rules.table;
    transaction(vec![
        new_table(BRIDGE, table),
        delete_table(BRIDGE, table),
        new_table(BRIDGE, table),
        chain(BRIDGE, rules, "forward", "filter", 2, 0),
        rule(
            BRIDGE,
            rules,
            "forward",
            [
                meta_is(META_PROTOCOL, &ETHERTYPE_IPV4),
                source_in_subnet(rules, Is::Equal),
                in_subnet(DESTINATION, rules.gateway, rules.prefix, Is::Equal),
                vec![verdict(NF_DROP)],
            ],
        ),
    ])
}

/// Takes away what [`separate`] made.
///
/// # Errors
/// What the kernel says.
pub(in crate::backend) fn join(table: &str) -> io::Result<()> {
    transaction(vec![new_table(BRIDGE, table), delete_table(BRIDGE, table)])
}

/// Takes the table away; one that is not there is no error.
///
/// # Errors
/// What the kernel says.
pub(in crate::backend) fn remove(table: &str) -> io::Result<()> {
    transaction(vec![new_table(INET, table), delete_table(INET, table)])
}

/// Whether the kernel has nf_tables and lets us use it.
///
/// # Errors
/// What the kernel says.
pub(in crate::backend) fn available() -> io::Result<()> {
    Socket::netfilter()?.dump(GET_TABLE, &head(0)).map(drop)
}

fn transaction(messages: Vec<Message>) -> io::Result<()> {
    let answers = messages.len();
    // `struct nfgenmsg` of a batch names the subsystem where others have nothing.
    let ends = [0, 0, 0, 10];
    let mut batch = vec![Message::new(BATCH_BEGIN, 0, &ends).unanswered()];
    batch.extend(messages);
    batch.push(Message::new(BATCH_END, 0, &ends).unanswered());
    Socket::netfilter()?.batch(batch, answers)
}

fn head(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

fn new_table(family: u8, name: &str) -> Message {
    Message::new(NEW_TABLE, CREATE, &head(family)).text(1, name)
}

fn delete_table(family: u8, name: &str) -> Message {
    Message::new(DELETE_TABLE, 0, &head(family)).text(1, name)
}

fn chain(family: u8, rules: &Rules, name: &str, kind: &str, hook: u32, priority: i32) -> Message {
    Message::new(NEW_CHAIN, CREATE, &head(family))
        .text(1, &rules.table)
        .text(3, name)
        .nested(4, |place| place.big(1, hook).big(2, priority.cast_unsigned()))
        .big(5, NF_ACCEPT)
        .text(7, kind)
}

/// What a rule is made of: adds itself to the list of expressions.
type Expression = Box<dyn FnOnce(Message) -> Message>;

fn rule<const N: usize>(family: u8, rules: &Rules, chain: &str, parts: [Vec<Expression>; N]) -> Message {
    Message::new(NEW_RULE, CREATE | APPEND, &head(family))
        .text(1, &rules.table)
        .text(2, chain)
        .nested(4, |list| parts.into_iter().flatten().fold(list, |list, expression| expression(list)))
}

fn expression(name: &'static str, data: impl FnOnce(Message) -> Message + 'static) -> Expression {
    Box::new(move |list| list.nested(1, |element| element.text(1, name).nested(2, data)))
}

#[derive(Debug, Clone, Copy)]
enum Is {
    Equal,
    Not,
}

/// Register 1 against a value.
fn compare(is: Is, value: &[u8]) -> Expression {
    let (operator, value) = (if matches!(is, Is::Equal) { 0 } else { 1 }, value.to_vec());
    expression("cmp", move |data| {
        data.big(1, 1).big(2, operator).nested(3, |inner| inner.attribute(1, &value))
    })
}

fn load_and_compare(load: Expression, is: Is, value: &[u8]) -> Vec<Expression> {
    vec![load, compare(is, value)]
}

/// A field of the packet's description into register 1.
fn meta(key: u32) -> Expression {
    expression("meta", move |data| data.big(1, 1).big(2, key))
}

fn meta_is(key: u32, value: &[u8]) -> Vec<Expression> {
    load_and_compare(meta(key), Is::Equal, value)
}

fn meta_is_not(key: u32, value: &[u8]) -> Vec<Expression> {
    load_and_compare(meta(key), Is::Not, value)
}

fn ipv4() -> Vec<Expression> {
    meta_is(META_NFPROTO, &[IPV4])
}

/// Bytes of the packet into register 1; base 1 is the network header, 2 the transport header.
fn payload(base: u32, offset: u32, length: u32) -> Expression {
    expression("payload", move |data| data.big(1, 1).big(2, base).big(3, offset).big(4, length))
}

/// Register 1 with only the bits of a mask.
fn mask(bits: &[u8]) -> Expression {
    let (bits, none) = (bits.to_vec(), vec![0; bits.len()]);
    expression("bitwise", move |data| {
        let length = u32::try_from(bits.len()).unwrap_or(4);
        data.big(1, 1)
            .big(2, 1)
            .big(3, length)
            .nested(4, |inner| inner.attribute(1, &bits))
            .nested(5, |inner| inner.attribute(1, &none))
    })
}

/// Where IPv4's header has the two addresses.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

fn in_subnet(field: u32, network: Ipv4Addr, prefix: u8, is: Is) -> Vec<Expression> {
    let bits = super::netmask(prefix);
    let subnet = network.to_bits() & bits;
    vec![payload(1, field, 4), mask(&bits.to_be_bytes()), compare(is, &subnet.to_be_bytes())]
}

fn source_in_subnet(rules: &Rules, is: Is) -> Vec<Expression> {
    in_subnet(SOURCE, rules.gateway, rules.prefix, is)
}

/// The destination's port, which TCP and UDP have in the same place.
fn to_port(port: u16) -> Vec<Expression> {
    load_and_compare(payload(2, 2, 2), Is::Equal, &port.to_be_bytes())
}

/// Some bits of what is known of the connection, compared with none.
fn connection(key: u32, bits: u32, none: Is) -> Vec<Expression> {
    let known = expression("ct", move |data| data.big(1, 1).big(2, key));
    vec![known, mask(&bits.to_ne_bytes()), compare(none, &0u32.to_ne_bytes())]
}

/// The state's bits of an answer, compared with none: `Is::Not` is an answer, `Is::Equal` is not.
fn answer(none: Is) -> Vec<Expression> {
    connection(CT_STATE, ANSWER, none)
}

fn verdict(code: u32) -> Expression {
    expression("immediate", move |data| {
        data.big(1, 0).nested(2, |inner| inner.nested(2, |verdict| verdict.big(1, code)))
    })
}

/// An interface's name as the kernel keeps it: 16 bytes.
fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (place, byte) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *place = byte;
    }
    bytes
}
