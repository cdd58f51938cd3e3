//! What one instance may use, reach and do at once, and how it is called.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ProcessModel::{Ephemeral, Resident};
use crate::values::{ByteSize, CpuMillis, HumanDuration, Percent};

/// How the handler is called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Signature {
    /// Found out when the code is loaded.
    #[default]
    Auto,
    /// With an event and a context.
    Event,
    /// With Node's own request and response.
    Http,
    /// With a web Request.
    Fetch,
    /// As an ASGI application.
    Asgi,
    /// As a WSGI application.
    Wsgi,
}

impl Signature {
    /// As it is written in a manifest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Event => "event",
            Self::Http => "http",
            Self::Fetch => "fetch",
            Self::Asgi => "asgi",
            Self::Wsgi => "wsgi",
        }
    }
}

/// What an instance may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// Memory of one instance, the page cache and /tmp included; more ends it. A size, 16Mi (nodejs and python: 32Mi) to 1Ti.
    pub memory: ByteSize,
    /// Processor time of one instance, from the moment it is ready; a start is never throttled. Thousandths of a core (500m) or cores
    /// (2), from 10m. Left out: no quota, instances share what the machine has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuMillis>,
    /// Size of /tmp, which is in memory and counts against it. A size, 1Mi up to `memory`. Left out: 64Mi, or half of `memory` where that is less.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-hearth-default" = Resources::DEFAULT_TMP))]
    pub tmp: Option<ByteSize>,
}

impl Resources {
    /// The size of /tmp when the manifest does not say and memory allows it.
    pub const DEFAULT_TMP: ByteSize = ByteSize::from_mebibytes(64);

    /// The size of /tmp.
    #[must_use]
    pub fn tmp(&self) -> ByteSize {
        let half = ByteSize::from_bytes(self.memory.bytes() / 2);
        self.tmp.unwrap_or_else(|| half.min(Self::DEFAULT_TMP))
    }
}

impl Default for Resources {
    fn default() -> Self {
        // 128 MiB is AWS Lambda's default memory; half of it for /tmp leaves a small runtime room beside a full /tmp.
        Self { memory: ByteSize::from_mebibytes(128), cpu: None, tmp: None }
    }
}

/// What an instance may reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Network {
    /// Its own loopback only.
    None,
    /// The outside, the gateway, and of the host what its operator lists.
    #[default]
    Outbound,
}

/// How long each phase of a request may take. Each has its own error and its own metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Timeouts {
    /// How long a request may wait for a free place in an instance. A time, 100ms to 1h.
    pub queue: HumanDuration,
    /// How long the start of an instance may take, until its code is loaded. A time, 1s to 1h.
    pub start: HumanDuration,
    /// How long a call may run until the head of its answer is there. A time, 10ms to 24h.
    pub execute: HumanDuration,
    /// How long a body or an answer that has begun may stand still. A time, 1s to 24h; 0s: for ever.
    pub idle_stream: HumanDuration,
}

impl Default for Timeouts {
    fn default() -> Self {
        // A queue of 30 s, a start of 60 s and an idle stream of 60 s are the middle of what the field uses (Knative and Fission wait 60 s
        // and more for a start); 30 s for the call itself is what gateways in front of functions commonly allow.
        Self {
            queue: HumanDuration::from_secs(30),
            start: HumanDuration::from_secs(60),
            execute: HumanDuration::from_secs(30),
            idle_stream: HumanDuration::from_secs(60),
        }
    }
}

/// How many calls an instance serves in its life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum ProcessModel {
    /// Many, until it is idle for long enough.
    #[default]
    Resident,
    /// One, and then it is destroyed.
    Ephemeral,
}

/// How many calls an instance runs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Concurrency {
    /// The most calls that one instance runs at once, 1 to 1000. Left out: 10; always 1 with `processModel: ephemeral`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-hearth-default" = Concurrency::DEFAULT_LIMIT))]
    pub limit: Option<u32>,
    /// How full instances are kept on average: the share of `limit` at which another instance is started. With `scale.metric: rps` it is
    /// the share of 200 requests a second: 25% is 50 a second for each instance. A percentage, 1% to 100%; 10 means 10% too, and neither 10
    /// calls nor 10 requests.
    pub target: Percent,
}

impl Concurrency {
    /// Calls at once in a resident instance when the manifest does not say: enough that handlers which wait for something else
    /// overlap, few enough that one instance does not hide a burst from the scaler.
    pub const DEFAULT_LIMIT: u32 = 10;

    /// Calls that one instance of this process model runs at once.
    #[must_use]
    pub fn limit_for(&self, model: ProcessModel) -> u32 {
        match model {
            Ephemeral => 1,
            Resident => self.limit.unwrap_or(Self::DEFAULT_LIMIT),
        }
    }
}

impl Default for Concurrency {
    fn default() -> Self {
        // 70 % is Knative's container-concurrency-target-percentage.
        Self { limit: None, target: const { Percent::new(70).expect("70 is a percentage") } }
    }
}
