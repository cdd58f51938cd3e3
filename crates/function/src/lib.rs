//! What a user declares, and what follows from it without looking at the world: [`Function`], [`Revision`] and the values
//! they are made of, with their defaults, validation, schema and text forms.
//!
//! Pure: no I/O, no clock, no randomness.

mod check;
mod crd;
mod explain;
mod ids;
pub mod knative;
mod problem;
mod revision;
mod schema;
pub mod spec;
mod status;
mod validate;
mod values;
mod yaml;

pub use check::from_value;
pub use crd::{crds, crds_with_rules};
pub use explain::{explain, explain_nearest};
pub use ids::{FunctionId, IdError, InstanceId, RevisionId};
pub use problem::{Position, Problem};
pub use revision::{
    Code, ImageTemplate, Revision, RevisionSpec, RevisionState, RevisionStatus, Template, next_revision_name,
    revision_number, template_digest,
};
pub use schema::metadata as metadata_schema;
pub use spec::{Function, FunctionSpec};
pub use status::{Condition, ConditionStatus, ConditionType, FunctionStatus, InstanceCounts, set_condition};
pub use validate::{Side, is_label_value, is_qualified, validate, validate_idle_timeout};
pub use values::{
    ByteSize, CpuMillis, Digest, Handler, HumanDuration, Percent, RuntimeName, ValueError, hex,
};
pub use yaml::{Manifest, locate, parse_manifests, parse_manifests_with};

/// The `apiVersion` of every resource of Hearth.
pub const API_VERSION: &str = "hearth.dev/v1";
/// The label on a Revision (and whatever else belongs to a Function) that names its Function.
pub const FUNCTION_LABEL: &str = "hearth.dev/function";

/// On a Function: another value than before asks for what has failed (a build, a trial) to be tried again now. `hearth apply` sets it to the
/// time when it finds a Function that has failed and is as it was.
pub const RETRY_ANNOTATION: &str = "hearth.dev/retry";

/// On a Function in a cluster: which Hearth serves it, by the namespace that this Hearth runs in. Any other leaves it alone.
pub const INSTALLATION_ANNOTATION: &str = "hearth.dev/installation";

/// On a Function in a cluster: it is there until its instances have ended.
pub const INSTANCES_FINALIZER: &str = "hearth.dev/instances";

/// The namespace of a manifest that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

impl Function {
    /// `namespace/name`, with [`DEFAULT_NAMESPACE`] where none is named.
    ///
    /// # Errors
    /// When name or namespace is missing or no RFC 1123 label.
    pub fn id(&self) -> Result<FunctionId, IdError> {
        FunctionId::parse(&qualified(&self.metadata))
    }
}

impl Revision {
    /// `namespace/name`, with [`DEFAULT_NAMESPACE`] where none is named.
    ///
    /// # Errors
    /// When name or namespace is missing or no RFC 1123 label.
    pub fn id(&self) -> Result<RevisionId, IdError> {
        RevisionId::parse(&qualified(&self.metadata))
    }

    /// The Function that it belongs to.
    ///
    /// # Errors
    /// When the function's name or the namespace is no RFC 1123 label.
    pub fn function_id(&self) -> Result<FunctionId, IdError> {
        let namespace = self.metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        FunctionId::parse(&format!("{namespace}/{}", self.spec.function))
    }
}

fn qualified(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> String {
    let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    format!("{namespace}/{}", metadata.name.as_deref().unwrap_or_default())
}
