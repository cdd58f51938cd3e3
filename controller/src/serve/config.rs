//! The process's configuration: what an operator can set, once, for a whole controller. What differs between Functions is in their
//! manifests and nowhere else.
//!
//! ```text
//! defaults  <  file (--config, or the first of the usual places)  <  environment (HEARTH_SECTION_KEY)  <  flags
//! ```
//!
//! Every option stands once, in the table below: the macro makes the struct, its defaults, its text forms and the documentation that
//! `hearth config` prints out of that one place. [`load`] reads all layers and reports every problem of all of them at once.

mod layers;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::addresses;
use super::cluster::Runtimes;
use crate::backend::kubernetes::Compared;
pub use layers::{Effective, Flags, Layers, Problem, Problems, Source, load};
pub use value::{Secret, Size, Value};

/// One option: its key and what its documentation says.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// As it is written in a file, sections separated by a dot: `gateway.listen`.
    pub key: &'static str,
    /// Meaning, unit, default and where the default comes from; the source's own documentation comment.
    pub doc: &'static [&'static str],
    /// What a value looks like, for messages: `a duration, as in 30s`.
    pub form: &'static str,
    get: fn(&Config) -> serde_json::Value,
    set: fn(&mut Config, &serde_json::Value) -> Result<(), String>,
}

impl Opt {
    /// The environment variable that sets it: `HEARTH_GATEWAY_LISTEN` for `gateway.listen`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("HEARTH_{}", self.key.replace('.', "_").to_uppercase())
    }

    /// Its value in `config`, as a file would say it; a secret is not told.
    #[must_use]
    pub fn show(&self, config: &Config) -> serde_json::Value {
        (self.get)(config)
    }
}

macro_rules! options {
    ($($(#[doc = $sdoc:literal])* $section:ident: $type:ident { $($(#[doc = $doc:literal])* $key:ident: $value:ty = $default:expr,)* })*) => {
        /// Everything that is configured, each option with its effective value.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub struct Config {
            $($(#[doc = $sdoc])* pub $section: $type,)*
        }

        $(
            $(#[doc = $sdoc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub struct $type {
                $($(#[doc = $doc])* pub $key: $value,)*
            }

            impl Default for $type {
                fn default() -> Self {
                    Self { $($key: $default,)* }
                }
            }
        )*

        /// Every option, in the order of their documentation.
        pub const OPTIONS: &[Opt] = &[
            $($(Opt {
                key: options!(@key $section $key),
                doc: &[$($doc),*],
                form: <$value as Value>::FORM,
                get: |config| config.$section.$key.show(),
                set: |config, value| {
                    config.$section.$key = <$value as Value>::read(value)?;
                    Ok(())
                },
            },)*)*
        ];
    };
    (@key main $key:ident) => { stringify!($key) };
    (@key $section:ident $key:ident) => { concat!(stringify!($section), ".", stringify!($key)) };
}

options! {
    /// Options without a section.
    main: Main {
        /// Directory of the database, bundles, dependencies, logs, keys. Default: where the file system standard puts a service's state.
        data_dir: PathBuf = PathBuf::from("/var/lib/hearth"),
        /// Where instances run: `embedded`, or `docker` for an engine on this machine, Docker's or Podman's. Default: `embedded`, which needs nothing installed.
        backend: String = "embedded".to_owned(),
    }
    /// The gateway: the way of requests to functions.
    gateway: Gateway {
        /// Address where functions answer. Default: loopback, because functions have no authentication of their own yet; for `hearth gateway` every address of its Pod, port 8080.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)),
        /// Threads that serve requests, each with its own listener. Default: none given, half the cores and at least one; the functions need the others.
        threads: Option<u32> = None,
        /// Largest request head, in bytes (431 beyond). Default: what Node takes, twice over.
        max_head: Size = Size::kib(32),
        /// Largest request body, in bytes (413 beyond). Default: well above the 6 MiB of AWS Lambda, small enough to be no attack.
        max_body: Size = Size::mib(64),
        /// Time a client has to send its request head, and an idle connection to send the next; then it is closed. Default: that of Apache and Go's examples.
        head_timeout: Duration = Duration::from_secs(20),
        /// Longest silence of a client in the middle of its body, and of one that does not read its answer. Default: as for the head.
        body_timeout: Duration = Duration::from_secs(30),
        /// Bytes per second that a client sends of its body at least, counted over the time that it is waited for, from `gateway.body_timeout` on; 0 for any pace. Default: that of ASP.NET's server.
        body_rate: u32 = 240,
        /// Open client connections, over all threads; more wait to be accepted. Default: fits the usual 16384 file descriptors.
        max_connections: u32 = 8192,
        /// Requests that may wait for an instance of one Revision (429 beyond). Default: ten times the biggest burst of our benchmarks.
        max_queue: u32 = 2000,
        /// In a cluster: how long a gateway that is told to stop serves on, not ready any more, so that nobody sends to it when it closes. Default: what endpoints take to reach every node, as a rule.
        linger: Duration = Duration::from_secs(5),
    }
    /// The management API, which the command line uses.
    management: Management {
        /// Address of the management API (TLS and token) and of /healthz and /metrics (plain HTTP). Default: loopback; who reaches it with the token is root here. For `hearth gateway`, which has no API, every address of its Pod, port 7070.
        listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 7070)),
        /// Host names by which clients call it, beside `localhost` and addresses: other names are refused, against DNS rebinding. Default: none.
        names: Vec<String> = Vec::new(),
    }
    /// The engine of the backend `docker`.
    docker: Engine {
        /// Its socket on this machine, as in `unix:///var/run/docker.sock`. Default: none given, that of the variable DOCKER_HOST, or the first of Docker's and Podman's usual ones that answers.
        host: Option<String> = None,
        /// Whether instances are reached by TCP on loopback, with the instance's secret, even where their Unix sockets would do. Default: no, only where a connect to the first one's fails.
        tcp: bool = false,
    }
    /// What instances reach.
    network: Network {
        /// Ports of this host that instances reach as `host.hearth.internal`. Default: none.
        host_ports: Vec<u16> = Vec::new(),
        /// Network interfaces by which instances leave this host beside those of its default routes: `eth1` of a private network. Default: none, for behind any other there may be containers that nobody meant to open.
        interfaces: Vec<String> = Vec::new(),
    }
    /// Starting instances.
    start: Start {
        /// Instances that start at the same time; more wait. Default: none given, twice the cores, beyond which starts only slow each other down.
        parallelism: Option<u32> = None,
    }
    /// Pooled instances: runtimes that are up before their function is known, for the starts that a request waits for.
    prewarm: Prewarm {
        /// Whether there are any. Default: yes.
        enabled: bool = true,
        /// Pooled instances of each runtime class (interpreter, network, and for Node the memory limit) that functions have; none of a class without functions. Default: one for a call and one for the next while the first is replaced.
        size: u32 = 2,
        /// Pooled instances of a class at most: a pool grows to what was asked of it within a second. Default: what two cores fill again in less than a second.
        max: u32 = 16,
        /// How long a demand above `size` is remembered. Default: a pool that a burst has made grow is small again after ten minutes.
        ttl: Duration = Duration::from_secs(600),
        /// Memory that all pooled instances together may hold, in bytes; in a cluster each counts with its memory limit. Default: none given, 512Mi on one machine, which is some twenty of them, and 4Gi in a cluster, 32 of 128Mi.
        memory: Option<Size> = None,
    }
    /// The machine's memory.
    memory: Memory {
        /// Memory of this machine that is kept free, in bytes: with less available, idle, paused and pooled instances are stopped, those first whose loss costs least (start time × use / memory); 0: none is, and what is available limits no pool. Default: none given, a twentieth of all.
        keep_free: Option<Size> = None,
    }
    /// Installing the dependencies of bundles.
    build: Build {
        /// Time that an installation of dependencies may take. Default: that of a large tree on a slow line.
        timeout: Duration = Duration::from_secs(600),
        /// Memory of the installing instance, in bytes. Default: npm with a thousand packages stays below it.
        memory: Size = Size::mib(1024),
        /// Largest tree of installed dependencies, in bytes; while it is being installed it may be twice that. Default: that of a large machine learning stack without its models.
        max_installed: Size = Size::mib(2048),
        /// Bytes of the data directory's file system that an installation must leave free: one that would take them is stopped. Default: the database and the logs go on for a day.
        min_free: Size = Size::mib(512),
        /// Largest bundle, in bytes, packed; unpacked it may be four times that. Default: the 250 MB of AWS Lambda, rounded up.
        max_bundle: Size = Size::mib(256),
        /// Variables of the installing instance, each `NAME=value`: a mirror's address, a proxy. Values may hold credentials and are not shown. Default: none.
        env: Vec<Secret> = Vec::new(),
    }
    /// Images of functions.
    images: Images {
        /// Registries, each as `host` or `host:port`, that are spoken to by plain HTTP; those of this machine's own loopback always are. Default: none, for what comes in the clear could be anybody's.
        plain_http: Vec<String> = Vec::new(),
        /// Largest image, in bytes, unpacked. Default: that of a large machine learning stack.
        max_unpacked: Size = Size::mib(8192),
        /// Time that fetching an image from its registry may take. Default: a gigabyte on a slow line.
        timeout: Duration = Duration::from_secs(900),
    }
    /// What no Function uses any more: bundles, dependencies, images.
    cache: Cache {
        /// How long it is kept after the last time that somebody asked for it. Default: what is deployed again the next day is not fetched or installed again.
        keep: Duration = Duration::from_secs(86_400),
        /// Bytes of it that are kept at most, of each of the three; what was not asked for the longest goes first. Default: some tens of large trees.
        max_unused: Size = Size::mib(10_240),
    }
    /// Logs of functions.
    logs: Logs {
        /// Kept on disk for each Function, in bytes; the oldest go first. Default: a day of a chatty function.
        per_function: Size = Size::mib(32),
        /// Kept for one call, in bytes; what comes after is dropped, and a line says so. Default: no call should fill a quarter of what is kept.
        per_call: Size = Size::mib(8),
    }
    /// In a cluster: what `hearth controller` and `hearth gateway` share.
    cluster: Cluster {
        /// Namespace that Hearth itself is in: its Lease, its Secrets, its Services. Default: where the chart puts it.
        namespace: String = "hearth-system".to_owned(),
        /// Namespaces whose Functions are served. Default: none given, all.
        watch_namespaces: Vec<String> = Vec::new(),
        /// File of the cluster key: at least 32 random bytes, in any form, the same for controllers and gateways. What instances and gateways are known by is derived from it. Default: where the chart mounts the Secret.
        key_file: PathBuf = PathBuf::from("/etc/hearth/key"),
        /// Runtime images: in a file a map of names (`nodejs22`, `python3.12`) to `image`, `interpreter` (its path in the image) and `version`; `exec`, with an `image` alone, is for programs that need no interpreter, which otherwise run in the first of the others. Default: none, which runs nothing but functions with an image of their own.
        runtimes: Runtimes = Runtimes::default(),
        /// When the cluster's machines fetch runtime images: `Always`, `IfNotPresent` or `Never`. Default: that of Kubernetes for images with a tag.
        pull_policy: String = "IfNotPresent".to_owned(),
        /// Name of this process's Pod. Default: the variable POD_NAME (downward API), or else the machine's name and the process's number.
        pod: Option<String> = None,
        /// Address by which gateways reach this process. Default: the variable POD_IP (downward API), or else loopback.
        address: Option<IpAddr> = None,
    }
    /// In a cluster: the controller.
    controller: Controller {
        /// Address of /healthz and /metrics (plain HTTP), and of what the command line uses (TLS and token). Default: every address of its Pod.
        management: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 7070)),
        /// Address where gateways connect. Default: every address of its Pod.
        hub_listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 7071)),
        /// Address where instances report themselves. Default: every address of its Pod.
        report_listen: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 7072)),
        /// How instances reach that, as `host:port`: a Service that leads to the controller that works. Default: none given, the address of this Pod (`cluster.address`), which the next leader does not have; outside of a cluster it must be given.
        report_advertise: Option<String> = None,
        /// When the address that an instance reports from is compared with its Pod's, for its token is seen by whoever may read Pods: `later` (calls do not wait for that, and it is ended if it reported from elsewhere), `first` (it is told nothing before its node has written the address down, which makes starts up to a second longer) or `never` (Pods are seen with other addresses than their own). Default: a start is to be short, and the chart's network policies keep all but instances away.
        pod_addresses: Compared = Compared::Later,
        /// How clients reach the gateways; `status.url` begins with it. Default: the Service of the chart.
        gateway_url: String = "http://hearth-gateway.hearth-system".to_owned(),
        /// How instances and `hearth invoke` reach the gateways, where that is another way. Default: `gateway_url`.
        gateway_url_inside: Option<String> = None,
        /// File of the token that the command line must know. Default: none given, it is derived from the cluster key, so that whoever may read that Secret knows it.
        token_file: Option<PathBuf> = None,
        /// Largest uploaded bundle, in bytes, packed, that is kept in ConfigMaps of Hearth's namespace too, so that a controller with another disk has it. Default: sources without their dependencies stay below it, and the API server's database is not filled; 0 for none.
        keep_bundles: Size = Size::mib(4),
        /// Namespaces of Functions that have a network policy for Pods with the label `hearth.dev/network: none`, and so keep `network: none`; `*` for all. Default: none given; a Function of another namespace that asks for it says in its status, and by an Event, that it has no effect. The chart names those that it writes policies for.
        network_policies: Vec<String> = Vec::new(),
        /// How long a leader that was killed is waited for before another controller takes over. Default: requests wait three times as long for a slot.
        lease_duration: Duration = crate::lease::DURATION,
    }
    /// Ending.
    drain: Drain {
        /// Time that running calls have to end when the controller stops; then they are cut. Default: the default execution time limit of a Function.
        deadline: Duration = Duration::from_secs(30),
    }
    /// The controller's own log, on standard error.
    log: Log {
        /// What is told: `warn`, `info` or `debug`; the variable HEARTH_LOG takes directives in the form of `tracing` (`hearth::pool=trace,info`) and wins. Default: none given, `info` for `serve` and `warn` for `up`, which shows a table.
        level: Option<String> = None,
        /// `text` or `json`. Default: `text`.
        format: String = "text".to_owned(),
    }
}

/// The backend that needs nothing installed.
pub const EMBEDDED: &str = "embedded";

/// The backend on a container engine of this machine.
pub const DOCKER: &str = "docker";

impl Config {
    /// The engine's address: as configured, or as every program finds it that talks to an engine.
    #[must_use]
    pub fn docker_host(&self) -> Option<String> {
        let usual = || std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty());
        self.docker.host.clone().or_else(usual)
    }

    /// The gateway's own settings, with addresses that are known by now.
    #[must_use]
    pub(super) fn gateway(&self, listen: SocketAddr, bridge: Option<SocketAddr>) -> crate::gateway::Config {
        let configured = &self.gateway;
        let usize_of = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
        crate::gateway::Config {
            listen: vec![listen],
            bridge,
            threads: NonZeroUsize::new(usize_of(self.gateway_threads().into())).unwrap_or(NonZeroUsize::MIN),
            limits: crate::gateway::Limits {
                head_bytes: usize_of(configured.max_head.as_bytes()),
                body_bytes: configured.max_body.as_bytes(),
                head_time: configured.head_timeout,
                body_silence: configured.body_timeout,
                body_rate: configured.body_rate,
                connections: usize_of(configured.max_connections.into()),
                queue_length: usize_of(configured.max_queue.into()),
                ..crate::gateway::Limits::default()
            },
            forwarding: crate::gateway::ForwardingLimits::default(),
            callers: crate::gateway::Callers::Owners,
        }
    }

    /// Whether the values fit together; [`load`] calls it after every layer was read.
    ///
    /// # Errors
    /// Every rule that is broken, each as `(key, message)`.
    pub fn validate(&self) -> Result<(), Vec<(&'static str, String)>> {
        let mut problems = Vec::new();
        let mut broken = |key: &'static str, message: String| problems.push((key, message));
        if ![EMBEDDED, DOCKER].contains(&self.main.backend.as_str()) {
            broken(
                "backend",
                format!(
                    "{:?} is no backend of this build: use {EMBEDDED:?} or {DOCKER:?}",
                    self.main.backend
                ),
            );
        }
        if self.main.data_dir.as_os_str().is_empty() {
            broken("data_dir", "an empty path: name a directory".to_owned());
        }
        if self.gateway.listen == self.management.listen && self.gateway.listen.port() != 0 {
            broken(
                "management.listen",
                format!("{} is the gateway's address too: give each its own port", self.management.listen),
            );
        }
        let positive =
            [("gateway.threads", self.gateway.threads), ("start.parallelism", self.start.parallelism)];
        for (key, value) in positive {
            if value == Some(0) {
                broken(key, "0 would serve nothing: give 1 or more, or leave it out".to_owned());
            }
        }
        for (key, value) in [
            ("gateway.max_connections", self.gateway.max_connections),
            ("gateway.max_queue", self.gateway.max_queue),
        ] {
            if value == 0 {
                broken(key, "0 would refuse every request: give 1 or more".to_owned());
            }
        }
        for (key, value) in [
            ("gateway.head_timeout", self.gateway.head_timeout),
            ("gateway.body_timeout", self.gateway.body_timeout),
            ("build.timeout", self.build.timeout),
            ("images.timeout", self.images.timeout),
        ] {
            if value.is_zero() {
                broken(key, "no time at all: give at least 1ms".to_owned());
            }
        }
        if self.prewarm.size > self.prewarm.max {
            broken(
                "prewarm.size",
                format!("{} is more than prewarm.max allows ({})", self.prewarm.size, self.prewarm.max),
            );
        }
        if self.gateway.max_head < Size::kib(4) {
            broken(
                "gateway.max_head",
                format!("{} is less than browsers send: give at least 4Ki", self.gateway.max_head),
            );
        }
        if self.build.memory < Size::mib(64) {
            broken(
                "build.memory",
                format!("{} is too little for npm or pip: give at least 64Mi", self.build.memory),
            );
        }
        if self.logs.per_call > self.logs.per_function {
            broken(
                "logs.per_call",
                format!(
                    "{} is more than logs.per_function keeps ({})",
                    self.logs.per_call, self.logs.per_function
                ),
            );
        }
        if !["text", "json"].contains(&self.log.format.as_str()) {
            broken("log.format", format!("{:?} is neither \"text\" nor \"json\"", self.log.format));
        }
        if let Some(level) = &self.log.level
            && !["warn", "info", "debug"].contains(&level.as_str())
        {
            broken("log.level", format!("{level:?} is neither \"warn\", \"info\" nor \"debug\""));
        }
        for variable in &self.build.env {
            if variable.reveal().split_once('=').is_none_or(|(name, _)| name.is_empty()) {
                broken("build.env", "every entry is NAME=value".to_owned());
            }
        }
        if !["Always", "IfNotPresent", "Never"].contains(&self.cluster.pull_policy.as_str()) {
            broken(
                "cluster.pull_policy",
                format!(
                    "{:?} is neither \"Always\", \"IfNotPresent\" nor \"Never\"",
                    self.cluster.pull_policy
                ),
            );
        }
        if self.controller.lease_duration < Duration::from_secs(4) {
            broken(
                "controller.lease_duration",
                "too short to be renewed in time: give at least 4s".to_owned(),
            );
        }
        for (key, url) in [
            ("controller.gateway_url", Some(&self.controller.gateway_url)),
            ("controller.gateway_url_inside", self.controller.gateway_url_inside.as_ref()),
        ] {
            let is_url = |url: &String| {
                addresses::bracketed(url)
                    .parse::<http::Uri>()
                    .is_ok_and(|url| url.scheme().is_some() && url.host().is_some())
            };
            if url.is_some_and(|url| !is_url(url)) {
                broken(key, "is no address of the form http://host or http://host:port".to_owned());
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The kubeconfig that a server with this configuration writes and the command line reads.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        kubeconfig_in(&self.main.data_dir)
    }

    /// What the management API needs of all this.
    #[must_use]
    pub fn api(&self) -> crate::api::Config {
        crate::api::Config {
            listen: self.management.listen,
            names: self.management.names.clone(),
            identity: self.main.data_dir.join("tls"),
            kubeconfig: self.kubeconfig(),
            incoming: self.main.data_dir.join("incoming"),
            max_bundle_bytes: self.build.max_bundle.as_bytes(),
            max_blob_bytes: self.images.max_unpacked.as_bytes(),
        }
    }

    /// Threads of the gateway: as configured, or half the cores.
    #[must_use]
    pub fn gateway_threads(&self) -> u32 {
        self.gateway.threads.unwrap_or_else(|| (cores() / 2).max(1))
    }

    /// Instances that may start at once: as configured, or twice the cores.
    #[must_use]
    pub fn start_parallelism(&self) -> u32 {
        self.start.parallelism.unwrap_or_else(|| cores() * 2)
    }
}

/// Where a server keeps its kubeconfig in the data directory.
#[must_use]
pub fn kubeconfig_in(data_dir: &Path) -> PathBuf {
    data_dir.join("kubeconfig")
}

fn cores() -> u32 {
    std::thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1)
}
