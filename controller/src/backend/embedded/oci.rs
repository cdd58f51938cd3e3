//! An instance as libcontainer wants it told: the OCI runtime specification. Pure; what is in here is what an instance may do.

use std::path::{Path, PathBuf};

use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount,
    MountBuilder, PosixRlimitBuilder, PosixRlimitType, ProcessBuilder, RootBuilder, Spec, SpecBuilder,
    UserBuilder,
};

use crate::backend::InstanceSpec;
use crate::backend::local::{HOSTNAME, MASKED, OOM_SCORE, READ_ONLY};

/// Makes the specification. `root` is the tree that the launcher has put together, `sockets` the host's directory that is `/run/hearth`,
/// `open_files` the limit on those.
///
/// # Errors
/// When the builders find a part missing, which is a mistake in here.
pub(super) fn spec(
    instance: &InstanceSpec,
    root: &Path,
    sockets: &Path,
    open_files: u64,
) -> Result<Spec, OciSpecError> {
    let capabilities = [Capability::Setuid, Capability::Setgid, Capability::Kill]
        .into_iter()
        .collect::<std::collections::HashSet<_>>();
    let process = ProcessBuilder::default()
        .terminal(false)
        .user(UserBuilder::default().uid(0u32).gid(0u32).umask(0o022u32).build()?)
        .args(vec!["/hearth/hearth-shim".to_owned()])
        // The shim gives the runtime the function's own environment; it needs none itself.
        .env(vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()])
        .cwd("/")
        .capabilities(
            LinuxCapabilitiesBuilder::default()
                .bounding(capabilities.clone())
                .effective(capabilities.clone())
                .permitted(capabilities)
                .inheritable(std::collections::HashSet::new())
                .ambient(std::collections::HashSet::new())
                .build()?,
        )
        .rlimits(vec![
            rlimit(PosixRlimitType::RlimitNofile, open_files)?,
            // A core file would fill `/tmp` with the function's secrets.
            rlimit(PosixRlimitType::RlimitCore, 0)?,
        ])
        .no_new_privileges(true)
        .oom_score_adj(OOM_SCORE)
        .build()?;

    // The network namespace is entered by the launcher's worker; cgroups are joined by it too, so that libcontainer has nothing to do.
    let namespaces = [
        LinuxNamespaceType::Pid,
        LinuxNamespaceType::Mount,
        LinuxNamespaceType::Ipc,
        LinuxNamespaceType::Uts,
    ]
    .into_iter()
    .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
    .collect::<Result<Vec<_>, _>>()?;
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .masked_paths(MASKED.map(str::to_owned).to_vec())
        .readonly_paths(READ_ONLY.map(str::to_owned).to_vec())
        .build()?;
    linux.set_resources(None);

    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .hostname(HOSTNAME)
        .root(RootBuilder::default().path(root).readonly(true).build()?)
        .process(process)
        .mounts(mounts(instance, sockets)?)
        .linux(linux)
        .build()?;
    spec.set_hooks(None);
    Ok(spec)
}

fn rlimit(
    kind: PosixRlimitType,
    value: u64,
) -> Result<libcontainer::oci_spec::runtime::PosixRlimit, OciSpecError> {
    PosixRlimitBuilder::default().typ(kind).soft(value).hard(value).build()
}

fn mounts(instance: &InstanceSpec, sockets: &Path) -> Result<Vec<Mount>, OciSpecError> {
    let size = format!("size={}", instance.limits.tmp_bytes);
    let mut mounts = vec![
        file_system("proc", "/proc", &["nosuid", "noexec", "nodev"])?,
        file_system("tmpfs", "/dev", &["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"])?,
        file_system("tmpfs", "/dev/shm", &["nosuid", "nodev", "noexec", "mode=1777", &size])?,
        file_system("tmpfs", "/tmp", &["nosuid", "nodev", "mode=1777", &size])?,
        bind(sockets, "/run/hearth", &["rw", "nosuid", "nodev", "noexec"])?,
    ];
    if let Some(code) = &instance.code {
        mounts.push(bind(&code.path, "/code", &["ro", "nosuid", "nodev"])?);
        if let Some(dependencies) = &code.dependencies {
            mounts.push(bind(dependencies, "/deps", &["ro", "nosuid", "nodev"])?);
        }
    }
    if let Some(build) = &instance.build_dir {
        mounts.push(bind(build, "/build", &["rw", "nosuid", "nodev"])?);
    }
    Ok(mounts)
}

fn file_system(kind: &str, at: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .typ(kind)
        .source(kind)
        .destination(PathBuf::from(at))
        .options(options.iter().map(|&option| option.to_owned()).collect::<Vec<_>>())
        .build()
}

fn bind(source: &Path, at: &str, options: &[&str]) -> Result<Mount, OciSpecError> {
    let options =
        std::iter::once("bind").chain(options.iter().copied()).map(str::to_owned).collect::<Vec<_>>();
    MountBuilder::default().typ("bind").source(source).destination(PathBuf::from(at)).options(options).build()
}
