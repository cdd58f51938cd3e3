//! From what a user has (a directory, inline files) to what an instance runs: a bundle and its installed dependencies, both addressed by
//! content, verified, shared read-only between instances and made at most once.
//!
//! ```text
//! directory ──► pack ──► tar.gz + digest ──upload──► Bundles ──► <data-dir>/bundles/sha256/<hex>/      mounted at /code
//!                                                       │
//!                                                      plan ──► Dependencies ──► <data-dir>/deps/<key>/   mounted at /deps
//!                                                                 └ npm or pip, in an instance of its own
//! ```
//!
//! * [`pack()`] runs at the client: the same input gives the same bytes, whoever packs it and when.
//! * [`bundles`] is the server's store. What comes in is hostile until it is unpacked: it is checked against limits, and nothing is ever
//!   written outside of the bundle's own directory.
//! * [`dependencies`] installs what `package.json` or `requirements.txt` name, once for each lock file, interpreter, root and architecture,
//!   inside a sandboxed instance and never with the controller's rights.
//!
//! A directory of either store is complete or not there: it is made under a temporary name and renamed. What a crash left half-made is
//! removed when the store is opened.

pub mod bundles;
pub mod compose;
pub mod dependencies;
pub mod fetch;
mod headers;
pub mod images;
pub mod pack;
mod result;
mod shelf;
mod unpack;

pub use bundles::{Bundles, Limits};
pub use dependencies::{Dependencies, DependencyKey, Plan, Progress, Toolchain, Update, plan};
pub use fetch::Fetcher;
pub use images::Images;
pub use pack::{PackOptions, Packed, is_scratch, pack, pack_inline};
pub use result::unpack_result;

/// So many random bytes as hex: for names that nobody else has.
pub(crate) fn random_hex<const BYTES: usize>() -> String {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).expect("the system has randomness once it has started");
    hearth_function::hex(&bytes)
}

#[cfg(test)]
mod tests;
