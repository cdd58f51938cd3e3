//! Hosts that claims name: whose each is, and what is claimed there.
//!
//! A host belongs to the namespace that has claimed it first, by the age of its Functions: claims of other namespaces there are refused
//! ([`Refused`]), whatever their paths. So nobody takes calls of another's host by a longer path, or by another method (INV-23).
//!
//! `*.example.com` stands for one more label, and is a host of its own: what is claimed for `a.example.com` is more specific and comes
//! first, whoever is older. But whoever has `*.example.com` has all names below it that nobody older has: from then on another namespace
//! gets no `b.example.com`. Where both belong to one namespace, a path that nobody claims at the name itself is looked for at the wildcard; of
//! another's name the wildcard never takes a call.

use std::collections::HashMap;

use super::{Methods, Paths};

/// What a host with a wildcard begins with.
const WILDCARD: &str = "*.";

/// What is claimed for named hosts.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: HashMap<Box<str>, Host>,
    /// By what comes after [`WILDCARD`].
    wildcards: HashMap<Box<str>, Host>,
}

#[derive(Debug)]
struct Host {
    /// Whose it is.
    namespace: Box<str>,
    paths: Paths,
}

/// A host that belongs to another namespace.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// Whose it is.
    pub(super) namespace: String,
    /// What that namespace has claimed: the host, or the wildcard that stands for it.
    pub(super) host: String,
}

impl Hosts {
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcards.is_empty()
    }

    /// What is claimed for `host`, for one more claim of `namespace`. Older claims come first.
    pub(super) fn enter(&mut self, host: &str, namespace: &str) -> Result<&mut Paths, Refused> {
        let host = host.to_ascii_lowercase();
        let refused =
            |host: String, owner: &Host| Err(Refused { namespace: owner.namespace.to_string(), host });
        let (hosts, name) = match host.strip_prefix(WILDCARD) {
            Some(domain) => (&mut self.wildcards, domain),
            None => (&mut self.exact, &*host),
        };
        match hosts.get(name) {
            Some(owner) if *owner.namespace != *namespace => return refused(host, owner),
            Some(_) => {}
            // Whoever has a name keeps it, though a wildcard above it came later; who is new there meets the wildcard.
            None if !host.starts_with(WILDCARD) => {
                let above = above(name).and_then(|domain| Some((domain, self.wildcards.get(domain)?)));
                if let Some((domain, owner)) = above
                    && *owner.namespace != *namespace
                {
                    return refused(format!("{WILDCARD}{domain}"), owner);
                }
            }
            None => {}
        }
        let hosts = if host.starts_with(WILDCARD) { &mut self.wildcards } else { &mut self.exact };
        let new = || Host { namespace: namespace.into(), paths: Paths::default() };
        Ok(&mut hosts.entry(name.into()).or_insert_with(new).paths)
    }

    /// Who claims this path at this host, and how much of it. `host` is without port.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<(&Methods, usize)> {
        if self.is_empty() {
            return None;
        }
        // A dot at the end says that the name is whole; it is the same name.
        let host = host.strip_suffix('.').unwrap_or(host);
        // Host names rarely come in capitals: no copy for those that do not.
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.find_lower(&host.to_ascii_lowercase(), path)
        } else {
            self.find_lower(host, path)
        }
    }

    fn find_lower(&self, host: &str, path: &str) -> Option<(&Methods, usize)> {
        let exact = self.exact.get(host);
        if let Some(found) = exact.and_then(|exact| exact.paths.get(path)) {
            return Some(found);
        }
        let wildcard = self.wildcards.get(above(host)?)?;
        if exact.is_some_and(|exact| exact.namespace != wildcard.namespace) {
            return None;
        }
        wildcard.paths.get(path)
    }
}

/// What comes after the first label.
fn above(host: &str) -> Option<&str> {
    let (label, domain) = host.split_once('.')?;
    (!label.is_empty()).then_some(domain)
}
