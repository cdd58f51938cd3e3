//! What the autoscaler shows of itself: for `describe`, for status and for the API.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use hearth_dispatch::StartFailure;
use hearth_function::{InstanceCounts, InstanceId, RevisionId};
use jiff::Timestamp;

use super::ladder::{Restored, Rung};
use super::prewarm::PoolView;
use crate::pool::{Phases, View};

/// Decisions and starts that are kept of each Revision.
pub(super) const KEPT: usize = 20;

/// Everything, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Every instance, by name.
    pub instances: Vec<View>,
    /// Every Revision that was named. One of which nothing has changed is the same value as in the snapshot before.
    pub revisions: BTreeMap<RevisionId, Arc<RevisionView>>,
    /// Every pool.
    pub pools: Vec<PoolView>,
    /// How long it took to restore instances, by rung.
    pub restored: Vec<Restored>,
    /// On which rung instances stand.
    pub rungs: BTreeMap<InstanceId, Rung>,
}

/// One Revision.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RevisionView {
    /// Its instances.
    pub counts: InstanceCounts,
    /// Requests that wait.
    pub waiting: u32,
    /// Calls that run.
    pub in_flight: u32,
    /// Instances that ran calls at the last report, and how many.
    pub calls: BTreeMap<InstanceId, u32>,
    /// Whether an instance of it was Ready since it was named.
    pub came_up: bool,
    /// Why its last start failed; `None` after one that succeeded.
    pub failure: Option<StartFailure>,
    /// The last decisions, newest last.
    pub decisions: VecDeque<Decided>,
    /// The last starts, newest last.
    pub starts: VecDeque<Start>,
}

/// What a line among the decisions is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// A decision of the scaler.
    #[default]
    Scaled,
    /// An instance stands at its limit of processes and threads.
    ProcessLimit,
    /// An instance that answered nothing any more was killed.
    Killed,
    /// An instance was put out because the machine's memory is short.
    MemoryShort,
    /// Something outside takes an instance away.
    TakenAway,
}

impl About {
    /// In one word, as the reason of an Event.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Scaled => "Scaled",
            Self::ProcessLimit => "ProcessLimit",
            Self::Killed => "Killed",
            Self::MemoryShort => "MemoryShort",
            Self::TakenAway => "TakenAway",
        }
    }

    /// Whether something is wrong that somebody should look at.
    #[must_use]
    pub const fn is_wrong(self) -> bool {
        match self {
            // A node is drained on purpose, as a rule.
            Self::Scaled | Self::TakenAway => false,
            Self::ProcessLimit | Self::Killed | Self::MemoryShort => true,
        }
    }
}

/// A decision that changed something, or several of one direction in a row; or what happened beside the decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// When; of several steps, the last.
    pub time: Timestamp,
    /// Which of the two, and of what kind.
    pub about: About,
    /// What and why: `from 0 to 12 instances, in 5 steps over 0.3 s: 40 calls wait, an instance runs 10 at once`.
    pub text: String,
}

/// How a start went.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// When it was over.
    pub time: Timestamp,
    /// Which instance.
    pub instance: InstanceId,
    /// How long its parts took.
    pub phases: Phases,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Adds to a ring that keeps [`KEPT`].
pub(super) fn keep<T>(ring: &mut VecDeque<T>, item: T) {
    if ring.len() == KEPT {
        ring.pop_front();
    }
    ring.push_back(item);
}
