//! Makes what an installation left into what instances share: owned by root, readable by everyone, nothing but files, directories and
//! links, and no larger than is allowed. The installation has ended: nothing changes under the walk.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use super::environment::PRIVATE;
use crate::build::shelf::{At, FileError};

/// Seals the directory; with `keep`, only this of its entries stays. Says how many bytes it has, or `None` when that is more than `limit`.
pub(super) fn seal(
    directory: &Path,
    keep: Option<&'static str>,
    limit: u64,
) -> Result<Option<u64>, FileError> {
    for entry in fs::read_dir(directory).at("list", directory)? {
        let entry = entry.at("list", directory)?;
        let name = entry.file_name();
        if name == PRIVATE || keep.is_some_and(|keep| name != keep) {
            remove(&entry.path())?;
        }
    }
    let mut bytes = 0u64;
    let mut todo = vec![directory.to_owned()];
    // Only who runs as root can give files away, and only then did they belong to somebody else.
    let root = rustix::process::geteuid().is_root();
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).at("look at", &path)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            for entry in fs::read_dir(&path).at("list", &path)? {
                todo.push(entry.at("list", &path)?.path());
            }
        } else if kind.is_file() {
            bytes = bytes.saturating_add(metadata.len());
            if bytes > limit {
                return Ok(None);
            }
        } else if !kind.is_symlink() {
            remove(&path)?;
            continue;
        }
        if root {
            lchown(&path, Some(0), Some(0)).at("own", &path)?;
        }
        if !kind.is_symlink() {
            let executable = kind.is_dir() || metadata.permissions().mode() & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, Permissions::from_mode(mode)).at("open", &path)?;
        }
    }
    Ok(Some(bytes))
}

fn remove(path: &Path) -> Result<(), FileError> {
    let directory = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
    let removed = if directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.at("remove", path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_stays_can_be_read_by_everyone_and_is_nothing_special() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("node_modules/package");
        fs::create_dir_all(&modules).unwrap();
        fs::create_dir(dir.path().join(PRIVATE)).unwrap();
        fs::write(dir.path().join("package.json"), "{}").unwrap();
        fs::write(modules.join("index.js"), "12345").unwrap();
        fs::write(modules.join("tool"), "67890").unwrap();
        fs::set_permissions(modules.join("index.js"), Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(modules.join("tool"), Permissions::from_mode(0o4700)).unwrap();
        fs::set_permissions(&modules, Permissions::from_mode(0o700)).unwrap();
        symlink("/etc/shadow", modules.join("link")).unwrap();
        let socket = UnixListener::bind(modules.join("socket")).unwrap();
        let shadow = fs::metadata("/etc/shadow").map(|metadata| metadata.permissions().mode()).ok();

        assert_eq!(seal(dir.path(), Some("node_modules"), 10).unwrap(), Some(10));
        drop(socket);
        let mode = |name: &str| {
            fs::symlink_metadata(modules.join(name)).map(|file| file.permissions().mode() & 0o7777)
        };
        assert_eq!(mode("index.js").unwrap(), 0o644);
        assert_eq!(mode("tool").unwrap(), 0o755);
        assert_eq!(mode("").unwrap(), 0o755);
        assert!(mode("socket").is_err());
        assert_eq!(fs::metadata("/etc/shadow").map(|metadata| metadata.permissions().mode()).ok(), shadow);
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["node_modules"]);
        assert_eq!(seal(dir.path(), Some("node_modules"), 9).unwrap(), None);
    }
}
