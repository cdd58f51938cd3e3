//! Builds the shim that the `hearth` binary carries: statically, and in a target directory of its own (the outer cargo holds the lock
//! of the usual one, and the two would wait for each other).
//!
//! It needs nothing beyond what the workspace needs: the same toolchain, the same lock file, gcc and the C library's static archive.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = PathBuf::from(env_var("CARGO_MANIFEST_DIR"));
    let root = root.parent().expect("the crate is a folder of the workspace");
    for path in
        ["runtime-shim/src", "runtime-shim/Cargo.toml", "runtime-shim/bootstrap", "crates/protocol/src"]
    {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rerun-if-changed={}", root.join("crates/protocol/Cargo.toml").display());
    println!("cargo::rerun-if-changed=build.rs");

    let out = PathBuf::from(env_var("OUT_DIR"));
    let target = env_var("TARGET").to_string_lossy().into_owned();
    let shim = build(root, &out.join("shim-target"), &target);
    // Not HEARTH_…: cargo sets these for what it runs, too, and there they would be options that do not exist.
    println!("cargo::rustc-env=BUILT_SHIM={}", shim.display());
    println!("cargo::rustc-env=BUILT_BOOTSTRAPS={}", root.join("runtime-shim/bootstrap").display());
}

/// Builds the shim; returns the binary's path.
fn build(root: &Path, target_directory: &Path, target: &str) -> PathBuf {
    // Small and slow to build for a release, quick otherwise; the size in memory is the release's promise.
    let profile = if env_var("PROFILE") == "release" { "shim" } else { "shim-dev" };
    let mut command = Command::new(env_var("CARGO"));
    // What the outer cargo has set for this crate is not for the inner one.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let inherited = ["CARGO_HOME", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTRIES_", "CARGO_SOURCE_"];
        let foreign = text.starts_with("CARGO_") && !inherited.iter().any(|prefix| text.starts_with(prefix));
        if foreign
            || matches!(
                &*text,
                "RUSTFLAGS" | "RUSTC_WRAPPER" | "RUSTC_WORKSPACE_WRAPPER" | "TARGET" | "PROFILE"
            )
        {
            command.env_remove(name);
        }
    }
    command
        .current_dir(root)
        // With an explicit target the flag is the target's alone, and not that of build scripts and macros, which cannot be static.
        .args(["build", "--locked", "--package", "hearth-shim", "--profile", profile, "--target", target])
        .arg("--target-dir")
        .arg(target_directory)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    let output = command.output().unwrap_or_else(|error| fail(&format!("cargo cannot be started: {error}")));
    if !output.status.success() {
        fail(&String::from_utf8_lossy(&output.stderr));
    }
    target_directory.join(target).join(profile).join("hearth-shim")
}

fn env_var(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| fail(&format!("cargo does not set {name}")))
}

fn fail(why: &str) -> ! {
    eprintln!("the shim, which runs in every instance, could not be built:\n{why}");
    std::process::exit(1);
}
