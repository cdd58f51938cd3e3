//! Paths in archives that nobody vouches for, as the builder and the shim take them: a bundle that one accepts the other does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Longest path of an entry, in bytes: Linux takes 4096 with the directory before it.
const LONGEST_PATH: usize = 3072;

/// Longest name of one component, in bytes: what file systems take.
const LONGEST_NAME: usize = 255;

/// Takes the path of an entry as one below a directory, without `.`. An empty path is the directory.
///
/// # Errors
/// What is wrong with it otherwise, as in `has an absolute path`.
pub fn inside(raw: &[u8]) -> Result<PathBuf, &'static str> {
    if raw.contains(&0) {
        return Err("has a NUL in its path");
    }
    if raw.len() > LONGEST_PATH {
        return Err("has a path that is too long");
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(raw)).components() {
        match component {
            Component::Normal(name) if name.len() > LONGEST_NAME => {
                return Err("has a name that is too long");
            }
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err("has .. in its path"),
            Component::RootDir | Component::Prefix(_) => return Err("has an absolute path"),
        }
    }
    Ok(path)
}

/// Whether a symbolic link at `path`, below real directories, leads to something below the same root, whatever other such links are on the
/// way. `..` may come first and not again: after a name it would start from wherever that name, a link perhaps, leads.
#[must_use]
pub fn link_stays_inside(path: &Path, target: &Path) -> bool {
    let depth = path.components().count().saturating_sub(1);
    let up = target.components().take_while(|component| *component == Component::ParentDir).count();
    up <= depth
        && !target.as_os_str().is_empty()
        && target
            .components()
            .skip(up)
            .all(|component| matches!(component, Component::Normal(_) | Component::CurDir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_down_or_is_refused() {
        assert_eq!(inside(b"./a//b/."), Ok(PathBuf::from("a/b")));
        assert_eq!(inside(b"."), Ok(PathBuf::new()));
        for (raw, problem) in [
            (&b"/a"[..], "has an absolute path"),
            (b"a/../b", "has .. in its path"),
            (b"a\0b", "has a NUL in its path"),
            (&[b'a'; 256], "has a name that is too long"),
            (&[b'/'; 3073], "has a path that is too long"),
        ] {
            assert_eq!(inside(raw), Err(problem));
        }
    }

    #[test]
    fn a_link_goes_up_first_and_never_after_a_name() {
        let stays = |path: &str, target: &str| link_stays_inside(Path::new(path), Path::new(target));
        assert!(stays("bin/tool", "../lib/tool.js") && stays("a", "b/./c"));
        assert!(
            !stays("a", "../b") && !stays("a/b", "../../c") && !stays("a", "/etc/passwd") && !stays("a", "")
        );
        // `b` may be a link that leads up already.
        assert!(!stays("a/x", "b/../../c") && !stays("a/x", "b/../c"));
    }
}
