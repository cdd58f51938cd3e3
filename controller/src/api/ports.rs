//! The running parts as the API sees them: what it asks of pool, gateway, logs and bundles. The wiring implements it; tests have a fake.
//! Everything here is a plain value that goes out as JSON, field names in camelCase.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use axum::body::Body;
use futures_util::stream::BoxStream;
use hearth_function::{FunctionId, InstanceId, RevisionId};
use serde::{Deserialize, Serialize};

use crate::backend::Capability;

/// What the API reaches of the running controller.
#[async_trait]
pub trait Parts: Send + Sync + fmt::Debug + 'static {
    /// Every instance there is, whatever its state, in no particular order.
    async fn instances(&self) -> Vec<Instance>;

    /// The warmth ladder: what stands on each rung, and what it takes to restore an instance from there.
    async fn ladder(&self) -> Ladder;

    /// What happened around a Function lately; empty when nothing did.
    async fn activity(&self, function: &FunctionId) -> Activity;

    /// Calls a Function as the gateway would: the request's target is the path and query that the function sees. Answers with the
    /// function's answer, or the gateway's error answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the gateway does not answer at all.
    async fn invoke(
        &self,
        function: &FunctionId,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Error>;

    /// Lines of a Function's log, oldest first. With `follow` the stream ends only when the controller does; a reader that is too slow is
    /// told so by a line of its own and goes on.
    ///
    /// # Errors
    /// [`Error::Internal`] when the logs on disk cannot be read.
    async fn logs(&self, query: LogQuery) -> Result<BoxStream<'static, LogLine>, Error>;

    /// Those of `functions` whose logs know a request.
    ///
    /// # Errors
    /// [`Error::Internal`] when the logs on disk cannot be read; [`Error::Unavailable`] while others look for requests.
    async fn of_request(&self, functions: Vec<FunctionId>, request: &str) -> Result<Vec<FunctionId>, Error>;

    /// Whether the bundle `sha256:<64 hex digits>` is here and whole.
    async fn has_bundle(&self, digest: &str) -> Result<bool, Error>;

    /// Takes in the packed bundle (tar, gzip) in `file`, which the API received and removes afterwards; verifies that it has this digest.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the digest differs, or the archive is broken, too large or holds what a bundle must not.
    async fn put_bundle(&self, digest: &str, file: &Path) -> Result<(), Error>;

    /// Whether a blob of an image is here, packed or unpacked.
    async fn has_blob(&self, digest: &str) -> Result<bool, Error>;

    /// Takes in a blob of an image in `file`, which the API received and removes afterwards; verifies that it has this digest.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the digest differs.
    async fn put_blob(&self, digest: &str, file: &Path) -> Result<(), Error>;

    /// Whether an image is here, whole.
    async fn has_image(&self, digest: &str) -> Result<bool, Error>;

    /// Makes an image of blobs that were taken in before, by its manifest.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the digest differs, a blob is not here, or a layer is broken, too large or holds what it must not.
    async fn put_image(&self, digest: &str, manifest: Vec<u8>) -> Result<(), Error>;

    /// Every image that is here.
    ///
    /// # Errors
    /// [`Error::Internal`] when the disk cannot be read.
    async fn images(&self) -> Result<Vec<Image>, Error>;

    /// What this machine can and cannot do.
    async fn capabilities(&self) -> Vec<Capability>;

    /// All metrics in the Prometheus text format 0.0.4.
    fn metrics(&self) -> String;

    /// `Ok` while every part runs; otherwise which does not, for /healthz.
    fn health(&self) -> Result<(), String>;
}

/// Why a part did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// The client must change what it sent.
    #[error("{0}")]
    Invalid(String),
    /// Not now; trying again may help.
    #[error("{0}")]
    Unavailable(String),
    /// Something inside went wrong; the text is for the client, the source for the log.
    #[error("{what}")]
    Internal {
        /// What was being done.
        what: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A running instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Its name.
    pub name: InstanceId,
    /// For which Function; `None` while it is pooled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionId>,
    /// For which Revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<RevisionId>,
    /// Its state, as in the design: `Starting`, `Loading`, `Ready`, `Paused`, `Draining`, `Stopped`, `Failed`.
    pub state: String,
    /// Why it is in that state, when that is not plain: `exit code 1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its rung of the warmth ladder: `pooled`, `paused`, `reserved`, `active`; absent while it comes up or goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rung: Option<String>,
    /// Calls that run in it now.
    pub in_flight: u32,
    /// Calls it may run at once.
    pub slots: u32,
    /// When it was started: RFC 3339, UTC.
    pub started: String,
    /// Memory now, in bytes; absent when it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Cpu time since its start, in seconds; absent when it was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
}

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// The digest of its manifest: what `source.image` names.
    pub digest: String,
    /// Bytes of its layers, unpacked.
    pub bytes: u64,
    /// How many layers it has.
    pub layers: usize,
    /// What it runs.
    pub command: Vec<String>,
}

/// The warmth ladder, for `top`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ladder {
    /// From the coldest to the warmest.
    pub rungs: Vec<Rung>,
    /// Pools, one for each runtime class.
    pub pools: Vec<PoolSize>,
}

/// A rung of the ladder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rung {
    /// Its name: `built`, `pooled`, `paused`, `reserved`, `active`.
    pub rung: String,
    /// Instances that stand on it.
    pub instances: u32,
    /// What they hold together, in bytes, as last measured; absent where the backend does not measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_bytes: Option<u64>,
    /// How many of the last restorations from it the times are of.
    pub restored: u64,
    /// Half of them took less than so many milliseconds; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_p50_ms: Option<f64>,
    /// Of a hundred, one took longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_p99_ms: Option<f64>,
}

/// The pool of a runtime class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolSize {
    /// `nodejs, 128Mi, outbound`.
    pub class: String,
    /// Pooled instances.
    pub ready: u32,
    /// On their way.
    pub starting: u32,
    /// How many there should be.
    pub target: u32,
    /// Why so many.
    pub why: String,
    /// What one holds, in bytes; absent where the backend does not measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_each: Option<u64>,
}

/// What happened around a Function lately, for `describe`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Activity {
    /// The last decisions of the scaler and what happened beside them, newest last: `from 0 to 1 instance: 1 call waits, an instance runs 10 at once`.
    pub decisions: Vec<Occurrence>,
    /// The last starts, newest last.
    pub starts: Vec<StartRecord>,
    /// Requests that wait now.
    pub waiting: u32,
    /// Calls that run now.
    pub in_flight: u32,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Occurrence {
    /// When: RFC 3339, UTC.
    pub time: String,
    /// In one word: `Scaled`, `Killed`. A server that does not say it has told of scaling.
    #[serde(default = "scaled")]
    pub reason: String,
    /// Whether something is wrong.
    #[serde(default)]
    pub warning: bool,
    /// What, for people.
    pub message: String,
}

fn scaled() -> String {
    "Scaled".to_owned()
}

/// How a start went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartRecord {
    /// When it began: RFC 3339, UTC.
    pub time: String,
    /// Which instance.
    pub instance: InstanceId,
    /// Its Revision.
    pub revision: RevisionId,
    /// Milliseconds of each phase: `schedule`, `create`, `boot`, `load`.
    pub phases_ms: BTreeMap<String, f64>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Which lines of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Of which Function.
    pub function: FunctionId,
    /// Only those of this request.
    pub request: Option<String>,
    /// Only the last so many of those that are there already.
    pub tail: Option<usize>,
    /// Only those since then.
    pub since: Option<std::time::SystemTime>,
    /// Go on with new ones.
    pub follow: bool,
    /// With a line for each call, too.
    pub calls: bool,
}

/// One line that a function wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// When: RFC 3339, UTC, with milliseconds.
    pub time: String,
    /// Which instance wrote it.
    pub instance: InstanceId,
    /// Of which Revision.
    pub revision: RevisionId,
    /// `stdout`, `stderr`, or `hearth` for Hearth's own remarks (lines dropped, instance ended).
    pub stream: String,
    /// Of which request, where that is certain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The number of the line in its instance, from 1; absent for what Hearth says itself. The same from every controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Several calls ran and nobody knows which wrote it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// The line, without its end.
    pub text: String,
    /// The call that this line is about: it ended. `time` is when it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<LoggedCall>,
}

/// What is known of a call that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggedCall {
    /// How long it waited, in microseconds.
    pub queue_us: u64,
    /// How long it ran, in microseconds; 0 when it never did.
    pub exec_us: u64,
}
