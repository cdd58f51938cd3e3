//! The host's own interpreter as the base of an image: the binary, the libraries that it and its extensions load, its standard library, the
//! shim and the bootstraps, and the few files of `/etc` that programs look for. No shell, no package manager, no registry.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use hearth_function::Digest;

use super::{Archive, Error, Run};
use crate::backend::interpreters::{Interpreter, Language};

/// Changes when the same host gives another layer.
const FORMAT: &str = "1";

/// Files of `/etc` that are taken as they are: where libraries lie, whom to trust, how names are found.
const ETC: [&str; 4] = ["ld.so.cache", "nsswitch.conf", "ssl/certs/ca-certificates.crt", "ssl/openssl.cnf"];

/// Links of Debian's OpenSSL to `/etc/ssl`.
const SSL_LINKS: [&str; 3] = ["usr/lib/ssl/certs", "usr/lib/ssl/openssl.cnf", "usr/lib/ssl/cert.pem"];

/// Parts of Python's standard library that no function needs: its tests, its editor, what builds and installs packages.
const UNWANTED: [&str; 10] = [
    "__pycache__",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
];

/// An interpreter of this host, to be put into a layer.
#[derive(Debug)]
pub struct HostRuntime {
    interpreter: Interpreter,
    /// The shim and the bootstraps, on the disk.
    programs: PathBuf,
}

/// What is put somewhere.
enum Item {
    Copy(PathBuf),
    Link(PathBuf),
    Tree(PathBuf),
}

impl HostRuntime {
    /// This interpreter, with the shim and the bootstraps of this directory.
    #[must_use]
    pub fn new(interpreter: Interpreter, programs: PathBuf) -> Self {
        Self { interpreter, programs }
    }

    /// Names what it would be made of: another binary of the same place, another shim, have another key.
    ///
    /// # Errors
    /// When the interpreter has gone.
    pub fn key(&self) -> Result<String, Error> {
        let path = &self.interpreter.path;
        let metadata = fs::metadata(path).map_err(|error| self.cannot(&error.to_string()))?;
        let programs = self.programs.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parts = [
            FORMAT.to_owned(),
            path.display().to_string(),
            format!("{:?}", self.interpreter.version),
            format!("{} {}", metadata.len(), metadata.mtime()),
            programs,
        ];
        Ok(format!("host-{}", Digest::of(parts.join("\n").as_bytes()).hex()))
    }

    /// What the image says of itself.
    #[must_use]
    pub fn run(&self) -> Run {
        let [major, minor, patch] = self.interpreter.version;
        let name = match self.interpreter.language {
            Language::Nodejs => format!("nodejs{major}"),
            Language::Python => format!("python{major}.{minor}"),
        };
        let label = |name: &str, value: String| (format!("dev.hearth.{name}"), value);
        Run {
            command: Vec::new(),
            env: BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]),
            working_directory: "/".to_owned(),
            labels: BTreeMap::from([
                label("runtime", name),
                label("version", format!("{major}.{minor}.{patch}")),
            ]),
        }
    }

    /// Puts all of it into a layer. Blocks.
    ///
    /// # Errors
    /// When a library is missing, or something cannot be read.
    pub fn fill(&self, archive: &mut Archive) -> Result<(), Error> {
        let mut items: BTreeMap<PathBuf, Item> = BTreeMap::new();
        // Where the host has links to `/usr`, libraries are looked for by them.
        for name in ["bin", "lib", "lib64", "sbin"] {
            if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
                items.insert(name.into(), Item::Link(target));
            }
        }
        let binary = &self.interpreter.path;
        let mut loaded = vec![binary.clone()];
        items.insert(inside(binary), Item::Copy(binary.clone()));
        let usual = match self.interpreter.language {
            Language::Nodejs => {
                self.node(&mut items)?;
                "node"
            }
            Language::Python => {
                loaded.extend(self.python(&mut items)?);
                "python3"
            }
        };
        let usual = Path::new("usr/local/bin").join(usual);
        if usual != inside(binary) {
            items.insert(usual, Item::Link(binary.clone()));
        }
        for library in self.libraries(&loaded)? {
            let parent = library.parent().and_then(|parent| parent.canonicalize().ok());
            let (Some(parent), Some(name)) = (parent, library.file_name()) else { continue };
            items.entry(inside(&parent.join(name))).or_insert_with(|| Item::Copy(library.clone()));
        }
        for file in ETC.map(|name| Path::new("/etc").join(name)) {
            if file.is_file() {
                items.insert(inside(&file), Item::Copy(file));
            }
        }
        for link in SSL_LINKS {
            if let Ok(target) = fs::read_link(Path::new("/").join(link)) {
                items.insert(link.into(), Item::Link(target));
            }
        }
        items.insert("hearth".into(), Item::Tree(self.programs.clone()));
        write(archive, items)
    }

    /// Node of some distributions has parts of itself in files.
    fn node(&self, items: &mut BTreeMap<PathBuf, Item>) -> Result<(), Error> {
        let script =
            "console.log((process.config.variables.node_builtin_shareable_builtins || []).join('\\n'))";
        let names = self.ask(&["-e", script])?;
        for name in names.lines().map(|line| line.rsplit('/').next().unwrap_or(line).trim_end_matches(".js"))
        {
            for package in [name, name.split('-').next().unwrap_or(name)] {
                let tree = Path::new("/usr/share/nodejs").join(package);
                if !package.is_empty() && tree.is_dir() {
                    items.insert(inside(&tree), Item::Tree(tree));
                }
            }
        }
        Ok(())
    }

    /// The standard library; its extensions, for the libraries that they load.
    fn python(&self, items: &mut BTreeMap<PathBuf, Item>) -> Result<Vec<PathBuf>, Error> {
        let script =
            "import sysconfig; print(sysconfig.get_path('stdlib')); print(sysconfig.get_path('platstdlib'))";
        let told = self.ask(&["-I", "-c", script])?;
        let mut extensions = Vec::new();
        for tree in told.lines().map(PathBuf::from).collect::<BTreeSet<_>>() {
            let dynamic = tree.join("lib-dynload");
            for entry in fs::read_dir(dynamic).into_iter().flatten().flatten() {
                if entry.path().extension().is_some_and(|ending| ending == "so") {
                    extensions.push(entry.path());
                }
            }
            items.insert(inside(&tree), Item::Tree(tree));
        }
        extensions.sort();
        Ok(extensions)
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, Error> {
        let output = Command::new(&self.interpreter.path).args(arguments).env_clear().output();
        let output = output.map_err(|error| self.cannot(&error.to_string()))?;
        if !output.status.success() {
            return Err(self.cannot(String::from_utf8_lossy(&output.stderr).trim()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What the dynamic loader would load for these, as `ldd` says.
    fn libraries(&self, of: &[PathBuf]) -> Result<BTreeSet<PathBuf>, Error> {
        let output =
            Command::new("ldd").args(of).env("LC_ALL", "C").output().map_err(|error| Error::Host {
                what: format!("ldd cannot be run ({error})"),
                fix: "it comes with the C library: install libc-bin".to_owned(),
            })?;
        // It fails for a static program, which needs nothing.
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        libraries(&text).map_err(|missing| Error::Host {
            what: format!("{} needs {missing}, which is not on this host", self.interpreter.path.display()),
            fix: "install it, or use another interpreter".to_owned(),
        })
    }

    fn cannot(&self, why: &str) -> Error {
        Error::Host {
            what: format!("{} cannot be asked: {why}", self.interpreter.path.display()),
            fix: "`hearth runtimes` lists the interpreters that can".to_owned(),
        }
    }
}

/// The libraries in what `ldd` prints; the name of one that was not found otherwise.
fn libraries(text: &str) -> Result<BTreeSet<PathBuf>, String> {
    let mut libraries = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        let (name, path) =
            line.split_once("=>").map_or((line, line), |(name, path)| (name.trim(), path.trim()));
        if path == "not found" {
            return Err(name.to_owned());
        }
        // `linux-vdso.so.1 (0x…)` is the kernel's own; `/usr/bin/node:` is a heading.
        let path = path.split(" (0x").next().unwrap_or(path);
        if path.starts_with('/') && !path.ends_with(':') {
            libraries.insert(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

fn inside(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}

fn write(archive: &mut Archive, items: BTreeMap<PathBuf, Item>) -> Result<(), Error> {
    archive.directory(Path::new("tmp"), 0o1777)?;
    for mount_point in ["code", "deps", "run/hearth"] {
        archive.directory(Path::new(mount_point), 0o755)?;
    }
    // Where Node looks from /code.
    archive.link(Path::new("node_modules"), Path::new("/deps/node_modules"))?;
    for (path, text) in [
        ("etc/group", "root:x:0:\nfunction:x:65532:\n"),
        (
            "etc/passwd",
            "root:x:0:0:root:/:/sbin/nologin\nfunction:x:65532:65532:function:/tmp:/sbin/nologin\n",
        ),
    ] {
        archive.file(Path::new(path), false, text.len() as u64, text.as_bytes())?;
    }
    for (path, item) in items {
        match item {
            Item::Copy(from) => archive.copy(&path, &from)?,
            Item::Link(target) => archive.link(&path, &target)?,
            Item::Tree(from) => archive
                .tree(&path, &from, |name| !UNWANTED.contains(&name) && !name.starts_with("config-"))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ldd_says_is_a_list_of_libraries() {
        let text = "/usr/bin/python3.11:\n\tlinux-vdso.so.1 (0x00007ffd)\n\tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n";
        let found = libraries(text).unwrap();
        let expected = ["/lib/x86_64-linux-gnu/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
        assert_eq!(libraries("\tlibx.so.1 => not found\n"), Err("libx.so.1".to_owned()));
    }
}
