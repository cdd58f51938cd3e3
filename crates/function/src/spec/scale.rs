//! How many instances a Function has, and for how long.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::values::{HumanDuration, ValueError};

/// How many instances there are, and for how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Scale {
    /// The fewest instances, kept ready whatever the traffic, 0 to 1000. 0: none when there is no traffic.
    pub min: u32,
    /// The most instances, 1 to 1000.
    pub max: u32,
    /// Instances of a new Revision that must come up before it gets traffic, at most `max`. 0: a new Revision is not tried.
    pub initial: u32,
    /// The fewest instances while there is any call at all, up to `max`; none are kept for it when there is none. 0 and 1: as many as the
    /// calls need. Without effect with `processModel: ephemeral`.
    pub activation: u32,
    /// What is measured: `concurrency` (calls running and waiting) or `rps` (requests per second, of which an instance is expected to take
    /// 200 at full use, and `concurrency.target` of that on average).
    pub metric: Metric,
    /// Over what time the traffic is averaged when there is no burst. A time, 6s to 1h.
    pub window: HumanDuration,
    /// How long instances that were needed are kept though they are no longer, where that is longer than `window`; the last one, after the
    /// last call, where it is longer than that one would stay. A time, 0s to 1h.
    pub scale_down_delay: HumanDuration,
    /// How long an instance may be idle before it is stopped, with `keepAlive: fixed`. A time, 1s to 24h.
    pub idle_timeout: HumanDuration,
    /// How it is decided how long an idle instance stays: `fixed` (for `idleTimeout`) or `learned` (from the times between this
    /// function's calls). Left out: learned, and fixed as long as nothing is learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-hearth-default" = Scale::DEFAULT_KEEP_ALIVE))]
    pub keep_alive: Option<KeepAlive>,
    /// How long an instance may be idle before it is frozen; a time, or `off` to keep it running. The next request thaws it, in well under
    /// a millisecond; timers of its own stand still meanwhile. Left out: 10s where instances can be frozen.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-hearth-default" = Scale::DEFAULT_PAUSE))]
    pub pause: Option<Pause>,
    /// Times in which more than `min` instances are kept ready whatever the traffic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reserved: Vec<ReservedWindow>,
}

impl Default for Scale {
    fn default() -> Self {
        // A 60 s window and an initial scale of 1 are Knative's defaults. At most 20 instances is OpenFaaS's default: a limit that a
        // runaway client meets before the machine does. 60 s of idleness is Knative's window without its grace of 30 s.
        Self {
            min: 0,
            max: 20,
            initial: 1,
            activation: 0,
            metric: Metric::Concurrency,
            window: HumanDuration::from_secs(60),
            scale_down_delay: HumanDuration::from_secs(0),
            idle_timeout: HumanDuration::from_secs(60),
            keep_alive: None,
            pause: None,
            reserved: Vec::new(),
        }
    }
}

impl Scale {
    /// The time of idleness after which an instance is frozen, when the manifest does not say.
    pub const DEFAULT_PAUSE: HumanDuration = HumanDuration::from_secs(10);

    /// Requests per second that an instance is expected to take at full use, with [`Metric::Rps`]: Knative's
    /// `requests-per-second-target-default`. `concurrency.target` is a share of it.
    pub const FULL_RPS: NonZeroU32 = NonZeroU32::new(200).expect("200 is not 0");

    /// How it is decided how long an idle instance stays, when the manifest does not say.
    pub const DEFAULT_KEEP_ALIVE: KeepAlive = KeepAlive::Learned;

    /// How it is decided how long an idle instance stays.
    #[must_use]
    pub fn keep_alive(&self) -> KeepAlive {
        self.keep_alive.unwrap_or(Self::DEFAULT_KEEP_ALIVE)
    }

    /// When an idle instance is frozen.
    #[must_use]
    pub fn pause(&self) -> Pause {
        self.pause.unwrap_or(Pause::After(Self::DEFAULT_PAUSE))
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Metric {
    /// Calls running and waiting.
    #[default]
    Concurrency,
    /// Requests per second.
    Rps,
}

/// How it is decided how long an idle instance stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum KeepAlive {
    /// For `idleTimeout`.
    Fixed,
    /// By the times between the function's calls.
    Learned,
}

/// When an idle instance is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pause {
    /// Never.
    Off,
    /// After so much idleness.
    After(HumanDuration),
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::After(time) => time.fmt(f),
        }
    }
}

impl FromStr for Pause {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let or_off = |error: ValueError| ValueError { fix: format!("{}, or off", error.fix), ..error };
        text.parse().map(Self::After).map_err(or_off)
    }
}

impl Serialize for Pause {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pause {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Pause;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time or off")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Pause, E> {
                text.parse().map_err(E::custom)
            }
            // kubectl reads YAML 1.1, where a plain `off` is the boolean.
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Pause, E> {
                if on { Err(E::custom("write a time, as in 10s, or off")) } else { Ok(Pause::Off) }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Pause {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Pause".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // A text or a boolean is something that a structural schema cannot say.
        json_schema!({ "x-kubernetes-preserve-unknown-fields": true, "x-hearth-kind": "time or off" })
    }
}

/// A time in which a number of instances is kept ready whatever the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReservedWindow {
    /// When it begins, in UTC: minute, hour, day of the month, month, day of the week.
    pub schedule: String,
    /// How long it lasts. A time.
    pub duration: HumanDuration,
    /// How many instances are kept, at most `max`; of windows that overlap, the most.
    pub count: u32,
}
