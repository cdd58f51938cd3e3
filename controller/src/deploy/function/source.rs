//! Which code a Function has: found out once for each spec, and again after a while when it could not be had.

use std::sync::Arc;
use std::time::Duration;

use hearth_function::spec::SourceKind;
use hearth_function::{Code, FunctionSpec, Revision};
use jiff::Timestamp;
use tokio::time::Instant;

use super::super::missing::Missing;
use super::{RETRY, SOURCE, Task, retry};
use crate::autoscale::pauses;

/// The longest pause between two looks for code that could not be had: as long as a kubelet leaves an image alone.
const LONGEST: Duration = Duration::from_secs(300);

/// What is known of it.
#[derive(Debug)]
pub(super) struct Known {
    /// For which generation of the spec.
    pub(super) generation: i64,
    pub(super) code: Result<Code, Missing>,
    /// How often in a row it could not be had, and when it is looked for again, if that is of use.
    failures: u32,
    next: Option<(Instant, Timestamp)>,
}

impl Known {
    fn new(
        generation: i64,
        code: Result<Code, Missing>,
        before: Option<&Self>,
        now: Instant,
        time: Timestamp,
    ) -> Self {
        let failed = code.as_ref().err();
        let before = before.filter(|before| before.generation == generation);
        let failures = before.map_or(0, |before| before.failures);
        let pause = pauses::pause(RETRY, LONGEST, failures);
        Self {
            generation,
            next: failed
                .filter(|missing| missing.may_pass())
                .map(|_| (now + pause, retry::after(time, pause))),
            failures: if failed.is_some() { failures + 1 } else { 0 },
            code,
        }
    }

    /// When it is looked for again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next.map(|(at, _)| at)
    }

    /// The same for people.
    pub(super) fn again(&self) -> Option<Timestamp> {
        self.next.map(|(_, at)| at)
    }
}

impl Task {
    pub(super) async fn resolve(&mut self, generation: i64) {
        if let Some(function) = self.memory.function.clone() {
            let code = match self.resolved_before(&function.spec) {
                Some(code) => Ok(code),
                None => self.shared.parts.sources.resolve(self.id.namespace(), &function.spec).await,
            };
            let before = self.memory.code.as_ref();
            self.memory.code = Some(Known::new(generation, code, before, Instant::now(), Timestamp::now()));
        }
    }

    /// What the newest Revision of the same source has found a tag, a branch or an address to mean. Without this a restart of the controller
    /// could deploy something new, and could not go on without the registry.
    fn resolved_before(&self, spec: &FunctionSpec) -> Option<Code> {
        let source = text(spec)?;
        let revisions = self.revisions();
        let of_source = |revision: &&Arc<Revision>| {
            let annotations = revision.metadata.annotations.as_ref();
            annotations.and_then(|all| all.get(SOURCE)).is_some_and(|text| *text == source)
                && revision.is_intact()
        };
        let code = revisions.values().rev().find(of_source)?.spec.template.code()?;
        match &code {
            // Collected meanwhile: it is fetched again.
            Code::Bundle(bundle) if !self.shared.parts.sources.bundles.has(bundle) => None,
            Code::Bundle(_) | Code::Image(_) => Some(code),
        }
    }
}

/// The source of a Function that means what it means when it is looked up, as text; `None`: it names its code itself.
pub(super) fn text(spec: &FunctionSpec) -> Option<String> {
    match spec.source.kind()? {
        SourceKind::Image(_) | SourceKind::Archive(_) | SourceKind::Git(_) => {
            serde_json::to_string(&spec.source).ok()
        }
        SourceKind::Path(_) | SourceKind::Inline(_) | SourceKind::Bundle(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deploy::missing::Lack;

    fn missing(reason: Lack) -> Result<Code, Missing> {
        Err(Missing { reason, message: "no".to_owned() })
    }

    #[test]
    fn code_that_cannot_be_had_is_looked_for_again_ever_later() {
        let (now, time) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let first = Known::new(1, missing(Lack::ImageMissing), None, now, time);
        assert_eq!(first.due(), Some(now + RETRY));
        assert_eq!(first.again().map(Timestamp::as_second), i64::try_from(RETRY.as_secs()).ok());
        let second = Known::new(1, missing(Lack::ImageMissing), Some(&first), now, time);
        assert_eq!(second.due(), Some(now + 2 * RETRY));
        // Another spec begins anew.
        let other = Known::new(2, missing(Lack::SourceMissing), Some(&second), now, time);
        assert_eq!(other.due(), Some(now + RETRY));
    }

    #[test]
    fn what_only_another_spec_can_mend_is_not_looked_for_again() {
        let known = Known::new(1, missing(Lack::SourceInvalid), None, Instant::now(), Timestamp::UNIX_EPOCH);
        assert_eq!((known.due(), known.again()), (None, None));
    }
}
