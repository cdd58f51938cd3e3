//! How much of the disk an installation takes while it runs. Its `/build` is a directory of the host's own file system, which has no quota:
//! whoever looks only at the end finds a full disk, and with it a database that cannot write.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use hearth_function::ByteSize;
use tokio::time::{Instant, sleep};

use super::plan::Tool;
use super::{Error, blocking};

/// Between two looks; longer when a look takes long, so that looking costs at most a tenth of a core.
const PERIOD: Duration = Duration::from_secs(1);
const SHARE: u32 = 10;

/// While it runs, an installation may hold so many times what may stay: npm's cache and pip's builds lie beside it.
const WHILE_RUNNING: u64 = 2;

/// Files that must still fit on a file system that counts them.
const FREE_FILES: u64 = 10_000;

/// What an installation must leave of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes of what may stay of it.
    pub(super) installed_bytes: u64,
    /// Bytes of the file system that stay free.
    pub(super) free_bytes: u64,
}

impl Room {
    /// Looks at `build` until there is too much in it, or too little beside it.
    pub(super) async fn exceeded(self, tool: Tool, build: &Path) -> Error {
        loop {
            let begin = Instant::now();
            let directory = build.to_owned();
            match blocking(move || self.check(tool, &directory)).await {
                Ok(Ok(())) => sleep(PERIOD.max(begin.elapsed() * SHARE)).await,
                Ok(Err(error)) | Err(error) => return error,
            }
        }
    }

    /// Whether there is room for more.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::DiskFull`]. What cannot be looked at counts nothing: files come and go meanwhile.
    pub(super) fn check(self, tool: Tool, build: &Path) -> Result<(), Error> {
        let full = |kept: String| Err(Error::DiskFull { tool, kept, directory: build.to_owned() });
        if let Ok(disk) = rustix::fs::statvfs(build) {
            if disk.f_bavail.saturating_mul(disk.f_frsize) < self.free_bytes {
                return full(format!("{} (build.min_free)", ByteSize::from_bytes(self.free_bytes)));
            }
            // 0: it makes room for files as it goes.
            if disk.f_files > 0 && disk.f_favail < FREE_FILES {
                return full(format!("room for {FREE_FILES} files"));
            }
        }
        let limit = self.installed_bytes.saturating_mul(WHILE_RUNNING);
        if exceeds(build, limit) {
            return Err(Error::TooLarge { tool, limit: self.installed_bytes });
        }
        Ok(())
    }
}

/// Whether the files below a directory take more than `limit` bytes of the disk.
fn exceeds(directory: &Path, limit: u64) -> bool {
    /// `stat(2)`: whatever the file system's own blocks are.
    const BLOCK: u64 = 512;
    let mut bytes = 0u64;
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().filter_map(io::Result::ok) {
            // Of a link, the link itself.
            let Ok(metadata) = entry.metadata() else { continue };
            bytes = bytes.saturating_add(metadata.blocks().saturating_mul(BLOCK));
            if bytes > limit {
                return true;
            }
            if metadata.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_counts_and_a_link_leads_nowhere() {
        let build = tempfile::tempdir().unwrap();
        let below = build.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        std::os::unix::fs::symlink("/usr", below.join("usr")).unwrap();
        fs::write(below.join("file"), vec![1; 300 << 10]).unwrap();
        assert!(exceeds(build.path(), 299 << 10));
        assert!(!exceeds(build.path(), 340 << 10));
        assert!(!exceeds(&build.path().join("gone"), 0));
    }

    #[test]
    fn each_limit_is_named() {
        let build = tempfile::tempdir().unwrap();
        fs::write(build.path().join("file"), vec![1; 64 << 10]).unwrap();
        let check = |installed_bytes, free_bytes| {
            let room = Room { installed_bytes, free_bytes };
            room.check(Tool::Pip, build.path()).map_err(|error| error.to_string())
        };
        assert_eq!(check(1 << 20, 1), Ok(()));
        let large = check(16 << 10, 1).unwrap_err();
        assert_eq!(large, "pip install installed more than 16Ki, which is what build.max_installed allows");
        let full = check(1 << 20, u64::MAX).unwrap_err();
        assert!(full.contains("pip install was stopped") && full.contains("(build.min_free)"), "{full}");
    }
}
