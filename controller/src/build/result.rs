//! What an installation leaves in an instance that is not on this machine: a tar of its directory. Code of packages has run there, so it is
//! as hostile as any bundle, and unpacked by the same rules (INV-14), with two differences: a file keeps its time, and loses a set-uid bit as
//! it would when it is sealed.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use super::bundles::{Error, Limits};
use super::unpack::{self, Form};

/// Files, directories and links: several times what the largest trees of npm have.
const ENTRIES: u64 = 500_000;

/// As while it is installed: npm's cache and pip's builds lie beside what stays. What stays is looked at once more, when it is sealed.
const WHILE_INSTALLING: u64 = 2;

/// Unpacks the tar into a directory that is empty, as the result of an installation of which at most `installed_bytes` may stay. After an error
/// the directory holds anything. Blocks.
///
/// # Errors
/// When it is no tar, is too large, holds what no result may hold, or cannot be written; with words for people.
pub fn unpack_result(packed: File, into: &Path, installed_bytes: u64) -> io::Result<()> {
    let bytes = installed_bytes.saturating_mul(WHILE_INSTALLING);
    // A tar that is not compressed: its own length has been looked at before it was taken.
    let limits = Limits { packed_bytes: bytes, unpacked_bytes: bytes, entries: ENTRIES };
    let unpacked = unpack::of(BufReader::new(packed), into, &limits, Form::Result);
    // Nothing of it is used before it is sealed, which syncs.
    unpacked.map(drop).map_err(|error| match error {
        Error::TooLarge { limit, unit } => io::Error::other(format!("it has more than {limit} {unit}")),
        Error::Refused { path, problem } => io::Error::other(format!("its entry {path:?} {problem}")),
        other => io::Error::other(crate::telemetry::chain(&other)),
    })
}
