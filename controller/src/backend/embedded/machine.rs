//! What the backend makes of the machine, for all instances together: groups, roots, networks, the launcher; and what it clears away
//! that a killed controller left.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::process::Identity;
use super::{Config, OpenError, launch, network};
use crate::backend::Started;
use crate::backend::local::{cgroup, records, root, tag};

/// What `started.json` says of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::backend) struct Record {
    /// The shim.
    pub(in crate::backend) process: Identity,
    /// Its address on the bridge, if it has one.
    pub(in crate::backend) address: Option<Ipv4Addr>,
    /// What the start answered.
    pub(in crate::backend) started: Started,
}

/// What this backend has made of the machine. Everything in here blocks.
#[derive(Debug)]
pub(super) struct Machine {
    /// `<run-dir>/<tag>`.
    pub(super) directory: PathBuf,
    pub(super) parent: cgroup::Parent,
    pub(super) roots: root::Roots,
    pub(super) networks: network::Networks,
    pub(super) launcher: launch::Launcher,
}

impl Machine {
    pub(super) fn open(config: &Config) -> Result<Self, OpenError> {
        let step = |step: String| move |source: io::Error| OpenError::Step { step, source };
        if !rustix::process::geteuid().is_root() {
            return Err(OpenError::Unsupported {
                what: "run containers as an ordinary user".to_owned(),
                remedy: "start hearth as root (sudo)".to_owned(),
            });
        }
        let layout = cgroup::Layout::detect().map_err(step("read /proc/self/mountinfo".to_owned()))?;
        if !layout.has(cgroup::Controller::Memory) || !layout.has(cgroup::Controller::Pids) {
            return Err(OpenError::Unsupported {
                what: "limit memory and processes: it has no such control groups".to_owned(),
                remedy: "mount /sys/fs/cgroup with the memory and pids controllers (on some boards: cgroup_enable=memory on the \
                         kernel's command line)"
                    .to_owned(),
            });
        }
        let data_dir = fs::canonicalize(&config.data_dir)
            .map_err(step(format!("open {}", config.data_dir.display())))?;
        let tag = tag(&data_dir);
        let directory = config.run_dir.join(&tag);
        let parent = cgroup::Parent::create(layout, &tag).map_err(step("make control groups".to_owned()))?;
        fs::create_dir_all(&directory).map_err(step(format!("make {}", directory.display())))?;
        // Instances whose first process ends before its maker belong to us, not to the machine's init.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| step("become the parent of orphans".to_owned())(error.into()))?;
        sweep(&directory, &parent);
        let taken = records(&directory)
            .filter_map(|(_, directory)| directory.read_record::<Record>()?.address)
            .collect();
        let networks = network::Networks::open(config, &tag, taken);
        let roots = root::Roots::new(&data_dir, config.shim_dir.clone(), networks.gateway());
        fs::create_dir_all(data_dir.join("roots")).map_err(step("make the directory of roots".to_owned()))?;
        if records(&directory).next().is_none() {
            roots.sweep();
        }
        let launcher =
            launch::Launcher::start(&config.program).map_err(step("start the launcher".to_owned()))?;
        Ok(Self { directory, parent, roots, networks, launcher })
    }
}

/// Takes away starts that a killed controller did not complete, and groups that have no instance.
fn sweep(parent: &Path, groups: &cgroup::Parent) {
    for (id, directory) in records(parent) {
        if directory.read_record::<Record>().is_none() || directory.read_spec().is_none() {
            let gone = groups.group(id.as_str()).destroy().and_then(|()| directory.remove());
            if let Err(error) = gone {
                tracing::warn!(instance = %id, %error, "cannot take away an unfinished start");
            }
        }
    }
    for name in groups.members() {
        if !parent.join(&name).exists()
            && let Err(error) = groups.group(&name).destroy()
        {
            tracing::warn!(group = name, %error, "cannot take away a control group without an instance");
        }
    }
}
