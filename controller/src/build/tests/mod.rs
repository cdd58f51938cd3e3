//! Bundles from one end to the other: packed, carried, unpacked; by friends and by foes.

mod hostile;
mod packing;
mod results;
mod store;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use hearth_function::Digest;

/// What a path of a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File { content: Vec<u8>, mode: u32 },
    Link(PathBuf),
}

/// Everything below a directory, but the directories.
fn tree(root: &Path) -> BTreeMap<PathBuf, Node> {
    let mut nodes = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if metadata.is_dir() {
                assert_eq!(metadata.permissions().mode() & 0o7777, 0o755, "{}", path.display());
                todo.push(path);
            } else if metadata.is_symlink() {
                nodes.insert(name, Node::Link(fs::read_link(&path).unwrap()));
            } else {
                let mode = metadata.permissions().mode() & 0o7777;
                nodes.insert(name, Node::File { content: fs::read(&path).unwrap(), mode });
            }
        }
    }
    nodes
}

fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = root.join(name);
    let parent = path.parent().unwrap();
    fs::create_dir_all(parent).unwrap();
    fs::write(&path, content).unwrap();
    for directory in parent.ancestors().take_while(|above| *above != root) {
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
    path
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(bytes)
}
