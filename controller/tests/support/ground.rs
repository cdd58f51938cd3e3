//! What the conformance suites of all backends stand on: directories and a backend on them, whom instances may reach and whom not, what is left on the machine, and the way
//! through the cases. `HEARTH_CASE=text` runs only the cases whose name has that text.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;

use hearth::backend::conformance::{Fixture, PATIENCE, Suite};
use hearth::backend::{Backend, Root, interpreters, shim_files};
use hearth_function::InstanceId;
use tokio::net::TcpListener;

use crate::cases::{ONLY, late, run};
use crate::containers::Containers;
use crate::ports::free_port;

/// Traces of `name` on this machine: processes, control groups, mounts, files.
fn traces(run_dir: &Path, name: &str) -> Vec<String> {
    let mut traces = Vec::new();
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let groups = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
        if groups.lines().any(|line| line.ends_with(&format!("/{name}"))) {
            traces.push(format!("process {}", process.path().display()));
        }
    }
    let mut directories = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = directories.pop() {
        for entry in
            fs::read_dir(directory).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir())
        {
            // Where Hearth makes groups, and nowhere else: the rest of the tree is not ours to walk.
            let depth = entry.path().components().count();
            if entry.file_name() == name {
                traces.push(format!("control group {}", entry.path().display()));
            } else if depth <= 5 || entry.path().components().any(|part| part.as_os_str() == "hearth") {
                directories.push(entry.path());
            }
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    traces.extend(mounts.lines().filter(|line| line.contains(name)).map(|line| format!("mount {line}")));
    let mut directories = vec![run_dir.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name() == name {
                traces.push(format!("file {}", entry.path().display()));
            } else if entry.path().is_dir() {
                directories.push(entry.path());
            }
        }
    }
    traces
}

/// Links and tables of the packet filter with Hearth's name.
fn network_traces(tag: &str) -> Vec<String> {
    let links =
        fs::read_dir("/sys/class/net").unwrap().flatten().map(|link| link.file_name().into_string().unwrap());
    let mut traces: Vec<String> =
        links.filter(|link| link.contains(tag)).map(|link| format!("link {link}")).collect();
    if let Ok(tables) = Command::new("nft").args(["list", "tables"]).output() {
        let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
        traces.extend(tables.lines().filter(|table| table.contains(tag)).map(str::to_owned));
    }
    if let Ok(rules) = Command::new("iptables").args(["-w", "5", "-S"]).output() {
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        traces.extend(rules.lines().filter(|rule| rule.contains(tag)).map(|rule| format!("rule {rule}")));
    }
    traces
}

/// An address of this host on the way out, if there is a way out.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Who listens, and whether instances may reach it.
#[derive(Debug, Default)]
struct Neighbours {
    reachable: Vec<SocketAddr>,
    unreachable: Vec<SocketAddr>,
    _listeners: Vec<TcpListener>,
}

impl Neighbours {
    /// Listens at the gateway's port and at others; `None` for a machine without networks.
    async fn of(gateway: Option<Ipv4Addr>, gateway_port: u16, others: &Result<Containers, String>) -> Self {
        let mut this = Self::default();
        let Some(address) = gateway else {
            eprintln!("NOT RUN: the cases about networks; this machine cannot do them (see `hearth doctor`)");
            return this;
        };
        let gateway = TcpListener::bind((address, gateway_port)).await.unwrap();
        this.reachable.push(gateway.local_addr().unwrap());
        let other = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        this.unreachable.push(SocketAddr::from((address, port)));
        this.unreachable.extend(own_address().map(|own| SocketAddr::from((own, port))));
        this._listeners.extend([gateway, other]);
        match others {
            Ok(others) => {
                // The first is on an interface that the operator lists.
                let [listed, unlisted] = others.addresses;
                this.reachable.push(listed);
                this.unreachable.extend([unlisted, others.link_local, (address, others.published).into()]);
            }
            Err(reason) => eprintln!("NOT RUN: the cases about containers of others: {reason}"),
        }
        this
    }
}

/// What a backend is opened on, whichever it is.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) data: tempfile::TempDir,
    pub(crate) run: tempfile::TempDir,
    pub(crate) shim: PathBuf,
    pub(crate) gateway_port: u16,
    /// Interfaces by which instances reach the outside.
    pub(crate) interfaces: Vec<String>,
    others: Result<Containers, String>,
}

/// What a backend has told about itself once it was open, and how another one is opened on the same ground.
pub(crate) struct Opened {
    pub(crate) backend: Arc<dyn Backend>,
    /// Where instances reach the gateway; `None` on a machine without networks.
    pub(crate) gateway: Option<Ipv4Addr>,
    pub(crate) reopen: Reopen,
}

/// Opens the backend again, as a later controller does.
pub(crate) type Reopen =
    Box<dyn Fn() -> Pin<Box<dyn Future<Output = Arc<dyn Backend>> + Send>> + Send + Sync>;

impl Ground {
    /// Makes it; `None`, with a word why, where real containers cannot be.
    pub(crate) async fn new(backend: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("NOT RUN: the conformance suite of the {backend} backend needs root");
            return None;
        }
        let data = tempfile::tempdir().unwrap();
        let run = tempfile::Builder::new().prefix("hr").tempdir_in("/tmp").unwrap();
        let shim = shim_files::install(data.path()).unwrap();
        let others = Containers::start();
        let interfaces = others.iter().map(|others| others.links[0].clone()).collect();
        Some(Self { data, run, shim, gateway_port: free_port(), interfaces, others })
    }

    /// Runs the suite on a backend that was opened here. `more_left`: what an engine has left of an instance, or with `None` of all of this
    /// data directory, whose tag is given.
    ///
    /// # Panics
    /// When a case does not hold, or something is left behind.
    pub(crate) async fn conforms(
        self,
        opened: Opened,
        more_left: impl Fn(&str, Option<&str>) -> Vec<String> + Clone + Send + Sync + 'static,
    ) {
        let Opened { backend, gateway, reopen } = opened;
        let run_dir = self.run.path().to_owned();
        let name = fs::read_dir(&run_dir).unwrap().next().unwrap().unwrap().file_name();
        let tag = name.to_str().unwrap().trim_end_matches("-docker").to_owned();
        let python = interpreters::find("python").unwrap().path;
        let work = self.data.path().join("work");
        fs::create_dir(&work).unwrap();
        let neighbours = Neighbours::of(gateway, self.gateway_port, &self.others).await;
        let suite = Suite::new(Fixture {
            backend,
            root: Root::Host { interpreter: Some(python.clone()) },
            python: python.to_str().unwrap().to_owned(),
            directory: work,
            reachable: neighbours.reachable.clone(),
            unreachable: neighbours.unreachable.clone(),
            owner: late("default"),
            patience: PATIENCE,
            networks: gateway.is_some(),
            reopen,
            left: Box::new({
                let (run_dir, tag, more_left) = (run_dir.clone(), tag.clone(), more_left.clone());
                move |id: &InstanceId| {
                    let mut left = traces(&run_dir, id.as_str());
                    left.extend(more_left(&tag, Some(id.as_str())));
                    left
                }
            }),
        });
        let mut failures = run(suite).await;
        if let (true, true, Ok(others)) = (gateway.is_some(), ONLY.is_none(), &self.others)
            && others.translated() == 0
        {
            failures.push("the published port was never tried".to_owned());
        }
        drop((neighbours, self.others));
        let left =
            traces(&run_dir, &tag).into_iter().chain(network_traces(&tag)).chain(more_left(&tag, None));
        failures.extend(left.map(|trace| format!("left behind: {trace}")));
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}
