//! What this machine can and cannot do, for `hearth doctor`. Nothing is changed on it.

use std::fs;
use std::path::Path;

use super::network;
use crate::backend::Capability;
use crate::backend::local::report::{lacks, node, python, root, works};
use crate::backend::local::{blocking, cgroup};

/// The oldest kernel that has all that is used: `mount_setattr` (5.12) and `cgroup.kill` (5.14; without it there is a slower way).
const OLDEST_KERNEL: [u32; 2] = [5, 12];

/// What this machine can and cannot do for the embedded backend, found out without opening one.
pub async fn probe() -> Vec<Capability> {
    blocking(|| {
        vec![
            root(),
            kernel(),
            namespaces(),
            memory(),
            cpu(),
            pids(),
            pausing(),
            networks(),
            docker(),
            node(),
            python(),
        ]
    })
    .await
}

fn kernel() -> Capability {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    if version(&release) >= OLDEST_KERNEL {
        works("kernel", release)
    } else {
        lacks("kernel", release, "Linux 5.12 or later is needed")
    }
}

fn version(release: &str) -> [u32; 2] {
    let mut parts =
        release.split(|character: char| !character.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    [parts.next().unwrap_or(0), parts.next().unwrap_or(0)]
}

fn namespaces() -> Capability {
    let missing: Vec<&str> = ["mnt", "pid", "ipc", "uts", "net"]
        .into_iter()
        .filter(|kind| !Path::new("/proc/self/ns").join(kind).exists())
        .collect();
    if missing.is_empty() {
        works("namespaces", "mount, pid, ipc, uts, network")
    } else {
        lacks(
            "namespaces",
            format!("the kernel has no {}", missing.join(", ")),
            "use a kernel with these namespaces",
        )
    }
}

fn controlled(name: &str, controller: cgroup::Controller, remedy: &str) -> Capability {
    match cgroup::Layout::detect() {
        Ok(layout) if layout.has(controller) => works(name, format!("control groups {}", layout.describe())),
        Ok(layout) => {
            lacks(name, format!("control groups {} without this controller", layout.describe()), remedy)
        }
        Err(error) => lacks(name, error.to_string(), "mount /proc"),
    }
}

fn memory() -> Capability {
    let remedy =
        "mount the memory controller (on some boards: cgroup_enable=memory on the kernel's command line)";
    controlled("memory limits", cgroup::Controller::Memory, remedy)
}

fn cpu() -> Capability {
    controlled(
        "cpu limits",
        cgroup::Controller::Cpu,
        "mount the cpu controller; without it functions run without a cpu limit",
    )
}

fn pids() -> Capability {
    controlled("process limits", cgroup::Controller::Pids, "mount the pids controller")
}

fn pausing() -> Capability {
    match cgroup::Layout::detect() {
        Ok(layout) if layout.freezes() => works("pausing", layout.describe()),
        _ => lacks(
            "pausing",
            "neither cgroup v2 nor the v1 freezer is mounted",
            "mount a cgroup2 tree; without it instances are not paused",
        ),
    }
}

fn docker() -> Capability {
    let running = fs::symlink_metadata("/sys/class/net/docker0").is_ok();
    let iptables = ["/usr/sbin/iptables", "/sbin/iptables", "/usr/bin/iptables"]
        .iter()
        .any(|path| Path::new(path).exists());
    match (running, iptables) {
        (false, _) => works("docker beside it", "not running"),
        (true, true) => works("docker beside it", "running; its firewall is asked to let instances through"),
        (true, false) => lacks(
            "docker beside it",
            "running, and its firewall drops what instances send",
            "install iptables, so that an exception can be made in DOCKER-USER",
        ),
    }
}

fn networks() -> Capability {
    match network::check() {
        Ok(detail) => works("networks", detail),
        Err(error) => lacks(
            "networks",
            error.to_string(),
            "run as root on a kernel with nf_tables, bridge and veth; without them only functions with `network: none` run",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v657"), [6, 18]);
        assert!(version("5.4.0-generic") < OLDEST_KERNEL);
        assert!(version("10.0") > OLDEST_KERNEL);
    }

    #[tokio::test]
    async fn whatever_is_missing_comes_with_a_remedy() {
        let list = probe().await;
        assert!(list.iter().all(|one| one.works == one.remedy.is_none()));
        assert!(list.iter().any(|one| one.name == "networks"));
    }
}
