//! Which Function answers a request. The table is immutable: a change makes a new one, which is swapped in whole.
//!
//! A claim is a host (or any), a path (`Exact`, or `Prefix` on segment borders) and methods (or any). The most specific claim wins, in
//! this order: its host equals the request's before a wildcard, and that before none; `Exact` before `Prefix`; the longer prefix before
//! the shorter. Only then the method is looked at: a path that exists with other methods is [`Match::MethodNotAllowed`]. `HEAD` goes where
//! `GET` goes. Two Functions with the same claim: the older keeps it, and the younger gets a [`Conflict`]. So does who claims a host that
//! belongs to another namespace (`hosts.rs`); claims without a host are in one space for all.
//!
//! Every Function also answers at `/function/<namespace>/<name>` and below, whatever is claimed.

mod hosts;

use std::collections::HashMap;

use hearth_function::FunctionId;

use hosts::Hosts;

/// Below this path every Function answers: `/function/<namespace>/<name>/…`.
pub const FUNCTION_PREFIX: &str = "/function/";

/// How a claim's path is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathKind {
    /// The path and nothing else.
    Exact,
    /// The path and everything below it: `/a` matches `/a`, `/a/` and `/a/b`, but not `/ab`.
    Prefix,
}

/// What a Function's `http` trigger asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The host name without port, in any case; `*.` at its beginning stands for one more label; empty: every host.
    pub host: String,
    /// The path, from the slash on.
    pub path: String,
    /// How it is compared.
    pub kind: PathKind,
    /// Methods in upper case; empty: all.
    pub methods: Vec<String>,
}

/// A Function and what it asks for.
#[derive(Debug, Clone)]
pub struct Claimant<T> {
    /// Which Function.
    pub function: FunctionId,
    /// Its age: the smaller number is the older and keeps a route, or a host, that two claim. Equal: the smaller name.
    pub created: u64,
    /// What [`Table::find`] returns for it.
    pub target: T,
    /// Its routes.
    pub claims: Vec<Claim>,
}

/// A claim that somebody older holds already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The Function that does not get the route.
    pub function: FunctionId,
    /// What it asked for, less the methods that it did get.
    pub claim: Claim,
    /// Who holds it.
    pub holder: Holder,
}

/// Who has what a Function asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A Function that claims the same.
    Function(FunctionId),
    /// A namespace that the host belongs to.
    Namespace {
        /// Which.
        namespace: String,
        /// What it has claimed: that host, or the wildcard that stands for it.
        host: String,
    },
}

/// What a request meets.
#[derive(Debug, PartialEq, Eq)]
pub enum Match<'a, T> {
    /// A Function answers.
    Found {
        /// Its target.
        target: &'a T,
        /// How many bytes of the path are the prefix that matched, without a trailing slash; 0 for an exact path. The function gets this
        /// as `X-Forwarded-Prefix`, and the whole path all the same, but for one that begins with [`FUNCTION_PREFIX`].
        prefix: usize,
    },
    /// Nobody claims the path.
    NotFound,
    /// Somebody claims the path with other methods: the value of `Allow`.
    MethodNotAllowed {
        /// Methods, separated by `, `.
        allow: &'a str,
    },
}

/// The routes of all Functions.
#[derive(Debug)]
pub struct Table<T> {
    hosts: Hosts,
    any_host: Paths,
    /// `namespace/name` → index into `targets`.
    functions: HashMap<Box<str>, usize>,
    targets: Vec<(FunctionId, T)>,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Methods>,
    /// Keys without a trailing slash; the root is the empty key.
    prefix: HashMap<Box<str>, Methods>,
}

/// Who answers which method on one path.
#[derive(Debug, Default)]
struct Methods {
    by_name: Vec<(Box<str>, usize)>,
    all: Option<usize>,
    allow: String,
}

impl Methods {
    fn get(&self, method: &str) -> Option<usize> {
        let named =
            |name: &str| self.by_name.iter().find(|(known, _)| &**known == name).map(|(_, target)| *target);
        let by_name = named(method).or_else(|| if method == "HEAD" { named("GET") } else { None });
        by_name.or(self.all)
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            hosts: Hosts::default(),
            any_host: Paths::default(),
            functions: HashMap::new(),
            targets: Vec::new(),
        }
    }
}

impl<T> Table<T> {
    /// Builds the table and says which claims were lost to older Functions. The order of `claimants` does not matter.
    #[must_use]
    pub fn build(mut claimants: Vec<Claimant<T>>) -> (Self, Vec<Conflict>) {
        claimants.sort_by(|a, b| (a.created, &a.function).cmp(&(b.created, &b.function)));
        let mut table = Self::default();
        let mut conflicts = Vec::new();
        for Claimant { function, target, claims, .. } in claimants {
            let index = table.targets.len();
            table.functions.insert(function.as_str().into(), index);
            table.targets.push((function.clone(), target));
            for claim in claims {
                if let Some((claim, holder)) = table.claim(&function, index, claim) {
                    conflicts.push(Conflict { function: function.clone(), claim, holder });
                }
            }
        }
        (table, conflicts)
    }

    /// Enters a claim; returns what of it somebody else holds already.
    fn claim(&mut self, function: &FunctionId, index: usize, claim: Claim) -> Option<(Claim, Holder)> {
        let paths = if claim.host.is_empty() {
            &mut self.any_host
        } else {
            match self.hosts.enter(&claim.host, function.namespace()) {
                Ok(paths) => paths,
                Err(hosts::Refused { namespace, host }) => {
                    return Some((claim, Holder::Namespace { namespace, host }));
                }
            }
        };
        let methods = match claim.kind {
            PathKind::Exact => paths.exact.entry(claim.path.as_str().into()).or_default(),
            PathKind::Prefix => paths.prefix.entry(claim.path.trim_end_matches('/').into()).or_default(),
        };
        let mut lost = Vec::new();
        let mut holder = None;
        if claim.methods.is_empty() {
            // Whoever asks for all methods gets those that nobody older has asked for by name.
            match methods.all {
                Some(other) if other != index => holder = Some(other),
                _ => methods.all = Some(index),
            }
        }
        for method in &claim.methods {
            let held =
                methods.by_name.iter().find(|(known, _)| **known == **method).map(|(_, target)| *target);
            match held.or(methods.all) {
                Some(other) if other != index => {
                    holder = Some(other);
                    lost.push(method.clone());
                }
                _ if held.is_none() => methods.by_name.push((method.as_str().into(), index)),
                _ => {}
            }
        }
        let mut names: Vec<&str> = methods.by_name.iter().map(|(name, _)| &**name).collect();
        if names.contains(&"GET") && !names.contains(&"HEAD") {
            names.push("HEAD");
        }
        names.sort_unstable();
        methods.allow = names.join(", ");
        let (holder, _) = self.targets.get(holder?)?;
        Some((Claim { methods: lost, ..claim }, Holder::Function(holder.clone())))
    }

    /// Who answers this request. `host` is without port; `path` without query.
    #[must_use]
    pub fn find(&self, host: Option<&str>, path: &str, method: &str) -> Match<'_, T> {
        if let Some(rest) = path.strip_prefix(FUNCTION_PREFIX) {
            return self.find_function(rest);
        }
        let named = host.and_then(|host| self.hosts.find(host, path));
        let found = named.or_else(|| self.any_host.get(path));
        let Some((methods, prefix)) = found else { return Match::NotFound };
        match methods.get(method).and_then(|index| self.targets.get(index)) {
            Some((_, target)) => Match::Found { target, prefix },
            None => Match::MethodNotAllowed { allow: &methods.allow },
        }
    }

    /// The target of a Function.
    #[must_use]
    pub fn function(&self, function: &FunctionId) -> Option<&T> {
        let index = self.functions.get(function.as_str())?;
        self.targets.get(*index).map(|(_, target)| target)
    }

    /// The targets of all Functions.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        self.targets.iter().map(|(_, target)| target)
    }

    fn find_function(&self, rest: &str) -> Match<'_, T> {
        let mut slashes = rest.match_indices('/').map(|(at, _)| at);
        let end = slashes.nth(1).unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or_default();
        match self.functions.get(name).and_then(|index| self.targets.get(*index)) {
            Some((_, target)) => Match::Found { target, prefix: FUNCTION_PREFIX.len() + end },
            None => Match::NotFound,
        }
    }
}

impl Paths {
    fn get(&self, path: &str) -> Option<(&Methods, usize)> {
        if let Some(methods) = self.exact.get(path) {
            return Some((methods, 0));
        }
        if self.prefix.is_empty() {
            return None;
        }
        // From the whole path upwards, one segment less each time: the longest prefix is met first.
        let mut candidate = path;
        loop {
            if let Some(methods) = self.prefix.get(candidate) {
                return Some((methods, candidate.len()));
            }
            candidate = candidate.get(..candidate.rfind('/')?)?;
        }
    }
}

#[cfg(test)]
mod tests;
