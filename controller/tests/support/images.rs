//! Images made of what a Debian machine has, and a real registry on loopback (`docker-registry`). Nothing is fetched from anywhere.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use hearth_function::Digest;
use serde_json::{Value, json};

use super::http::Request;

/// A layer: an archive, packed by gzip.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) packed: Vec<u8>,
    plain: Digest,
}

impl Layer {
    /// Of these files, each with its mode.
    pub(crate) fn of(files: &[(&str, u32, &[u8])]) -> Self {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, mode, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(*mode);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, *content).expect("it is written to memory");
        }
        let plain = archive.into_inner().expect("it is written to memory");
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(&plain).expect("it is written to memory");
        Self { packed: packed.finish().expect("it is written to memory"), plain: Digest::of(&plain) }
    }

    /// A static program that is a shell and a web server and much else.
    pub(crate) fn busybox(path: &str) -> Self {
        let program = fs::read("/usr/bin/busybox").or_else(|_| fs::read("/bin/busybox"));
        let program = program.expect("a static busybox is here (apt install busybox-static)");
        Self::of(&[(path, 0o755, &program)])
    }
}

/// An OCI layout of one image in a new directory.
pub(crate) fn layout(directory: &Path, layers: &[Layer], run: &Value) -> PathBuf {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a temporary directory is ours");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).expect("a temporary directory is ours");
        json!({ "digest": digest, "size": bytes.len() })
    };
    let with = |mut descriptor: Value, kind: &str| {
        descriptor["mediaType"] = kind.into();
        descriptor
    };
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| &layer.plain).collect::<Vec<_>>() },
    });
    let gzip = "application/vnd.oci.image.layer.v1.tar+gzip";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": with(put(config.to_string().as_bytes()), "application/vnd.oci.image.config.v1+json"),
        "layers": layers.iter().map(|layer| with(put(&layer.packed), gzip)).collect::<Vec<_>>(),
    });
    let manifest = with(put(manifest.to_string().as_bytes()), "application/vnd.oci.image.manifest.v1+json");
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(directory.join("index.json"), index.to_string()).expect("a temporary directory is ours");
    fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
        .expect("a temporary directory is ours");
    directory.to_owned()
}

/// A registry of its own.
#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) data: tempfile::TempDir,
}

/// `ada` with the password `secret`.
const PASSWORDS: &str = "ada:$2b$04$8ltksg1KIj6Vb060KvXu/uzA7AYN8cP46KUnh3PcWVMQ.b5Ey8V6y\n";

impl Registry {
    /// Starts one that takes everybody.
    pub(crate) fn start() -> Self {
        Self::started("")
    }

    /// Starts one that takes `ada` with the password `secret` alone.
    pub(crate) fn closed() -> Self {
        Self::started("auth:\n  htpasswd:\n    realm: test\n    path: @DATA@/passwords\n")
    }

    fn started(more: &str) -> Self {
        let data =
            tempfile::Builder::new().prefix("hearth-registry-").tempdir().expect("a temporary directory");
        let address = super::free_address();
        let at = data.path().display().to_string();
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {at}/data\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n{}",
            more.replace("@DATA@", &at)
        );
        fs::write(data.path().join("passwords"), PASSWORDS).expect("a temporary directory is ours");
        fs::write(data.path().join("config.yml"), config).expect("a temporary directory is ours");
        let log = fs::File::create(data.path().join("log")).expect("a temporary directory is ours");
        let child = Command::new("docker-registry")
            .args(["serve", &format!("{at}/config.yml")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor is duplicated"))
            .stderr(log)
            .spawn()
            .expect("docker-registry is here (apt install docker-registry)");
        let registry = Self { child, address, data };
        let up = super::eventually(|| Request::get("/v2/").send(address).ok());
        assert!(up.is_some(), "the registry does not come up");
        registry
    }

    /// The reference of an image in it.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Ends it; what it holds stays.
    pub(crate) fn stop(&mut self) {
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
