//! What a gateway and the scaler tell each other: over a channel in one process, over a stream in a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hearth_function::{InstanceId, RevisionId};
use serde::{Deserialize, Serialize};

/// From a gateway to the scaler.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToScaler {
    /// Requests wait for a slot and none is free: sent at once when a queue stops being empty and whenever it has grown since. With nobody
    /// waiting: a slot lies idle, as was asked ([`ToGateway::Scarce`]).
    CapacityWanted {
        /// Of which Revision.
        revision: RevisionId,
        /// How many requests wait now.
        waiting: u32,
        /// How many run now.
        in_flight: u32,
    },
    /// Sent every tick for each Revision that was not idle for all of it, and once more when it turns idle.
    Load(LoadReport),
    /// The last call on a revoked instance has ended: it can be stopped.
    Drained {
        /// Which.
        instance: InstanceId,
    },
    /// The gateway cannot reach the instance any more, or it broke the protocol.
    Lost {
        /// Which.
        instance: InstanceId,
        /// What happened, for people.
        reason: String,
    },
    /// A call outlived its time and the instance does not answer a ping, or every slot is held by a call that was given up long ago: it must
    /// be killed.
    Unresponsive {
        /// Which.
        instance: InstanceId,
    },
    /// An instance of an ephemeral Revision has served its call.
    Spent {
        /// Which.
        instance: InstanceId,
    },
    /// A gateway that could use an instance of an ephemeral Revision has gone and did not come back: it may have had its call, or may have it
    /// still. Not of a gateway, but of what makes one of several.
    Orphaned {
        /// Which.
        instance: InstanceId,
    },
    /// The answer to [`ToGateway::Pause`]: no call runs on it, and whoever gives it one thaws it first. It may be frozen.
    Quiet {
        /// Which.
        instance: InstanceId,
    },
    /// The other answer: it was used a moment ago.
    InUse {
        /// Which.
        instance: InstanceId,
        /// How long no call has run on it; zero while one does.
        idle: Duration,
    },
    /// A call has met a paused instance, or [`ToGateway::Wake`] has named one, and it was thawed.
    Resumed {
        /// Which.
        instance: InstanceId,
        /// How long that took.
        took: Duration,
    },
    /// The answer to [`ToGateway::Share`], and again whenever a call ends that ran beyond it, or on an instance that is to go, and when one
    /// turns out to be stuck or ends after all: so many of the instance's slots this gateway uses at most, until it is told of more.
    Holds {
        /// Which.
        instance: InstanceId,
        /// The share, or the calls that run while they are more; 0 for an instance that is not known (any more).
        slots: u32,
        /// Calls of this gateway that were given up long ago and have not ended: all gateways' together say whether the instance is of any
        /// use.
        #[serde(default)]
        stuck: u32,
        /// The number of the share that this is about.
        serial: u64,
    },
}

/// What a Revision did on one gateway since the last report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Which Revision.
    pub revision: RevisionId,
    /// Calls running at the time of the report.
    pub in_flight: u32,
    /// Requests waiting at the time of the report.
    pub waiting: u32,
    /// The time that this report covers, up to now: since the last report, or since the Revision stopped being idle.
    pub over: Duration,
    /// Average of running and waiting calls over that time.
    pub average_concurrency: f64,
    /// Instances that run calls at the time of the report, and how many each: what a scale-in spares.
    pub busy: Vec<(InstanceId, u32)>,
    /// Calls that ended since the last report.
    pub completed: u64,
    /// Requests that came in since the last report.
    pub arrived: u64,
    /// Sum of the service times of the calls that ended, for their mean.
    pub service_time: Duration,
    /// Requests of this Revision refused since the last report (full queue, no capacity in time).
    pub refused: u64,
}

impl LoadReport {
    /// Takes in the report that follows this one: as if there had been one over both times.
    pub fn merge(&mut self, later: Self) {
        let over = self.over + later.over;
        let area = self.average_concurrency * self.over.as_secs_f64()
            + later.average_concurrency * later.over.as_secs_f64();
        *self = Self {
            over,
            average_concurrency: if over.is_zero() {
                later.average_concurrency
            } else {
                area / over.as_secs_f64()
            },
            completed: self.completed + later.completed,
            arrived: self.arrived + later.arrived,
            service_time: self.service_time + later.service_time,
            refused: self.refused + later.refused,
            ..later
        };
    }
}

/// From the scaler to a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToGateway {
    /// An instance is Ready and this gateway may run so many calls on it. Again with another number: the share has changed.
    Grant {
        /// Of which Revision.
        revision: RevisionId,
        /// Where it is.
        endpoint: Endpoint,
        /// How many calls at once.
        slots: u32,
    },
    /// Of an instance that was granted, this gateway may run so many calls from now on. Only where several gateways share it; answer
    /// [`ToScaler::Holds`].
    Share(Share),
    /// At other gateways requests of this Revision wait for a slot, or none do any more: until then, say at once
    /// ([`ToScaler::CapacityWanted`], with nobody waiting) when a slot lies idle here.
    Scarce {
        /// Of which Revision.
        revision: RevisionId,
        /// Whether they wait.
        scarce: bool,
    },
    /// No new calls to this instance; answer [`ToScaler::Drained`] when the last has ended.
    Revoke {
        /// Which.
        instance: InstanceId,
    },
    /// The instance may be frozen if no call has run on it for so long. Answer [`ToScaler::Quiet`] or [`ToScaler::InUse`].
    Pause {
        /// Which.
        instance: InstanceId,
        /// How long.
        idle: Duration,
    },
    /// The instance is to run again though nobody calls it, if it was let go by [`ToScaler::Quiet`]. Answer [`ToScaler::Resumed`] then.
    Wake {
        /// Which.
        instance: InstanceId,
    },
    /// The instance has ended.
    Gone {
        /// Which.
        instance: InstanceId,
        /// How it ended, for people: `exit code 1`, `killed: out of memory`.
        reason: String,
    },
    /// A start failed and nobody else is starting: what waits fails now, and what comes in the next `retry_after` fails at once.
    StartFailed {
        /// Of which Revision.
        revision: RevisionId,
        /// Why.
        failure: StartFailure,
        /// How long the scaler backs off.
        retry_after: Duration,
    },
}

/// What one gateway may use of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Which.
    pub instance: InstanceId,
    /// How many calls at once for this gateway.
    pub slots: u32,
    /// How many the instance takes in all.
    pub of: u32,
    /// Names this share in the answer: a later one of the same instance has a larger number.
    pub serial: u64,
}

/// What a gateway says of itself when it meets a controller: nothing that it holds was granted by this one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resume {
    /// The instances that it knows.
    pub held: Vec<Held>,
    /// What runs and waits on it.
    pub demand: Vec<Demand>,
    /// The Revisions for which it was told that others wait.
    #[serde(default)]
    pub scarce: Vec<RevisionId>,
}

/// An instance that a gateway knows from an earlier controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which.
    pub instance: InstanceId,
    /// Of which Revision.
    pub revision: RevisionId,
    /// How many of its slots the gateway uses at most.
    pub slots: u32,
    /// Its calls there that were given up long ago and have not ended.
    #[serde(default)]
    pub stuck: u32,
    /// It was told to send no new calls there.
    pub draining: bool,
}

/// What runs and waits on a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Of which Revision.
    pub revision: RevisionId,
    /// Requests that wait.
    pub waiting: u32,
    /// Calls that run.
    pub in_flight: u32,
}

/// Why an instance did not come up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// For programs.
    pub code: StartCode,
    /// A sentence for people, with the fix where there is one.
    pub message: String,
    /// The last lines the instance printed.
    pub last_lines: Vec<String>,
}

/// What went wrong with a start. The words are part of the interface: callers and conditions show them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartCode {
    /// The handler's file is not in the bundle.
    HandlerFileMissing,
    /// The file has no such export.
    HandlerMissing,
    /// The export is not something that can be called.
    HandlerUnsupported,
    /// The code could not be loaded.
    LoadFailed,
    /// The process ended before it was Ready.
    ProcessEnded,
    /// It needed more memory than it may have.
    OutOfMemory,
    /// It took longer than `spec.timeouts.start`.
    StartTimeout,
    /// The backend refuses the template.
    Invalid,
    /// The backend cannot do what the template asks for.
    Unsupported,
    /// No node of the cluster takes it now; it starts when one does.
    Unschedulable,
    /// Hearth or the machine failed.
    StartFailed,
    /// The image of its runtime cannot be had.
    ImageMissing,
}

impl StartCode {
    /// The word, as it is on the wire too.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HandlerFileMissing => "handler_file_missing",
            Self::HandlerMissing => "handler_missing",
            Self::HandlerUnsupported => "handler_unsupported",
            Self::LoadFailed => "load_failed",
            Self::ProcessEnded => "process_ended",
            Self::OutOfMemory => "out_of_memory",
            Self::StartTimeout => "start_timeout",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Unschedulable => "unschedulable",
            Self::StartFailed => "start_failed",
            Self::ImageMissing => "image_missing",
        }
    }

    /// Whether a failure may pass though the code stays as it is.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        match self {
            Self::HandlerFileMissing
            | Self::HandlerMissing
            | Self::HandlerUnsupported
            | Self::Invalid
            | Self::Unsupported => false,
            Self::LoadFailed
            | Self::ProcessEnded
            | Self::OutOfMemory
            | Self::StartTimeout
            | Self::Unschedulable
            | Self::StartFailed
            | Self::ImageMissing => true,
        }
    }
}

impl std::fmt::Display for StartCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A Ready instance as a gateway sees it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Which instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: EndpointAddress,
    /// Opens its connections.
    pub secret: String,
    /// How calls reach it.
    pub forwarding: Forwarding,
    /// What a request that waited for this instance says it met.
    pub start: StartKind,
    /// How long the start took, from the decision to Ready: the `init` of `Server-Timing` for those who waited for it.
    pub start_time: Duration,
    /// It serves one call and is destroyed.
    pub single_use: bool,
    /// It was made ahead of any request, to be kept: the first one it meets says so.
    #[serde(default)]
    pub reserved: bool,
    /// The server in it is the user's own program, which may close connections that were idle for its own taste.
    #[serde(default)]
    pub own_server: bool,
}

impl std::fmt::Debug for Endpoint {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("instance", &self.instance)
            .field("address", &self.address)
            .field("forwarding", &self.forwarding)
            .field("start", &self.start)
            .field("start_time", &self.start_time)
            .field("single_use", &self.single_use)
            .field("reserved", &self.reserved)
            .field("own_server", &self.own_server)
            .finish_non_exhaustive()
    }
}

/// Where an instance listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointAddress {
    /// A Unix socket on this host.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// How calls reach an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    /// Frames on a shared connection, and the head of a call is the event (`event` signature).
    Event,
    /// Frames on a shared connection, with a plain request head (`fetch`, ASGI, WSGI, exec).
    Frames,
    /// A dedicated connection for each call at a time, plain HTTP/1.1 after `attach` (`http` signature, `http` runtime).
    Attach,
}

/// What a request met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartKind {
    /// It waited for an instance that was made from nothing.
    Cold,
    /// It waited for a pooled instance that was given the code.
    Prewarmed,
    /// It met a frozen instance.
    Paused,
    /// It met an instance kept for it.
    Reserved,
    /// It met an instance that was there.
    Warm,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_reports_merge_into_one_over_both_times() {
        let report = |in_flight, seconds, average_concurrency, count| LoadReport {
            revision: RevisionId::parse("default/a-00001").unwrap(),
            in_flight,
            waiting: in_flight,
            over: Duration::from_secs(seconds),
            average_concurrency,
            busy: vec![(InstanceId::parse("i1").unwrap(), in_flight)],
            completed: count,
            arrived: count,
            service_time: Duration::from_secs(count),
            refused: count,
        };
        let mut merged = report(1, 1, 4.0, 2);
        merged.merge(report(3, 3, 2.0, 5));
        // 4 calls for a second and 2 for three: 10 call-seconds in 4.
        assert_eq!(merged, report(3, 4, 2.5, 7));
    }

    #[test]
    fn the_word_of_a_code_is_the_same_on_the_wire() {
        let codes = [
            StartCode::HandlerFileMissing,
            StartCode::HandlerMissing,
            StartCode::HandlerUnsupported,
            StartCode::LoadFailed,
            StartCode::ProcessEnded,
            StartCode::OutOfMemory,
            StartCode::StartTimeout,
            StartCode::Invalid,
            StartCode::Unsupported,
            StartCode::Unschedulable,
            StartCode::StartFailed,
        ];
        for code in codes {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
    }
}
