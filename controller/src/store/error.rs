//! What can go wrong with the store.

use std::path::PathBuf;

use super::object::Kind;
use super::plan::ResourceVersion;

/// Why the store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No object of this name.
    #[error("{} \"{name}\" not found", kind.plural())]
    NotFound {
        /// Of this kind.
        kind: Kind,
        /// `namespace/name`.
        name: String,
    },
    /// There is an object of this name.
    #[error("{} \"{name}\" already exists", kind.plural())]
    AlreadyExists {
        /// Of this kind.
        kind: Kind,
        /// `namespace/name`.
        name: String,
    },
    /// The object is not what the caller took it for: read it again and apply the change to what is there now.
    #[error("{} \"{name}\" has changed: {detail}", kind.plural())]
    Conflict {
        /// Of this kind.
        kind: Kind,
        /// `namespace/name`.
        name: String,
        /// What differs.
        detail: String,
    },
    /// The object cannot be stored as it is.
    #[error("{} cannot be stored: {detail}", kind.plural())]
    Invalid {
        /// Of this kind.
        kind: Kind,
        /// What is missing.
        detail: &'static str,
    },
    /// The object is being deleted, and gets no new finalizers.
    #[error("{} \"{name}\" is being deleted, and gets no new finalizers: {}", kind.plural(), finalizers.join(", "))]
    Deleting {
        /// Of this kind.
        kind: Kind,
        /// `namespace/name`.
        name: String,
        /// Which it was to get.
        finalizers: Vec<String>,
    },
    /// The history does not reach back to this version: list again. Kubernetes answers 410 Gone.
    #[error("resource version {since} is too old: the history begins at {oldest}")]
    Expired {
        /// What was asked for.
        since: ResourceVersion,
        /// The oldest version that a watch can begin at.
        oldest: ResourceVersion,
    },
    /// Another process has the database open.
    #[error("{} is in use by another process: is another hearth running with this data directory?", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file was written by a later version of Hearth.
    #[error("{} has schema version {found}, and this hearth knows {known}: use a newer hearth", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: u64,
        /// The latest that this program knows.
        known: u64,
    },
    /// What the database holds cannot be understood.
    #[error("the store is damaged at {at}")]
    Corrupt {
        /// Where, as in `functions/default/hello`.
        at: String,
        /// What was found.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Reading or writing failed; nothing of the change was stored (in a cluster: as far as is known).
    #[error("cannot {doing}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API server does not take this write, and would not if it were sent again: permissions, a quota, a namespace that is going.
    #[error("{} \"{name}\" is refused by the API server: {detail}", kind.plural())]
    Refused {
        /// Of this kind.
        kind: Kind,
        /// `namespace/name`.
        name: String,
        /// What it says.
        detail: String,
    },
    /// The definition of the resource in the cluster is not this Hearth's: what was written was not kept as it was, or was not taken.
    #[error(
        "{}.hearth.dev is defined in this cluster by another version of Hearth ({detail}): run `hearth crd | kubectl apply -f -`, with this version",
        kind.plural()
    )]
    Outdated {
        /// Of this kind.
        kind: Kind,
        /// What shows it.
        detail: String,
    },
    /// There are no records in a cluster.
    #[error("small records are kept by a standalone server only")]
    NoRecords,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
