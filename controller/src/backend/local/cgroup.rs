//! Control groups: what an instance may use, what it does use, freezing and killing it as a whole.
//!
//! Written for all three layouts: v1, v2, and the hybrid of both, where v1 has the controllers and the v2 tree, though without
//! controllers, still freezes and kills better than v1 does. An instance's groups are `hearth/<tag>/<instance>` in each tree that is
//! used. [`Layout`] says which those are; everything here only writes and reads files.

mod layout;

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub(in crate::backend) use layout::{Controller, Layout};

use crate::backend::{Limits, Stats};
use layout::Version;

/// Period of the cpu quota, in microseconds: the kernel's default.
const PERIOD_MICROS: u64 = 100_000;

/// How long a group that was killed may take to become empty; beyond it something hangs in the kernel.
const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// How long a freeze may take.
const FROZEN_WITHIN: Duration = Duration::from_secs(2);

/// The parent of this controller's groups, `hearth/<tag>` in every tree.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Parent {
    layout: Layout,
    name: PathBuf,
}

impl Parent {
    /// Makes the parent groups.
    ///
    /// # Errors
    /// When a tree cannot be written, which is so in most containers.
    pub(in crate::backend) fn create(layout: Layout, tag: &str) -> io::Result<Self> {
        let parent = Self { name: Path::new("hearth").join(tag), layout };
        for tree in parent.layout.trees() {
            fs::create_dir_all(tree.join(&parent.name))
                .map_err(|error| at(error, &tree.join(&parent.name)))?;
        }
        let controllers = parent.layout.handed_down();
        if let (Some(tree), false) = (&parent.layout.unified, controllers.is_empty()) {
            for group in [tree.clone(), tree.join("hearth"), tree.join(&parent.name)] {
                put(&group.join("cgroup.subtree_control"), &controllers)?;
            }
        }
        Ok(parent)
    }

    /// Names of the groups that are here, of instances that run and of ones that were left.
    pub(in crate::backend) fn members(&self) -> Vec<String> {
        let trees = self.layout.trees();
        let directories = trees.iter().filter_map(|tree| fs::read_dir(tree.join(&self.name)).ok());
        let entries = directories.flatten().flatten().filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// The groups of one instance, whether they exist or not.
    pub(in crate::backend) fn group(&self, instance: &str) -> Group {
        Group { layout: self.layout.clone(), name: self.name.join(instance) }
    }

    /// Takes the parent groups away; other controllers' stay.
    pub(in crate::backend) fn remove(&self) {
        for tree in self.layout.trees() {
            // `hearth` itself goes with the last of its children, and not before.
            fs::remove_dir(tree.join(&self.name)).ok();
            fs::remove_dir(tree.join("hearth")).ok();
        }
    }
}

/// How a process comes into the groups of an instance.
#[derive(Debug)]
pub(in crate::backend) struct Entrances {
    /// v1: a thread that writes `0` to each is in. For a process with one thread it is the same as `cgroup.procs`, without its lock.
    pub(in crate::backend) tasks: Vec<OwnedFd>,
    /// v2: the directory, for a process to be born in.
    pub(in crate::backend) unified: Option<OwnedFd>,
}

/// The groups of one instance, one in each tree.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Group {
    layout: Layout,
    name: PathBuf,
}

impl Group {
    /// The groups that a process is in: those of a container that somebody else has made. They are taken to have one name in every tree.
    ///
    /// # Errors
    /// When the process is gone.
    pub(in crate::backend) fn of(pid: i32) -> io::Result<Self> {
        let layout = Layout::detect()?;
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let v1 =
            layout.controllers.get(&Controller::Memory).is_some_and(|(version, _)| *version == Version::V1);
        let name = membership(&text, v1).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { layout, name })
    }

    /// Makes the groups, with limits on memory and processes. No cpu quota yet: a small one would make the start many times as long.
    ///
    /// # Errors
    /// When a group cannot be made or a limit not be set; what was made is gone then.
    pub(in crate::backend) fn create(&self, limits: &Limits) -> io::Result<()> {
        let make = || {
            for tree in self.layout.trees() {
                let group = tree.join(&self.name);
                fs::create_dir(&group).map_err(|error| at(error, &group))?;
            }
            self.limit(&Limits { cpu_millis: None, ..*limits })
        };
        make().inspect_err(|_| self.remove_directories())
    }

    /// Whether a name is part of the group's.
    pub(in crate::backend) fn is_named_after(&self, name: &str) -> bool {
        self.name.to_string_lossy().contains(name)
    }

    /// The ways into the groups, open. Both avoid the lock of the whole machine that moving a process into a group takes.
    ///
    /// # Errors
    /// When one cannot be opened.
    pub(in crate::backend) fn entrances(&self) -> io::Result<Entrances> {
        let open = |file: PathBuf, writable: bool| {
            let opened = fs::OpenOptions::new().read(!writable).write(writable).open(&file);
            opened.map(OwnedFd::from).map_err(|error| at(error, &file))
        };
        let unified = self.layout.unified.as_ref();
        let v1 = self.layout.trees().into_iter().filter(|tree| Some(tree) != unified);
        Ok(Entrances {
            tasks: v1
                .map(|tree| open(tree.join(&self.name).join("tasks"), true))
                .collect::<io::Result<_>>()?,
            unified: unified.map(|tree| open(tree.join(&self.name), false)).transpose()?,
        })
    }

    fn process_files(&self) -> Vec<PathBuf> {
        self.layout.trees().iter().map(|tree| tree.join(&self.name).join("cgroup.procs")).collect()
    }

    fn file(&self, controller: Controller, v1: &str, v2: &str) -> Option<(Version, PathBuf)> {
        let (version, tree) = self.layout.controllers.get(&controller)?;
        let name = if *version == Version::V1 { v1 } else { v2 };
        Some((*version, tree.join(&self.name).join(name)))
    }

    /// Sets all limits.
    ///
    /// # Errors
    /// When one cannot be set. A controller that the machine does not have is no error: `open` has decided about that.
    pub(in crate::backend) fn limit(&self, limits: &Limits) -> io::Result<()> {
        let memory = limits.memory_bytes.to_string();
        if let Some((version, file)) = self.file(Controller::Memory, "memory.limit_in_bytes", "memory.max") {
            match version {
                Version::V1 => {
                    // Memory and swap together: as much as memory alone, so no swap. It may never be the smaller of the two, so which
                    // goes first depends on whether the limit grows. Without swap accounting the file is not there.
                    let both = file.with_file_name("memory.memsw.limit_in_bytes");
                    if both.exists() && put(&both, &memory).is_ok() {
                        put(&file, &memory)?;
                    } else {
                        put(&file, &memory)?;
                        if both.exists() {
                            put(&both, &memory)?;
                        }
                    }
                }
                Version::V2 => {
                    put(&file, &memory)?;
                    let swap = file.with_file_name("memory.swap.max");
                    if swap.exists() {
                        put(&swap, "0")?;
                    }
                }
            }
        }
        if let Some((_, file)) = self.file(Controller::Pids, "pids.max", "pids.max") {
            put(&file, &limits.pids.to_string())?;
        }
        let quota = limits.cpu_millis.map(|millis| u64::from(millis) * PERIOD_MICROS / 1000);
        let shares = limits.shares();
        match self.file(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max") {
            Some((Version::V1, file)) => {
                put(&file.with_file_name("cpu.cfs_period_us"), &PERIOD_MICROS.to_string())?;
                put(&file, &quota.map_or_else(|| "-1".to_owned(), |quota| quota.to_string()))?;
                put(&file.with_file_name("cpu.shares"), &shares.to_string())?;
            }
            Some((Version::V2, file)) => {
                let quota = quota.map_or_else(|| "max".to_owned(), |quota| quota.to_string());
                put(&file, &format!("{quota} {PERIOD_MICROS}"))?;
                put(&file.with_file_name("cpu.weight"), &weight(shares).to_string())?;
            }
            None => {}
        }
        Ok(())
    }

    /// What is used now.
    pub(in crate::backend) fn stats(&self) -> Stats {
        let number =
            |file: Option<(Version, PathBuf)>| file.and_then(|(_, file)| read_number(&file)).unwrap_or(0);
        let cpu = match self.file(Controller::CpuAccount, "cpuacct.usage", "cpu.stat") {
            Some((Version::V1, file)) => Duration::from_nanos(read_number(&file).unwrap_or(0)),
            Some((Version::V2, file)) => Duration::from_micros(read_key(&file, "usage_usec").unwrap_or(0)),
            None => Duration::ZERO,
        };
        Stats {
            cpu,
            memory_bytes: number(self.file(Controller::Memory, "memory.usage_in_bytes", "memory.current")),
            memory_peak_bytes: number(self.file(
                Controller::Memory,
                "memory.max_usage_in_bytes",
                "memory.peak",
            )),
            pids: u32::try_from(number(self.file(Controller::Pids, "pids.current", "pids.current")))
                .unwrap_or(u32::MAX),
            pids_refused: self.pids_refused(),
        }
    }

    /// Processes and threads that the limit has kept from being made. Both versions have the file, since Linux 4.3.
    fn pids_refused(&self) -> u64 {
        let file = self.file(Controller::Pids, "pids.events", "pids.events");
        file.and_then(|(_, file)| read_key(&file, "max")).unwrap_or(0)
    }

    /// Whether the kernel killed a process of the instance because its memory was full.
    pub(in crate::backend) fn out_of_memory(&self) -> bool {
        let file = self.file(Controller::Memory, "memory.oom_control", "memory.events");
        file.and_then(|(_, file)| read_key(&file, "oom_kill")).is_some_and(|kills| kills > 0)
    }

    /// Freezes every process and waits until they stand still. Blocks for less than a millisecond as a rule.
    ///
    /// # Errors
    /// When the machine cannot freeze, or a process does not stop.
    pub(in crate::backend) fn freeze(&self) -> io::Result<()> {
        self.set_frozen(true)?;
        let deadline = Instant::now() + FROZEN_WITHIN;
        while !self.is_frozen() {
            if Instant::now() > deadline {
                self.thaw()?;
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a process of the instance does not freeze",
                ));
            }
            pause(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Lets every process run again; one that runs is none the worse.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(in crate::backend) fn thaw(&self) -> io::Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        if let Some(tree) = &self.layout.unified {
            return put(&tree.join(&self.name).join("cgroup.freeze"), if frozen { "1" } else { "0" });
        }
        if let Some(tree) = &self.layout.freezer {
            return put(
                &tree.join(&self.name).join("freezer.state"),
                if frozen { "FROZEN" } else { "THAWED" },
            );
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this machine has neither cgroup v2 nor the v1 freezer",
        ))
    }

    fn is_frozen(&self) -> bool {
        if let Some(tree) = &self.layout.unified {
            return read_key(&tree.join(&self.name).join("cgroup.events"), "frozen") == Some(1);
        }
        let Some(tree) = &self.layout.freezer else { return false };
        fs::read_to_string(tree.join(&self.name).join("freezer.state"))
            .is_ok_and(|state| state.trim() == "FROZEN")
    }

    /// The processes that are in a group of the instance.
    pub(in crate::backend) fn processes(&self) -> Vec<i32> {
        let texts = self.process_files().into_iter().filter_map(|file| fs::read_to_string(file).ok());
        let mut processes: Vec<i32> = texts
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .collect();
        processes.sort_unstable();
        processes.dedup();
        processes
    }

    /// Kills whatever is in the groups, and takes them away. Groups that are gone are no error. Blocks until the kernel has let go.
    ///
    /// # Errors
    /// When a process does not die, which happens when it waits in the kernel for a device.
    pub(in crate::backend) fn destroy(&self) -> io::Result<()> {
        let deadline = Instant::now() + EMPTY_WITHIN;
        let mut wait = Duration::from_micros(200);
        loop {
            self.kill();
            self.remove_directories();
            if self.layout.trees().iter().all(|tree| !tree.join(&self.name).exists()) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "a process of the instance does not die",
                ));
            }
            pause(wait);
            wait = (wait * 2).min(Duration::from_millis(20));
        }
    }

    fn kill(&self) {
        if let Some(tree) = &self.layout.unified {
            // Since Linux 5.14: all at once, frozen or not.
            if put(&tree.join(&self.name).join("cgroup.kill"), "1").is_ok() {
                return;
            }
        }
        // A process frozen by v1 does not even die.
        self.thaw().ok();
        for process in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(process) {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
    }

    fn remove_directories(&self) {
        for tree in self.layout.trees() {
            fs::remove_dir(tree.join(&self.name)).ok();
        }
    }
}

/// The group in the text of `/proc/<pid>/cgroup`: of v1's memory tree, or of the v2 tree.
fn membership(text: &str, v1: bool) -> Option<PathBuf> {
    text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let right =
            if v1 { controllers.split(',').any(|one| one == "memory") } else { controllers.is_empty() };
        right.then(|| PathBuf::from(path.trim_start_matches('/')))
    })
}

/// v2's weight for v1's shares, as the runtimes of the field convert them: 2..=262144 to 1..=10000, 1024 shares being 39.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// A wait so short that no timer is worth it; only on threads that may block.
fn pause(duration: Duration) {
    std::thread::park_timeout(duration);
}

fn put(file: &Path, value: &str) -> io::Result<()> {
    let written =
        fs::OpenOptions::new().write(true).open(file).and_then(|mut open| open.write_all(value.as_bytes()));
    written.map_err(|error| at(error, file))
}

/// The error with the path in its text: "permission denied" alone helps nobody.
fn at(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn read_number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number behind `key` in a file of `key value` lines.
fn read_key(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests;
