//! What goes into a bundle, and that it is the same whoever packs it.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::{Node, tree, write};
use crate::build::pack::Error;
use crate::build::{Bundles, Limits, PackOptions, pack, pack_inline};

/// The paths of a directory's bundle.
fn packed(directory: &Path, options: &PackOptions) -> Vec<String> {
    let packed = pack(directory, options).unwrap();
    let store = tempfile::tempdir().unwrap();
    let bundles = Bundles::open(store.path(), Limits::default()).unwrap();
    let path = bundles.put_blocking(&packed.digest, packed.bytes.as_slice()).unwrap();
    tree(&path).into_keys().map(|path| path.display().to_string()).collect()
}

#[test]
fn ignore_files_are_honoured_and_the_own_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["index.js", "debug.log", "keep.log", "secret.txt", "src/a.js", "src/a.tmp", ".hidden"] {
        write(dir.path(), name, name);
    }
    write(dir.path(), ".gitignore", "*.log\nsecret.txt\n");
    write(dir.path(), ".hearthignore", "!keep.log\n*.tmp\n");
    assert_eq!(packed(dir.path(), &PackOptions::default()), [".hidden", "index.js", "keep.log", "src/a.js"]);
}

#[test]
fn ignore_files_above_the_directory_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), ".gitignore", "dist/\n*.js\n");
    let dist = dir.path().join("dist");
    write(&dist, "index.js", "");
    assert_eq!(packed(&dist, &PackOptions::default()), ["index.js"]);
}

#[test]
fn what_is_no_code_is_left_out_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        ".git/HEAD",
        ".venv/pyvenv.cfg",
        ".venv/bin/python",
        "__pycache__/a.pyc",
        ".index.js.swp",
        "lib/4913",
        "lib/a.js~",
        ".#index.js",
        "function.yaml",
        "main.py",
        "node_modules/left/index.js",
        "package.json",
        "vendor/node_modules/kept/index.js",
    ] {
        write(dir.path(), name, name);
    }
    let options = PackOptions { exclude: vec![dir.path().join("function.yaml")], ..PackOptions::default() };
    let expected = ["main.py", "package.json", "vendor/node_modules/kept/index.js"];
    assert_eq!(packed(dir.path(), &options), expected);
}

#[test]
fn neither_times_nor_owners_nor_the_order_of_making_change_the_digest() {
    let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let names = ["a.js", "b/c.js", "b.js", "z"];
    for name in names {
        write(one.path(), name, name);
    }
    for name in names.iter().rev() {
        let path = write(two.path(), name, name);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
    }
    write(two.path(), ".git/HEAD", "elsewhere");
    let pack = |dir: &tempfile::TempDir| pack(dir.path(), &PackOptions::default()).unwrap();
    assert_eq!(pack(&one).digest, pack(&two).digest);
    fs::set_permissions(two.path().join("z"), Permissions::from_mode(0o700)).unwrap();
    assert_ne!(pack(&one).digest, pack(&two).digest);
}

#[test]
fn too_large_a_directory_is_refused_before_it_is_read_and_the_largest_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "index.js", "small");
    // Two gigabytes that take no room.
    File::create(dir.path().join("film.mp4")).unwrap().set_len(2 << 30).unwrap();
    let message = pack(dir.path(), &PackOptions::default()).unwrap_err().to_string();
    assert_eq!(
        message,
        "2.0 GiB unpacked is more than the 1.0 GiB allowed; leave out what the function does not need, by a .hearthignore file. \
         The largest files: film.mp4 (2.0 GiB), index.js (5 bytes)"
    );
    let limits = Limits { packed_bytes: 100, ..Limits::default() };
    let noise: Vec<u8> = (0..4000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    fs::write(dir.path().join("film.mp4"), noise).unwrap();
    let error = pack(dir.path(), &PackOptions { limits, ..PackOptions::default() }).unwrap_err();
    assert!(error.to_string().starts_with("more than 100 bytes packed is more than"), "{error}");
    let limits = Limits { entries: 1, ..Limits::default() };
    let error = pack(dir.path(), &PackOptions { limits, ..PackOptions::default() }).unwrap_err();
    assert!(error.to_string().starts_with("2 files and directories is more than the 1 allowed"), "{error}");
}

#[test]
fn a_link_stays_inside_or_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "lib/a.js", "a");
    symlink("../lib/a.js", dir.path().join("lib/again.js")).unwrap();
    symlink("lib", dir.path().join("library")).unwrap();
    let packed = pack(dir.path(), &PackOptions::default()).unwrap();
    assert_eq!(packed.files, 3);
    symlink("/etc/passwd", dir.path().join("users")).unwrap();
    let error = pack(dir.path(), &PackOptions::default()).unwrap_err();
    assert!(matches!(&error, Error::Link { path, .. } if path.ends_with("users")), "{error}");
}

#[test]
fn what_cannot_be_packed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing");
    assert!(
        matches!(pack(&missing, &PackOptions::default()), Err(Error::NotADirectory(path)) if path == missing)
    );
    assert!(matches!(pack(dir.path(), &PackOptions::default()), Err(Error::Empty(_))));
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    let error = pack(dir.path(), &PackOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Special { kind: "socket", .. }), "{error}");
    drop(socket);
}

#[test]
fn inline_files_need_paths_inside() {
    let pack = |files: &[(&str, &str)]| {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        pack_inline(&files, &Limits::default())
    };
    for bad in ["../a", "/a", "", "a/", "a/../b", "."] {
        assert!(matches!(pack(&[(bad, "")]), Err(Error::InlinePath { .. })), "{bad}");
    }
    assert!(matches!(pack(&[("a", ""), ("./a", "")]), Err(Error::InlinePath { .. })));
    assert!(matches!(pack(&[("a", ""), ("a/b", "")]), Err(Error::InlinePath { .. })));
    assert_eq!(pack(&[("index.js", "1"), ("run", "#!/bin/sh\n")]).unwrap().files, 2);
}

fn names() -> impl Strategy<Value = String> {
    // Long enough that some do not fit into the 100 bytes of a plain header, in the name or in the directory before it.
    proptest::collection::vec("[a-zA-Z0-9äß _.-]{1,60}", 1..5).prop_map(|parts| {
        // A prefix keeps `.`, `..` and what is left out by name away.
        parts.iter().map(|part| format!("x{part}")).collect::<Vec<_>>().join("/")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_packed_is_what_is_unpacked(
        files in proptest::collection::btree_map(names(), (proptest::collection::vec(any::<u8>(), 0..3000), any::<bool>()), 1..12),
        linked in proptest::option::of(names()),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut expected = BTreeMap::new();
        for (name, (content, executable)) in files {
            let path = PathBuf::from(&name);
            // One name may be another's directory: the first stays.
            if path.ancestors().skip(1).any(|above| expected.contains_key(above))
                || expected.keys().any(|other: &PathBuf| other.starts_with(&path)) {
                continue;
            }
            let mode = if executable { 0o755 } else { 0o644 };
            let full = write(dir.path(), &name, &content);
            fs::set_permissions(full, Permissions::from_mode(mode)).unwrap();
            expected.insert(path, Node::File { content, mode });
        }
        if let Some(target) = linked {
            symlink(&target, dir.path().join("link")).unwrap();
            expected.insert("link".into(), Node::Link(target.into()));
        }
        let packed = pack(dir.path(), &PackOptions::default()).unwrap();
        prop_assert_eq!(&packed.digest, &pack(dir.path(), &PackOptions::default()).unwrap().digest);
        let store = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(store.path(), Limits::default()).unwrap();
        let path = bundles.put_blocking(&packed.digest, packed.bytes.as_slice()).unwrap();
        prop_assert_eq!(tree(&path), expected);
        // And it packs again to the same.
        prop_assert_eq!(pack(&path, &PackOptions::default()).unwrap().digest, packed.digest);
    }

    #[test]
    fn inline_files_come_out_as_they_went_in(
        // Directories begin with `d` and files with `f`, so that none is both.
        files in proptest::collection::btree_map("(d[a-z]{0,8}/)?f[a-z]{0,8}", ".{0,200}", 1..8),
    ) {
        let packed = pack_inline(&files, &Limits::default()).unwrap();
        let store = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(store.path(), Limits::default()).unwrap();
        let path = bundles.put_blocking(&packed.digest, packed.bytes.as_slice()).unwrap();
        for (name, text) in &files {
            prop_assert_eq!(&fs::read_to_string(path.join(name)).unwrap(), text);
        }
        prop_assert_eq!(tree(&path).len(), files.len());
    }
}
