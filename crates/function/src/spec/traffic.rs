//! How requests are divided among the Revisions of a Function.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::Percent;

/// A share of the requests for one Revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrafficTarget {
    /// The Revision, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// The latest Revision that is ready, in place of a name.
    #[serde(default)]
    pub latest: bool,
    /// Its share of the requests. A percentage; all shares together make 100%.
    pub percent: Percent,
    /// A name by which requests can ask for this Revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}
