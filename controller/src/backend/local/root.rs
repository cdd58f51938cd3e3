//! The root file system of an instance.
//!
//! `Root::Host` is a skeleton directory under `<data-dir>/roots/`, with mount points, links and the few files of `/etc` that programs
//! look for; the host's `/usr` and the interpreter's prefix are bound into it by the launcher, read-only. A skeleton is built once
//! and never changed: its name is a digest of all that is in it, so a host whose resolvers change gets another.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::HOSTNAME;
use crate::backend::rooted::{self, Links, Rooted};
use crate::backend::{Root, interpreters};

/// Directories that every root has: where things are mounted.
const MOUNT_POINTS: [&str; 10] =
    ["build", "code", "deps", "dev", "hearth", "proc", "run/hearth", "tmp", "usr", "var/tmp"];

/// Those of them that are no place for links: the launcher mounts on them without resolving them in the root.
const MOUNTED_BY_NAME: [&str; 4] = ["build", "code", "deps", "hearth"];

/// Top-level directories of the host that are links into `/usr` on most distributions, and are bound where they are not.
const TOP_LEVEL: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];

/// Directories below `/etc` that programs read and that hold no secrets: certificates, and where Debian's and Fedora's links lead.
const ETC_DIRECTORIES: [&str; 6] =
    ["alternatives", "ca-certificates", "crypto-policies", "pki/ca-trust", "pki/tls/certs", "ssl/certs"];

/// Files of `/etc` that are taken over as they are.
const ETC_FILES: [&str; 12] = [
    "debian_version",
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "protocols",
    "services",
    "ssl/openssl.cnf",
    "timezone",
    "pki/tls/openssl.cnf",
];

/// Resolvers of last resort, when the host has only loopback ones and does not say where those ask: well-known public ones.
const PUBLIC_RESOLVERS: [&str; 2] = ["1.1.1.1", "8.8.8.8"];

/// A root before it is put together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::backend) struct Template {
    /// The directory.
    pub(in crate::backend) path: PathBuf,
    /// What is mounted in it, read-only: a path of the host, and a path below the root, without the leading slash.
    pub(in crate::backend) binds: Vec<(PathBuf, PathBuf)>,
}

/// Builds the roots and remembers them.
#[derive(Debug)]
pub(in crate::backend) struct Roots {
    /// `<data-dir>/roots`.
    directory: PathBuf,
    /// Bound at `/hearth` of every root.
    shim: PathBuf,
    /// What `host.hearth.internal` is.
    host: Option<Ipv4Addr>,
    /// By interpreter; with the resolvers' file's time, whose change makes another root.
    known: Mutex<HashMap<Root, (Option<SystemTime>, Template)>>,
}

impl Roots {
    pub(in crate::backend) fn new(data_dir: &Path, shim: PathBuf, host: Option<Ipv4Addr>) -> Self {
        Self { directory: data_dir.join("roots"), shim, host, known: Mutex::new(HashMap::new()) }
    }

    /// The shim's files on the host.
    pub(in crate::backend) fn shim(&self) -> &Path {
        &self.shim
    }

    /// The root for an instance, built if there is none.
    ///
    /// # Errors
    /// When the host cannot be read or the data directory not be written.
    pub(in crate::backend) fn template(&self, root: &Root) -> io::Result<Template> {
        let changed = fs::metadata("/etc/resolv.conf").and_then(|file| file.modified()).ok();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, template)) = known.get(root)
            && *then == changed
        {
            return Ok(template.clone());
        }
        let template = match root {
            Root::Host { interpreter } => self.host_root(interpreter.as_deref())?,
            // Not remembered: it may be removed and made again.
            Root::Directory(path) => return self.directory_root(path),
            Root::Image(reference) | Root::Runtime { image: reference, .. } => {
                let text = format!("{reference} is not unpacked: this backend has no engine that does");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        };
        known.insert(root.clone(), (changed, template.clone()));
        Ok(template)
    }

    fn host_root(&self, interpreter: Option<&Path>) -> io::Result<Template> {
        let mut skeleton = Skeleton::default();
        for directory in MOUNT_POINTS {
            skeleton.directory(directory);
        }
        skeleton.link("node_modules", "/deps/node_modules");
        skeleton.bind("/usr", "usr");
        for name in TOP_LEVEL {
            let path = Path::new("/").join(name);
            match fs::symlink_metadata(&path) {
                Ok(data) if data.is_symlink() => skeleton.link(name, fs::read_link(&path)?),
                Ok(data) if data.is_dir() => skeleton.bind(&path, name),
                _ => {}
            }
        }
        skeleton.bind(&self.shim, "hearth");
        for tree in interpreter.map(interpreters::trees).unwrap_or_default() {
            if tree.starts_with("/usr")
                || TOP_LEVEL.iter().any(|name| tree.starts_with(Path::new("/").join(name)))
            {
                continue;
            }
            // Keys and everybody's code would be seen.
            if self.directory.starts_with(&tree) {
                let tree = tree.display();
                let text =
                    format!("the data directory lies in {tree}, which functions must see: move one of them");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            let inside = tree.strip_prefix("/").unwrap_or(&tree).to_owned();
            skeleton.bind(&tree, inside);
        }
        self.etc(&mut skeleton)?;
        skeleton.build(&self.directory)
    }

    fn etc(&self, skeleton: &mut Skeleton) -> io::Result<()> {
        for name in ETC_DIRECTORIES {
            let path = Path::new("/etc").join(name);
            if path.is_dir() {
                skeleton.bind(&path, Path::new("etc").join(name));
            }
        }
        for name in ETC_FILES {
            // Followed when it is a link: `localtime` is one, and so is `os-release`.
            match fs::read(Path::new("/etc").join(name)) {
                Ok(content) => skeleton.file(Path::new("etc").join(name), content),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        skeleton
            .file("etc/passwd", "root:x:0:0:root:/:/bin/sh\nfunction:x:65532:65532:function:/tmp:/bin/sh\n");
        skeleton.file("etc/group", "root:x:0:\nfunction:x:65532:\n");
        self.network_files(skeleton);
        Ok(())
    }

    /// What `/etc` says of the network.
    fn network_files(&self, skeleton: &mut Skeleton) {
        skeleton.file("etc/hostname", format!("{HOSTNAME}\n"));
        skeleton.file("etc/hosts", hosts(self.host));
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let resolvers = resolvers(&read("/etc/resolv.conf"), &read("/run/systemd/resolve/resolv.conf"));
        skeleton.file("etc/resolv.conf", resolvers);
    }

    /// An unpacked image: it lacks our mount points, which are made in it, and its `/etc` says nothing of the network here, which is mounted.
    /// Its links are its own: nothing that it holds leads to anything outside of it (INV-14).
    fn directory_root(&self, path: &Path) -> io::Result<Template> {
        let path = fs::canonicalize(path)?;
        let root = Rooted::open(&path)?;
        let told = |directory: &str, error: io::Error| {
            let text = format!("the image's /{directory} cannot be mounted over: {error}");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        for directory in MOUNT_POINTS {
            // The launcher mounts these by their names.
            let links = if MOUNTED_BY_NAME.contains(&directory) { Links::Refused } else { Links::InTree };
            root.make(Path::new(directory), links, |_| ()).map_err(|error| told(directory, error))?;
        }
        if rooted::look(&root, OsStr::new("node_modules"))?.is_none() {
            rustix::fs::symlinkat("/deps/node_modules", &root, "node_modules")?;
        }
        let etc = root.make(Path::new("etc"), Links::Refused, |_| ()).map_err(|error| told("etc", error))?;
        let mut network = Skeleton::default();
        self.network_files(&mut network);
        let files = network.files.clone();
        let made = network.build(&self.directory)?;
        let mut binds = vec![(self.shim.clone(), PathBuf::from("hearth"))];
        for (file, _) in files {
            let Some(name) = file.file_name() else { continue };
            // An empty file of the root's own: what a layer has there, a link perhaps, is the layer's.
            if !rooted::look(&etc, name)?.is_some_and(|there| is_placeholder(&there)) {
                rooted::remove(&etc, name)?;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(&etc, name, flags, Mode::from_raw_mode(0o644))?;
            }
            binds.push((made.path.join(&file), file));
        }
        Ok(Template { path, binds })
    }

    /// Takes away every skeleton but those that were asked for since the start; only while no instance runs.
    pub(in crate::backend) fn sweep(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(entries) = fs::read_dir(&self.directory) else { return };
        for entry in entries.flatten() {
            if !known.values().any(|(_, template)| template.path == entry.path()) {
                fs::remove_dir_all(entry.path()).ok();
            }
        }
    }
}

/// What a root consists of, before it is on disk.
#[derive(Debug, Default)]
struct Skeleton {
    directories: Vec<PathBuf>,
    links: Vec<(PathBuf, PathBuf)>,
    files: Vec<(PathBuf, Vec<u8>)>,
    binds: Vec<(PathBuf, PathBuf)>,
}

impl Skeleton {
    fn directory(&mut self, path: impl Into<PathBuf>) {
        self.directories.push(path.into());
    }

    fn link(&mut self, path: impl Into<PathBuf>, target: impl Into<PathBuf>) {
        self.links.push((path.into(), target.into()));
    }

    fn file(&mut self, path: impl Into<PathBuf>, content: impl Into<Vec<u8>>) {
        self.files.push((path.into(), content.into()));
    }

    fn bind(&mut self, source: impl Into<PathBuf>, path: impl Into<PathBuf>) {
        let path = path.into();
        self.directories.push(path.clone());
        self.binds.push((source.into(), path));
    }

    /// A digest of everything in it.
    fn key(&self) -> String {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        for path in &self.directories {
            part(path.as_os_str().as_encoded_bytes());
        }
        for (path, target) in self.links.iter().chain(&self.binds) {
            part(path.as_os_str().as_encoded_bytes());
            part(target.as_os_str().as_encoded_bytes());
        }
        for (path, content) in &self.files {
            part(path.as_os_str().as_encoded_bytes());
            part(content);
        }
        hearth_function::hex(&hash.finalize()[..16])
    }

    /// Writes it under `roots`, unless it is there.
    fn build(self, roots: &Path) -> io::Result<Template> {
        let path = roots.join(format!("host-{}", self.key()));
        if !path.is_dir() {
            // Made aside and renamed: what has the name is whole.
            let aside = roots.join(format!(".making-{}-{}", self.key(), std::process::id()));
            fs::remove_dir_all(&aside).ok();
            let make = |path: &Path| fs::DirBuilder::new().recursive(true).mode(0o755).create(path);
            make(&aside)?;
            fs::set_permissions(&aside, fs::Permissions::from_mode(0o755))?;
            for directory in &self.directories {
                open_directories(&aside, directory)?;
            }
            for (link, target) in &self.links {
                std::os::unix::fs::symlink(target, aside.join(link))?;
            }
            for (file, content) in &self.files {
                let parent = file.parent().unwrap_or_else(|| Path::new(""));
                open_directories(&aside, parent)?;
                fs::write(aside.join(file), content)?;
                fs::set_permissions(aside.join(file), fs::Permissions::from_mode(0o644))?;
            }
            if let Err(error) = fs::rename(&aside, &path) {
                fs::remove_dir_all(&aside).ok();
                // Another controller of this data directory cannot be: it is locked. So this is a real failure.
                return Err(error);
            }
        }
        Ok(Template { path: fs::canonicalize(path)?, binds: self.binds })
    }
}

/// Makes `below` and its parents in `root`, each open for everybody to pass, whatever the umask and whatever it is on the host
/// (`/root`, where pyenv lives, is closed there).
fn open_directories(root: &Path, below: &Path) -> io::Result<()> {
    let mut path = root.to_owned();
    for component in below.components() {
        let Component::Normal(name) = component else { continue };
        path.push(name);
        match fs::create_dir(&path) {
            Ok(()) => fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether it is an empty file with one name, as is made for a file to be mounted on.
fn is_placeholder(there: &rustix::fs::Stat) -> bool {
    let is_file = rustix::fs::FileType::from_raw_mode(there.st_mode) == rustix::fs::FileType::RegularFile;
    is_file && there.st_size == 0 && there.st_nlink == 1
}

fn hosts(host: Option<Ipv4Addr>) -> String {
    let mut text = format!("127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost\n");
    if let Some(address) = host {
        text.push_str(&format!("{address} host.hearth.internal gateway.hearth.internal\n"));
    }
    text
}

/// The `resolv.conf` of an instance: the host's, with loopback resolvers (systemd-resolved, dnsmasq), which an instance cannot reach,
/// replaced by those they ask, and by public ones when nobody says.
fn resolvers(host: &str, upstream: &str) -> String {
    let reachable = |text: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver"))
            .map(|address| address.trim().to_owned())
            // Instances have no IPv6.
            .filter(|address| {
                address.parse::<IpAddr>().is_ok_and(|address| address.is_ipv4() && !address.is_loopback())
            })
            .collect()
    };
    let mut servers = reachable(host);
    if servers.is_empty() {
        servers = reachable(upstream);
    }
    if servers.is_empty() {
        servers = PUBLIC_RESOLVERS.map(str::to_owned).to_vec();
    }
    let kept =
        host.lines().map(str::trim).filter(|line| line.starts_with("search") || line.starts_with("options"));
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    for line in kept {
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_resolver_is_replaced_by_the_one_behind_it() {
        let host = "nameserver 127.0.0.53\noptions edns0\nsearch lan\n";
        assert_eq!(
            resolvers(host, "nameserver 192.168.1.1\n"),
            "nameserver 192.168.1.1\noptions edns0\nsearch lan\n"
        );
        assert_eq!(
            resolvers("nameserver 10.0.0.2\nnameserver ::1\n", "nameserver 9.9.9.9"),
            "nameserver 10.0.0.2\n"
        );
        assert_eq!(resolvers("", ""), "nameserver 1.1.1.1\nnameserver 8.8.8.8\n");
    }

    #[test]
    fn a_skeleton_is_built_once_and_open_to_pass_for_everybody() {
        let data = tempfile::tempdir().unwrap();
        let make = || {
            let mut skeleton = Skeleton::default();
            skeleton.bind("/root/.pyenv/versions/3.11.9", "root/.pyenv/versions/3.11.9");
            skeleton.file("etc/hosts", hosts(Some(Ipv4Addr::new(10, 1, 0, 1))));
            skeleton.link("bin", "usr/bin");
            skeleton
        };
        let first = make().build(data.path()).unwrap();
        let mode = fs::metadata(first.path.join("root")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert!(
            fs::read_to_string(first.path.join("etc/hosts"))
                .unwrap()
                .contains("10.1.0.1 host.hearth.internal")
        );
        assert_eq!(fs::read_link(first.path.join("bin")).unwrap(), Path::new("usr/bin"));
        assert_eq!(make().build(data.path()).unwrap(), first);
        let mut other = make();
        other.file("etc/hostname", "x");
        assert_ne!(other.build(data.path()).unwrap().path, first.path);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 2, "nothing half-made");
    }

    #[test]
    fn the_data_directory_is_never_shown() {
        let tree = tempfile::tempdir().unwrap();
        let data = tree.path().join("lib/hearth");
        fs::create_dir_all(&data).unwrap();
        let interpreter = Some(tree.path().join("bin/node"));
        let roots = Roots::new(&data, data.join("shim"), None);
        let refused = roots.template(&Root::Host { interpreter: interpreter.clone() }).unwrap_err();
        assert!(refused.to_string().contains("data directory lies in"), "{refused}");
        let roots = Roots::new(&tree.path().join("data"), data.join("shim"), None);
        let template = roots.template(&Root::Host { interpreter }).unwrap();
        assert!(template.binds.iter().any(|(source, _)| *source == tree.path().join("lib")));
        assert!(!template.binds.iter().any(|(source, _)| source == tree.path()));
    }
}
