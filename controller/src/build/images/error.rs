//! What goes wrong with an image, and whose fault it is.

use std::io;

use hearth_function::Digest;

use crate::build::bundles;
use crate::build::shelf::FileError;

/// Why an image is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What came is not what was announced.
    #[error(
        "the {what} is {actual} and not {expected} as announced: it was damaged on the way, or is another"
    )]
    WrongDigest {
        /// What.
        what: &'static str,
        /// The digest that was announced.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// It is larger than is allowed.
    #[error("{what} of the image has more than {limit} {unit}")]
    TooLarge {
        /// What of it.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// A layer holds something that it must not hold.
    #[error("the image's entry {path:?} {problem}")]
    Refused {
        /// Which entry.
        path: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The image is not as it must be.
    #[error("{0}")]
    Invalid(String),
    /// It uses something that is not built yet.
    #[error("{0}")]
    Unsupported(&'static str),
    /// Nobody has loaded it here.
    #[error("the image {0} is not on this server: load it with `hearth image load`")]
    NotLoaded(Digest),
    /// The registry did not give it.
    #[error("{what}: {fix}")]
    Registry {
        /// What happened.
        what: String,
        /// What to do.
        fix: &'static str,
        /// What was said.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + std::marker::Sync>>,
    },
    /// A layer is no archive, or it breaks off.
    #[error("a layer of the image is not a whole tar archive")]
    Archive(#[source] io::Error),
    /// It could not be received.
    #[error("the image could not be read")]
    Read(#[source] io::Error),
    /// What came could not be written.
    #[error("the image could not be stored")]
    Store(#[source] io::Error),
    /// The store's own file system failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// What an attempt came to that several have waited for.
    #[error(transparent)]
    Shared(std::sync::Arc<Error>),
    /// The task that unpacked it did not end by itself.
    #[error("unpacking the image was cut off")]
    CutOff,
}

impl Error {
    /// Whether the image, or whoever named it, is at fault (and neither this machine nor a registry).
    #[must_use]
    pub fn is_clients(&self) -> bool {
        match self {
            Self::WrongDigest { .. }
            | Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::Invalid(_)
            | Self::Unsupported(_)
            | Self::NotLoaded(_)
            | Self::Archive(_) => true,
            Self::Shared(error) => error.is_clients(),
            Self::Registry { .. } | Self::Read(_) | Self::Store(_) | Self::File(_) | Self::CutOff => false,
        }
    }
}

impl From<bundles::Error> for Error {
    fn from(error: bundles::Error) -> Self {
        match error {
            bundles::Error::File(error) => Self::File(error),
            bundles::Error::Archive(error) => Self::Archive(error),
            other => Self::Archive(io::Error::other(other)),
        }
    }
}
