//! An instance as an engine wants it told, and what an engine says of one. Pure; what is in here is what an instance may do.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStatsResponse, ContainerUpdateBody, HealthConfig,
    HostConfig, HostConfigLogConfig, Mount, MountType, PortBinding, ResourcesUlimits,
};
use hearth_protocol::config::Relay;

use crate::backend::local::{HOSTNAME, MASKED, OOM_SCORE, READ_ONLY};
use crate::backend::{Exit, InstanceSpec, Limits, Network, Stats};

/// The label that says which data directory something belongs to: its tag.
pub(super) const DATA: &str = "dev.hearth.data";

/// The label of an instance's name.
pub(super) const INSTANCE: &str = "dev.hearth.instance";

/// The labels that say for whom an instance was started; for people.
const FUNCTION: &str = "dev.hearth.function";
const REVISION: &str = "dev.hearth.revision";

/// Period of the cpu quota, in microseconds: the kernel's default.
const PERIOD_MICROS: i64 = 100_000;

/// Ports of a container whose sockets are reached by TCP; out of the way of what people choose.
pub(super) const RELAY: Relay = Relay { invoke: 64_310, control: 64_311 };

/// What the engine keeps of what the shim itself prints, which is nothing unless it cannot start.
const LOG_SIZE: &str = "64k";

/// What a container is made of beside its specification.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The data directory's tag.
    pub(super) tag: String,
    /// The image, by an identifier that cannot change.
    pub(super) image: String,
    /// Paths of the host and where they are seen, read-only.
    pub(super) binds: Vec<(PathBuf, PathBuf)>,
    /// The host's directory that is `/run/hearth`.
    pub(super) sockets: PathBuf,
    /// The engine's network for [`Network::Outbound`].
    pub(super) network: String,
    /// Open files that an instance may have.
    pub(super) open_files: u64,
    /// Whether its sockets are reached by TCP.
    pub(super) relayed: bool,
    /// Processes of the function's user on the whole machine, which is every instance's: to be said to an engine that has a limit of its own.
    pub(super) processes: Option<u64>,
}

/// The name of an instance's container.
pub(super) fn name(tag: &str, instance: &str) -> String {
    format!("hearth-{tag}-{instance}")
}

/// What is created.
pub(super) fn create(spec: &InstanceSpec, place: &Place) -> ContainerCreateBody {
    let mut labels =
        HashMap::from([(DATA.to_owned(), place.tag.clone()), (INSTANCE.to_owned(), spec.id.to_string())]);
    if let Some(owner) = &spec.owner {
        labels.insert(FUNCTION.to_owned(), owner.function.to_string());
        labels.insert(REVISION.to_owned(), owner.revision.to_string());
    }
    ContainerCreateBody {
        hostname: Some(HOSTNAME.to_owned()),
        // The shim becomes the function's user itself.
        user: Some("0:0".to_owned()),
        // The shim gives the runtime the function's own environment; it needs none itself.
        env: Some(vec!["PATH=/usr/local/bin:/usr/bin:/bin".to_owned()]),
        image: Some(place.image.clone()),
        working_dir: Some("/".to_owned()),
        // In place of the image's own, which the shim runs if anybody.
        entrypoint: Some(vec!["/hearth/hearth-shim".to_owned()]),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        labels: Some(labels),
        stop_signal: Some("SIGTERM".to_owned()),
        exposed_ports: place.relayed.then(|| ports().to_vec()),
        host_config: Some(host_config(spec, place)),
        ..ContainerCreateBody::default()
    }
}

fn host_config(spec: &InstanceSpec, place: &Place) -> HostConfig {
    let strings = |list: &[&str]| list.iter().map(|&one| one.to_owned()).collect::<Vec<_>>();
    let memory = signed(spec.limits.memory_bytes);
    let tmp = spec.limits.tmp_bytes;
    HostConfig {
        memory: Some(memory),
        // Memory and swap together: no swap.
        memory_swap: Some(memory),
        pids_limit: Some(spec.limits.pids.into()),
        // No quota yet: a small one would make the start many times as long.
        cpu_shares: Some(signed(Limits { cpu_millis: None, ..spec.limits }.shares())),
        oom_score_adj: Some(OOM_SCORE.into()),
        readonly_rootfs: Some(true),
        cap_drop: Some(strings(&["ALL"])),
        cap_add: Some(strings(&["SETUID", "SETGID", "KILL"])),
        security_opt: Some(strings(&["no-new-privileges"])),
        ulimits: Some(ulimits(place)),
        mounts: Some(mounts(spec, place)),
        tmpfs: Some(HashMap::from([
            ("/tmp".to_owned(), format!("rw,exec,nosuid,nodev,mode=1777,size={tmp}")),
            // In place of the engine's own, which would show control groups and devices of the host.
            ("/sys".to_owned(), "ro,nosuid,nodev,noexec,mode=555,size=4k".to_owned()),
            ("/sys/fs/cgroup".to_owned(), "ro,nosuid,nodev,noexec,mode=555,size=4k".to_owned()),
        ])),
        shm_size: Some(signed(tmp)),
        ipc_mode: Some("private".to_owned()),
        network_mode: Some(match spec.network {
            Network::None => "none".to_owned(),
            Network::Outbound => place.network.clone(),
        }),
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([("max-size".to_owned(), LOG_SIZE.to_owned())])),
        }),
        port_bindings: place.relayed.then(|| ports().map(|port| (port, Some(vec![anywhere()]))).into()),
        masked_paths: Some(strings(&MASKED)),
        readonly_paths: Some(strings(&READ_ONLY)),
        ..HostConfig::default()
    }
}

/// The ports of the container, as an engine writes them.
fn ports() -> [String; 2] {
    [RELAY.invoke, RELAY.control].map(|port| format!("{port}/tcp"))
}

/// A port of this host's loopback that the engine chooses.
fn anywhere() -> PortBinding {
    PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some("0".to_owned()) }
}

/// Where the engine has published the two ports: of the invocation protocol, and of the shim.
pub(super) fn published(inspected: &ContainerInspectResponse) -> Option<[SocketAddr; 2]> {
    let published = inspected.network_settings.as_ref()?.ports.as_ref()?;
    let address = |port: &String| {
        let binding = published.get(port)?.as_ref()?.first()?;
        let port = binding.host_port.as_ref()?.parse().ok()?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    };
    let [invoke, control] = ports();
    Some([address(&invoke)?, address(&control)?])
}

fn mounts(spec: &InstanceSpec, place: &Place) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = place.binds.iter().map(|(source, at)| bind(source, at, true)).collect();
    mounts.push(bind(&place.sockets, Path::new("/run/hearth"), false));
    if let Some(code) = &spec.code {
        mounts.push(bind(&code.path, Path::new("/code"), true));
        mounts.extend(code.dependencies.iter().map(|path| bind(path, Path::new("/deps"), true)));
    }
    mounts.extend(spec.build_dir.iter().map(|path| bind(path, Path::new("/build"), false)));
    mounts
}

fn bind(source: &Path, at: &Path, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(at.to_string_lossy().into_owned()),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

fn ulimits(place: &Place) -> Vec<ResourcesUlimits> {
    let mut limits = vec![
        ulimit("nofile", signed(place.open_files)),
        // A core file would fill `/tmp` with the function's secrets.
        ulimit("core", 0),
    ];
    limits.extend(place.processes.map(|processes| ulimit("nproc", signed(processes))));
    limits
}

fn ulimit(name: &str, value: i64) -> ResourcesUlimits {
    ResourcesUlimits { name: Some(name.to_owned()), soft: Some(value), hard: Some(value) }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// What changes with new limits.
pub(super) fn update(limits: &Limits) -> ContainerUpdateBody {
    let memory = signed(limits.memory_bytes);
    let millis = limits.cpu_millis.map(i64::from);
    ContainerUpdateBody {
        memory: Some(memory),
        memory_swap: Some(memory),
        pids_limit: Some(limits.pids.into()),
        cpu_period: Some(PERIOD_MICROS),
        cpu_quota: Some(millis.map_or(-1, |millis| millis * PERIOD_MICROS / 1000)),
        cpu_shares: Some(signed(limits.shares())),
        ..ContainerUpdateBody::default()
    }
}

/// What the engine counted. It does not know the highest memory where control groups are v2: `peak` is what was seen so far.
pub(super) fn stats(counted: &ContainerStatsResponse, peak: u64) -> Stats {
    let memory = counted.memory_stats.as_ref();
    let memory_bytes = memory.and_then(|memory| memory.usage).unwrap_or(0);
    let highest = memory.and_then(|memory| memory.max_usage).unwrap_or(0);
    let cpu = counted.cpu_stats.as_ref().and_then(|cpu| cpu.cpu_usage.as_ref()?.total_usage).unwrap_or(0);
    let pids = counted.pids_stats.as_ref().and_then(|pids| pids.current).unwrap_or(0);
    Stats {
        cpu: Duration::from_nanos(cpu),
        memory_bytes,
        memory_peak_bytes: highest.max(peak).max(memory_bytes),
        pids: u32::try_from(pids).unwrap_or(u32::MAX),
        // The engine does not say.
        pids_refused: 0,
    }
}

/// How an instance ended: by the shim's record, else by its container's exit code. `starved`: the engine saw the kernel kill in it for want
/// of memory.
pub(super) fn conclusion(record: Option<Exit>, code: Option<i64>, starved: bool) -> Exit {
    let (code, signal) = match (record, code.and_then(|code| i32::try_from(code).ok())) {
        (Some(record), _) => (record.code, record.signal),
        // As a shell tells it: 128 and the signal's number.
        (None, Some(code)) if (129..=192).contains(&code) => (None, Some(code - 128)),
        (None, code) => (code, None),
    };
    // A process other than the runtime may have been killed, and the runtime ended by itself for it: code 0 is a proper end.
    Exit { code, signal, out_of_memory: starved && code != Some(0) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use hearth_function::{FunctionId, InstanceId, RevisionId};

    use super::*;
    use crate::backend::{CodeMount, InCluster, Owner, Process, Root};

    fn spec() -> InstanceSpec {
        InstanceSpec {
            id: InstanceId::parse("hello-x1").unwrap(),
            owner: Some(Owner {
                function: FunctionId::parse("default/hello").unwrap(),
                revision: RevisionId::parse("default/hello-00001").unwrap(),
                since: Some(jiff::Timestamp::UNIX_EPOCH),
                uid: None,
            }),
            process: Process::Nodejs,
            code: Some(CodeMount { path: "/data/code".into(), dependencies: Some("/data/deps".into()) }),
            build_dir: None,
            namespace: None,
            in_cluster: InCluster::default(),
            root: Root::Host { interpreter: None },
            env: BTreeMap::from([("SECRET".to_owned(), "hidden".to_owned())]),
            limits: Limits {
                memory_bytes: 128 << 20,
                cpu_millis: Some(500),
                tmp_bytes: 8 << 20,
                pids: 64,
                patient: false,
            },
            user: None,
            working_directory: None,
            network: Network::None,
            concurrency: 1,
            secret: "s".repeat(64),
        }
    }

    fn place() -> Place {
        Place {
            tag: "0a1b2c3d".to_owned(),
            image: "sha256:1".to_owned(),
            binds: vec![("/usr".into(), "/usr".into())],
            sockets: "/run/hearth/x/s".into(),
            network: "hearth-0a1b2c3d".to_owned(),
            open_files: 1024,
            relayed: false,
            processes: None,
        }
    }

    #[test]
    fn an_instance_may_do_little() {
        let body = create(&spec(), &place());
        let host = body.host_config.unwrap();
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
        assert_eq!(host.cap_add.unwrap().len(), 3);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.memory, host.memory_swap);
        assert_eq!(host.cpu_quota, None, "a start has the cpu it can get");
        assert_eq!((host.privileged, host.pid_mode, host.devices), (None, None, None));
        let writable: Vec<_> =
            host.mounts.unwrap().into_iter().filter(|mount| mount.read_only != Some(true)).collect();
        assert_eq!(writable.len(), 1, "{writable:?}");
        assert_eq!(writable[0].target.as_deref(), Some("/run/hearth"));
        assert_eq!(body.entrypoint.unwrap(), ["/hearth/hearth-shim"]);
    }

    #[test]
    fn what_anybody_can_read_of_a_container_has_no_secrets() {
        let body = serde_json::to_string(&create(&spec(), &place())).unwrap();
        assert!(!body.contains("hidden") && !body.contains("ssssssss"), "{body}");
        assert!(body.contains("default/hello-00001") && body.contains("0a1b2c3d"));
    }

    #[test]
    fn the_network_is_the_manifests() {
        let outbound = InstanceSpec { network: Network::Outbound, ..spec() };
        let host = create(&outbound, &place()).host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("hearth-0a1b2c3d"));
    }

    #[test]
    fn by_tcp_both_ports_are_published_on_loopback_only() {
        let body = create(&spec(), &Place { relayed: true, ..place() });
        let bindings = body.host_config.unwrap().port_bindings.unwrap();
        assert_eq!(bindings.len(), 2);
        assert!(bindings.values().flatten().flatten().all(|one| one.host_ip.as_deref() == Some("127.0.0.1")));
        assert_eq!(create(&spec(), &place()).host_config.unwrap().port_bindings, None);
        let binding = |port: &str| Some(vec![PortBinding { host_port: Some(port.to_owned()), ..anywhere() }]);
        let [invoke, control] = ports();
        let inspected = ContainerInspectResponse {
            network_settings: Some(bollard::models::NetworkSettings {
                ports: Some(HashMap::from([(invoke, binding("41000")), (control, binding("41001"))])),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(published(&inspected).unwrap().map(|at| at.port()), [41000, 41001]);
    }

    #[test]
    fn a_build_directory_can_be_written() {
        let job = InstanceSpec { build_dir: Some("/data/build".into()), ..spec() };
        let mounts = create(&job, &place()).host_config.unwrap().mounts.unwrap();
        let build = mounts.iter().find(|mount| mount.target.as_deref() == Some("/build")).unwrap();
        assert_eq!(build.read_only, Some(false));
    }

    #[test]
    fn half_a_core_is_half_a_period() {
        let body = update(&spec().limits);
        assert_eq!(
            (body.cpu_quota, body.cpu_period, body.cpu_shares),
            (Some(50_000), Some(100_000), Some(512))
        );
        let none = update(&Limits { cpu_millis: None, ..spec().limits });
        assert_eq!((none.cpu_quota, none.cpu_shares), (Some(-1), Some(1024)));
    }

    #[test]
    fn an_end_is_told_by_the_shim_and_else_by_the_engine() {
        let record = Exit { code: Some(7), signal: None, out_of_memory: false };
        assert_eq!(conclusion(Some(record), Some(137), false), record);
        assert_eq!(
            conclusion(None, Some(137), true),
            Exit { code: None, signal: Some(9), out_of_memory: true }
        );
        assert_eq!(conclusion(None, Some(3), false).code, Some(3));
        assert!(!conclusion(None, Some(0), true).out_of_memory, "code 0 is a proper end");
        assert_eq!(conclusion(None, None, false), Exit::default());
    }
}
