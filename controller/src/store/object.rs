//! The kinds of objects that are stored.

use std::fmt;
use std::sync::Arc;

use hearth_function::{Function, Revision};
use kube::api::ObjectMeta;
use serde::{Serialize, de::DeserializeOwned};

use super::managers;

/// A kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Functions.
    Function,
    /// Revisions.
    Revision,
}

impl Kind {
    /// As it stands in paths: `functions`.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Function => "functions",
            Self::Revision => "revisions",
        }
    }

    pub(super) fn from_plural(plural: &str) -> Option<Self> {
        [Self::Function, Self::Revision].into_iter().find(|kind| kind.plural() == plural)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Function => "Function",
            Self::Revision => "Revision",
        })
    }
}

/// An object that the store can hold; implemented for [`Function`] and [`Revision`] only.
pub trait Object:
    kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
    + Clone
    + fmt::Debug
    + PartialEq
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Its kind.
    const KIND: Kind;

    /// Whether its spec is the same as that of `other`.
    fn same_spec(&self, other: &Self) -> bool;

    /// Takes the status of `other`.
    fn take_status(&mut self, other: &Self);

    /// Its status as it is written; `None`: it has none, or none that says anything.
    fn said_status(&self) -> Option<serde_json::Value>;

    #[doc(hidden)]
    fn unreadable(metadata: ObjectMeta, error: &str) -> Option<Self>;

    #[doc(hidden)]
    fn wrap(object: Arc<Self>) -> Stored;

    #[doc(hidden)]
    fn peel(stored: &Stored) -> Option<&Arc<Self>>;
}

/// An object of any kind. Opaque outside of the store.
#[derive(Debug, Clone)]
pub enum Stored {
    #[doc(hidden)]
    Function(Arc<Function>),
    #[doc(hidden)]
    Revision(Arc<Revision>),
}

macro_rules! object {
    ($name:ident, $unreadable:expr) => {
        impl Object for $name {
            const KIND: Kind = Kind::$name;

            fn same_spec(&self, other: &Self) -> bool {
                self.spec == other.spec
            }

            fn take_status(&mut self, other: &Self) {
                self.status.clone_from(&other.status);
            }

            fn said_status(&self) -> Option<serde_json::Value> {
                let status = self.status.as_ref()?;
                (*status != Default::default()).then(|| serde_json::to_value(status).ok()).flatten()
            }

            fn unreadable(metadata: ObjectMeta, error: &str) -> Option<Self> {
                let placeholder: fn(ObjectMeta) -> Option<Self> = $unreadable;
                let mut object = placeholder(metadata)?;
                mark_unreadable(&mut object.metadata, error);
                Some(object)
            }

            fn wrap(object: Arc<Self>) -> Stored {
                Stored::$name(object)
            }

            fn peel(stored: &Stored) -> Option<&Arc<Self>> {
                match stored {
                    Stored::$name(object) => Some(object),
                    _ => None,
                }
            }
        }
    };
}
object!(Function, |metadata| {
    // Never run: whoever looks at it is told that it cannot be read, before anything else.
    let spec = serde_json::json!({ "runtime": "exec", "source": {}, "command": ["unreadable"] });
    let spec = serde_json::from_value(spec).ok()?;
    Some(Function { metadata, spec, status: None })
});
// Hearth alone writes Revisions; nobody is told of one that cannot be read.
object!(Revision, |_| None);

/// In memory only: why the spec of an object cannot be read.
const UNREADABLE: &str = "hearth.dev/unreadable";

/// Notes that what the API server has as the spec cannot be read, and that the spec beside it is an older one, or none at all.
pub(super) fn mark_unreadable(metadata: &mut ObjectMeta, error: &str) {
    metadata.annotations.get_or_insert_default().insert(UNREADABLE.to_owned(), error.to_owned());
}

/// Why the spec of an object cannot be read, if it cannot: it was written under another definition of the resource.
#[must_use]
pub fn unreadable(metadata: &ObjectMeta) -> Option<&str> {
    metadata.annotations.as_ref()?.get(UNREADABLE).map(String::as_str)
}

/// Where an object is kept: kind, namespace, name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Key {
    /// The key of its row: `functions/default/hello`.
    pub(super) fn row(&self) -> String {
        format!("{}/{}/{}", self.kind.plural(), self.namespace, self.name)
    }

    pub(super) fn qualified(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl Stored {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Function(_) => Kind::Function,
            Self::Revision(_) => Kind::Revision,
        }
    }

    pub(super) fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Function(object) => &object.metadata,
            Self::Revision(object) => &object.metadata,
        }
    }

    pub(super) fn key(&self) -> Key {
        let metadata = self.metadata();
        Key {
            kind: self.kind(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    pub(super) fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Function(object) => &mut Arc::make_mut(object).metadata,
            Self::Revision(object) => &mut Arc::make_mut(object).metadata,
        }
    }

    /// Takes the status of another of the same kind, if that has one; whether it is another.
    pub(super) fn take_status_of(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Self::Function(object), Self::Function(other))
                if other.status.is_some() && object.status != other.status =>
            {
                Arc::make_mut(object).take_status(other);
                true
            }
            (Self::Revision(object), Self::Revision(other))
                if other.status.is_some() && object.status != other.status =>
            {
                Arc::make_mut(object).take_status(other);
                true
            }
            _ => false,
        }
    }

    /// The same object at another version of the store.
    pub(super) fn at_version(&self, version: u64) -> Self {
        let mut copy = self.clone();
        match &mut copy {
            Self::Function(object) => {
                Arc::make_mut(object).metadata.resource_version = Some(version.to_string())
            }
            Self::Revision(object) => {
                Arc::make_mut(object).metadata.resource_version = Some(version.to_string())
            }
        }
        copy
    }

    pub(super) fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&match self {
            Self::Function(object) => managers::to_json(object.as_ref())?,
            Self::Revision(object) => managers::to_json(object.as_ref())?,
        })
    }

    pub(super) fn from_json(kind: Kind, text: &[u8]) -> serde_json::Result<Self> {
        let mut object = match kind {
            Kind::Function => Self::Function(Arc::new(serde_json::from_slice(text)?)),
            Kind::Revision => Self::Revision(Arc::new(serde_json::from_slice(text)?)),
        };
        managers::pack(object.metadata_mut());
        Ok(object)
    }
}
