//! Images of a registry that asks who one is.

use std::process::{Command, Stdio};

use base64::Engine as _;
use serde_json::json;

use crate::cluster::Cluster;
use crate::support::images::{Layer, Registry, layout};
use crate::support::text;

#[test]
fn an_image_of_a_private_registry_comes_with_the_pull_secret_that_the_function_names() {
    let Some(cluster) = Cluster::working() else { return };
    let registry = Registry::closed();
    let reference = registry.reference("private:1");
    let home = tempfile::tempdir().expect("a temporary directory");
    let auth = base64::engine::general_purpose::STANDARD.encode("ada:secret");
    let config = json!({ "auths": { registry.address.to_string(): { "auth": auth } } });
    std::fs::write(home.path().join("config.json"), config.to_string())
        .expect("a temporary directory is ours");
    let image = layout(&home.path().join("image"), &[Layer::busybox("bin/sh")], &json!({}));
    let pushed = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .args(["image", "push", &image.display().to_string(), &reference])
        .env("DOCKER_CONFIG", home.path())
        .stdin(Stdio::null())
        .output()
        .expect("the binary under test can be run");
    assert!(pushed.status.success(), "{}", text(&pushed));

    let function = json!({ "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "private" }, "spec": {
        "runtime": "exec", "command": ["/bin/sh", "-c", "echo private"], "source": { "image": reference },
        "kubernetes": { "imagePullSecrets": [{ "name": "registry" }] },
    } });
    cluster.apply(&function.to_string());
    cluster.says(
        "private",
        "False",
        &["without credentials", "spec.kubernetes.imagePullSecrets", "\"registry\" not found"],
    );
    let secret = [
        "create",
        "secret",
        "docker-registry",
        "registry",
        "--docker-username=ada",
        "--docker-password=secret",
    ];
    cluster.kubectl(&[&secret[..], &[&format!("--docker-server={}", registry.address)]].concat());
    cluster.ready("private");
    assert_eq!(cluster.call("private"), (200, "private\n".to_owned()), "{}", cluster.logs());
    cluster.end();
}
