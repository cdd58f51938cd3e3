//! The directory of an instance on the host, and what is written there for a controller that comes back.
//!
//! ```text
//! <run-dir>/<tag>/<instance>/      root only
//!     spec.json                    what was asked for
//!     started.json                 its process or container and its addresses; not there: the start did not finish
//!     shim.log                     what the shim itself printed (embedded)
//!     oci/                         libcontainer's (embedded)
//!     s/                           `/run/hearth` in the container: config.json, invoke.sock, control.sock, exit.json
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use hearth_function::InstanceId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::blocking;
use crate::backend::{Address, CodeMount, Error, InstanceSpec, Owner};

/// `exit.json` and `shim.log` come out of an instance: no more than this is read of them.
const MAX_READ: u64 = 16 * 1024;

/// The directory of one instance.
#[derive(Debug, Clone)]
pub(in crate::backend) struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(in crate::backend) fn of(parent: &Path, instance: &InstanceId) -> Self {
        Self { path: parent.join(instance.as_str()) }
    }

    /// Makes it, with what the shim needs in it.
    ///
    /// # Errors
    /// When it is there already, or the disk refuses.
    pub(in crate::backend) fn create(&self, spec: &InstanceSpec, shim: &impl Serialize) -> io::Result<()> {
        let closed = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
        closed(&self.path)?;
        closed(&self.sockets())?;
        write(&self.path.join("spec.json"), &json(spec)?)?;
        write(&self.sockets().join("config.json"), &json(shim)?)
    }

    /// Gives what the container writes and reads to the user who is root in it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(in crate::backend) fn give_sockets_to(&self, user: u32, group: u32) -> io::Result<()> {
        use std::os::unix::fs::chown;
        chown(self.sockets().join("config.json"), Some(user), Some(group))?;
        chown(self.sockets(), Some(user), Some(group))
    }

    /// The directory itself, on the host.
    pub(in crate::backend) fn path(&self) -> &Path {
        &self.path
    }

    /// libcontainer's bundle.
    pub(in crate::backend) fn oci(&self) -> PathBuf {
        self.path.join("oci")
    }

    /// Makes libcontainer's bundle.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(in crate::backend) fn create_oci(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(self.oci())
    }

    /// `/run/hearth` of the container.
    pub(in crate::backend) fn sockets(&self) -> PathBuf {
        self.path.join("s")
    }

    /// A file for the shim's own output.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(in crate::backend) fn log(&self) -> io::Result<OwnedFd> {
        let file = fs::OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(self.path.join("shim.log"))?;
        Ok(file.into())
    }

    /// What the shim printed so far, its first part.
    pub(in crate::backend) fn printed(&self) -> String {
        read_some(&self.path.join("shim.log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    pub(in crate::backend) fn invoke(&self) -> Address {
        Address::Unix(self.sockets().join("invoke.sock"))
    }

    pub(in crate::backend) fn control(&self) -> Address {
        Address::Unix(self.sockets().join("control.sock"))
    }

    /// Writes the record of a start that is complete.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(in crate::backend) fn record(&self, record: &impl Serialize) -> io::Result<()> {
        // Renamed into place: a controller killed in the middle leaves a start that did not finish, not half a record.
        let aside = self.path.join(".started.json");
        write(&aside, &json(record)?)?;
        fs::rename(aside, self.path.join("started.json"))
    }

    pub(in crate::backend) fn read_spec(&self) -> Option<InstanceSpec> {
        read_json(&self.path.join("spec.json"))
    }

    /// Changes what is written down of the specification.
    ///
    /// # Errors
    /// When the disk refuses, or there is none.
    pub(in crate::backend) fn rewrite_spec(&self, change: impl FnOnce(&mut InstanceSpec)) -> io::Result<()> {
        let mut spec = self.read_spec().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        change(&mut spec);
        let aside = self.path.join(".spec.json");
        write(&aside, &json(&spec)?)?;
        fs::rename(aside, self.path.join("spec.json"))
    }

    /// See [`crate::backend::Backend::record`].
    pub(in crate::backend) async fn record_owner(
        &self,
        instance: &InstanceId,
        owner: &Owner,
        code: &CodeMount,
    ) -> Result<(), Error> {
        let (directory, owner, code) = (self.clone(), owner.clone(), code.clone());
        let change = move |spec: &mut InstanceSpec| (spec.owner, spec.code) = (Some(owner), Some(code));
        blocking(move || directory.rewrite_spec(change)).await.map_err(|source| Error::Step {
            step: "write down whose it is",
            instance: instance.clone(),
            source,
        })
    }

    pub(in crate::backend) fn read_record<T: DeserializeOwned>(&self) -> Option<T> {
        read_json(&self.path.join("started.json"))
    }

    /// How the runtime ended, as the shim wrote it. It lies where a shim that was taken over could write anything.
    pub(in crate::backend) fn read_exit<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&read_some(&self.sockets().join("exit.json"))?).ok()
    }

    /// Takes the directory away; one that is gone is no error.
    ///
    /// # Errors
    /// When the disk refuses.
    pub(in crate::backend) fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn json(value: &impl Serialize) -> io::Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(io::Error::other)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?.write_all(bytes)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// The first part of a file that others write: a regular one, not followed when it is a link.
fn read_some(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MAX_READ).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}
