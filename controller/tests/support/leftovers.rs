//! What a Hearth that has stopped must not leave on the machine: cgroups, mounts, files of instances, processes, network devices.
//! Everything it makes carries the tag of its data directory, so that several of them can live on one machine.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

/// The tag of everything that a controller with this data directory makes: the first 8 hex digits of its path's SHA-256.
pub(crate) fn tag(data_dir: &Path) -> String {
    let path = data_dir.canonicalize().expect("the data directory is there");
    let digest = Sha256::digest(path.as_os_str().as_encoded_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Everything that is still there, one line each; empty when nothing is.
pub(crate) fn of(data_dir: &Path) -> Vec<String> {
    let tag = tag(data_dir);
    let data = data_dir.to_str().expect("temporary paths are text");
    let mine = |text: &str| text.contains(&tag) || text.contains(data);
    let mut left: Vec<String> = cgroups(&tag).into_iter().map(|path| format!("cgroup {path}")).collect();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    left.extend(mounts.lines().filter(|line| mine(line)).map(|line| format!("mount {line}")));
    let instances = fs::read_dir(Path::new("/run/hearth").join(&tag)).into_iter().flatten().flatten();
    left.extend(instances.map(|entry| format!("file {}", entry.path().display())));
    left.extend(
        commands()
            .into_iter()
            .filter(|(_, line)| mine(line))
            .map(|(pid, line)| format!("process {pid} {line}")),
    );
    for (kind, program, arguments) in [
        ("link", "ip", &["-oneline", "link"][..]),
        ("namespace", "ip", &["netns", "list"]),
        ("rule", "iptables-save", &[]),
        ("rule", "nft", &["list", "ruleset"]),
    ] {
        // A machine without the program has none of its things either.
        let listed =
            Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
        let listed = String::from_utf8_lossy(&listed).into_owned();
        left.extend(listed.lines().filter(|line| line.contains(&tag)).map(|line| format!("{kind} {line}")));
    }
    left
}

/// The shims of its instances: whoever is the first process of its namespace.
pub(crate) fn shims(data_dir: &Path) -> Vec<i32> {
    let first = |pid: &String| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let mut names = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace();
        (names.next_back() == Some("1")).then(|| pid.parse().ok())?
    };
    pids(data_dir).iter().filter_map(first).collect()
}

/// How many processes are in the cgroups of this controller's instances.
pub(crate) fn processes(data_dir: &Path) -> usize {
    pids(data_dir).len()
}

fn pids(data_dir: &Path) -> Vec<String> {
    let of = |path: String| fs::read_to_string(Path::new(&path).join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<String> = cgroups(&tag(data_dir))
        .into_iter()
        .flat_map(|path| of(path).lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    // One process is in a cgroup of every hierarchy.
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Names of the instances of this controller that have processes: the control groups below the one with its tag.
pub(crate) fn instances(data_dir: &Path) -> BTreeSet<String> {
    let occupied = |path: &&String| {
        let processes = fs::read_to_string(Path::new(path).join("cgroup.procs")).unwrap_or_default();
        !processes.trim().is_empty()
    };
    let groups = cgroups(&tag(data_dir));
    groups.iter().filter(occupied).filter_map(|path| Some(path.rsplit_once('/')?.1.to_owned())).collect()
}

/// Most processes that a cgroup may have, and that it has had.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processes {
    /// Its limit.
    pub(crate) limit: u64,
    /// The most there were at once.
    pub(crate) peak: u64,
}

/// Of those cgroups of this controller's instances that have a limit. Files are read and no program is started: it is asked in the
/// middle of what is measured.
pub(crate) fn process_limits(data_dir: &Path) -> Vec<Processes> {
    let number = |path: &Path, file: &str| -> Option<u64> {
        fs::read_to_string(path.join(file)).ok()?.trim().parse().ok()
    };
    let of = |path: PathBuf| {
        // Kernels before 6.6 do not keep the peak.
        let peak = number(&path, "pids.peak").or_else(|| number(&path, "pids.current"))?;
        Some(Processes { limit: number(&path, "pids.max")?, peak })
    };
    let tag = tag(data_dir);
    // Of v1 and of v2.
    let parents =
        ["/sys/fs/cgroup/pids/hearth", "/sys/fs/cgroup/hearth"].map(|parent| Path::new(parent).join(&tag));
    let groups = parents.into_iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
    groups.map(|group| group.path()).filter_map(of).collect()
}

/// The cgroups below one that carries the tag, itself included.
fn cgroups(tag: &str) -> Vec<String> {
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-type", "d", "-path", &format!("*{tag}*")])
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    String::from_utf8_lossy(&found).lines().map(str::to_owned).collect()
}

/// Every process of the machine with its command line.
fn commands() -> Vec<(u32, String)> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        })
        .collect()
}
