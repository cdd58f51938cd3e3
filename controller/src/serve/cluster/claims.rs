//! Functions of other Hearths. Several may run in one cluster and, by mistake or by design, watch the same namespaces. Each Function is served by
//! one of them: the first that has claimed it (`hearth.dev/installation`). The others leave it alone, which is said here by an Event on it and in
//! the log, and take it over once the one that has claimed it is no more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hearth_function::{Function, INSTALLATION_ANNOTATION};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::{Instant, interval, sleep, timeout};

use super::events;
use crate::lease;
use crate::store::kubernetes::{Elsewhere, Taken};
use crate::telemetry::chain;

/// How often it is looked whether the others are still there.
const LOOK: Duration = Duration::from_secs(30);

/// How long changes gather before a look.
const GATHER: Duration = Duration::from_secs(1);

/// A Hearth that has given its Lease back is taken to be gone for good after so long: a new version, or another node, takes less. Longer than a
/// controller with another key waits for the Lease itself: what is taken over here are Functions of another namespace.
const GONE_AFTER: Duration = Duration::from_secs(300);

/// One request.
const REQUEST: Duration = Duration::from_secs(5);

/// Events that one look may send: the rest follow with the next looks, each Function once; the log has the number of all.
const TOLD_AT_ONCE: usize = 50;

/// Functions of which it is remembered that they were told; beyond, all are forgotten.
const REMEMBERED: usize = 10_000;

/// Watches over what others have claimed.
pub(super) struct Claims {
    client: Client,
    mine: String,
    reporter: String,
    elsewhere: Elsewhere,
    told: BTreeSet<(Option<String>, String)>,
    others: BTreeMap<String, Other>,
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claims").field("mine", &self.mine).finish_non_exhaustive()
    }
}

/// Another Hearth.
#[derive(Debug, Default)]
struct Other {
    /// Since when its Lease is seen given back.
    given_back: Option<Instant>,
    /// The last thing that was said of it.
    said: Option<String>,
}

/// The Lease of another Hearth.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// There is none, or no such namespace.
    None,
    GivenBack,
    /// Somebody holds it, or held it when it was last seen: a controller that was killed comes back.
    Held(String),
    /// It cannot be read.
    Unknown(String),
}

/// What that means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// What it has claimed stays its own, for this reason.
    Its(String),
    /// It is no more.
    Gone,
}

impl Other {
    fn judge(&mut self, seen: Seen, now: Instant) -> Verdict {
        if seen != Seen::GivenBack {
            self.given_back = None;
        }
        match seen {
            Seen::None => Verdict::Gone,
            Seen::Held(holder) => Verdict::Its(format!("{holder} works there")),
            Seen::Unknown(why) => Verdict::Its(format!("whether it still works is not known ({why})")),
            Seen::GivenBack if now >= *self.given_back.get_or_insert(now) + GONE_AFTER => Verdict::Gone,
            Seen::GivenBack => Verdict::Its("it was stopped in good order just now".to_owned()),
        }
    }
}

impl Claims {
    /// For the Hearth in the namespace `mine`; `reporter` is this process.
    pub(super) fn new(client: Client, mine: &str, reporter: &str, elsewhere: Elsewhere) -> Self {
        let (told, others) = (BTreeSet::new(), BTreeMap::new());
        Self { client, mine: mine.to_owned(), reporter: reporter.to_owned(), elsewhere, told, others }
    }

    /// For ever.
    pub(super) async fn run(mut self) {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // Both arms are cancel-safe.
            tokio::select! {
                // Many that are applied together are one look.
                () = self.elsewhere.changed() => sleep(GATHER).await,
                _ = tick.tick() => {}
            }
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let mut by_claimant: BTreeMap<String, Vec<Taken>> = BTreeMap::new();
        for taken in self.elsewhere.list() {
            by_claimant.entry(taken.claimant.clone()).or_default().push(taken);
        }
        self.others.retain(|claimant, _| by_claimant.contains_key(claimant));
        for (claimant, all) in by_claimant {
            let seen = self.lease(&claimant).await;
            match self.others.entry(claimant.clone()).or_default().judge(seen, Instant::now()) {
                Verdict::Its(why) => self.leave_alone(&claimant, &all, &why).await,
                Verdict::Gone => self.take_over(&claimant, &all).await,
            }
        }
    }

    async fn lease(&self, namespace: &str) -> Seen {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), namespace);
        let lease = match timeout(REQUEST, api.get_opt(lease::NAME)).await {
            Ok(Ok(lease)) => lease,
            Ok(Err(kube::Error::Api(status))) => return Seen::Unknown(status.message.clone()),
            Ok(Err(error)) => return Seen::Unknown(chain(&error)),
            Err(late) => return Seen::Unknown(late.to_string()),
        };
        let Some(lease) = lease else { return Seen::None };
        let holder = lease.spec.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty());
        holder.map_or(Seen::GivenBack, Seen::Held)
    }

    async fn leave_alone(&mut self, claimant: &str, all: &[Taken], why: &str) {
        let other = self.others.entry(claimant.to_owned()).or_default();
        if other.said.as_deref() != Some(why) {
            other.said = Some(why.to_owned());
            let example = all.first().map(|taken| taken.function.to_string());
            tracing::warn!(
                other = claimant,
                functions = all.len(),
                example,
                why,
                "another Hearth serves Functions of the namespaces that this one watches: they are left to it"
            );
        }
        if self.told.len() > REMEMBERED {
            self.told.clear();
        }
        let new: Vec<&Taken> = all
            .iter()
            .filter(|taken| self.told.insert((taken.metadata.uid.clone(), claimant.to_owned())))
            .take(TOLD_AT_ONCE)
            .collect();
        for taken in new {
            let message = format!(
                "the Hearth in namespace {claimant} serves it ({why}); the one in {} leaves it alone: give each its own --watch-namespace, \
                 or take the annotation {INSTALLATION_ANNOTATION} off when {claimant} has none any more",
                self.mine
            );
            let event = events::warning(&taken.metadata, "ServedElsewhere", message, &self.reporter);
            let namespace = taken.function.namespace();
            let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
            // It is in the log as well.
            let _not_taken = timeout(REQUEST, api.create(&PostParams::default(), &event)).await;
        }
    }

    /// Claims what a Hearth that is no more has left.
    async fn take_over(&self, claimant: &str, all: &[Taken]) {
        tracing::info!(other = claimant, functions = all.len(), "taking over from a Hearth that is no more");
        for taken in all {
            // With its version: whoever writes to it meanwhile may be another that takes it over.
            let patch = json!({ "metadata": {
                "uid": taken.metadata.uid, "resourceVersion": taken.metadata.resource_version,
                "annotations": { INSTALLATION_ANNOTATION: self.mine },
            } });
            let api: Api<Function> = Api::namespaced(self.client.clone(), taken.function.namespace());
            let (name, patch) = (taken.function.name(), Patch::Merge(patch));
            let patched = timeout(REQUEST, api.patch_metadata(name, &PatchParams::default(), &patch)).await;
            match patched {
                Ok(Ok(_)) => {}
                // The next look sees what it is now.
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_not_found() => {}
                Ok(Err(error)) => {
                    tracing::warn!(function = %taken.function, error = chain(&error), "a Function is not taken over");
                    return;
                }
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_stopped_is_gone_after_a_while_and_one_that_was_killed_is_not() {
        let (mut other, began) = (Other::default(), Instant::now());
        let is_gone = |other: &mut Other, seen: Seen, at| other.judge(seen, at) == Verdict::Gone;
        assert!(!is_gone(&mut other, Seen::GivenBack, began));
        assert!(!is_gone(&mut other, Seen::GivenBack, began + GONE_AFTER / 2));
        // It was a restart.
        assert!(!is_gone(&mut other, Seen::Held("a_1".to_owned()), began + GONE_AFTER));
        assert!(!is_gone(&mut other, Seen::GivenBack, began + GONE_AFTER));
        assert!(is_gone(&mut other, Seen::GivenBack, began + 2 * GONE_AFTER));
        // Killed: nobody has given the Lease back.
        assert!(!is_gone(&mut other, Seen::Held("a_1".to_owned()), began + 100 * GONE_AFTER));
        assert!(!is_gone(&mut other, Seen::Unknown("forbidden".to_owned()), began + 100 * GONE_AFTER));
        assert!(is_gone(&mut other, Seen::None, began + 100 * GONE_AFTER));
    }
}
