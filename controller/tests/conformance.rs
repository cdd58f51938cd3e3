//! The conformance suite of backends, against the embedded one: real containers, so as root. `HEARTH_CASE=text` runs only the cases
//! whose name has that text.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

#[path = "support/containers.rs"]
mod containers;

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use hearth::backend::conformance::{Fixture, Suite, cases};
use hearth::backend::embedded::{Config, Embedded};
use hearth::backend::{Backend, Root, interpreters, shim_files};
use hearth_function::InstanceId;
use tokio::net::TcpListener;

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
    traces
}

/// An address of this host on the way out, if there is a way out.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_backend_conforms() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT RUN: the conformance suite of the embedded backend needs root");
        return;
    }
    let data = tempfile::tempdir().unwrap();
    let run = tempfile::Builder::new().prefix("hr").tempdir_in("/tmp").unwrap();
    let shim = shim_files::install(data.path()).unwrap();
    let python = interpreters::find("python").unwrap().path;
    let work = data.path().join("work");
    fs::create_dir(&work).unwrap();

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway_port = free.local_addr().unwrap().port();
    drop(free);
    let others = containers::Containers::start();
    let interfaces = others.iter().map(|others| others.links[0].clone()).collect();
    let config = Config {
        run_dir: run.path().to_owned(),
        gateway_port,
        interfaces,
        ..Config::new(env!("CARGO_BIN_EXE_hearth").into(), data.path().to_owned(), shim)
    };
    let backend = Embedded::open(config.clone()).await.unwrap();
    let (mut reachable, mut unreachable) = (Vec::new(), Vec::new());
    let mut listeners = Vec::new();
    if let Some(address) = backend.gateway_address() {
        let gateway = TcpListener::bind((address, gateway_port)).await.unwrap();
        reachable.push(gateway.local_addr().unwrap());
        let other = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = other.local_addr().unwrap().port();
        unreachable.push(SocketAddr::from((address, port)));
        unreachable.extend(own_address().map(|own| SocketAddr::from((own, port))));
        listeners.extend([gateway, other]);
        match &others {
            Ok(others) => {
                // The first is on an interface that the operator lists.
                let [listed, unlisted] = others.addresses;
                reachable.push(listed);
                unreachable.extend([unlisted, others.link_local, (address, others.published).into()]);
            }
            Err(reason) => eprintln!("NOT RUN: the cases about containers of others: {reason}"),
        }
    }
    let networks = backend.gateway_address().is_some();
    if !networks {
        eprintln!("NOT RUN: the cases about networks; this machine cannot do them (see `hearth doctor`)");
    }
    let run_dir = run.path().to_owned();
    let tag = fs::read_dir(&run_dir).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let suite = Suite::new(Fixture {
        backend,
        root: Root::Host { interpreter: Some(python.clone()) },
        python: python.to_str().unwrap().to_owned(),
        directory: work,
        reachable,
        unreachable,
        networks,
        reopen: Box::new(move || {
            let config = config.clone();
            Box::pin(async move { Embedded::open(config).await.unwrap() as Arc<dyn Backend> })
        }),
        left: Box::new({
            let run_dir = run_dir.clone();
            move |id: &InstanceId| traces(&run_dir, id.as_str())
        }),
    });
    let only = std::env::var("HEARTH_CASE").unwrap_or_default();
    let mut failures = Vec::new();
    for case in cases().into_iter().filter(|case| case.name.contains(&only)) {
        let begin = std::time::Instant::now();
        match suite.run(case).await {
            Ok(()) => println!("ok      {} ({:?})", case.name, begin.elapsed()),
            Err(failure) => {
                println!("FAILED  {}: {failure}", case.name);
                failures.push(format!("{}: {failure}", case.name));
            }
        }
    }
    suite.backend().close().await.unwrap();
    drop(listeners);
    if let (true, true, Ok(others)) = (networks, only.is_empty(), &others) {
        assert!(others.translated() > 0, "the published port was never tried");
    }
    drop(others);
    failures.extend(
        traces(&run_dir, &tag)
            .into_iter()
            .chain(network_traces(&tag))
            .map(|trace| format!("left behind: {trace}")),
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
