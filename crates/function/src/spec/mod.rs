//! What a Function declares: the `spec` of its manifest. The comments on the fields are what `hearth explain` prints, and the
//! `Default` implementations here and in the modules below are the only place where a default is written.
//!
//! A value that was left out is filled in when a manifest is read, so that what is stored says what is in force. Where "not set" means
//! something of its own (no cpu quota, a default that depends on another field) the field is an `Option` and an accessor gives the
//! value in force: [`FunctionSpec::concurrency_limit`], [`Scale::keep_alive`], [`Scale::pause`].

mod environment;
mod kubernetes;
mod limits;
mod scale;
mod source;
mod traffic;
mod triggers;

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use environment::{EnvVar, KeySelector, ValueFrom};
pub use kubernetes::{Kubernetes, SecretName, TaintEffect, Toleration, TolerationOperator};
pub use limits::{Concurrency, Network, ProcessModel, Resources, Signature, Timeouts};
pub use scale::{KeepAlive, Metric, Pause, ReservedWindow, Scale};
pub use source::{Archive, Git, Source, SourceKind};
pub use traffic::TrafficTarget;
pub use triggers::{CronTrigger, EventTrigger, HttpAuth, HttpMethod, HttpTrigger, PathType, Trigger};

use crate::status::FunctionStatus;
use crate::values::{Handler, RuntimeName};

/// What a Function is to be: its code, how it is called, how it scales.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "hearth.dev",
    version = "v1",
    kind = "Function",
    plural = "functions",
    shortname = "fn",
    category = "hearth",
    namespaced,
    status = "FunctionStatus",
    scale(spec_replicas_path = ".spec.scale.min", status_replicas_path = ".status.instances.ready"),
    selectable = ".spec.runtime",
    derive = "PartialEq",
    doc = "A function: code that Hearth runs in containers, as many as its traffic needs and none when there is none.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".status.url"}"#,
    printcolumn = r#"{"name":"Instances","type":"integer","jsonPath":".status.instances.ready"}"#,
    printcolumn = r#"{"name":"Revision","type":"string","jsonPath":".status.readyRevision","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    /// What runs the code: `nodejs` or `nodejs22`, `python` or `python3.12`, `http` (any server that listens on $PORT), `exec` (one
    /// process for each call, from standard input to standard output), `provided` (a program that speaks the AWS Lambda Runtime API; not built yet).
    pub runtime: RuntimeName,
    /// Where the code comes from: exactly one of its fields.
    pub source: Source,
    /// Which export of which file is called: `index.handler`, `src/api.handler`, `app:app`. Several Functions may share one source with
    /// different handlers. For nodejs and python, and needed there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<Handler>,
    /// Program and arguments, started in the directory of the code. For http and exec, and needed there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// How the handler is called: `event` (event and context, as in AWS Lambda with a Function URL), `http` (Node's own request and
    /// response), `fetch` (a web Request), `asgi` or `wsgi` (Python's); `auto` finds out when the code is loaded.
    #[serde(default)]
    pub signature: Signature,
    /// Environment variables. Names that begin with HEARTH_, and PORT, are Hearth's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// What one instance may use.
    #[serde(default)]
    pub resources: Resources,
    /// What an instance may reach: `outbound` (the outside and the gateway) or `none` (nothing).
    #[serde(default)]
    pub network: Network,
    /// How long each phase of a request may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// `resident`: an instance serves many calls until it is idle for long enough; `ephemeral`: one call, and then it is destroyed.
    #[serde(default)]
    pub process_model: ProcessModel,
    /// How many calls an instance runs at once.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// What Pods are told beyond that: service account, nodes, credentials of registries. Without effect elsewhere than on Kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
    /// How many instances there are, and for how long.
    #[serde(default)]
    pub scale: Scale,
    /// What causes a call. Whatever is listed here, every function also answers at /function/NAMESPACE/NAME/.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub triggers: Vec<Trigger>,
    /// How requests are divided among Revisions; empty: everything goes to the latest that is ready.
    /// Anything but that is not built yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic: Vec<TrafficTarget>,
}

impl FunctionSpec {
    /// Calls that one instance runs at once: 1 for the ephemeral process model, else `concurrency.limit`, else
    /// [`Concurrency::DEFAULT_LIMIT`].
    #[must_use]
    pub fn concurrency_limit(&self) -> u32 {
        self.concurrency.limit_for(self.process_model)
    }

    /// The HTTP triggers, in the order of the manifest.
    pub fn http_triggers(&self) -> impl Iterator<Item = &HttpTrigger> {
        self.triggers.iter().filter_map(|trigger| trigger.http.as_ref())
    }
}
