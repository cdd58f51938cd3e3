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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;
    use schemars::JsonSchema;

    use super::*;

    fn pattern<T: JsonSchema>() -> Regex {
        let schema = T::json_schema(&mut schemars::SchemaGenerator::default());
        Regex::new(schema.get("pattern").and_then(serde_json::Value::as_str).unwrap()).unwrap()
    }

    /// What an API server goes by must not be stricter than what reads the value.
    fn fits<T: JsonSchema + std::str::FromStr>(text: &str) -> bool {
        text.parse::<T>().is_err() || pattern::<T>().is_match(text)
    }

    proptest! {
        #[test]
        fn what_is_read_fits_the_pattern_of_the_schema(
            text in "([0-9]{1,4}([.][0-9]{1,3})?(h|m|s|ms|Ti|Gi|Mi|Ki|T|G|M|k|%|)){1,4}",
            runtime in "(nodejs|python|http|exec|provided)([0-9]{0,2}|[0-9][.][0-9]{1,2})",
        ) {
            prop_assert!(fits::<HumanDuration>(&text) && fits::<ByteSize>(&text), "{text}");
            prop_assert!(fits::<CpuMillis>(&text) && fits::<Percent>(&text), "{text}");
            prop_assert!(fits::<RuntimeName>(&runtime), "{runtime}");
        }
    }

    #[test]
    fn mistakes_do_not_fit_it() {
        let refused = |pattern: Regex, texts: &[&str]| texts.iter().all(|text| !pattern.is_match(text));
        assert!(refused(pattern::<HumanDuration>(), &["5", "5 s", "5sec", "1s1h", "-5s", "1.5s"]));
        assert!(refused(pattern::<ByteSize>(), &["", "128MB", "128 Mi", "-1", "Mi"]));
        assert!(refused(pattern::<CpuMillis>(), &["", "half", "500 m", "-1"]));
        assert!(refused(pattern::<Percent>(), &["", "0.7", "70 %"]));
        assert!(refused(pattern::<RuntimeName>(), &["node", "nodejs20.1", "python3", "ruby", "Nodejs"]));
    }
}
