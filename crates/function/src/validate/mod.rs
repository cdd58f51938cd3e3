//! The rules that a Function keeps beyond the form of its fields: how fields fit together, what names and sizes make sense, and what is
//! not built yet. Every problem is named, not only the first.

mod code;
mod kubernetes;
mod metadata;
mod numbers;
mod triggers;
mod unbuilt;

pub(crate) use metadata::LONGEST_NAME;
pub use metadata::{is_label_value, is_qualified};
pub(crate) use numbers::{DAY, LEAST_WINDOW, MOST_CONCURRENCY, MOST_INSTANCES};

use crate::problem::Problem;
use crate::spec::Function;
use crate::values::HumanDuration;

/// For whom a Function is validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A client, which may name a directory of its own as the source.
    Client,
    /// A server of its own, which never opens a path for a client and has no Secrets and ConfigMaps.
    Server,
    /// A controller in a cluster: a server whose instances are Pods.
    Cluster,
}

/// Everything that is wrong with `function`, in the order of its fields; empty when it can be run.
#[must_use]
pub fn validate(function: &Function, side: Side) -> Vec<Problem> {
    let mut found = Problems::default();
    metadata::check(&function.metadata, &mut found);
    code::check(&function.spec, side, &mut found);
    numbers::check(&function.spec, &mut found);
    kubernetes::check(&function.spec, side, &mut found);
    triggers::check(&function.spec, &mut found);
    unbuilt::check(&function.spec, &mut found);
    found.list
}

/// What a manifest with this `spec.scale.idleTimeout` would be told; for commands that take one.
#[must_use]
pub fn validate_idle_timeout(timeout: HumanDuration) -> Option<Problem> {
    let mut found = Problems::default();
    numbers::idle_timeout(timeout, &mut found);
    found.list.pop()
}

/// Problems on their way to the caller.
#[derive(Debug, Default)]
struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    fn add(&mut self, path: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        self.list.push(Problem::new(path, message, Some(fix.into())));
    }

    /// The same of a problem that these other fields have a part in.
    fn add_from(
        &mut self,
        others: &'static [&'static str],
        path: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.list.push(Problem::new(path, message, Some(fix.into())).following_from(others));
    }
}
