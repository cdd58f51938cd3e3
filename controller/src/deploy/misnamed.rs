//! Functions with a name that Kubernetes takes and Hearth does not: `hello.v2`, or one that is too long. Nothing can be made of them, so they have no
//! task. Current definitions let none in; there may be one from before them.

use std::sync::Arc;

use hearth_function::{ConditionStatus, ConditionType, Function, FunctionStatus};
use jiff::Timestamp;

use super::status::{self, Facts, Known};
use super::{Shared, function};
use crate::store;

/// Says in the status that it is not run and why, once for each generation.
pub(super) async fn say(shared: Arc<Shared>, function: Arc<Function>) {
    let generation = function.metadata.generation.unwrap_or(1);
    if function.metadata.deletion_timestamp.is_some() || is_said(function.status.as_ref(), generation) {
        return;
    }
    let problems = function::problems(&function, shared.parts.sources.fixity);
    let (ready, built) = status::stages(&Facts { problems, ..Facts::default() });
    let known = Known { generation, ready, built, ..Known::default() };
    let said = status::status(function.status.as_ref(), &known, Timestamp::now());
    let mut function = Arc::unwrap_or_clone(function);
    // It is served nowhere.
    function.status = Some(FunctionStatus { url: None, ..said });
    function.metadata.resource_version = None;
    let (namespace, name) = (function.metadata.namespace.clone(), function.metadata.name.clone());
    tracing::warn!(namespace, name, "a function without a valid name is not run");
    match shared.parts.store.update_status(function).await {
        Ok(_) | Err(store::Error::NotFound { .. } | store::Error::Conflict { .. }) => {}
        // An API server before 1.30 lets nothing be written to what its definition has come to forbid.
        Err(error) => {
            let error = crate::telemetry::chain(&error);
            tracing::warn!(namespace, name, error, "its status cannot say so");
        }
    }
}

fn is_said(status: Option<&FunctionStatus>, generation: i64) -> bool {
    status.and_then(|status| status.condition(ConditionType::Ready)).is_some_and(|ready| {
        ready.status == ConditionStatus::False && ready.observed_generation == Some(generation)
    })
}
