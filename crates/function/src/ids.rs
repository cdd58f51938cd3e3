//! Identifiers. Newtypes over a shared string, so that a key cannot be mistaken for another and a clone costs a counter.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A text that is not an identifier of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct IdError {
    what: &'static str,
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes `text` as an identifier of this kind.
            ///
            /// # Errors
            /// When `text` does not have the form that the type's documentation gives.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) { Ok(Self(Arc::from(text))) } else { Err(IdError { what: $what, text: text.to_owned() }) }
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        // By hand: serde's `into` would make a `String` of it first.
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.as_ref().to_owned()
            }
        }
    };
}

id!(
    /// A Function: `namespace/name`, each an RFC 1123 label.
    FunctionId,
    "a function's namespace/name",
    |text| text.split_once('/').is_some_and(|(namespace, name)| is_label(namespace) && is_label(name))
);
id!(
    /// A Revision: `namespace/name`, as in `default/hello-00003`.
    RevisionId,
    "a revision's namespace/name",
    |text| text.split_once('/').is_some_and(|(namespace, name)| is_label(namespace) && is_label(name))
);
id!(
    /// An instance: an RFC 1123 label of at most 20 characters (it is part of a socket's path, which has 108 bytes).
    InstanceId,
    "an instance's name",
    |text| text.len() <= 20 && is_label(text)
);

impl FunctionId {
    /// The namespace, before the slash.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name, after the slash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

impl RevisionId {
    /// The namespace, before the slash.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.0.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name, after the slash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }
}

/// The most characters of a label.
pub(crate) const LONGEST_LABEL: usize = 63;

/// RFC 1123 label: 1 to 63 of `a-z`, `0-9` and `-`, a letter or digit at both ends.
pub(crate) fn is_label(text: &str) -> bool {
    let edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=LONGEST_LABEL).contains(&text.len())
        && text.bytes().all(|byte| edge(&byte) || byte == b'-')
        && text.as_bytes().first().is_some_and(edge)
        && text.as_bytes().last().is_some_and(edge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_the_form_of_its_kind() {
        assert_eq!(FunctionId::parse("default/hello").map(|id| id.name().to_owned()), Ok("hello".to_owned()));
        for bad in ["hello", "Default/hello", "default/", "/hello", "default/-x", "a/b/c"] {
            assert!(FunctionId::parse(bad).is_err(), "{bad}");
        }
        assert!(InstanceId::parse(&"x".repeat(21)).is_err());
    }
}
