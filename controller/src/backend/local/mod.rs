//! What the backends share whose containers run on this machine: the directory of an instance, its root, what its shim is told, mounts
//! into it from outside, and the network with its rules. What makes the containers is each backend's own.

pub(in crate::backend) mod cgroup;
pub(in crate::backend) mod directory;
pub(in crate::backend) mod mounts;
pub(in crate::backend) mod network;
pub(in crate::backend) mod report;
pub(in crate::backend) mod root;
pub(in crate::backend) mod shim;
pub(in crate::backend) mod watch;

use std::fs;
use std::path::Path;

use hearth_function::InstanceId;
use sha2::{Digest as _, Sha256};

use self::directory::Directory;

/// The name every instance has for itself; `/etc/hosts` of the root knows it.
pub(in crate::backend) const HOSTNAME: &str = "function";

/// Open files, for the runtime and for the shim: enough for a few thousand connections.
const OPEN_FILES: u64 = 65_536;

/// The kernel, short of memory on the whole machine, takes a function before the controller and the host's own services.
pub(in crate::backend) const OOM_SCORE: i32 = 300;

/// What of the kernel's `/proc` says or does something about the host. Docker's list, less what needs `/sys`, which is not mounted.
pub(in crate::backend) const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
];

/// What of `/proc` would change the host.
pub(in crate::backend) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Open files that an instance may have: [`OPEN_FILES`], or fewer where this process may have no more itself and could not give more.
pub(in crate::backend) fn open_files() -> u64 {
    let own = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    own.map_or(OPEN_FILES, |own| own.min(OPEN_FILES))
}

/// Runs work that blocks on a thread for it.
pub(in crate::backend) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels such a task, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Eight hex digits that stand for the data directory.
pub(in crate::backend) fn tag(data_dir: &Path) -> String {
    hearth_function::hex(&Sha256::digest(data_dir.as_os_str().as_encoded_bytes())[..4])
}

/// The instances that have a directory.
pub(in crate::backend) fn records(parent: &Path) -> impl Iterator<Item = (InstanceId, Directory)> + use<> {
    let parent = parent.to_owned();
    let entries = fs::read_dir(&parent).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let id = InstanceId::parse(entry.file_name().to_str()?).ok()?;
        let directory = Directory::of(&parent, &id);
        Some((id, directory))
    })
}
