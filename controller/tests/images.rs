//! Functions from images, with real containers and a real registry: what an image says of itself is honoured, what is shared is fetched and
//! sent once, and what goes wrong is told and leaves nothing. Needs root, `docker-registry` and a static busybox.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod support;

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use hearth::build::Images;
use hearth::build::images::local::Local;
use serde_json::{Value, json};
use support::images::{Layer, Registry, layout};
use support::{Hearth, condition, text};

/// What a script of busybox's web server says of the process that it runs in.
const WHO: &[u8] = b"#!/bin/sh\necho 'content-type: text/plain'\necho\nid -u; id -g; pwd; echo $FROM_IMAGE $FROM_MANIFEST $BOTH\n";

fn manifest(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n  runtime: http\n  network: none\n{more}  source: {{ image: \"{image}\" }}\n"
    )
}

/// A route of its own: the function sees the whole path, and these servers know no prefix.
const AT_THE_ROOT: &str = "  triggers: [{ http: { path: /, pathType: Prefix } }]\n";

fn load(hearth: &Hearth, path: &Path) -> (String, String) {
    let output = hearth.cli(&["image", "load", &path.display().to_string()]);
    assert!(output.status.success(), "{}", text(&output));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (said(&output.stdout), said(&output.stderr))
}

/// A web server with a shell, which says who it is.
fn talkative() -> (Vec<Layer>, Value) {
    let files =
        Layer::of(&[("srv/cgi-bin/who", 0o755, WHO), ("etc/passwd", 0o644, b"web:x:1234:1235::/:/bin/sh\n")]);
    let run = json!({
        "Entrypoint": ["/bin/sh", "-c", "exec busybox httpd -f -p $PORT -h /srv"],
        "Env": ["PATH=/bin", "FROM_IMAGE=image", "BOTH=image"], "User": "web", "WorkingDir": "/srv/cgi-bin",
        "ExposedPorts": { "80/tcp": {} },
    });
    let links = Layer::busybox("bin/busybox");
    let shell = Layer::of(&[]);
    let mut layers = vec![links, shell, files];
    layers[1] = Layer::busybox("bin/sh");
    (layers, run)
}

#[test]
fn what_an_image_says_of_itself_is_honoured() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (layers, run) = talkative();
    let hearth = Hearth::start(&[]);
    let (digest, _) = load(&hearth, &layout(directory.path(), &layers, &run));
    assert!(digest.starts_with("sha256:"), "{digest}");
    let env = "  triggers: [{ http: { path: /, pathType: Prefix } }]\n  env: [{ name: FROM_MANIFEST, value: manifest }, { name: BOTH, value: manifest }]\n";
    hearth.deploy(&manifest("who", &digest, env));
    let answer = hearth.get("/cgi-bin/who");
    assert_eq!(answer.text(), "1234\n1235\n/srv/cgi-bin\nimage manifest manifest\n", "{}", hearth.own_log());
    let listed = hearth.cli(&["image", "list"]);
    assert!(text(&listed).contains(&digest), "{}", text(&listed));
    hearth.stop();
}

#[test]
fn an_image_of_one_program_without_a_shell_runs_and_a_change_sends_one_layer() {
    let hearth = Hearth::start(&[]);
    let run = json!({ "Entrypoint": ["/httpd", "-f", "-p", "8080", "-h", "/www"] });
    let image = |page: &[u8]| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let layers = [Layer::busybox("httpd"), Layer::of(&[("www/index.html", 0o644, page)])];
        let loaded = load(&hearth, &layout(directory.path(), &layers, &run));
        (loaded, layers)
    };
    let ((first, said), _) = image(b"one");
    assert!(said.contains("3 of 3 blobs sent"), "{said}");
    hearth.deploy(&manifest("page", &first, AT_THE_ROOT));
    assert_eq!(hearth.get("/index.html").text(), "one");
    let ((second, said), _) = image(b"two");
    assert!(said.contains("2 of 3 blobs sent"), "the configuration and the small layer: {said}");
    hearth.deploy(&manifest("page", &second, AT_THE_ROOT));
    assert_eq!(hearth.get("/index.html").text(), "two");
    let roots = hearth.data_dir().join("images/roots");
    let inode = |digest: &str| {
        use std::os::unix::fs::MetadataExt as _;
        let path = roots.join(digest.trim_start_matches("sha256:")).join("rootfs/httpd");
        fs::metadata(path).expect("it is unpacked").ino()
    };
    assert_eq!(inode(&first), inode(&second), "a shared layer is on the disk once");
    hearth.stop();
}

#[test]
fn a_tag_is_looked_up_once_and_what_it_led_to_stays() {
    let mut registry = Registry::start();
    let mut hearth = Hearth::start(&[]);
    let reference = registry.reference("app:latest");
    let run = json!({ "Entrypoint": ["/httpd", "-f", "-p", "8080", "-h", "/www"] });
    let push = |hearth: &Hearth, page: &[u8]| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let layers = [Layer::busybox("httpd"), Layer::of(&[("www/index.html", 0o644, page)])];
        let path = layout(directory.path(), &layers, &run).display().to_string();
        let output = hearth.cli(&["image", "push", &path, &reference]);
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let said = push(&hearth, b"one");
    assert!(said.contains("3 of 3 blobs sent") && said.contains("/app@sha256:"), "{said}");
    hearth.deploy(&manifest("app", &reference, AT_THE_ROOT));
    assert_eq!(hearth.get("/index.html").text(), "one");
    let said = push(&hearth, b"two");
    assert!(said.contains("2 of 3 blobs sent"), "{said}");
    // The tag leads elsewhere now: a restart changes nothing, and neither does a registry that is gone.
    hearth.crash_and_restart();
    assert_eq!(hearth.get("/index.html").text(), "one");
    registry.stop();
    hearth.crash_and_restart();
    assert_eq!(hearth.get("/index.html").text(), "one");
    let function = hearth.settled("app");
    assert_eq!(function["status"]["latestRevision"], "app-00001", "{function:#}");
    hearth.stop();
}

/// The message of a Function that does not come up.
fn refusal(hearth: &Hearth, name: &str, image: &str, more: &str) -> String {
    hearth.apply(&manifest(name, image, more)).expect("the manifest is accepted");
    let settled = hearth.settled(name);
    let (status, message) = condition(&settled, "Ready");
    assert_eq!(status, "False", "{settled:#}");
    message
}

#[test]
fn what_cannot_be_had_is_told_and_others_go_on() {
    let registry = Registry::start();
    let closed = Registry::closed();
    // Accepts connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let hearth = Hearth::start(&[("HEARTH_IMAGES_TIMEOUT", "2s"), ("HOME", "/nonexistent")]);
    hearth.deploy(&support::node("other", "exports.handler = async () => 'fine'"));
    let nobody = support::free_address();
    for (name, image, said) in [
        ("absent", registry.reference("absent:1"), "has no image"),
        ("down", format!("{nobody}/app:1"), "cannot be reached"),
        ("private", closed.reference("app:1"), "to nobody without credentials"),
        ("unloaded", format!("sha256:{}", "0".repeat(64)), "hearth image load"),
        ("nonsense", "not an image".to_owned(), "is no reference of an image"),
    ] {
        let message = refusal(&hearth, name, &image, "");
        assert!(message.contains(said), "{name}: {message}");
    }
    let slow = format!("{}/app:1", silent.local_addr().expect("it is bound"));
    hearth.apply(&manifest("slow", &slow, "")).expect("the manifest is accepted");
    assert_eq!(hearth.get("/function/default/other").text(), "\"fine\"");
    let message = refusal(&hearth, "slow", &slow, "");
    assert!(message.contains("was not fetched within 2s"), "{message}");
    let images = hearth.data_dir().join("images");
    for part in ["blobs", "layers", "roots"] {
        assert_eq!(fs::read_dir(images.join(part)).expect("it is there").count(), 0, "{part}");
    }
    hearth.stop();
}

#[test]
fn credentials_are_those_of_dockers_configuration() {
    let registry = Registry::closed();
    let home = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir(home.path().join(".docker")).expect("a temporary directory is ours");
    let login = |password: &str| {
        use base64::Engine as _;
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("ada:{password}"));
        let config = json!({ "auths": { registry.address.to_string(): { "auth": auth } } });
        fs::write(home.path().join(".docker/config.json"), config.to_string())
            .expect("a temporary directory is ours");
    };
    let home_text = home.path().display().to_string();
    let hearth = Hearth::start(&[("HOME", &home_text)]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layers = [Layer::busybox("httpd"), Layer::of(&[("www/index.html", 0o644, b"mine")])];
    let run = json!({ "Entrypoint": ["/httpd", "-f", "-p", "8080", "-h", "/www"] });
    let path = layout(directory.path(), &layers, &run).display().to_string();
    let reference = registry.reference("app:1");
    login("wrong");
    let output = hearth.cli(&["image", "push", &path, &reference]);
    assert!(
        !output.status.success() && text(&output).contains("refuses the credentials"),
        "{}",
        text(&output)
    );
    login("secret");
    let output = hearth.cli(&["image", "push", &path, &reference]);
    assert!(output.status.success(), "{}", text(&output));
    hearth.deploy(&manifest("app", &reference, AT_THE_ROOT));
    assert_eq!(hearth.get("/index.html").text(), "mine");
    login("wrong");
    let message = refusal(&hearth, "other", &registry.reference("other:1"), "");
    assert!(message.contains("refuses the credentials"), "{message}");
    hearth.stop();
}

#[test]
fn an_image_whose_program_does_not_serve_says_what_it_did() {
    let hearth = Hearth::start(&[]);
    let image = |layers: &[Layer], run: &Value| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        load(&hearth, &layout(directory.path(), layers, run)).0
    };
    let busybox = [Layer::busybox("bin/sh")];
    let exits = image(&busybox, &json!({ "Entrypoint": ["/bin/sh", "-c", "echo no config >&2; exit 3"] }));
    let message = refusal(&hearth, "exits", &exits, "");
    assert!(message.contains("exit code 3") && message.contains("no config"), "{message}");
    let no_shell = image(&[Layer::busybox("httpd")], &json!({ "Cmd": ["sh", "-c", "true"] }));
    let message = refusal(&hearth, "no-shell", &no_shell, "");
    assert!(message.contains("cannot start sh"), "{message}");
    let nothing = image(&busybox, &json!({}));
    let message = refusal(&hearth, "nothing", &nothing, "");
    assert!(message.contains("says no command to run"), "{message}");
    let foreign = image(&busybox, &json!({ "Cmd": ["/bin/sh"], "User": "nobody-knows" }));
    let message = refusal(&hearth, "foreign", &foreign, "");
    assert!(message.contains("nobody-knows"), "{message}");
    let no_node = "  handler: index.handler\n";
    let manifest =
        manifest("no-node", &busybox_image(&hearth), no_node).replace("runtime: http", "runtime: nodejs");
    hearth.apply(&manifest).expect("the manifest is accepted");
    let (_, message) = condition(&hearth.settled("no-node"), "Ready");
    assert!(message.contains("has no node"), "{message}");
    hearth.stop();
}

fn busybox_image(hearth: &Hearth) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    load(hearth, &layout(directory.path(), &[Layer::busybox("bin/sh")], &json!({ "Cmd": ["/bin/sh"] }))).0
}

#[test]
fn a_layer_that_is_not_what_the_registry_promised_is_not_unpacked() {
    let registry = Registry::start();
    let hearth = Hearth::start(&[]);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layers = [Layer::busybox("httpd"), Layer::of(&[("www/index.html", 0o644, b"mine")])];
    let run = json!({ "Entrypoint": ["/httpd", "-f", "-p", "8080", "-h", "/www"] });
    let path = layout(directory.path(), &layers, &run).display().to_string();
    let reference = registry.reference("app:1");
    let output = hearth.cli(&["image", "push", &path, &reference]);
    assert!(output.status.success(), "{}", text(&output));
    // Somebody who has the registry's disk changes one byte of the small layer.
    let hex = hearth_function::Digest::of(&layers[1].packed).hex().to_owned();
    let blob =
        registry.data.path().join(format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]));
    let mut bytes = fs::read(&blob).expect("the registry keeps it there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&blob, bytes).expect("the registry's files are ours");
    let message = refusal(&hearth, "app", &reference, "");
    assert!(message.contains(&hex) && message.contains("and not"), "{message}");
    let roots = hearth.data_dir().join("images/roots");
    assert_eq!(fs::read_dir(roots).expect("it is there").count(), 0);
    hearth.stop();
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_half_made() {
    let disk = Disk::of_mebibytes(24);
    // The store alone lies on the small disk: the database and the logs of a server need theirs.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let large = vec![7_u8; 40 << 20];
    let layers = [Layer::of(&[("small", 0o644, b"x")]), Layer::of(&[("large", 0o644, &large)])];
    let path = layout(directory.path(), &layers, &json!({ "Cmd": ["/x"] }));
    let images = Images::open(Path::new(&disk.path()), Default::default()).expect("the disk is empty");
    let local = Local::open(&path).expect("it is a layout");
    for blob in local.blobs() {
        let file = directory.path().join("upload");
        let mut upload = fs::File::create(&file).expect("a temporary directory is ours");
        std::io::copy(&mut local.read(blob).expect("it is there"), &mut upload).expect("it is copied");
        images.put_blob(&blob.digest, &file).expect("packed it is small");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let put = runtime.block_on(images.put(&local.digest(), local.manifest()));
    let error = put.expect_err("it does not fit");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("No space left on device"), "{error}: {cause}");
    let at = Path::new(&disk.path()).join("images");
    assert_eq!(fs::read_dir(at.join("roots")).expect("it is there").count(), 0);
    assert_eq!(fs::read_dir(at.join("layers")).expect("it is there").count(), 1, "the small layer, whole");
    // With less there is room again.
    let room = fs::File::create(at.join("room")).and_then(|file| file.set_len(8 << 20));
    room.expect("nothing of the large layer is left on the disk");
}

/// A small file system of its own.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn of_mebibytes(size: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let run = |program: &str, arguments: &[&str]| {
            let output = std::process::Command::new(program).args(arguments).output().expect("it runs");
            assert!(output.status.success(), "{program}: {}", text(&output));
        };
        let image = directory.path().join("image").display().to_string();
        let at = directory.path().join("mounted");
        fs::create_dir(&at).expect("a temporary directory is ours");
        let file = fs::File::create(&image).expect("a temporary directory is ours");
        file.set_len(size << 20).expect("a temporary directory is ours");
        run("mkfs.ext4", &["-q", "-F", &image]);
        run("mount", &["-o", "loop", &image, &at.display().to_string()]);
        Self { directory }
    }

    fn path(&self) -> String {
        self.directory.path().join("mounted").display().to_string()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").args(["-l", &self.path()]).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // The temporary directory cannot be removed then, and says so.
        }
    }
}
