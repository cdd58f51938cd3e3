//! A zip, unpacked by the rules of bundles: nothing outside of its directory, nothing believed before it is counted.

use std::ffi::OsString;
use std::io::{self, Read, Seek};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use hearth_protocol::bundle::inside;

use crate::build::bundles::{Error, Limits};
use crate::build::unpack::Tree;

/// Longest target of a link, in bytes.
const LONGEST_LINK: u64 = 4096;

/// The kinds of Unix files in the upper bits of a mode.
const KIND: u32 = 0o170_000;
const LINK: u32 = 0o120_000;
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

pub(super) fn unpack(packed: impl Read + Seek, into: &Path, limits: &Limits) -> Result<(), Error> {
    let broken = |error: zip::result::ZipError| Error::Archive(io::Error::other(error));
    let mut archive = zip::ZipArchive::new(packed).map_err(broken)?;
    if archive.len() as u64 > limits.entries {
        return Err(Error::TooLarge { limit: limits.entries, unit: "entries" });
    }
    let mut tree = Tree::new(into, limits);
    // As in a tar: no file is ever written through a link.
    let mut links: Vec<(String, PathBuf, PathBuf)> = Vec::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        let refused = |problem| Error::Refused { path: name.clone(), problem };
        let path = inside(name.trim_end_matches('/').as_bytes()).map_err(refused)?;
        let mode = entry.unix_mode().unwrap_or(0o644);
        if entry.is_dir() || mode & KIND == DIRECTORY {
            tree.directory(&path).map_err(|error| error.of(refused))?;
        } else if mode & KIND == LINK {
            let mut target = Vec::new();
            entry.by_ref().take(LONGEST_LINK).read_to_end(&mut target).map_err(Error::Archive)?;
            links.push((name.clone(), path, PathBuf::from(OsString::from_vec(target))));
        } else if matches!(mode & KIND, FILE | 0) {
            let size = entry.size();
            tree.count_bytes(size)?;
            let file = tree.file(&path, mode & 0o111 != 0, &mut entry, size);
            file.map_err(|error| error.of(refused))?;
            // It is all that the header says, and no more.
            if entry.read(&mut [0]).map_err(Error::Archive)? != 0 {
                return Err(refused("is longer than it says"));
            }
        } else {
            return Err(refused("is of a kind that cannot be unpacked"));
        }
    }
    for (name, path, target) in links {
        let refused = |problem| Error::Refused { path: name.clone(), problem };
        tree.symlink(&path, &target).map_err(|error| error.of(refused))?;
    }
    Ok(())
}
