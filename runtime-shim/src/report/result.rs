//! A job's directory goes back to the controller as a tar.
//!
//! It is packed twice: once for its digest and length, which go before it, and once for the controller. The job has ended and everything in
//! its directory stays as it is; where something does change, the digest is wrong and all of it is tried again.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_protocol::report::{BUILD_PRIVATE, Purpose, ToShim};
use sha2::{Digest, Sha256};

use super::link::Pauses;
use super::{Caller, Trouble, fetch, give_back, unpack};

/// Bytes per write.
const BUFFER: usize = 64 * 1024;

/// How long the controller may take to unpack it.
const UNPACKING: Duration = Duration::from_secs(300);

/// Brings it to the controller, however often that takes; an error is that it will not be taken.
pub(super) async fn deliver(caller: &Arc<Caller>, directory: &Path) -> Result<(), String> {
    let mut pauses = Pauses::default();
    loop {
        let (asking, directory) = (Arc::clone(caller), directory.to_owned());
        let attempt = tokio::task::spawn_blocking(move || attempt(&asking, &directory)).await;
        give_back();
        match attempt {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Trouble::Final(why))) => return Err(why),
            Ok(Err(Trouble::Again(_))) => {}
            Err(error) => return Err(error.to_string()),
        }
        pauses.wait().await;
    }
}

fn attempt(caller: &Caller, directory: &Path) -> Result<(), Trouble> {
    let cannot = |error: io::Error| Trouble::Final(format!("cannot pack {}: {error}", directory.display()));
    let mut measure = Measure { hash: Sha256::new(), bytes: 0 };
    pack(directory, &mut measure).map_err(cannot)?;
    let digest = unpack::name(&measure.hash.finalize());
    let mut stream = fetch::connect(caller, Purpose::Result { digest, bytes: measure.bytes })?;
    let sent = pack(directory, BufWriter::with_capacity(BUFFER, &mut stream));
    stream.set_read_timeout(Some(UNPACKING))?;
    // Who refuses does not read to the end: that, and not the broken connection, is the answer.
    match (fetch::hear(&mut stream), sent) {
        (Ok(Some(ToShim::Taken)), _) => Ok(()),
        (Ok(Some(other)), _) => Err(Trouble::of(Some(other))),
        (_, Err(error)) => Err(error.into()),
        (heard, Ok(())) => Err(heard.map_or_else(Trouble::from, Trouble::of)),
    }
}

/// Counts and hashes.
struct Measure {
    hash: Sha256,
    bytes: u64,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Packs what is in the directory: files, directories and links, the same each time. Links are not followed; anything else is left out, and
/// so is what was for the job alone: caches, most of all.
fn pack(directory: &Path, out: impl Write) -> io::Result<()> {
    let mut tar = tar::Builder::new(out);
    let mut todo = children(directory)?;
    todo.retain(|path| *path != directory.join(BUILD_PRIVATE));
    while let Some(full) = todo.pop() {
        let metadata = fs::symlink_metadata(&full)?;
        let path = full.strip_prefix(directory).map_err(io::Error::other)?;
        let mut header = tar::Header::new_gnu();
        header.set_metadata(&metadata);
        if metadata.is_dir() {
            tar.append_data(&mut header, path, io::empty())?;
            todo.extend(children(&full)?);
        } else if metadata.is_symlink() {
            tar.append_link(&mut header, path, fs::read_link(&full)?)?;
        } else if metadata.is_file() {
            let content = File::open(&full)?;
            tar.append_data(&mut header, path, content.take(metadata.len()))?;
        }
    }
    tar.into_inner()?.flush()
}

/// In the reverse of their order: the last is taken first.
fn children(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    found.sort_unstable_by(|left, right| right.cmp(left));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_directory_is_packed_the_same_each_time_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let long = "x".repeat(150);
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b").join(&long), "long").unwrap();
        fs::create_dir_all(root.join(".hearth/npm")).unwrap();
        fs::write(root.join(".hearth/npm/cached"), "large").unwrap();
        fs::create_dir_all(root.join("a/.hearth")).unwrap();
        fs::write(root.join("tool"), "#!").unwrap();
        fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc", root.join("link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("pipe"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let (mut one, mut two) = (Vec::new(), Vec::new());
        pack(root, &mut one).unwrap();
        pack(root, &mut two).unwrap();
        assert_eq!(one, two);
        let mut archive = tar::Archive::new(&one[..]);
        let entries: Vec<(String, tar::EntryType, u32)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                (path, entry.header().entry_type(), entry.header().mode().unwrap() & 0o111)
            })
            .collect();
        let names: Vec<&str> = entries.iter().map(|(path, ..)| path.trim_end_matches('/')).collect();
        assert_eq!(names, ["a", "a/.hearth", "a/b", &format!("a/b/{long}"), "link", "tool"]);
        assert_eq!(entries[4].1, tar::EntryType::Symlink);
        assert_eq!(entries[5].2, 0o111);
    }
}
