//! The values that manifests are made of: sizes, times, shares, digests, names of runtimes and handlers.
//!
//! Each has one text form that it prints, and reads a few that people write. A text that is not understood gives a
//! [`ValueError`] with the fix.

mod cpu;
mod digest;
mod duration;
mod handler;
mod percent;
mod runtime;
mod size;

pub use cpu::CpuMillis;
pub use digest::{Digest, hex};
pub use duration::HumanDuration;
pub use handler::Handler;
pub use percent::Percent;
pub use runtime::RuntimeName;
pub use size::ByteSize;

/// A text that is not a value of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {fix}")]
pub struct ValueError {
    /// What is wrong, as in `"128 MB" is not a size`.
    pub what: String,
    /// What to write instead, as in `write 128Mi`.
    pub fix: String,
}

impl ValueError {
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}

/// Gives a value that has `FromStr` and `Display` its serde and schema forms. `numbers` says what a bare number means, if anything.
macro_rules! text_value {
    ($name:ident, kind: $kind:literal, schema: { $($schema:tt)* }, numbers: $numbers:expr) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str(concat!("a ", $kind))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<$name, E> {
                        let numbers: fn(&str) -> Result<$name, $crate::values::ValueError> = $numbers;
                        numbers(&number.to_string()).map_err(E::custom)
                    }
                    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<$name, E> {
                        let numbers: fn(&str) -> Result<$name, $crate::values::ValueError> = $numbers;
                        numbers(&number.to_string()).map_err(E::custom)
                    }
                    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<$name, E> {
                        let numbers: fn(&str) -> Result<$name, $crate::values::ValueError> = $numbers;
                        numbers(&number.to_string()).map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ $($schema)*, "x-hearth-kind": $kind })
            }
        }
    };
}
pub(crate) use text_value;
