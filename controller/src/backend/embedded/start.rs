//! One start, from the specification to a running shim. Blocking: it runs on a thread for blocking work.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::launcher::{Reply, Request};
use super::machine::{Machine, Record};
use super::oci;
use super::process::Identity;
use crate::backend::local::cgroup::Group;
use crate::backend::local::directory::Directory;
use crate::backend::local::{open_files, shim};
use crate::backend::{Error, InstanceSpec, Network, Root, Started};

/// A start that is complete.
pub(super) struct Launched {
    pub(super) directory: Directory,
    pub(super) group: Group,
    pub(super) pidfd: OwnedFd,
    pub(super) started: Started,
}

/// Starts an instance. After an error nothing of it is left.
///
/// # Errors
/// Which step did not work, and why.
pub(super) fn start(machine: &Machine, spec: &InstanceSpec) -> Result<Launched, Error> {
    let step =
        |step: &'static str| move |source: io::Error| Error::Step { step, instance: spec.id.clone(), source };
    let begin = Instant::now();
    if let Root::Image(reference) | Root::Runtime { image: reference, .. } = &spec.root {
        return Err(Error::Unsupported {
            what: format!("run the image {reference} without an engine"),
            remedy: "start hearth with --backend docker, or unpack the image".to_owned(),
        });
    }
    let shim = shim::config(spec, shim::interpreter(spec))?;
    let root = machine.roots.template(&spec.root).map_err(step("put the root together"))?;
    let directory = Directory::of(&machine.directory, &spec.id);
    let group = machine.parent.group(spec.id.as_str());
    // From here on something may be left; the guard takes it away unless the start is complete.
    let mut undo =
        Undo { machine, directory: directory.clone(), group: group.clone(), address: None, done: false };
    directory
        .create(spec, &shim)
        .and_then(|()| directory.create_oci())
        .map_err(step("make the instance's directory"))?;
    oci::spec(spec, &root.path, &directory.sockets(), open_files())
        .and_then(|spec| spec.save(directory.oci().join("config.json")))
        .map_err(io::Error::other)
        .map_err(step("write the container's specification"))?;
    if let Some(build) = &spec.build_dir {
        let user = Some(hearth_protocol::config::USER);
        std::os::unix::fs::chown(build, user, user)
            .map_err(step("give the build directory to the function's user"))?;
    }
    group.create(&spec.limits).map_err(step("make the control groups"))?;
    let prepared = begin.elapsed();
    let network =
        machine.networks.take(spec.network).map_err(|error| match machine.networks.unavailable() {
            Some(reason) if spec.network == Network::Outbound => Error::Unsupported {
                what: format!("give instances a network ({reason})"),
                remedy: "set `network: none`, or see `hearth doctor` for what is missing".to_owned(),
            },
            _ => step("make the network")(error),
        })?;
    undo.address = network.address;
    let connected = begin.elapsed();

    let streams = directory.log().map_err(step("make the shim's log"))?;
    let groups = group.entrances().map_err(step("open the control groups"))?;
    let request = Request {
        id: spec.id.as_str().to_owned(),
        bundle: directory.oci(),
        unified: groups.unified.is_some(),
        root,
    };
    let (reply, pidfd) = machine
        .launcher
        .launch(&request, &streams, network.descriptor.as_fd(), &groups)
        .map_err(step("reach the launcher"))?;
    let (pid, pidfd, micros) = match (reply, pidfd) {
        (Reply::Started { pid, micros }, Some(pidfd)) => (pid, pidfd, micros),
        (Reply::Started { .. }, None) => {
            return Err(step("make the container")(io::Error::from(io::ErrorKind::InvalidData)));
        }
        (Reply::Failed { step: part, message }, _) => {
            let text = format!("{part}: {message} {}", directory.printed());
            return Err(step("make the container")(io::Error::other(text.trim_end().to_owned())));
        }
    };
    let create = begin.elapsed();
    let identity = Identity::of(pid).map_err(step("find the container's process"))?;
    let started = Started { invoke: directory.invoke(), control: directory.control(), create };
    let record = Record { process: identity, address: network.address, started: started.clone() };
    directory.record(&record).map_err(step("write down what was started"))?;
    undo.done = true;
    let [join, build, go] = micros.map(Duration::from_micros);
    tracing::debug!(
        instance = %spec.id, pid, ?prepared, network = ?(connected - prepared), ?join, create = ?build, start = ?go, all = ?begin.elapsed(),
        "container started"
    );
    Ok(Launched { directory, group, pidfd, started })
}

/// Takes away what a start has made that did not come to its end.
struct Undo<'machine> {
    machine: &'machine Machine,
    directory: Directory,
    group: Group,
    address: Option<Ipv4Addr>,
    done: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Err(error) = self.group.destroy().and_then(|()| self.directory.remove()) {
            tracing::error!(directory = %self.directory.path().display(), %error, "a start that failed left something behind");
        }
        if let Some(address) = self.address {
            self.machine.networks.release(address);
        }
    }
}
