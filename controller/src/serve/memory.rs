//! Gives memory back that nobody needs any more.
//!
//! The allocator keeps what was freed, in an arena for each few threads. Starting up and deployments are what frees much: packing, parsing
//! and planning a thousand functions left ten to twenty megabytes of it. So after these, when the store has come to rest, what is whole pages
//! is handed back to the kernel. That takes a few milliseconds on a thread of its own; requests that are served meanwhile may wait for the
//! allocator's locks. What traffic changes in the store does not cause it, and while deployments follow each other it waits for their end,
//! though not for ever.
//!
//! The same goes for code: starting up and deploying run through most of the binary once, and what was run stays resident. It is let go
//! too; what serves comes back from the page cache with its first use, a microsecond for each page that is still there.

use std::time::Duration;

use hearth_function::Function;

use crate::store::{self, Event, Store, Watch};

/// So long nothing must have changed: the next step of a deployment follows the last one at once.
const QUIET: Duration = Duration::from_secs(2);

/// So long at most is waited for that.
const PATIENCE: Duration = Duration::from_secs(60);

/// Until the store is closed.
pub(super) async fn run(store: Store) {
    let mut changes = Changes::new(store);
    loop {
        let patience = tokio::time::Instant::now() + PATIENCE;
        while tokio::time::Instant::now() < patience {
            match tokio::time::timeout(QUIET, changes.next()).await {
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => break,
            }
        }
        // It reads files and holds locks of the allocator: nothing for a thread that others' tasks are on.
        if let Err(error) = tokio::task::spawn_blocking(give_back).await {
            tracing::error!(%error, "giving memory back has panicked");
        }
        loop {
            match changes.next().await {
                Some(Change::Deployment) => break,
                Some(Change::Status) => {}
                None => return,
            }
        }
    }
}

/// What has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    /// A Function came, went or has another spec.
    Deployment,
    /// What is said about one.
    Status,
}

impl Change {
    fn of(event: &Event<Function>) -> Self {
        match event {
            Event::Added(_) | Event::Deleted(_) => Self::Deployment,
            Event::Modified(function) => {
                let observed = function.status.as_ref().and_then(|status| status.observed_generation);
                if observed == function.metadata.generation { Self::Status } else { Self::Deployment }
            }
        }
    }
}

/// Anything that happens to a Function.
struct Changes {
    store: Store,
    watch: Option<Watch<Function>>,
}

impl Changes {
    fn new(store: Store) -> Self {
        Self { store, watch: None }
    }

    /// Waits for the next; `None` when the store was closed. Cancel-safe.
    async fn next(&mut self) -> Option<Change> {
        let watch = match &mut self.watch {
            Some(watch) => watch,
            none => none.insert(self.store.watch(self.store.resource_version()).ok()?),
        };
        match watch.next().await {
            Ok(event) => Some(Change::of(&event)),
            // It has fallen behind, which is to say that much has happened.
            Err(store::Error::Expired { .. }) => {
                self.watch = None;
                Some(Change::Deployment)
            }
            Err(_) => None,
        }
    }
}

fn give_back() {
    give_back_memory();
    if let Err(error) = give_back_code() {
        tracing::debug!(%error, "code that was run once stays resident");
    }
}

/// Lets go of the pages of the binary's own code.
#[expect(unsafe_code, reason = "no safe wrapper can know that nothing has written to the pages")]
fn give_back_code() -> std::io::Result<()> {
    let program = std::env::current_exe()?;
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    for (start, end) in clean_parts(&maps, &program.to_string_lossy()) {
        let address = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: a private mapping of a file of which no page is a copy, in memory or in swap, has only what the file has: dropped pages come
        // back from there when they are used, in this thread and in all others. It is code, which nothing writes to between the look and now.
        if unsafe { libc::madvise(address, end - start, libc::MADV_DONTNEED) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Where the code of `program` is mapped and has no page that differs from the file (a debugger writes to some), from `/proc/self/smaps`. A page
/// that was written to is anonymous, or in swap: both counts must be there and be 0.
fn clean_parts(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let (mut part, mut unwritten) = (None, false);
    for line in maps.lines() {
        let is_none = || line.split_whitespace().nth(1) == Some("0");
        if line.starts_with("Anonymous:") {
            unwritten = is_none();
        } else if line.starts_with("Swap:") {
            found.extend(part.take().filter(|_| unwritten && is_none()));
        } else if !line.split_whitespace().next().is_some_and(|first| first.ends_with(':')) {
            // The first line of a mapping.
            part = if line.ends_with(program) { range(line) } else { None };
            unwritten = false;
        }
    }
    found
}

/// The addresses of a mapping of code.
fn range(line: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let parse = |hex| usize::from_str_radix(hex, 16).ok();
    rest.starts_with("r-xp ").then_some((parse(start)?, parse(end)?))
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a call of the C library that no safe crate offers")]
fn give_back_memory() {
    // SAFETY: it takes a number, and is safe to be called by several threads.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other C libraries give back by themselves.
#[cfg(not(target_env = "gnu"))]
fn give_back_memory() {}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str) -> Function {
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "runtime": "nodejs", "source": { "inline": { "index.js": "" } }, "handler": "index.handler" },
        }))
        .unwrap()
    }

    #[test]
    fn only_what_the_file_has_too_is_let_go() {
        let maps = "\
55d0c0000000-55d0c0400000 r--p 00000000 fe:00 12 /usr/bin/hearth
Rss: 4 kB
Anonymous:             0 kB
Swap:                  0 kB
55d0c0400000-55d0c1000000 r-xp 00400000 fe:00 12 /usr/bin/hearth
Anonymous:             0 kB
Swap:                  0 kB
SwapPss:               0 kB
55d0c1000000-55d0c1100000 r-xp 01000000 fe:00 12 /usr/bin/hearth
Anonymous:          1024 kB
Swap:                  0 kB
55d0c1100000-55d0c1200000 r-xp 01100000 fe:00 12 /usr/bin/hearth
Anonymous:             0 kB
Swap:                  4 kB
55d0c1200000-55d0c1300000 rw-p 01100000 fe:00 12 /usr/bin/hearth
Anonymous:             0 kB
Swap:                  0 kB
55d0c1300000-55d0c1400000 r-xp 01200000 fe:00 12 /usr/bin/hearth
Anonymous:             0 kB
7f0000000000-7f0000200000 r-xp 00000000 fe:00 13 /usr/lib/libc.so.6
Anonymous:             0 kB
Swap:                  0 kB";
        let found = clean_parts(maps, "/usr/bin/hearth");
        assert_eq!(found, [(0x55d0_c040_0000, 0x55d0_c100_0000)]);
        // And what runs goes on.
        give_back();
    }

    #[test]
    fn what_traffic_changes_is_no_deployment() {
        let mut function = function("a");
        function.metadata.generation = Some(2);
        let change =
            |function: &Function| Change::of(&Event::Modified(std::sync::Arc::new(function.clone())));
        assert_eq!(change(&function), Change::Deployment);
        function.status = serde_json::from_value(serde_json::json!({ "observedGeneration": 1 })).unwrap();
        assert_eq!(change(&function), Change::Deployment);
        function.status = serde_json::from_value(serde_json::json!({ "observedGeneration": 2 })).unwrap();
        assert_eq!(change(&function), Change::Status);
    }

    #[tokio::test]
    async fn it_hears_of_changes_and_ends_with_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let config = store::Config { history: 2, ..store::Config::new(directory.path().join("hearth.redb")) };
        let store = Store::open(config).await.unwrap();
        let mut changes = Changes::new(store.clone());
        let waiting = tokio::time::timeout(Duration::ZERO, changes.next()).await;
        assert!(waiting.is_err(), "nothing has happened");
        for name in ["a", "b", "c", "d"] {
            store.create(function(name), jiff::Timestamp::now()).await.unwrap();
        }
        // The history does not reach back to where it was: it goes on from here.
        assert_eq!(changes.next().await, Some(Change::Deployment));
        assert!(tokio::time::timeout(Duration::ZERO, changes.next()).await.is_err());
        store.create(function("e"), jiff::Timestamp::now()).await.unwrap();
        assert_eq!(changes.next().await, Some(Change::Deployment));
        store.close().await;
        assert_eq!(changes.next().await, None);
    }
}
