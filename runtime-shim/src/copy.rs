//! `hearth-shim copy DIRECTORY`: puts the shim and what lies beside it into another directory. That is how it comes into a Pod of an image that
//! does not have it: a container of an image that does runs before, and the two share a volume.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The first argument that asks for it.
pub(crate) const COMMAND: &str = "copy";

/// Copies the directory of the running program into `into`, which is there.
pub(crate) fn own_directory(into: &Path) -> io::Result<()> {
    let program = std::env::current_exe()?;
    tree(program.parent().unwrap_or_else(|| Path::new("/")), into)
}

/// Copies files and directories with their modes; nothing else lies in an image's `/hearth`.
fn tree(from: &Path, into: &Path) -> io::Result<()> {
    let mut todo = vec![PathBuf::new()];
    while let Some(inside) = todo.pop() {
        for entry in fs::read_dir(from.join(&inside)).map_err(at(&from.join(&inside)))? {
            let entry = entry?;
            let path = inside.join(entry.file_name());
            let target = into.join(&path);
            let kind = entry.file_type()?;
            if kind.is_dir() {
                fs::create_dir(&target).map_err(at(&target))?;
                todo.push(path);
            } else if kind.is_file() {
                fs::copy(entry.path(), &target).map_err(at(&target))?;
            }
        }
    }
    Ok(())
}

fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn everything_is_copied_with_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let (from, into) = (directory.path().join("hearth"), directory.path().join("into"));
        fs::create_dir_all(from.join("node/exercise")).unwrap();
        fs::create_dir(&into).unwrap();
        for (path, mode) in
            [("hearth-shim", 0o755), ("node/bootstrap.cjs", 0o644), ("node/exercise/handler.js", 0o444)]
        {
            fs::write(from.join(path), path).unwrap();
            fs::set_permissions(from.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        tree(&from, &into).unwrap();
        for (path, mode) in
            [("hearth-shim", 0o755), ("node/bootstrap.cjs", 0o644), ("node/exercise/handler.js", 0o444)]
        {
            assert_eq!(fs::read_to_string(into.join(path)).unwrap(), path);
            assert_eq!(fs::metadata(into.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path}");
        }
        // A second time it does not write over what is there.
        assert!(tree(&from, &into).unwrap_err().to_string().contains("into/node"));
    }
}
