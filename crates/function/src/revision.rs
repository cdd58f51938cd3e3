//! Revisions: immutable snapshots of what a Function runs, and their names.

use std::collections::BTreeMap;

use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{
    Concurrency, EnvVar, FunctionSpec, Kubernetes, Network, ProcessModel, Resources, Signature, Timeouts,
};
use crate::status::Condition;
use crate::values::{Digest, Handler, RuntimeName};

/// What a Revision runs. Never changed after it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "hearth.dev",
    version = "v1",
    kind = "Revision",
    plural = "revisions",
    shortname = "rev",
    category = "hearth",
    namespaced,
    status = "RevisionStatus",
    selectable = ".spec.function",
    selectable = ".status.state",
    derive = "PartialEq",
    doc = "An immutable snapshot of what a Function runs, made whenever its code or its template changes.",
    printcolumn = r#"{"name":"Function","type":"string","jsonPath":".spec.function"}"#,
    printcolumn = r#"{"name":"State","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    crates(kube_core = "::kube_core")
)]
#[serde(rename_all = "camelCase")]
pub struct RevisionSpec {
    /// The name of its Function, in the same namespace.
    pub function: String,
    /// The generation of the Function that it was made from.
    pub generation: i64,
    /// The digest of `template`: two Revisions with the same run the same.
    pub template_digest: Digest,
    /// What it runs.
    pub template: Template,
}

/// What an instance is made from: the parts of a Function's spec that an instance sees, and the digest of its code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// What runs the code.
    pub runtime: RuntimeName,
    /// The bundle of the code; absent where an image holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Digest>,
    /// The image that holds the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageTemplate>,
    /// Which export of which file is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handler: Option<Handler>,
    /// Program and arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// How the handler is called.
    #[serde(default)]
    pub signature: Signature,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvVar>,
    /// What one instance may use.
    #[serde(default)]
    pub resources: Resources,
    /// What an instance may reach.
    #[serde(default)]
    pub network: Network,
    /// How long each phase of a request may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How many calls an instance serves in its life.
    #[serde(default)]
    pub process_model: ProcessModel,
    /// How many calls an instance runs at once.
    #[serde(default)]
    pub concurrency: Concurrency,
    /// What its Pods are told beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Kubernetes>,
}

/// An image as it was when a Revision was made: what a tag leads to later is of no concern to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageTemplate {
    /// The image as the manifest names it.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its entry point and arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Its variables, below those of the manifest.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its user, as it names it; absent: Hearth's own for functions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where its command starts.
    pub working_directory: String,
    /// Where its server listens, when it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// The code of a Function, once it is known which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Code {
    /// This bundle.
    Bundle(Digest),
    /// This image.
    Image(ImageTemplate),
}

impl From<Digest> for Code {
    fn from(bundle: Digest) -> Self {
        Self::Bundle(bundle)
    }
}

impl Template {
    /// The template of `spec` with this code.
    #[must_use]
    pub fn of(spec: &FunctionSpec, code: impl Into<Code>) -> Self {
        // Every field is named, so that a new one cannot be forgotten here.
        let FunctionSpec {
            runtime,
            source: _,
            handler,
            command,
            signature,
            env,
            resources,
            network,
            timeouts,
            process_model,
            concurrency,
            kubernetes,
            scale: _,
            triggers: _,
            traffic: _,
        } = spec;
        let (bundle, image) = match code.into() {
            Code::Bundle(bundle) => (Some(bundle), None),
            Code::Image(image) => (None, Some(image)),
        };
        Self {
            runtime: *runtime,
            bundle,
            image,
            handler: handler.clone(),
            command: command.clone(),
            signature: *signature,
            env: env.clone(),
            resources: *resources,
            network: *network,
            timeouts: *timeouts,
            process_model: *process_model,
            concurrency: *concurrency,
            // One that says nothing is as none.
            kubernetes: kubernetes.clone().filter(|given| *given != Kubernetes::default()),
        }
    }

    /// The digest of this template. A field that is added later and left out of the text while it has its default leaves the digests
    /// of older templates as they are.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let text = serde_json::to_vec(self).expect("a template has text keys only, so it has a JSON form");
        Digest::of(&text)
    }

    /// Calls that one instance runs at once.
    #[must_use]
    pub fn concurrency_limit(&self) -> u32 {
        self.concurrency.limit_for(self.process_model)
    }

    /// Program and arguments: the manifest's, or those of the image.
    #[must_use]
    pub fn program(&self) -> &[String] {
        match &self.image {
            Some(image) if self.command.is_empty() => &image.command,
            _ => &self.command,
        }
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        let bundle = self.bundle.clone().map(Code::Bundle);
        bundle.or_else(|| self.image.clone().map(Code::Image))
    }
}

impl Revision {
    /// Whether its template is the one that it was made with: none is ever changed, and only newer API servers see to that by themselves.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.spec.template.digest() == self.spec.template_digest
    }
}

/// The digest of what `spec` would run with its code at `bundle`: a new Revision is made when it differs from the latest one's.
#[must_use]
pub fn template_digest(spec: &FunctionSpec, bundle: &Digest) -> Digest {
    Template::of(spec, bundle.clone()).digest()
}

/// What is observed of a Revision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RevisionStatus {
    /// How far it is.
    pub state: RevisionState,
    /// How the handler is called, once it was loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// The key of its installed dependencies, when it has any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<String>,
    /// Why it is in this state, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What holds of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// How far a Revision is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum RevisionState {
    /// Made; nothing done yet.
    #[default]
    Pending,
    /// Its dependencies are being installed.
    Building,
    /// Its first instances are being started, to see whether it comes up.
    Starting,
    /// It can serve.
    Ready,
    /// It did not come up.
    Failed,
    /// A later one has taken its place.
    Retired,
}

/// The number at the end of a Revision's name: 3 for `hello-00003` of the function `hello`.
#[must_use]
pub fn revision_number(function: &str, revision: &str) -> Option<u32> {
    let digits = revision.strip_prefix(function)?.strip_prefix('-')?;
    (digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
}

/// The name of the next Revision of `function`, above every one of `existing` (names of other functions among them do no
/// harm): `hello-00001`, then `hello-00002`.
///
/// A number is given once only as long as the caller lists every Revision there was; keep the highest, or the Function's
/// `status.latestRevision`, among `existing`.
#[must_use]
pub fn next_revision_name<'a>(function: &str, existing: impl IntoIterator<Item = &'a str>) -> String {
    let highest = existing.into_iter().filter_map(|name| revision_number(function, name)).max().unwrap_or(0);
    format!("{function}-{:05}", u64::from(highest) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> serde_json::Value {
        serde_json::json!({ "runtime": "nodejs", "source": { "path": "." }, "handler": "index.handler" })
    }

    fn digest(spec: &serde_json::Value, code: &[u8]) -> Digest {
        template_digest(&serde_json::from_value(spec.clone()).unwrap(), &Digest::of(code))
    }

    #[test]
    fn a_template_changes_with_what_an_instance_sees_and_nothing_else() {
        let before = digest(&spec(), b"code");
        assert_ne!(digest(&spec(), b"other code"), before);
        for (field, value, same) in [
            ("runtime", serde_json::json!("nodejs22"), false),
            ("handler", serde_json::json!("index.other"), false),
            ("command", serde_json::json!(["x"]), false),
            ("signature", serde_json::json!("fetch"), false),
            ("env", serde_json::json!([{ "name": "A", "value": "b" }]), false),
            ("resources", serde_json::json!({ "memory": "256Mi" }), false),
            ("network", serde_json::json!("none"), false),
            ("timeouts", serde_json::json!({ "execute": "5s" }), false),
            ("processModel", serde_json::json!("ephemeral"), false),
            ("concurrency", serde_json::json!({ "limit": 1 }), false),
            ("kubernetes", serde_json::json!({ "serviceAccount": "robot" }), false),
            ("kubernetes", serde_json::json!({}), true),
            ("source", serde_json::json!({ "inline": { "index.js": "" } }), true),
            ("scale", serde_json::json!({ "max": 3 }), true),
            ("triggers", serde_json::json!([{ "http": { "path": "/x" } }]), true),
            ("traffic", serde_json::json!([{ "latest": true, "percent": 100 }]), true),
            // A default that is written out is the same template.
            ("resources", serde_json::json!({ "memory": "128Mi" }), true),
        ] {
            let mut changed = spec();
            changed[field] = value;
            assert_eq!(digest(&changed, b"code") == before, same, "{field}");
        }
    }

    #[test]
    fn a_revision_is_intact_as_long_as_its_template_is_that_of_its_digest() {
        let template = Template::of(&serde_json::from_value(spec()).unwrap(), Digest::of(b"code"));
        let mut written = serde_json::json!({
            "metadata": { "name": "hello-00001" },
            "spec": { "function": "hello", "generation": 1, "templateDigest": template.digest(), "template": template },
        });
        let is_intact = |written: &serde_json::Value| {
            serde_json::from_value::<Revision>(written.clone()).unwrap().is_intact()
        };
        assert!(is_intact(&written));
        // An API server fills in what was left out.
        written["spec"]["template"]["command"] = serde_json::json!([]);
        written["spec"]["template"]["env"] = serde_json::json!([]);
        assert!(is_intact(&written));
        written["spec"]["template"]["env"] = serde_json::json!([{ "name": "A", "value": "b" }]);
        assert!(!is_intact(&written));
    }

    #[test]
    fn names_go_up_and_ignore_other_functions() {
        assert_eq!(next_revision_name("hello", []), "hello-00001");
        assert_eq!(
            next_revision_name("hello", ["hello-00002", "hello-00001", "hello-x-00009", "other-00007"]),
            "hello-00003"
        );
        assert_eq!(next_revision_name("hello", ["hello-99999"]), "hello-100000");
        assert_eq!(revision_number("hello", "hello-100000"), Some(100_000));
        assert_eq!(revision_number("hello", "hello-3"), None);
    }
}
