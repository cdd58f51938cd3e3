//! What a watch brings, read: an object, or why it is none. One that cannot be read hides no other.

use std::borrow::Cow;

use hearth_function::{Side, from_value};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::object::{Kind, Object};

/// An object, or what is known of one that cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Read<O>(pub(super) Result<O, Unreadable>);

/// An object that cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    pub(super) metadata: ObjectMeta,
    /// Why, for people: each field that is wrong.
    pub(super) why: String,
}

impl<'de, O: Object> Deserialize<'de> for Read<O> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(Self(match O::deserialize(&value) {
            Ok(object) => Ok(object),
            Err(error) => {
                let metadata = value.get("metadata").map(ObjectMeta::deserialize);
                let metadata =
                    metadata.unwrap_or_else(|| Ok(ObjectMeta::default())).map_err(D::Error::custom)?;
                Err(Unreadable { metadata, why: why(O::KIND, &value, &error) })
            }
        }))
    }
}

/// Which fields are wrong, and how; `error` does not know where it was.
fn why(kind: Kind, value: &Value, error: &serde_json::Error) -> String {
    let problems = match kind {
        Kind::Function => from_value(value, Side::Cluster).err().unwrap_or_default(),
        Kind::Revision => Vec::new(),
    };
    if problems.is_empty() {
        return format!(
            "this Hearth cannot read it: {error}; was it applied under the resource definitions of another version?"
        );
    }
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl<O: Object> Resource for Read<O> {
    type DynamicType = O::DynamicType;
    type Scope = O::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        O::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        O::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        O::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        O::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|unreadable| &unreadable.metadata, O::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|unreadable| &mut unreadable.metadata, O::meta_mut)
    }
}
