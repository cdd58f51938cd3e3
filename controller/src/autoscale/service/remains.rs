//! Instances that an earlier controller left: adopted by the Revisions that they belong to, or taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hearth_function::FunctionId;
use hearth_function::spec::ProcessModel;
use tokio_util::task::TaskTracker;

use super::super::Target;
use super::Service;
use crate::backend::Found;
use crate::pool::STOP_GRACE;

/// An instance of an earlier controller.
#[derive(Debug)]
pub struct Adoptable {
    /// As the backend found it.
    pub found: Found,
    /// Its lines up to this number are kept.
    pub logs_after: u64,
    /// How long a call in it may run, as its Revision has it; zero where it has none.
    pub execute: Duration,
}

impl Adoptable {
    fn function(&self) -> Option<&FunctionId> {
        self.found.spec.owner.as_ref().map(|owner| &owner.function)
    }
}

/// What nobody has adopted.
#[derive(Debug)]
pub(super) struct Remains {
    adoptable: Vec<Adoptable>,
    /// By Function, those that are being taken away.
    going: BTreeMap<FunctionId, TaskTracker>,
}

impl Remains {
    pub(super) fn new(adoptable: Vec<Adoptable>) -> Self {
        Self { adoptable, going: BTreeMap::new() }
    }

    /// Those that this Revision goes on with; they are no remains any more.
    pub(super) fn of(&mut self, target: &Target) -> Vec<Adoptable> {
        // One that is for a single call may have had it.
        let reusable = target.policy.process_model == ProcessModel::Resident;
        let own = |one: &mut Adoptable| {
            let owner = one.found.spec.owner.as_ref();
            reusable && one.found.stays() && owner.is_some_and(|owner| target.template.is_of(owner))
        };
        self.adoptable.extract_if(.., own).collect()
    }

    /// Leaves them to the next controller.
    pub(super) fn leave(&mut self) {
        self.adoptable.clear();
    }
}

impl Service {
    /// Takes away what an earlier controller left and nobody asks for (INV-17); the log says what became of instances that ended meanwhile.
    /// Of Functions in namespaces that are `unknown` somebody may ask yet.
    pub(super) fn settle(&mut self, unknown: &BTreeSet<String>) {
        self.take_away(|one| one.function().is_none_or(|function| !unknown.contains(function.namespace())));
    }

    /// Takes away what an earlier controller left of a Function that is gone. What is told is empty once that is done; so is what was taken
    /// away of it before.
    pub(super) fn clear(&mut self, function: &FunctionId) -> TaskTracker {
        self.take_away(|one| one.function() == Some(function));
        self.remains.going.retain(|_, going| !going.is_empty());
        self.remains.going.get(function).cloned().unwrap_or_default()
    }

    fn take_away(&mut self, is_nobodys: impl Fn(&Adoptable) -> bool) {
        let remains = self.remains.adoptable.extract_if(.., |one| is_nobodys(one));
        for one in remains.collect::<Vec<_>>() {
            let function = one.function().cloned();
            let Adoptable { found, execute, .. } = one;
            let instance = found.spec.id.clone();
            if let (Some(function), Some(exit)) = (&function, &found.ended) {
                let how = exit.to_string();
                let text = format!("the instance ended while the controller was away: {how}");
                self.logs.remark(function, Some(&instance), text);
            }
            let grace = match (&found.ended, &function) {
                (Some(_), _) => Duration::ZERO,
                // Nobody has ever called it.
                (None, None) => STOP_GRACE,
                // Gateways of an earlier controller may have calls in it, of which this one knows nothing: one that is for a single call, of
                // a Revision that was drained, or that leaves. It ends by itself after the last.
                (None, Some(_)) => found.taken_away.unwrap_or_else(|| self.config.drain.max(execute)),
            };
            let (ended, grace_s) = (found.ended.is_some(), grace.as_secs());
            tracing::info!(%instance, ended, grace_s, "taking away what an earlier run left");
            let going = function.map(|function| self.remains.going.entry(function).or_default().token());
            self.pool.reap(instance, grace, going);
        }
    }
}
