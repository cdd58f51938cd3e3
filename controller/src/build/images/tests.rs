//! Images made here, byte by byte: what is unpacked, what is refused, and what a crash leaves.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use serde_json::json;

use super::*;

/// A layer in the making.
struct Made(tar::Builder<Vec<u8>>);

impl Made {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, path: &str, kind: tar::EntryType, link: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        // Set as bytes: the library refuses to write some of what others do write.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.entry(path, tar::EntryType::Regular, "", 0o644, content.as_bytes())
    }

    fn directory(self, path: &str, mode: u32) -> Self {
        self.entry(path, tar::EntryType::Directory, "", mode, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Symlink, target, 0o777, b"")
    }

    fn hard(self, path: &str, target: &str) -> Self {
        self.entry(path, tar::EntryType::Link, target, 0o644, b"")
    }

    fn attribute(mut self, name: &str, value: &[u8]) -> Self {
        self.0.append_pax_extensions([(format!("SCHILY.xattr.{name}").as_str(), value)]).unwrap();
        self
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

struct Rig {
    images: Images,
    directory: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { images: Images::open(directory.path(), config).unwrap(), directory }
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let file = self.directory.path().join("upload");
        fs::write(&file, bytes).unwrap();
        self.images.put_blob(&digest, &file).unwrap();
        digest
    }

    /// Loads an image of these layers, each as it is stored and as it is when it is not compressed.
    async fn load(&self, layers: &[(Vec<u8>, Vec<u8>)]) -> Result<ImageTemplate, Error> {
        let config = json!({
            "architecture": config::architecture(), "os": "linux",
            "config": { "Cmd": ["/server"] },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|(_, plain)| Digest::of(plain)).collect::<Vec<_>>() },
        });
        let config = serde_json::to_vec(&config).unwrap();
        let descriptor = |kind: &str, bytes: &[u8]| json!({ "mediaType": kind, "digest": self.blob(bytes), "size": bytes.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|(packed, _)| descriptor("application/vnd.oci.image.layer.v1.tar", packed)).collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let digest = Digest::of(&manifest);
        self.images.put(&digest, &manifest).await?;
        self.images.resolve(digest.as_str()).await
    }

    async fn root(&self, layers: Vec<Made>) -> Result<PathBuf, Error> {
        let layers: Vec<_> = layers.into_iter().map(Made::bytes).map(|plain| (gzip(&plain), plain)).collect();
        let image = self.load(&layers).await?;
        Ok(self.images.ensure(&image, |_| ()).await?.path)
    }

    /// What is in the store, half-made things too.
    fn left(&self) -> Vec<String> {
        ["layers", "roots"]
            .iter()
            .flat_map(|part| fs::read_dir(self.directory.path().join("images").join(part)).unwrap())
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect()
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn layers_are_laid_over_one_another_as_a_container_sees_them() {
    let rig = Rig::new();
    let lower = Made::new()
        .directory("./", 0o755)
        .directory("etc", 0o750)
        .file("etc/keep", "below")
        .file("etc/gone", "below")
        .file("etc/changed", "below")
        .directory("var", 0o755)
        .directory("var/cache", 0o755)
        .file("var/cache/old", "below")
        .directory("usr", 0o755)
        .directory("usr/lib", 0o755)
        .link("lib", "usr/lib")
        .file("dir-to-file/x", "below")
        .file("file-to-dir", "below")
        .hard("etc/second", "etc/keep")
        .link("etc/mtab", "/proc/mounts");
    let upper = Made::new()
        .file("etc/.wh.gone", "")
        .file("etc/changed", "above")
        .directory("var/cache", 0o755)
        .file("var/cache/.wh..wh..opq", "")
        .file("var/cache/new", "above")
        // Not named itself: it goes to where the link below leads.
        .file("lib/module", "above")
        .file("dir-to-file", "above")
        .file("file-to-dir/x", "above")
        .entry("bin/tool", tar::EntryType::Regular, "", 0o4755, b"x");
    let root = rig.root(vec![lower, upper]).await.unwrap();
    assert_eq!(text(&root.join("etc/keep")), "below");
    assert!(!root.join("etc/gone").exists());
    assert_eq!(text(&root.join("etc/changed")), "above");
    assert!(!root.join("var/cache/old").exists() && root.join("var/cache/new").exists());
    assert_eq!(text(&root.join("usr/lib/module")), "above");
    assert_eq!(fs::read_link(root.join("lib")).unwrap(), Path::new("usr/lib"));
    assert_eq!(text(&root.join("dir-to-file")), "above");
    assert_eq!(text(&root.join("file-to-dir/x")), "above");
    assert_eq!(fs::read_link(root.join("etc/mtab")).unwrap(), Path::new("/proc/mounts"));
    let kept = fs::metadata(root.join("etc/keep")).unwrap();
    assert_eq!(kept.ino(), fs::metadata(root.join("etc/second")).unwrap().ino());
    assert_eq!((kept.uid(), kept.gid(), kept.mtime()), (7, 8, 1_000_000_000));
    assert_eq!(fs::metadata(root.join("etc")).unwrap().permissions().mode() & 0o7777, 0o750);
    assert_eq!(fs::metadata(root.join("bin/tool")).unwrap().permissions().mode() & 0o7777, 0o4755);
}

#[tokio::test]
async fn attributes_of_files_are_kept_and_those_of_another_machine_are_not() {
    let rig = Rig::new();
    let layer = Made::new()
        .attribute("user.note", b"a note")
        .file("noted", "x")
        .attribute("trusted.overlay.opaque", b"y")
        .directory("plain", 0o755);
    let root = rig.root(vec![layer]).await.unwrap();
    let get = |path: &str, name: &str| {
        let mut value = [0_u8; 64];
        let name = CString::new(name).unwrap();
        let length = rustix::fs::getxattr(root.join(path), &name, value.as_mut_slice()).ok()?;
        Some(value[..length].to_vec())
    };
    assert_eq!(get("noted", "user.note").as_deref(), Some(b"a note".as_slice()));
    assert_eq!(get("plain", "trusted.overlay.opaque"), None);
}

#[tokio::test]
async fn what_no_layer_may_hold_is_refused_by_name_and_leaves_nothing() {
    let outside = tempfile::tempdir().unwrap();
    let away = outside.path().to_string_lossy().into_owned();
    for (what, layer, problem) in [
        ("..", Made::new().file("../x", "x"), "has .. in its path"),
        (".. inside", Made::new().file("a/../../x", "x"), "has .. in its path"),
        ("device", Made::new().entry("dev/x", tar::EntryType::Char, "", 0o644, b""), "is a device"),
        ("disk", Made::new().entry("x", tar::EntryType::Block, "", 0o644, b""), "is a device"),
        (
            "out by a link",
            Made::new().link("a", &away).file("a/x", "x"),
            "lies below something that is no directory",
        ),
        (
            "up by a link",
            Made::new().link("a", "..").directory("a/b", 0o755),
            "lies below something that is no directory",
        ),
        ("hard link out", Made::new().hard("x", "../../etc/passwd"), "is a link that leads out of the image"),
        (
            "hard link to the machine's",
            Made::new().hard("x", "/etc/passwd"),
            "is a hard link to something that its layer does not hold",
        ),
        (
            "through a link",
            Made::new().link("a", "/etc").hard("x", "a/passwd"),
            "is a hard link to something that its layer does not hold",
        ),
        ("whiteout", Made::new().file("a/.wh...", ""), "takes away what cannot be"),
        ("twice", Made::new().directory("a", 0o755).file("a", "x"), "is there twice"),
    ] {
        let rig = Rig::new();
        let error = rig.root(vec![layer]).await.unwrap_err();
        assert!(error.to_string().contains(problem), "{what}: {error}");
        assert!(error.is_clients(), "{what}");
        assert!(rig.left().is_empty(), "{what}: {:?}", rig.left());
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn an_upper_layer_does_not_reach_the_machine_by_a_link_of_a_lower() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("mine"), "mine").unwrap();
    let away = outside.path().to_string_lossy().into_owned();
    let rig = Rig::new();
    let lower = Made::new().link("out", &away).link("up", "../../../..");
    let upper = Made::new()
        .file("out/new", "x")
        .file("out/.wh.mine", "")
        .file("out/below/.wh..wh..opq", "")
        .file("up/etc/x", "x");
    let root = rig.root(vec![lower, upper]).await.unwrap();
    assert_eq!(text(&outside.path().join("mine")), "mine");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(root.join("etc/x").exists(), "where a process of the image sees it");
}

#[tokio::test]
async fn a_layer_that_is_damaged_or_another_is_told_by_its_digest() {
    let rig = Rig::new();
    let plain = Made::new().file("x", "x").bytes();
    let other = Made::new().file("x", "y").bytes();
    let error = rig.load(&[(gzip(&plain), other)]).await.unwrap_err();
    assert!(matches!(error, Error::WrongDigest { what: "unpacked layer", .. }), "{error}");
    let file = rig.directory.path().join("blob");
    fs::write(&file, "damaged").unwrap();
    let error = rig.images.put_blob(&Digest::of(b"whole"), &file).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    let mut cut = gzip(&plain);
    cut.truncate(cut.len() / 2);
    let error = rig.load(&[(cut, plain)]).await.unwrap_err();
    assert!(matches!(error, Error::Archive(_)), "{error}");
    assert!(rig.left().is_empty());
}

#[tokio::test]
async fn layers_are_compressed_by_zstd_too() {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};
    let rig = Rig::new();
    let zeros = "\0".repeat(300_000);
    let plain = Made::new().directory("lib", 0o755).file("lib/zeros", &zeros).bytes();
    let packed = compress_to_vec(plain.as_slice(), CompressionLevel::Fastest);
    assert!(packed.len() < plain.len() / 10);
    let image = rig.load(&[(packed.clone(), plain.clone())]).await.unwrap();
    let root = rig.images.ensure(&image, |_| ()).await.unwrap().path;
    assert_eq!(text(&root.join("lib/zeros")), zeros);

    let rig = Rig::with(Config { unpacked_bytes: 100_000, entries: 10, ..Config::default() });
    let error = rig.load(&[(packed.clone(), plain.clone())]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { unit: "bytes unpacked", .. }), "{error}");
    let cut = packed[..packed.len() - 5].to_vec();
    let error = Rig::new().load(&[(cut, plain)]).await.unwrap_err();
    assert!(matches!(error, Error::Archive(_)), "{error}");
    assert!(rig.left().is_empty());
}

#[tokio::test]
async fn a_layer_that_swells_is_stopped_at_the_limit() {
    let rig = Rig::with(Config { unpacked_bytes: 1 << 20, entries: 100, ..Config::default() });
    let large = Made::new().file("zeros", &"\0".repeat(2 << 20));
    let error = rig.root(vec![large]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { unit: "bytes unpacked", .. }), "{error}");
    let many = (0..500).fold(Made::new(), |made, number| made.file(&format!("file-{number}"), ""));
    let error = rig.root(vec![many]).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { unit: "entries", .. }), "{error}");
    assert!(rig.left().is_empty());
}

#[tokio::test]
async fn a_layer_that_two_images_share_is_on_the_disk_once() {
    let rig = Rig::new();
    let base = || Made::new().directory("lib", 0o755).file("lib/large", "shared");
    let first = rig.root(vec![base(), Made::new().file("code", "1")]).await.unwrap();
    let second = rig.root(vec![base(), Made::new().file("code", "2")]).await.unwrap();
    assert_ne!(first, second);
    let inode = |root: &Path| fs::metadata(root.join("lib/large")).unwrap().ino();
    assert_eq!(inode(&first), inode(&second));
    assert_eq!((text(&first.join("code")), text(&second.join("code"))), ("1".to_owned(), "2".to_owned()));
    assert_eq!(rig.images.list().unwrap().len(), 2);
    assert_eq!(fs::read_dir(rig.directory.path().join("images/layers")).unwrap().count(), 3);
}

#[tokio::test]
async fn what_a_crash_left_and_what_nobody_uses_goes() {
    let rig = Rig::new();
    let layer = Made::new().file("x", "x").bytes();
    let image = rig.load(&[(gzip(&layer), layer)]).await.unwrap();
    let half = rig.directory.path().join("images/roots/.half-1");
    fs::create_dir(&half).unwrap();
    fs::write(rig.directory.path().join("images/blobs/.1"), "cut off").unwrap();
    let images = Images::open(rig.directory.path(), Config::default()).unwrap();
    assert!(!half.exists() && images.has(&image.digest));
    assert_eq!(fs::read_dir(rig.directory.path().join("images/blobs")).unwrap().count(), 0);
    let later = SystemTime::now() + Duration::from_secs(7200);
    let keep = Duration::from_secs(3600);
    let live = HashSet::from([image.digest.clone()]);
    assert_eq!(images.collect(&live, keep, u64::MAX, later).unwrap(), 0);
    assert_eq!(images.collect(&HashSet::new(), keep, u64::MAX, later).unwrap(), 2, "the root and its layer");
    let error = images.ensure(&image, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("hearth image load"), "{error}");
}

#[tokio::test]
async fn who_waits_for_a_pull_that_fails_makes_none_of_his_own() {
    // A registry that hangs up on everybody.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let mut registry = tokio::task::JoinSet::new();
    registry.spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let rig = Rig::new();
    let layer = Made::new().file("x", "x").bytes();
    let loaded = rig.load(&[(gzip(&layer), layer)]).await.unwrap();
    let digest = Digest::of(b"another");
    let image = ImageTemplate { reference: format!("{address}/team/app:1"), digest, ..loaded };
    let one = rig.images.ensure(&image, |_| ()).await.unwrap_err();
    let attempt = calls.swap(0, Ordering::Relaxed);
    assert!(attempt > 0, "{one}");
    let all = futures_util::future::join_all((0..3).map(|_| rig.images.ensure(&image, |_| ()))).await;
    assert!(all.into_iter().all(|answer| answer.is_err()));
    assert_eq!(calls.load(Ordering::Relaxed), attempt, "one attempt for all three");
    drop(registry);
}

#[tokio::test]
async fn what_lies_on_a_clients_disk_is_read_in_every_form() {
    let rig = Rig::new();
    let plain = Made::new().file("x", "x").bytes();
    let config = serde_json::to_vec(&json!({
        "architecture": config::architecture(), "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(&plain)] },
    }))
    .unwrap();
    // As `docker save` writes it, with a layer that is a link to another's.
    let mut saved = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        saved.append_data(&mut header, path, bytes).unwrap();
    };
    add("c.json", &config);
    add("one/layer.tar", &plain);
    let manifest = json!([{ "Config": "c.json", "RepoTags": ["app:1"], "Layers": ["two/layer.tar"] }]);
    add("manifest.json", &serde_json::to_vec(&manifest).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    saved.append_link(&mut header, "two/layer.tar", "../one/layer.tar").unwrap();
    let file = rig.directory.path().join("app.tar");
    fs::write(&file, saved.into_inner().unwrap()).unwrap();
    let local = local::Local::open(&file).unwrap();
    for blob in local.blobs() {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut local.read(blob).unwrap(), &mut bytes).unwrap();
        assert_eq!(rig.blob(&bytes), blob.digest);
    }
    rig.images.put(&local.digest(), local.manifest()).await.unwrap();
    let root = rig.images.ensure(&rig.images.resolve(local.digest().as_str()).await.unwrap(), |_| ()).await;
    assert_eq!(text(&root.unwrap().path.join("x")), "x");

    for (content, problem) in [
        (gzip(b"x"), "gunzip"),
        (b"nothing of the kind".repeat(100), "tar archive"),
        (Made::new().file("x", "x").bytes(), "neither an OCI layout"),
    ] {
        fs::write(&file, content).unwrap();
        let error = local::Local::open(&file).unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let error = local::Local::open(Path::new("/does/not/exist")).unwrap_err().to_string();
    assert!(error.contains("No such file"), "{error}");
}
