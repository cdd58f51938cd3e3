//! Dependencies as they are really installed: npm and pip in sandboxed instances of the embedded backend, from the registries that this
//! machine is set up for (proxies, mirrors and certificates come from the environment, as they do for a controller).
//!
//! Needs root, because instances are containers.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth::backend::embedded::{self, Embedded};
use hearth::backend::{Backend, interpreters, shim_files};
use hearth::build::dependencies::{Config, Error, select_environment};
use hearth::build::{Bundles, Dependencies, Limits, PackOptions, Plan, Progress, Toolchain, pack, plan};

/// A backend and both stores, over a data directory of their own.
struct World {
    backend: Arc<Embedded>,
    bundles: Bundles,
    dependencies: Dependencies,
    _data: tempfile::TempDir,
}

impl World {
    async fn open(config: Config) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test starts real containers: run it as root (sudo -E cargo test --workspace)"
        );
        let data = tempfile::Builder::new().prefix("hearth-test-").tempdir().unwrap();
        let shim = shim_files::install(data.path()).unwrap();
        let program = PathBuf::from(env!("CARGO_BIN_EXE_hearth"));
        let settings = embedded::Config::new(program, data.path().to_owned(), shim);
        let backend = Embedded::open(settings).await.unwrap();
        let bundles = Bundles::open(data.path(), Limits::default()).unwrap();
        let shared: Arc<dyn Backend> = backend.clone();
        let dependencies = Dependencies::open(data.path(), shared, config).unwrap();
        Self { backend, bundles, dependencies, _data: data }
    }

    /// The plan for a directory, packed and unpacked as an upload is.
    fn plan(&self, directory: &Path, runtime: &str) -> Plan {
        let packed = pack(directory, &PackOptions::default()).unwrap();
        let bundle = self.bundles.put_blocking(&packed.digest, packed.bytes.as_slice()).unwrap();
        let toolchain = Toolchain::of(interpreters::find(runtime).unwrap());
        plan(&bundle, &toolchain).unwrap().expect("it asks for dependencies")
    }

    /// Nothing of any installation is left.
    async fn close(self) {
        assert!(self.backend.list().await.unwrap().is_empty());
        self.dependencies.close().await;
        self.backend.close().await.unwrap();
    }
}

fn config() -> Config {
    Config { install_env: select_environment(std::env::vars()), ..Config::default() }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

/// Everything below is root's, and everybody may read it.
fn assert_shared(path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (0, 0), "{}", path.display());
    if !metadata.is_symlink() {
        let mode = metadata.permissions().mode() & 0o7777;
        assert!(mode == 0o644 || mode == 0o755, "{} has mode {mode:o}", path.display());
    }
    if metadata.is_dir() {
        fs::read_dir(path).unwrap().for_each(|entry| assert_shared(&entry.unwrap().path()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn express_is_installed_once_from_its_lock_file() {
    let world = World::open(config()).await;
    let plan = world.plan(&example("hello-express"), "nodejs");
    let mut updates = world.dependencies.updates();
    let path = world.dependencies.ensure(&plan).await.unwrap();
    let manifest = fs::read_to_string(path.join("node_modules/express/package.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["name"], "express");
    assert_shared(&path);
    let names: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["node_modules"]);

    let mut fetched = 0;
    while let Ok(update) = updates.try_recv() {
        fetched += usize::from(matches!(update.progress, Progress::Fetched { .. }));
    }
    assert!(fetched > 20, "{fetched} files were told of");

    // Another version of the code, the same dependencies: nothing is installed.
    let changed = tempfile::tempdir().unwrap();
    for name in ["package.json", "package-lock.json"] {
        fs::copy(example("hello-express").join(name), changed.path().join(name)).unwrap();
    }
    fs::write(changed.path().join("index.js"), "// new").unwrap();
    let again = world.plan(changed.path(), "nodejs");
    assert_eq!(again.key, plan.key);
    assert_eq!(world.dependencies.path(&again.key), Some(path));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_of_python_is_installed_where_the_interpreter_finds_it() {
    let world = World::open(config()).await;
    let source = directory(&[("requirements.txt", "itsdangerous==2.2.0\n"), ("main.py", "")]);
    let path = world.dependencies.ensure(&world.plan(source.path(), "python")).await.unwrap();
    assert_shared(&path);
    let interpreter = interpreters::find("python").unwrap().path;
    let output = std::process::Command::new(interpreter)
        .args(["-c", "import itsdangerous; print(itsdangerous.__file__)"])
        .env("PYTHONPATH", path.join("python"))
        .output()
        .unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert!(found.starts_with(path.to_str().unwrap()), "{found}{}", String::from_utf8_lossy(&output.stderr));
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_registry_fails_with_what_npm_says() {
    let world = World::open(config()).await;
    let manifest = r#"{ "dependencies": { "hearth-there-is-no-such-package": "1.0.0" } }"#;
    let source = directory(&[("package.json", manifest), ("index.js", "")]);
    let error = world.dependencies.ensure(&world.plan(source.path(), "nodejs")).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("npm install failed: exit code 1"), "{text}");
    assert!(text.contains("hearth-there-is-no-such-package"), "{text}");
    assert!(world.dependencies.list().unwrap().is_empty());
    world.close().await;
}

/// Says who it is and what it can do, and tries what it must not.
const SCRIPT: &str = r#"
const fs = require('fs');
const attempt = (what) => { try { return String(what()); } catch (error) { return error.code; } };
fs.writeFileSync('told.json', JSON.stringify({
  uid: process.getuid(),
  environment: Object.keys(process.env),
  shadow: attempt(() => fs.readFileSync('/etc/shadow').length),
  usr: attempt(() => fs.writeFileSync('/usr/evil', '')),
  secrets: attempt(() => fs.readdirSync('/run/hearth').length),
}));
"#;

#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_packages_run_as_nobody_with_nothing_of_the_controllers() {
    let world = World::open(config()).await;
    let source = directory(&[
        ("package.json", r#"{ "dependencies": { "lib": "file:./lib" } }"#),
        (
            "lib/package.json",
            r#"{ "name": "lib", "version": "1.0.0", "scripts": { "postinstall": "node tell.js" } }"#,
        ),
        ("lib/tell.js", SCRIPT),
    ]);
    let path = world.dependencies.ensure(&world.plan(source.path(), "nodejs")).await.unwrap();
    assert_shared(&path);
    let told = fs::read_to_string(path.join("node_modules/lib/told.json")).unwrap();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["uid"], 65532);
    assert_eq!(told["shadow"], "ENOENT");
    assert_eq!(told["usr"], "EROFS");
    assert_eq!(told["secrets"], "EACCES");
    let environment: Vec<&str> =
        told["environment"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    // This process has one, as every test under cargo.
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    assert!(!environment.contains(&"CARGO_MANIFEST_DIR"), "{environment:?}");
    world.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_takes_too_long_is_ended_with_all_its_processes() {
    let world = World::open(Config { timeout: Duration::from_secs(8), ..config() }).await;
    let source = directory(&[
        ("package.json", r#"{ "dependencies": { "lib": "file:./lib" } }"#),
        (
            "lib/package.json",
            r#"{ "name": "lib", "version": "1.0.0", "scripts": { "postinstall": "node -e 'setInterval(() => {}, 1000)'" } }"#,
        ),
    ]);
    let error = world.dependencies.ensure(&world.plan(source.path(), "nodejs")).await.unwrap_err();
    assert!(matches!(&*error, Error::Timeout { .. }), "{error}");
    world.close().await;
}
