//! Which trees of control groups this machine has, and what each is good for: from the kernel's own list of mounts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A controller that instances are limited with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::backend) enum Controller {
    /// Quota and weight.
    Cpu,
    /// Used cpu time; a part of `Cpu` in v2.
    CpuAccount,
    /// Memory and swap.
    Memory,
    /// Processes.
    Pids,
}

/// Which of the two interfaces a tree has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// Where this machine's trees are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::backend) struct Layout {
    pub(super) controllers: BTreeMap<Controller, (Version, PathBuf)>,
    pub(super) unified: Option<PathBuf>,
    pub(super) freezer: Option<PathBuf>,
}

impl Layout {
    /// This machine's.
    ///
    /// # Errors
    /// When `/proc/self/mountinfo` cannot be read.
    pub(in crate::backend) fn detect() -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(Self::parse(&mounts, |tree| {
            fs::read_to_string(tree.join("cgroup.controllers")).unwrap_or_default()
        }))
    }

    /// Finds the trees in the text of `mountinfo`; `controllers` reads what a v2 tree offers.
    pub(super) fn parse(mountinfo: &str, controllers: impl Fn(&Path) -> String) -> Self {
        let mut layout = Self { controllers: BTreeMap::new(), unified: None, freezer: None };
        let names = [
            (Controller::Cpu, "cpu"),
            (Controller::CpuAccount, "cpuacct"),
            (Controller::Memory, "memory"),
            (Controller::Pids, "pids"),
        ];
        for line in mountinfo.lines() {
            let Some((mount, system)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut system = system.split(' ');
            match (system.next(), system.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    let has = |name: &str| options.split(',').any(|option| option == name);
                    for (controller, name) in names {
                        if has(name) {
                            layout.controllers.insert(controller, (Version::V1, point.clone()));
                        }
                    }
                    if has("freezer") {
                        layout.freezer = Some(point);
                    }
                }
                (Some("cgroup2"), _) => layout.unified = Some(point),
                _ => {}
            }
        }
        if let Some(tree) = &layout.unified {
            let offered = controllers(tree);
            for (controller, name) in names {
                // v2 counts cpu time in every group, with or without the controller.
                let offered =
                    controller == Controller::CpuAccount || offered.split_whitespace().any(|one| one == name);
                if offered {
                    layout.controllers.entry(controller).or_insert_with(|| (Version::V2, tree.clone()));
                }
            }
        }
        layout
    }

    /// In words, for `hearth doctor`.
    pub(in crate::backend) fn describe(&self) -> &'static str {
        let v1 = self.controllers.values().any(|(version, _)| *version == Version::V1);
        match (v1, self.unified.is_some()) {
            (true, true) => "hybrid: v1 controllers, v2 for freezing and killing",
            (true, false) => "v1",
            (false, true) => "v2",
            (false, false) => "none",
        }
    }

    /// Whether `controller` can be used.
    pub(in crate::backend) fn has(&self, controller: Controller) -> bool {
        self.controllers.contains_key(&controller)
    }

    /// Whether instances can be paused.
    pub(in crate::backend) fn freezes(&self) -> bool {
        self.unified.is_some() || self.freezer.is_some()
    }

    /// The trees in which an instance has a group, each once.
    pub(super) fn trees(&self) -> Vec<PathBuf> {
        let freezer = if self.unified.is_some() { None } else { self.freezer.as_ref() };
        let mut trees: Vec<PathBuf> = self
            .controllers
            .values()
            .map(|(_, tree)| tree)
            .chain(&self.unified)
            .chain(freezer)
            .cloned()
            .collect();
        trees.sort();
        trees.dedup();
        trees
    }

    /// Controllers that must be handed down the v2 tree.
    pub(super) fn handed_down(&self) -> String {
        let name = |controller: &Controller| match controller {
            Controller::Cpu => Some("+cpu"),
            Controller::Memory => Some("+memory"),
            Controller::Pids => Some("+pids"),
            Controller::CpuAccount => None,
        };
        let v2 = self.controllers.iter().filter(|(_, (version, _))| *version == Version::V2);
        v2.filter_map(|(controller, _)| name(controller)).collect::<Vec<_>>().join(" ")
    }
}
