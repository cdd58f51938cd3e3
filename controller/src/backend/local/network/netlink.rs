//! Netlink, as far as this backend needs it: building messages, sending them and reading what comes back. The kernel's own formats
//! (`rtnetlink(7)`, `linux/netfilter/nf_tables.h`) are spoken by the modules beside this one.
//!
//! Written by hand because a start must not wait for a dozen round trips or an async reactor in another network namespace: one blocking
//! socket, made by the thread that is in the namespace.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `NLM_F_REQUEST | NLM_F_ACK`: every request is answered.
const REQUEST_ACK: u16 = 0x1 | 0x4;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(in crate::backend) const CREATE: u16 = 0x400;
/// `NLM_F_EXCL`: it is an error if it exists.
pub(in crate::backend) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_APPEND`.
pub(in crate::backend) const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;

const HEADER: usize = 16;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A message while it is built.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of `kind` with the fixed part that belongs to it, padded.
    pub(in crate::backend) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | REQUEST_ACK).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    /// Not to be answered: the ends of a batch.
    pub(in crate::backend) fn unanswered(mut self) -> Self {
        if let Some(flags) = self.bytes.get_mut(6..8) {
            flags.copy_from_slice(&1u16.to_ne_bytes());
        }
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute.
    pub(in crate::backend) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes here are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds a number in the host's byte order.
    pub(in crate::backend) fn number(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Adds a number in network byte order.
    pub(in crate::backend) fn big(self, kind: u16, value: u32) -> Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Adds a text that ends in NUL.
    pub(in crate::backend) fn text(self, kind: u16, value: &str) -> Self {
        let bytes: Vec<u8> = value.bytes().chain([0]).collect();
        self.attribute(kind, &bytes)
    }

    /// Adds attributes within an attribute.
    pub(in crate::backend) fn nested(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        let mut message = inside(self);
        let length = u16::try_from(message.bytes.len() - start).expect("attributes here are short");
        if let Some(place) = message.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        message
    }

    /// Adds bytes as they are: a fixed part inside an attribute.
    pub(in crate::backend) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).expect("messages here are short");
        if let Some(place) = self.bytes.get_mut(..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        if let Some(place) = self.bytes.get_mut(8..12) {
            place.copy_from_slice(&sequence.to_ne_bytes());
        }
        self.bytes
    }
}

/// A message that came: its kind and what is behind the header.
pub(in crate::backend) type Answer = (u16, Vec<u8>);

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(in crate::backend) struct Socket {
    socket: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses and routes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(in crate::backend) fn route() -> io::Result<Self> {
        Self::open(None)
    }

    /// For the packet filter.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(in crate::backend) fn netfilter() -> io::Result<Self> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        // The kernel answers at once or not at all; a wait without end would take the thread with it.
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(std::time::Duration::from_secs(5)),
        )?;
        Ok(Self { socket, sequence: 1 })
    }

    /// Carries out one request.
    ///
    /// # Errors
    /// What the kernel says.
    pub(in crate::backend) fn request(&mut self, message: Message) -> io::Result<()> {
        self.batch(vec![message], 1)
    }

    /// Sends messages in one piece and waits for `answers` acknowledgements.
    ///
    /// # Errors
    /// The first thing that the kernel refuses.
    pub(in crate::backend) fn batch(&mut self, messages: Vec<Message>, answers: usize) -> io::Result<()> {
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence += 1;
            bytes.extend(message.finish(self.sequence));
        }
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut left = answers;
        while left > 0 {
            for (kind, payload) in self.receive()? {
                if kind == ERROR {
                    acknowledged(&payload)?;
                    left = left.saturating_sub(1);
                }
            }
        }
        Ok(())
    }

    /// Asks for a list.
    ///
    /// # Errors
    /// What the kernel says.
    pub(in crate::backend) fn dump(&mut self, kind: u16, fixed: &[u8]) -> io::Result<Vec<Answer>> {
        self.sequence += 1;
        let bytes = Message::new(kind, DUMP, fixed).finish(self.sequence);
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let mut list = Vec::new();
        loop {
            for (kind, payload) in self.receive()? {
                match kind {
                    DONE => return Ok(list),
                    ERROR => {
                        acknowledged(&payload)?;
                        return Ok(list);
                    }
                    _ => list.push((kind, payload)),
                }
            }
        }
    }

    /// Asks for one thing.
    ///
    /// # Errors
    /// What the kernel says.
    pub(in crate::backend) fn get(&mut self, message: Message) -> io::Result<Answer> {
        self.sequence += 1;
        rustix::net::send(&self.socket, &message.finish(self.sequence), SendFlags::empty())?;
        let mut found = None;
        loop {
            for (kind, payload) in self.receive()? {
                if kind == ERROR {
                    acknowledged(&payload)?;
                    return found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
                }
                found = Some((kind, payload));
            }
        }
    }

    fn receive(&mut self) -> io::Result<Vec<Answer>> {
        // Twice the kernel's own page of answers.
        let mut buffer = vec![0; 64 * 1024];
        let (length, _) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
        Ok(split(buffer.get(..length).unwrap_or_default()))
    }
}

/// Messages of one datagram.
fn split(mut bytes: &[u8]) -> Vec<Answer> {
    let mut messages = Vec::new();
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = length as usize;
        let Some(payload) = bytes.get(HEADER..length) else { break };
        messages.push((kind, payload.to_vec()));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

fn acknowledged(payload: &[u8]) -> io::Result<()> {
    match u32_at(payload, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::from(io::ErrorKind::InvalidData)),
    }
}

/// Attributes behind a fixed part of `skip` bytes.
pub(in crate::backend) fn attributes(payload: &[u8], skip: usize) -> Vec<(u16, &[u8])> {
    let mut rest = payload.get(skip..).unwrap_or_default();
    let mut list = Vec::new();
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let Some(value) = rest.get(4..length) else { break };
        list.push((kind & 0x3fff, value));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    list
}

pub(in crate::backend) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(in crate::backend) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_can_be_read_again() {
        let bytes = Message::new(16, CREATE, &[7; 16])
            .text(3, "eth0")
            .nested(18, |inner| inner.text(1, "veth").nested(2, |inner| inner.raw(&[1; 16]).number(4, 1400)))
            .finish(9);
        let messages = split(&bytes);
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].0, 16);
        let outer = attributes(&messages[0].1, 16);
        assert_eq!(outer[0], (3, b"eth0\0".as_slice()));
        let info = attributes(outer[1].1, 0);
        assert_eq!(info[0].1, b"veth\0");
        assert_eq!(attributes(info[1].1, 16), [(4, 1400u32.to_ne_bytes().as_slice())]);
    }

    #[test]
    fn cut_off_messages_end_the_reading() {
        assert!(split(&[1, 0, 0]).is_empty());
        assert!(attributes(&[200, 0, 1, 0, 5], 0).is_empty());
        assert!(attributes(&[0, 0, 1, 0, 5, 0, 0, 0], 0).is_empty());
    }
}
