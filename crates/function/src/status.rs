//! What is observed of a Function: the `status` of its resource.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is observed of a Function.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FunctionStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the function answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The Revision that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_revision: Option<String>,
    /// The Revision made last, whether it came up or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_revision: Option<String>,
    /// How many instances there are.
    pub instances: InstanceCounts,
    /// What holds of the function: Ready, Built, RoutesReady.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How many instances a Function has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceCounts {
    /// That can take calls, the busy ones among them.
    pub ready: u32,
    /// That run at least one call.
    pub busy: u32,
    /// That are being started.
    pub starting: u32,
    /// That are frozen.
    pub paused: u32,
}

/// Something that holds of a resource, or does not; the shape is that of Kubernetes conditions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub condition_type: ConditionType,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// A word for programs, as in `BuildFailed`.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// Since when `status` is what it is.
    #[schemars(with = "String")]
    pub last_transition_time: Time,
    /// The generation of the spec that it speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// What a condition is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ConditionType {
    /// The function answers, with the spec as it is.
    Ready,
    /// Its code is there, with its dependencies.
    Built,
    /// It has every route it asks for.
    RoutesReady,
}

impl fmt::Display for ConditionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "Ready",
            Self::Built => "Built",
            Self::RoutesReady => "RoutesReady",
        })
    }
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ConditionStatus {
    /// It does.
    True,
    /// It does not.
    False,
    /// Not known yet.
    Unknown,
}

impl fmt::Display for ConditionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        })
    }
}

/// Puts `condition` in the place of the one of its type. Its `last_transition_time` is kept from before when the status is the
/// same, so that setting a condition again changes nothing.
pub fn set_condition(conditions: &mut Vec<Condition>, mut condition: Condition) {
    match conditions.iter_mut().find(|known| known.condition_type == condition.condition_type) {
        Some(known) => {
            if known.status == condition.status {
                condition.last_transition_time = known.last_transition_time.clone();
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
}

impl FunctionStatus {
    /// The condition of this type.
    #[must_use]
    pub fn condition(&self, condition_type: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.condition_type == condition_type)
    }

    /// Whether the function answers.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.condition(ConditionType::Ready).is_some_and(|ready| ready.status == ConditionStatus::True)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(status: ConditionStatus, seconds: i64) -> Condition {
        let time =
            serde_json::from_value(serde_json::json!(format!("2026-01-01T00:00:{seconds:02}Z"))).unwrap();
        Condition {
            condition_type: ConditionType::Ready,
            status,
            reason: "Reason".to_owned(),
            message: String::new(),
            last_transition_time: time,
            observed_generation: None,
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut status = FunctionStatus::default();
        assert!(!status.is_ready());
        set_condition(&mut status.conditions, ready(ConditionStatus::False, 1));
        set_condition(&mut status.conditions, ready(ConditionStatus::False, 2));
        assert_eq!(status.conditions, [ready(ConditionStatus::False, 1)]);
        set_condition(&mut status.conditions, ready(ConditionStatus::True, 3));
        assert_eq!(status.conditions, [ready(ConditionStatus::True, 3)]);
        assert!(status.is_ready());
    }
}
