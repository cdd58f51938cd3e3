//! Gives memory back that nobody needs any more.
//!
//! The allocator keeps what was freed, in an arena for each few threads; starting up, deployments and many requests free much. And what code
//! ran once stays resident: starting up and deploying run through most of the binary. So when the process has come to rest, and holds much
//! more than it did after the last time, what is whole free pages and code is let go. That takes a few milliseconds on a thread of its own, and
//! nothing is served meanwhile, as a rule. What serves comes back from the page cache with its first use, a microsecond for each page.

use std::time::Duration;

/// How often the process looks at itself.
const EVERY: Duration = Duration::from_secs(2);

/// It rests when it was busy for no longer than this in that time, twice in a row: one per cent, and two ticks of the kernel's clock.
const RESTING: Duration = Duration::from_millis(20);

/// What it must hold more than after the last time, in bytes: letting go for less would go on for ever, as code that serves comes back.
const WORTH: u64 = 6 << 20;

/// Until the store is closed, whose versions these are.
pub(super) async fn run(mut versions: tokio::sync::watch::Receiver<u64>) {
    let closed = async { while versions.changed().await.is_ok() {} };
    tokio::select! {
        () = closed => {}
        () = keep_small() => {}
    }
}

async fn keep_small() {
    let mut watch = Watch::default();
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(seen) = Usage::now().filter(|seen| watch.look(*seen)) else { continue };
        // It reads files and holds locks of the allocator: nothing for a thread that others' tasks are on.
        if let Err(error) = tokio::task::spawn_blocking(give_back).await {
            tracing::error!(%error, "giving memory back has panicked");
        }
        watch.given_back(Usage::now().unwrap_or(seen));
    }
}

/// What the process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Usage {
    /// Bytes that are resident.
    resident: u64,
    /// Time on a core since it started.
    busy: Duration,
}

impl Usage {
    /// `None` where the kernel does not tell.
    fn now() -> Option<Self> {
        let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
        let times = std::fs::read_to_string("/proc/self/stat").ok()?;
        Self::read(&pages, &times)
    }

    /// From `/proc/self/statm` and `/proc/self/stat` (proc(5)).
    fn read(statm: &str, stat: &str) -> Option<Self> {
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        // The name of the program, in brackets, may hold anything; utime and stime are the fields 14 and 15 of all, 12 and 13 after it.
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut times = after_name.split_whitespace().skip(11).map(str::parse::<u64>);
        let ticks = times.next()?.ok()? + times.next()?.ok()?;
        Some(Self {
            resident: pages * rustix::param::page_size() as u64,
            busy: Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1)),
        })
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
struct Watch {
    /// Time on a core at the last look.
    busy: Duration,
    /// Looks in a row that found it at rest.
    resting: u32,
    /// What was resident after it was given back last.
    floor: u64,
}

impl Watch {
    /// Whether it is time to give back.
    fn look(&mut self, seen: Usage) -> bool {
        let rests = seen.busy.saturating_sub(self.busy) <= RESTING;
        self.busy = seen.busy;
        self.resting = if rests { self.resting + 1 } else { 0 };
        self.resting >= 2 && seen.resident >= self.floor + WORTH
    }

    fn given_back(&mut self, left: Usage) {
        self.floor = left.resident;
    }
}

fn give_back() {
    give_back_memory();
    if let Err(error) = give_back_code() {
        tracing::debug!(%error, "code that was run once stays resident");
    }
}

/// Lets go of the pages of the binary's own code and constants.
#[expect(unsafe_code, reason = "no safe wrapper can know that nothing has written to the pages")]
fn give_back_code() -> std::io::Result<()> {
    let program = std::env::current_exe()?;
    let maps = std::fs::read_to_string("/proc/self/smaps")?;
    for (start, end) in clean_parts(&maps, &program.to_string_lossy()) {
        let address = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: a private mapping of a file of which no page is a copy, in memory or in swap, has only what the file has: dropped pages come
        // back from there when they are used, in this thread and in all others. It cannot be written to, so nothing does between the look and now.
        if unsafe { libc::madvise(address, end - start, libc::MADV_DONTNEED) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Where code and constants of `program` are mapped and have no page that differs from the file (the loader and a debugger write to some), from
/// `/proc/self/smaps`. A page that was written to is anonymous, or in swap: both counts must be there and be 0.
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

/// The addresses of a mapping of code or constants.
fn range(line: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let parse = |hex| usize::from_str_radix(hex, 16).ok();
    ["r-xp ", "r--p "].iter().any(|kind| rest.starts_with(kind)).then_some((parse(start)?, parse(end)?))
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a call of the C library that no safe crate offers")]
fn give_back_memory() {
    // SAFETY: it takes a number, and is safe to be called by several threads.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Lets the allocator have one arena for each core, instead of eight: what a deployment leaves half used in each stays resident. For a server's
/// process, before its threads begin.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "a call of the C library that no safe crate offers")]
pub(crate) fn few_arenas() {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let arenas = libc::c_int::try_from(cores).unwrap_or(libc::c_int::MAX);
    // SAFETY: it takes two numbers. Its one failure is that nothing changes.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, arenas);
    }
}

/// Other C libraries have no arenas.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn few_arenas() {}

/// Other C libraries give back by themselves.
#[cfg(not(target_env = "gnu"))]
fn give_back_memory() {}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(found, [(0x55d0_c000_0000, 0x55d0_c040_0000), (0x55d0_c040_0000, 0x55d0_c100_0000)]);
        // And what runs goes on.
        give_back();
    }

    #[test]
    fn the_kernel_tells_what_is_used() {
        let stat =
            "7 (a (b) c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 100 1000 20 18446744073709551615";
        let used = Usage::read("100 20 5 1 0 3 0", stat).unwrap();
        assert_eq!(used.resident, 20 * rustix::param::page_size() as u64);
        assert_eq!(used.busy, Duration::from_millis(200_000 / rustix::param::clock_ticks_per_second()));
        assert!(Usage::now().unwrap().resident > 1 << 20);
        assert_eq!((Usage::read("", stat), Usage::read("100 20", "7 (a")), (None, None));
    }

    #[test]
    fn it_is_given_back_at_rest_and_only_when_there_is_much() {
        let mut watch = Watch::default();
        let mut busy = Duration::ZERO;
        let mut look = |watch: &mut Watch, resident: u64, more: u64| {
            busy += Duration::from_millis(more);
            watch.look(Usage { resident: resident << 20, busy })
        };
        assert!(!look(&mut watch, 30, 500), "it starts");
        assert!(!look(&mut watch, 30, 0), "it has rested for one look only");
        assert!(look(&mut watch, 30, 10));
        watch.given_back(Usage { resident: 12 << 20, busy: Duration::ZERO });
        assert!(!look(&mut watch, 15, 10), "what serves has come back");
        for _ in 0..10 {
            assert!(!look(&mut watch, 40, 100), "it works");
        }
        assert!(!look(&mut watch, 40, 0));
        assert!(look(&mut watch, 40, 0));
    }
}
