//! Running the conformance suite's cases, on whatever ground.

use std::sync::LazyLock;

use hearth::backend::Owner;
use hearth::backend::conformance::{Suite, cases};
use hearth_function::{FunctionId, RevisionId};

/// Part of the names of the cases that are run, where not all are.
pub(crate) static ONLY: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("HEARTH_CASE").ok());

/// Runs the cases, closes the backend, and says what did not hold.
pub(crate) async fn run(suite: Suite) -> Vec<String> {
    let only = ONLY.as_deref().unwrap_or_default();
    let mut failures = Vec::new();
    for case in cases().into_iter().filter(|case| case.name.contains(only)) {
        if let Some(why) = suite.lacking(case) {
            eprintln!("SKIPPED {}: {why}", case.name);
            continue;
        }
        let begin = std::time::Instant::now();
        match suite.run(case).await {
            Ok(()) => eprintln!("ok      {} ({:?})", case.name, begin.elapsed()),
            Err(failure) => {
                eprintln!("FAILED  {}: {failure}", case.name);
                failures.push(format!("{}: {failure}", case.name));
            }
        }
    }
    suite.backend().close().await.unwrap();
    failures
}

/// Whose code comes later.
pub(crate) fn late(namespace: &str) -> Owner {
    Owner {
        function: FunctionId::parse(&format!("{namespace}/late")).unwrap(),
        revision: RevisionId::parse(&format!("{namespace}/late-00001")).unwrap(),
        since: Some(jiff::Timestamp::UNIX_EPOCH),
        uid: None,
    }
}
